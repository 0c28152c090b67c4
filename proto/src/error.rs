//! The one error of the server and the agent. It has a reason from the schema,
//! which fixes its gRPC code, and converts to and from a status without loss.

use std::{fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub use crate::v1::ErrorReason as Reason;

/// The domain of every ErrorInfo.
pub const DOMAIN: &str = "nullspace";

/// What a call answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

struct ReasonRow {
    reason: Reason,
    name: &'static str,
    code: i32,
    retryable: bool,
    action: &'static str,
}

const REASONS: &[ReasonRow] = include!(concat!(env!("OUT_DIR"), "/reasons.rs"));

impl Reason {
    fn row(self) -> &'static ReasonRow {
        let internal = &REASONS[0];
        REASONS.iter().find(|row| row.reason == self).unwrap_or(internal)
    }

    /// As in ErrorInfo.reason, such as `SANDBOX_NOT_FOUND`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The gRPC code that this reason always has.
    pub fn code(self) -> Code {
        Code::from_i32(self.row().code)
    }

    /// The same call may succeed later.
    pub fn is_retryable(self) -> bool {
        self.row().retryable
    }

    /// What the caller can do.
    pub fn action(self) -> &'static str {
        self.row().action
    }

    /// Finds a reason by its name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        REASONS.iter().find(|row| row.name == name).map(|row| row.reason)
    }

    /// Every reason.
    pub fn all() -> impl Iterator<Item = Self> {
        REASONS.iter().map(|row| row.reason)
    }
}

/// A bad field: its path in the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Such as `spec.resources.vcpus`.
    pub field: String,
    /// What was wrong, the limit, and what to do.
    pub description: String,
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    reason: Reason,
    message: String,
    metadata: Vec<(&'static str, String)>,
    violations: Vec<Violation>,
    resource: Option<(&'static str, String)>,
    quota: Option<(String, String)>,
    precondition: Option<(&'static str, String)>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error with a message for people.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: message.into(),
            metadata: Vec::new(),
            violations: Vec::new(),
            resource: None,
            quota: None,
            precondition: None,
            retry_after: reason.is_retryable().then_some(Duration::from_millis(100)),
        }))
    }

    /// A fault of ours. The message goes to the log and not to the caller.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::Internal, message)
    }

    /// Bad fields.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let message =
            violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("; ");
        let mut error = Self::new(Reason::InvalidRequest, message);
        error.0.violations = violations;
        error
    }

    /// One bad field.
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// A thing that is not there.
    pub fn not_found(reason: Reason, kind: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        let mut error = Self::new(reason, format!("{kind} {name:?} does not exist"));
        error.0.resource = Some((kind, name));
        error
    }

    /// A thing in the wrong state.
    pub fn wrong_state(reason: Reason, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::new(reason, message);
        error.0.precondition = Some((reason.name(), subject.into()));
        error
    }

    /// A limit that is reached: what it is of, and the numbers.
    pub fn quota(reason: Reason, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut error = Self::new(reason, message.clone());
        error.0.quota = Some((subject.into(), message));
        error
    }

    /// Adds an id or number to ErrorInfo.metadata.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.0.metadata.push((key, value.to_string()));
        self
    }

    /// Says when to call again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Adds to the message what was being done.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Why the call failed.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// A value of ErrorInfo.metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }

    /// The reason that a status carries, if it is one of ours.
    pub fn reason_of(status: &Status) -> Option<Reason> {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
        Reason::from_name(&info.reason)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason.name(), self.0.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let Inner { reason, message, metadata, violations, resource, quota, precondition, retry_after } = *error.0;
        let mut details = ErrorDetails::new();
        let metadata = metadata.into_iter().map(|(k, v)| (k.to_owned(), v));
        details.set_error_info(reason.name(), DOMAIN, metadata.collect::<std::collections::HashMap<_, _>>());
        for violation in violations {
            details.add_bad_request_violation(violation.field, violation.description);
        }
        if let Some((kind, name)) = resource {
            details.set_resource_info(kind, name, "", "");
        }
        if let Some((subject, description)) = quota {
            details.add_quota_failure_violation(subject, description);
        }
        if let Some((kind, subject)) = precondition {
            details.add_precondition_failure_violation(kind, subject, message.clone());
        }
        if let Some(delay) = retry_after {
            details.set_retry_info(Some(delay));
        }
        // What went wrong inside is for the log alone.
        if reason == Reason::Internal {
            tracing::error!(cause = message, "internal error");
        }
        let message = match reason {
            Reason::Internal => "internal error; the server's log has it under the request id".to_owned(),
            _ => message,
        };
        Status::with_error_details(reason.code(), message, details)
    }
}

impl From<Status> for Error {
    /// Keeps the reason and its metadata; a status that is not ours is INTERNAL.
    fn from(status: Status) -> Self {
        let reason = Self::reason_of(&status).unwrap_or(match status.code() {
            Code::DeadlineExceeded => Reason::DeadlineExceeded,
            Code::Unavailable => Reason::AgentUnreachable,
            _ => Reason::Internal,
        });
        let mut error = Self::new(reason, status.message());
        if let Some(bad) = status.get_details_bad_request() {
            let violations = bad.field_violations.into_iter();
            error.0.violations = violations.map(|v| Violation { field: v.field, description: v.description }).collect();
        }
        if let Some(failure) = status.get_details_quota_failure().and_then(|mut quota| quota.violations.pop()) {
            error.0.quota = Some((failure.subject, failure.description));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_the_reason_and_every_bad_field() {
        let violations = vec![
            Violation { field: "spec.resources.vcpus".into(), description: "must be 1 to 64".into() },
            Violation { field: "spec.cwd".into(), description: "must be absolute".into() },
        ];
        let status = Status::from(Error::invalid(violations.clone()));
        assert_eq!(status.code(), Code::InvalidArgument);
        let back = Error::from(status);
        assert_eq!(back.reason(), Reason::InvalidRequest);
        assert_eq!(back.0.violations, violations);
    }

    #[test]
    fn an_internal_error_tells_the_caller_nothing_of_its_cause() {
        let status = Status::from(Error::internal("password is hunter2"));
        assert!(!status.message().contains("hunter2"));
        assert!(!String::from_utf8_lossy(status.details()).contains("hunter2"));
    }

    #[test]
    fn every_reason_has_a_code_and_an_action() {
        for reason in Reason::all() {
            assert!(!matches!(reason.code(), Code::Ok | Code::Unknown), "{}", reason.name());
            assert!(!reason.action().is_empty(), "{}", reason.name());
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }
}
