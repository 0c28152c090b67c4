"""Calls and streams of the blocking client."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, Optional, TypeVar

import grpc

from nullspace import _silence
from nullspace._channel import Lease
from nullspace._config import Config
from nullspace._connection import call_metadata
from nullspace._limits import REQUEST_TIMEOUT
from nullspace._retry import CallRetries
from nullspace._rpc import Method, Q, R, check_size
from nullspace._status import error_from, is_from_server, timed_out, transport_error
from nullspace.errors import SandboxError

T = TypeVar("T")


class Client:
    """A server and a key, and calls with them. Any number of threads may use one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._lease = Lease(config)
        self._metadata = call_metadata(config)

    def call(
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
                response: R = invoke(request, timeout=left, metadata=self._metadata)
            except (grpc.RpcError, ValueError) as failure:
                error = _error(failure)
            else:
                channels.reached = True
                return response
            channels.reached |= is_from_server(error)
            time.sleep(retries.pause(error, reached=channels.reached))

    def read(
        self, method: Method[Q, R], request: Q, *, silence: float, timeout: Optional[float] = None
    ) -> Stream[R]:
        """One request, a stream of answers."""
        check_size(request)
        return Stream(self._lease, method, self._metadata, silence, timeout, request=request)

    def converse(
        self, method: Method[Q, R], first: Q, *, silence: float, timeout: Optional[float] = None
    ) -> Duplex[Q, R]:
        """A stream of requests, a stream of answers."""
        check_size(first)
        return Duplex(self._lease, method, self._metadata, silence, timeout, first)

    def upload(
        self,
        method: Method[Q, R],
        requests: Iterator[Q],
        *,
        silence: float,
        timeout: Optional[float] = None,
    ) -> R:
        """A stream of requests, one answer.

        ``requests`` is iterated in this thread; what it raises is raised here,
        after the call was cancelled.
        """
        channels = self._lease.channels()
        line = channels.take_stream()
        outbox: Outbox[Q] = Outbox(limit=2)
        call = None
        watched: Optional[_silence.Silence] = None
        try:
            invoke = line.callable("stream_unary", method)
            call = invoke.future(outbox, timeout=timeout, metadata=self._metadata)
            call.add_done_callback(lambda _: outbox.close())
            watched = _silence.watch(silence, call.cancel)
            for request in requests:
                with watched:
                    if not outbox.put(request):
                        break  # the call is over; its result says why
            outbox.close()
            with watched:
                response: R = call.result()
            channels.reached = True
            return response
        except (grpc.RpcError, grpc.FutureCancelledError) as failure:
            error = _error(failure) if isinstance(failure, grpc.RpcError) else transport_error("cancelled")
            if watched is not None and watched.broken:
                error = timed_out(f"the server took nothing for {silence:.0f} s")
            channels.reached |= is_from_server(error)
            raise error from None
        finally:
            if watched is not None:
                _silence.unwatch(watched)
            if call is not None:
                call.cancel()
            outbox.close()
            channels.give_back(line)

    def reached(self) -> bool:
        """Whether the server has answered before."""
        return self._lease.channels().reached

    def close(self) -> None:
        """Gives up the connections. A later call opens them again."""
        self._lease.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Generic[R]):
    """Answers, one after the other. Iteration raises :class:`SandboxError`.

    It is to be closed by whoever opened it; that cancels what has not ended.
    """

    def __init__(
        self,
        lease: Lease,
        method: Method[Any, R],
        metadata: Any,
        silence: float,
        timeout: Optional[float],
        *,
        request: Any,
        kind: str = "unary_stream",
    ) -> None:
        self._channels = lease.channels()
        self._line = self._channels.take_stream()
        self._lock = threading.Lock()
        self._closed = False
        try:
            invoke = self._line.callable(kind, method)
            self._call = invoke(request, timeout=timeout, metadata=metadata)
        except BaseException as failure:
            self._channels.give_back(self._line)
            if isinstance(failure, ValueError):
                raise _error(failure) from None
            raise
        self._silence = _silence.watch(silence, self._call.cancel)

    def __iter__(self) -> Stream[R]:
        return self

    def __next__(self) -> R:
        try:
            with self._silence:
                frame: R = next(self._call)
        except grpc.RpcError as failure:
            error = _error(failure)
            if self._silence.broken:
                error = transport_error(f"the stream was silent for {self._silence.limit:.0f} s")
            self._channels.reached |= is_from_server(error)
            raise error from None
        self._channels.reached = True
        return frame

    @property
    def closed(self) -> bool:
        """Whether it was closed from this side."""
        return self._closed

    def close(self) -> None:
        """Ends the stream. It may be done by another thread, and again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _silence.unwatch(self._silence)
        self._call.cancel()
        self._channels.give_back(self._line)

    def __enter__(self) -> Stream[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Duplex(Stream[R], Generic[Q, R]):
    """A stream in both directions."""

    def __init__(
        self,
        lease: Lease,
        method: Method[Q, R],
        metadata: Any,
        silence: float,
        timeout: Optional[float],
        first: Q,
    ) -> None:
        self._outbox: Outbox[Q] = Outbox()
        self._outbox.put(first)
        super().__init__(
            lease, method, metadata, silence, timeout, request=self._outbox, kind="stream_stream"
        )

    def send(self, request: Q) -> None:
        """Sends a frame, soon. Lost without a word if the stream is over."""
        self._outbox.put(request)

    def close(self) -> None:
        """Ends the stream. It may be done by another thread, and again."""
        # grpc takes frames in a thread of its own, which ends with the outbox.
        self._outbox.close()
        super().close()


class Outbox(Generic[T]):
    """Frames on their way to grpc, which iterates over it in its own thread."""

    def __init__(self, limit: Optional[int] = None) -> None:
        self._limit = limit
        self._frames: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, frame: T) -> bool:
        """Adds a frame; waits while it is full. False if it is closed."""
        with self._changed:
            if self._limit is not None:
                self._changed.wait_for(lambda: self._closed or len(self._frames) < (self._limit or 0))
            if not self._closed:
                self._frames.append(frame)
                self._changed.notify_all()
            return not self._closed

    def close(self) -> None:
        """Nothing more is added. What is in it still goes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._frames))
            if not self._frames:
                raise StopIteration
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame


def _error(failure: Exception) -> SandboxError:
    if isinstance(failure, grpc.RpcError):
        return error_from(failure)  # type: ignore[arg-type]  # every RpcError of a call is one
    # grpc says so when another thread closes the connections meanwhile.
    return transport_error(str(failure))
