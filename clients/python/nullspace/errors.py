"""What calls raise.

Every error is a :class:`SandboxError` with a stable ``code``: the reason that
the server gave, in lower case. The class follows from the code and never from
the message. A class that shares its name with a builtin is that builtin as
well, so ``except TimeoutError`` catches it whichever of the two is in scope.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from nullspace.records import CommandResult


class SandboxError(Exception):
    """A call failed.

    Attributes:
        message: what went wrong, for people.
        code: the stable reason, such as ``"sandbox_not_found"``.
        request_id: finds the call in the server's log. None when the server
            never answered.
        retryable: the same call may succeed later without any change. None
            when that is not known.
        suggested_action: what the caller can do, in one sentence.
        details: what else is known. Keys that may be there: ``violations``
            (every bad field: a list of ``{"field", "description"}``),
            ``resource`` (``{"type", "name"}``), ``quota`` and ``precondition``
            (lists of ``{"subject", "description"}``), ``retry_after``
            (seconds), ``metadata`` (ids and numbers, as text).
    """

    default_code = "unknown"

    def __init__(
        self,
        message: str = "",
        *,
        code: Optional[str] = None,
        request_id: Optional[str] = None,
        retryable: Optional[bool] = None,
        suggested_action: Optional[str] = None,
        details: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.request_id = request_id
        self.retryable = retryable
        self.suggested_action = suggested_action
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.message}{request}"

    def __reduce__(self) -> Any:
        # The default would call the class with `args` alone and lose the code.
        return _restore, (type(self), self.__dict__)


def _restore(cls: type[SandboxError], state: dict[str, Any]) -> SandboxError:
    error = cls.__new__(cls, state.get("message", ""))
    error.args = (state.get("message", ""),)
    error.__dict__.update(state)
    return error


class AuthError(SandboxError):
    """There is no API key, or it is unknown, revoked or expired."""

    default_code = "unauthorized"

    @property
    def error_detail(self) -> Optional[str]:
        """What the server said of the key."""
        return self.details.get("error_detail")


class PermissionError(SandboxError, builtins.PermissionError):
    """The key lacks a scope, or the sandbox's user may not do this."""

    default_code = "permission_denied"


class NotFoundError(SandboxError):
    """There is no such thing, or it belongs to another owner."""

    default_code = "sandbox_not_found"


class ConflictError(SandboxError):
    """The thing is in another state than the call needs."""

    default_code = "conflict"


class QuotaExceededError(SandboxError):
    """A limit is reached."""

    default_code = "quota_exceeded"


class RateLimitError(SandboxError):
    """Too many calls."""

    default_code = "rate_limit_exceeded"

    @property
    def retry_after(self) -> Optional[float]:
        """Seconds after which to call again."""
        return self.details.get("retry_after")


class TimeoutError(SandboxError, builtins.TimeoutError):
    """A time has passed.

    ``code`` tells which: ``"exec_timeout"`` is a command that ran past its own
    ``timeout`` and was ended; ``"timeout"`` is a call or a wait that was given
    up, which says nothing of the command or the sandbox.
    """

    default_code = "timeout"

    #: With ``"exec_timeout"``: how the command ended, and its output until then.
    result: Optional[CommandResult] = None


class NotImplementedError(SandboxError, builtins.NotImplementedError):
    """The server or its engine cannot do this."""

    default_code = "not_implemented"


class BuildError(SandboxError):
    """A template could not be built."""

    default_code = "build_error"

    @property
    def build_id(self) -> Optional[str]:
        """The build."""
        return self.details.get("build_id")


class FileUploadError(SandboxError):
    """An upload failed."""

    default_code = "file_upload_error"

    @property
    def reason(self) -> Optional[str]:
        """Why, such as ``"whole_checksum_mismatch"``."""
        return self.details.get("reason")

    @property
    def upload_id(self) -> Optional[str]:
        """The upload."""
        return self.details.get("upload_id")

    @property
    def part_number(self) -> Optional[int]:
        """The part, from 0."""
        return self.details.get("part_number")

    @property
    def path(self) -> Optional[str]:
        """The path that it is about."""
        return self.details.get("path")


class UploadLimitError(FileUploadError):
    """The upload is larger than what is allowed or free."""


class UploadChecksumError(FileUploadError):
    """The bytes that arrived are not those that were announced."""


class UploadConflictError(FileUploadError):
    """The target exists."""


class UploadExpiredError(FileUploadError):
    """The upload took longer than its session lives."""


class UploadPathError(FileUploadError):
    """An entry of a directory archive is refused."""


class UploadStateError(FileUploadError):
    """The session is in another state than the step needs."""


class GitError(SandboxError):
    """Git failed in the sandbox."""

    default_code = "git_error"

    @property
    def exit_code(self) -> Optional[int]:
        """Git's exit code."""
        return self.details.get("exit_code")

    @property
    def stderr(self) -> str:
        """What git said."""
        return str(self.details.get("stderr", ""))


class BatchWriteError(SandboxError):
    """Some files of a batch were not written; the others were."""

    default_code = "batch_write_partial_failure"

    @property
    def successes(self) -> Sequence[Any]:
        """The files that were written."""
        return list(self.details.get("successes", ()))

    @property
    def failures(self) -> Sequence[Any]:
        """The others, each with its error."""
        return list(self.details.get("failures", ()))


# Reasons of the server that have an older name in the client's vocabulary.
_CODE_ALIASES = {
    "unauthenticated": "unauthorized",
    "missing_api_key": "unauthorized",
    "api_key_missing": "unauthorized",
    "api_key_invalid": "unauthorized",
    "deadline_exceeded": "timeout",
}

_CODES: tuple[tuple[type[SandboxError], frozenset[str]], ...] = (
    (AuthError, frozenset({"unauthorized"})),
    (
        AuthError,
        frozenset(
            {
                "edge_token_missing",
                "edge_token_expired",
                "edge_token_invalid",
                "edge_token_scope_mismatch",
                "preview_grant_invalid",
                "preview_grant_revoked",
                "preview_proxy_token_missing",
                "preview_proxy_token_expired",
                "preview_proxy_token_invalid",
                "preview_proxy_token_revoked",
                "preview_proxy_token_scope_mismatch",
            }
        ),
    ),
    (PermissionError, frozenset({"forbidden", "permission_denied", "scope_missing"})),
    (
        QuotaExceededError,
        frozenset(
            {
                "quota_exceeded",
                "capacity_exceeded",
                "volume_quota_exceeded",
                "process_limit_reached",
                "command_limit_reached",
                "disk_full",
            }
        ),
    ),
    (
        ConflictError,
        frozenset(
            {
                "api_key_ended",
                "conflict",
                "sandbox_not_ready",
                "snapshot_in_use",
                "rebuild_required",
                "incompatible_snapshot",
                "volume_busy",
                "idempotency_key_reused",
                "call_in_progress",
                "sandbox_stopped",
                "stale_incarnation",
                "command_ended",
                "input_closed",
                "attach_superseded",
            }
        ),
    ),
    (NotFoundError, frozenset({"not_found"})),
    (BuildError, frozenset({"build_error"})),
    (RateLimitError, frozenset({"rate_limit_exceeded", "concurrency_limit_reached"})),
    (NotImplementedError, frozenset({"not_implemented", "method_unknown", "capability_unsupported"})),
    (TimeoutError, frozenset({"timeout", "exec_timeout"})),
)

_UPLOAD_REASONS: Mapping[str, type[FileUploadError]] = {
    "insufficient_staging_space": UploadLimitError,
    "size_limit_exceeded": UploadLimitError,
    "invalid_part_checksum": UploadChecksumError,
    "whole_checksum_mismatch": UploadChecksumError,
    "target_conflict": UploadConflictError,
    "upload_expired": UploadExpiredError,
    "missing_parts": UploadStateError,
    "part_out_of_range": UploadStateError,
    "part_size_mismatch": UploadStateError,
    "upload_aborted": UploadStateError,
    "upload_already_completed": UploadStateError,
}


def class_of(code: str, details: Optional[Mapping[str, Any]] = None) -> type[SandboxError]:
    """The class for a code."""
    for cls, codes in _CODES:
        if code in codes:
            return cls
    if code == "file_upload_error":
        reason = str((details or {}).get("reason", ""))
        if reason.startswith("directory_extract_"):
            return UploadPathError
        return _UPLOAD_REASONS.get(reason, FileUploadError)
    for cls, matches in (
        (PermissionError, code.endswith("_permission_denied")),
        (QuotaExceededError, "quota" in code),
        (ConflictError, code.endswith("_conflict")),
        (NotFoundError, code.endswith("_not_found")),
    ):
        if matches:
            return cls
    return SandboxError


def error_of(
    code: str,
    message: str,
    *,
    request_id: Optional[str] = None,
    retryable: Optional[bool] = None,
    suggested_action: Optional[str] = None,
    details: Optional[Mapping[str, Any]] = None,
) -> SandboxError:
    """An error of the class that belongs to ``code``."""
    code = code.lower()
    code = _CODE_ALIASES.get(code, code)
    return class_of(code, details)(
        message,
        code=code,
        request_id=request_id,
        retryable=retryable,
        suggested_action=suggested_action,
        details=details,
    )


def invalid_request(*violations: tuple[str, str]) -> SandboxError:
    """The error for bad fields that the client can see by itself."""
    return error_of(
        "invalid_request",
        "; ".join(f"{field}: {description}" for field, description in violations),
        retryable=False,
        suggested_action="Correct the fields that the error names.",
        details={"violations": [{"field": f, "description": d} for f, d in violations]},
    )
