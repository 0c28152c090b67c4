//! Room for the store on its disk. sled must not meet a full one: after a write
//! that failed it refuses all others, and where that was a large page it waits
//! for ever. So room is looked for before, and some is kept in a file that is
//! given up when the disk is full, for the records of sandboxes that are ended:
//! that frees more.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use nullspace_proto::Result;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::fault::full;

/// What is kept.
const KEPT_BYTES: u64 = 32 << 20;
/// What must be free beside what commits take.
const MARGIN_BYTES: u64 = 8 << 20;
/// What one commit takes at most: pages are rewritten whole.
const COMMIT_BYTES: u64 = 1 << 20;

/// The room of one store.
#[derive(Debug, Clone)]
pub struct Space {
    directory: PathBuf,
    kept: PathBuf,
}

impl Space {
    /// Of the store in `directory`, which must exist. `kept` is the file that
    /// keeps room.
    pub fn of(directory: &Path, kept: &Path) -> Self {
        Self { directory: directory.to_owned(), kept: kept.to_owned() }
    }

    /// Fails where what is free is no more than what is kept for records.
    pub fn check(&self) -> Result<()> {
        let kept = if self.kept.exists() { 0 } else { KEPT_BYTES };
        if self.free() < kept + MARGIN_BYTES { Err(full()) } else { Ok(()) }
    }

    /// How many commits there is room for, at least one and at most `most`.
    ///
    /// # Errors
    /// The disk is full, and what was kept is used up.
    pub fn for_commits(&self, most: usize) -> Result<usize> {
        let is_kept = self.kept.exists();
        if self.commits() == 0 && is_kept {
            tracing::error!("THE DISK IS FULL: what was kept for records is given up");
            let _ = fs::remove_file(&self.kept);
        }
        let room = self.commits();
        if room == 0 {
            return Err(full());
        }
        if !is_kept && self.free() >= 2 * KEPT_BYTES {
            self.keep();
        }
        Ok(usize::try_from(room).map_or(most, |room| room.min(most)))
    }

    fn free(&self) -> u64 {
        // What cannot be asked is not known to be full.
        statvfs(&self.directory).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize)
    }

    fn commits(&self) -> u64 {
        self.free().saturating_sub(MARGIN_BYTES) / COMMIT_BYTES
    }

    /// A file system that cannot do this does without.
    fn keep(&self) {
        let file = File::create(&self.kept);
        if !file.is_ok_and(|file| fallocate(file, FallocateFlags::empty(), 0, KEPT_BYTES).is_ok()) {
            let _ = fs::remove_file(&self.kept);
        }
    }
}
