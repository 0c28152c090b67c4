//! What all logs together may keep in memory and on disk.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Disk, Log, Needed, STEP_BYTES};
use crate::spawn;

/// What every open log may keep, whatever the others do.
const MIN_BYTES: usize = 1 << 20;

/// What a log that was just closed keeps until open ones have given way, and for
/// how long: its reader is on its way to the end.
const FRESH_BYTES: usize = 64 << 10;
const FRESH: Duration = Duration::from_secs(10);

/// A bound on the memory of all logs of an agent. When it is passed, logs that
/// are closed give way first, the one that was closed first before others, then
/// the largest open one, then what was closed a moment ago and what a holder may
/// come back for that was lost. What a holder needs that is there never goes.
pub struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// The part of it that closed logs have, which gives way.
    closed: AtomicUsize,
    logs: Mutex<Logs>,
    disk: Arc<Disk>,
}

#[derive(Default)]
struct Logs {
    open: Vec<Weak<Log>>,
    closed: VecDeque<Closed>,
    /// Those that are closed and on disk, the one that got there first before
    /// others.
    spooled: VecDeque<Weak<Log>>,
}

struct Closed {
    log: Weak<Log>,
    at: Instant,
}

impl Budget {
    /// A budget of `limit` bytes of memory, and what `disk` may take.
    pub fn new(limit: usize, disk: Arc<Disk>) -> Arc<Self> {
        let limit = limit.max(MIN_BYTES).into();
        Arc::new(Self { limit, used: 0.into(), closed: 0.into(), logs: Mutex::default(), disk })
    }

    /// Where spools are.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Changes the bound.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit.max(MIN_BYTES), Ordering::Relaxed);
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn logs(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn opened(&self, log: &Arc<Log>) {
        let mut logs = self.logs();
        if logs.open.len() == logs.open.capacity() {
            logs.open.retain(|log| log.strong_count() > 0);
        }
        logs.open.push(Arc::downgrade(log));
    }

    pub(super) fn closed(&self, log: &Arc<Log>) {
        let mut logs = self.logs();
        logs.open.retain(|open| !std::ptr::eq(open.as_ptr(), Arc::as_ptr(log)) && open.strong_count() > 0);
        if logs.closed.len() == logs.closed.capacity() {
            logs.closed.retain(|closed| closed.log.strong_count() > 0);
        }
        if log.cost() > 0 {
            logs.closed.push_back(Closed { log: Arc::downgrade(log), at: Instant::now() });
        }
        drop(logs);
        if log.is_on_disk() {
            self.spooled(log);
        }
    }

    /// A log that is closed is on disk.
    fn spooled(&self, log: &Arc<Log>) {
        let mut logs = self.logs();
        if logs.spooled.len() == logs.spooled.capacity() {
            logs.spooled.retain(|log| log.strong_count() > 0);
        }
        logs.spooled.push_back(Arc::downgrade(log));
    }

    /// Closed logs give up what they have on disk, the one that got there first
    /// before others, until `bytes` are free. Whether any did. Called without any
    /// log's lock.
    pub(super) fn free_disk(&self, bytes: u64) -> bool {
        let (mut freed, mut needed) = (false, Vec::new());
        while self.disk.available() < bytes {
            let next = self.logs().spooled.pop_front();
            let Some(spooled) = next else { break };
            match spooled.upgrade().map(|log| log.leave_disk()) {
                Some(true) => freed = true,
                Some(false) => needed.push(spooled),
                None => {}
            }
        }
        self.logs().spooled.extend(needed);
        freed
    }

    /// Moves to disk what logs have in memory, as far as it has room there.
    pub fn spill(&self) {
        let logs: Vec<_> = {
            let logs = self.logs();
            let closed = logs.closed.iter().map(|closed| &closed.log);
            closed.chain(&logs.open).filter_map(Weak::upgrade).collect()
        };
        for log in logs {
            let on_disk = log.is_on_disk();
            if log.spill() && !on_disk && log.is_closed() {
                self.spooled(&log);
            }
        }
        spawn::give_memory_back();
    }

    /// A log was closed: what it keeps gives way to others.
    pub(super) fn gives_way(&self, bytes: usize) {
        self.closed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A log, `closed` or not, kept `before` bytes and keeps `now`. Whether that
    /// is too much.
    pub(super) fn charge(&self, before: usize, now: usize, closed: bool) -> bool {
        let change = |counter: &AtomicUsize| match now >= before {
            true => counter.fetch_add(now - before, Ordering::Relaxed) + (now - before),
            false => counter.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        };
        if closed {
            change(&self.closed);
        }
        change(&self.used) > self.limit() && now > before
    }

    /// What an open log that keeps `own` bytes may keep at most, while the other
    /// open ones keep what they do.
    pub(super) fn allowance(&self, own: usize) -> usize {
        let open = self.used.load(Ordering::Relaxed).saturating_sub(self.closed.load(Ordering::Relaxed));
        self.limit().saturating_sub(open.saturating_sub(own)).max(MIN_BYTES)
    }

    fn over(&self) -> usize {
        self.used.load(Ordering::Relaxed).saturating_sub(self.limit())
    }

    /// What must have room on disk for the bound to hold: only whole parts go
    /// there, and into whole blocks.
    fn over_on_disk(&self) -> u64 {
        match self.over() {
            0 => 0,
            over => (over + 2 * STEP_BYTES) as u64,
        }
    }

    /// Makes logs give way until the bound holds or nothing more can go. Called
    /// without any log's lock.
    pub(super) fn relieve(&self) {
        self.free_disk(self.over_on_disk());
        let fresh = |closed: &Closed| if closed.at.elapsed() < FRESH { FRESH_BYTES } else { 0 };
        self.relieve_closed(Needed::ByAllHolders, fresh);
        // Those that went to disk just now leave it again before one that is open
        // loses anything.
        self.free_disk(self.over_on_disk());
        self.relieve_open();
        // What a lost holder may come back for goes last: no process waits for it,
        // but others chose to lose output rather than to wait.
        self.relieve_closed(Needed::ByPresentHolders, |_| 0);
    }

    /// Makes closed logs give way, but for what is needed and what each may keep.
    fn relieve_closed(&self, needed: Needed, keep: impl Fn(&Closed) -> usize) {
        let mut spared = Vec::new();
        loop {
            let over = self.over();
            let next = if over > 0 { self.logs().closed.pop_front() } else { None };
            let Some(closed) = next else { break };
            let Some(log) = closed.log.upgrade() else { continue };
            let on_disk = log.is_on_disk();
            if log.shed(log.cost().saturating_sub(over).max(keep(&closed)), needed) > 0 {
                spared.push(closed);
            }
            if !on_disk && log.is_on_disk() {
                self.spooled(&log);
            }
        }
        // In their order, before those that were not asked.
        let mut logs = self.logs();
        spared.into_iter().rev().for_each(|closed| logs.closed.push_front(closed));
    }

    fn relieve_open(&self) {
        let open: Vec<_> = self.logs().open.iter().filter_map(Weak::upgrade).collect();
        let large = open.into_iter().map(|log| (log.cost(), log)).filter(|(cost, _)| *cost > MIN_BYTES);
        let mut large: Vec<_> = large.collect();
        large.sort_unstable_by_key(|(cost, _)| Reverse(*cost));
        for (cost, log) in large {
            let over = self.over();
            if over == 0 {
                return;
            }
            log.shed(cost.saturating_sub(over).max(MIN_BYTES), Needed::ByAllHolders);
        }
    }
}
