//! Where a path leads.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

use nullspace_proto::{
    Error, Result,
    validate::{RESERVED, is_reserved},
};

use super::refused;

/// Links that are followed before a path counts as a loop, as on Linux.
const MAX_LINKS: usize = 40;

/// A path with everything known of where it leads.
#[derive(Debug)]
pub struct Place {
    /// Absolute, with the links of its directories resolved, and not its own.
    pub named: PathBuf,
    /// Where the bytes are: with its own links resolved too.
    pub real: PathBuf,
}

impl Place {
    /// Resolves an absolute path; what does not exist yet is taken as it is
    /// written. Refuses what is reserved, by whatever name.
    pub fn find(path: &Path) -> Result<Self> {
        let real = resolve(path).map_err(refused(path))?;
        if real.to_str().is_some_and(is_reserved) {
            return Err(Error::invalid_field("path", format!("{RESERVED} is reserved")));
        }
        let named = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => resolve(parent).map_err(refused(path))?.join(name),
            _ => real.clone(),
        };
        Ok(Self { named, real })
    }

    /// The path is a link.
    pub fn is_link(&self) -> bool {
        self.named != self.real
    }
}

/// Resolves every link, also in what leads to nothing.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut real = PathBuf::from("/");
    let mut rest = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&part);
        match fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                let mut target = parts(&target);
                target.append(&mut rest);
                rest = target;
            }
            // Not a link, or not there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::ENOTDIR)) => {
                real = next;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(real)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component| match component {
        Component::Normal(name) => Some(OsString::from(name)),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_reserved_directory_is_refused_by_every_name() {
        let base = std::env::temp_dir().join(format!("nullspace-paths-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        symlink("/workspace", base.join("work")).unwrap();
        symlink("work/.nullspace/x", base.join("file")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        for path in [
            "/workspace/.nullspace",
            "/workspace/.nullspace/a/b",
            "/workspace/a/../.nullspace/x",
            "/workspace//./.nullspace",
        ] {
            assert!(Place::find(Path::new(path)).is_err(), "{path}");
        }
        for path in ["work/.nullspace", "file", "work/../workspace/.nullspace/y", "loop"] {
            assert!(Place::find(&base.join(path)).is_err(), "{path}");
        }
        let place = Place::find(&base.join("work/.nullspaces")).unwrap();
        assert_eq!(place.real, Path::new("/workspace/.nullspaces"));
        let place = Place::find(&base.join("work")).unwrap();
        assert!(place.is_link() && place.named == base.join("work"));
        fs::remove_dir_all(&base).unwrap();
    }
}
