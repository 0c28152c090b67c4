//! Sandboxes that exist for one run: a key runs once, and never again.

use nullspace_proto::{Error, Reason, Result};

use super::Sandboxes;
use crate::store::idempotency::{Begin, Ticket};

impl Sandboxes {
    /// Admits a run. A key whose run has ended is refused: its output is gone.
    pub async fn begin_run(&self, owner: &str, key: &str, canonical: &[u8]) -> Result<Ticket> {
        match self.idempotency.begin(owner, "RunOnce", key, canonical).await? {
            Begin::First(ticket) => Ok(ticket),
            Begin::Answered(_) => {
                Err(Error::new(Reason::IdempotencyKeyReused, "this run has ended, and its output is gone with it"))
            }
        }
    }

    /// Records that a run has ended.
    pub async fn end_run(&self, ticket: &Ticket) -> Result<()> {
        if let Some(write) = ticket.outcome(Vec::new())? {
            self.store.commit(vec![], vec![write]).await?;
        }
        Ok(())
    }

    /// Lets a task go on until it is done, also while the server stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}
