//! From a gRPC status to an error.

use nullspace_proto::{Reason as Wire, error::DOMAIN};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    Reason,
    codec::NoMessage,
    error::{Error, Inner, Violation},
};

/// Where the server says which call it was.
const REQUEST_ID: &str = "nullspace-request-id";

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let source = std::error::Error::source(&status);
        if let Some(garbled) = source.and_then(|source| source.downcast_ref::<NoMessage>()) {
            return Error::invalid_response(garbled.to_string());
        }
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let (reason, unknown_name) = match info {
            Some(info) => match Wire::from_name(&info.reason) {
                Some(reason) => (Reason::from(reason), None),
                None => (Reason::Unrecognized, Some(info.reason.clone())),
            },
            None => (foreign(status.code()), None),
        };
        let violations = details.bad_request().map(|bad| &bad.field_violations[..]).unwrap_or_default();
        let violation = |bad: &tonic_types::FieldViolation| Violation {
            field: bad.field.clone(),
            description: bad.description.clone(),
        };
        let request_id = status.metadata().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        Error::from_parts(Inner {
            reason,
            unknown_name,
            code: if reason == Reason::Transport { Code::Unavailable } else { status.code() },
            message: if info.is_some() { status.message().to_owned() } else { described(&status) },
            request_id: request_id.map(str::to_owned),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            violations: violations.iter().map(violation).collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            result: None,
            source: None,
        })
    }
}

/// A status that is not ours: a proxy or the transport made it. Whatever is not
/// named here is a fault of the transport, whichever code it wears.
fn foreign(code: Code) -> Reason {
    match code {
        Code::DeadlineExceeded => Reason::DeadlineExceeded,
        Code::Unauthenticated => Reason::ApiKeyInvalid,
        // Of this side's own making: a message came that is larger than any is.
        Code::OutOfRange => Reason::InvalidResponse,
        Code::PermissionDenied
        | Code::NotFound
        | Code::AlreadyExists
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unimplemented => Reason::Unrecognized,
        _ => Reason::Transport,
    }
}

/// The transport's own words hide the cause in their sources.
fn described(status: &Status) -> String {
    let mut message = match status.code() {
        // That much is known without saying it.
        Code::Unknown => status.message().to_owned(),
        code => format!("{code:?}: {}", status.message()),
    };
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !message.contains(&cause_text) {
            message = format!("{message}: {cause_text}");
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_error_keeps_what_the_server_said() {
        let sent = nullspace_proto::Error::invalid_field("spec.cwd", "must be absolute").with("id", 7);
        let mut status = Status::from(sent);
        status.metadata_mut().insert(REQUEST_ID, "req_1".parse().unwrap());
        let error = Error::from(status);
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.violations()[0].field, "spec.cwd");
        assert_eq!(error.metadata("id"), Some("7"));
        assert_eq!(error.request_id(), Some("req_1"));
        assert!(!error.is_retryable() && !error.is_lost());
    }

    #[test]
    fn a_server_says_when_to_call_again() {
        let sent = nullspace_proto::Error::new(Wire::CapacityExceeded, "full").retry_after(Duration::from_secs(3));
        let error = Error::from(Status::from(sent));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert!(error.is_retryable() && !error.is_lost());
    }

    #[test]
    fn what_the_transport_says_is_unavailable() {
        for code in [Code::Unknown, Code::Internal, Code::Cancelled, Code::ResourceExhausted, Code::Unavailable] {
            let error = Error::from(Status::new(code, "h2 protocol error"));
            assert_eq!((error.reason(), error.code()), (Reason::Transport, Code::Unavailable));
            assert!(error.is_lost() && !error.is_from_server());
        }
    }

    #[test]
    fn what_is_no_message_is_the_servers_fault_and_not_asked_for_again() {
        let garbled = <u64 as prost::Message>::decode(&b"\xff"[..]).unwrap_err();
        let error = Error::from(Status::from_error(Box::new(NoMessage::from(garbled))));
        assert_eq!((error.reason(), error.is_lost()), (Reason::InvalidResponse, false));
    }

    #[test]
    fn a_proxy_that_refuses_is_believed() {
        for code in [Code::Unimplemented, Code::PermissionDenied, Code::Unauthenticated] {
            let error = Error::from(Status::new(code, "no"));
            assert_eq!(error.code(), code);
            assert!(!error.is_lost());
        }
    }
}
