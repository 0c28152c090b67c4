"""Requests from arguments. What the wire cannot carry is refused here, all of it in one error."""

from __future__ import annotations

import signal as signals
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

from google.protobuf.field_mask_pb2 import FieldMask

from nullspace._gen.v1 import command_pb2, sandbox_pb2, system_pb2
from nullspace._limits import (
    CODE_INTERPRETER_MEMORY_MB,
    COMMAND_TIMEOUT,
    MAX_LIFETIME,
    MEMORY_MB,
    RUN_ONCE_SLACK,
    SANDBOX_TIMEOUT,
    VCPUS,
)
from nullspace._wire import Checks, Seconds
from nullspace.errors import SandboxError, error_of, invalid_request

#: Names for ``fields``, and the field of the wire that each comes from.
SANDBOX_FIELDS: Mapping[str, str] = {
    "id": "id",
    "status": "state",
    "config": "resources",
    "template": "template",
    "metadata": "metadata",
    "cwd": "cwd",
    "created_at": "created_at",
    "started_at": "started_at",
    "timeout_ms": "lifetime",
    "timeout_at": "expires_at",
    "expires_at": "expires_at",
    "timeout_action": "lifetime",
    "state_reason": "state_reason",
    "engine": "engine",
    "execution_id": "execution_id",
    "incarnation": "incarnation",
    "internet_access": "internet_access",
    "ended_at": "ended_at",
}

_STATES = {
    name[len("SANDBOX_STATE_") :].lower(): number
    for name, number in sandbox_pb2.SandboxState.items()
    if number != sandbox_pb2.SANDBOX_STATE_UNSPECIFIED
}

Fields = Union[str, Iterable[str]]
States = Union[str, Iterable[str]]


@dataclass(frozen=True)
class SandboxQuery:
    """Which sandboxes to list. What is None does not matter."""

    #: A status or several. None: all but ``destroyed``.
    state: Optional[States] = None
    template: Optional[str] = None
    #: Each of these members must be there with an equal value.
    metadata: Optional[Mapping[str, Any]] = None


def new_key(key: Optional[str]) -> str:
    """The caller's idempotency key, or a random one."""
    return str(uuid.uuid4()) if key is None else plain_text("idempotency_key", key)


def field_names(fields: Fields) -> list[str]:
    """The names of a field mask, without repetitions.

    Raises:
        SandboxError: ``invalid_fields``, a name that does not exist, or none at all.
    """
    given = fields.split(",") if isinstance(fields, str) else list(fields)
    names = list(dict.fromkeys(str(name).strip() for name in given))
    unknown = [name for name in names if name not in SANDBOX_FIELDS]
    if unknown or not names:
        what = f"unknown: {', '.join(map(repr, unknown))}" if unknown else "at least one is needed"
        raise error_of(
            "invalid_fields",
            f"fields: {what}",
            retryable=False,
            suggested_action=f"Choose from {', '.join(SANDBOX_FIELDS)}.",
            details={"violations": [{"field": "fields", "description": what}]},
        )
    return names


def field_mask(names: Optional[Iterable[str]]) -> Optional[FieldMask]:
    """The mask on the wire."""
    if names is None:
        return None
    return FieldMask(paths=list(dict.fromkeys(SANDBOX_FIELDS[name] for name in names)))


@dataclass(frozen=True)
class SandboxOptions:
    """What a sandbox is made from."""

    template: str = "base"
    vcpus: int = VCPUS
    memory_mb: int = MEMORY_MB
    disk_mb: Optional[int] = None
    timeout: Optional[Seconds] = SANDBOX_TIMEOUT
    timeout_action: Optional[str] = None
    on_timeout: Optional[str] = None
    envs: Optional[Mapping[str, str]] = None
    metadata: Optional[Mapping[str, Any]] = None
    internet_access: bool = True
    cwd: Optional[str] = None


def sandbox_spec(options: SandboxOptions, checks: Checks) -> sandbox_pb2.SandboxSpec:
    """Options on the wire."""
    memory_mb = options.memory_mb
    if memory_mb is MEMORY_MB and options.template == "code-interpreter":
        memory_mb = CODE_INTERPRETER_MEMORY_MB
    resources = sandbox_pb2.Resources(
        vcpus=checks.integer("spec.resources.vcpus", options.vcpus),
        memory_mib=checks.integer("spec.resources.memory_mib", memory_mb),
    )
    if options.disk_mb is not None:
        resources.disk_mib = checks.integer("spec.resources.disk_mib", options.disk_mb)
    lifetime = sandbox_pb2.LifetimePolicy(
        action=timeout_action(options.timeout_action or options.on_timeout, checks)
    )
    if options.timeout is not None:
        lifetime.timeout.CopyFrom(checks.duration("spec.lifetime.timeout", options.timeout))
    return sandbox_pb2.SandboxSpec(
        template=checks.text("spec.template", options.template),
        resources=resources,
        lifetime=lifetime,
        metadata=checks.metadata("spec.metadata", options.metadata),
        envs=checks.texts("spec.envs", options.envs),
        cwd=checks.text("spec.cwd", options.cwd),
        internet_access=bool(options.internet_access),
    )


def timeout_action(action: Optional[str], checks: Checks) -> sandbox_pb2.TimeoutAction:
    """What happens at the end of a sandbox's life; None leaves it as it is."""
    if action not in (None, "destroy"):
        checks.fail("timeout_action", f"{action!r} is not known; it is 'destroy'")
    return sandbox_pb2.TIMEOUT_ACTION_DESTROY if action else sandbox_pb2.TIMEOUT_ACTION_UNSPECIFIED


def create_sandbox(
    options: SandboxOptions, idempotency_key: Optional[str]
) -> sandbox_pb2.CreateSandboxRequest:
    """CreateSandbox."""
    checks = Checks()
    spec = sandbox_spec(options, checks)
    checks.finish()
    return sandbox_pb2.CreateSandboxRequest(idempotency_key=new_key(idempotency_key), spec=spec)


def connect_sandbox(sandbox_id: str, timeout: Optional[Seconds]) -> sandbox_pb2.ConnectSandboxRequest:
    """ConnectSandbox."""
    checks = Checks()
    duration = None if timeout is None else checks.duration("timeout", timeout)
    sandbox_id = checks.text("sandbox_id", sandbox_id)
    checks.finish()
    return sandbox_pb2.ConnectSandboxRequest(sandbox_id=sandbox_id, timeout=duration)


def set_sandbox_timeout(
    sandbox_id: str, timeout: Optional[Seconds], action: Optional[str], idempotency_key: Optional[str]
) -> sandbox_pb2.SetSandboxTimeoutRequest:
    """SetSandboxTimeout."""
    checks = Checks()
    request = sandbox_pb2.SetSandboxTimeoutRequest(
        sandbox_id=checks.text("sandbox_id", sandbox_id),
        idempotency_key=new_key(idempotency_key),
        timeout=None if timeout is None else checks.duration("timeout", timeout),
        action=timeout_action(action, checks),
    )
    checks.finish()
    return request


def get_sandbox(sandbox_id: str, names: Optional[Sequence[str]]) -> sandbox_pb2.GetSandboxRequest:
    """GetSandbox."""
    return sandbox_pb2.GetSandboxRequest(
        sandbox_id=plain_text("sandbox_id", sandbox_id), read_mask=field_mask(names)
    )


def list_sandboxes(
    state: Optional[States],
    query: Union[SandboxQuery, Mapping[str, Any], None],
    limit: Optional[int],
    next_token: Optional[str],
    names: Optional[Sequence[str]],
) -> sandbox_pb2.ListSandboxesRequest:
    """ListSandboxes. States of the query win over the shortcut."""
    checks = Checks()
    if isinstance(query, Mapping):
        for name in query.keys() - {"state", "template", "metadata"}:
            checks.fail(f"query.{name}", "is not known")
        query = SandboxQuery(query.get("state"), query.get("template"), query.get("metadata"))
    query = query or SandboxQuery()
    request = sandbox_pb2.ListSandboxesRequest(
        states=_states(query.state if query.state is not None else state, checks),
        template=checks.text("template", query.template),
        page_token=checks.text("page_token", next_token),
        read_mask=field_mask(names),
    )
    if query.metadata is not None:
        request.metadata.CopyFrom(checks.metadata("metadata", query.metadata))
    if limit is not None:
        request.page_size = checks.integer("page_size", limit)
    checks.finish()
    return request


def _states(states: Optional[States], checks: Checks) -> list[Any]:
    given = states.split(",") if isinstance(states, str) else list(states or ())
    found = []
    for name in (str(state).strip() for state in given):
        if name in _STATES:
            found.append(_STATES[name])
        else:
            checks.fail("states", f"{name!r} is none of {', '.join(_STATES)}")
    return found


@dataclass(frozen=True)
class CommandOptions:
    """What to run, and how."""

    cmd: str
    args: Optional[Sequence[str]] = None
    timeout: Optional[Seconds] = None
    cwd: Optional[str] = None
    envs: Optional[Mapping[str, str]] = None
    shell: bool = False
    user: Optional[str] = None
    open_stdin: bool = False
    tag: Optional[str] = None
    #: The process waits rather than that output is lost.
    block: bool = True


def command_spec(options: CommandOptions, checks: Checks) -> command_pb2.CommandSpec:
    """Options on the wire."""
    spec = command_pb2.CommandSpec(
        cwd=checks.text("spec.cwd", options.cwd),
        env=checks.texts("spec.env", options.envs),
        user=checks.text("spec.user", options.user),
        open_stdin=options.open_stdin,
        tag=checks.text("spec.tag", options.tag),
        overflow=command_pb2.OVERFLOW_BLOCK if options.block else command_pb2.OVERFLOW_TRUNCATE,
    )
    if options.timeout is not None:
        spec.timeout.CopyFrom(checks.duration("spec.timeout", options.timeout))
    if not isinstance(options.cmd, str):
        checks.fail("spec.argv.args", f"{options.cmd!r} is not a program: pass its arguments as args")
    elif isinstance(options.args, str):
        checks.fail("spec.argv.args", "is a text; pass a list of arguments, or shell=True")
    elif options.shell and options.args:
        checks.fail("spec.argv.args", "cannot go with shell=True: write the arguments into the command line")
    elif options.shell:
        spec.shell = checks.text("spec.shell", options.cmd)
    else:
        argv = [options.cmd, *(options.args or ())]
        spec.argv.args.extend(checks.text("spec.argv.args", argument) for argument in argv)
    return spec


@dataclass(frozen=True)
class Run:
    """One run: what was asked for, and what goes on the wire."""

    options: CommandOptions
    spec: command_pb2.CommandSpec
    #: Input that is sent and closed. None: none.
    stdin: Optional[bytes]


def run(
    cmd: str,
    args: Optional[Sequence[str]],
    timeout: Optional[Seconds],
    cwd: Optional[str],
    envs: Optional[Mapping[str, str]],
    *,
    shell: bool,
    background: bool,
    user: Optional[str],
    stdin: Optional[bool],
    input: Union[str, bytes, bytearray, memoryview, None],
    tag: Optional[str],
) -> Run:
    """A run, or the error that names all that is bad.

    In the background input stays open and nothing limits the time unless the
    caller says so.
    """
    options = CommandOptions(
        cmd,
        args,
        None if background and timeout is COMMAND_TIMEOUT else timeout,
        cwd,
        envs,
        shell,
        user,
        open_stdin=input is not None or (background if stdin is None else stdin),
        tag=tag,
        block=not background,
    )
    checks = Checks()
    spec = command_spec(options, checks)
    checks.finish()
    return Run(options, spec, None if input is None else payload(input, "input"))


def explain_start(error: SandboxError, options: CommandOptions) -> SandboxError:
    """Adds a hint to the commonest mistake: a command line where a program was asked for."""
    if (
        error.code == "program_not_found"
        and not options.shell
        and not options.args
        and " " in options.cmd.strip()
    ):
        error.suggested_action = "The whole text was taken as the program's name: pass shell=True, or args."
    return error


def run_once(
    command: str,
    args: Optional[Sequence[str]],
    timeout: Optional[Seconds],
    sandbox: SandboxOptions,
    idempotency_key: Optional[str],
) -> tuple[CommandOptions, sandbox_pb2.RunOnceRequest]:
    """RunOnce. The sandbox outlives the command's own timeout."""
    options = CommandOptions(command, args, timeout)
    checks = Checks()
    spec = command_spec(options, checks)
    checks.finish()
    lifetime = None if timeout is None else max(SANDBOX_TIMEOUT, min(timeout + RUN_ONCE_SLACK, MAX_LIFETIME))
    request = sandbox_pb2.RunOnceRequest(
        idempotency_key=new_key(idempotency_key),
        sandbox=sandbox_spec(replace(sandbox, timeout=lifetime), checks),
        command=spec,
    )
    checks.finish()
    return options, request


def code_command(language: str) -> tuple[str, str]:
    """The program of a language, and its option for code."""
    programs = {"python": ("python3", "-c"), "javascript": ("node", "-e"), "ruby": ("ruby", "-e")}
    return programs.get(language, (language, "-c"))


def signal_number(signal: Union[int, str]) -> int:
    """A signal's number on Linux, by number or name (``TERM``, ``SIGTERM``)."""
    if isinstance(signal, str):
        name = signal.upper()
        number = _SIGNALS.get(name if name.startswith("SIG") else f"SIG{name}")
        if number is None:
            raise invalid_request(("number", f"{signal!r} is not the name of a signal"))
        return number
    checks = Checks()
    number = checks.integer("number", int(signal) if isinstance(signal, signals.Signals) else signal)
    checks.finish()
    return number


# Linux on x86-64 and arm64. The machine that this runs on may number otherwise.
_SIGNAL_NAMES = """
    HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP
    TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS
"""
_SIGNALS = {f"SIG{name}": number for number, name in enumerate(_SIGNAL_NAMES.split(), start=1)}


def payload(data: Union[str, bytes, bytearray, memoryview], field: str = "data") -> bytes:
    """Text as UTF-8, or bytes."""
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError:
            raise invalid_request((field, "holds surrogates, which UTF-8 cannot; pass bytes")) from None
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"{field} must be str or bytes, not {type(data).__name__}")


def plain_text(field: str, value: str) -> str:
    """One text of a request that has nothing else to check."""
    checks = Checks()
    text = checks.text(field, value)
    checks.finish()
    return text


def rotate_api_key(
    key_id: Optional[str], grace: Seconds, idempotency_key: Optional[str]
) -> system_pb2.RotateApiKeyRequest:
    """RotateApiKey."""
    checks = Checks()
    request = system_pb2.RotateApiKeyRequest(
        key_id=checks.text("key_id", key_id),
        idempotency_key=new_key(idempotency_key),
        grace=checks.duration("grace", grace),
    )
    checks.finish()
    return request


def create_api_key(
    name: str,
    scopes: Optional[Iterable[str]],
    owner: Optional[str],
    lifetime: Optional[Seconds],
    idempotency_key: Optional[str],
) -> system_pb2.CreateApiKeyRequest:
    """CreateApiKey."""
    checks = Checks()
    request = system_pb2.CreateApiKeyRequest(
        idempotency_key=new_key(idempotency_key),
        name=checks.text("name", name),
        scopes=[checks.text("scopes", scope) for scope in scopes or ()],
        owner=checks.text("owner", owner),
        lifetime=None if lifetime is None else checks.duration("lifetime", lifetime),
    )
    checks.finish()
    return request
