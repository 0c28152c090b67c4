"""Commands of a sandbox, for the async client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import List, Literal, Optional, Union, overload

from nullspace import _requests
from nullspace._client_aio import AsyncClient
from nullspace._command_calls_aio import AsyncCommandCalls
from nullspace._command_requests import KILL, LAST_WORD
from nullspace._follow_aio import attached, closing
from nullspace._limits import COMMAND_TIMEOUT
from nullspace._output import Collector, OutputCallback
from nullspace._requests import Run
from nullspace._responses import process_info
from nullspace._rpc import LIST_COMMANDS, START_COMMAND
from nullspace._stream import Attachment, LogReader
from nullspace._ulid import client_id, command_id
from nullspace._wire import Seconds
from nullspace.async_command_handle import AsyncCommandHandle, deliver
from nullspace.errors import SandboxError
from nullspace.records import CommandLogs, CommandResult, ProcessInfo


class AsyncCommands:
    """Runs programs in a sandbox. As :class:`Commands`, with await.

    Callbacks may be coroutine functions: each call is awaited before the next.
    """

    def __init__(self, client: AsyncClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._calls = AsyncCommandCalls(client, sandbox_id)
        self._last_words: set[asyncio.Task[None]] = set()

    @overload
    async def run(
        self,
        cmd: str,
        args: Optional[Sequence[str]] = ...,
        timeout: Optional[Seconds] = ...,
        cwd: Optional[str] = ...,
        envs: Optional[Mapping[str, str]] = ...,
        shell: bool = ...,
        background: Literal[False] = ...,
        on_stdout: Optional[OutputCallback] = ...,
        on_stderr: Optional[OutputCallback] = ...,
        *,
        user: Optional[str] = ...,
        stdin: Optional[bool] = ...,
        input: Union[str, bytes, None] = ...,
        tag: Optional[str] = ...,
        binary: bool = ...,
    ) -> CommandResult: ...

    @overload
    async def run(
        self,
        cmd: str,
        args: Optional[Sequence[str]] = ...,
        timeout: Optional[Seconds] = ...,
        cwd: Optional[str] = ...,
        envs: Optional[Mapping[str, str]] = ...,
        shell: bool = ...,
        *,
        background: Literal[True],
        on_stdout: Optional[OutputCallback] = ...,
        on_stderr: Optional[OutputCallback] = ...,
        user: Optional[str] = ...,
        stdin: Optional[bool] = ...,
        input: Union[str, bytes, None] = ...,
        tag: Optional[str] = ...,
        binary: bool = ...,
    ) -> AsyncCommandHandle: ...

    async def run(
        self,
        cmd: str,
        args: Optional[Sequence[str]] = None,
        timeout: Optional[Seconds] = COMMAND_TIMEOUT,
        cwd: Optional[str] = None,
        envs: Optional[Mapping[str, str]] = None,
        shell: bool = False,
        background: bool = False,
        on_stdout: Optional[OutputCallback] = None,
        on_stderr: Optional[OutputCallback] = None,
        *,
        user: Optional[str] = None,
        stdin: Optional[bool] = None,
        input: Union[str, bytes, None] = None,
        tag: Optional[str] = None,
        binary: bool = False,
    ) -> Union[CommandResult, AsyncCommandHandle]:
        """As :meth:`Commands.run`. A foreground command whose task is cancelled is killed."""
        run = _requests.run(
            cmd,
            args,
            timeout,
            cwd,
            envs,
            shell=shell,
            background=background,
            user=user,
            stdin=stdin,
            input=input,
            tag=tag,
        )
        collector = Collector(on_stdout, on_stderr, binary=binary)
        try:
            if not background:
                return await self._run(run, collector)
            if on_stdout is None and on_stderr is None and input is None:
                response = await self._client.call(
                    START_COMMAND, self._calls.requests.start(command_id(), run.spec)
                )
                return AsyncCommandHandle(self._calls, collector, info=response.command)
            handle = AsyncCommandHandle(self._calls, collector, attachment=self._attachment(run, hold=False))
            await handle._wait_started()
            return handle
        except SandboxError as error:
            raise _requests.explain_start(error, run.options) from None

    async def run_streaming(
        self,
        cmd: str,
        args: Optional[Sequence[str]] = None,
        on_stdout: Optional[OutputCallback] = None,
        on_stderr: Optional[OutputCallback] = None,
        timeout: Optional[Seconds] = COMMAND_TIMEOUT,
        cwd: Optional[str] = None,
        envs: Optional[Mapping[str, str]] = None,
        shell: bool = False,
    ) -> CommandResult:
        """As :meth:`Commands.run_streaming`."""
        return await self.run(cmd, args, timeout, cwd, envs, shell, on_stdout=on_stdout, on_stderr=on_stderr)

    async def connect(
        self,
        pid: int,
        on_stdout: Optional[OutputCallback] = None,
        on_stderr: Optional[OutputCallback] = None,
        *,
        binary: bool = False,
        request_timeout: Optional[float] = None,
    ) -> AsyncCommandHandle:
        """As :meth:`Commands.connect`."""
        info = await self._calls.find(pid, request_timeout)
        collector = Collector(on_stdout, on_stderr, binary=binary)
        if on_stdout is None and on_stderr is None:
            return AsyncCommandHandle(self._calls, collector, info=info)
        log = LogReader(info.execution_id)
        attachment = Attachment(self._sandbox_id, info.command_id, client_id(), log=log)
        handle = AsyncCommandHandle(self._calls, collector, info=info, attachment=attachment)
        await handle._wait_started()
        return handle

    async def list(
        self,
        *,
        running_only: bool = True,
        tag: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> List[ProcessInfo]:
        """As :meth:`Commands.list`."""
        processes: List[ProcessInfo] = []
        token = ""
        while True:
            request = self._calls.requests.list(running_only=running_only, tag=tag, page_token=token)
            response = await self._client.call(LIST_COMMANDS, request, request_timeout)
            processes.extend(map(process_info, response.commands))
            token = response.next_page_token
            if not token:
                return processes

    async def get(self, pid: int, *, request_timeout: Optional[float] = None) -> ProcessInfo:
        """As :meth:`Commands.get`."""
        return process_info(await self._calls.find(pid, request_timeout))

    async def kill(self, pid: int, *, request_timeout: Optional[float] = None) -> None:
        """As :meth:`Commands.kill`."""
        await self._calls.kill((await self._calls.find(pid, request_timeout)).command_id, request_timeout)

    async def send_signal(
        self, pid: int, signal: Union[int, str], *, request_timeout: Optional[float] = None
    ) -> None:
        """As :meth:`Commands.send_signal`."""
        info = await self._calls.find(pid, request_timeout)
        await self._calls.signal(info.command_id, signal, request_timeout)

    async def send_stdin(
        self, pid: int, data: Union[str, bytes], *, request_timeout: Optional[float] = None
    ) -> None:
        """As :meth:`Commands.send_stdin`."""
        await self._calls.write_to_pid(pid, data, close=False, request_timeout=request_timeout)

    async def close_stdin(self, pid: int, *, request_timeout: Optional[float] = None) -> None:
        """As :meth:`Commands.close_stdin`."""
        await self._calls.write_to_pid(pid, b"", close=True, request_timeout=request_timeout)

    async def get_logs(
        self,
        pid: int,
        *,
        offset: Optional[int] = None,
        limit: Optional[int] = None,
        request_timeout: Optional[float] = None,
    ) -> CommandLogs:
        """As :meth:`Commands.get_logs`."""
        return await self._calls.logs(await self._calls.find(pid, request_timeout), offset, limit)

    def _attachment(self, run: Run, *, hold: bool) -> Attachment:
        return Attachment(
            self._sandbox_id,
            command_id(),
            client_id(),
            log=LogReader(),
            spec=run.spec,
            hold=hold,
            stdin=run.stdin,
        )

    async def _run(self, run: Run, collector: Collector) -> CommandResult:
        attachment = self._attachment(run, hold=True)
        events = attached(self._client, attachment)
        delivering = False
        try:
            async with closing(events):
                async for event in events:
                    due = collector.add(event)
                    delivering = True
                    await deliver(due)
                    delivering = False
        except BaseException as failure:
            if delivering or not isinstance(failure, SandboxError):
                # The caller is leaving, not the stream: nobody would ever know
                # how the command ends. In a task of its own, since this one may
                # be cancelled.
                last_word = asyncio.ensure_future(self._kill_quietly(attachment.command_id))
                self._last_words.add(last_word)
                last_word.add_done_callback(self._last_words.discard)
                await asyncio.shield(last_word)
            raise
        return collector.result(attachment.log.lost_bytes)

    async def _kill_quietly(self, command_id: str) -> None:
        with contextlib.suppress(SandboxError):
            await self._calls.signal(command_id, KILL, LAST_WORD)


class AsyncProcess:
    """Runs code in one of the languages of a sandbox. As :class:`Process`, with await."""

    def __init__(self, commands: AsyncCommands) -> None:
        self._commands = commands

    async def code_run(
        self, code: str, language: str = "python", timeout: Optional[Seconds] = COMMAND_TIMEOUT
    ) -> CommandResult:
        """As :meth:`Process.code_run`."""
        program, option = _requests.code_command(language)
        return await self._commands.run(program, [option, code], timeout)
