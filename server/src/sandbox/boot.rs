//! Starting executions: what a new sandbox and a member of the warm pool have
//! in common. Nothing here is of one sandbox; that comes with `Assign`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use nullspace_proto::{
    Error, Reason, Result,
    agent::v1::{GetStatsRequest, agent_service_client::AgentServiceClient},
    id,
};
use serde::{Deserialize, Serialize};

use super::record::Execution;
use crate::{
    route::pool::{AgentChannel, Pool},
    runtime::{
        Engine, Launch,
        assets::{Assets, Template},
        network::Slots,
        process::Process,
    },
};

/// How often a starting agent is tried.
pub(super) const AGENT_RETRY: Duration = Duration::from_millis(3);

/// What a caller can choose of an execution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Kind {
    /// A template's name.
    pub template: String,
    /// Processors.
    pub vcpus: i32,
    /// MiB.
    pub memory_mib: i32,
    /// MiB.
    pub disk_mib: i32,
    /// It may reach other networks.
    pub internet: bool,
}

/// A kind, and the files that stand for it now. Executions of one shape can
/// stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub kind: Kind,
    pub template_digest: String,
    pub agent_digest: String,
    pub engine: String,
    pub engine_digest: String,
}

/// All that a start needs to know.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub shape: Shape,
    pub template: Template,
    agent: PathBuf,
}

/// Starts executions on this host.
#[derive(Clone)]
pub(super) struct Boots {
    pub engine: Arc<dyn Engine>,
    pub assets: Assets,
    pub slots: Arc<Slots>,
}

/// A running execution, and the way to its agent.
pub(super) struct Started {
    pub agent: Pool,
    pub process: Process,
}

impl Boots {
    /// What an execution of this kind is started from, as of now.
    pub fn plan(&self, kind: Kind) -> Result<Plan> {
        let (template, agent) = (self.assets.template(&kind.template)?, self.assets.agent()?);
        let agent_digest = agent.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shape = Shape {
            kind,
            template_digest: template.digest.clone(),
            agent_digest,
            engine: self.engine.name().to_owned(),
            engine_digest: self.engine.digest().to_owned(),
        };
        Ok(Plan { shape, template, agent })
    }

    /// A name, a slot and a secret for an execution.
    pub async fn reserve(&self, internet: bool) -> Result<Execution> {
        let secret = random_secret()?;
        let slot = self.slots.take(internet).await?;
        Ok(Execution { id: id::ulid(), slot: slot.number(), secret, before: Default::default() })
    }

    /// Starts an execution. On failure nothing of it is left but its slot.
    pub async fn start(&self, plan: &Plan, execution: &Execution) -> Result<Started> {
        let kind = &plan.shape.kind;
        let launch = Launch {
            execution: execution.id.clone(),
            template: plan.template.clone(),
            agent: plan.agent.clone(),
            vcpus: kind.vcpus,
            memory_mib: kind.memory_mib,
            disk_mib: kind.disk_mib,
            netns: self.slots.netns(execution.slot()),
            control: self.control(kind.internet, execution),
        };
        let process = self.engine.create(&launch).await?;
        self.started(execution, process)
    }

    /// Finds an execution that an earlier server started. `None`: it does not
    /// run any more.
    pub async fn adopt(&self, execution: &Execution) -> Result<Option<Started>> {
        let process = self.engine.adopt(&execution.id).await?;
        process.map(|process| self.started(execution, process)).transpose()
    }

    fn started(&self, execution: &Execution, process: Process) -> Result<Started> {
        let agent = Pool::new(self.slots.address(execution.slot()), &execution.secret)?;
        Ok(Started { agent, process })
    }

    /// What the agent finds in its control directory.
    fn control(&self, internet: bool, execution: &Execution) -> Vec<(&'static str, String)> {
        // Short, and another for each execution.
        let hostname = hostname(&execution.id);
        let resolv_conf = if internet { self.slots.resolv_conf() } else { String::new() };
        vec![
            ("execution_id", execution.id.clone()),
            ("secret", execution.secret.clone()),
            ("hosts", format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n")),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", resolv_conf),
            ("machine-id", machine_id(&execution.id)),
        ]
    }
}

impl Started {
    /// Waits until the agent answers, which is part of no sandbox yet and says
    /// so. Fails if it is part of one.
    pub async fn wait_listening(&self, limit: Duration) -> Result<()> {
        let asking = async {
            loop {
                let mut agent = AgentServiceClient::new(AgentChannel(self.agent.clone()));
                let Err(status) = agent.get_stats(GetStatsRequest {}).await else {
                    return Err(Error::internal("the agent is part of a sandbox already"));
                };
                match Error::reason_of(&status) {
                    Some(Reason::SandboxNotReady) => return Ok(()),
                    Some(Reason::AgentUnreachable) => tokio::time::sleep(AGENT_RETRY).await,
                    _ => return Err(Error::from(status).while_doing("waiting for the agent")),
                }
            }
        };
        let failed = |why: &str| Error::new(Reason::SandboxStartFailed, why);
        tokio::select! {
            asked = tokio::time::timeout(limit, asking) => {
                asked.map_err(|_| failed("the sandbox's agent did not answer in time"))?
            }
            () = self.process.ended() => Err(failed("the sandbox ended at its start")),
        }
    }
}

/// The host name of an execution.
fn hostname(execution: &str) -> String {
    let tail = execution.len().saturating_sub(10);
    format!("sandbox-{}", &execution[tail..])
}

/// 32 hexadecimal digits, its own for each execution.
fn machine_id(execution: &str) -> String {
    use sha2::Digest as _;
    format!("{}\n", hex::encode(&sha2::Sha256::digest(execution)[..16]))
}

fn random_secret() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
    Ok(hex::encode(bytes))
}
