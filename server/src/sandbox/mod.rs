//! The domain: every sandbox of this server, its states and their changes.
//! A change is written to the store before it is believed, and one change of a
//! sandbox happens at a time.

mod adopt;
mod boot;
mod create;
mod deadlines;
mod end;
pub mod list;
pub mod live;
pub mod metrics;
mod rebuild;
pub mod record;
pub mod run_once;
pub mod warm;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nullspace_proto::{Error, Reason, Result, id};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    boot::{Boots, Kind, Plan},
    deadlines::Deadlines,
    live::Live,
    metrics::Samples,
    record::{Record, Spec, State},
    run_once::Callers,
    warm::WarmPool,
};
use crate::{
    runtime::{Engine, assets::Assets, network::Slots},
    store::{
        Condition, Store, Write, decode, encode,
        idempotency::{Begin, Idempotency},
    },
};

const PREFIX: &str = "sandbox/";
/// How long ending a sandbox may take before it is tried again.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Every sandbox of this server.
pub struct Sandboxes {
    store: Arc<dyn Store>,
    idempotency: Arc<Idempotency>,
    boots: Boots,
    warm: Arc<WarmPool>,
    /// By id, which is by time of creation.
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    deadlines: Deadlines,
    /// What must end before the server does.
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// One sandbox.
struct Entry {
    record: Mutex<Arc<Record>>,
    /// `record` is in the store.
    stored: AtomicBool,
    live: Mutex<Option<Arc<Live>>>,
    /// Held for a change of state.
    change: tokio::sync::Mutex<()>,
    samples: Samples,
    /// Callers of its run.
    callers: Callers,
}

impl Entry {
    fn new(record: Record, stored: bool) -> Arc<Self> {
        Arc::new(Self {
            record: Mutex::new(Arc::new(record)),
            stored: AtomicBool::new(stored),
            live: Mutex::default(),
            change: tokio::sync::Mutex::default(),
            samples: Samples::default(),
            callers: Callers::default(),
        })
    }

    fn record(&self) -> Arc<Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn live(&self) -> Option<Arc<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_live(&self, live: Option<Arc<Live>>) -> Option<Arc<Live>> {
        std::mem::replace(&mut *self.live.lock().unwrap_or_else(PoisonError::into_inner), live)
    }
}

impl Sandboxes {
    /// No sandboxes yet; `adopt` finds those that are there.
    pub fn new(
        store: Arc<dyn Store>,
        idempotency: Arc<Idempotency>,
        engine: Arc<dyn Engine>,
        assets: Assets,
        slots: Arc<Slots>,
        pool: warm::Settings,
    ) -> Arc<Self> {
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let boots = Boots { engine, assets, slots };
        let warm = WarmPool::new(store.clone(), boots.clone(), pool, tasks.clone(), stopping.clone());
        Arc::new(Self {
            store,
            idempotency,
            boots,
            warm,
            entries: RwLock::default(),
            deadlines: Deadlines::default(),
            tasks,
            stopping,
        })
    }

    /// Reads a sandbox of an owner. Never wakes it.
    pub fn get(&self, owner: &str, id: &str) -> Result<Arc<Record>> {
        Ok(self.entry(owner, id)?.record())
    }

    /// The way into a running sandbox of an owner.
    pub fn live(&self, owner: &str, id: &str) -> Result<Arc<Live>> {
        let entry = self.entry(owner, id)?;
        if let Some(live) = entry.live() {
            return Ok(live);
        }
        Err(not_running(&entry.record()))
    }

    /// Makes sure that a sandbox runs, and lets it live at least `lifetime` from
    /// now.
    pub async fn connect(&self, owner: &str, id: &str, lifetime: Option<Duration>) -> Result<Arc<Record>> {
        let entry = self.entry(owner, id)?;
        let _change = entry.change.lock().await;
        let record = entry.record();
        if !matches!(record.state, State::Running { .. }) {
            return Err(not_running(&record));
        }
        let Some(lifetime) = lifetime else { return Ok(record) };
        let extended = record.with_lifetime(Some(lifetime));
        // No end at all is later than any.
        let shortens = record.expires_at.is_none_or(|end| extended.expires_at.is_some_and(|new| new <= end));
        if shortens { Ok(record) } else { self.commit(&entry, extended, None).await }
    }

    /// Sets how long a sandbox lives from now. Zero ends it.
    pub async fn set_lifetime(
        self: &Arc<Self>,
        owner: &str,
        id: &str,
        key: &str,
        canonical: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Arc<Record>> {
        let entry = self.entry(owner, id)?;
        let ticket = match self.idempotency.begin(owner, "SetSandboxTimeout", key, canonical).await? {
            Begin::Answered(bytes) => return decode(key, &bytes).map(Arc::new),
            Begin::First(ticket) => ticket,
        };
        let record = {
            let _change = entry.change.lock().await;
            let record = entry.record();
            if !matches!(record.state, State::Running { .. }) {
                return Err(not_running(&record));
            }
            let changed = record.with_lifetime(lifetime);
            let answer = encode(&changed)?;
            self.commit(&entry, changed, ticket.outcome(answer)?).await?
        };
        if lifetime == Some(Duration::ZERO) {
            return self.end(&entry, record::End::Destroyed, "its timeout was set to now").await;
        }
        Ok(record)
    }

    /// Ends a sandbox of an owner.
    pub async fn destroy(self: &Arc<Self>, owner: &str, id: &str) -> Result<Arc<Record>> {
        let entry = self.entry(owner, id)?;
        self.end(&entry, record::End::Destroyed, "destroyed by a call").await
    }

    /// Templates, for capabilities.
    pub fn assets(&self) -> &Assets {
        &self.boots.assets
    }

    /// The engine, for capabilities.
    pub fn engine(&self) -> &dyn Engine {
        &*self.boots.engine
    }

    /// Sandboxes at once, for capabilities.
    pub fn max(&self) -> usize {
        self.boots.slots.max()
    }

    /// Keeps the warm pool until the server stops.
    pub async fn keep_warm(&self) {
        self.warm.clone().keep().await;
    }

    /// Takes no new work, and ends the streams into sandboxes: clients attach
    /// again to the next server.
    pub fn stop(&self) {
        self.stopping.cancel();
        for entry in self.all() {
            if let Some(live) = entry.set_live(None) {
                live.pool.end(Reason::ServerStopping);
            }
        }
    }

    /// Waits for changes that are under way, and leaves every sandbox running.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.warm.empty().await;
        self.boots.slots.close().await;
        if let Err(error) = self.boots.engine.close().await {
            tracing::error!(%error, "the engine was not closed");
        }
    }

    fn entry(&self, owner: &str, id: &str) -> Result<Arc<Entry>> {
        let unknown = || {
            Error::not_found(Reason::SandboxNotFound, "sandbox", id.get(..id::MAX_LEN).unwrap_or(id))
                .with("sandbox_id", id)
        };
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(id).ok_or_else(unknown)?;
        if entry.record().owner == owner { Ok(entry.clone()) } else { Err(unknown()) }
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn insert(&self, entry: Arc<Entry>) {
        let id = entry.record().id.clone();
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
    }

    /// Writes a record, and believes it then. The caller holds `change`.
    async fn commit(&self, entry: &Entry, record: Record, also: Option<Write>) -> Result<Arc<Record>> {
        self.commit_with(entry, record, vec![], also).await
    }

    /// The same, if further conditions hold and with further writes.
    async fn commit_with(
        &self,
        entry: &Entry,
        record: Record,
        mut conditions: Vec<Condition>,
        also: impl IntoIterator<Item = Write>,
    ) -> Result<Arc<Record>> {
        let key = format!("{PREFIX}{}", record.id);
        conditions.push(if entry.stored.load(Ordering::Acquire) {
            Condition::Equals(key.clone(), encode(&*entry.record())?)
        } else {
            Condition::Absent(key.clone())
        });
        let mut writes = vec![Write::Put(key, encode(&record)?)];
        writes.extend(also);
        if !self.store.commit(conditions, writes).await? {
            return Err(Error::internal(format!("the record of sandbox {} was changed by somebody else", record.id)));
        }
        entry.stored.store(true, Ordering::Release);
        let record = Arc::new(record);
        *entry.record.lock().unwrap_or_else(PoisonError::into_inner) = record.clone();
        self.note(&record);
        self.deadlines.note(&record);
        Ok(record)
    }
}

/// Why a sandbox takes no calls.
fn not_running(record: &Record) -> Error {
    let id = &record.id;
    let (reason, message) = match record.state {
        State::Creating { .. } | State::Running { .. } => {
            return Error::new(Reason::SandboxNotReady, format!("sandbox {id} is not ready yet"))
                .with("sandbox_id", id);
        }
        State::Error { lost: true } | State::Destroying { end: record::End::Lost, .. } => {
            (Reason::AgentLost, format!("the kernel of sandbox {id} died"))
        }
        _ => (Reason::SandboxStopped, format!("sandbox {id} was stopped: {}", record.reason)),
    };
    Error::wrong_state(reason, id, message).with("sandbox_id", id)
}

/// What a caller asks a sandbox to be; `Spec` is what it becomes.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// A template's name.
    pub template: String,
    /// Processors.
    pub vcpus: i32,
    /// MiB.
    pub memory_mib: i32,
    /// MiB.
    pub disk_mib: i32,
    /// `None`: for ever.
    pub lifetime: Option<Duration>,
    /// An encoded google.protobuf.Struct.
    pub metadata: Vec<u8>,
    /// Below those of commands.
    pub envs: BTreeMap<String, String>,
    /// Empty: the template's.
    pub cwd: String,
    /// It may reach other networks.
    pub internet: bool,
    /// It is there for one run, and waits so long for a caller.
    pub detach_grace: Option<Duration>,
}

impl Sandboxes {
    fn resolve(&self, wanted: Wanted) -> Result<(Spec, Plan)> {
        let plan = self.boots.plan(wanted.kind())?;
        let template = &plan.template;
        let cwd_chosen = !wanted.cwd.is_empty();
        let spec = Spec {
            template: wanted.template,
            template_digest: template.digest.clone(),
            engine: plan.shape.engine.clone(),
            vcpus: wanted.vcpus,
            memory_mib: wanted.memory_mib,
            disk_mib: wanted.disk_mib,
            lifetime: wanted.lifetime,
            metadata: wanted.metadata,
            envs: wanted.envs,
            cwd: if cwd_chosen { wanted.cwd } else { template.workdir.clone() },
            cwd_chosen,
            internet: wanted.internet,
            detach_grace: wanted.detach_grace,
        };
        Ok((spec, plan))
    }
}

impl Wanted {
    fn kind(&self) -> Kind {
        Kind {
            template: self.template.clone(),
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
            internet: self.internet,
        }
    }
}
