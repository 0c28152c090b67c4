//! A running sandbox: the way to its agent, and the tasks that watch it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use nullspace_proto::{
    Error, Reason, Result,
    agent::v1::{
        AgentLimits, AssignRequest, GetStatsRequest, GetStatsResponse, WatchMemoryRequest,
        agent_service_client::AgentServiceClient,
    },
    limits::{MAX_PROCESSES, MIB},
    validate::timestamp,
};
use tonic::Request;

use super::{
    boot::AGENT_RETRY,
    record::{Execution, Spec},
};
use crate::{
    route::pool::{AgentChannel, Pool},
    runtime::{Engine, process::Process},
};

/// How long the server's own calls to an agent may take.
const AGENT_CALL: Duration = Duration::from_secs(5);
/// Memory that stays near the limit is told of this often.
const PRESSURE_PAUSE: Duration = Duration::from_secs(1);

/// What the server holds of a running sandbox.
pub struct Live {
    /// The sandbox.
    pub sandbox_id: String,
    /// Which of its executions this is.
    pub incarnation: i64,
    /// What it has on the host.
    pub execution: Execution,
    /// Connections to its agent.
    pub pool: Pool,
    /// Its kernel.
    pub process: Process,
    /// Processor time at the last sample.
    last_cpu: Mutex<Option<(SystemTime, u64)>>,
}

impl Live {
    /// Holds a running execution.
    pub fn new(sandbox_id: String, incarnation: i64, execution: Execution, pool: Pool, process: Process) -> Self {
        Self { sandbox_id, incarnation, execution, pool, process, last_cpu: Mutex::default() }
    }

    fn agent(&self) -> AgentServiceClient<AgentChannel> {
        AgentServiceClient::new(AgentChannel(self.pool.clone()))
    }

    /// Tells the agent what it is part of, as soon as it answers. Ends early if
    /// the kernel dies.
    pub async fn assign(&self, spec: &Spec, limit: Duration) -> Result<()> {
        let mut entropy = vec![0; 64];
        getrandom::fill(&mut entropy).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
        let request = AssignRequest {
            execution_id: self.execution.id.clone(),
            envs: spec.envs.clone(),
            cwd: spec.cwd.clone(),
            cwd_chosen: spec.cwd_chosen,
            limits: Some(AgentLimits {
                memory_bytes: i64::from(spec.memory_mib) * MIB as i64,
                max_processes: MAX_PROCESSES,
                disk_bytes: i64::from(spec.disk_mib) * MIB as i64,
            }),
            entropy: entropy.into(),
            now: None,
        };
        let assigning = async {
            loop {
                let request = AssignRequest { now: Some(timestamp(SystemTime::now())), ..request.clone() };
                match self.agent().assign(request).await {
                    Ok(_) => return Ok(()),
                    Err(status) if Error::reason_of(&status) == Some(Reason::AgentUnreachable) => {
                        tokio::time::sleep(AGENT_RETRY).await
                    }
                    Err(status) => return Err(Error::from(status).while_doing("assigning the agent")),
                }
            }
        };
        tokio::select! {
            assigned = tokio::time::timeout(limit, assigning) => {
                assigned.map_err(|_| Error::new(Reason::SandboxStartFailed, "the sandbox's agent did not answer in time"))?
            }
            () = self.process.ended() => Err(Error::new(Reason::SandboxStartFailed, "the sandbox ended at its start")),
        }
    }

    /// What only the sandbox's own kernel knows.
    pub async fn stats(&self) -> Result<GetStatsResponse> {
        let mut request = Request::new(GetStatsRequest {});
        request.set_timeout(AGENT_CALL);
        let mut agent = self.agent();
        let asked = tokio::time::timeout(AGENT_CALL, agent.get_stats(request)).await;
        let answer =
            asked.map_err(|_| Error::new(Reason::AgentUnreachable, "the sandbox's agent did not answer in time"))?;
        Ok(answer?.into_inner())
    }

    /// Processor use since the sample before, in percent of one processor.
    pub fn cpu_percent(&self, now: SystemTime, cpu_nanoseconds: u64, since: SystemTime) -> f64 {
        let mut last = self.last_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, before) =
            last.replace((now, cpu_nanoseconds)).unwrap_or((since, self.execution.before.cpu_nanoseconds));
        let elapsed = now.duration_since(then).unwrap_or_default().as_nanos();
        if elapsed == 0 { 0.0 } else { cpu_nanoseconds.saturating_sub(before) as f64 * 100.0 / elapsed as f64 }
    }

    /// Passes the host's word about memory to the agent, for as long as the
    /// sandbox runs.
    pub async fn watch_memory(self: Arc<Self>, engine: Arc<dyn Engine>, memory_mib: i32) {
        let watching = async {
            loop {
                engine.memory_pressure(&self.execution.id, memory_mib).await?;
                tracing::debug!(sandbox = self.sandbox_id, "memory is near its limit");
                let mut agent = self.agent();
                let told = tokio::time::timeout(AGENT_CALL, agent.watch_memory(WatchMemoryRequest {})).await;
                if let Ok(Err(status)) = told {
                    tracing::warn!(sandbox = self.sandbox_id, %status, "the agent was not told of its memory");
                }
                // The agent watches for longer than this once it was told.
                tokio::time::sleep(PRESSURE_PAUSE).await;
            }
        };
        let outcome: Result<()> = tokio::select! {
            biased;
            // The control group goes away with the sandbox.
            _ = self.pool.wait_ended() => return,
            outcome = watching => outcome,
        };
        // One that ended while this began has no control group to watch.
        if let Err(error) = outcome
            && self.pool.ended().is_none()
        {
            tracing::error!(sandbox = self.sandbox_id, %error, "memory is not watched");
        }
    }
}
