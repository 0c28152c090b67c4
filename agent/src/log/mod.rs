//! An append-only log of bytes, addressed by offset: what a command, a
//! terminal or a code cell puts out. One writer appends; any number of readers
//! have a position of their own, and none of them affects another. Retention is
//! memory, and then a file on the sandbox's disk, bounded per log and by a budget
//! over all logs.
//!
//! When retention is full, either the oldest bytes go and readers are told
//! (TRUNCATE), or the writer waits for the slowest holder (BLOCK): holders are
//! readers that acknowledge what they have taken.

mod budget;
mod holders;
mod spool;
mod store;
mod tiers;

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

pub use budget::Budget;
use holders::Holders;
pub use spool::Disk;
pub use store::Chunk;
use tiers::Tiers;

/// Output after this much quiet goes to readers at once; what follows waits
/// until this much time has passed since the first byte that waits.
pub const QUIET: Duration = Duration::from_millis(2);
/// Output that waits goes to readers when it has this many bytes.
pub const BATCH_BYTES: u64 = 16 << 10;
/// A holder acknowledges at least each time that it has taken so many bytes, or
/// half of what is retained if that is less: the contract's promise.
const ACK_BYTES: usize = 256 << 10;
/// A writer that must wait for room gets about this much at a time.
const STEP_BYTES: usize = 1 << 20;
/// A holder is near that has no more than this to take, or half of what memory
/// may have for all logs if that is less.
const NEAR_BYTES: usize = 8 << 20;

/// What happens when retention is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest bytes go.
    Truncate,
    /// The writer waits for the slowest holder; this long for one that was
    /// lost, and for the first.
    Block {
        /// How long.
        grace: Duration,
    },
}

/// May the writer append?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// At most this many bytes.
    Bytes(usize),
    /// No. `until` says when to ask again, if no holder moves before.
    Full {
        /// When the grace of a lost holder ends.
        until: Option<Instant>,
    },
}

/// What a reader finds at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one stream.
    Data(Chunk),
    /// Everything below this offset is gone.
    Lost(u64),
}

/// A log.
pub struct Log {
    state: Mutex<State>,
    /// Readers wait here.
    changed: Notify,
    /// The writer waits here.
    room: Notify,
    budget: Arc<Budget>,
}

struct State {
    kept: Tiers,
    holders: Option<Holders>,
    retain: usize,
    /// Readers see the log up to here.
    visible: u64,
    last_append: Option<Instant>,
    /// Since when bytes wait to become visible.
    hidden_since: Option<Instant>,
    closed: bool,
    /// What the budget was told of this log.
    charged: usize,
}

impl Log {
    /// An empty log that keeps at most `retain` bytes.
    pub fn new(retain: usize, overflow: Overflow, budget: &Arc<Budget>) -> Arc<Self> {
        let holders = match overflow {
            Overflow::Truncate => None,
            Overflow::Block { grace } => Some(Holders::new(grace, Instant::now())),
        };
        let state = State {
            kept: Tiers::new(budget.disk(), retain),
            holders,
            retain,
            visible: 0,
            last_append: None,
            hidden_since: None,
            closed: false,
            charged: 0,
        };
        let log = Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            room: Notify::new(),
            budget: budget.clone(),
        });
        budget.opened(&log);
        log
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Appends bytes that are kept as they are, without a copy. For large ones.
    pub fn append(&self, tag: u8, data: Bytes) {
        self.appended(data.len(), |kept| kept.push(tag, data));
    }

    /// Appends a copy. For small ones: they are kept packed.
    pub fn append_copy(&self, tag: u8, data: &[u8]) {
        self.appended(data.len(), |kept| kept.pack(tag, data));
    }

    fn appended(&self, bytes: usize, put: impl FnOnce(&mut Tiers)) {
        if bytes == 0 {
            return;
        }
        let now = Instant::now();
        let (publish, over) = {
            let mut state = self.state();
            put(&mut state.kept);
            let quiet = state.last_append.is_none_or(|last| now.duration_since(last) >= QUIET);
            state.last_append = Some(now);
            let since = *state.hidden_since.get_or_insert(now);
            let waiting = state.kept.end() - state.visible;
            let publish = quiet || waiting >= BATCH_BYTES || now.duration_since(since) >= QUIET;
            if publish {
                state.publish();
            }
            state.trim(now);
            (publish, self.charge(&mut state))
        };
        if publish {
            self.changed.notify_waiters();
        }
        if over {
            self.budget.relieve();
        }
    }

    /// Tells the budget what is kept now. Whether all logs together keep too much.
    fn charge(&self, state: &mut State) -> bool {
        let cost = state.kept.cost();
        let over = self.budget.charge(state.charged, cost, state.closed);
        state.charged = cost;
        over
    }

    /// When waiting bytes must become visible by `publish`.
    pub fn publish_at(&self) -> Option<Instant> {
        self.state().hidden_since.map(|since| since + QUIET)
    }

    /// Lets readers see all that was appended.
    pub fn publish(&self) {
        self.state().publish();
        self.changed.notify_waiters();
    }

    /// How much the writer may append now.
    pub fn room(&self) -> Room {
        let room = self.room_now();
        match room {
            // Logs that have ended give their place on disk to those that go on.
            Room::Full { .. } if self.budget.free_disk(STEP_BYTES as u64) => self.room_now(),
            room => room,
        }
    }

    fn room_now(&self) -> Room {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        let Some(holders) = &mut state.holders else { return Room::Bytes(usize::MAX) };
        let Some(floor) = holders.floor(now) else { return Room::Bytes(usize::MAX) };
        let until = holders.next_expiry();
        state.kept.trim(state.retain, floor);
        let allowance = self.budget.allowance(state.charged);
        let target = allowance - STEP_BYTES.min(allowance / 2);
        if state.kept.cost() > target {
            state.kept.shed(target, floor);
            self.charge(state);
        }
        let ahead = usize::try_from(state.kept.end().saturating_sub(floor)).unwrap_or(usize::MAX);
        // Many small parts that are all needed cost more than their bytes.
        let spare = match state.kept.exceeds_parts(state.retain) {
            true => 0,
            false => allowance.saturating_sub(state.kept.cost()),
        };
        // A holder need not acknowledge less: both would wait for the other.
        let promised = ACK_BYTES.min(state.retain / 2).saturating_sub(ahead);
        match state.retain.saturating_sub(ahead).min(spare.max(promised)) {
            0 => Room::Full { until },
            bytes => Room::Bytes(bytes),
        }
    }

    /// What the slowest holder that is there has taken, if it is not near: what it
    /// needs may leave memory for the disk.
    pub fn left_behind(&self) -> Option<u64> {
        let state = self.state();
        let floor = state.present_floor();
        let near = NEAR_BYTES.min(self.budget.limit() / 2) as u64;
        (state.kept.end() - floor > near).then_some(floor)
    }

    /// Waits for a change after which `room` may say something else. Create it
    /// before asking `room`.
    pub fn room_changed(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Waits for new bytes, the close, or `wake`. Enable it before looking.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Wakes every reader: something beside the log has changed.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// The end: nothing will be appended. What is kept may give way to others.
    pub fn close(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.closed {
                return;
            }
            state.publish();
            state.closed = true;
            self.budget.gives_way(state.charged);
        }
        self.changed.notify_waiters();
        self.budget.closed(self);
    }

    /// Nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The first byte that is kept, and the end.
    pub fn range(&self) -> (u64, u64) {
        let state = self.state();
        (state.kept.start(), state.kept.end())
    }

    /// What is at `position`, which moves on. At most `max` bytes; only what has
    /// been published, or `all`. None: nothing yet, or the end.
    pub fn read(&self, position: &mut u64, max: usize, all: bool) -> Option<Piece> {
        let mut state = self.state();
        let state = &mut *state;
        let start = state.kept.start();
        if *position < start {
            *position = start;
            return Some(Piece::Lost(start));
        }
        let limit = if all { state.kept.end() } else { state.visible };
        match state.kept.read(*position, limit, max) {
            Ok(chunk) => {
                let chunk = chunk?;
                *position += chunk.data.len() as u64;
                Some(Piece::Data(chunk))
            }
            Err(start) => {
                *position = start;
                Some(Piece::Lost(start))
            }
        }
    }

    /// Whether `read` would give something at `position`.
    pub fn has_more(&self, position: u64) -> bool {
        let state = self.state();
        position < state.visible.max(state.kept.start())
    }

    /// Makes `client` a holder that has taken everything below `position`. It
    /// takes over a hold that has the same name. None: this log never waits.
    pub fn hold(self: &Arc<Self>, client: &str, position: u64) -> Option<Hold> {
        let mut state = self.state();
        let end = state.kept.end();
        let token = state.holders.as_mut()?.take(client, position.min(end));
        drop(state);
        self.room.notify_waiters();
        Some(Hold { log: Arc::downgrade(self), token })
    }

    /// Gives memory back until at most `target` is used, but keeps the bytes that
    /// `needed` names. Gives how much is used.
    fn shed(&self, target: usize, needed: Needed) -> usize {
        let mut state = self.state();
        let floor = match needed {
            Needed::ByAllHolders => state.floor(Instant::now()),
            Needed::ByPresentHolders => state.present_floor(),
        };
        state.kept.shed(target, floor);
        state.visible = state.visible.max(state.kept.start());
        self.charge(&mut state);
        state.charged
    }

    /// Gives up what is on disk, unless a holder needs it. Whether it did.
    fn leave_disk(&self) -> bool {
        let mut state = self.state();
        let floor = state.floor(Instant::now());
        let left = state.kept.leave_disk(floor);
        state.visible = state.visible.max(state.kept.start());
        self.charge(&mut state);
        left
    }

    /// Moves to disk what is in memory. Whether anything of it is there.
    fn spill(&self) -> bool {
        let mut state = self.state();
        state.kept.spill(0);
        self.charge(&mut state);
        state.kept.is_on_disk()
    }

    fn is_on_disk(&self) -> bool {
        self.state().kept.is_on_disk()
    }

    /// What this log has in memory, with the cost of its parts.
    fn cost(&self) -> usize {
        self.state().charged
    }
}

/// Whose bytes are spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    /// Also those of holders that were lost and may come back.
    ByAllHolders,
    /// Those of holders that are there.
    ByPresentHolders,
}

impl State {
    fn publish(&mut self) {
        self.visible = self.kept.end();
        self.hidden_since = None;
    }

    /// The first byte that a holder still needs; the end when there is none.
    fn floor(&mut self, now: Instant) -> u64 {
        let end = self.kept.end();
        self.holders.as_mut().and_then(|holders| holders.floor(now)).map_or(end, |floor| floor.min(end))
    }

    fn present_floor(&self) -> u64 {
        let end = self.kept.end();
        self.holders.as_ref().and_then(Holders::present_floor).map_or(end, |floor| floor.min(end))
    }

    /// Keeps retention.
    fn trim(&mut self, now: Instant) {
        if self.kept.exceeds(self.retain) {
            let floor = self.floor(now);
            self.kept.trim(self.retain, floor);
            self.visible = self.visible.max(self.kept.start());
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (charged, closed) = {
            let state = self.state();
            (state.charged, state.closed)
        };
        self.budget.charge(charged, 0, closed);
    }
}

/// A hold. Dropped, its holder counts as lost.
pub struct Hold {
    log: Weak<Log>,
    token: u64,
}

impl Hold {
    /// Everything below `offset` has been taken.
    pub fn acknowledge(&self, offset: u64) {
        self.with(|holders, end| holders.acknowledge(self.token, offset.min(end)));
    }

    fn with(&self, act: impl FnOnce(&mut Holders, u64)) {
        let Some(log) = self.log.upgrade() else { return };
        let mut state = log.state();
        let end = state.kept.end();
        if let Some(holders) = &mut state.holders {
            act(holders, end);
        }
        drop(state);
        log.room.notify_waiters();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.with(|holders, _| holders.lose(self.token, Instant::now()));
    }
}

#[cfg(test)]
mod tests;
