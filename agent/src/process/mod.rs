//! Commands: what is started, what is known of it, and how it is followed.

pub mod attach;
pub mod input;
mod launch;
mod pace;
pub mod read;
mod supervise;
pub mod table;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use nullspace_proto::{
    Error, Reason, Result,
    v1::{self, CommandInfo, CommandSpec, LogPosition, TerminationReason, exit},
    validate,
};
use rustix::io::Errno;
use tokio::sync::Notify;

use crate::{
    fault::fault,
    log::Log,
    reap,
    spawn::{Outcome, Reaped},
};
use input::Input;

/// A command that was started.
pub struct Process {
    /// Its id.
    pub id: Box<str>,
    /// Of the spec it was started with.
    pub digest: [u8; 32],
    /// Orders commands by their start.
    pub sequence: u64,
    /// Its process id, process group and session.
    pub pid: i32,
    /// Its output.
    pub log: Arc<Log>,
    /// Its input.
    pub input: Arc<Input>,
    execution_id: Arc<str>,
    cwd: Box<str>,
    user: Box<str>,
    tag: Box<str>,
    started_at: SystemTime,
    state: Mutex<State>,
    streams: Mutex<Streams>,
}

struct State {
    /// As it was asked for, without the environment. None: forgotten, to save
    /// memory.
    spec: Option<Box<CommandSpec>>,
    cause: Option<Cause>,
    /// Signals that were sent through the API, as bits.
    sent: u64,
    exit: Option<Exit>,
}

/// Why a command is about to end, if we know better than its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its timeout passed.
    TimedOut,
    /// The sandbox had too little memory.
    OutOfMemory,
}

/// How a command ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    outcome: Outcome,
    reason: TerminationReason,
    wall_time: Duration,
    cpu_time: Duration,
    peak_memory_bytes: i64,
    /// End of the log at that moment.
    pub output_bytes: u64,
    output_open: bool,
    ended_at: SystemTime,
}

impl From<Exit> for v1::Exit {
    fn from(exit: Exit) -> Self {
        Self {
            outcome: Some(match exit.outcome {
                Outcome::Code(code) => exit::Outcome::Code(code),
                Outcome::Signal(signal) => exit::Outcome::Signal(signal),
            }),
            reason: exit.reason.into(),
            wall_time: Some(validate::duration(exit.wall_time)),
            cpu_time: Some(validate::duration(exit.cpu_time)),
            peak_memory_bytes: exit.peak_memory_bytes,
            output_bytes: exit.output_bytes as i64,
            output_open: exit.output_open,
            ended_at: Some(validate::timestamp(exit.ended_at)),
        }
    }
}

/// The streams that follow a command under a client's name.
#[derive(Default)]
struct Streams {
    tokens: u64,
    named: HashMap<String, (u64, Arc<Notify>)>,
}

/// A stream's place as the newest of its client. Given up when dropped.
pub struct Seat {
    process: Arc<Process>,
    client: String,
    token: u64,
    superseded: Arc<Notify>,
}

impl Seat {
    /// The client's name; one that no client can choose if it gave none.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Returns when a newer stream has taken over.
    pub async fn superseded(&self) {
        self.superseded.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut streams = self.process.streams();
        if streams.named.get(&self.client).is_some_and(|(token, _)| *token == self.token) {
            streams.named.remove(&self.client);
        }
        drop(streams);
        if self.client.starts_with(input::ANONYMOUS) {
            self.process.input.forget(&self.client);
        }
    }
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How it ended, once that is known and all its output is in the log.
    pub fn exit(&self) -> Option<Exit> {
        self.state().exit
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> Exit {
        loop {
            let changed = self.log.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(exit) = self.exit() {
                return exit;
            }
            changed.await;
        }
    }

    /// Its label.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// What is known of it.
    pub fn info(&self) -> CommandInfo {
        let (output_start, output_end) = self.log.range();
        let state = self.state();
        CommandInfo {
            command_id: self.id.to_string(),
            execution_id: self.execution_id.to_string(),
            pid: self.pid.into(),
            spec: state.spec.as_deref().cloned(),
            cwd: self.cwd.to_string(),
            user: self.user.to_string(),
            started_at: Some(validate::timestamp(self.started_at)),
            exit: state.exit.map(Into::into),
            output_start: output_start as i64,
            output_end: output_end as i64,
            output_open: !self.log.is_closed(),
        }
    }

    /// Sends a signal to its process group, for a caller.
    pub fn signal(&self, number: i32) -> Result<()> {
        let ended = || {
            let message = format!("command {:?} has ended", self.id);
            Error::wrong_state(Reason::CommandEnded, &*self.id, message).with("command_id", &self.id)
        };
        match reap::signal_group(self.pid, number) {
            Ok(()) => {
                self.state().sent |= 1 << (number - 1);
                Ok(())
            }
            Err(Errno::SRCH) => Err(ended()),
            Err(errno) => Err(fault(format!("signal {number} to group {}: {errno}", self.pid))),
        }
    }

    /// Notes why it is about to end. The first cause stays.
    pub fn will_end(&self, cause: Cause) {
        self.state().cause.get_or_insert(cause);
    }

    fn termination(&self, outcome: Outcome) -> TerminationReason {
        let state = self.state();
        match (state.cause, outcome) {
            (Some(Cause::TimedOut), _) => TerminationReason::TimedOut,
            (Some(Cause::OutOfMemory), Outcome::Signal(_)) => TerminationReason::OutOfMemory,
            (_, Outcome::Signal(signal)) if state.sent & (1 << (signal - 1)) != 0 => TerminationReason::KilledByUser,
            (_, Outcome::Signal(_)) => TerminationReason::Signalled,
            (_, Outcome::Code(_)) => TerminationReason::Exited,
        }
    }

    fn finish(&self, reaped: &Reaped, wall_time: Duration, ended_at: SystemTime, output_open: bool) {
        let exit = Exit {
            outcome: reaped.outcome,
            reason: self.termination(reaped.outcome),
            wall_time,
            cpu_time: reaped.cpu_time,
            peak_memory_bytes: reaped.peak_memory_bytes,
            output_bytes: self.log.range().1,
            output_open,
            ended_at,
        };
        self.state().exit = Some(exit);
        self.input.end(v1::InputClosedReason::Process);
        self.log.publish();
    }

    /// Where a reader begins.
    pub fn position(&self, position: Option<&LogPosition>) -> Result<u64> {
        let Some(position) = position else { return Ok(0) };
        let (_, end) = self.log.range();
        let here = position.execution_id.is_empty() || *position.execution_id == *self.execution_id;
        let offset = u64::try_from(position.offset).unwrap_or(0);
        match here {
            true if offset <= end => Ok(offset),
            true => Err(diverged(end, format!("the log ends at {end}, before {offset}"))),
            false => {
                Err(diverged(0, format!("execution {:?} is not in this sandbox's history", position.execution_id)))
            }
        }
    }

    /// Makes a stream the newest of its client and ends the one before.
    pub fn seat(self: &Arc<Self>, client: &str) -> Seat {
        let superseded = Arc::new(Notify::new());
        let mut streams = self.streams();
        streams.tokens += 1;
        let token = streams.tokens;
        let client = match client {
            "" => format!("{}{token}", input::ANONYMOUS),
            name => name.to_owned(),
        };
        if let Some((_, older)) = streams.named.insert(client.clone(), (token, superseded.clone())) {
            older.notify_one();
        }
        drop(streams);
        Seat { process: self.clone(), client, token, superseded }
    }
}

fn diverged(branch_offset: u64, message: String) -> Error {
    Error::new(Reason::OutputDiverged, message).with("branch_offset", branch_offset)
}
