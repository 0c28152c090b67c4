"""A command that runs in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Optional, Union

from nullspace._command_calls import CommandCalls
from nullspace._follow import Scope, attached, read
from nullspace._gen.v1 import command_pb2
from nullspace._output import BytesChunk, Collector, TextChunk, TextDecoder, bytes_chunk, text_chunk
from nullspace._responses import invalid_response
from nullspace._status import timed_out
from nullspace._stream import Attachment, Event, LogReader, Output, Reading
from nullspace.records import CommandLogs, CommandResult


class CommandHandle:
    """A command in the background. Any number of threads may use one handle.

    What the command writes is kept in its sandbox, so nothing is missed by
    asking late: :meth:`wait` and iteration begin with the first byte that is
    kept. The handle reads ahead in a thread of its own, from when it is first
    asked or, with callbacks, from the start; callbacks run in that thread.
    """

    def __init__(
        self,
        calls: CommandCalls,
        collector: Collector,
        *,
        info: Optional[command_pb2.CommandInfo] = None,
        attachment: Optional[Attachment] = None,
    ) -> None:
        self._calls = calls
        self._collector = collector
        self._changed = threading.Condition()
        self._scope: Optional[Scope] = None
        self._thread: Optional[threading.Thread] = None
        self._failure: Optional[BaseException] = None
        if info is not None:
            collector.info = info
        if attachment is not None:
            self._log = attachment.log
            scope = Scope()
            self._begin(scope, attached(calls.client, attachment, scope))
        else:
            self._log = LogReader(info.execution_id if info else "")

    def _wait_started(self) -> None:
        """Waits until the command runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._collector.info is not None or self._scope is None)
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
        return f"<CommandHandle pid={self.pid} {self.command_id}>"

    def wait(self, poll_interval: float = 0.25, timeout: Optional[float] = None) -> CommandResult:
        """Waits for the end of the command.

        Args:
            poll_interval: has no effect; the end is reported, not polled for.
            timeout: seconds to wait. None: until it ends.

        Returns:
            How it ended, with all output that was kept since its start.

        Raises:
            TimeoutError: ``timeout``, it still runs, and goes on running;
                ``exec_timeout``, it ran past its own timeout (``result`` has
                what there is).
            SandboxError: the sandbox was stopped, or cannot be reached. What a
                callback raised is raised here as it is.
        """
        with self._changed:
            self._resume()
            if not self._changed.wait_for(lambda: self._scope is None, timeout):
                raise timed_out(f"the command still runs after {timeout} s of waiting")
            self._raise_failure()
        return self._result()

    def __iter__(self) -> Iterator[TextChunk]:
        """Yields ``(stdout, stderr, None)``, one of the two a text and the other None.

        From the first byte that is kept, to the end of the command. A character
        is never split.

        Raises:
            TimeoutError: ``exec_timeout``, after the last piece.
        """
        decoder = TextDecoder()
        for piece in self._pieces():
            text = decoder.decode(piece.is_stderr, piece.data)
            if text:
                yield text_chunk(piece.is_stderr, text)
        for is_stderr, rest in decoder.flush():
            yield text_chunk(is_stderr, rest)
        if self._collector.exit is not None:
            self._result()

    def iter_bytes(self) -> Iterator[BytesChunk]:
        """As iteration, in bytes as the command wrote them."""
        for piece in self._pieces():
            yield bytes_chunk(piece)
        if self._collector.exit is not None:
            self._result()

    def disconnect(self) -> None:
        """Stops reading; no callback is called any more. The command runs on.

        A later :meth:`wait` or iteration reads on.
        """
        with self._changed:
            self._collector.silence()
            scope, thread = self._scope, self._thread
        if scope is not None:
            scope.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def kill(self) -> None:
        """Ends the command and its process group by KILL; returns when it has ended."""
        self._calls.kill(self.command_id)

    def send_signal(self, signal: Union[int, str]) -> None:
        """Sends a signal to the process group: a number of Linux, or a name such as ``"TERM"``."""
        self._calls.signal(self.command_id, signal)

    def send_stdin(self, data: Union[str, bytes]) -> None:
        """Writes input. Returns when the sandbox has taken it."""
        self._calls.write(self.command_id, data)

    def close_stdin(self) -> None:
        """No more input: the command reads end-of-file."""
        self._calls.write(self.command_id, b"", close=True)

    def get_logs(self, *, offset: Optional[int] = None, limit: Optional[int] = None) -> CommandLogs:
        """As :meth:`Commands.get_logs`."""
        return self._calls.logs(self._info, offset, limit)

    # The state: `_scope` is there while a thread reads. Whoever finds none, no
    # exit and no failure may start one. All under `_changed`.

    def _begin(self, scope: Scope, events: Iterator[Event]) -> None:
        self._scope = scope
        self._thread = threading.Thread(
            target=self._follow, args=(scope, events), name="nullspace-command", daemon=True
        )
        self._thread.start()

    def _resume(self) -> None:
        if self._scope is None and self._collector.exit is None and self._failure is None:
            scope = Scope()
            reading = Reading(self._calls.sandbox_id, self.command_id, self._log)
            self._begin(scope, read(self._calls.client, reading, scope))

    def _follow(self, scope: Scope, events: Iterator[Event]) -> None:
        failure: Optional[BaseException] = None
        try:
            for event in events:
                with self._changed:
                    due = self._collector.add(event)
                    self._changed.notify_all()
                for callback, piece in due:
                    callback(piece)
        except BaseException as raised:
            failure = raised
        scope.close()
        with self._changed:
            if failure is not None:
                self._collector.silence()
                self._failure = failure
            self._scope = None
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        # Told once: whoever asks again makes another attempt.
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _result(self) -> CommandResult:
        if self._collector.exit is None:
            raise invalid_response("the handle was disconnected while it was waited for")
        return self._collector.result(self._log.lost_bytes)

    def _pieces(self) -> Iterator[Output]:
        taken = 0
        pieces = self._collector.pieces
        while True:
            with self._changed:
                self._resume()
                while taken >= len(pieces) and self._scope is not None:
                    self._changed.wait()
                batch = pieces[taken:]
                if not batch:
                    self._raise_failure()
                    return
            yield from batch
            taken += len(batch)
