"""Output of a command: gathered, decoded, handed to callbacks."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, Callable, Optional, Union

from nullspace._gen.v1 import command_pb2
from nullspace._responses import command_result
from nullspace._stream import Ended, Event, Output, Started
from nullspace.records import CommandResult

#: Takes text, or bytes where they were asked for. What it returns does not
#: matter, but the async client awaits it where it can be awaited.
OutputCallback = Union[Callable[[str], Any], Callable[[bytes], Any]]
#: What is to be done with a piece: the callback and its argument.
Delivery = tuple[Callable[[Any], Any], Union[str, bytes]]
#: A piece of stdout, of stderr, and a place for other streams.
TextChunk = tuple[Optional[str], Optional[str], None]
BytesChunk = tuple[Optional[bytes], Optional[bytes], None]


class TextDecoder:
    """UTF-8 in pieces. A character that a piece cuts waits for its rest; what is
    not UTF-8 becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._decoders = tuple(codecs.getincrementaldecoder("utf-8")(errors="replace") for _ in range(2))

    def decode(self, is_stderr: bool, data: bytes) -> str:
        """The characters that are complete with ``data``; may be none."""
        return self._decoders[is_stderr].decode(data)

    def flush(self) -> Iterator[tuple[bool, str]]:
        """What a stream that ended in the middle of a character still owes."""
        for is_stderr, decoder in enumerate(self._decoders):
            rest = decoder.decode(b"", final=True)
            if rest:
                yield bool(is_stderr), rest


class Collector:
    """Keeps what a command wrote, and tells callbacks of it."""

    def __init__(
        self,
        on_stdout: Optional[OutputCallback] = None,
        on_stderr: Optional[OutputCallback] = None,
        *,
        binary: bool = False,
    ) -> None:
        self._callbacks: tuple[Optional[OutputCallback], Optional[OutputCallback]] = (on_stdout, on_stderr)
        self._decoder = None if binary else TextDecoder()
        self.pieces: list[Output] = []
        self.info: Optional[command_pb2.CommandInfo] = None
        self.exit: Optional[command_pb2.Exit] = None

    def silence(self) -> None:
        """No callback is called from here on."""
        self._callbacks = (None, None)

    def add(self, event: Event) -> list[Delivery]:
        """Keeps an event. Gives the callbacks that are due, in order."""
        if isinstance(event, Output):
            self.pieces.append(event)
            return self._deliver(event)
        if isinstance(event, Started):
            self.info = event.info
        elif isinstance(event, Ended):
            self.exit = event.exit
            if self._decoder is not None:
                return [
                    (callback, text)
                    for is_stderr, text in self._decoder.flush()
                    if (callback := self._callbacks[is_stderr]) is not None
                ]
        return []

    def _deliver(self, piece: Output) -> list[Delivery]:
        callback = self._callbacks[piece.is_stderr]
        if callback is None:
            return []
        if self._decoder is None:
            return [(callback, piece.data)]
        text = self._decoder.decode(piece.is_stderr, piece.data)
        return [(callback, text)] if text else []

    def result(self, lost_bytes: int, pid: Optional[int] = None) -> CommandResult:
        """How the command ended. Only after it has.

        Raises:
            TimeoutError: ``exec_timeout``, it ran past its timeout.
        """
        assert self.exit is not None
        stdout, stderr = (
            [piece.data for piece in self.pieces if piece.is_stderr is wanted] for wanted in (False, True)
        )
        if self.info is not None:
            pid = self.info.pid
        return command_result(self.exit, pid, stdout, stderr, lost_bytes)


def text_chunk(is_stderr: bool, text: str) -> TextChunk:
    """A piece as iteration over a handle yields it."""
    return (None, text, None) if is_stderr else (text, None, None)


def bytes_chunk(piece: Output) -> BytesChunk:
    """The same in bytes."""
    return (None, piece.data, None) if piece.is_stderr else (piece.data, None, None)
