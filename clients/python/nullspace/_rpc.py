"""The methods of the API: path, messages, and whether a call may be repeated.

Nothing here is a second list of what a method does: that is read from the
options in the schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Generic, TypeVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from nullspace._chunks import output_parser
from nullspace._gen.v1 import command_pb2, file_pb2, options_pb2, sandbox_pb2, system_pb2
from nullspace._limits import MAX_MESSAGE_BYTES
from nullspace.errors import error_of

Q = TypeVar("Q", bound=Message)
R = TypeVar("R")


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """One method."""

    path: str
    request: type[Q]
    #: Reads an answer.
    parse: Callable[[bytes], R]
    #: A repeated call has the effect of one, whatever the request says.
    safe: bool
    #: It has if the request carries what tells that it is the same call.
    keyed: bool

    def is_repeatable(self, request: Q) -> bool:
        """Whether this request may be sent again after it was lost."""
        if self.keyed and "idempotency_key" in self.request.DESCRIPTOR.fields_by_name:
            return bool(getattr(request, "idempotency_key"))  # noqa: B009 - only keyed requests have it
        return self.safe or self.keyed


def check_size(request: Message) -> None:
    """Refuses what the server would not take.

    Raises:
        SandboxError: ``message_too_large``.
    """
    size = request.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise error_of(
            "message_too_large",
            f"the request has {size} bytes; at most {MAX_MESSAGE_BYTES} can be sent",
            retryable=False,
            suggested_action="Send less, or put it into a file of the sandbox.",
        )


def _method(file: FileDescriptor, name: str, request: type[Q], parse: Callable[[bytes], R]) -> Method[Q, R]:
    service_name, method_name = name.split("/")
    service = file.services_by_name[service_name]
    descriptor = service.methods_by_name[method_name]
    options: Any = descriptor.GetOptions()
    idempotency = options.Extensions[options_pb2.method_policy].idempotency
    return Method(
        path=f"/{service.full_name}/{method_name}",
        request=request,
        parse=parse,
        safe=idempotency in (options_pb2.IDEMPOTENCY_READ, options_pb2.IDEMPOTENCY_IDEMPOTENT),
        keyed=idempotency == options_pb2.IDEMPOTENCY_KEYED,
    )


_SANDBOX, _COMMAND = sandbox_pb2.DESCRIPTOR, command_pb2.DESCRIPTOR
_FILE, _SYSTEM = file_pb2.DESCRIPTOR, system_pb2.DESCRIPTOR

CREATE_SANDBOX = _method(
    _SANDBOX,
    "SandboxService/CreateSandbox",
    sandbox_pb2.CreateSandboxRequest,
    sandbox_pb2.CreateSandboxResponse.FromString,
)
GET_SANDBOX = _method(
    _SANDBOX,
    "SandboxService/GetSandbox",
    sandbox_pb2.GetSandboxRequest,
    sandbox_pb2.GetSandboxResponse.FromString,
)
LIST_SANDBOXES = _method(
    _SANDBOX,
    "SandboxService/ListSandboxes",
    sandbox_pb2.ListSandboxesRequest,
    sandbox_pb2.ListSandboxesResponse.FromString,
)
CONNECT_SANDBOX = _method(
    _SANDBOX,
    "SandboxService/ConnectSandbox",
    sandbox_pb2.ConnectSandboxRequest,
    sandbox_pb2.ConnectSandboxResponse.FromString,
)
SET_SANDBOX_TIMEOUT = _method(
    _SANDBOX,
    "SandboxService/SetSandboxTimeout",
    sandbox_pb2.SetSandboxTimeoutRequest,
    sandbox_pb2.SetSandboxTimeoutResponse.FromString,
)
DESTROY_SANDBOX = _method(
    _SANDBOX,
    "SandboxService/DestroySandbox",
    sandbox_pb2.DestroySandboxRequest,
    sandbox_pb2.DestroySandboxResponse.FromString,
)
GET_SANDBOX_METRICS = _method(
    _SANDBOX,
    "SandboxService/GetSandboxMetrics",
    sandbox_pb2.GetSandboxMetricsRequest,
    sandbox_pb2.GetSandboxMetricsResponse.FromString,
)
RUN_ONCE = _method(
    _SANDBOX, "SandboxService/RunOnce", sandbox_pb2.RunOnceRequest, output_parser(sandbox_pb2.RunOnceResponse)
)

ATTACH_COMMAND = _method(
    _COMMAND,
    "CommandService/AttachCommand",
    command_pb2.AttachCommandRequest,
    output_parser(command_pb2.AttachCommandResponse),
)
START_COMMAND = _method(
    _COMMAND,
    "CommandService/StartCommand",
    command_pb2.StartCommandRequest,
    command_pb2.StartCommandResponse.FromString,
)
READ_COMMAND_OUTPUT = _method(
    _COMMAND,
    "CommandService/ReadCommandOutput",
    command_pb2.ReadCommandOutputRequest,
    output_parser(command_pb2.ReadCommandOutputResponse),
)
WRITE_COMMAND_INPUT = _method(
    _COMMAND,
    "CommandService/WriteCommandInput",
    command_pb2.WriteCommandInputRequest,
    command_pb2.WriteCommandInputResponse.FromString,
)
SIGNAL_COMMAND = _method(
    _COMMAND,
    "CommandService/SignalCommand",
    command_pb2.SignalCommandRequest,
    command_pb2.SignalCommandResponse.FromString,
)
WAIT_COMMAND = _method(
    _COMMAND,
    "CommandService/WaitCommand",
    command_pb2.WaitCommandRequest,
    command_pb2.WaitCommandResponse.FromString,
)
LIST_COMMANDS = _method(
    _COMMAND,
    "CommandService/ListCommands",
    command_pb2.ListCommandsRequest,
    command_pb2.ListCommandsResponse.FromString,
)

READ_FILE = _method(
    _FILE, "FileService/ReadFile", file_pb2.ReadFileRequest, file_pb2.ReadFileResponse.FromString
)
WRITE_FILE = _method(
    _FILE, "FileService/WriteFile", file_pb2.WriteFileRequest, file_pb2.WriteFileResponse.FromString
)

GET_VERSION = _method(
    _SYSTEM,
    "SystemService/GetVersion",
    system_pb2.GetVersionRequest,
    system_pb2.GetVersionResponse.FromString,
)
GET_CAPABILITIES = _method(
    _SYSTEM,
    "SystemService/GetCapabilities",
    system_pb2.GetCapabilitiesRequest,
    system_pb2.GetCapabilitiesResponse.FromString,
)
WHO_AM_I = _method(
    _SYSTEM, "SystemService/WhoAmI", system_pb2.WhoAmIRequest, system_pb2.WhoAmIResponse.FromString
)
CREATE_API_KEY = _method(
    _SYSTEM,
    "SystemService/CreateApiKey",
    system_pb2.CreateApiKeyRequest,
    system_pb2.CreateApiKeyResponse.FromString,
)
LIST_API_KEYS = _method(
    _SYSTEM,
    "SystemService/ListApiKeys",
    system_pb2.ListApiKeysRequest,
    system_pb2.ListApiKeysResponse.FromString,
)
ROTATE_API_KEY = _method(
    _SYSTEM,
    "SystemService/RotateApiKey",
    system_pb2.RotateApiKeyRequest,
    system_pb2.RotateApiKeyResponse.FromString,
)
REVOKE_API_KEY = _method(
    _SYSTEM,
    "SystemService/RevokeApiKey",
    system_pb2.RevokeApiKeyRequest,
    system_pb2.RevokeApiKeyResponse.FromString,
)
