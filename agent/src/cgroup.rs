//! The cgroup of all programs, which bounds their number: at the bound `fork`
//! fails with EAGAIN and the sandbox lives. The agent stays outside.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

/// Name of the group below its root.
const NAME: &str = "programs";

/// The cgroup.
#[derive(Debug)]
pub struct Programs {
    procs: File,
    current: File,
    path: PathBuf,
    limit: u32,
}

impl Programs {
    /// Makes the group, or takes the one that is there, below `root`: a cgroup
    /// file system of version 2, or a directory with one of version 1 for each
    /// controller.
    pub fn create(root: &Path) -> io::Result<Self> {
        let unified = root.join("cgroup.controllers").exists();
        let path = if unified { root.join(NAME) } else { root.join("pids").join(NAME) };
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let procs = File::options().write(true).open(path.join("cgroup.procs"))?;
        let current = File::open(path.join("pids.current"))?;
        Ok(Self { procs, current, path, limit: u32::MAX })
    }

    /// How many processes it may have.
    pub fn set_limit(&mut self, limit: u32) -> io::Result<()> {
        self.limit = limit;
        fs::write(self.path.join("pids.max"), limit.to_string())
    }

    /// Where a process joins by writing `0`.
    pub fn procs(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    /// The limit, if it is reached.
    pub fn full(&self) -> Option<u32> {
        let mut text = [0; 16];
        let n = rustix::io::pread(&self.current, &mut text, 0).ok()?;
        let current: u32 = std::str::from_utf8(text.get(..n)?).ok()?.trim().parse().ok()?;
        (current >= self.limit).then_some(self.limit)
    }

    /// Who is in it.
    pub fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}
