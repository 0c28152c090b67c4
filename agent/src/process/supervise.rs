//! What runs beside a process: moves its output into the log, keeps its
//! timeout, and says how it ended.

use std::{cell::RefCell, future::pending, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::Bytes;
use nullspace_proto::{limits, v1::OutputStream};
use rustix::{
    buffer::spare_capacity,
    io::{Errno, retry_on_intr},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{Cause, Process, pace::Pace};
use crate::{
    log::{Log, Room},
    reap::{self, Ended},
    spawn,
};

/// Small output is read here first, so that a quiet command has no buffer.
const SCRATCH_BYTES: usize = 64 << 10;
/// At most this much is read at once, and a pipe with much output holds it.
const BLOCK_BYTES: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One output of a process.
pub struct Pipe {
    fd: AsyncFd<OwnedFd>,
    tag: u8,
    /// The last read was large: the next one gets a buffer of its own.
    much: bool,
    /// It was asked to hold more.
    widened: bool,
}

enum Pulled {
    /// So many bytes; `all` that were there.
    Bytes {
        n: usize,
        all: bool,
    },
    Empty,
    End,
}

impl Pipe {
    pub fn new(fd: OwnedFd, stream: OutputStream) -> std::io::Result<Self> {
        let fd = spawn::watch(fd, Interest::READABLE)?;
        Ok(Self { fd, tag: stream as i32 as u8, much: false, widened: false })
    }

    /// Moves at most `max` bytes into the log.
    fn pull(&mut self, log: &Log, max: usize) -> Pulled {
        let read = if self.much { self.pull_block(log, max) } else { self.pull_scratch(log, max) };
        match read {
            Ok((0, _)) => Pulled::End,
            Ok((n, want)) => {
                self.much = n >= SCRATCH_BYTES;
                if self.much && !self.widened {
                    self.widen();
                }
                Pulled::Bytes { n, all: n < want }
            }
            Err(Errno::AGAIN) => Pulled::Empty,
            Err(_) => Pulled::End,
        }
    }

    /// A larger pipe saves switches between process and agent, once there is
    /// much to read. Refused when the user has too many: then it stays as it is.
    fn widen(&mut self) {
        self.widened = true;
        let _ = rustix::pipe::fcntl_setpipe_size(self.fd.get_ref(), BLOCK_BYTES);
    }

    fn pull_scratch(&self, log: &Log, max: usize) -> Result<(usize, usize), Errno> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH_BYTES, 0);
            let want = max.min(SCRATCH_BYTES);
            let n = retry_on_intr(|| rustix::io::read(self.fd.get_ref(), &mut scratch[..want]))?;
            log.append_copy(self.tag, &scratch[..n]);
            Ok((n, want))
        })
    }

    fn pull_block(&self, log: &Log, max: usize) -> Result<(usize, usize), Errno> {
        let want = max.min(BLOCK_BYTES);
        let mut block = Vec::with_capacity(want);
        let n = retry_on_intr(|| rustix::io::read(self.fd.get_ref(), spare_capacity(&mut block)))?;
        // What was not filled is given back, in place.
        log.append(self.tag, Bytes::from(block));
        Ok((n, want))
    }

    /// The pipe was found empty: wait for its next event.
    fn wait_for_more(&self) {
        let _ = self.fd.try_io(Interest::READABLE, |_| Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
    }

    /// Moves what is in the pipe now into the log, whatever its retention says:
    /// a pipe holds little. Whether a writer is left.
    fn drain(&mut self, log: &Log) -> bool {
        let mut left = rustix::io::ioctl_fionread(self.fd.get_ref()).unwrap_or(0) as usize;
        loop {
            // One more read than there are bytes tells whether that was the end.
            match self.pull(log, left.clamp(1, BLOCK_BYTES)) {
                Pulled::Bytes { n, .. } if left > 0 => left = left.saturating_sub(n),
                Pulled::Bytes { .. } | Pulled::Empty => return true,
                Pulled::End => return false,
            }
        }
    }
}

/// Waits until a pipe can be read; for ever when it has ended.
async fn readable(pipe: &Option<Pipe>) {
    match pipe {
        // Readiness is kept: the read decides, and finds an error too.
        Some(pipe) => drop(pipe.fd.readable().await.map(|mut guard| guard.retain_ready())),
        None => pending().await,
    }
}

/// Beside one process, from its start until its output has ended.
pub struct Supervisor {
    pub process: Arc<Process>,
    pub stdout: Option<Pipe>,
    pub stderr: Option<Pipe>,
    pub ended: oneshot::Receiver<Ended>,
    pub started: Instant,
    pub timeout: Option<Duration>,
    /// Feeds its input.
    pub feeder: Option<AbortHandle>,
}

/// What a timeout does next.
enum Deadline {
    None,
    Terminate(Instant),
    Kill(Instant),
}

impl Supervisor {
    /// Runs until the process has ended and no one has its output open.
    pub async fn run(mut self) {
        let log = self.process.log.clone();
        let mut deadline = self.timeout.map_or(Deadline::None, |timeout| Deadline::Terminate(self.started + timeout));
        let mut running = true;
        let mut pace = Pace::default();
        loop {
            if !running && self.stdout.is_none() && self.stderr.is_none() {
                log.close();
                match deadline {
                    Deadline::Kill(_) => {}
                    _ => return,
                }
            }
            let room_changed = log.room_changed();
            tokio::pin!(room_changed);
            room_changed.as_mut().enable();
            let (room, until) = match log.room() {
                Room::Bytes(bytes) => (bytes, None),
                Room::Full { until } => (0, until),
            };
            let (room, until) = match pace.wait(log.left_behind(), Instant::now()) {
                Some(patience) if room > 0 => (0, Some(patience)),
                _ => (room, until),
            };
            tokio::select! {
                ended = &mut self.ended, if running => {
                    running = false;
                    if let Ok(ended) = ended {
                        self.finish(&ended);
                    }
                    deadline = self.after_end(deadline);
                }
                () = at(log.publish_at()) => log.publish(),
                () = deadline.passed() => deadline = self.enforce(deadline, running),
                () = readable(&self.stdout), if room > 0 => pull(&mut self.stdout, &log, room).await,
                () = readable(&self.stderr), if room > 0 => pull(&mut self.stderr, &log, room).await,
                () = room_changed, if room == 0 => {}
                () = at(until), if room == 0 => {}
            }
        }
    }

    /// The process was reaped: what is in its pipes now is its output.
    fn finish(&mut self, ended: &Ended) {
        let log = &self.process.log;
        for pipe in [&mut self.stdout, &mut self.stderr] {
            if pipe.as_mut().is_some_and(|pipe| !pipe.drain(log)) {
                *pipe = None;
            }
        }
        if let Some(feeder) = self.feeder.take() {
            feeder.abort();
        }
        let output_open = self.stdout.is_some() || self.stderr.is_some();
        let wall_time = ended.at.duration_since(self.started);
        self.process.finish(&ended.reaped, wall_time, ended.wall, output_open);
    }

    /// A process that timed out may leave others of its group, which get their
    /// time to end too. While there are any, the group's number is not reused.
    fn after_end(&self, deadline: Deadline) -> Deadline {
        match deadline {
            Deadline::Kill(_) if spawn::signal_group(self.process.pid, 0).is_ok() => deadline,
            _ => Deadline::None,
        }
    }

    fn enforce(&self, deadline: Deadline, running: bool) -> Deadline {
        let pid = self.process.pid;
        // That it has ended meanwhile is no error.
        match deadline {
            Deadline::Terminate(_) => {
                self.process.will_end(Cause::TimedOut);
                let _ = reap::signal_group(pid, libc::SIGTERM);
                Deadline::Kill(Instant::now() + limits::TERM_GRACE)
            }
            _ => {
                let _ = match running {
                    true => reap::signal_group(pid, libc::SIGKILL),
                    false => spawn::signal_group(pid, libc::SIGKILL),
                };
                Deadline::None
            }
        }
    }
}

impl Deadline {
    async fn passed(&self) {
        match self {
            Self::None => pending().await,
            Self::Terminate(at) | Self::Kill(at) => sleep_until(*at).await,
        }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

async fn pull(pipe: &mut Option<Pipe>, log: &Log, room: usize) {
    let Some(open) = pipe else { return };
    match open.pull(log, room) {
        // Readers go first: else output would run away from them.
        Pulled::Bytes { n, .. } if n >= SCRATCH_BYTES => tokio::task::yield_now().await,
        Pulled::Bytes { all: true, .. } | Pulled::Empty => open.wait_for_more(),
        Pulled::Bytes { .. } => {}
        Pulled::End => *pipe = None,
    }
}
