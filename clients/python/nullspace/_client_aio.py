"""Calls and streams of the async client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Generic, Optional

import grpc
import grpc.aio

from nullspace._channel_aio import AsyncLease
from nullspace._config import Config
from nullspace._connection import call_metadata
from nullspace._early_status import keep_early_status
from nullspace._limits import REQUEST_TIMEOUT
from nullspace._retry import CallRetries
from nullspace._rpc import Method, Q, R, check_size
from nullspace._status import error_from, is_from_server, timed_out, transport_error
from nullspace.errors import SandboxError

# What grpc.aio raises when a call fails, and when its channel was closed
# meanwhile. A cancelled task raises CancelledError, which is none of these.
_FAILURES = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)


class AsyncClient:
    """A server and a key, and calls with them. Any number of tasks may use one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._lease = AsyncLease(config)
        self._metadata = call_metadata(config)

    async def call(
        self, method: Method[Q, R], request: Q, timeout: Optional[float] = None, *, creates: bool = False
    ) -> R:
        """One request, one answer.

        A call that was lost is made again where that is safe, all within
        ``timeout`` (30 s when it is None).
        """
        check_size(request)
        channels = self._lease.channels()
        retries = CallRetries(
            REQUEST_TIMEOUT if timeout is None else timeout,
            repeatable=method.is_repeatable(request),
            creates=creates,
        )
        while True:
            invoke = channels.unary().callable("unary_unary", method)
            left = retries.time_left()
            try:
                response: R = await invoke(request, timeout=left, metadata=self._metadata)
            except _FAILURES as failure:
                error = _error(failure)
            else:
                channels.reached = True
                return response
            channels.reached |= is_from_server(error)
            await asyncio.sleep(retries.pause(error, reached=channels.reached))

    def read(
        self, method: Method[Q, R], request: Q, *, silence: float, timeout: Optional[float] = None
    ) -> AsyncStream[R]:
        """One request, a stream of answers."""
        check_size(request)
        return AsyncStream(self._lease, method, self._metadata, silence, timeout, request)

    def converse(
        self, method: Method[Q, R], first: Q, *, silence: float, timeout: Optional[float] = None
    ) -> AsyncDuplex[Q, R]:
        """A stream of requests, a stream of answers."""
        check_size(first)
        return AsyncDuplex(self._lease, method, self._metadata, silence, timeout, first)

    async def upload(
        self,
        method: Method[Q, R],
        requests: AsyncIterator[Q],
        *,
        silence: float,
        timeout: Optional[float] = None,
    ) -> R:
        """A stream of requests, one answer.

        What iteration over ``requests`` raises is raised here, after the call
        was cancelled.
        """
        channels = self._lease.channels()
        line = channels.take_stream()
        call = None
        watched: Optional[Silence] = None
        try:
            invoke = line.callable("stream_unary", method)
            call = keep_early_status(invoke(timeout=timeout, metadata=self._metadata))
            watched = Silence(silence, call.cancel)
            async for request in requests:
                try:
                    with watched:
                        await call.write(request)
                except _FAILURES:
                    break  # the call is over; its result says why
            with watched:
                if not call.done():
                    await call.done_writing()
                response: R = await call
            channels.reached = True
            return response
        except asyncio.CancelledError:
            if watched is None or not watched.broken:
                raise
            raise timed_out(f"the server took nothing for {silence:.0f} s") from None
        except _FAILURES as failure:
            error = _error(failure)
            channels.reached |= is_from_server(error)
            raise error from None
        finally:
            if watched is not None:
                watched.stop()
            if call is not None:
                call.cancel()
            await channels.give_back(line)

    def reached(self) -> bool:
        """Whether the server has answered before."""
        return self._lease.channels().reached

    async def close(self) -> None:
        """Gives up the connections. A later call opens them again."""
        await self._lease.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Silence:
    """Cancels a stream on which somebody has waited for too long. ``with silence:`` around each wait."""

    def __init__(self, limit: float, cancel: Any) -> None:
        self.limit = limit
        #: The limit was passed, and the stream cancelled.
        self.broken = False
        self._cancel = cancel
        self._since: Optional[float] = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(limit, self._check)

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def _check(self) -> None:
        # The timer is not set anew for each frame: it looks back instead.
        left = self.limit if self._since is None else self._since + self.limit - time.monotonic()
        if left <= 0:
            self.broken = True
            self._cancel()
        else:
            self._timer = self._loop.call_later(left, self._check)

    def stop(self) -> None:
        """The stream has ended."""
        self._timer.cancel()


class AsyncStream(Generic[R]):
    """Answers, one after the other. Iteration raises :class:`SandboxError`.

    It is to be closed by whoever opened it; that cancels what has not ended.
    """

    def __init__(
        self,
        lease: AsyncLease,
        method: Method[Any, R],
        metadata: Any,
        silence: float,
        timeout: Optional[float],
        request: Any,
        kind: str = "unary_stream",
    ) -> None:
        self._channels = lease.channels()
        self._line = self._channels.take_stream()
        self.closed = False
        invoke = self._line.callable(kind, method)
        self._call = keep_early_status(invoke(request, timeout=timeout, metadata=metadata))
        self._silence = Silence(silence, self._call.cancel)

    def __aiter__(self) -> AsyncStream[R]:
        return self

    async def __anext__(self) -> R:
        try:
            with self._silence:
                frame: Any = await self._call.read()
        except asyncio.CancelledError:
            if self._silence.broken:
                raise transport_error(f"the stream was silent for {self._silence.limit:.0f} s") from None
            if self.closed:
                raise transport_error("the stream was closed") from None
            raise
        except _FAILURES as failure:
            error = _error(failure)
            self._channels.reached |= is_from_server(error)
            raise error from None
        if frame is grpc.aio.EOF:
            raise StopAsyncIteration
        self._channels.reached = True
        return frame  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Ends the stream. It may be done by another task, and again."""
        if self.closed:
            return
        self.closed = True
        self._silence.stop()
        self._call.cancel()
        await self._channels.give_back(self._line)

    async def __aenter__(self) -> AsyncStream[R]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncDuplex(AsyncStream[R], Generic[Q, R]):
    """A stream in both directions."""

    def __init__(
        self,
        lease: AsyncLease,
        method: Method[Q, R],
        metadata: Any,
        silence: float,
        timeout: Optional[float],
        first: Q,
    ) -> None:
        self._outbox: AsyncOutbox[Q] = AsyncOutbox()
        self._outbox.put(first)
        super().__init__(lease, method, metadata, silence, timeout, self._outbox, kind="stream_stream")

    def send(self, request: Q) -> None:
        """Sends a frame, soon. Lost without a word if the stream is over."""
        self._outbox.put(request)

    async def close(self) -> None:
        """Ends the stream. It may be done by another task, and again."""
        # grpc takes frames in a task of its own, which ends with the outbox.
        self._outbox.put(None)
        await super().close()


class AsyncOutbox(Generic[Q]):
    """Frames on their way to grpc, which iterates over it in a task of its own.

    So a frame that the other side does not take yet holds up no read.
    """

    def __init__(self) -> None:
        self._frames: asyncio.Queue[Optional[Q]] = asyncio.Queue()

    def put(self, frame: Optional[Q]) -> None:
        """Adds a frame; None is the end."""
        self._frames.put_nowait(frame)

    def __aiter__(self) -> AsyncOutbox[Q]:
        return self

    async def __anext__(self) -> Q:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        return frame


def _error(failure: Exception) -> SandboxError:
    if isinstance(failure, grpc.aio.AioRpcError):
        return error_from(failure)
    # grpc says so when the connections were closed meanwhile.
    return transport_error(str(failure))
