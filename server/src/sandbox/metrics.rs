//! What sandboxes use, sampled while they run.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use nullspace_proto::Result;
use tokio::task::JoinSet;

use super::{Entry, Sandboxes};

/// Between samples.
const EVERY: Duration = Duration::from_secs(10);
/// An hour of them.
const KEPT: usize = 360;
/// Sandboxes that are asked at the same time.
const AT_ONCE: usize = 16;

/// What a sandbox used at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When.
    pub at: SystemTime,
    /// Percent of one processor since the sample before.
    pub cpu_percent: f64,
    /// Processors it has.
    pub cpu_count: i32,
    /// Bytes.
    pub memory_used: i64,
    /// Bytes.
    pub memory_total: i64,
    /// Bytes.
    pub disk_used: i64,
    /// Bytes.
    pub disk_total: i64,
    /// Bytes since the start.
    pub received: u64,
    /// Bytes since the start.
    pub sent: u64,
}

/// The newest samples of a sandbox, oldest first.
#[derive(Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    fn push(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn all(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Sandboxes {
    /// All samples of a sandbox; the last is of now while it runs.
    pub async fn metrics(&self, owner: &str, id: &str) -> Result<Vec<Sample>> {
        let entry = self.entry(owner, id)?;
        let mut samples = entry.samples.all();
        samples.extend(self.sample(&entry).await?);
        Ok(samples)
    }

    async fn sample(&self, entry: &Entry) -> Result<Option<Sample>> {
        let Some(live) = entry.live() else { return Ok(None) };
        let (stats, usage) = (live.stats().await?, self.boots.engine.usage(&live.execution.id).await?);
        let (at, record) = (SystemTime::now(), entry.record());
        let (received, sent) = self.boots.slots.traffic(live.execution.slot());
        let before = live.execution.before;
        Ok(Some(Sample {
            at,
            cpu_percent: live.cpu_percent(at, usage.cpu_nanoseconds, record.started_at.unwrap_or(at)),
            cpu_count: record.spec.vcpus,
            memory_used: stats.memory_used_bytes,
            memory_total: stats.memory_total_bytes,
            disk_used: stats.disk_used_bytes,
            disk_total: stats.disk_total_bytes,
            received: received.saturating_sub(before.received),
            sent: sent.saturating_sub(before.sent),
        }))
    }

    /// Samples every running sandbox, until the server stops.
    pub async fn keep_sampling(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let mut asked = JoinSet::new();
            for entry in self.all().into_iter().filter(|entry| entry.live().is_some()) {
                if asked.len() == AT_ONCE {
                    asked.join_next().await;
                }
                let this = self.clone();
                asked.spawn(async move {
                    match this.sample(&entry).await {
                        Ok(sample) => sample.into_iter().for_each(|sample| entry.samples.push(sample)),
                        Err(error) => tracing::debug!(sandbox = entry.record().id, %error, "no sample"),
                    }
                });
            }
            asked.join_all().await;
        }
    }
}
