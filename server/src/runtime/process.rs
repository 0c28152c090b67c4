//! A process that is not our child, held by a pidfd: it cannot be confused with
//! a later one of the same number, and its end is an event.

use std::{fs, path::Path, sync::Arc};

use nullspace_proto::{Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;

use super::event::Event;
use crate::fault::fault;

/// A running or ended process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    end: Arc<Event>,
}

impl Process {
    /// Takes hold of a process. `None`: there is none with this number.
    pub fn open(pid: i32) -> Result<Option<Self>> {
        let Some(raw) = Pid::from_raw(pid) else { return Ok(None) };
        let fd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(Error::internal(format!("process {pid} cannot be watched: {error}"))),
        };
        let end = Event::new(fd, Interest::READABLE);
        let end = end.map_err(|error| Error::internal(format!("process {pid} cannot be watched: {error}")))?;
        Ok(Some(Self { pid, end: Arc::new(end) }))
    }

    /// Those whose arguments are such.
    pub fn find(is_such: impl Fn(&[&[u8]]) -> bool) -> Result<Vec<Self>> {
        let is_such = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_such(&line.split(|byte| *byte == 0).collect::<Vec<_>>())
        };
        let entries = fs::read_dir("/proc").map_err(|error| fault(Path::new("/proc"), error))?;
        let mut found = Vec::new();
        for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if is_such(pid) {
                // Looked at again: its number may have become another's before it was held.
                found.extend(Self::open(pid)?.filter(|process| is_such(process.pid)));
            }
        }
        Ok(found)
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        // A pidfd becomes readable when its process ends, and stays so.
        if let Err(error) = self.end.happened(Interest::READABLE).await {
            tracing::error!(%error, pid = self.pid, "a process is not watched any more");
        }
    }

    /// Ends it by SIGKILL, if it still runs.
    pub fn kill(&self) {
        // It may have ended already, which is as good.
        let _ = pidfd_send_signal(self.end.fd(), Signal::KILL);
    }
}
