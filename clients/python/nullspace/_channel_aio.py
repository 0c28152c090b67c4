"""Connections of the async client: the same rules as in ``_channel``, per event loop.

Everything here runs in the loop it belongs to, so nothing is locked except what
loops share.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Awaitable
from typing import Any, Optional

import grpc
import grpc.aio

from nullspace._config import Config
from nullspace._connection import channel_options
from nullspace._limits import STREAMS_PER_CHANNEL
from nullspace._rpc import Method


class AsyncLine:
    """One connection, and the callables of the methods that were used on it."""

    def __init__(self, config: Config) -> None:
        options = channel_options(config)
        if config.secure:
            credentials = grpc.ssl_channel_credentials(config.ca_cert)
            self._channel = grpc.aio.secure_channel(config.target, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(config.target, options)
        self._callables: dict[tuple[str, str], Any] = {}
        #: Streams that are open now.
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

    def close(self) -> Awaitable[None]:
        """Ends the connection and all calls on it."""
        return self._channel.close()


class AsyncChannels:
    """One connection for single calls, and as many for streams as they need."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._unary: Optional[AsyncLine] = None
        self._streams: list[AsyncLine] = []
        #: The server has answered at least once.
        self.reached = False
        #: Leases that hold it.
        self.shares = 0

    def unary(self) -> AsyncLine:
        """The connection for single calls."""
        if self._unary is None:
            self._unary = AsyncLine(self._config)
        return self._unary

    def take_stream(self) -> AsyncLine:
        """A connection with room for a stream. To be given back."""
        line = next((line for line in self._streams if line.streams < STREAMS_PER_CHANNEL), None)
        if line is None:
            line = AsyncLine(self._config)
            self._streams.append(line)
        line.streams += 1
        return line

    async def give_back(self, line: AsyncLine) -> None:
        """A stream has ended. One idle connection is kept for the next."""
        line.streams -= 1
        surplus = [line for line in self._streams if line.streams == 0][1:]
        self._streams = [line for line in self._streams if line not in surplus]
        for line in surplus:
            await line.close()

    async def close(self) -> None:
        """Ends all connections."""
        lines = [line for line in (self._unary, *self._streams) if line is not None]
        self._unary, self._streams = None, []
        for line in lines:
            await line.close()


_Shared = dict[Config, AsyncChannels]

_lock = threading.Lock()
_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


class AsyncLease:
    """A share in the connections to one server. They end with the last share."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._channels: Optional[AsyncChannels] = None
        self._finalizer: Optional[weakref.finalize[..., Any]] = None

    def channels(self) -> AsyncChannels:
        """The connections, in the running loop."""
        loop = asyncio.get_running_loop()
        if self._channels is None or self._loop is not loop:
            if self._finalizer is not None:
                # Another loop used it before; its connections are of no use here.
                self._finalizer()
            with _lock:
                shared = _loops.setdefault(loop, {})
            channels = shared.setdefault(self._config, AsyncChannels(self._config))
            channels.shares += 1
            self._channels, self._loop = channels, loop
            self._finalizer = weakref.finalize(self, _dropped, weakref.ref(loop), self._config, channels)
        return self._channels

    async def close(self) -> None:
        """Gives the share back."""
        channels, finalizer = self._channels, self._finalizer
        self._channels, self._finalizer = None, None
        if channels is None or finalizer is None or not finalizer.detach():
            return
        if self._loop is not asyncio.get_running_loop():
            _dropped(weakref.ref(self._loop) if self._loop else lambda: None, self._config, channels)
        elif _give_up(self._loop, self._config, channels):
            await channels.close()


def _give_up(loop: asyncio.AbstractEventLoop, config: Config, channels: AsyncChannels) -> bool:
    """Ends one share. Whether it was the last."""
    channels.shares -= 1
    if channels.shares:
        return False
    with _lock:
        shared = _loops.get(loop, {})
    if shared.get(config) is channels:
        del shared[config]
    return True


def _dropped(loop_ref: Any, config: Config, channels: AsyncChannels) -> None:
    """A lease went without being closed: its loop ends the share, if it still runs."""
    loop = loop_ref()
    if loop is None or loop.is_closed():
        return

    def end() -> None:
        if _give_up(loop, config, channels):
            loop.create_task(channels.close())

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(end)
