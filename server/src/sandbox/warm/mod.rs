//! The warm pool: executions that are started ahead of need, for a creation to
//! take one instead of booting. How many there are follows demand (demand.rs);
//! they are made and removed by one task, and creations of users go first.
//!
//! A member has a record until it becomes a sandbox or is gone, so whatever
//! happens to the server, the next one finds it.

mod demand;
mod member;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nullspace_proto::{Error, Result, limits};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::demand::Demand;
pub(super) use self::member::{Member, MemberRecord, MemberState, PREFIX};
use super::boot::{Boots, Kind, Plan, Shape, Started};
use crate::store::{Condition, Store, Write};

/// How long a member's agent may take to listen.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// How long an adopted member's agent may take to answer.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// Members that are started or removed at the same time, beside each other.
const AT_ONCE: usize = 2;
/// The same when the server stops, and nobody waits for anything else.
const AT_ONCE_STOPPING: usize = 8;
/// Demand falls, and files are replaced, without a word.
const TICK: Duration = Duration::from_secs(5);
/// A start waits until no creation has come for this long, but
const QUIET: Duration = Duration::from_millis(50);
/// not for longer than this: the pool must not stay empty under steady load.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a start or a removal that failed.
const PAUSE: Duration = Duration::from_secs(10);
/// Slots that the pool leaves to creations that it cannot serve.
const SPARE_SLOTS: usize = 1;
/// How long a creation waits for a place that the pool holds.
const ROOM_LIMIT: Duration = Duration::from_secs(30);

/// How large the pool may be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Members of one shape.
    pub size: usize,
    /// Members of the default shape that are kept whatever the demand.
    pub ready: usize,
    /// MiB that all members together may take.
    pub memory_mib: usize,
}

/// The pool of this server.
pub(super) struct WarmPool {
    store: Arc<dyn Store>,
    boots: Boots,
    settings: Settings,
    state: Mutex<State>,
    changed: Notify,
    /// What must end before the server does.
    tasks: TaskTracker,
    stopping: CancellationToken,
}

#[derive(Default)]
struct State {
    demand: Demand,
    /// Free to be taken, oldest first.
    ready: Vec<Member>,
    /// Being started, or not confirmed yet.
    booting: Vec<Shape>,
    /// Found by the last start, not confirmed yet.
    found: Vec<Member>,
    /// To be removed, and being removed.
    leaving: Vec<MemberRecord>,
    removing: usize,
    /// Creations by users that run, and when the last one began.
    creating: usize,
    last_creation: Option<Instant>,
    /// Something failed: nothing is started before this.
    pause_until: Option<Instant>,
}

/// A creation by a user, for as long as it runs.
pub(super) struct Turn(Arc<WarmPool>);

impl WarmPool {
    /// An empty pool.
    pub fn new(
        store: Arc<dyn Store>,
        boots: Boots,
        settings: Settings,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self { store, boots, settings, state: Mutex::default(), changed: Notify::new(), tasks, stopping })
    }

    /// A creation of this kind begins.
    pub fn begin(self: &Arc<Self>, kind: &Kind) -> Turn {
        let now = Instant::now();
        let mut state = self.lock();
        state.demand.note(kind, now);
        state.creating += 1;
        state.last_creation = Some(now);
        Turn(self.clone())
    }

    /// Takes a ready member of a shape. Its record is the caller's to replace.
    pub fn take(&self, shape: &Shape) -> Option<Member> {
        let mut state = self.lock();
        let place = state.ready.iter().position(|member| member.record.shape == *shape)?;
        let member = state.ready.remove(place);
        drop(state);
        member.left.cancel();
        self.changed.notify_one();
        Some(member)
    }

    /// Removes a member that cannot be used.
    pub fn discard(&self, record: MemberRecord) {
        self.lock().leaving.push(record);
        self.changed.notify_one();
    }

    /// Gives up a member so that a creation has a place. `false`: it has none.
    pub async fn make_room(self: &Arc<Self>) -> bool {
        let deadline = Instant::now() + ROOM_LIMIT;
        loop {
            let (member, more) = {
                let mut state = self.lock();
                let member = (!state.ready.is_empty()).then(|| state.ready.remove(0));
                (member, !state.booting.is_empty() || !state.leaving.is_empty() || state.removing > 0)
            };
            if let Some(member) = member {
                member.left.cancel();
                tracing::info!(execution = member.record.execution.id, "a ready sandbox makes room for another");
                return self.remove(member.record).await;
            }
            if !more || Instant::now() > deadline {
                return false;
            }
            // One that is being started or removed has a place, too.
            tokio::time::sleep(QUIET).await;
            if self.boots.slots.has_room(0) {
                return true;
            }
        }
    }

    /// Takes over the members that an earlier server left: those that still run
    /// are confirmed by `keep`, the others are removed.
    pub async fn adopt(&self, records: Vec<MemberRecord>) -> Result<()> {
        for record in records {
            let started = match record.state {
                MemberState::Ready => self.boots.adopt(&record.execution).await?,
                MemberState::Booting { .. } => None,
            };
            let mut state = self.lock();
            match started {
                Some(started) => {
                    // Somebody wanted it lately.
                    state.demand.note(&record.shape.kind, Instant::now());
                    state.booting.push(record.shape.clone());
                    state.found.push(Member::new(record, started));
                }
                None => state.leaving.push(record),
            }
        }
        Ok(())
    }

    /// Keeps the pool at its size until the server stops, and then removes it.
    pub async fn keep(self: Arc<Self>) {
        let mut work = JoinSet::new();
        let found = std::mem::take(&mut self.lock().found);
        for member in found {
            work.spawn(self.clone().confirm(member));
        }
        while !self.stopping.is_cancelled() {
            self.tend(&mut work);
            tokio::select! {
                () = self.stopping.cancelled() => {}
                () = self.changed.notified() => {}
                Some(_) = work.join_next() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        // What is being started then is ready or removed after this.
        while work.join_next().await.is_some() {}
        self.empty().await;
    }

    /// Starts what is missing and removes what is too much.
    fn tend(self: &Arc<Self>, work: &mut JoinSet<()>) {
        let plans = self.plans();
        let mut state = self.lock();
        let missing = state.shed(&plans);
        if state.pause_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        while state.removing < AT_ONCE
            && let Some(record) = state.leaving.pop()
        {
            state.removing += 1;
            let this = self.clone();
            work.spawn(async move { this.remove_leaving(record).await });
        }
        let missing = plans.iter().zip(missing).flat_map(|((plan, _), count)| std::iter::repeat_n(plan, count));
        for plan in missing {
            let booting = state.booting.len();
            if booting >= AT_ONCE || !self.boots.slots.has_room(SPARE_SLOTS + booting) {
                return;
            }
            state.booting.push(plan.shape.clone());
            work.spawn(self.clone().boot(plan.clone()));
        }
    }

    /// What to have now, and how many of each.
    fn plans(&self) -> Vec<(Plan, usize)> {
        let targets = self.lock().demand.targets(&self.settings, &default_kind(), Instant::now());
        // A template that is gone has no members.
        targets.into_iter().filter_map(|(kind, target)| Some((self.boots.plan(kind).ok()?, target))).collect()
    }

    async fn boot(self: Arc<Self>, plan: Plan) {
        self.wait_quiet().await;
        if self.stopping.is_cancelled() {
            return self.booted(&plan.shape, None);
        }
        match self.make(&plan).await {
            Ok(member) => {
                tracing::debug!(execution = member.record.execution.id, "a sandbox was started ahead");
                self.booted(&plan.shape, Some(member));
            }
            Err(error) => {
                tracing::warn!(%error, "no sandbox could be started ahead");
                self.lock().pause_until = Some(Instant::now() + PAUSE);
                self.booted(&plan.shape, None);
            }
        }
    }

    /// A start has come to its end.
    fn booted(self: &Arc<Self>, shape: &Shape, member: Option<Member>) {
        let mut state = self.lock();
        if let Some(place) = state.booting.iter().position(|booting| booting == shape) {
            state.booting.swap_remove(place);
        }
        if let Some(member) = member {
            let (left, process) = (member.left.clone(), member.started.process.clone());
            let (this, id) = (self.clone(), member.record.execution.id.clone());
            state.ready.push(member);
            drop(state);
            self.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = left.cancelled() => {}
                    () = process.ended() => this.died(&id),
                }
            });
        }
        self.changed.notify_one();
    }

    fn died(&self, execution: &str) {
        let mut state = self.lock();
        let Some(place) = state.ready.iter().position(|member| member.record.execution.id == execution) else { return };
        tracing::warn!(execution, "a ready sandbox died");
        let member = state.ready.remove(place);
        state.leaving.push(member.record);
        drop(state);
        self.changed.notify_one();
    }

    /// The record of a member is on disk before the member is, and says that it
    /// is ready only once it is.
    async fn make(&self, plan: &Plan) -> Result<Member> {
        self.store.check_room()?;
        let execution = self.boots.reserve(plan.shape.kind.internet).await?;
        let booting = MemberRecord::booting(plan.shape.clone(), execution, BOOT_LIMIT);
        match self.start(plan, &booting).await {
            Ok(started) => Ok(Member::new(booting.ready(), started)),
            Err(error) => {
                self.remove(booting).await;
                Err(error)
            }
        }
    }

    async fn start(&self, plan: &Plan, booting: &MemberRecord) -> Result<Started> {
        self.commit(vec![Condition::Absent(booting.key())], booting.put()?).await?;
        let started = self.boots.start(plan, &booting.execution).await?;
        started.wait_listening(BOOT_LIMIT).await?;
        self.commit(vec![booting.stored()?], booting.ready().put()?).await?;
        Ok(started)
    }

    /// A member of an earlier server is one if its agent says so.
    async fn confirm(self: Arc<Self>, member: Member) {
        let shape = member.record.shape.clone();
        match member.started.wait_listening(CONFIRM_LIMIT).await {
            Ok(()) => {
                tracing::debug!(execution = member.record.execution.id, "a sandbox started ahead was adopted");
                self.booted(&shape, Some(member));
            }
            Err(error) => {
                tracing::warn!(execution = member.record.execution.id, %error, "a ready sandbox is not taken over");
                self.discard(member.record);
                self.booted(&shape, None);
            }
        }
    }

    async fn remove_leaving(&self, record: MemberRecord) {
        self.remove(record).await;
        self.lock().removing -= 1;
        self.changed.notify_one();
    }

    /// Removes all that a member has, and tries again later if that fails.
    async fn remove(&self, record: MemberRecord) -> bool {
        match self.remove_all(&record).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(execution = record.execution.id, %error, "a ready sandbox was not removed; it is tried again");
                let mut state = self.lock();
                state.pause_until = Some(Instant::now() + PAUSE);
                state.leaving.push(record);
                false
            }
        }
    }

    async fn remove_all(&self, record: &MemberRecord) -> Result<()> {
        self.boots.engine.destroy(&record.execution.id).await?;
        self.commit(vec![], Write::Delete(record.key())).await?;
        // Only now: a record that names a slot must be the only one that has it.
        self.boots.slots.release(record.execution.slot()).await;
        Ok(())
    }

    /// Removes all members: those that are ready, and those that were to go.
    pub async fn empty(self: &Arc<Self>) {
        let records: Vec<_> = {
            let mut state = self.lock();
            let ready = std::mem::take(&mut state.ready).into_iter();
            let leaving = std::mem::take(&mut state.leaving);
            ready.inspect(|member| member.left.cancel()).map(|member| member.record).chain(leaving).collect()
        };
        let mut work = JoinSet::new();
        for record in records {
            if work.len() == AT_ONCE_STOPPING {
                work.join_next().await;
            }
            let this = self.clone();
            work.spawn(async move { this.remove(record).await });
        }
        work.join_all().await;
    }

    async fn commit(&self, conditions: Vec<Condition>, write: Write) -> Result<()> {
        let changed = || Error::internal("a member's record was changed by somebody else");
        if self.store.commit(conditions, vec![write]).await? { Ok(()) } else { Err(changed()) }
    }

    /// Creations of users go first.
    async fn wait_quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let quiet = {
                let state = self.lock();
                state.creating == 0 && state.last_creation.is_none_or(|last| last.elapsed() >= QUIET)
            };
            if quiet || Instant::now() > deadline || self.stopping.is_cancelled() {
                return;
            }
            tokio::time::sleep(QUIET).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends members away that are too many, or of files that were replaced, and
    /// tells how many are missing of each plan.
    fn shed(&mut self, plans: &[(Plan, usize)]) -> Vec<usize> {
        let mut missing: Vec<_> = plans.iter().map(|(_, target)| *target).collect();
        let mut counts = |shape: &Shape| {
            let place = plans.iter().zip(&mut missing).find(|((plan, _), left)| plan.shape == *shape && **left > 0);
            place.map(|(_, left)| *left -= 1).is_some()
        };
        for member in std::mem::take(&mut self.ready) {
            if counts(&member.record.shape) {
                self.ready.push(member);
            } else {
                member.left.cancel();
                self.leaving.push(member.record);
            }
        }
        for shape in &self.booting {
            counts(shape);
        }
        missing
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().creating -= 1;
    }
}

/// What a caller gets who chooses nothing.
fn default_kind() -> Kind {
    Kind {
        template: limits::DEFAULT_TEMPLATE.to_owned(),
        vcpus: limits::DEFAULT_VCPUS,
        memory_mib: limits::DEFAULT_MEMORY_MIB,
        disk_mib: limits::DEFAULT_DISK_MIB,
        internet: true,
    }
}
