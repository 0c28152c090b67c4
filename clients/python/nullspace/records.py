"""What calls give back. Times carry their zone (UTC); sizes have their unit in the name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional


@dataclass(frozen=True)
class SandboxConfig:
    """The size of a sandbox."""

    vcpus: int
    #: MiB.
    memory_mb: int
    #: MiB.
    disk_mb: int


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox as it was when it was read."""

    id: str
    #: ``creating``, ``running``, ``destroying``, ``destroyed`` or ``error``.
    status: str
    config: SandboxConfig
    #: The name it was created from.
    template: str
    #: As given at creation; whole numbers are ints.
    metadata: dict[str, Any]
    #: Where commands start and relative paths begin.
    cwd: str
    created_at: Optional[datetime] = None
    #: When it began to run. None before.
    started_at: Optional[datetime] = None
    #: How long it lives from its start, or from its last ``set_timeout``. None: for ever.
    timeout_ms: Optional[int] = None
    #: When its life ends. None: never.
    timeout_at: Optional[datetime] = None
    #: The same as ``timeout_at``.
    expires_at: Optional[datetime] = None
    #: What happens then: ``destroy``.
    timeout_action: str = "destroy"
    #: Why it is in its state, in words. Empty where there is nothing to say.
    state_reason: str = ""
    #: What runs it, such as ``gvisor``.
    engine: str = ""
    #: Which execution runs; log positions rest on it.
    execution_id: str = ""
    #: Counts its executions from 1.
    incarnation: int = 0
    #: It may reach other networks.
    internet_access: bool = True
    #: When it was destroyed or failed. None before.
    ended_at: Optional[datetime] = None

    @property
    def vcpus(self) -> int:
        """Processors."""
        return self.config.vcpus

    @property
    def memory_mb(self) -> int:
        """Memory in MiB."""
        return self.config.memory_mb

    @property
    def disk_mb(self) -> int:
        """Writable disk in MiB."""
        return self.config.disk_mb


@dataclass(frozen=True)
class SandboxMetrics:
    """What a sandbox used at one moment."""

    timestamp: Optional[datetime]
    #: Since the sample before; 100 for each processor that was busy all the time.
    cpu_percent: float
    cpu_count: int
    mem_used_bytes: int
    mem_total_bytes: int
    disk_used_bytes: int
    disk_total_bytes: int
    #: Into the sandbox, since its start.
    network_rx_bytes: Optional[int] = None
    #: Out of the sandbox, since its start.
    network_tx_bytes: Optional[int] = None


@dataclass(frozen=True)
class CommandResult:
    """How a command ended, and all its output.

    Output is joined, and decoded, when it is first asked for.
    """

    #: 0 to 255; 128 + n after signal n.
    exit_code: int
    #: Text; what is not UTF-8 is U+FFFD.
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    pid: Optional[int] = None
    #: The number of the signal that ended it. None when it exited by itself.
    signal: Optional[int] = None
    #: ``exited``, ``signalled``, ``timed_out``, ``out_of_memory`` or ``killed_by_user``.
    reason: str = "exited"
    #: The bytes as the command wrote them.
    stdout_bytes: bytes = field(default_factory=bytes, repr=False)
    stderr_bytes: bytes = field(default_factory=bytes, repr=False)
    #: Bytes of output that were dropped, because the log was full, before they were read.
    lost_bytes: int = 0
    #: Seconds from start to end.
    wall_time: float = 0.0
    #: Seconds of processor time, user and system.
    cpu_time: float = 0.0
    #: Largest resident size.
    peak_memory_bytes: int = 0

    @classmethod
    def _of_pieces(cls, stdout: Sequence[bytes], stderr: Sequence[bytes], **values: Any) -> CommandResult:
        """A result whose output is joined and decoded when it is first asked for.

        Who took it piece by piece mostly never asks, and each copy of much
        output costs about what reading it did.
        """
        result = cls(stdout="", stderr="", **values)
        own = vars(result)
        for name in ("stdout", "stderr", "stdout_bytes", "stderr_bytes"):
            del own[name]
        own["_pieces"] = {"stdout_bytes": stdout, "stderr_bytes": stderr}
        return result

    # Not for a type checker: to it, every name would be an attribute.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            own = vars(self)
            if name in ("stdout", "stderr"):
                # By way of the bytes: then the pieces are gone before there is a text.
                value = getattr(self, f"{name}_bytes").decode(errors="replace")
            elif (pieces := own.get("_pieces", {}).get(name)) is not None:
                value = b"".join(pieces)
            elif name in own:  # another thread was first
                return own[name]
            else:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            # The pieces go last, so that a thread that finds none finds the value.
            value = own.setdefault(name, value)
            own["_pieces"].pop(name, None)
            return value

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class ProcessInfo:
    """A command that was started through this API."""

    pid: int
    #: The command line as a shell would take it.
    command: str
    running: bool
    command_id: str = ""
    tag: str = ""
    cwd: str = ""
    user: str = ""
    started_at: Optional[datetime] = None
    #: None while it runs; 128 + n after signal n.
    exit_code: Optional[int] = None


@dataclass(frozen=True)
class CommandLogs:
    """Output that was kept of a command."""

    stdout: str
    stderr: str
    #: Both in the order in which they were read.
    output: str
    #: None while the command runs; 128 + n after signal n.
    exit_code: Optional[int] = None
    #: Where in the log this begins; more than was asked for when older bytes are gone.
    offset: int = 0
    #: Where it ends: the ``offset`` to go on from.
    next_offset: int = 0
    output_bytes: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class FileInfo:
    """A file, directory or link."""

    #: The last part of the path.
    name: str
    #: Absolute.
    path: str
    is_dir: bool
    #: Bytes.
    size: int
    #: ``file``, ``directory``, ``symlink`` or ``special``.
    type: str
    #: Octal text, such as ``0644``.
    mode: str
    #: As ``ls -l`` prints it, such as ``-rw-r--r--``.
    permissions: str
    owner: str
    group: str
    modified_time: Optional[datetime]
    #: Where a link leads, absolute. None for others.
    symlink_target: Optional[str] = None


@dataclass(frozen=True)
class ApiKey:
    """An API key, without the key itself."""

    id: str
    name: str
    #: The first characters of the key.
    prefix: str
    #: Whose sandboxes it reaches.
    owner: str
    #: What it may do, such as ``sandbox.read``; ``*`` is everything.
    scopes: tuple[str, ...]
    created_at: Optional[datetime] = None
    #: None: never.
    expires_at: Optional[datetime] = None
    #: None: not revoked.
    revoked_at: Optional[datetime] = None
    #: The id of the key whose place it took. None: it took none's.
    rotated_from: Optional[str] = None
    #: The id of the key that took its place; ``expires_at`` is the end of the
    #: grace then. None: none has.
    rotated_to: Optional[str] = None


@dataclass(frozen=True)
class CreatedApiKey(ApiKey):
    """A new API key. The server keeps only a hash: this is the one time to read it."""

    #: The key itself.
    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class Version:
    """The server's version."""

    #: Such as ``0.1.0``.
    version: str
    #: This server on its host.
    instance_id: str


@dataclass(frozen=True)
class Engine:
    """What one engine can do. Ranges hold both ends."""

    name: str
    version: str
    #: New sandboxes run on it.
    is_default: bool
    #: A kernel of its own stands between programs and the host's.
    kernel_isolation: bool
    vcpus: tuple[int, int]
    memory_mb: tuple[int, int]
    disk_mb: tuple[int, int]
    max_sandboxes: int
    max_processes: int


@dataclass(frozen=True)
class Template:
    """A template that sandboxes can be created from."""

    name: str
    #: SHA-256 of its files, in hexadecimal.
    digest: str


@dataclass(frozen=True)
class Capabilities:
    """What can be asked for."""

    engines: tuple[Engine, ...]
    templates: tuple[Template, ...]
