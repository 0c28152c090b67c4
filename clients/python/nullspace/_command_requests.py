"""Requests about commands that exist, and the place in their input."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Optional

from google.protobuf.duration_pb2 import Duration

from nullspace._gen.v1 import command_pb2
from nullspace._limits import COMMAND_PAGE, INPUT_CHUNK_BYTES, REQUEST_TIMEOUT, WAIT_SECONDS
from nullspace._requests import plain_text
from nullspace._responses import no_such_process
from nullspace._ulid import client_id

#: A wait is answered by the server; the call itself takes a little longer.
WAIT_CALL_TIMEOUT = WAIT_SECONDS + REQUEST_TIMEOUT

KILL = 9
#: Seconds for the attempt to end a command whose caller is on its way out.
LAST_WORD = 5.0

_LARGEST_PID = 2**63 - 1


class CommandRequests:
    """Requests to the commands of one sandbox."""

    def __init__(self, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id

    def start(self, command_id: str, spec: command_pb2.CommandSpec) -> command_pb2.StartCommandRequest:
        """StartCommand."""
        return command_pb2.StartCommandRequest(sandbox_id=self.sandbox_id, command_id=command_id, spec=spec)

    def find(self, pid: int) -> command_pb2.ListCommandsRequest:
        """The command with a pid. What cannot be a pid is not found without asking."""
        if not isinstance(pid, int) or isinstance(pid, bool):
            raise TypeError(f"pid must be an int, not {type(pid).__name__}")
        if not 0 < pid <= _LARGEST_PID:
            raise no_such_process(pid)
        return command_pb2.ListCommandsRequest(sandbox_id=self.sandbox_id, pid=pid, page_size=1)

    def list(
        self, *, running_only: bool, tag: Optional[str], page_token: str
    ) -> command_pb2.ListCommandsRequest:
        """ListCommands."""
        return command_pb2.ListCommandsRequest(
            sandbox_id=self.sandbox_id,
            running_only=running_only,
            tag=plain_text("tag", tag or ""),
            page_size=COMMAND_PAGE,
            page_token=page_token,
        )

    def signal(self, command_id: str, number: int) -> command_pb2.SignalCommandRequest:
        """SignalCommand, once."""
        return command_pb2.SignalCommandRequest(
            sandbox_id=self.sandbox_id,
            command_id=command_id,
            idempotency_key=str(uuid.uuid4()),
            number=number,
        )

    def wait(self, command_id: str) -> command_pb2.WaitCommandRequest:
        """WaitCommand."""
        return command_pb2.WaitCommandRequest(
            sandbox_id=self.sandbox_id, command_id=command_id, wait=Duration(seconds=int(WAIT_SECONDS))
        )


def found(pid: int, response: command_pb2.ListCommandsResponse) -> command_pb2.CommandInfo:
    """The command that was asked for.

    Raises:
        NotFoundError: ``command_not_found``, nothing has that pid.
    """
    for info in response.commands:
        if info.pid == pid:
            return info
    raise no_such_process(pid)


class InputCursor:
    """Where one writer's input to one command goes on.

    After a call whose outcome is unknown the place is unknown too. Then the
    next one asks first, so that nothing is written twice or swallowed.
    """

    def __init__(self, sandbox_id: str, command_id: str) -> None:
        self._sandbox_id = sandbox_id
        self.command_id = command_id
        self._client_id = client_id()
        self._offset = 0
        self._unsure = False

    def requests(self, data: bytes, *, close: bool) -> Iterator[command_pb2.WriteCommandInputRequest]:
        """The calls to make, in order; the answer to each is to be given to :meth:`accept`."""
        if self._unsure:
            yield self._request(b"", close=False)
        end = self._offset + len(data)
        view = memoryview(data)
        first = True
        while first or self._offset < end:
            first = False
            rest = view[len(data) - (end - self._offset) :]
            piece = bytes(rest[:INPUT_CHUNK_BYTES])
            self._unsure = True
            yield self._request(piece, close=close and len(piece) == len(rest))

    def accept(self, response: command_pb2.WriteCommandInputResponse) -> None:
        """The answer to the last request."""
        self._offset = max(self._offset, response.accepted_offset)
        self._unsure = False

    def _request(self, data: bytes, *, close: bool) -> command_pb2.WriteCommandInputRequest:
        return command_pb2.WriteCommandInputRequest(
            sandbox_id=self._sandbox_id,
            command_id=self.command_id,
            client_id=self._client_id,
            offset=self._offset,
            data=data,
            close=close,
        )
