//! What a file is.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

use nullspace_proto::v1::{FileInfo, FileKind};

use super::paths::Place;
use crate::users::Users;

/// What is at `place`, with `metadata` of what it leads to.
pub fn describe(place: &Place, metadata: &Metadata, users: &Users) -> FileInfo {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Special,
    };
    let name = place.named.file_name().unwrap_or(place.named.as_os_str());
    FileInfo {
        name: name.to_string_lossy().into_owned(),
        path: place.named.to_string_lossy().into_owned(),
        kind: kind.into(),
        size_bytes: metadata.size() as i64,
        mode: (metadata.mode() & 0o7777) as i32,
        permissions: permissions(metadata.mode()),
        owner: users.user_name(metadata.uid()),
        group: users.group_name(metadata.gid()),
        modified_at: Some(prost_types::Timestamp { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as i32 }),
        symlink_target: if place.is_link() { place.real.to_string_lossy().into_owned() } else { String::new() },
    }
}

/// As `ls -l` prints them.
fn permissions(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    // For each class: its bits, the bit that changes its `x`, and into what.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn permissions_read_as_ls_prints_them() {
        for (mode, text) in [
            (0o100644, "-rw-r--r--"),
            (0o040755, "drwxr-xr-x"),
            (0o104755, "-rwsr-xr-x"),
            (0o102640, "-rw-r-S---"),
            (0o041777, "drwxrwxrwt"),
        ] {
            assert_eq!(super::permissions(mode), text);
        }
    }
}
