"""A part of a command's log."""

from __future__ import annotations

from typing import Optional

from nullspace._gen.v1 import command_pb2
from nullspace._responses import exit_code
from nullspace._stream import Ended, Event, LogReader, Output
from nullspace._wire import Checks
from nullspace.records import CommandLogs


class LogSlice:
    """Gathers what lies between two positions of a log."""

    def __init__(self, info: command_pb2.CommandInfo, offset: Optional[int], limit: Optional[int]) -> None:
        checks = Checks()
        for name, number in (("offset", offset), ("limit", limit)):
            if number is not None and checks.integer(name, number, bits=64) < 0:
                checks.fail(name, f"{number} is less than 0")
        checks.finish()
        self.log = LogReader(info.execution_id, offset or 0)
        self._limit = limit
        self._size = 0
        self._begin: Optional[int] = None
        self._end: Optional[int] = None
        self._pieces: list[Output] = []
        self._exit = info.exit if info.HasField("exit") else None

    def add(self, event: Event) -> bool:
        """Takes an event; False when it has enough."""
        if isinstance(event, Ended):
            self._exit = event.exit
        elif isinstance(event, Output):
            start = self.log.offset - len(event.data)
            room = len(event.data) if self._limit is None else self._limit - self._size
            piece = Output(event.is_stderr, event.data[:room])
            self._pieces.append(piece)
            self._size += len(piece.data)
            self._begin = start if self._begin is None else self._begin
            self._end = start + len(piece.data)
            return self._limit is None or self._size < self._limit
        return True

    def result(self) -> CommandLogs:
        """What was gathered."""
        stdout, stderr = (
            b"".join(piece.data for piece in self._pieces if piece.is_stderr is wanted)
            for wanted in (False, True)
        )
        output = b"".join(piece.data for piece in self._pieces)
        return CommandLogs(
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            output=output.decode(errors="replace"),
            exit_code=None if self._exit is None else exit_code(self._exit),
            offset=self.log.offset if self._begin is None else self._begin,
            next_offset=self.log.offset if self._end is None else self._end,
            output_bytes=output,
        )
