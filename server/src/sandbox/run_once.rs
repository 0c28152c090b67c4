//! Sandboxes that exist for one run: each waits a while for a caller, and goes
//! when none has come.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nullspace_proto::{Error, Reason, Result};

use super::{
    Entry, Sandboxes, Wanted,
    live::Live,
    record::{End, Record, State},
};

/// Who follows a run.
#[derive(Default)]
pub(super) struct Callers(Mutex<Count>);

#[derive(Default)]
struct Count {
    now: usize,
    /// How often one came: tells whether one has been there meanwhile.
    came: u64,
}

impl Callers {
    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn come(&self) {
        let mut count = self.count();
        count.now += 1;
        count.came += 1;
    }

    /// Whether nobody is there, and nobody came since `came` had come.
    fn stayed_away_since(&self, came: u64) -> bool {
        let count = self.count();
        count.now == 0 && count.came == came
    }
}

/// A caller of a run. While there is one its sandbox stays.
pub struct Caller {
    sandboxes: Arc<Sandboxes>,
    entry: Arc<Entry>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.entry.callers.count().now -= 1;
        self.sandboxes.wait_for_callers(&self.entry);
    }
}

impl Sandboxes {
    /// Makes the sandbox of a run, or finds the one that was made under the same
    /// key. `again`: the caller has followed it before.
    pub async fn begin_run(
        self: &Arc<Self>,
        owner: &str,
        key: &str,
        canonical: &[u8],
        wanted: Wanted,
        again: bool,
    ) -> Result<(Arc<Record>, Arc<Live>, Caller)> {
        let record = self.create_by("RunOnce", owner, key, canonical, wanted).await?;
        let entry = self.entry(owner, &record.id)?;
        entry.callers.come();
        let caller = Caller { sandboxes: self.clone(), entry };
        match self.live(owner, &record.id) {
            Ok(live) => Ok((caller.entry.record(), live, caller)),
            Err(error) if error.reason() == Reason::SandboxStopped && !again => {
                let message = format!("the run with this key has ended, and its output is gone: {}", error.message());
                Err(Error::new(Reason::IdempotencyKeyReused, message).with("sandbox_id", &record.id))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the sandbox of a run whose command could not be started.
    pub async fn give_up_run(self: &Arc<Self>, owner: &str, id: &str, why: &Error) -> Result<Arc<Record>> {
        let reason = format!("its command was not started: {}", why.message());
        self.end(&self.entry(owner, id)?, End::Destroyed, &reason).await
    }

    /// Ends a run's sandbox when no caller comes in time.
    pub(super) fn wait_for_callers(self: &Arc<Self>, entry: &Arc<Entry>) {
        let record = entry.record();
        let Some(grace) = record.spec.detach_grace.filter(|_| matches!(record.state, State::Running { .. })) else {
            return;
        };
        let came = entry.callers.count().came;
        let (this, entry) = (self.clone(), entry.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                // The next server waits anew.
                () = this.stopping.cancelled(), if grace > Duration::ZERO => return,
                () = tokio::time::sleep(grace) => {}
            }
            if entry.callers.stayed_away_since(came)
                && let Err(error) = this.end(&entry, End::Destroyed, "its caller has left").await
            {
                tracing::error!(sandbox = entry.record().id, %error, "the sandbox of a run was not ended; it is tried again");
            }
        });
    }

    /// Lets a task go on until it is done, also while the server stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}
