//! Every number of the contract, with its unit. Where a limit is part of what a
//! caller sees, the proto comment says the same.

use std::time::Duration;

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;

/// Largest gRPC message that a service takes: 1 MiB of payload and its frame.
pub const MAX_MESSAGE_BYTES: usize = (1 << 20) + (64 << 10);
/// Largest payload of one chunk, of output, input or a file.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Largest header list.
pub const MAX_HEADER_BYTES: u32 = 64 << 10;
/// How long the first message of a call into a sandbox may take.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// HTTP/2 at the front: streams a connection may have.
pub const FRONT_STREAMS: u32 = 256;
/// HTTP/2 at the front: window of one stream. Streams times window must not
/// exceed the connection's window, else stalled readers block the others.
pub const FRONT_STREAM_WINDOW: u32 = 256 << 10;
/// HTTP/2 at the front: largest frame.
pub const FRONT_FRAME_BYTES: u32 = 64 << 10;
/// HTTP/2 towards agents: streams on an interactive connection.
pub const AGENT_STREAMS: usize = 64;
/// HTTP/2 towards agents: window of one stream on an interactive connection.
pub const AGENT_STREAM_WINDOW: u32 = 1 << 20;
/// HTTP/2 towards agents: streams on a bulk connection.
pub const BULK_STREAMS: usize = 16;
/// HTTP/2 towards agents: window of one stream on a bulk connection.
pub const BULK_STREAM_WINDOW: u32 = 4 << 20;
/// HTTP/2 towards agents: window of one stream once a sandbox has used its
/// window budget.
pub const SMALL_STREAM_WINDOW: u32 = 64 << 10;
/// Windows that one sandbox's connections may hold in the server.
pub const SANDBOX_WINDOW_BUDGET: u64 = 256 * MIB;
/// HTTP/2, where output is received: largest frame. A message with a whole chunk
/// fits into one: else it would be sent as two.
pub const CHUNK_FRAME_BYTES: u32 = MAX_CHUNK_BYTES as u32 + (4 << 10);
/// Where an agent listens, on every address of its sandbox.
pub const AGENT_PORT: u16 = 1007;
/// How long a connection to an agent may take.
pub const AGENT_CONNECT: Duration = Duration::from_secs(1);
/// A connection to an agent is probed this often, and
pub const AGENT_KEEPALIVE: Duration = Duration::from_secs(5);

/// Environment: entries.
pub const MAX_ENV_ENTRIES: usize = 1_000;
/// Environment: bytes of names and values together.
pub const MAX_ENV_BYTES: usize = 128 << 10;
/// Arguments: entries.
pub const MAX_ARGS: usize = 10_000;
/// Arguments: bytes together.
pub const MAX_ARGS_BYTES: usize = 1 << 20;
/// Arguments: bytes of one, as on Linux.
pub const MAX_ARG_BYTES: usize = (128 << 10) - 1;
/// Bytes of a path.
pub const MAX_PATH_BYTES: usize = 4_096;
/// Bytes of a user name.
pub const MAX_USER_BYTES: usize = 64;
/// Bytes of a command's tag.
pub const MAX_TAG_BYTES: usize = 256;
/// Bytes of an idempotency key.
pub const MAX_KEY_BYTES: usize = 128;
/// Bytes of an API key's name.
pub const MAX_NAME_BYTES: usize = 128;
/// Bytes of metadata, encoded.
pub const MAX_METADATA_BYTES: usize = 64 << 10;
/// Levels of metadata.
pub const MAX_METADATA_DEPTH: usize = 16;
/// Largest whole number that a double holds exactly.
pub const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// Template when none is named.
pub const DEFAULT_TEMPLATE: &str = "base";
/// Processors of a sandbox.
pub const VCPUS: std::ops::RangeInclusive<i32> = 1..=64;
/// Processors when none are named.
pub const DEFAULT_VCPUS: i32 = 1;
/// MiB of memory of a sandbox.
pub const MEMORY_MIB: std::ops::RangeInclusive<i32> = 128..=262_144;
/// MiB of memory when none are named.
pub const DEFAULT_MEMORY_MIB: i32 = 256;
/// MiB of disk of a sandbox.
pub const DISK_MIB: std::ops::RangeInclusive<i32> = 512..=131_072;
/// MiB of disk when none are named.
pub const DEFAULT_DISK_MIB: i32 = 2_048;
/// Processes and threads of a sandbox's programs.
pub const MAX_PROCESSES: i32 = 2_048;

/// Lifetime of a sandbox when the caller says nothing of it.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// Shortest lifetime.
pub const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// Longest lifetime, and longest timeout of a command.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How long records of what has ended are kept.
pub const RETENTION: Duration = Duration::from_secs(86_400);

/// Entries of a page of sandboxes or keys.
pub const PAGE: std::ops::RangeInclusive<i32> = 1..=100;
/// Entries when none are named.
pub const DEFAULT_PAGE: i32 = 50;
/// Entries of a page of commands.
pub const COMMAND_PAGE: std::ops::RangeInclusive<i32> = 0..=1_000;
/// Commands when no number is named.
pub const DEFAULT_COMMAND_PAGE: i32 = 100;

/// Silence on a stream before a keepalive.
pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(15);
/// Longest silence that a caller may ask for.
pub const MAX_KEEPALIVE: Duration = Duration::from_secs(3_600);
/// Longest wait of WaitCommand.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Time between TERM and KILL when a command's timeout has passed.
pub const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long a process waits for a lost holder.
pub const DEFAULT_HOLD_GRACE: Duration = Duration::from_secs(60);
/// Longest wait for a lost holder.
pub const MAX_HOLD_GRACE: Duration = Duration::from_secs(3_600);
/// Output kept of a command, in bytes.
pub const RETAIN_OUTPUT: std::ops::RangeInclusive<i64> = 65_536..=67_108_864;
/// Input that the agent takes ahead of the process, in bytes.
pub const INPUT_WINDOW: usize = 1 << 20;
/// Clients whose input offsets a command remembers.
pub const INPUT_CLIENTS: usize = 16;
/// Commands that an agent remembers.
pub const MAX_COMMANDS: usize = 65_536;
/// Longest time that a rotated API key stays valid.
pub const MAX_KEY_GRACE: Duration = Duration::from_secs(7 * 86_400);
/// Age of an API key at its end.
pub const MAX_KEY_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);

/// How long the sandbox of a run waits for a caller, unless the caller says.
pub const DEFAULT_DETACH_GRACE: Duration = Duration::from_secs(30);
/// The same at most.
pub const MAX_DETACH_GRACE: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::v1::{AttachCommandResponse, OutputChunk, attach_command_response::Frame};

    #[test]
    fn a_message_with_a_whole_chunk_is_one_frame() {
        let chunk = OutputChunk { offset: i64::MAX, stream: 2, data: vec![0; MAX_CHUNK_BYTES].into() };
        let message = AttachCommandResponse { frame: Some(Frame::Output(chunk)) };
        // With gRPC's five bytes.
        assert!(message.encoded_len() + 5 <= CHUNK_FRAME_BYTES as usize);
    }
}
