//! How this program ends.

use std::process::ExitCode;

use nullspace::{Error, Reason};

use crate::output::Printer;

/// A failure that has no code of its own.
pub const FAILED: u8 = 1;
/// `exec`: its timeout ended the program.
pub const TIMED_OUT: u8 = 124;
/// `exec`: a failure that is not the program's.
pub const NOT_THE_PROGRAM: u8 = 125;
/// `exec`: the program cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// `exec`: there is no such program.
const NOT_FOUND: u8 = 127;

/// Arguments that are none; also help and version, which are no failure.
pub fn usage(error: &clap::Error) -> ExitCode {
    let code = match error.exit_code() {
        0 => 0,
        // What runs it must not take this for the program's own code.
        _ if asks_for_exec(std::env::args()) => NOT_THE_PROGRAM,
        _ => 2,
    };
    // There is nowhere else to say it.
    let _ = error.print();
    ExitCode::from(code)
}

fn asks_for_exec(args: impl Iterator<Item = String>) -> bool {
    args.skip(1).take_while(|arg| arg != "--").any(|arg| arg == "exec")
}

/// A failure before anything could be asked.
pub fn failed(message: &str) -> ExitCode {
    eprintln!("nullspace: {message}");
    ExitCode::from(NOT_THE_PROGRAM)
}

/// A failure of `exec` that is not the program's.
pub fn of_exec(error: &Error, printer: Printer) -> ExitCode {
    printer.error(error);
    ExitCode::from(match error.reason() {
        Reason::CommandTimedOut => TIMED_OUT,
        Reason::ProgramNotExecutable => NOT_EXECUTABLE,
        Reason::ProgramNotFound => NOT_FOUND,
        _ => NOT_THE_PROGRAM,
    })
}

/// A failure of another command.
pub fn of(error: &Error, printer: Printer) -> ExitCode {
    printer.error(error);
    ExitCode::from(code(error.reason()))
}

fn code(reason: Reason) -> u8 {
    match reason {
        Reason::InvalidRequest | Reason::InvalidResponse | Reason::MessageTooLarge => 2,
        Reason::SandboxNotFound | Reason::TemplateNotFound | Reason::CommandNotFound | Reason::ApiKeyNotFound => 3,
        Reason::ApiKeyMissing | Reason::ApiKeyInvalid => 4,
        Reason::ScopeMissing => 5,
        Reason::CapacityExceeded | Reason::ProcessLimitReached | Reason::CommandLimitReached => 6,
        Reason::SandboxStopped
        | Reason::SandboxNotReady
        | Reason::AgentLost
        | Reason::StaleIncarnation
        | Reason::IdempotencyKeyReused
        | Reason::CallInProgress => 7,
        Reason::DeadlineExceeded | Reason::CommandTimedOut => 8,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_is_seen_before_the_program_only() {
        let asks = |line: &str| asks_for_exec(line.split(' ').map(str::to_owned));
        assert!(asks("nullspace sandbox exec --bad"));
        assert!(!asks("nullspace sandbox get -- exec"));
        assert!(!asks("exec sandbox list"));
    }
}
