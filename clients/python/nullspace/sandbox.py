"""The blocking client's sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, List, Literal, Optional, Union, overload

from nullspace import _follow, _requests, _responses
from nullspace._client import Client
from nullspace._config import resolve
from nullspace._gen.v1 import sandbox_pb2
from nullspace._limits import (
    COMMAND_TIMEOUT,
    CREATE_TIMEOUT,
    MEMORY_MB,
    SANDBOX_TIMEOUT,
    VCPUS,
)
from nullspace._output import Collector
from nullspace._requests import Fields, SandboxOptions, SandboxQuery, States
from nullspace._rpc import (
    CONNECT_SANDBOX,
    CREATE_SANDBOX,
    DESTROY_SANDBOX,
    GET_SANDBOX,
    GET_SANDBOX_METRICS,
    LIST_SANDBOXES,
    SET_SANDBOX_TIMEOUT,
)
from nullspace._stream import Running
from nullspace._wire import Seconds
from nullspace.commands import Commands, Process
from nullspace.errors import NotFoundError, SandboxError
from nullspace.files import Files
from nullspace.paginator import SandboxPaginator
from nullspace.records import CommandResult, SandboxInfo, SandboxMetrics


class Sandbox:
    """A running sandbox. Made by :meth:`create` or :meth:`connect`, never directly.

    As a context manager it destroys the sandbox at the end. Any number of
    threads may use one. Methods that start from an id take ``api_key``,
    ``base_url`` and ``ca_cert`` (a file of certificates to trust for https);
    what is not given comes from NULLSPACE_API_KEY, NULLSPACE_API_URL (or
    NULLSPACE_BASE_URL) and NULLSPACE_CA_CERT, then ``.env``, then
    ``~/.config/nullspace/config.json``. ``request_timeout`` is the time in
    seconds that a call may take, with all its attempts; 30 by default.

    Every method raises :class:`AuthError` (``unauthorized``) for a key that is
    missing or bad, :class:`PermissionError` (``scope_missing``),
    :class:`TimeoutError` (``timeout``) and :class:`SandboxError`
    (``transport_error``) when the server cannot be reached, beside what it
    names itself.
    """

    def __init__(self, client: Client, record: sandbox_pb2.Sandbox) -> None:
        self._client = client
        #: ``sb_`` and 26 characters.
        self.id: str = record.id
        #: Where commands start and relative paths begin.
        self.cwd: str = record.cwd
        self.commands = Commands(client, record.id)
        self.files = Files(client, record.id)
        #: The same as ``files``.
        self.filesystem = self.files
        self.process = Process(self.commands)

    def __repr__(self) -> str:
        return f"<Sandbox {self.id}>"

    @classmethod
    def create(
        cls,
        template: str = "base",
        *,
        vcpus: int = VCPUS,
        memory_mb: int = MEMORY_MB,
        disk_mb: Optional[int] = None,
        timeout: Optional[Seconds] = SANDBOX_TIMEOUT,
        timeout_action: Optional[Literal["destroy"]] = None,
        on_timeout: Optional[Literal["destroy"]] = None,
        envs: Optional[Mapping[str, str]] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        internet_access: bool = True,
        cwd: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> Sandbox:
        """Makes a sandbox, and returns when it runs.

        A connection that breaks meanwhile is made again, and the same creation
        asked for: there is never a second sandbox.

        Args:
            template: a name that :meth:`System.capabilities` lists.
            vcpus: processors, 1 to 64.
            memory_mb: MiB, 128 to 262,144. 2,048 for ``code-interpreter`` unless given.
            disk_mb: MiB that can be written, 512 to 131,072. Default: 2,048.
            timeout: seconds that it lives, 1 to 30 days. None: for ever.
            timeout_action: what happens then: ``destroy``.
            on_timeout: the same.
            envs: environment of everything that runs in it; at most 1,000
                entries and 128 KiB.
            metadata: a JSON object, at most 64 KiB, 16 levels deep, without
                whole numbers beyond 2**53. :meth:`list` can search it.
            internet_access: may it reach other networks?
            cwd: absolute directory where commands start, made if missing.
                Default: the template's, ``/workspace`` in ``base``.
            idempotency_key: at most 128 bytes; a call with a key that was used
                in the last 24 h gives that call's sandbox. Default: a random one.
            api_key: see the class.
            base_url: see the class.
            ca_cert: see the class.
            request_timeout: seconds; 120 by default.

        Raises:
            NotFoundError: ``template_not_found``.
            QuotaExceededError: ``capacity_exceeded``.
            ConflictError: ``idempotency_key_reused``, the key came with other arguments before.
            SandboxError: ``invalid_request`` (``details["violations"]`` names
                every bad field), ``sandbox_start_failed``.
        """
        client = Client(resolve(api_key, base_url, ca_cert))
        options = SandboxOptions(
            template=template,
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            timeout=timeout,
            timeout_action=timeout_action,
            on_timeout=on_timeout,
            envs=envs,
            metadata=metadata,
            internet_access=internet_access,
            cwd=cwd,
        )
        with _closed_on_error(client):
            request = _requests.create_sandbox(options, idempotency_key)
            limit = CREATE_TIMEOUT if request_timeout is None else request_timeout
            return cls(client, client.call(CREATE_SANDBOX, request, limit, creates=True).sandbox)

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        timeout: Optional[Seconds] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> Sandbox:
        """A handle on a sandbox that runs.

        Args:
            sandbox_id: the sandbox.
            timeout: let it live at least so many seconds from now, 1 to 30
                days; it never lives shorter than before. None: as it is.
            api_key: see the class.
            base_url: see the class.
            ca_cert: see the class.
            request_timeout: seconds; 30 by default.

        Raises:
            NotFoundError: ``sandbox_not_found``.
            ConflictError: ``sandbox_stopped``, ``sandbox_not_ready``.
            SandboxError: ``agent_lost``.
        """
        client = Client(resolve(api_key, base_url, ca_cert))
        with _closed_on_error(client):
            request = _requests.connect_sandbox(sandbox_id, timeout)
            return cls(client, client.call(CONNECT_SANDBOX, request, request_timeout).sandbox)

    @overload
    @classmethod
    def list(
        cls,
        state: Optional[States] = ...,
        query: Union[SandboxQuery, Mapping[str, Any], None] = ...,
        limit: Optional[int] = ...,
        next_token: Optional[str] = ...,
        fields: None = ...,
        *,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> SandboxPaginator: ...

    @overload
    @classmethod
    def list(
        cls,
        state: Optional[States] = ...,
        query: Union[SandboxQuery, Mapping[str, Any], None] = ...,
        limit: Optional[int] = ...,
        next_token: Optional[str] = ...,
        *,
        fields: Fields,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> List[dict[str, Any]]: ...

    @classmethod
    def list(
        cls,
        state: Optional[States] = None,
        query: Union[SandboxQuery, Mapping[str, Any], None] = None,
        limit: Optional[int] = None,
        next_token: Optional[str] = None,
        fields: Optional[Fields] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> Union[SandboxPaginator, List[dict[str, Any]]]:
        """Sandboxes of the key's owner, newest first.

        Args:
            state: only with this status, or one of several: ``creating``,
                ``running``, ``destroying``, ``destroyed``, ``error``. Default:
                all but ``destroyed`` (which stay listed for 24 h).
            query: a :class:`SandboxQuery` or a mapping with ``state``,
                ``template`` and ``metadata``; its ``state`` wins.
            limit: sandboxes of one page, 1 to 100. Default: 50.
            next_token: where to begin, from an earlier page with the same query.
            fields: names of fields, as a list or with commas.
            api_key: see the class.
            base_url: see the class.
            ca_cert: see the class.
            request_timeout: seconds for each page; 30 by default.

        Returns:
            A paginator; with ``fields`` a list of dictionaries that have just
            those fields: one page when ``limit`` is given, else all.

        Raises:
            SandboxError: ``invalid_fields``, ``invalid_request``.
        """
        client = Client(resolve(api_key, base_url, ca_cert))
        with _closed_on_error(client):
            names = None if fields is None else _requests.field_names(fields)
            request = _requests.list_sandboxes(state, query, limit, next_token, names)
            if names is None:
                return SandboxPaginator(client, request, request_timeout)
        with client:
            found: List[dict[str, Any]] = []
            while True:
                response = client.call(LIST_SANDBOXES, request, request_timeout)
                found.extend(_responses.sandbox_fields(sandbox, names) for sandbox in response.sandboxes)
                request.page_token = response.next_page_token
                if limit is not None or not request.page_token:
                    return found

    @overload
    @classmethod
    def get_info_by_id(
        cls,
        sandbox_id: str,
        fields: None = ...,
        *,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> SandboxInfo: ...

    @overload
    @classmethod
    def get_info_by_id(
        cls,
        sandbox_id: str,
        fields: Fields,
        *,
        api_key: Optional[str] = ...,
        base_url: Optional[str] = ...,
        ca_cert: Optional[str] = ...,
        request_timeout: Optional[float] = ...,
    ) -> dict[str, Any]: ...

    @classmethod
    def get_info_by_id(
        cls,
        sandbox_id: str,
        fields: Optional[Fields] = None,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> Union[SandboxInfo, dict[str, Any]]:
        """Reads a sandbox. Never wakes it; destroyed ones can be read for 24 h.

        With ``fields`` a dictionary that has just those.

        Raises:
            NotFoundError: ``sandbox_not_found``.
            SandboxError: ``invalid_fields``.
        """
        with Client(resolve(api_key, base_url, ca_cert)) as client:
            return _get_info(client, sandbox_id, fields, request_timeout)[1]

    @classmethod
    def get_metrics_by_id(
        cls,
        sandbox_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> List[SandboxMetrics]:
        """What a sandbox used in the last hour, one sample each 10 s, oldest first; the last one is of
        this moment while it runs.

        Raises:
            NotFoundError: ``sandbox_not_found``.
        """
        with Client(resolve(api_key, base_url, ca_cert)) as client:
            return _get_metrics(client, sandbox_id, request_timeout)

    @classmethod
    def kill_by_id(
        cls,
        sandbox_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """Destroys a sandbox; returns when it is gone. One that is gone already is fine.

        Raises:
            NotFoundError: ``sandbox_not_found``.
        """
        with Client(resolve(api_key, base_url, ca_cert)) as client:
            _kill(client, sandbox_id, request_timeout)

    @classmethod
    def run_once(
        cls,
        command: str,
        args: Optional[Sequence[str]] = None,
        template: str = "base",
        timeout: Optional[Seconds] = COMMAND_TIMEOUT,
        envs: Optional[Mapping[str, str]] = None,
        vcpus: int = VCPUS,
        memory_mb: int = MEMORY_MB,
        internet_access: bool = True,
        metadata: Optional[Mapping[str, Any]] = None,
        *,
        idempotency_key: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        ca_cert: Optional[str] = None,
    ) -> CommandResult:
        """Runs one program in a sandbox of its own, which is destroyed whatever happens.

        Args:
            command: the program, looked up on PATH. There is no shell; use
                ``run_once("sh", ["-c", line])``.
            args: its arguments.
            template: as in :meth:`create`, as are ``envs``, ``vcpus``,
                ``memory_mb``, ``internet_access`` and ``metadata``.
            timeout: seconds that the program may run; None is no limit.
            envs: see ``template``.
            vcpus: see ``template``.
            memory_mb: see ``template``.
            internet_access: see ``template``.
            metadata: see ``template``.
            idempotency_key: names the run. A second call with the key of one
                that goes on follows that, from its beginning; one that has ended
                in the last 24 h is not run again. Default: a random one.
            api_key: see the class.
            base_url: see the class.
            ca_cert: see the class.

        Raises:
            TimeoutError: ``exec_timeout``.
            ConflictError: ``call_in_progress``, ``idempotency_key_reused``.
            SandboxError: those of :meth:`create` and :meth:`Commands.run`. A lost
                connection is taken up again; after ``transport_error`` it is not
                known whether the program ran, and nothing of it is left.
        """
        run, request = _requests.run_once(
            command,
            args,
            timeout,
            SandboxOptions(
                template=template,
                vcpus=vcpus,
                memory_mb=memory_mb,
                envs=envs,
                metadata=metadata,
                internet_access=internet_access,
            ),
            idempotency_key,
        )
        running, collector = Running(request), Collector()
        with Client(resolve(api_key, base_url, ca_cert)) as client:
            try:
                with contextlib.closing(_follow.read(client, running, _follow.Scope())) as events:
                    for event in events:
                        collector.add(event)
            except SandboxError as error:
                raise _requests.explain_start(error, run) from None
            except BaseException:
                _end_run(client, running.sandbox_id)
                raise
            _end_run(client, running.sandbox_id)
        return collector.result(running.log.lost_bytes)

    @overload
    def get_info(self, fields: None = ..., *, request_timeout: Optional[float] = ...) -> SandboxInfo: ...

    @overload
    def get_info(self, fields: Fields, *, request_timeout: Optional[float] = ...) -> dict[str, Any]: ...

    def get_info(
        self, fields: Optional[Fields] = None, *, request_timeout: Optional[float] = None
    ) -> Union[SandboxInfo, dict[str, Any]]:
        """As :meth:`get_info_by_id`; also brings ``cwd`` up to date."""
        record, info = _get_info(self._client, self.id, fields, request_timeout)
        self.cwd = record.cwd or self.cwd
        return info

    def is_running(self, *, request_timeout: Optional[float] = None) -> bool:
        """Whether it runs now. One that is not there (any more) does not."""
        try:
            info = self.get_info(["status"], request_timeout=request_timeout)
            return bool(info["status"] == "running")
        except NotFoundError:
            return False

    def get_metrics(self, *, request_timeout: Optional[float] = None) -> List[SandboxMetrics]:
        """As :meth:`get_metrics_by_id`."""
        return _get_metrics(self._client, self.id, request_timeout)

    def set_timeout(
        self,
        timeout_secs: Optional[Seconds],
        timeout_action: Optional[Literal["destroy"]] = None,
        *,
        idempotency_key: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """Sets how long the sandbox lives from now.

        Args:
            timeout_secs: at most 30 days. 0 ends it now; None lets it live for ever.
            timeout_action: what happens then: ``destroy``. None: as it is.
            idempotency_key: at most 128 bytes. Default: a random one.
            request_timeout: seconds; 30 by default.

        Raises:
            NotFoundError: ``sandbox_not_found``.
            ConflictError: ``sandbox_stopped``, ``sandbox_not_ready``, ``idempotency_key_reused``.
            SandboxError: ``invalid_request``, ``agent_lost``.
        """
        request = _requests.set_sandbox_timeout(self.id, timeout_secs, timeout_action, idempotency_key)
        self._client.call(SET_SANDBOX_TIMEOUT, request, request_timeout)

    def kill(self, *, request_timeout: Optional[float] = None) -> None:
        """Destroys the sandbox; returns when it is gone. One that is gone already is fine.

        Raises:
            NotFoundError: ``sandbox_not_found``.
        """
        try:
            _kill(self._client, self.id, request_timeout)
        finally:
            self.close()

    def close(self) -> None:
        """Gives up the connections. The sandbox runs on; a later call connects again."""
        self._client.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        with contextlib.suppress(SandboxError):
            self.kill()


@contextlib.contextmanager
def _closed_on_error(client: Client) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.close()
        raise


def _get_info(
    client: Client, sandbox_id: str, fields: Optional[Fields], request_timeout: Optional[float]
) -> tuple[sandbox_pb2.Sandbox, Union[SandboxInfo, dict[str, Any]]]:
    names = None if fields is None else _requests.field_names(fields)
    request = _requests.get_sandbox(sandbox_id, names)
    record = client.call(GET_SANDBOX, request, request_timeout).sandbox
    return record, _responses.info_or_fields(record, names)


def _get_metrics(client: Client, sandbox_id: str, request_timeout: Optional[float]) -> List[SandboxMetrics]:
    request = sandbox_pb2.GetSandboxMetricsRequest(sandbox_id=_requests.plain_text("sandbox_id", sandbox_id))
    return _responses.metrics(client.call(GET_SANDBOX_METRICS, request, request_timeout))


def _kill(client: Client, sandbox_id: str, request_timeout: Optional[float]) -> None:
    request = sandbox_pb2.DestroySandboxRequest(sandbox_id=_requests.plain_text("sandbox_id", sandbox_id))
    client.call(DESTROY_SANDBOX, request, request_timeout)


def _end_run(client: Client, sandbox_id: str) -> None:
    """The sandbox goes without this as well, half a minute later."""
    with contextlib.suppress(SandboxError):
        if sandbox_id:
            _kill(client, sandbox_id, None)
