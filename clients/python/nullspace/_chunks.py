"""Reads a large piece of output out of a message without parsing the message.

Parsing copies the bytes, and asking the message for them copies them again. The
memory for these copies, more than the copying, was most of what it took to read
much output.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, TypeVar, Union

from google.protobuf.message import Message

from nullspace._gen.v1 import stream_pb2
from nullspace._limits import LARGE_MESSAGE_BYTES

M = TypeVar("M", bound=Message)

#: Wire types: a number, and bytes with their length before them.
_VARINT, _BYTES = 0, 2


class Chunk(NamedTuple):
    """What a message with an ``OutputChunk`` says."""

    offset: int
    stream: int
    data: bytes


def output_parser(message: type[M]) -> Callable[[bytes], Union[M, Chunk]]:
    """A parser of messages that are one of several frames, among them ``output``."""
    tag = _tag(message.DESCRIPTOR.fields_by_name["output"].number, _BYTES)
    parse_whole = message.FromString

    def parse(raw: bytes) -> Union[M, Chunk]:
        chunk = _chunk(raw, tag) if len(raw) >= LARGE_MESSAGE_BYTES else None
        return parse_whole(raw) if chunk is None else chunk

    return parse


def _tag(number: int, wire_type: int) -> int:
    # Of numbers below 16 it is one byte.
    assert number < 16
    return number << 3 | wire_type


_FIELDS = stream_pb2.OutputChunk.DESCRIPTOR.fields_by_name
_OFFSET, _STREAM = (_tag(_FIELDS[name].number, _VARINT) for name in ("offset", "stream"))
_DATA = _tag(_FIELDS["data"].number, _BYTES)


def _chunk(raw: bytes, tag: int) -> Optional[Chunk]:
    """The chunk, if the message holds nothing else and its fields come in their order.

    As the agent writes it. Whatever else the format allows is left to the
    parser that knows all of it. All that is read before the data is far shorter
    than a large message, so no index is beyond its end.
    """
    if raw[0] != tag:
        return None
    size, at = _varint(raw, 1)
    if size != len(raw) - at:
        return None
    offset = stream = 0
    if raw[at] == _OFFSET:
        offset, at = _varint(raw, at + 1)
    if raw[at] == _STREAM:
        stream, at = _varint(raw, at + 1)
    if raw[at] != _DATA:
        return None
    size, at = _varint(raw, at + 1)
    # Larger numbers are negative, or none.
    if size != len(raw) - at or offset >= 1 << 63 or stream >= 1 << 31:
        return None
    return Chunk(offset, stream, raw[at:])


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. At most ten bytes are read."""
    value = 0
    for shift in range(0, 70, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at
