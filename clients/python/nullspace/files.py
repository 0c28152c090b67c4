"""Files of a sandbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Optional, Union, overload

from nullspace._client import Client, Stream
from nullspace._file_frames import (
    Content,
    FrameReader,
    ReadFormat,
    check_content,
    frames,
    is_whole,
    read_file,
    read_format,
    write_file_open,
)
from nullspace._gen.v1 import file_pb2
from nullspace._limits import FILE_SILENCE
from nullspace._responses import file_info
from nullspace._retry import whole_transfer
from nullspace._rpc import READ_FILE, WRITE_FILE
from nullspace.errors import SandboxError
from nullspace.records import FileInfo


class FileStream:
    """A file that is being read: an iterator of bytes, to be closed when it is left early."""

    def __init__(self, stream: Stream[file_pb2.ReadFileResponse]) -> None:
        self._stream = stream
        self._reader = FrameReader()
        try:
            # What is wrong with the path is known with the first frame.
            self._first = self._next()
            self.info: FileInfo = self._reader.info
        except BaseException:
            stream.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, b""
        if first:
            return first
        while not self._reader.ended:
            try:
                data = self._next()
            except BaseException:
                self.close()
                raise
            if data:
                return data
        self.close()
        raise StopIteration

    def _next(self) -> bytes:
        for frame in self._stream:
            return self._reader.take(frame)
        raise self._reader.cut_short()

    def read(self) -> bytes:
        """All that has not been read yet."""
        return b"".join(self)

    def close(self) -> None:
        """Ends the transfer. It may be done again."""
        self._stream.close()

    def __enter__(self) -> FileStream:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class Files:
    """Reads and writes files of a sandbox.

    A path is absolute, or relative to the sandbox's ``cwd``, else to the home
    of the ``user`` that was named, else to ``/workspace``. It has at most 4,096
    bytes, and is not under ``/workspace/.nullspace``.
    """

    def __init__(self, client: Client, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id

    @overload
    def read(
        self,
        path: str,
        format: Optional[Literal["text"]] = ...,
        encoding: Optional[Literal["utf8"]] = ...,
        user: Optional[str] = ...,
        *,
        offset: int = ...,
        length: Optional[int] = ...,
        request_timeout: Optional[float] = ...,
    ) -> str: ...

    @overload
    def read(
        self,
        path: str,
        format: Literal["bytes", "blob"],
        encoding: None = ...,
        user: Optional[str] = ...,
        *,
        offset: int = ...,
        length: Optional[int] = ...,
        request_timeout: Optional[float] = ...,
    ) -> bytes: ...

    @overload
    def read(
        self,
        path: str,
        format: None = ...,
        *,
        encoding: Literal["base64"],
        user: Optional[str] = ...,
        offset: int = ...,
        length: Optional[int] = ...,
        request_timeout: Optional[float] = ...,
    ) -> bytes: ...

    @overload
    def read(
        self,
        path: str,
        format: Literal["stream"],
        encoding: None = ...,
        user: Optional[str] = ...,
        *,
        offset: int = ...,
        length: Optional[int] = ...,
        request_timeout: Optional[float] = ...,
    ) -> FileStream: ...

    def read(
        self,
        path: str,
        format: Optional[ReadFormat] = None,
        encoding: Optional[Literal["utf8", "base64"]] = None,
        user: Optional[str] = None,
        *,
        offset: int = 0,
        length: Optional[int] = None,
        request_timeout: Optional[float] = None,
    ) -> Union[str, bytes, FileStream]:
        """Reads a file.

        Args:
            path: the file.
            format: ``text`` (default; what is not UTF-8 is U+FFFD), ``bytes`` or
                ``blob``, or ``stream`` for an iterator of bytes that need not
                fit into memory.
            encoding: another way to ask: ``utf8`` is text, ``base64`` is bytes
                (decoded already). Not with ``format``.
            user: in whose home a relative path begins; read as root all the same.
            offset: where to begin, in bytes.
            length: how many bytes at most. Default: to the end.
            request_timeout: seconds for the whole transfer. Default: as long as
                it takes, while it does not stand still for 30 s.

        Raises:
            NotFoundError: ``file_not_found``, ``user_not_found``; for a stream
                also at the call, not at its first piece.
            PermissionError: ``file_permission_denied``.
            SandboxError: ``path_is_directory``, ``path_not_directory``,
                ``file_operation_failed``, ``invalid_request``.
        """
        wanted = read_format(format, encoding)
        request = read_file(self._sandbox_id, path, user, offset, length)
        if wanted == "stream":
            return self._open(request, request_timeout)
        retries = whole_transfer(request_timeout)
        while True:
            try:
                with self._open(request, retries.limit(request_timeout)) as stream:
                    data = stream.read()
            except SandboxError as failure:
                error = failure
            else:
                return data.decode(errors="replace") if wanted == "text" else data
            time.sleep(retries.pause(error, reached=self._client.reached()))

    def _open(self, request: file_pb2.ReadFileRequest, request_timeout: Optional[float]) -> FileStream:
        return FileStream(
            self._client.read(READ_FILE, request, silence=FILE_SILENCE, timeout=request_timeout)
        )

    def write(
        self,
        path: str,
        content: Content,
        user: Optional[str] = None,
        *,
        mode: Union[int, str, None] = None,
        request_timeout: Optional[float] = None,
    ) -> FileInfo:
        """Writes a whole file, atomically: it appears complete, or not at all.

        Missing parents are made. A file that is there is replaced; whoever
        reads it goes on reading the old one.

        Args:
            path: the file.
            content: a text (as UTF-8), bytes, something with ``read`` (such as an
                open file, ``BytesIO`` or ``StringIO``), or an iterable of texts
                or bytes. What it raises is raised here, and nothing is written.
            user: who owns the file and the directories that are made. Default: root.
            mode: permission bits, a number or octal text such as ``"0755"``.
                Default: those of the file that is replaced, else 0644.
            request_timeout: seconds for the whole transfer. Default: as long as
                it takes, while it does not stand still for 30 s.

        Returns:
            What the file is now.

        Raises:
            NotFoundError: ``user_not_found``.
            PermissionError: ``file_permission_denied``.
            QuotaExceededError: ``disk_full``.
            SandboxError: ``path_is_directory``, ``path_not_directory``,
                ``file_operation_failed``, ``invalid_request``.
        """
        check_content(content)
        open = write_file_open(self._sandbox_id, path, user, mode)
        retries = whole_transfer(request_timeout, repeatable=is_whole(content))
        while True:
            try:
                response = self._client.upload(
                    WRITE_FILE,
                    frames(open, content),
                    silence=FILE_SILENCE,
                    timeout=retries.limit(request_timeout),
                )
            except SandboxError as failure:
                error = failure
            else:
                return file_info(response.file)
            time.sleep(retries.pause(error, reached=self._client.reached()))
