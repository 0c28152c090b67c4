"""A command that runs in the background, for the async client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Optional, Union

from nullspace._command_calls_aio import AsyncCommandCalls
from nullspace._follow_aio import attached, closing, read
from nullspace._gen.v1 import command_pb2
from nullspace._output import (
    BytesChunk,
    Collector,
    Delivery,
    TextChunk,
    TextDecoder,
    bytes_chunk,
    text_chunk,
)
from nullspace._responses import invalid_response
from nullspace._status import timed_out
from nullspace._stream import Attachment, Event, LogReader, Output, Reading
from nullspace.records import CommandLogs, CommandResult


class AsyncCommandHandle:
    """A command in the background. As :class:`CommandHandle`, with await.

    The handle reads ahead in a task of its own, from when it is first asked
    or, with callbacks, from the start; callbacks run in that task.
    """

    def __init__(
        self,
        calls: AsyncCommandCalls,
        collector: Collector,
        *,
        info: Optional[command_pb2.CommandInfo] = None,
        attachment: Optional[Attachment] = None,
    ) -> None:
        self._calls = calls
        self._collector = collector
        self._changed = asyncio.Event()
        self._task: Optional[asyncio.Task[None]] = None
        self._failure: Optional[BaseException] = None
        if info is not None:
            collector.info = info
        if attachment is not None:
            self._log = attachment.log
            self._begin(attached(calls.client, attachment))
        else:
            self._log = LogReader(info.execution_id if info else "")

    async def _wait_started(self) -> None:
        """Waits until the command runs."""
        while self._collector.info is None and self._task is not None:
            await self._changed.wait()
        if self._collector.info is None:
            raise self._failure or invalid_response("the stream ended before the command had started")

    @property
    def _info(self) -> command_pb2.CommandInfo:
        assert self._collector.info is not None
        return self._collector.info

    @property
    def pid(self) -> int:
        """Process id inside the sandbox."""
        return self._info.pid

    @property
    def command_id(self) -> str:
        """The id by which the command is known for good; pids come again."""
        return self._info.command_id

    def __repr__(self) -> str:
        return f"<AsyncCommandHandle pid={self.pid} {self.command_id}>"

    async def wait(self, poll_interval: float = 0.25, timeout: Optional[float] = None) -> CommandResult:
        """As :meth:`CommandHandle.wait`."""
        self._resume()
        if self._task is not None:
            # Not wait_for: that would cancel the reading when the time is up.
            await asyncio.wait({self._task}, timeout=None if timeout is None else max(timeout, 0))
        if self._task is not None:
            raise timed_out(f"the command still runs after {timeout} s of waiting")
        self._raise_failure()
        return self._result()

    async def __aiter__(self) -> AsyncIterator[TextChunk]:
        """As iteration over :class:`CommandHandle`."""
        decoder = TextDecoder()
        async for piece in self._pieces():
            text = decoder.decode(piece.is_stderr, piece.data)
            if text:
                yield text_chunk(piece.is_stderr, text)
        for is_stderr, rest in decoder.flush():
            yield text_chunk(is_stderr, rest)
        if self._collector.exit is not None:
            self._result()

    async def iter_bytes(self) -> AsyncIterator[BytesChunk]:
        """As :meth:`CommandHandle.iter_bytes`."""
        async for piece in self._pieces():
            yield bytes_chunk(piece)
        if self._collector.exit is not None:
            self._result()

    async def disconnect(self) -> None:
        """As :meth:`CommandHandle.disconnect`."""
        self._collector.silence()
        task = self._task
        if task is not None:
            task.cancel()
            if task is not asyncio.current_task():
                await asyncio.wait({task})

    async def kill(self) -> None:
        """As :meth:`CommandHandle.kill`."""
        await self._calls.kill(self.command_id)

    async def send_signal(self, signal: Union[int, str]) -> None:
        """As :meth:`CommandHandle.send_signal`."""
        await self._calls.signal(self.command_id, signal)

    async def send_stdin(self, data: Union[str, bytes]) -> None:
        """As :meth:`CommandHandle.send_stdin`."""
        await self._calls.write(self.command_id, data)

    async def close_stdin(self) -> None:
        """As :meth:`CommandHandle.close_stdin`."""
        await self._calls.write(self.command_id, b"", close=True)

    async def get_logs(self, *, offset: Optional[int] = None, limit: Optional[int] = None) -> CommandLogs:
        """As :meth:`Commands.get_logs`."""
        return await self._calls.logs(self._info, offset, limit)

    # The state: `_task` is there while a task reads. Whoever finds none, no exit
    # and no failure may start one.

    def _begin(self, events: AsyncIterator[Event]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow(events))

    def _resume(self) -> None:
        if self._task is None and self._collector.exit is None and self._failure is None:
            reading = Reading(self._calls.sandbox_id, self.command_id, self._log)
            self._begin(read(self._calls.client, reading))

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        try:
            async with closing(events):
                async for event in events:
                    due = self._collector.add(event)
                    self._notify()
                    await deliver(due)
        except asyncio.CancelledError:
            self._collector.silence()
        except BaseException as raised:
            self._collector.silence()
            self._failure = raised
        finally:
            self._task = None
            self._notify()

    def _raise_failure(self) -> None:
        # Told once: whoever asks again makes another attempt.
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _result(self) -> CommandResult:
        if self._collector.exit is None:
            raise invalid_response("the handle was disconnected while it was waited for")
        return self._collector.result(self._log.lost_bytes)

    async def _pieces(self) -> AsyncIterator[Output]:
        taken = 0
        pieces = self._collector.pieces
        while True:
            self._resume()
            while taken >= len(pieces) and self._task is not None:
                await self._changed.wait()
            batch = pieces[taken:]
            if not batch:
                self._raise_failure()
                return
            for piece in batch:
                yield piece
            taken += len(batch)


async def deliver(due: list[Delivery]) -> None:
    """Calls callbacks, and awaits what they give back if that can be awaited."""
    for callback, piece in due:
        outcome = callback(piece)
        if inspect.isawaitable(outcome):
            await outcome
