//! Files.

use std::time::SystemTime;

use nullspace_proto::v1;

use super::{time, wire_enum};

wire_enum! {
    /// What a name in the file system is.
    FileKind from FileKind {
        /// A regular file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Symlink = "symlink",
        /// A device, pipe or socket.
        Special = "special",
    }
}

/// A file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// The last part of the path.
    pub name: String,
    /// Absolute.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Its size.
    pub size_bytes: i64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// As `ls -l` prints it, such as `-rw-r--r--`.
    pub permissions: String,
    /// User name, or number where it has none.
    pub owner: String,
    /// Group name, or number where it has none.
    pub group: String,
    /// When it was last written.
    pub modified_at: Option<SystemTime>,
    /// Where a link leads, absolute.
    pub symlink_target: Option<String>,
}

impl From<v1::FileInfo> for FileInfo {
    fn from(file: v1::FileInfo) -> Self {
        Self {
            name: file.name,
            path: file.path,
            kind: FileKind::from_wire(file.kind),
            size_bytes: file.size_bytes,
            mode: u32::try_from(file.mode).unwrap_or_default(),
            permissions: file.permissions,
            owner: file.owner,
            group: file.group,
            modified_at: time(file.modified_at),
            symlink_target: Some(file.symlink_target).filter(|target| !target.is_empty()),
        }
    }
}
