//! Making a sandbox. Its record is written before anything of it is on the
//! host, so that a server that dies at any point finds it again.

use std::{sync::Arc, time::Duration};

use nullspace_proto::{Error, Reason, Result, id};

use super::{
    Entry, Sandboxes, Wanted,
    live::Live,
    record::{End, Execution, Record, Spec},
};
use crate::{
    route::pool::Pool,
    runtime::{Launch, assets::Template},
    store::{
        decode, encode,
        idempotency::{Begin, Ticket},
    },
};

/// How long making a sandbox may take.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// How long its agent may take to answer.
const ASSIGN_LIMIT: Duration = Duration::from_secs(20);

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
        let ticket = match self.idempotency.begin(owner, "CreateSandbox", key, canonical).await? {
            Begin::Answered(bytes) => return decode(key, &bytes).map(Arc::new),
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
        let (spec, template) = self.resolve(wanted)?;
        let agent = self.assets.agent()?;
        let slot = self.slots.take(spec.internet).await?;
        let execution = Execution { id: id::ulid(), slot: slot.number(), secret: random_secret()? };
        let record = Record::creating(id::sandbox(), owner, spec, execution.clone(), CREATE_LIMIT);
        let entry = Entry::new(record.clone(), false);
        let change = entry.change.lock().await;
        if let Err(error) = self.commit(&entry, record.clone(), None).await {
            self.slots.release(slot).await;
            return Err(error);
        }
        self.insert(entry.clone());
        let launch = self.launch(&record.spec, &execution, template, agent);
        let live = match self.start(&record, execution.clone(), &launch).await {
            Ok(live) => live,
            Err(error) => {
                drop(change);
                if let Err(error) = self.clone().end(&entry, End::Failed, error.message()).await {
                    tracing::error!(sandbox = record.id, %error, "a sandbox that did not start was not removed");
                }
                return Err(error.with("sandbox_id", &record.id));
            }
        };
        let running = record.running(execution);
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

    async fn start(&self, record: &Record, execution: Execution, launch: &Launch) -> Result<Arc<Live>> {
        let process = self.engine.create(launch).await?;
        let address = self.slots.address(execution.slot());
        let pool = Pool::new(address, &execution.secret)?;
        let live = Live::new(record.id.clone(), record.incarnation, execution, pool, process);
        live.assign(&record.spec, &hostname(&live.execution.id), ASSIGN_LIMIT).await?;
        Ok(Arc::new(live))
    }

    fn launch(&self, spec: &Spec, execution: &Execution, template: Template, agent: std::path::PathBuf) -> Launch {
        Launch {
            execution: execution.id.clone(),
            template,
            agent,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            disk_mib: spec.disk_mib,
            netns: self.slots.netns(execution.slot()),
            control: self.control(spec, execution),
        }
    }

    /// What the agent finds in its control directory.
    fn control(&self, spec: &Spec, execution: &Execution) -> Vec<(&'static str, String)> {
        // Short, and another for each execution.
        let hostname = hostname(&execution.id);
        let resolv_conf = if spec.internet { self.slots.resolv_conf() } else { String::new() };
        vec![
            ("execution_id", execution.id.clone()),
            ("secret", execution.secret.clone()),
            ("hosts", format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n")),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", resolv_conf),
            ("machine-id", machine_id(&execution.id)),
        ]
    }

    /// Lets a running sandbox take calls, and notices its death.
    pub(super) fn watch(self: &Arc<Self>, entry: &Arc<Entry>, live: Arc<Live>) {
        entry.set_live(Some(live.clone()));
        let memory_mib = entry.record().spec.memory_mib;
        self.tasks.spawn(live.clone().watch_memory(self.engine.clone(), memory_mib));
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

fn hostname(id: &str) -> String {
    let tail = id.len().saturating_sub(10);
    format!("sandbox-{}", &id[tail..])
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
