//! What all logs together may keep in memory.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Log;

/// What every open log may keep, whatever the others do.
const MIN_BYTES: usize = 1 << 20;

/// What a log that was just closed keeps until open ones have given way, and for
/// how long: its reader is on its way to the end.
const FRESH_BYTES: usize = 64 << 10;
const FRESH: Duration = Duration::from_secs(10);

/// A bound on the memory of all logs of an agent. When it is passed, logs that
/// are closed give way first, the one that was closed first before others, then
/// the largest open one, then what was closed a moment ago.
pub struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// The part of it that closed logs have, which gives way.
    closed: AtomicUsize,
    logs: Mutex<Logs>,
}

#[derive(Default)]
struct Logs {
    open: Vec<Weak<Log>>,
    closed: VecDeque<Closed>,
}

struct Closed {
    log: Weak<Log>,
    at: Instant,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(MIN_BYTES).into(), used: 0.into(), closed: 0.into(), logs: Mutex::default() })
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

    /// Makes logs give way until the bound holds or nothing more can go. Called
    /// without any log's lock.
    pub(super) fn relieve(&self) {
        self.relieve_closed(|closed| if closed.at.elapsed() < FRESH { FRESH_BYTES } else { 0 });
        self.relieve_open();
        self.relieve_closed(|_| 0);
    }

    /// Makes closed logs give way, but for what each may keep.
    fn relieve_closed(&self, keep: impl Fn(&Closed) -> usize) {
        let closed = self.logs().closed.len();
        for _ in 0..closed {
            let over = self.over();
            if over == 0 {
                return;
            }
            let Some(closed) = self.logs().closed.pop_front() else { return };
            let Some(log) = closed.log.upgrade() else { continue };
            // What a holder needs stays, and is asked for again next time.
            if log.shed(log.cost().saturating_sub(over).max(keep(&closed))) > 0 {
                let over = self.over() > 0;
                let mut logs = self.logs();
                logs.closed.push_front(closed);
                if over {
                    logs.closed.rotate_left(1);
                }
            }
        }
    }

    fn relieve_open(&self) {
        let open: Vec<_> = self.logs().open.iter().filter_map(Weak::upgrade).collect();
        let mut open: Vec<_> =
            open.into_iter().map(|log| (log.cost(), log)).filter(|(cost, _)| *cost > MIN_BYTES).collect();
        open.sort_unstable_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (cost, log) in open {
            let over = self.over();
            if over == 0 {
                return;
            }
            log.shed(cost.saturating_sub(over).max(MIN_BYTES));
        }
    }
}
