"""Connections of the blocking client, shared by everything in the process that
talks to the same server with the same key.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Any, Callable, Optional

import grpc

from nullspace._config import Config
from nullspace._connection import channel_options
from nullspace._limits import STREAMS_PER_CHANNEL
from nullspace._rpc import Method


class Line:
    """One connection, and the callables of the methods that were used on it."""

    def __init__(self, config: Config) -> None:
        options = channel_options(config)
        if config.secure:
            credentials = grpc.ssl_channel_credentials(config.ca_cert)
            self._channel = grpc.secure_channel(config.target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(config.target, options)
        self._callables: dict[tuple[str, str], Any] = {}
        #: Streams that are open now. Guarded by the owner's lock.
        self.streams = 0

    def callable(self, kind: str, method: Method[Any, Any]) -> Any:
        """The callable of a method. ``kind`` is grpc's name, such as ``unary_unary``."""
        found = self._callables.get((kind, method.path))
        if found is None:
            found = getattr(self._channel, kind)(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.parse,
            )
            self._callables[kind, method.path] = found
        return found

    def close(self) -> None:
        """Ends the connection and all calls on it."""
        self._channel.close()


class Channels:
    """One connection for single calls, and as many for streams as they need.

    A stream that nobody reads holds on to the window of its connection, so
    streams never share one with single calls, and at most 100 share one.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._unary: Optional[Line] = None
        self._streams: list[Line] = []
        #: The server has answered at least once.
        self.reached = False

    def unary(self) -> Line:
        """The connection for single calls."""
        with self._lock:
            if self._unary is None:
                self._unary = Line(self._config)
            return self._unary

    def take_stream(self) -> Line:
        """A connection with room for a stream. To be given back."""
        with self._lock:
            line = next((line for line in self._streams if line.streams < STREAMS_PER_CHANNEL), None)
            if line is None:
                line = Line(self._config)
                self._streams.append(line)
            line.streams += 1
            return line

    def give_back(self, line: Line) -> None:
        """A stream has ended. One idle connection is kept for the next."""
        with self._lock:
            line.streams -= 1
            idle = [line for line in self._streams if line.streams == 0]
            surplus = idle[1:]
            self._streams = [line for line in self._streams if line not in surplus]
        for line in surplus:
            line.close()

    def close(self) -> None:
        """Ends all connections."""
        with self._lock:
            lines = [line for line in (self._unary, *self._streams) if line is not None]
            self._unary, self._streams = None, []
        for line in lines:
            line.close()


class Lease:
    """A share in the connections to one server. They end with the last share."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._release: Optional[Callable[[], Any]] = None
        self._channels: Optional[Channels] = None
        self._process = os.getpid()

    def channels(self) -> Channels:
        """The connections. Also after :meth:`close`, which then is to be called again."""
        with self._lock:
            if self._channels is None or self._process != os.getpid():
                self._channels, self._process = _acquire(self._config), os.getpid()
                # Also when it is dropped without being closed.
                self._release = weakref.finalize(self, _release, self._config, self._process)
            return self._channels

    def close(self) -> None:
        """Gives the share back."""
        with self._lock:
            release, self._release, self._channels = self._release, None, None
        if release is not None:
            release()


# Reentrant: a lease may be collected, and its share given back, while this
# thread is in here.
_lock = threading.RLock()
_shared: dict[Config, Channels] = {}
_shares: dict[Config, int] = {}
# Of the parent, in a forked child: closing them would touch threads that are
# not here, so they are kept and never used.
_abandoned: list[object] = []


def _acquire(config: Config) -> Channels:
    with _lock:
        _shares[config] = _shares.get(config, 0) + 1
        return _shared.setdefault(config, Channels(config))


def _release(config: Config, process: int) -> None:
    if process != os.getpid():
        return
    channels = None
    with _lock:
        _shares[config] -= 1
        if not _shares[config]:
            del _shares[config]
            channels = _shared.pop(config)
    if channels is not None:
        with contextlib.suppress(Exception):
            channels.close()


def _abandon() -> None:
    global _lock
    _lock = threading.RLock()
    _abandoned.append(dict(_shared))
    _shared.clear()
    _shares.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)
