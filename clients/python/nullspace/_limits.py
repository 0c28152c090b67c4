"""Every number of the client, with its unit, and defaults that can be told from values."""

from __future__ import annotations

#: Bytes in a kibibyte and a mebibyte.
KIB = 1 << 10
MIB = 1 << 20

#: Seconds that a call may take, and a creation.
REQUEST_TIMEOUT = 30.0
CREATE_TIMEOUT = 120.0

#: Largest message, in bytes: 1 MiB of payload and its frame, as the server takes.
MAX_MESSAGE_BYTES = MIB + 64 * KIB
#: Payload of a frame of a file, and of input, in bytes.
FILE_CHUNK_BYTES = MIB
INPUT_CHUNK_BYTES = 64 * KIB
#: Output in a message of at least so many bytes is read without parsing the
#: message: below, the parser is faster, which is written in C.
LARGE_MESSAGE_BYTES = 64 * KIB
#: A holder acknowledges each time that it has taken so many bytes: the contract's
#: bound. With a larger one the process would wait, when the sandbox's memory and
#: disk are short, for an acknowledgement that waits for more output.
ACK_BYTES = 256 * KIB

#: Streams of one connection; the server takes 256.
STREAMS_PER_CHANNEL = 100
#: Milliseconds of silence before a connection is probed, and for the answer.
KEEPALIVE_TIME_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 20_000
#: Milliseconds between attempts to connect: the first, the longest, and the
#: least time that one attempt is given.
RECONNECT_FIRST_MS = 100
RECONNECT_MAX_MS = 2_000
CONNECT_TIMEOUT_MS = 5_000

#: Seconds after which a silent command stream counts as cut: the server sends a
#: keepalive every 15 s.
COMMAND_SILENCE = 45.0
#: Seconds that run_once may be silent while its sandbox is made.
RUN_ONCE_SILENCE = CREATE_TIMEOUT
#: Seconds that a transfer may stand still when no request_timeout is given.
FILE_SILENCE = REQUEST_TIMEOUT

#: Seconds between attempts to reach a server: the first, and the longest.
BACKOFF_FIRST = 0.05
BACKOFF_MAX = 2.0
#: Seconds for which an unreachable server is tried again: by a stream, and by
#: a single call (which also keeps to its own request_timeout).
STREAM_PATIENCE = 60.0
#: Seconds after which a stream that brings nothing, as of a quiet command, counts as reached.
STREAM_SETTLED = 1.0
#: The same where nothing says that the command was reached: longer than an attempt to connect.
STREAM_CONNECTED = 6.0
CALL_PATIENCE = 10.0
#: Attempts of a creation, and its pauses in seconds (first and longest).
CREATE_ATTEMPTS = 30
CREATE_BACKOFF_FIRST = 0.5
CREATE_BACKOFF_MAX = 10.0

#: Longest wait of one WaitCommand, in seconds.
WAIT_SECONDS = 30.0
#: Entries of a page of commands.
COMMAND_PAGE = 1_000

#: Largest whole number that a double holds exactly, and every smaller one.
MAX_EXACT_INTEGER = 2**53
#: Levels of metadata that are looked at; the server takes 16.
MAX_METADATA_DEPTH = 32

#: Seconds of life of a sandbox, and MiB of memory.
SANDBOX_TIMEOUT = 300
MAX_LIFETIME = 30 * 86_400
VCPUS = 2
#: Seconds that the sandbox of run_once may outlive its command's timeout.
RUN_ONCE_SLACK = 60


class Default(int):
    """A number that stands in a signature as the default.

    It is told from the same number given by a caller by its identity.
    """


#: Seconds that a foreground command may run. A background command has no limit
#: unless one is given.
COMMAND_TIMEOUT = Default(30)
#: MiB of a sandbox. A code-interpreter has more unless memory is given.
MEMORY_MB = Default(512)
CODE_INTERPRETER_MEMORY_MB = 2048
