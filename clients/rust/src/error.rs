//! The one error of the client.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use tonic::Code;

use crate::{CommandResult, Exit, Reason};

/// What every call answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// ```no_run
/// # async fn example(client: nullspace::Client) -> nullspace::Result<()> {
/// use nullspace::Reason;
///
/// match client.get_sandbox("sb_gone").await {
///     Ok(sandbox) => println!("{:?}", sandbox.state),
///     Err(error) if error.reason() == Reason::SandboxNotFound => println!("it is gone"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
pub(crate) struct Inner {
    pub reason: Reason,
    /// On the wire, where this version does not know it.
    pub unknown_name: Option<String>,
    pub code: Code,
    pub message: String,
    pub request_id: Option<String>,
    pub metadata: HashMap<String, String>,
    pub violations: Vec<Violation>,
    pub retry_after: Option<Duration>,
    pub result: Option<CommandResult>,
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// A bad field: its path in the request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Such as `spec.resources.vcpus`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

impl Error {
    pub(crate) fn new(reason: Reason, code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            unknown_name: None,
            code,
            message: message.into(),
            request_id: None,
            metadata: HashMap::new(),
            violations: Vec::new(),
            retry_after: None,
            result: None,
            source: None,
        }))
    }

    pub(crate) fn from_parts(inner: Inner) -> Self {
        Self(Box::new(inner))
    }

    /// The connection failed.
    pub(crate) fn transport(message: impl Into<String>) -> Self {
        Self::new(Reason::Transport, Code::Unavailable, message)
    }

    /// The caller's time is up.
    pub(crate) fn deadline(message: impl Into<String>) -> Self {
        Self::new(Reason::DeadlineExceeded, Code::DeadlineExceeded, message)
    }

    /// The server broke the contract.
    pub(crate) fn invalid_response(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidResponse, Code::Internal, message)
    }

    /// One bad field.
    pub(crate) fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let violation = Violation { field: field.into(), description: description.into() };
        let message = format!("{}: {}", violation.field, violation.description);
        let mut error = Self::new(Reason::InvalidRequest, Code::InvalidArgument, message);
        error.0.violations.push(violation);
        error
    }

    /// What the caller gave to be sent could not be read.
    pub(crate) fn source_failed(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        let mut error = Self::new(Reason::SourceFailed, Code::Cancelled, cause.to_string());
        error.0.source = Some(cause.into());
        error
    }

    /// A command that was ended by its timeout, with what it wrote.
    pub(crate) fn timed_out(result: CommandResult) -> Self {
        let message =
            format!("the command was ended by its timeout after {:.1} s", result.exit.wall_time.as_secs_f64());
        let mut error = Self::new(Reason::CommandTimedOut, Code::DeadlineExceeded, message);
        error.0.result = Some(result);
        error
    }

    /// Why the call failed.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The reason's name, such as `SANDBOX_NOT_FOUND`; also of one that this
    /// version does not know.
    pub fn reason_name(&self) -> &str {
        self.0.unknown_name.as_deref().unwrap_or(self.0.reason.name())
    }

    /// The gRPC code. What the transport reports is always `UNAVAILABLE`.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What finds the call in the server's log, if the server was reached.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Whether the same call may succeed later without any change. What was safe
    /// to repeat this client has repeated before it gave up.
    pub fn is_retryable(&self) -> bool {
        self.0.reason.is_retryable() || (self.0.unknown_name.is_some() && self.0.retry_after.is_some())
    }

    /// What the caller can do, in one sentence.
    pub fn suggested_action(&self) -> &'static str {
        self.0.reason.suggested_action()
    }

    /// Every bad field, with [`Reason::InvalidRequest`].
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// An id or a number that belongs to the error, such as `scope` or
    /// `accepted_offset`.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.0.metadata.get(name).map(String::as_str)
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// With [`Reason::CommandTimedOut`]: what the command wrote until its end,
    /// as far as the call gathers output.
    pub fn result(&self) -> Option<&CommandResult> {
        self.0.result.as_ref()
    }

    /// With [`Reason::CommandTimedOut`]: how it ended.
    pub fn exit(&self) -> Option<&Exit> {
        self.result().map(|result| &result.exit)
    }

    /// Repeating the call, where that is safe, is worth it.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(
            self.0.reason,
            Reason::Transport
                | Reason::AgentUnreachable
                | Reason::ServerStopping
                | Reason::SandboxNotReady
                | Reason::CallInProgress
                | Reason::ConcurrencyLimitReached
        )
    }

    /// The server itself said so: it can be reached.
    pub(crate) fn is_from_server(&self) -> bool {
        self.0.reason != Reason::Transport
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason_name(), self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}
