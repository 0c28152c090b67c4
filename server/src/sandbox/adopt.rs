//! What a server finds when it starts: sandboxes that went on without it, and
//! the remains of what an earlier one began.

use std::{collections::BTreeSet, sync::Arc};

use nullspace_proto::Result;

use super::{
    Entry, Sandboxes,
    live::Live,
    rebuild::Known,
    record::{End, Execution, Record, State},
    warm::MemberRecord,
};
use crate::store::recover::Origin;

impl Sandboxes {
    /// Takes over every sandbox that runs, ends what an earlier server left in
    /// the middle, and removes what has no record.
    pub async fn adopt(self: &Arc<Self>, origin: Origin) -> Result<()> {
        let Known { records, members } = self.read_records(origin).await?;
        let entries: Vec<_> = records.into_iter().map(|record| Entry::new(record, true)).collect();
        let held = entries.iter().filter_map(|entry| {
            let record = entry.record();
            Some((record.execution()?.slot(), record.spec.internet))
        });
        let waiting = members.iter().map(|member| (member.execution.slot(), member.shape.kind.internet));
        self.boots.slots.adopt(&held.chain(waiting).collect::<Vec<_>>()).await?;
        self.remove_unknown(&entries, &members).await?;
        self.warm.adopt(members).await?;
        for entry in entries {
            self.deadlines.note(&entry.record());
            self.insert(entry.clone());
            self.adopt_one(&entry).await?;
        }
        Ok(())
    }

    async fn remove_unknown(&self, entries: &[Arc<Entry>], members: &[MemberRecord]) -> Result<()> {
        let sandboxes = entries.iter().filter_map(|entry| Some(entry.record().execution()?.id.clone()));
        let members = members.iter().map(|member| member.execution.id.clone());
        let known: BTreeSet<_> = sandboxes.chain(members).collect();
        for execution in self.boots.engine.executions().await?.difference(&known) {
            tracing::warn!(execution, "removing an execution that has no record");
            if let Err(error) = self.boots.engine.destroy(execution).await {
                tracing::error!(execution, %error, "an execution without record was not removed");
            }
        }
        Ok(())
    }

    async fn adopt_one(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        let record = entry.record();
        match &record.state {
            State::Running { execution } => match self.take_over(&record, execution.clone()).await? {
                Some(live) => {
                    tracing::info!(sandbox = record.id, "adopted");
                    self.note(&record);
                    self.watch(entry, live);
                    self.wait_for_callers(entry);
                }
                None => self.finish(entry, End::Lost, "its kernel died while the server was away").await,
            },
            State::Creating { .. } => {
                self.finish(entry, End::Destroyed, "the server stopped while it was being made").await
            }
            State::Destroying { end, .. } => self.finish(entry, *end, &record.reason).await,
            State::Destroyed | State::Error { .. } => {}
        }
        Ok(())
    }

    async fn take_over(&self, record: &Record, execution: Execution) -> Result<Option<Arc<Live>>> {
        let Some(started) = self.boots.adopt(&execution).await? else { return Ok(None) };
        let live = Live::new(record.id.clone(), record.incarnation, execution, started.agent, started.process);
        Ok(Some(Arc::new(live)))
    }

    async fn finish(self: &Arc<Self>, entry: &Arc<Entry>, end: End, reason: &str) {
        let record = entry.record();
        tracing::warn!(sandbox = record.id, reason, "ending what an earlier server left");
        if let Err(error) = self.end(entry, end, reason).await {
            tracing::error!(sandbox = record.id, %error, "not ended; it is tried again");
            self.deadlines.try_again(&entry.record());
        }
    }
}
