"""Reads bytes with grpcio from a bare server, and with the package from a command.

Prints the seconds that each took: bare URL BYTES, or command SANDBOX BYTES.
"""

import sys
import time

import grpc

from nullspace import Sandbox
from nullspace._gen.v1 import command_pb2


def bare(url: str, size: int) -> float:
    """One stream of one call, with the bytes as they come."""
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(url.removeprefix("http://"), options=options) as channel:
        parse = command_pb2.ReadCommandOutputResponse.FromString
        call = channel.unary_stream(
            "/bench.Output/Read", request_serializer=bytes, response_deserializer=parse
        )
        grpc.channel_ready_future(channel).result(timeout=10)
        begun = time.monotonic()
        read = sum(len(message.output.data) for message in call(b""))
        took = time.monotonic() - begun
    assert read >= size, f"{read} of {size} bytes"
    return took


def command(sandbox_id: str, size: int) -> float:
    """Stdout of a command, as bytes, piece by piece."""
    read = 0

    def take(piece: bytes) -> None:
        nonlocal read
        read += len(piece)

    sandbox = Sandbox.connect(sandbox_id)
    begun = time.monotonic()
    sandbox.commands.run("/tmp/floor", ["print", str(size)], timeout=None, on_stdout=take, binary=True)
    took = time.monotonic() - begun
    assert read == size, f"{read} of {size} bytes"
    return took


if __name__ == "__main__":
    what, where, size = sys.argv[1:]
    print({"bare": bare, "command": command}[what](where, int(size)))
