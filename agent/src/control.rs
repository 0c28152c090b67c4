//! What the server tells the agent: the execution it is part of, and its limits.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, RwLock},
};

use nullspace_proto::{
    Error, Reason, Result,
    agent::v1::{
        AssignRequest, AssignResponse, GetStatsRequest, GetStatsResponse, WatchMemoryRequest, WatchMemoryResponse,
        agent_service_server::AgentService,
    },
    validate::Checks,
};
use subtle::ConstantTimeEq as _;
use tonic::{Request, Response, Status};

use crate::{
    Config,
    cgroup::Programs,
    flow::Flow,
    log::Budget,
    memory::{self, Watch},
    prepare::{self, Prepared, doing},
    process::table::Table,
    users::Users,
};

/// Part of the sandbox's memory that logs may take: one of so many.
const LOG_SHARE: u64 = 8;
/// Part of the disk that logs may take beside it, and the most of it.
const SPOOL_SHARE: u64 = 4;
const MAX_SPOOL_BYTES: u64 = 1 << 30;

/// The execution that the agent is part of.
#[derive(Debug)]
pub struct Execution {
    /// Its id.
    pub id: Arc<str>,
    /// Environment below that of commands.
    pub envs: BTreeMap<String, String>,
    /// Where commands start.
    pub cwd: String,
    /// Relative file paths begin in `cwd`.
    pub cwd_chosen: bool,
    /// What programs may hold.
    pub memory_bytes: u64,
    programs: Option<Programs>,
    null: OwnedFd,
}

impl Execution {
    /// Refuses when programs already have as many processes as they may.
    pub fn room_for_a_process(&self) -> Result<()> {
        match self.programs.as_ref().and_then(Programs::full) {
            None => Ok(()),
            Some(limit) => {
                let message = format!("the sandbox has {limit} processes and may not have more");
                Err(Error::quota(Reason::ProcessLimitReached, "processes", message))
            }
        }
    }

    /// Where a new process joins the cgroup of programs.
    pub fn cgroup_procs(&self) -> Option<BorrowedFd<'_>> {
        self.programs.as_ref().map(Programs::procs)
    }

    /// The processes of programs, as far as a cgroup knows them.
    pub fn program_pids(&self) -> Option<Vec<i32>> {
        self.programs.as_ref().map(Programs::pids)
    }

    /// /dev/null.
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }
}

/// What is known of the execution.
pub struct Control {
    config: Config,
    users: Users,
    budget: Arc<Budget>,
    flow: Arc<Flow>,
    secret: Mutex<Vec<u8>>,
    execution: RwLock<Option<Arc<Execution>>>,
    prepared: Mutex<Option<Prepared>>,
}

impl Control {
    /// Nothing is known yet.
    pub fn new(config: Config, budget: Arc<Budget>, flow: Arc<Flow>) -> Arc<Self> {
        let users = Users::new(&config.etc);
        let (execution, prepared) = (RwLock::default(), Mutex::default());
        Arc::new(Self { config, users, budget, flow, secret: Mutex::default(), execution, prepared })
    }

    /// The sandbox's users.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Moves output from memory to disk.
    pub fn spill_logs(&self) {
        self.budget.spill();
    }

    /// The execution. SANDBOX_NOT_READY before `Assign`.
    pub fn execution(&self) -> Result<Arc<Execution>> {
        let execution = self.execution.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        execution.ok_or_else(|| Error::new(Reason::SandboxNotReady, "the agent has not been assigned yet"))
    }

    /// Whether a caller knows the secret. The file is read again when it does
    /// not: a restored sandbox has another.
    pub fn knows_secret(&self, offered: &[u8]) -> bool {
        let mut secret = self.secret.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let matches = |secret: &[u8]| !secret.is_empty() && bool::from(secret.ct_eq(offered));
        if !matches(&secret) {
            *secret = prepare::file(&self.config.control, "secret").unwrap_or_default().trim_ascii().to_vec();
        }
        matches(&secret)
    }

    /// Does what can be done before `Assign`, so that a sandbox that waits for its
    /// caller is his sooner. What fails here fails again there, and is told.
    pub fn prepare(&self) {
        *self.prepared() = Prepared::new(&self.config).ok();
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What was prepared, if it was for this execution: a restored sandbox is
    /// another.
    fn prepared_for(&self, execution_id: &str) -> Result<Prepared> {
        let is_its = |prepared: &Prepared| prepared.execution_id == execution_id.as_bytes();
        let prepared = match self.prepared().take().filter(is_its) {
            Some(prepared) => prepared,
            None => Prepared::new(&self.config)?,
        };
        if !is_its(&prepared) {
            let ours = String::from_utf8_lossy(&prepared.execution_id).into_owned();
            let message = format!("this is execution {ours:?}, not {execution_id:?}");
            return Err(Error::wrong_state(Reason::StaleIncarnation, ours, message));
        }
        Ok(prepared)
    }

    /// Becomes part of an execution. A repeated call changes nothing.
    fn assign(&self, request: AssignRequest) -> Result<()> {
        let mut checks = Checks::default();
        checks.chosen_id("execution_id", &request.execution_id);
        checks.env("envs", &request.envs);
        checks.directory("cwd", &request.cwd);
        let limits = request.limits.unwrap_or_default();
        checks.check(limits.memory_bytes >= 0, "limits.memory_bytes", || "is below 0".to_owned());
        checks.check(limits.max_processes >= 0, "limits.max_processes", || "is below 0".to_owned());
        checks.check(limits.disk_bytes >= 0, "limits.disk_bytes", || "is below 0".to_owned());
        checks.finish()?;
        let mut execution = self.execution.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        match execution.as_ref() {
            Some(known) if *known.id == *request.execution_id => return Ok(()),
            // What was read of a log in one execution may not be so in another:
            // positions rest on there being one.
            Some(known) => {
                let message = format!("this agent is part of execution {:?} and cannot change", known.id);
                return Err(Error::wrong_state(Reason::StaleIncarnation, &*known.id, message));
            }
            None => {}
        }
        let prepared = self.prepared_for(&request.execution_id)?;
        if !request.entropy.is_empty() {
            let mut pool =
                fs::OpenOptions::new().write(true).open("/dev/urandom").map_err(doing("opening the pool"))?;
            pool.write_all(&request.entropy).map_err(doing("adding entropy"))?;
        }
        fs::create_dir_all(&request.cwd).map_err(doing("making the working directory"))?;
        let (programs, null) = prepared.limited(u32::try_from(limits.max_processes).unwrap_or(0))?;
        let memory_bytes = match u64::try_from(limits.memory_bytes).unwrap_or(0) {
            0 => memory::total(),
            bytes => bytes,
        };
        self.flow.set_memory(memory_bytes);
        self.budget.set_limit(usize::try_from(memory_bytes / LOG_SHARE).unwrap_or(usize::MAX));
        let disk_bytes = u64::try_from(limits.disk_bytes).unwrap_or(0);
        self.budget.disk().set_limit((disk_bytes / SPOOL_SHARE).min(MAX_SPOOL_BYTES));
        *execution = Some(Arc::new(Execution {
            id: request.execution_id.into(),
            envs: request.envs,
            cwd: request.cwd,
            cwd_chosen: request.cwd_chosen,
            memory_bytes,
            programs,
            null,
        }));
        Ok(())
    }
}

/// AgentService.
pub struct AgentApi {
    control: Arc<Control>,
    watch: Watch,
}

impl AgentApi {
    /// The service over what the agent knows and runs.
    pub fn new(control: Arc<Control>, table: Arc<Table>) -> Self {
        Self { watch: Watch::new(control.clone(), table), control }
    }
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    async fn assign(&self, request: Request<AssignRequest>) -> Result<Response<AssignResponse>, Status> {
        self.control.assign(request.into_inner())?;
        Ok(Response::new(AssignResponse { version: env!("CARGO_PKG_VERSION").to_owned() }))
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Result<Response<GetStatsResponse>, Status> {
        let disk = rustix::fs::statvfs("/").map_err(doing("asking for the disk"))?;
        Ok(Response::new(GetStatsResponse {
            memory_used_bytes: memory::used() as i64,
            memory_total_bytes: memory::total() as i64,
            disk_used_bytes: (disk.f_blocks.saturating_sub(disk.f_bfree) * disk.f_frsize) as i64,
            disk_total_bytes: (disk.f_blocks * disk.f_frsize) as i64,
        }))
    }

    async fn watch_memory(&self, _: Request<WatchMemoryRequest>) -> Result<Response<WatchMemoryResponse>, Status> {
        self.watch.start();
        Ok(Response::new(WatchMemoryResponse {}))
    }
}
