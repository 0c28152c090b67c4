"""Output that is read without parsing its message is what the parser would give."""

import pytest
from google.protobuf.message import DecodeError

from nullspace._chunks import Chunk, output_parser
from nullspace._gen.v1 import command_pb2, sandbox_pb2, stream_pb2
from nullspace._limits import LARGE_MESSAGE_BYTES
from nullspace._stream import LogReader, Output

MESSAGES = [
    command_pb2.AttachCommandResponse,
    command_pb2.ReadCommandOutputResponse,
    sandbox_pb2.RunOnceResponse,
]
STDOUT, STDERR = stream_pb2.OUTPUT_STREAM_STDOUT, stream_pb2.OUTPUT_STREAM_STDERR
DATA = bytes(range(256)) * (LARGE_MESSAGE_BYTES // 256)


def field(tag, payload):
    size, length = len(payload), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([tag]) + length + bytes([size]) + payload


def same(message, raw):
    """What both say of a message."""
    found, whole = output_parser(message)(raw), message.FromString(raw)
    if isinstance(found, Chunk):
        chunk = whole.output
        assert found == Chunk(chunk.offset, chunk.stream, chunk.data)
        assert whole.WhichOneof("frame") == "output"
    else:
        assert found == whole
    return found


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
class TestParser:
    @pytest.mark.parametrize("stream", [0, STDOUT, STDERR, 77])
    @pytest.mark.parametrize("offset", [0, 1, 127, 128, 5 << 30, (1 << 63) - 1])
    @pytest.mark.parametrize("data", [DATA, DATA * 16, DATA + b"x"], ids=len)
    def test_large_output(self, message, offset, stream, data):
        chunk = stream_pb2.OutputChunk(offset=offset, stream=stream, data=data)
        found = same(message, message(output=chunk).SerializeToString())
        assert found == Chunk(offset, stream, data)

    def test_small_output(self, message):
        chunk = stream_pb2.OutputChunk(offset=3, stream=STDOUT, data=b"abc")
        assert same(message, message(output=chunk).SerializeToString()).output == chunk

    def test_other_frames(self, message):
        same(message, b"")
        same(message, message(keepalive=stream_pb2.Keepalive()).SerializeToString())

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(field(0x1A, DATA) + b"\x08\x05", id="offset last"),
            pytest.param(b"\x10\x01\x08\x05" + field(0x1A, DATA), id="stream first"),
            pytest.param(b"\x08\x05\x08\x06" + field(0x1A, DATA), id="offset twice"),
            pytest.param(field(0x1A, b"x") + field(0x1A, DATA), id="data twice"),
            pytest.param(b"\x08" + b"\xff" * 9 + b"\x01" + field(0x1A, DATA), id="offset below 0"),
            pytest.param(b"\x10" + b"\xff" * 9 + b"\x01" + field(0x1A, DATA), id="stream below 0"),
            pytest.param(field(0x22, DATA), id="unknown field"),
            pytest.param(field(0x1A, DATA) + b"\x20\x01", id="unknown field last"),
        ],
    )
    def test_what_else_the_format_allows(self, message, content):
        tag = message(output=stream_pb2.OutputChunk(offset=1)).SerializeToString()[0]
        assert not isinstance(same(message, field(tag, content)), Chunk)

    def test_two_frames(self, message):
        large = message(output=stream_pb2.OutputChunk(offset=1, data=DATA)).SerializeToString()
        other = message(keepalive=stream_pb2.Keepalive()).SerializeToString()
        for raw in (large + other, other + large, large + large):
            assert not isinstance(same(message, raw), Chunk)

    @pytest.mark.parametrize("begin", [b"", b"\x08", b"\x08\x05", b"\x10", b"\x1a"])
    def test_a_broken_message(self, message, begin):
        tag = message(output=stream_pb2.OutputChunk(offset=1)).SerializeToString()[0]
        large = field(tag, begin + b"\xff" * LARGE_MESSAGE_BYTES)
        whole = message(output=stream_pb2.OutputChunk(offset=1, data=DATA)).SerializeToString()
        for raw in (large, whole[:-1], bytes([tag]) + b"\xff" * LARGE_MESSAGE_BYTES):
            with pytest.raises(DecodeError):
                output_parser(message)(raw)


def test_a_log_takes_chunks_as_it_takes_frames():
    log = LogReader()
    assert log.take(Chunk(0, STDOUT, b"abcd")) == Output(False, b"abcd")
    assert log.take(Chunk(2, STDERR, b"cdef")) == Output(True, b"ef")
    assert log.take(Chunk(0, STDOUT, b"abcdef")) is None
    assert log.offset == 6
