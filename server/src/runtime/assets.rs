//! Files that sandboxes run from, kept under the hash of their content and
//! never rewritten: a changed file behind a mount kills what runs from it.
//!
//! ```text
//! ASSETS/agents/SHA256/nullspace-agent     agents/current -> SHA256
//! ASSETS/engines/SHA256/runsc              engines/current -> SHA256
//! ASSETS/templates/SHA256/rootfs           templates/by-name/base -> ../SHA256
//! ASSETS/templates/SHA256/template.json
//! ```

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use nullspace_proto::{Error, Reason, Result};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const AGENT: &str = "nullspace-agent";
const ENGINE: &str = "runsc";

/// The assets directory.
#[derive(Debug, Clone)]
pub struct Assets {
    root: PathBuf,
}

/// A root file system with what its definition says of it.
#[derive(Debug, Clone)]
pub struct Template {
    /// What callers name it.
    pub name: String,
    /// SHA-256 of its files, in hexadecimal.
    pub digest: String,
    /// Where its files are.
    pub rootfs: PathBuf,
    /// Where commands start unless the caller says otherwise.
    pub workdir: String,
}

#[derive(Deserialize)]
struct Definition {
    workdir: String,
}

impl Assets {
    /// In a directory, which is made when something is installed.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory that has the newest agent.
    pub fn agent(&self) -> Result<PathBuf> {
        self.current("agents", AGENT)
    }

    /// The newest engine binary.
    pub fn engine(&self) -> Result<PathBuf> {
        Ok(self.current("engines", ENGINE)?.join(ENGINE))
    }

    fn current(&self, kind: &str, file: &str) -> Result<PathBuf> {
        let link = self.root.join(kind).join("current");
        let directory = fs::canonicalize(&link).ok().filter(|directory| directory.join(file).is_file());
        directory.ok_or_else(|| {
            Error::internal(format!("{file} is not installed below {}; run `make setup`", self.root.display()))
        })
    }

    /// Finds a template by name.
    pub fn template(&self, name: &str) -> Result<Template> {
        let unknown = || Error::not_found(Reason::TemplateNotFound, "template", name);
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if name.is_empty() || !plain {
            return Err(unknown());
        }
        let directory = fs::canonicalize(self.root.join("templates/by-name").join(name)).map_err(|_| unknown())?;
        let digest = directory.file_name().and_then(|name| name.to_str()).ok_or_else(unknown)?.to_owned();
        let broken =
            |error: &dyn std::fmt::Display| Error::internal(format!("template {name} cannot be read: {error}"));
        let definition = fs::read(directory.join("template.json")).map_err(|error| broken(&error))?;
        let definition: Definition = serde_json::from_slice(&definition).map_err(|error| broken(&error))?;
        Ok(Template { name: name.to_owned(), digest, rootfs: directory.join("rootfs"), workdir: definition.workdir })
    }

    /// Every template, by name.
    pub fn templates(&self) -> Vec<Template> {
        let entries = fs::read_dir(self.root.join("templates/by-name")).into_iter().flatten().flatten();
        let mut templates: Vec<_> =
            entries.filter_map(|entry| self.template(entry.file_name().to_str()?).ok()).collect();
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        templates
    }

    /// Installs an agent binary as the newest and returns its digest.
    pub fn install_agent(&self, file: &Path) -> io::Result<String> {
        self.install_file("agents", AGENT, file)
    }

    /// Installs an engine binary as the newest and returns its digest.
    pub fn install_engine(&self, file: &Path) -> io::Result<String> {
        self.install_file("engines", ENGINE, file)
    }

    fn install_file(&self, kind: &str, name: &str, file: &Path) -> io::Result<String> {
        let digest = digest_file(file)?;
        let parent = self.root.join(kind);
        let place = parent.join(&digest);
        if !place.join(name).exists() {
            let fresh = parent.join(format!(".{digest}.{}", std::process::id()));
            fs::create_dir_all(&fresh)?;
            fs::copy(file, fresh.join(name))?;
            fs::set_permissions(fresh.join(name), fs::Permissions::from_mode(0o755))?;
            File::open(fresh.join(name))?.sync_all()?;
            settle(&fresh, &place)?;
        }
        point(&parent.join("current"), Path::new(&digest))?;
        Ok(digest)
    }

    /// Moves a built root file system and the `template.json` beside it under
    /// their digest, names them, and returns the digest.
    pub fn install_template(&self, name: &str, rootfs: &Path) -> io::Result<String> {
        let definition = rootfs.with_file_name("template.json");
        let digest = digest_tree(rootfs, &definition)?;
        let parent = self.root.join("templates");
        let place = parent.join(&digest);
        if !place.exists() {
            let fresh = parent.join(format!(".{digest}.{}", std::process::id()));
            fs::create_dir_all(&fresh)?;
            fs::copy(&definition, fresh.join("template.json"))?;
            fs::rename(rootfs, fresh.join("rootfs"))?;
            settle(&fresh, &place)?;
        }
        fs::create_dir_all(parent.join("by-name"))?;
        point(&parent.join("by-name").join(name), &Path::new("..").join(&digest))?;
        Ok(digest)
    }
}

/// Gives a finished directory its name. One of the same name has the same
/// content, so it does not matter who was first.
fn settle(fresh: &Path, place: &Path) -> io::Result<()> {
    match fs::rename(fresh, place) {
        Err(_) if place.exists() => fs::remove_dir_all(fresh),
        outcome => outcome,
    }
}

/// Makes or moves a link in one step.
fn point(link: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let fresh = link.with_extension(format!("new.{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    symlink(target, &fresh)?;
    fs::rename(&fresh, link)
}

fn digest_file(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash_content(&mut hash, path)?;
    Ok(hex::encode(hash.finalize()))
}

fn hash_content(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Hashes names, kinds, modes, owners and contents, but not times.
fn digest_tree(root: &Path, definition: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash_content(&mut hash, definition)?;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let mut entries = fs::read_dir(&directory)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, metadata) = (entry.path(), entry.metadata()?);
            let name = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            for number in [metadata.mode(), metadata.uid(), metadata.gid()] {
                hash.update(number.to_le_bytes());
            }
            if metadata.is_symlink() {
                hash.update(fs::read_link(&path)?.as_os_str().as_bytes());
            } else if metadata.is_file() {
                hash.update(metadata.len().to_le_bytes());
                hash_content(&mut hash, &path)?;
            } else if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(hex::encode(hash.finalize()))
}
