//! Errors that do not come from what a caller asked for: faults of ours, and
//! statuses that the library made.

use nullspace_proto::{Error, Reason};
use tonic::{Code, Status};

/// A fault of ours: told to the log, which the caller does not see.
pub fn fault(what: impl Into<String>) -> Error {
    let error = Error::internal(what);
    eprintln!("nullspace-agent: {}", error.message());
    error
}

/// The error behind a status that is not ours.
pub fn foreign(status: Status) -> Error {
    match status.code() {
        _ if Error::reason_of(&status).is_some() => status.into(),
        Code::OutOfRange | Code::ResourceExhausted => Error::new(Reason::MessageTooLarge, status.message()),
        Code::Unimplemented => Error::new(Reason::MethodUnknown, status.message()),
        _ => Error::invalid_field("message", status.message()),
    }
}
