//! Commands.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nullspace_proto::v1;

use super::{duration, time, wire_enum};
use crate::error::{Error, Result};

wire_enum! {
    /// Which of a process's streams bytes came from.
    OutputStream from OutputStream {
        /// Standard output.
        Stdout = "stdout",
        /// Standard error.
        Stderr = "stderr",
    }
}

wire_enum! {
    /// Why a command ended.
    TerminationReason from TerminationReason {
        /// By itself, with an exit code.
        Exited = "exited",
        /// By a signal that nobody sent through this API.
        Signalled = "signalled",
        /// Its timeout passed.
        TimedOut = "timed_out",
        /// The sandbox went over its memory, and this was its largest process group.
        OutOfMemory = "out_of_memory",
        /// By a signal that was sent through this API.
        KilledByUser = "killed_by_user",
    }
}

wire_enum! {
    /// What happens to output when as much is kept as may be.
    Overflow from Overflow {
        /// The oldest bytes go. The process never waits, and readers are told.
        Truncate = "truncate",
        /// The process waits, as on a pipe, for the slowest reader that holds it.
        Block = "block",
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an exit code, 0 to 255.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// Exit code or signal.
    pub outcome: Outcome,
    /// Why.
    pub reason: TerminationReason,
    /// From start to end.
    pub wall_time: Duration,
    /// User and system time of the process and the children it waited for.
    pub cpu_time: Duration,
    /// Largest resident size, in bytes. 0 where it is too small to be told.
    pub peak_memory_bytes: i64,
    /// Length of the log of output at this moment.
    pub output_bytes: i64,
    /// A descendant still has the output open: more may come.
    pub output_open: bool,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
}

impl Exit {
    /// The code as a shell gives it: 128 + n after signal n.
    pub fn code(&self) -> i32 {
        match self.outcome {
            Outcome::Code(code) => code,
            Outcome::Signal(signal) => 128 + signal,
        }
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.outcome {
            Outcome::Signal(signal) => Some(signal),
            Outcome::Code(_) => None,
        }
    }

    /// It ended by itself, with code 0.
    pub fn success(&self) -> bool {
        self.outcome == Outcome::Code(0)
    }

    /// It was ended by its timeout.
    pub fn is_timed_out(&self) -> bool {
        self.reason == TerminationReason::TimedOut
    }
}

impl TryFrom<v1::Exit> for Exit {
    type Error = Error;

    fn try_from(exit: v1::Exit) -> Result<Self> {
        let outcome = match exit.outcome {
            Some(v1::exit::Outcome::Code(code)) => Outcome::Code(code),
            Some(v1::exit::Outcome::Signal(signal)) => Outcome::Signal(signal),
            None => return Err(Error::invalid_response("an exit has neither code nor signal")),
        };
        Ok(Self {
            outcome,
            reason: TerminationReason::from_wire(exit.reason),
            wall_time: duration(exit.wall_time),
            cpu_time: duration(exit.cpu_time),
            peak_memory_bytes: exit.peak_memory_bytes,
            output_bytes: exit.output_bytes,
            output_open: exit.output_open,
            ended_at: time(exit.ended_at),
        })
    }
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments.
    Argv(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// The state of a command.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CommandInfo {
    /// The id by which it is known for good.
    pub command_id: String,
    /// The execution it was started in.
    pub execution_id: String,
    /// Process id inside the sandbox; also of its process group. Pids come again.
    pub pid: i64,
    /// What was run. None of commands that ended long ago.
    pub program: Option<Program>,
    /// The label it was given.
    pub tag: String,
    /// The directory it was started in.
    pub cwd: String,
    /// The user it runs as.
    pub user: String,
    /// When it was started.
    pub started_at: Option<SystemTime>,
    /// How it ended. None while it runs.
    pub exit: Option<Exit>,
    /// The first byte of output that is still kept.
    pub output_start: i64,
    /// The end of its output now.
    pub output_end: i64,
    /// Its output may still grow.
    pub output_open: bool,
}

impl TryFrom<v1::CommandInfo> for CommandInfo {
    type Error = Error;

    fn try_from(info: v1::CommandInfo) -> Result<Self> {
        let spec = info.spec.unwrap_or_default();
        let program = spec.program.map(|program| match program {
            v1::command_spec::Program::Argv(argv) => Program::Argv(argv.args),
            v1::command_spec::Program::Shell(line) => Program::Shell(line),
        });
        Ok(Self {
            command_id: info.command_id,
            execution_id: info.execution_id,
            pid: info.pid,
            program,
            tag: spec.tag,
            cwd: info.cwd,
            user: info.user,
            started_at: time(info.started_at),
            exit: info.exit.map(Exit::try_from).transpose()?,
            output_start: info.output_start,
            output_end: info.output_end,
            output_open: info.output_open,
        })
    }
}

/// How a command ended, with what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandResult {
    /// How it ended.
    pub exit: Exit,
    /// Standard output, as it was written.
    pub stdout: Bytes,
    /// Standard error, as it was written.
    pub stderr: Bytes,
    /// Bytes of output that were gone before they were read. Always 0 in the
    /// foreground, where the command waits instead.
    pub lost_bytes: u64,
}

impl CommandResult {
    pub(crate) fn without_output(exit: Exit) -> Self {
        Self { exit, stdout: Bytes::new(), stderr: Bytes::new(), lost_bytes: 0 }
    }

    /// The exit code as a shell gives it: 128 + n after signal n.
    pub fn code(&self) -> i32 {
        self.exit.code()
    }

    /// It ended by itself, with code 0.
    pub fn success(&self) -> bool {
        self.exit.success()
    }

    /// Standard output as text. What is not UTF-8 is U+FFFD.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text. What is not UTF-8 is U+FFFD.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}
