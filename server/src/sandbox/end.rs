//! Ending a sandbox: by a call, by its timeout, because it could not be made,
//! or because its kernel died. Whatever the cause, nothing of it stays on the
//! host, and it can be tried again until that is so.

use std::sync::Arc;

use nullspace_proto::{Error, Reason, Result};

use super::{
    END_LIMIT, Entry, Sandboxes,
    record::{End, Record, State},
};

impl Sandboxes {
    /// Ends a sandbox, whether or not the caller stays.
    pub(super) async fn end(self: &Arc<Self>, entry: &Arc<Entry>, end: End, reason: &str) -> Result<Arc<Record>> {
        let (this, entry, reason) = (self.clone(), entry.clone(), reason.to_owned());
        let ending = self.tasks.spawn(async move { this.end_now(&entry, end, &reason).await });
        ending.await.map_err(|error| Error::internal(format!("ending a sandbox: {error}")))?
    }

    async fn end_now(&self, entry: &Entry, end: End, reason: &str) -> Result<Arc<Record>> {
        let _change = entry.change.lock().await;
        let record = entry.record();
        let (destroying, end) = match &record.state {
            State::Destroyed => return Ok(record),
            State::Error { .. } if end != End::Destroyed => return Ok(record),
            State::Error { .. } => return self.commit(entry, record.ended(End::Destroyed), None).await,
            // It was tried before; a call to destroy it overrules a failure.
            State::Destroying { end: earlier, .. } => {
                let end = if end == End::Destroyed { end } else { *earlier };
                (record.destroying(end, &record.reason, END_LIMIT), end)
            }
            State::Creating { .. } | State::Running { .. } => (record.destroying(end, reason, END_LIMIT), end),
        };
        let destroying = destroying.ok_or_else(|| Error::internal("a sandbox without execution is being ended"))?;
        let record = self.commit(entry, destroying, None).await?;
        if let Some(live) = entry.set_live(None) {
            live.pool.end(if end == End::Lost { Reason::AgentLost } else { Reason::SandboxStopped });
        }
        let execution = record.execution().cloned();
        if let Some(execution) = &execution {
            self.boots.engine.destroy(&execution.id).await?;
        }
        let ended = self.commit(entry, record.ended(end), None).await?;
        // Only now: a record that names a slot must be the only one that has it.
        if let Some(execution) = execution {
            self.boots.slots.release(execution.slot()).await;
        }
        Ok(ended)
    }
}
