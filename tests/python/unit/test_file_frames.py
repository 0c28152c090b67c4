"""Files go in frames as large as they may be, and a read knows whether all has come."""

import asyncio
import io

import pytest

from nullspace import SandboxError
from nullspace._file_frames import (
    FrameReader,
    async_frames,
    check_content,
    frames,
    read_format,
    write_file_open,
)
from nullspace._gen.v1 import file_pb2
from nullspace._limits import FILE_CHUNK_BYTES

OPEN = file_pb2.WriteFileRequest(open=file_pb2.WriteFileOpen(path="/f"))


def written(requests):
    requests = list(requests)
    assert requests[0] == OPEN
    data = [request.data for request in requests[1:-1]]
    assert all(0 < len(piece) <= FILE_CHUNK_BYTES for piece in data)
    assert requests[-1].finish.size_bytes == sum(map(len, data))
    return b"".join(data), len(data)


BIG = bytes(range(256)) * 10_000


@pytest.mark.parametrize(
    ("content", "expected", "count"),
    [
        ("", b"", 0),
        (b"", b"", 0),
        ("ü", "ü".encode(), 1),
        (bytearray(b"abc"), b"abc", 1),
        (memoryview(b"abc"), b"abc", 1),
        (BIG, BIG, 3),
        (io.BytesIO(BIG), BIG, 3),
        (io.StringIO("ü" * 10), b"\xc3\xbc" * 10, 1),
        ([b"a", "b", b"", b"c"], b"abc", 1),
        ((b"x" for _ in range(10_000)), b"x" * 10_000, 1),
        ([BIG, BIG], BIG * 2, 5),
    ],
)
def test_contents(content, expected, count):
    check_content(content)
    assert written(frames(OPEN, content)) == (expected, count)


def test_contents_that_are_awaited():
    async def generator():
        yield b"a"
        yield "ü"

    class Reader:
        def __init__(self):
            self.rest = [b"12", b"3", b""]

        async def read(self, size):
            return self.rest.pop(0)

    async def collect(content):
        check_content(content, awaitable=True)
        return [frame async for frame in async_frames(OPEN, content)]

    assert written(asyncio.run(collect(generator())))[0] == b"a\xc3\xbc"
    assert written(asyncio.run(collect(Reader())))[0] == b"123"
    assert written(asyncio.run(collect(io.BytesIO(b"x"))))[0] == b"x"
    assert written(asyncio.run(collect([b"x", "y"])))[0] == b"xy"


@pytest.mark.parametrize("content", [None, 5, 1.5])
def test_what_cannot_be_written(content):
    with pytest.raises(TypeError):
        check_content(content)


def test_iterables_of_something_else():
    with pytest.raises(TypeError):
        list(frames(OPEN, [1, 2]))


def test_formats():
    assert read_format(None, None) == "text"
    assert read_format("blob", None) == read_format("bytes", None) == read_format(None, "base64") == "bytes"
    assert read_format(None, "utf8") == "text"
    for arguments in (("text", "utf8"), ("nope", None), (None, "latin1")):
        with pytest.raises(SandboxError) as caught:
            read_format(*arguments)
        assert caught.value.code == "invalid_request"


def test_modes():
    assert write_file_open("sb_1", "/f", None, "0755").open.mode == 0o755
    assert write_file_open("sb_1", "/f", " ", 0o600).open.mode == 0o600
    assert not write_file_open("sb_1", "/f", None, None).open.HasField("mode")
    with pytest.raises(SandboxError):
        write_file_open("sb_1", "/f", None, "rwx")


class TestReads:
    def test_a_whole_file(self):
        reader = FrameReader()
        reader.take(file_pb2.ReadFileResponse(info=file_pb2.FileInfo(name="f", kind=1, mode=0o644)))
        assert reader.info.mode == "0644"
        assert reader.take(file_pb2.ReadFileResponse(data=b"abc")) == b"abc"
        reader.take(file_pb2.ReadFileResponse(end=file_pb2.ReadFileEnd(size_bytes=3)))
        assert reader.ended

    def test_missing_bytes_are_noticed(self):
        reader = FrameReader()
        reader.take(file_pb2.ReadFileResponse(data=b"abc"))
        with pytest.raises(SandboxError):
            reader.take(file_pb2.ReadFileResponse(end=file_pb2.ReadFileEnd(size_bytes=4)))
