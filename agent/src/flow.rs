//! How much of a stream may be in memory on its way out or in. One stream alone
//! moves a mebibyte at a time; many share, so that clients that do not read
//! cannot take the sandbox's memory.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use nullspace_proto::limits::MAX_CHUNK_BYTES;

use crate::spawn;

/// Part of the sandbox's memory that pieces on their way may take: one of so
/// many. A piece is in memory about twice, here and in the connection's buffer.
const SHARE: u64 = 32;
/// However many streams there are, one may move this much at a time.
const MIN_PIECE_BYTES: usize = 16 << 10;
/// When streams have moved this much, the end of one gives free memory back, and
/// so does the end of the last.
const GIVE_BACK_BYTES: usize = 16 << 20;

/// What all streams share.
#[derive(Debug)]
pub struct Flow {
    bytes: AtomicUsize,
    streams: AtomicUsize,
    moved: AtomicUsize,
    given_back: AtomicBool,
}

/// One stream's part. Given back when dropped.
#[derive(Debug)]
pub struct Share(Arc<Flow>);

impl Flow {
    /// For a sandbox of unknown size.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            bytes: (8 * MAX_CHUNK_BYTES).into(),
            streams: 0.into(),
            moved: 0.into(),
            given_back: true.into(),
        })
    }

    /// The sandbox has so much memory.
    pub fn set_memory(&self, bytes: u64) {
        self.bytes.store(usize::try_from(bytes / SHARE).unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// One more stream.
    pub fn join(self: &Arc<Self>) -> Share {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

impl Share {
    /// How large a piece of this stream may be now.
    pub fn piece_bytes(&self) -> usize {
        let streams = self.0.streams.load(Ordering::Relaxed).max(1);
        (self.0.bytes.load(Ordering::Relaxed) / streams).clamp(MIN_PIECE_BYTES, MAX_CHUNK_BYTES)
    }

    /// A piece was moved.
    pub fn moved(&self, bytes: usize) {
        self.0.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let last = self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1;
        let much = self.0.moved.load(Ordering::Relaxed) >= GIVE_BACK_BYTES;
        if much || (last && !self.0.given_back.load(Ordering::Relaxed)) {
            self.0.moved.store(0, Ordering::Relaxed);
            // Others still have theirs.
            self.0.given_back.store(last, Ordering::Relaxed);
            spawn::give_memory_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_streams_share_what_one_has_alone() {
        let flow = Flow::new();
        flow.set_memory(256 << 20);
        let one = flow.join();
        assert_eq!(one.piece_bytes(), MAX_CHUNK_BYTES);
        let others: Vec<_> = (0..63).map(|_| flow.join()).collect();
        assert_eq!(one.piece_bytes(), 128 << 10);
        drop(others);
        assert_eq!(one.piece_bytes(), MAX_CHUNK_BYTES);
    }
}
