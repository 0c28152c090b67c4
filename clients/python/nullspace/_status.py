"""From a gRPC status to an error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from nullspace._gen.v1 import errors_pb2, options_pb2
from nullspace._wire import seconds_of
from nullspace.errors import SandboxError, error_of

DOMAIN = "nullspace"
TRANSPORT_ERROR = "transport_error"

#: Errors after which the same call may be made again at once: the connection
#: to the server or the agent was lost, or the work is going on elsewhere.
_LOST = frozenset(
    {
        TRANSPORT_ERROR,
        "agent_unreachable",
        "server_stopping",
        "sandbox_not_ready",
        "call_in_progress",
        "concurrency_limit_reached",
    }
)

# Statuses that are not ours: a proxy or the transport made them. Whatever is not
# here is a fault of the transport.
_FOREIGN_CODES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
    grpc.StatusCode.UNAUTHENTICATED: "unauthorized",
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.ALREADY_EXISTS: "conflict",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request",
    grpc.StatusCode.FAILED_PRECONDITION: "failed_precondition",
    grpc.StatusCode.UNIMPLEMENTED: "not_implemented",
}

_Metadata = Optional[Iterable[Any]]


class RpcStatus(Protocol):
    """What both flavours of grpc give when a call has failed."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> Optional[str]: ...
    def initial_metadata(self) -> _Metadata: ...
    def trailing_metadata(self) -> _Metadata: ...


def is_lost(error: SandboxError) -> bool:
    """Whether repeating the call, where that is safe, is worth it."""
    return error.code in _LOST


def is_from_server(error: SandboxError) -> bool:
    """Whether the server itself said so: it can be reached."""
    return error.code != TRANSPORT_ERROR


def transport_error(message: str, request_id: Optional[str] = None) -> SandboxError:
    """The connection failed."""
    return error_of(
        TRANSPORT_ERROR,
        message,
        request_id=request_id,
        retryable=True,
        suggested_action="Check that the server can be reached, and call again.",
    )


def timed_out(message: str) -> SandboxError:
    """The caller's time is up."""
    return error_of(
        "timeout",
        message,
        retryable=True,
        suggested_action="Ask what happened, or call again with more time.",
    )


def error_from(status: RpcStatus) -> SandboxError:
    """The error that a failed call stands for."""
    trailing = list(status.trailing_metadata() or ())
    request_id = _find(trailing, "nullspace-request-id")
    request_id = request_id or _find(status.initial_metadata() or (), "nullspace-request-id")
    message = status.details() or ""
    info, details = _unpack(_find(trailing, "grpc-status-details-bin"))
    if info is not None:
        policy = _policy(info.reason)
        retryable = policy.retryable if policy else "retry_after" in details
        if info.metadata:
            details["metadata"] = dict(info.metadata)
        return error_of(
            info.reason,
            message,
            request_id=request_id,
            retryable=retryable,
            suggested_action=policy.action if policy else None,
            details=details,
        )
    code = _FOREIGN_CODES.get(status.code())
    if code is None:
        return transport_error(f"{status.code().name}: {message}", request_id)
    if code == "timeout":
        return timed_out("the call did not end within its request_timeout")
    return error_of(code, message, request_id=request_id, retryable=False, details=details)


def _find(metadata: Iterable[Any], name: str) -> Any:
    return next((value for key, value in metadata if key == name), None)


def _policy(reason: str) -> Any:
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name.get(f"ERROR_REASON_{reason}")
    if value is None:
        return None
    options: Any = value.GetOptions()
    return options.Extensions[options_pb2.reason_policy]


def _unpack(encoded: Optional[bytes]) -> tuple[Optional[error_details_pb2.ErrorInfo], dict[str, Any]]:
    info: Optional[error_details_pb2.ErrorInfo] = None
    details: dict[str, Any] = {}
    try:
        packed = status_pb2.Status.FromString(encoded or b"").details
        for detail in packed:
            kind = _KINDS.get(detail.type_url.rpartition("/")[2])
            if kind is None:
                continue
            message = kind.FromString(detail.value)
            if isinstance(message, error_details_pb2.ErrorInfo):
                info = message if message.domain == DOMAIN else info
            elif isinstance(message, error_details_pb2.BadRequest):
                details["violations"] = [
                    {"field": v.field, "description": v.description} for v in message.field_violations
                ]
            elif isinstance(message, error_details_pb2.ResourceInfo):
                details["resource"] = {"type": message.resource_type, "name": message.resource_name}
            elif isinstance(message, error_details_pb2.RetryInfo):
                details["retry_after"] = seconds_of(message.retry_delay)
            elif isinstance(message, error_details_pb2.QuotaFailure):
                details["quota"] = [
                    {"subject": v.subject, "description": v.description} for v in message.violations
                ]
            elif isinstance(message, error_details_pb2.PreconditionFailure):
                details["precondition"] = [
                    {"type": v.type, "subject": v.subject, "description": v.description}
                    for v in message.violations
                ]
    except DecodeError:
        return None, {}
    return info, details


_KINDS: dict[str, Any] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.ResourceInfo,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.PreconditionFailure,
    )
}
