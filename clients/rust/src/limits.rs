//! Every number of the client, with its unit.

use std::time::Duration;

/// Bytes in a kibibyte and in a mebibyte.
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How long a call may take, and a creation.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const CREATE_TIMEOUT: Duration = Duration::from_secs(120);

/// Payload of a frame of a file, and of input.
pub(crate) const FILE_CHUNK_BYTES: usize = MIB;
pub(crate) const INPUT_CHUNK_BYTES: usize = 64 * KIB;
/// Memory for a file that is read whole, before its bytes have come: what a
/// sandbox says of its size is only that.
pub(crate) const FILE_RESERVE_BYTES: usize = 64 * MIB;
/// A holder acknowledges each time that it has taken so many bytes.
pub(crate) const ACK_BYTES: i64 = 256 << 10;
/// Frames on their way to the connection, of one stream.
pub(crate) const OUTBOX_FRAMES: usize = 4;

/// HTTP/2, single calls: streams of a connection, and the window of each. The
/// connection's window is their product, here and below, so that streams which
/// nobody reads hold up no other.
pub(crate) const UNARY_STREAMS: u32 = 100;
pub(crate) const UNARY_WINDOW: u32 = 256 << 10;
/// HTTP/2, the first few streams: large windows, as one of them alone may be
/// limited by nothing else.
pub(crate) const WIDE_STREAMS: u32 = 16;
pub(crate) const WIDE_WINDOW: u32 = 4 << 20;
/// HTTP/2, all further streams. The server takes 256 on a connection.
pub(crate) const NARROW_STREAMS: u32 = 100;
pub(crate) const NARROW_WINDOW: u32 = 256 << 10;
/// HTTP/2: largest frame that is taken.
pub(crate) const FRAME_BYTES: u32 = nullspace_proto::limits::CHUNK_FRAME_BYTES;

/// How long name resolution, TCP and TLS may take together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection with calls that is silent is probed after this, and ended when
/// it stays so.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(20);

/// A silent command stream counts as cut: the server sends a keepalive every 15 s.
pub(crate) const COMMAND_SILENCE: Duration = Duration::from_secs(45);
/// How long RunOnce may be silent while its sandbox is made.
pub(crate) const RUN_ONCE_SILENCE: Duration = CREATE_TIMEOUT;
/// How long a transfer may stand still.
pub(crate) const FILE_SILENCE: Duration = REQUEST_TIMEOUT;

/// Between attempts to reach a server: the first pause, and the longest.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(50);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// For how long an unreachable server is tried again: by a stream, and by a
/// single call, which also keeps to its own time.
pub(crate) const STREAM_PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// After this a stream that brings nothing, as of a quiet command, counts as reached.
pub(crate) const STREAM_SETTLED: Duration = Duration::from_secs(1);
/// The same where nothing says that the command was reached: longer than an
/// attempt to connect.
pub(crate) const STREAM_CONNECTED: Duration = Duration::from_secs(6);
/// Attempts of a creation, and its pauses: the first, and the longest.
pub(crate) const CREATE_ATTEMPTS: u32 = 30;
pub(crate) const CREATE_BACKOFF_FIRST: Duration = Duration::from_millis(500);
pub(crate) const CREATE_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Longest wait of one WaitCommand. The call itself may take a little longer.
pub(crate) const WAIT: Duration = Duration::from_secs(30);
pub(crate) const WAIT_CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A foreground command's timeout, unless one is given.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// A sandbox's size and lifetime, unless they are given.
pub(crate) const VCPUS: i32 = 2;
pub(crate) const MEMORY_MIB: i32 = 512;
pub(crate) const SANDBOX_TIMEOUT: Duration = Duration::from_secs(300);
/// How much longer than its command's timeout the sandbox of RunOnce lives.
pub(crate) const RUN_ONCE_SLACK: Duration = Duration::from_secs(60);
