"""What happens on a command's stream, without the stream.

A reader is fed frames and says what they mean; a broken stream is opened again
where it stopped. Both flavours of the client drive the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Optional, Protocol, TypeVar, Union

from google.protobuf.message import Message

from nullspace._chunks import Chunk
from nullspace._gen.v1 import command_pb2, sandbox_pb2, stream_pb2
from nullspace._limits import ACK_BYTES, COMMAND_SILENCE, INPUT_CHUNK_BYTES, RUN_ONCE_SILENCE
from nullspace._responses import invalid_response
from nullspace._rpc import READ_COMMAND_OUTPUT, RUN_ONCE, Method
from nullspace.errors import SandboxError

Q = TypeVar("Q", bound=Message)
R = TypeVar("R")

# Frames of the server, as their methods parse them.
AttachFrame = Union[command_pb2.AttachCommandResponse, Chunk]
ReadFrame = Union[command_pb2.ReadCommandOutputResponse, Chunk]
RunFrame = Union[sandbox_pb2.RunOnceResponse, Chunk]


class Started(NamedTuple):
    """The command runs, or ran."""

    info: command_pb2.CommandInfo


class Output(NamedTuple):
    """Bytes that the command wrote."""

    is_stderr: bool
    data: bytes


class Ended(NamedTuple):
    """The command has ended. Nothing follows."""

    exit: command_pb2.Exit


Event = Union[Started, Output, Ended]


class LogReader:
    """A place in the log of a command, moved on by frames.

    Bytes that came before are dropped, so that a frame may come twice; bytes
    that are missing are an error unless the server says that they are gone.
    """

    def __init__(self, execution_id: str = "", offset: int = 0) -> None:
        self.execution_id = execution_id
        #: Where the next byte belongs.
        self.offset = offset
        #: Bytes that were gone before they were read.
        self.lost_bytes = 0
        self.ended = False
        #: A read that does not follow has come to its end.
        self.at_end = False

    @property
    def position(self) -> stream_pb2.LogPosition:
        """Where to go on."""
        return stream_pb2.LogPosition(execution_id=self.execution_id, offset=self.offset)

    def take(self, frame: Union[AttachFrame, ReadFrame, RunFrame]) -> Optional[Event]:
        """Moves on by one frame of the server."""
        if isinstance(frame, Chunk):
            return self._output(frame)
        kind = frame.WhichOneof("frame")
        if kind == "output":
            return self._output(frame.output)
        if kind == "truncated":
            self._skip_to(frame.truncated.offset)
        elif kind == "exit":
            if frame.exit.output_bytes > self.offset:
                raise invalid_response(f"the exit came at byte {self.offset} of {frame.exit.output_bytes}")
            self.ended = True
            return Ended(frame.exit)
        elif kind == "started" and not isinstance(frame, sandbox_pb2.RunOnceResponse):
            # Only the first one: after a reconnect the offset still counts in the
            # execution in which reading began.
            self.execution_id = self.execution_id or frame.started.execution_id
            if isinstance(frame, command_pb2.AttachCommandResponse):
                return Started(frame.started)
        elif kind == "end":
            self.at_end = True
        return None

    def _skip_to(self, offset: int) -> None:
        if offset > self.offset:
            self.lost_bytes += offset - self.offset
            self.offset = offset

    def _output(self, chunk: Union[stream_pb2.OutputChunk, Chunk]) -> Optional[Event]:
        if chunk.offset > self.offset:
            raise invalid_response(f"output jumped from byte {self.offset} to {chunk.offset}")
        data = chunk.data[self.offset - chunk.offset :]
        if not data:
            return None
        self.offset += len(data)
        return Output(chunk.stream == stream_pb2.OUTPUT_STREAM_STDERR, data)


class Readable(Protocol[Q, R]):
    """What can be read over as many streams as that takes."""

    @property
    def method(self) -> Method[Q, R]:
        """The call that opens a stream."""

    @property
    def silence(self) -> float:
        """Seconds that a stream may be silent."""

    def open(self) -> Q:
        """The request, from where reading stopped."""

    def take(self, frame: R) -> Optional[Event]:
        """What a frame of the server means."""

    def is_over(self) -> bool:
        """Whether all has come that was asked for."""


class Reading:
    """ReadCommandOutput: follows a command without starting or holding it."""

    method = READ_COMMAND_OUTPUT
    silence = COMMAND_SILENCE

    def __init__(self, sandbox_id: str, command_id: str, log: LogReader, *, follow: bool = True) -> None:
        self._sandbox_id = sandbox_id
        self._command_id = command_id
        self._follow = follow
        self.log = log

    def open(self) -> command_pb2.ReadCommandOutputRequest:
        """The request, from where reading stopped."""
        return command_pb2.ReadCommandOutputRequest(
            sandbox_id=self._sandbox_id,
            command_id=self._command_id,
            position=self.log.position,
            follow=self._follow,
        )

    def take(self, frame: ReadFrame) -> Optional[Event]:
        """What a frame of the server means."""
        return self.log.take(frame)

    def is_over(self) -> bool:
        """Whether all has come that was asked for.

        Following ends with the command's exit: what its descendants write
        later is not waited for.
        """
        return self.log.at_end or (self._follow and self.log.ended)


class Running:
    """RunOnce: one command in a sandbox of its own."""

    method = RUN_ONCE
    silence = RUN_ONCE_SILENCE

    def __init__(self, request: sandbox_pb2.RunOnceRequest) -> None:
        self._request = request
        self.log = LogReader()
        #: The sandbox, once it is known.
        self.sandbox_id = ""

    def open(self) -> sandbox_pb2.RunOnceRequest:
        """The request, from where following stopped."""
        if self.sandbox_id:
            self._request.position.CopyFrom(self.log.position)
        return self._request

    def take(self, frame: RunFrame) -> Optional[Event]:
        """What a frame of the server means."""
        if not isinstance(frame, Chunk) and frame.WhichOneof("frame") == "sandbox":
            self.sandbox_id = frame.sandbox.id
            self.log.execution_id = self.log.execution_id or frame.sandbox.execution_id
            return None
        return self.log.take(frame)

    def is_over(self) -> bool:
        """Whether the command has ended."""
        return self.log.ended


class Attachment:
    """AttachCommand: starts or joins a command, gives it input and takes its output."""

    def __init__(
        self,
        sandbox_id: str,
        command_id: str,
        client_id: str,
        *,
        log: LogReader,
        spec: Optional[command_pb2.CommandSpec] = None,
        hold: bool = False,
        stdin: Optional[bytes] = None,
    ) -> None:
        self._sandbox_id = sandbox_id
        self.command_id = command_id
        self._client_id = client_id
        self._spec = spec
        self._hold = hold
        self._stdin = None if stdin is None else memoryview(stdin)
        self._acknowledged = 0
        self._ack_due = False
        self._reset_input()
        self.log = log

    def _reset_input(self) -> None:
        # What the agent has it says in `input_accepted`; until then nothing goes.
        self._sent = 0
        self._window_end = -1
        self._input_over = self._stdin is None

    def open(self) -> command_pb2.AttachCommandRequest:
        """The first frame of a stream. Also of the next one, after a stream broke."""
        self._reset_input()
        # Acknowledgements may have been lost with the stream before; a process
        # that waits for one of them writes nothing that would bring the next.
        self._ack_due = self._hold and self.log.offset > 0
        return command_pb2.AttachCommandRequest(
            open=command_pb2.AttachOpen(
                sandbox_id=self._sandbox_id,
                command_id=self.command_id,
                start=self._spec,
                position=self.log.position if self.log.offset else None,
                hold=self._hold,
                client_id=self._client_id,
            )
        )

    def take(self, frame: AttachFrame) -> Optional[Event]:
        """What a frame of the server means."""
        if isinstance(frame, Chunk):
            return self.log.take(frame)
        kind = frame.WhichOneof("frame")
        if kind == "started":
            # It runs, so nothing may start it again: not even if it is forgotten.
            self._spec = None
        elif kind == "input_accepted":
            accepted = frame.input_accepted
            self._sent = max(self._sent, accepted.offset)
            self._window_end = accepted.offset + accepted.window_bytes
        elif kind == "input_closed":
            self._input_over = True
        return self.log.take(frame)

    def outgoing(self) -> Iterator[command_pb2.AttachCommandRequest]:
        """The frames that may go now. To be asked for after the last event was used."""
        if self._ack_due or (self._hold and self.log.offset - self._acknowledged >= ACK_BYTES):
            self._ack_due = False
            self._acknowledged = self.log.offset
            yield command_pb2.AttachCommandRequest(ack=stream_pb2.OutputAck(offset=self.log.offset))
        if self._input_over or self._stdin is None or self._window_end < 0:
            return
        end = min(len(self._stdin), self._window_end)
        while self._sent < end:
            data = bytes(self._stdin[self._sent : min(end, self._sent + INPUT_CHUNK_BYTES)])
            chunk = stream_pb2.InputChunk(offset=self._sent, data=data)
            self._sent += len(data)
            yield command_pb2.AttachCommandRequest(input=chunk)
        if self._sent == len(self._stdin):
            self._input_over = True
            yield command_pb2.AttachCommandRequest(close_input=stream_pb2.CloseInput(offset=self._sent))


def cut_short() -> SandboxError:
    """A stream that ended well, and yet did not say how the command ended."""
    return invalid_response("the stream ended without the command's exit")
