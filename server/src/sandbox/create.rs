//! Making a sandbox. Its record is written before anything of it is on the
//! host, so that a server that dies at any point finds it again.

use std::{sync::Arc, time::Duration};

use nullspace_proto::{Error, Reason, Result, id};

use super::{
    Entry, Sandboxes, Wanted,
    boot::{Plan, Started},
    live::Live,
    record::{Before, End, Execution, Record},
    warm::{Member, MemberRecord},
};
use crate::store::{
    Write, decode, encode,
    idempotency::{Begin, Ticket},
};

/// How long making a sandbox may take.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// How long its agent may take to answer.
const ASSIGN_LIMIT: Duration = Duration::from_secs(20);
/// The same for one that listens already: another is started after this.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);

impl Sandboxes {
    /// Makes a sandbox and answers when it runs. It is made whether or not the
    /// caller stays. `canonical` is the request without its key.
    pub async fn create(
        self: &Arc<Self>,
        owner: &str,
        key: &str,
        canonical: &[u8],
        wanted: Wanted,
    ) -> Result<Arc<Record>> {
        self.create_by("CreateSandbox", owner, key, canonical, wanted).await
    }

    /// The same for another method: its keys are its own.
    pub(super) async fn create_by(
        self: &Arc<Self>,
        method: &'static str,
        owner: &str,
        key: &str,
        canonical: &[u8],
        wanted: Wanted,
    ) -> Result<Arc<Record>> {
        let ticket = match self.idempotency.begin(owner, method, key, canonical).await? {
            Begin::Answered(bytes) => {
                let record: Record = decode(key, &bytes)?;
                // The first call may have written it and be about to let calls in.
                if let Ok(entry) = self.entry(owner, &record.id) {
                    drop(entry.change.lock().await);
                }
                return Ok(Arc::new(record));
            }
            Begin::First(ticket) => ticket,
        };
        if self.stopping.is_cancelled() {
            return Err(Error::new(Reason::ServerStopping, "the server is stopping"));
        }
        let (this, owner) = (self.clone(), owner.to_owned());
        let making = self.tasks.spawn(async move { this.make(owner, wanted, ticket).await });
        making.await.map_err(|error| Error::internal(format!("making a sandbox: {error}")))?
    }

    async fn make(self: Arc<Self>, owner: String, wanted: Wanted, ticket: Ticket) -> Result<Arc<Record>> {
        let (spec, plan) = self.resolve(wanted)?;
        self.store.check_room()?;
        let _turn = self.warm.begin(&plan.shape.kind);
        let member = self.warm.take(&plan.shape);
        let execution = match &member {
            Some(member) => member.record.execution.clone(),
            None => self.reserve(plan.shape.kind.internet).await?,
        };
        let entry = Entry::new(Record::creating(id::sandbox(), owner, spec, execution, CREATE_LIMIT), false);
        let change = entry.change.lock().await;
        let member = self.begin(&entry, member).await?;
        self.insert(entry.clone());
        let live = match self.start(&entry, &plan, member).await {
            Ok(live) => live,
            Err(error) => {
                drop(change);
                let id = entry.record().id.clone();
                if let Err(error) = self.clone().end(&entry, End::Failed, error.message()).await {
                    tracing::error!(sandbox = id, %error, "a sandbox that did not start was not removed");
                }
                return Err(error.with("sandbox_id", id));
            }
        };
        let running = entry.record().running(live.execution.clone());
        let answer = encode(&running)?;
        match self.commit(&entry, running, ticket.outcome(answer)?).await {
            Ok(record) => {
                self.watch(&entry, live);
                Ok(record)
            }
            Err(error) => {
                drop(change);
                self.clone().end(&entry, End::Failed, "its record could not be written").await?;
                Err(error)
            }
        }
    }

    /// An execution that has a slot. One that the pool holds is no reason to
    /// refuse a sandbox.
    async fn reserve(&self, internet: bool) -> Result<Execution> {
        loop {
            match self.boots.reserve(internet).await {
                Err(error) if error.reason() == Reason::CapacityExceeded => {
                    if !self.warm.make_room().await {
                        return Err(error);
                    }
                }
                reserved => return reserved,
            }
        }
    }

    /// Writes the first record. A member's record becomes the sandbox's in the
    /// same commit, so that at any moment exactly one of them has the execution.
    async fn begin(&self, entry: &Entry, member: Option<Member>) -> Result<Option<Member>> {
        let record = (*entry.record()).clone();
        let committed = match &member {
            Some(member) => {
                let (taken, from) = (Write::Delete(member.record.key()), member.record.stored()?);
                self.commit_with(entry, record, vec![from], [taken]).await
            }
            None => self.commit(entry, record.clone(), None).await,
        };
        match (committed, member) {
            (Ok(_), member) => Ok(member),
            (Err(error), Some(member)) => {
                self.warm.discard(member.record);
                Err(error)
            }
            (Err(error), None) => {
                if let Some(execution) = entry.record().execution() {
                    self.boots.slots.release(execution.slot()).await;
                }
                Err(error)
            }
        }
    }

    /// Starts the sandbox's execution, unless it was a member of the pool, and
    /// tells its agent what it is part of.
    async fn start(&self, entry: &Entry, plan: &Plan, member: Option<Member>) -> Result<Arc<Live>> {
        if let Some(member) = member {
            let Member { record: member, started, .. } = member;
            match self.claim(&entry.record(), member.execution.clone(), started).await {
                Ok(live) => return Ok(live),
                Err(error) => {
                    tracing::warn!(execution = member.execution.id, %error, "a ready sandbox cannot be used");
                    self.replace(entry, plan, member).await?;
                }
            }
        }
        let record = entry.record();
        let execution = record.execution().cloned().ok_or_else(|| Error::internal("nothing is being started"))?;
        let started = self.boots.start(plan, &execution).await?;
        assign(&record, execution, started, ASSIGN_LIMIT).await
    }

    /// Gives an unusable member back, to be removed, for an execution that is yet
    /// to be started.
    async fn replace(&self, entry: &Entry, plan: &Plan, member: MemberRecord) -> Result<()> {
        let execution = self.reserve(plan.shape.kind.internet).await?;
        let slot = execution.slot();
        let record = entry.record().created_from(execution, CREATE_LIMIT);
        if let Err(error) = self.commit(entry, record, Some(member.put()?)).await {
            self.boots.slots.release(slot).await;
            return Err(error);
        }
        self.warm.discard(member);
        Ok(())
    }

    /// Makes a member the sandbox's. What it used while it waited is not the
    /// sandbox's use.
    async fn claim(&self, record: &Record, mut execution: Execution, started: Started) -> Result<Arc<Live>> {
        let usage = self.boots.engine.usage(&execution.id).await?;
        let (received, sent) = self.boots.slots.traffic(execution.slot());
        execution.before = Before { cpu_nanoseconds: usage.cpu_nanoseconds, received, sent };
        assign(record, execution, started, CLAIM_LIMIT).await
    }

    /// Lets a running sandbox take calls, and notices its death.
    pub(super) fn watch(self: &Arc<Self>, entry: &Arc<Entry>, live: Arc<Live>) {
        entry.set_live(Some(live.clone()));
        let memory_mib = entry.record().spec.memory_mib;
        self.tasks.spawn(live.clone().watch_memory(self.boots.engine.clone(), memory_mib));
        let (this, entry) = (self.clone(), entry.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                _ = live.pool.wait_ended() => return,
                () = live.process.ended() => {}
            }
            tracing::error!(sandbox = live.sandbox_id, execution = live.execution.id, "the kernel of a sandbox died");
            // Its streams end now: a dead kernel sends no end of its own.
            live.pool.end(Reason::AgentLost);
            if let Err(error) = this.end(&entry, End::Lost, "its kernel died").await {
                tracing::error!(sandbox = live.sandbox_id, %error, "a dead sandbox was not removed");
            }
        });
    }
}

async fn assign(record: &Record, execution: Execution, started: Started, limit: Duration) -> Result<Arc<Live>> {
    let live = Live::new(record.id.clone(), record.incarnation, execution, started.agent, started.process);
    live.assign(&record.spec, limit).await?;
    Ok(Arc::new(live))
}
