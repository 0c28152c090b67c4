//! How many commits were acknowledged, in a file beside the store. It is not
//! synced: after a power loss it may be behind the store, and never before it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The count.
pub struct Mark(File);

impl Mark {
    /// The file at `path`, which is made if there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        Ok(Self(options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?))
    }

    /// `None`: none was acknowledged yet, or the file is damaged.
    pub fn read(&self) -> Option<u64> {
        let mut bytes = [0; 16];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        let (count, check) = bytes.split_first_chunk::<8>()?;
        let count = u64::from_le_bytes(*count);
        (check == (!count).to_le_bytes()).then_some(count)
    }

    /// Notes that so many are on disk.
    pub fn set(&self, commits: u64) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&commits.to_le_bytes());
        bytes[8..].copy_from_slice(&(!commits).to_le_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}
