"""Frames of files that are read and written."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Literal, Optional, Union

from nullspace._gen.v1 import file_pb2
from nullspace._limits import FILE_CHUNK_BYTES
from nullspace._requests import payload
from nullspace._responses import file_info, invalid_response
from nullspace._wire import Checks
from nullspace.errors import SandboxError, invalid_request
from nullspace.records import FileInfo

Bytes = Union[bytes, bytearray, memoryview]
#: What can be written: a text, bytes, something with ``read``, or an iterable
#: of texts or bytes.
Content = Union[str, Bytes, Iterable[Union[str, bytes]], Any]
#: The same, and what can only be read in an event loop.
AsyncContent = Union[Content, AsyncIterable[Union[str, bytes]]]
ReadFormat = Literal["text", "bytes", "blob", "stream"]


def read_format(format: Optional[str], encoding: Optional[str]) -> str:
    """``text``, ``bytes`` or ``stream``, from either way to ask for it."""
    if format is not None and encoding is not None:
        raise invalid_request(("format", "cannot go with encoding: name one of the two"))
    name, value, known = (
        ("format", format, _FORMATS) if encoding is None else ("encoding", encoding, _ENCODINGS)
    )
    found = known.get(value or "text")
    if found is None:
        raise invalid_request((name, f"{value!r} is none of {', '.join(known)}"))
    return found


_FORMATS = {"text": "text", "bytes": "bytes", "blob": "bytes", "stream": "stream"}
_ENCODINGS = {"utf8": "text", "utf-8": "text", "base64": "bytes"}


def read_file(
    sandbox_id: str, path: str, user: Optional[str], offset: int, length: Optional[int]
) -> file_pb2.ReadFileRequest:
    """ReadFile."""
    checks = Checks()
    request = file_pb2.ReadFileRequest(
        sandbox_id=checks.text("sandbox_id", sandbox_id),
        path=checks.text("path", path),
        user=checks.text("user", (user or "").strip()),
        offset=checks.integer("offset", offset, bits=64),
    )
    if length is not None:
        request.length = checks.integer("length", length, bits=64)
    checks.finish()
    return request


def write_file_open(
    sandbox_id: str, path: str, user: Optional[str], mode: Union[int, str, None]
) -> file_pb2.WriteFileRequest:
    """The first frame of a write."""
    checks = Checks()
    open = file_pb2.WriteFileOpen(
        sandbox_id=checks.text("open.sandbox_id", sandbox_id),
        path=checks.text("open.path", path),
        user=checks.text("open.user", (user or "").strip()),
    )
    if isinstance(mode, str):
        try:
            mode = int(mode, 8)
        except ValueError:
            checks.fail("open.mode", f"{mode!r} is not octal, such as '0644'")
            mode = None
    if mode is not None:
        open.mode = checks.integer("open.mode", mode)
    checks.finish()
    return file_pb2.WriteFileRequest(open=open)


class FrameReader:
    """Takes the frames of a read, and knows whether all have come."""

    def __init__(self) -> None:
        self._info: Optional[FileInfo] = None
        self._size = 0
        self.ended = False

    @property
    def info(self) -> FileInfo:
        """What the file is. After the first frame."""
        if self._info is None:
            raise invalid_response("a read began without the file's info")
        return self._info

    def take(self, frame: file_pb2.ReadFileResponse) -> bytes:
        """The bytes of a frame; may be none."""
        kind = frame.WhichOneof("frame")
        if kind == "data":
            # Each look at the field is a copy.
            data = frame.data
            self._size += len(data)
            return data
        if kind == "info":
            self._info = file_info(frame.info)
        elif kind == "end":
            if frame.end.size_bytes != self._size:
                raise invalid_response(f"{self._size} of {frame.end.size_bytes} bytes of the file came")
            self.ended = True
        return b""

    def cut_short(self) -> SandboxError:
        """The error for a stream that ended before the file did."""
        return invalid_response(f"the stream ended after {self._size} bytes, before the end of the file")


class FrameWriter:
    """Makes frames of what is written, as large as they may be."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._size = 0

    def add(self, data: Union[str, Bytes]) -> Iterator[file_pb2.WriteFileRequest]:
        """Frames that are full with ``data``."""
        view = memoryview(payload(data, "content"))
        while len(view) + self._pending_size >= FILE_CHUNK_BYTES:
            room = FILE_CHUNK_BYTES - self._pending_size
            self._pending.append(bytes(view[:room]))
            self._pending_size += room
            view = view[room:]
            yield self._frame()
        if view:
            self._pending.append(bytes(view))
            self._pending_size += len(view)

    def finish(self) -> Iterator[file_pb2.WriteFileRequest]:
        """The rest, and the frame that makes the file appear."""
        if self._pending_size:
            yield self._frame()
        yield file_pb2.WriteFileRequest(finish=file_pb2.WriteFileFinish(size_bytes=self._size))

    def _frame(self) -> file_pb2.WriteFileRequest:
        data = b"".join(self._pending)
        self._size += len(data)
        self._pending, self._pending_size = [], 0
        return file_pb2.WriteFileRequest(data=data)


def is_whole(content: Any) -> bool:
    """Whether the content can be sent again from its beginning."""
    return isinstance(content, (str, bytes, bytearray, memoryview))


def frames(open: file_pb2.WriteFileRequest, content: Content) -> Iterator[file_pb2.WriteFileRequest]:
    """All frames of a write."""
    writer = FrameWriter()
    yield open
    for piece in _pieces(content):
        yield from writer.add(piece)
    yield from writer.finish()


async def async_frames(
    open: file_pb2.WriteFileRequest, content: AsyncContent
) -> AsyncIterator[file_pb2.WriteFileRequest]:
    """All frames of a write, of content that may have to be awaited."""
    writer = FrameWriter()
    yield open
    async for piece in _async_pieces(content):
        for frame in writer.add(piece):
            yield frame
    for frame in writer.finish():
        yield frame


def check_content(content: Any, *, awaitable: bool = False) -> None:
    """Refuses what cannot be written, before anything is sent."""
    if is_whole(content) or hasattr(content, "read") or isinstance(content, Iterable):
        return
    if not (awaitable and isinstance(content, AsyncIterable)):
        raise TypeError(
            f"content must be str, bytes, a file or an iterable of those, not {type(content).__name__}"
        )


def _pieces(content: Content) -> Iterator[Any]:
    if is_whole(content):
        yield content
    elif hasattr(content, "read"):
        while piece := content.read(FILE_CHUNK_BYTES):
            yield piece
    else:
        yield from content


async def _async_pieces(content: AsyncContent) -> AsyncIterator[Any]:
    if isinstance(content, AsyncIterable) and not hasattr(content, "read"):
        async for piece in content:
            yield piece
    elif not is_whole(content) and hasattr(content, "read"):
        while True:
            piece = content.read(FILE_CHUNK_BYTES)
            if hasattr(piece, "__await__"):
                piece = await piece
            if not piece:
                return
            yield piece
    else:
        for piece in _pieces(content):
            yield piece
