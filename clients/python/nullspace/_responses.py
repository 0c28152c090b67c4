"""Records from messages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Optional, Union

from nullspace._gen.v1 import command_pb2, file_pb2, sandbox_pb2, system_pb2
from nullspace._wire import metadata_of, seconds_of, time_of
from nullspace.errors import SandboxError, TimeoutError, error_of
from nullspace.records import (
    ApiKey,
    Capabilities,
    CommandResult,
    CreatedApiKey,
    Engine,
    FileInfo,
    ProcessInfo,
    SandboxConfig,
    SandboxInfo,
    SandboxMetrics,
    Template,
    Version,
)


def invalid_response(message: str) -> SandboxError:
    """The server broke the contract."""
    return error_of("invalid_response", message, retryable=False, suggested_action="Report it.")


def sandbox_info(sandbox: sandbox_pb2.Sandbox) -> SandboxInfo:
    """A sandbox."""
    lifetime = sandbox.lifetime
    timeout_ms = round(seconds_of(lifetime.timeout) * 1000) if lifetime.HasField("timeout") else None
    expires_at = time_of(sandbox, "expires_at")
    return SandboxInfo(
        id=sandbox.id,
        status=_name(sandbox_pb2.SandboxState, sandbox.state, "SANDBOX_STATE_"),
        config=SandboxConfig(
            vcpus=sandbox.resources.vcpus,
            memory_mb=sandbox.resources.memory_mib,
            disk_mb=sandbox.resources.disk_mib,
        ),
        template=sandbox.template,
        metadata=metadata_of(sandbox.metadata),
        cwd=sandbox.cwd,
        created_at=time_of(sandbox, "created_at"),
        started_at=time_of(sandbox, "started_at"),
        timeout_ms=timeout_ms,
        timeout_at=expires_at,
        expires_at=expires_at,
        timeout_action="destroy",
        state_reason=sandbox.state_reason,
        engine=sandbox.engine,
        execution_id=sandbox.execution_id,
        incarnation=sandbox.incarnation,
        internet_access=sandbox.internet_access,
        ended_at=time_of(sandbox, "ended_at"),
    )


def sandbox_fields(sandbox: sandbox_pb2.Sandbox, names: Sequence[str]) -> dict[str, Any]:
    """Some fields of a sandbox, as a dictionary in the order asked for."""
    info = sandbox_info(sandbox)
    return {name: vars(info.config) if name == "config" else getattr(info, name) for name in names}


def info_or_fields(
    sandbox: sandbox_pb2.Sandbox, names: Optional[Sequence[str]]
) -> Union[SandboxInfo, dict[str, Any]]:
    """A sandbox, whole or masked."""
    return sandbox_info(sandbox) if names is None else sandbox_fields(sandbox, names)


def metrics(response: sandbox_pb2.GetSandboxMetricsResponse) -> list[SandboxMetrics]:
    """Samples, oldest first."""
    return [
        SandboxMetrics(
            timestamp=time_of(sample, "sampled_at"),
            cpu_percent=sample.cpu_percent,
            cpu_count=sample.cpu_count,
            mem_used_bytes=sample.memory_used_bytes,
            mem_total_bytes=sample.memory_total_bytes,
            disk_used_bytes=sample.disk_used_bytes,
            disk_total_bytes=sample.disk_total_bytes,
            network_rx_bytes=sample.network_rx_bytes,
            network_tx_bytes=sample.network_tx_bytes,
        )
        for sample in response.samples
    ]


def exit_code(exit: command_pb2.Exit) -> int:
    """The code as a shell would give it: 128 + n after signal n."""
    outcome = exit.WhichOneof("outcome")
    if outcome is None:
        raise invalid_response("an exit has neither code nor signal")
    return exit.code if outcome == "code" else 128 + exit.signal


def command_result(
    exit: command_pb2.Exit,
    pid: Optional[int],
    stdout: Sequence[bytes],
    stderr: Sequence[bytes],
    lost_bytes: int,
) -> CommandResult:
    """How a command ended, with the pieces that it wrote.

    Raises:
        TimeoutError: ``exec_timeout``, it ran past its timeout. The error has the result.
    """
    result = CommandResult._of_pieces(
        stdout,
        stderr,
        exit_code=exit_code(exit),
        pid=pid,
        signal=exit.signal if exit.WhichOneof("outcome") == "signal" else None,
        reason=_name(command_pb2.TerminationReason, exit.reason, "TERMINATION_REASON_"),
        lost_bytes=lost_bytes,
        wall_time=seconds_of(exit.wall_time),
        cpu_time=seconds_of(exit.cpu_time),
        peak_memory_bytes=exit.peak_memory_bytes,
    )
    if exit.reason == command_pb2.TERMINATION_REASON_TIMED_OUT:
        error = error_of(
            "exec_timeout",
            f"the command was ended by its timeout after {result.wall_time:.1f} s",
            retryable=False,
            suggested_action="Give the command more time, or run it in the background.",
        )
        assert isinstance(error, TimeoutError)
        error.result = result
        raise error
    return result


def process_info(info: command_pb2.CommandInfo) -> ProcessInfo:
    """A command."""
    spec = info.spec
    return ProcessInfo(
        pid=info.pid,
        command=spec.shell if spec.WhichOneof("program") == "shell" else shlex.join(spec.argv.args),
        running=not info.HasField("exit"),
        command_id=info.command_id,
        tag=spec.tag,
        cwd=info.cwd,
        user=info.user,
        started_at=time_of(info, "started_at"),
        exit_code=exit_code(info.exit) if info.HasField("exit") else None,
    )


def no_such_process(pid: int) -> SandboxError:
    """Nothing has this pid."""
    return error_of(
        "command_not_found",
        f"no command has the pid {pid}",
        retryable=False,
        suggested_action="Check the pid with commands.list().",
        details={"resource": {"type": "command", "name": str(pid)}},
    )


def file_info(file: file_pb2.FileInfo) -> FileInfo:
    """A file."""
    return FileInfo(
        name=file.name,
        path=file.path,
        is_dir=file.kind == file_pb2.FILE_KIND_DIRECTORY,
        size=file.size_bytes,
        type=_name(file_pb2.FileKind, file.kind, "FILE_KIND_"),
        mode=f"{file.mode:04o}",
        permissions=file.permissions,
        owner=file.owner,
        group=file.group,
        modified_time=time_of(file, "modified_at"),
        symlink_target=file.symlink_target or None,
    )


def api_key(key: system_pb2.ApiKey) -> ApiKey:
    """A key."""
    return ApiKey(**_key_fields(key))


def created_api_key(
    response: Union[system_pb2.CreateApiKeyResponse, system_pb2.RotateApiKeyResponse],
) -> CreatedApiKey:
    """A new key."""
    return CreatedApiKey(**_key_fields(response.key), key=response.secret_key)


def _key_fields(key: system_pb2.ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "owner": key.owner,
        "scopes": tuple(key.scopes),
        "created_at": time_of(key, "created_at"),
        "expires_at": time_of(key, "expires_at"),
        "revoked_at": time_of(key, "revoked_at"),
        "rotated_from": key.rotated_from or None,
        "rotated_to": key.rotated_to or None,
    }


def version(response: system_pb2.GetVersionResponse) -> Version:
    """The server's version."""
    return Version(version=response.version, instance_id=response.instance_id)


def capabilities(response: system_pb2.GetCapabilitiesResponse) -> Capabilities:
    """What can be asked for."""
    return Capabilities(
        engines=tuple(
            Engine(
                name=engine.name,
                version=engine.version,
                is_default=engine.is_default,
                kernel_isolation=engine.kernel_isolation,
                vcpus=(engine.vcpus.min, engine.vcpus.max),
                memory_mb=(engine.memory_mib.min, engine.memory_mib.max),
                disk_mb=(engine.disk_mib.min, engine.disk_mib.max),
                max_sandboxes=engine.max_sandboxes,
                max_processes=engine.max_processes,
            )
            for engine in response.engines
        ),
        templates=tuple(Template(name=t.name, digest=t.digest) for t in response.templates),
    )


def _name(enum: Any, number: int, prefix: str) -> str:
    """An enum's value as text; a number that this client does not know stays one."""
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower()
    except ValueError:
        return f"unknown_{number}"
