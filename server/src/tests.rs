//! What unit tests share.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A directory that goes away with its value.
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _: io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

/// Makes a directory for one test.
pub fn temporary_directory(name: &str) -> TemporaryDirectory {
    let path = std::env::temp_dir().join(format!("nullspace-unit-{name}-{}", nullspace_proto::id::ulid()));
    fs::create_dir_all(&path).expect("a temporary directory");
    TemporaryDirectory(path)
}
