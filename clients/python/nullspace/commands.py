"""Commands of a sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import List, Literal, Optional, Union, overload

from nullspace import _requests
from nullspace._client import Client
from nullspace._command_calls import CommandCalls
from nullspace._command_requests import KILL, LAST_WORD
from nullspace._follow import Scope, attached
from nullspace._limits import COMMAND_TIMEOUT
from nullspace._output import Collector, OutputCallback
from nullspace._requests import Run
from nullspace._responses import process_info
from nullspace._rpc import LIST_COMMANDS, START_COMMAND
from nullspace._stream import Attachment, LogReader
from nullspace._ulid import client_id, command_id
from nullspace._wire import Seconds
from nullspace.command_handle import CommandHandle
from nullspace.errors import SandboxError
from nullspace.records import CommandLogs, CommandResult, ProcessInfo


class Commands:
    """Runs programs in a sandbox.

    Every method raises :class:`NotFoundError` (``sandbox_not_found``),
    :class:`ConflictError` (``sandbox_stopped``) and :class:`AuthError` or
    :class:`PermissionError` beside what it names itself. ``request_timeout``
    is the time in seconds that the call may take; None is 30 s.
    """

    def __init__(self, client: Client, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._calls = CommandCalls(client, sandbox_id)

    @overload
    def run(
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
    def run(
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
    ) -> CommandHandle: ...

    def run(
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
    ) -> Union[CommandResult, CommandHandle]:
        """Runs a command, and waits for its end unless it goes to the background.

        Output is a log in the sandbox: a connection that breaks is made again
        and reading goes on where it stopped, for up to 60 s without a server.
        In the foreground the command waits rather than that output is lost; in
        the background the oldest output goes once 64 MiB are kept.

        Args:
            cmd: the program, looked up on PATH; with ``shell`` a command line.
                Without ``shell`` nothing splits it: ``"echo hi"`` names a
                program with a space in its name.
            args: its arguments, kept as they are. Not with ``shell``.
            timeout: seconds that the command may run, more than 0, at most 30
                days; None is no limit. At its end the process group gets TERM
                and 5 s later KILL. The default, 30, holds in the foreground; in
                the background there is no limit unless one is given.
            cwd: absolute directory to start in. Default: the sandbox's ``cwd``.
            envs: environment above the sandbox's own, for this command only.
            shell: run ``cmd`` by the user's shell.
            background: return at once with a handle.
            on_stdout: called with each piece of output as it comes: text, in
                which no character is split, or bytes with ``binary``. In the
                foreground in this thread, else in the handle's. What it raises
                ends a foreground command and is raised here.
            on_stderr: the same for standard error.
            user: user name or number. Default: the template's, root in ``base``.
            stdin: keep standard input open for :meth:`send_stdin`. Default:
                only in the background. Else it is ``/dev/null``.
            input: standard input, whole; text goes as UTF-8.
            tag: a label to find the command by in :meth:`list`.
            binary: callbacks take bytes.

        Returns:
            The result, or with ``background`` the handle. An exit code other
            than 0, and an end by a signal (128 + n), is a result and no error.

        Raises:
            TimeoutError: ``exec_timeout``, it ran past ``timeout``; the error's
                ``result`` has its output.
            NotFoundError: ``program_not_found``, ``user_not_found``.
            QuotaExceededError: ``process_limit_reached``, ``command_limit_reached``.
            SandboxError: ``invalid_request``, ``program_not_executable``,
                ``working_directory_invalid``, ``command_start_failed``;
                ``transport_error`` when the server stays away.
        """
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
                return self._run(run, collector)
            if on_stdout is None and on_stderr is None and input is None:
                response = self._client.call(
                    START_COMMAND, self._calls.requests.start(command_id(), run.spec)
                )
                return CommandHandle(self._calls, collector, info=response.command)
            handle = CommandHandle(self._calls, collector, attachment=self._attachment(run, hold=False))
            handle._wait_started()
            return handle
        except SandboxError as error:
            raise _requests.explain_start(error, run.options) from None

    def run_streaming(
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
        """Runs a command in the foreground with callbacks. As :meth:`run`."""
        return self.run(cmd, args, timeout, cwd, envs, shell, on_stdout=on_stdout, on_stderr=on_stderr)

    def connect(
        self,
        pid: int,
        on_stdout: Optional[OutputCallback] = None,
        on_stderr: Optional[OutputCallback] = None,
        *,
        binary: bool = False,
        request_timeout: Optional[float] = None,
    ) -> CommandHandle:
        """A handle on a command that runs, or ran. Callbacks get its output from the first byte kept.

        Raises:
            NotFoundError: ``command_not_found``, no command has this pid.
        """
        info = self._calls.find(pid, request_timeout)
        collector = Collector(on_stdout, on_stderr, binary=binary)
        if on_stdout is None and on_stderr is None:
            return CommandHandle(self._calls, collector, info=info)
        log = LogReader(info.execution_id)
        attachment = Attachment(self._sandbox_id, info.command_id, client_id(), log=log)
        handle = CommandHandle(self._calls, collector, info=info, attachment=attachment)
        handle._wait_started()
        return handle

    def list(
        self,
        *,
        running_only: bool = True,
        tag: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> List[ProcessInfo]:
        """Commands that run, newest first; with ``running_only=False`` also those that have ended
        (kept for 24 h). Processes that commands start themselves are not among them.
        """
        processes: List[ProcessInfo] = []
        token = ""
        while True:
            request = self._calls.requests.list(running_only=running_only, tag=tag, page_token=token)
            response = self._client.call(LIST_COMMANDS, request, request_timeout)
            processes.extend(map(process_info, response.commands))
            token = response.next_page_token
            if not token:
                return processes

    def get(self, pid: int, *, request_timeout: Optional[float] = None) -> ProcessInfo:
        """The newest command with this pid, also if it has ended.

        Raises:
            NotFoundError: ``command_not_found``.
        """
        return process_info(self._calls.find(pid, request_timeout))

    def kill(self, pid: int, *, request_timeout: Optional[float] = None) -> None:
        """Ends a command and its process group by KILL; returns when it has ended and is reaped.

        Nothing happens if it has ended before.

        Raises:
            NotFoundError: ``command_not_found``.
        """
        self._calls.kill(self._calls.find(pid, request_timeout).command_id, request_timeout)

    def send_signal(
        self, pid: int, signal: Union[int, str], *, request_timeout: Optional[float] = None
    ) -> None:
        """Sends a signal to a command's process group: a number of Linux (1 to 64), or a name such as
        ``"TERM"`` or ``"SIGTERM"``.

        Raises:
            NotFoundError: ``command_not_found``.
            ConflictError: ``command_ended``.
        """
        self._calls.signal(self._calls.find(pid, request_timeout).command_id, signal, request_timeout)

    def send_stdin(
        self, pid: int, data: Union[str, bytes], *, request_timeout: Optional[float] = None
    ) -> None:
        """Writes input: text as UTF-8, or bytes. Returns when the sandbox has taken all of it, which it
        does at once while the command has less than 1 MiB unread.

        Raises:
            NotFoundError: ``command_not_found``.
            ConflictError: ``input_closed``, the command takes no input (any more).
            TimeoutError: ``timeout``, the command did not read in time.
        """
        self._calls.write_to_pid(pid, data, close=False, request_timeout=request_timeout)

    def close_stdin(self, pid: int, *, request_timeout: Optional[float] = None) -> None:
        """No more input: the command reads end-of-file. Errors as :meth:`send_stdin`."""
        self._calls.write_to_pid(pid, b"", close=True, request_timeout=request_timeout)

    def get_logs(
        self,
        pid: int,
        *,
        offset: Optional[int] = None,
        limit: Optional[int] = None,
        request_timeout: Optional[float] = None,
    ) -> CommandLogs:
        """What is kept of a command's output, up to now.

        Args:
            pid: the command.
            offset: where to begin, in bytes of the log of both streams. Default:
                the first byte that is kept.
            limit: how many bytes at most. Default: all.
            request_timeout: for finding the command, in seconds.

        Raises:
            NotFoundError: ``command_not_found``.
        """
        return self._calls.logs(self._calls.find(pid, request_timeout), offset, limit)

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

    def _run(self, run: Run, collector: Collector) -> CommandResult:
        attachment = self._attachment(run, hold=True)
        scope = Scope()
        delivering = False
        try:
            for event in attached(self._client, attachment, scope):
                due = collector.add(event)
                delivering = True
                for callback, piece in due:
                    callback(piece)
                delivering = False
        except BaseException as failure:
            scope.close()
            if delivering or not isinstance(failure, SandboxError):
                # The caller is leaving, not the stream: nobody would ever know
                # how the command ends.
                with contextlib.suppress(SandboxError):
                    self._calls.signal(attachment.command_id, KILL, LAST_WORD)
            raise
        return collector.result(attachment.log.lost_bytes)


class Process:
    """Runs code in one of the languages of a sandbox."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def code_run(
        self, code: str, language: str = "python", timeout: Optional[Seconds] = COMMAND_TIMEOUT
    ) -> CommandResult:
        """Runs code by a new interpreter.

        Args:
            code: the program, at most 128 KiB.
            language: ``python``, ``javascript``, ``ruby``, ``bash``, ``sh``, or
                another program that takes code after ``-c``.
            timeout: seconds, as in :meth:`Commands.run`.

        Raises:
            NotFoundError: ``program_not_found``, the sandbox has no such language.
        """
        program, option = _requests.code_command(language)
        return self._commands.run(program, [option, code], timeout)
