//! What all logs together may keep in memory.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::Log;

/// What every open log may keep, whatever the others do.
const MIN_BYTES: usize = 1 << 20;

/// A bound on the memory of all logs of an agent. When it is passed, logs that
/// are closed give way first, the one that was closed first before others, then
/// the largest open one.
pub struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
    logs: Mutex<Logs>,
}

#[derive(Default)]
struct Logs {
    open: Vec<Weak<Log>>,
    closed: VecDeque<Weak<Log>>,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(MIN_BYTES).into(), used: 0.into(), logs: Mutex::default() })
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
            logs.closed.retain(|log| log.strong_count() > 0);
        }
        if log.cost() > 0 {
            logs.closed.push_back(Arc::downgrade(log));
        }
    }

    /// A log kept `before` bytes and keeps `now`. Whether that is too much.
    pub(super) fn charge(&self, before: usize, now: usize) -> bool {
        let used = if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed) + (now - before)
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed) - (before - now)
        };
        now > before && used > self.limit()
    }

    /// What a log that keeps `own` bytes may keep at most, while the others
    /// keep what they do.
    pub(super) fn allowance(&self, own: usize) -> usize {
        let others = self.used.load(Ordering::Relaxed).saturating_sub(own);
        self.limit().saturating_sub(others).max(MIN_BYTES)
    }

    fn over(&self) -> usize {
        self.used.load(Ordering::Relaxed).saturating_sub(self.limit())
    }

    /// Makes logs give way until the bound holds or nothing more can go. Called
    /// without any log's lock.
    pub(super) fn relieve(&self) {
        let closed = self.logs().closed.len();
        for _ in 0..closed {
            let over = self.over();
            if over == 0 {
                return;
            }
            let Some(weak) = self.logs().closed.pop_front() else { break };
            let Some(log) = weak.upgrade() else { continue };
            // What a holder needs stays, and is asked for again next time.
            if log.shed(log.cost().saturating_sub(over)) > 0 {
                self.logs().closed.push_front(weak);
                if self.over() > 0 {
                    let mut logs = self.logs();
                    logs.closed.rotate_left(1);
                }
            }
        }
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
