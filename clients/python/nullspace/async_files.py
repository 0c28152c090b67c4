"""Files of a sandbox, for the async client."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal, Optional, Union, overload

from nullspace._client_aio import AsyncClient, AsyncStream
from nullspace._file_frames import (
    AsyncContent,
    FrameReader,
    ReadFormat,
    async_frames,
    check_content,
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


class AsyncFileStream:
    """A file that is being read: an async iterator of bytes, to be closed when it is left early."""

    def __init__(self, stream: AsyncStream[file_pb2.ReadFileResponse]) -> None:
        self._stream = stream
        self._reader = FrameReader()
        self._first = b""

    async def _start(self) -> AsyncFileStream:
        """Waits for the first frame, with which it is known what is wrong with the path."""
        try:
            self._first = await self._next()
            _ = self.info
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def info(self) -> FileInfo:
        """What the file is."""
        return self._reader.info

    def __aiter__(self) -> AsyncFileStream:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, b""
        if first:
            return first
        while not self._reader.ended:
            try:
                data = await self._next()
            except BaseException:
                await self.close()
                raise
            if data:
                return data
        await self.close()
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        async for frame in self._stream:
            return self._reader.take(frame)
        raise self._reader.cut_short()

    async def read(self) -> bytes:
        """All that has not been read yet."""
        return b"".join([data async for data in self])

    async def close(self) -> None:
        """Ends the transfer. It may be done again."""
        await self._stream.close()

    async def __aenter__(self) -> AsyncFileStream:
        return self

    async def __aexit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()


class AsyncFiles:
    """Reads and writes files of a sandbox. As :class:`Files`, with await."""

    def __init__(self, client: AsyncClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id

    @overload
    async def read(
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
    async def read(
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
    async def read(
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
    async def read(
        self,
        path: str,
        format: Literal["stream"],
        encoding: None = ...,
        user: Optional[str] = ...,
        *,
        offset: int = ...,
        length: Optional[int] = ...,
        request_timeout: Optional[float] = ...,
    ) -> AsyncFileStream: ...

    async def read(
        self,
        path: str,
        format: Optional[ReadFormat] = None,
        encoding: Optional[Literal["utf8", "base64"]] = None,
        user: Optional[str] = None,
        *,
        offset: int = 0,
        length: Optional[int] = None,
        request_timeout: Optional[float] = None,
    ) -> Union[str, bytes, AsyncFileStream]:
        """As :meth:`Files.read`; a stream is an async iterator."""
        wanted = read_format(format, encoding)
        request = read_file(self._sandbox_id, path, user, offset, length)
        if wanted == "stream":
            return await self._open(request, request_timeout)
        retries = whole_transfer(request_timeout)
        while True:
            try:
                async with await self._open(request, retries.limit(request_timeout)) as stream:
                    data = await stream.read()
            except SandboxError as failure:
                error = failure
            else:
                return data.decode(errors="replace") if wanted == "text" else data
            await asyncio.sleep(retries.pause(error, reached=self._client.reached()))

    async def _open(
        self, request: file_pb2.ReadFileRequest, request_timeout: Optional[float]
    ) -> AsyncFileStream:
        stream = self._client.read(READ_FILE, request, silence=FILE_SILENCE, timeout=request_timeout)
        return await AsyncFileStream(stream)._start()

    async def write(
        self,
        path: str,
        content: AsyncContent,
        user: Optional[str] = None,
        *,
        mode: Union[int, str, None] = None,
        request_timeout: Optional[float] = None,
    ) -> FileInfo:
        """As :meth:`Files.write`. The content may also be an async iterable, or have an async ``read``."""
        check_content(content, awaitable=True)
        open = write_file_open(self._sandbox_id, path, user, mode)
        retries = whole_transfer(request_timeout, repeatable=is_whole(content))
        while True:
            try:
                response = await self._client.upload(
                    WRITE_FILE,
                    async_frames(open, content),
                    silence=FILE_SILENCE,
                    timeout=retries.limit(request_timeout),
                )
            except SandboxError as failure:
                error = failure
            else:
                return file_info(response.file)
            await asyncio.sleep(retries.pause(error, reached=self._client.reached()))
