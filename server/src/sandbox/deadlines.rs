//! What must happen at a time: lifetimes end, endings that failed are tried
//! again, and old records are forgotten.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use nullspace_proto::{Result, limits};
use tokio::sync::Notify;

use super::{
    PREFIX, Sandboxes,
    record::{End, Record, State},
};
use crate::store::Write;

/// A clock that was set is noticed after this at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// After this an ending that failed is tried again.
const END_RETRY: Duration = Duration::from_secs(2);
/// How often old records are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// The next time that each sandbox needs attention.
#[derive(Default)]
pub(super) struct Deadlines {
    times: Mutex<Times>,
    changed: Notify,
}

#[derive(Default)]
struct Times {
    ordered: BTreeSet<(SystemTime, String)>,
    by_id: HashMap<String, SystemTime>,
}

impl Deadlines {
    /// Notes when a sandbox needs attention next.
    pub(super) fn note(&self, record: &Record) {
        let time = match &record.state {
            State::Running { .. } => record.expires_at,
            State::Destroying { deadline, .. } => Some(*deadline),
            // Making one has limits of its own.
            State::Creating { .. } | State::Destroyed | State::Error { .. } => None,
        };
        self.set(&record.id, time);
    }

    /// Has an ending tried again that failed.
    pub(super) fn try_again(&self, record: &Record) {
        self.set(&record.id, Some(SystemTime::now() + END_RETRY));
    }

    fn set(&self, id: &str, time: Option<SystemTime>) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = times.by_id.remove(id) {
            times.ordered.remove(&(before, id.to_owned()));
        }
        if let Some(time) = time {
            times.by_id.insert(id.to_owned(), time);
            times.ordered.insert((time, id.to_owned()));
        }
        drop(times);
        self.changed.notify_one();
    }

    /// Takes those that are due, or tells how long to sleep.
    fn due(&self) -> Result<Vec<String>, Duration> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let mut due = Vec::new();
        while let Some((time, id)) = times.ordered.first().filter(|(time, _)| *time <= now).cloned() {
            times.ordered.remove(&(time, id.clone()));
            times.by_id.remove(&id);
            due.push(id);
        }
        if !due.is_empty() {
            return Ok(due);
        }
        let wait = times.ordered.first().and_then(|(time, _)| time.duration_since(now).ok());
        Err(wait.map_or(LONGEST_SLEEP, |wait| wait.min(LONGEST_SLEEP)))
    }
}

impl Sandboxes {
    /// Does what is due, until the server stops.
    pub async fn keep_deadlines(self: Arc<Self>) {
        loop {
            match self.deadlines.due() {
                Ok(due) => due.into_iter().for_each(|id| self.attend(id)),
                Err(wait) => tokio::select! {
                    () = self.stopping.cancelled() => return,
                    () = self.deadlines.changed.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                },
            }
        }
    }

    fn attend(self: &Arc<Self>, id: String) {
        let this = self.clone();
        self.tasks.spawn(async move {
            let entry = this.entries.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
            let Some(entry) = entry else { return };
            let record = entry.record();
            let (end, reason) = match &record.state {
                State::Running { .. } => (End::Destroyed, "its lifetime ended"),
                State::Destroying { end, .. } => (*end, record.reason.as_str()),
                _ => return,
            };
            if record.expires_at.is_some_and(|end| end > SystemTime::now())
                && matches!(record.state, State::Running { .. })
            {
                return this.deadlines.note(&record);
            }
            if let Err(error) = this.end(&entry, end, reason).await {
                tracing::error!(sandbox = id, %error, "a sandbox was not ended; it is tried again");
                this.deadlines.try_again(&entry.record());
            }
        });
    }

    /// Forgets what the contract keeps no longer, until the server stops.
    pub async fn keep_forgetting(self: Arc<Self>) {
        loop {
            if let Err(error) = self.forget_old().await {
                tracing::error!(%error, "old records were not forgotten");
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(FORGET_EVERY) => {}
            }
        }
    }

    async fn forget_old(&self) -> Result<()> {
        self.idempotency.forget_old().await?;
        let is_old = |record: &Record| {
            record.ended_at.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > limits::RETENTION)
        };
        let old: Vec<_> = self.all().into_iter().map(|entry| entry.record()).filter(|record| is_old(record)).collect();
        if old.is_empty() {
            return Ok(());
        }
        let writes = old.iter().map(|record| Write::Delete(format!("{PREFIX}{}", record.id))).collect();
        self.store.commit(vec![], writes).await?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for record in old {
            entries.remove(&record.id);
        }
        Ok(())
    }
}
