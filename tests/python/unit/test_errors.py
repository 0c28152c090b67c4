"""The class of an error follows from its code, and the code from the server's reason."""

import builtins
import pickle

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import nullspace
from nullspace import (
    AuthError,
    BuildError,
    ConflictError,
    FileUploadError,
    NotFoundError,
    NotImplementedError,
    PermissionError,
    QuotaExceededError,
    RateLimitError,
    SandboxError,
    TimeoutError,
    UploadChecksumError,
    UploadConflictError,
    UploadExpiredError,
    UploadLimitError,
    UploadPathError,
    UploadStateError,
)
from nullspace._gen.v1 import errors_pb2, options_pb2
from nullspace._status import error_from, is_lost
from nullspace.errors import error_of


class FakeStatus:
    """What grpc gives for a failed call."""

    def __init__(self, code, message="", *details, trailing=(), initial=()):
        packed = []
        for detail in details:
            any_detail = Any()
            any_detail.Pack(detail)
            packed.append(any_detail)
        self._code, self._message, self._initial = code, message, initial
        self._trailing = list(trailing)
        if packed:
            status = status_pb2.Status(code=code.value[0], message=message, details=packed)
            self._trailing.append(("grpc-status-details-bin", status.SerializeToString()))

    def code(self):
        return self._code

    def details(self):
        return self._message

    def trailing_metadata(self):
        return self._trailing

    def initial_metadata(self):
        return self._initial


def info(reason, domain="nullspace", **metadata):
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)


@pytest.mark.parametrize(
    ("given", "cls", "code"),
    [
        ("unauthorized", AuthError, "unauthorized"),
        ("unauthenticated", AuthError, "unauthorized"),
        ("missing_api_key", AuthError, "unauthorized"),
        ("edge_token_expired", AuthError, "edge_token_expired"),
        ("preview_grant_revoked", AuthError, "preview_grant_revoked"),
        ("preview_proxy_token_scope_mismatch", AuthError, "preview_proxy_token_scope_mismatch"),
        ("forbidden", PermissionError, "forbidden"),
        ("permission_denied", PermissionError, "permission_denied"),
        ("file_permission_denied", PermissionError, "file_permission_denied"),
        ("QUOTA_EXCEEDED", QuotaExceededError, "quota_exceeded"),
        ("capacity_exceeded", QuotaExceededError, "capacity_exceeded"),
        ("daily_quota_used", QuotaExceededError, "daily_quota_used"),
        ("conflict", ConflictError, "conflict"),
        ("sandbox_not_ready", ConflictError, "sandbox_not_ready"),
        ("snapshot_in_use", ConflictError, "snapshot_in_use"),
        ("transition_conflict", ConflictError, "transition_conflict"),
        ("not_found", NotFoundError, "not_found"),
        ("sandbox_not_found", NotFoundError, "sandbox_not_found"),
        ("template_not_found", NotFoundError, "template_not_found"),
        ("build_error", BuildError, "build_error"),
        ("rate_limit_exceeded", RateLimitError, "rate_limit_exceeded"),
        ("not_implemented", NotImplementedError, "not_implemented"),
        ("exec_failed", SandboxError, "exec_failed"),
        ("anything_else", SandboxError, "anything_else"),
    ],
)
def test_class_of_code(given, cls, code):
    error = error_of(given, "m")
    assert type(error) is cls
    assert error.code == code


@pytest.mark.parametrize(
    ("reason", "cls"),
    [
        ("insufficient_staging_space", UploadLimitError),
        ("size_limit_exceeded", UploadLimitError),
        ("invalid_part_checksum", UploadChecksumError),
        ("whole_checksum_mismatch", UploadChecksumError),
        ("target_conflict", UploadConflictError),
        ("upload_expired", UploadExpiredError),
        ("directory_extract_invalid_path", UploadPathError),
        ("missing_parts", UploadStateError),
        ("upload_aborted", UploadStateError),
        ("new", FileUploadError),
    ],
)
def test_upload_errors_by_reason(reason, cls):
    error = error_of("file_upload_error", "m", details={"reason": reason, "upload_id": "up_1"})
    assert type(error) is cls
    assert isinstance(error, FileUploadError)
    assert (error.code, error.reason, error.upload_id) == ("file_upload_error", reason, "up_1")


REASONS = {
    "INVALID_REQUEST": (SandboxError, "invalid_request"),
    "API_KEY_MISSING": (AuthError, "unauthorized"),
    "API_KEY_INVALID": (AuthError, "unauthorized"),
    "SCOPE_MISSING": (PermissionError, "scope_missing"),
    "METHOD_UNKNOWN": (NotImplementedError, "method_unknown"),
    "ENCODING_UNSUPPORTED": (SandboxError, "encoding_unsupported"),
    "MESSAGE_TOO_LARGE": (SandboxError, "message_too_large"),
    "DEADLINE_EXCEEDED": (TimeoutError, "timeout"),
    "IDEMPOTENCY_KEY_REUSED": (ConflictError, "idempotency_key_reused"),
    "CALL_IN_PROGRESS": (ConflictError, "call_in_progress"),
    "INTERNAL": (SandboxError, "internal"),
    "SERVER_STOPPING": (SandboxError, "server_stopping"),
    "CONCURRENCY_LIMIT_REACHED": (RateLimitError, "concurrency_limit_reached"),
    "SANDBOX_NOT_FOUND": (NotFoundError, "sandbox_not_found"),
    "SANDBOX_NOT_READY": (ConflictError, "sandbox_not_ready"),
    "SANDBOX_STOPPED": (ConflictError, "sandbox_stopped"),
    "AGENT_LOST": (SandboxError, "agent_lost"),
    "AGENT_UNREACHABLE": (SandboxError, "agent_unreachable"),
    "STALE_INCARNATION": (ConflictError, "stale_incarnation"),
    "TEMPLATE_NOT_FOUND": (NotFoundError, "template_not_found"),
    "CAPACITY_EXCEEDED": (QuotaExceededError, "capacity_exceeded"),
    "SANDBOX_START_FAILED": (SandboxError, "sandbox_start_failed"),
    "COMMAND_NOT_FOUND": (NotFoundError, "command_not_found"),
    "PROGRAM_NOT_FOUND": (NotFoundError, "program_not_found"),
    "PROGRAM_NOT_EXECUTABLE": (SandboxError, "program_not_executable"),
    "WORKING_DIRECTORY_INVALID": (SandboxError, "working_directory_invalid"),
    "USER_NOT_FOUND": (NotFoundError, "user_not_found"),
    "PROCESS_LIMIT_REACHED": (QuotaExceededError, "process_limit_reached"),
    "COMMAND_LIMIT_REACHED": (QuotaExceededError, "command_limit_reached"),
    "COMMAND_ENDED": (ConflictError, "command_ended"),
    "INPUT_CLOSED": (ConflictError, "input_closed"),
    "INPUT_GAP": (SandboxError, "input_gap"),
    "OUTPUT_DIVERGED": (SandboxError, "output_diverged"),
    "ATTACH_SUPERSEDED": (ConflictError, "attach_superseded"),
    "COMMAND_START_FAILED": (SandboxError, "command_start_failed"),
    "FILE_NOT_FOUND": (NotFoundError, "file_not_found"),
    "PATH_IS_DIRECTORY": (SandboxError, "path_is_directory"),
    "PATH_NOT_DIRECTORY": (SandboxError, "path_not_directory"),
    "FILE_PERMISSION_DENIED": (PermissionError, "file_permission_denied"),
    "DISK_FULL": (QuotaExceededError, "disk_full"),
    "FILE_OPERATION_FAILED": (SandboxError, "file_operation_failed"),
    "API_KEY_NOT_FOUND": (NotFoundError, "api_key_not_found"),
    "API_KEY_ENDED": (ConflictError, "api_key_ended"),
}


def test_every_reason_of_the_schema_has_its_class():
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values:
        if not value.number:
            continue
        reason = value.name[len("ERROR_REASON_") :]
        policy = value.GetOptions().Extensions[options_pb2.reason_policy]
        code = next(code for code in grpc.StatusCode if code.value[0] == policy.code)
        error = error_from(FakeStatus(code, "message", info(reason)))
        assert (type(error), error.code) == REASONS[reason], reason
        assert error.retryable is policy.retryable
        assert error.suggested_action == policy.action
        assert error.message == "message"


def test_details_and_request_id():
    error = error_from(
        FakeStatus(
            grpc.StatusCode.INVALID_ARGUMENT,
            "two fields are bad",
            info("INVALID_REQUEST", sandbox_id="sb_1"),
            error_details_pb2.BadRequest(
                field_violations=[
                    {"field": "spec.resources.vcpus", "description": "0 is not in 1 to 64"},
                    {"field": "spec.cwd", "description": "must be absolute"},
                ]
            ),
            error_details_pb2.ResourceInfo(resource_type="sandbox", resource_name="sb_1"),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            error_details_pb2.QuotaFailure(violations=[{"subject": "memory", "description": "full"}]),
            trailing=[("nullspace-request-id", "req_1")],
        )
    )
    assert error.request_id == "req_1"
    assert "req_1" in str(error)
    assert [v["field"] for v in error.details["violations"]] == ["spec.resources.vcpus", "spec.cwd"]
    assert error.details["resource"] == {"type": "sandbox", "name": "sb_1"}
    assert error.details["retry_after"] == 1.5
    assert error.details["quota"] == [{"subject": "memory", "description": "full"}]
    assert error.details["metadata"] == {"sandbox_id": "sb_1"}


def test_request_id_in_initial_metadata():
    status = FakeStatus(grpc.StatusCode.INTERNAL, initial=[("nullspace-request-id", "req_2")])
    assert error_from(status).request_id == "req_2"


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.ABORTED],
)
@pytest.mark.parametrize("details", [(), (info("SANDBOX_NOT_FOUND", domain="elsewhere"),)])
def test_statuses_of_the_transport(code, details):
    error = error_from(FakeStatus(code, "broken", *details))
    assert type(error) is SandboxError
    assert (error.code, error.retryable) == ("transport_error", True)
    assert is_lost(error)


def test_details_that_cannot_be_read_are_a_transport_error():
    status = FakeStatus(grpc.StatusCode.NOT_FOUND, trailing=[("grpc-status-details-bin", b"\xff\xff")])
    assert type(error_from(status)) is NotFoundError


def test_a_reason_of_a_newer_server():
    error = error_from(FakeStatus(grpc.StatusCode.NOT_FOUND, "m", info("MOON_NOT_FOUND")))
    assert (type(error), error.code, error.retryable) == (NotFoundError, "moon_not_found", False)


def test_deadline_of_the_request():
    error = error_from(FakeStatus(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
    assert (type(error), error.code) == (TimeoutError, "timeout")
    assert isinstance(error, builtins.TimeoutError)


@pytest.mark.parametrize("name", ["TimeoutError", "PermissionError", "NotImplementedError"])
def test_classes_with_a_builtin_s_name_are_that_builtin(name):
    cls = getattr(nullspace, name)
    assert issubclass(cls, SandboxError)
    assert issubclass(cls, getattr(builtins, name))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SandboxError", "unknown"),
        ("AuthError", "unauthorized"),
        ("PermissionError", "permission_denied"),
        ("NotFoundError", "sandbox_not_found"),
        ("ConflictError", "conflict"),
        ("QuotaExceededError", "quota_exceeded"),
        ("RateLimitError", "rate_limit_exceeded"),
        ("TimeoutError", "timeout"),
        ("NotImplementedError", "not_implemented"),
        ("BuildError", "build_error"),
        ("FileUploadError", "file_upload_error"),
        ("GitError", "git_error"),
        ("BatchWriteError", "batch_write_partial_failure"),
    ],
)
def test_default_codes(name, code):
    assert getattr(nullspace, name)("m").code == code


def test_errors_survive_pickling():
    error = error_of("exec_timeout", "too long", request_id="req_1", details={"a": 1})
    error.result = nullspace.CommandResult(143, "out", "err")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is TimeoutError
    assert (copy.code, copy.request_id, copy.details, copy.result) == (
        "exec_timeout",
        "req_1",
        {"a": 1},
        error.result,
    )
    assert str(copy) == str(error)
