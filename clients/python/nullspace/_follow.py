"""Follows a command to its end, over as many streams as that takes."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Any, Optional

from nullspace._client import Client, Stream
from nullspace._limits import COMMAND_SILENCE
from nullspace._retry import StreamRetries
from nullspace._rpc import ATTACH_COMMAND
from nullspace._stream import Attachment, Ended, Event, Q, R, Readable, Started, cut_short
from nullspace.errors import SandboxError


class Scope:
    """The life of one following. Closing it, from any thread, ends its stream and its pauses."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._stream: Optional[Stream[Any]] = None

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed.is_set()

    def enter(self, stream: Stream[Any]) -> None:
        """A stream begins."""
        with self._lock:
            self._stream = stream
        if self.closed:
            stream.close()

    def pause(self, seconds: float) -> None:
        """Waits, unless it is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Ends the stream that runs, and all to come."""
        self._closed.set()
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def attached(client: Client, attachment: Attachment, scope: Scope) -> Iterator[Event]:
    """Starts or joins a command and follows it to its end.

    An event counts as taken when the next one is asked for. Ends early, without
    an error, when ``scope`` is closed.
    """
    retries = StreamRetries()
    while not scope.closed:
        stream = client.converse(ATTACH_COMMAND, attachment.open(), silence=COMMAND_SILENCE)
        scope.enter(stream)
        try:
            for frame in stream:
                event = attachment.take(frame)
                if isinstance(event, Started):
                    retries.joined()
                else:
                    retries.progress()
                if event is not None:
                    yield event
                    if isinstance(event, Ended):
                        return
                for request in attachment.outgoing():
                    stream.send(request)
            error = cut_short()
        except SandboxError as failure:
            error = failure
        finally:
            stream.close()
        _pause(scope, retries, error, client.reached())


def read(client: Client, readable: Readable[Q, R], scope: Scope) -> Generator[Event, None, None]:
    """Reads the output of a command, or runs one, to the end that was asked for.

    Ends early, without an error, when ``scope`` is closed.
    """
    retries = StreamRetries()
    while not scope.closed:
        stream = client.read(readable.method, readable.open(), silence=readable.silence)
        retries.opened()
        scope.enter(stream)
        try:
            for frame in stream:
                retries.progress()
                event = readable.take(frame)
                if event is not None:
                    yield event
                if readable.is_over():
                    return
            error = cut_short()
        except SandboxError as failure:
            error = failure
        finally:
            stream.close()
        _pause(scope, retries, error, client.reached())


def _pause(scope: Scope, retries: StreamRetries, error: SandboxError, reached: bool) -> None:
    if not scope.closed:
        scope.pause(retries.pause(error, reached=reached))
