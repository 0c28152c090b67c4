//! What runs sandboxes: engines, the network slots they run in, and the
//! content-addressed files they run from.

pub mod assets;
pub mod command;
mod event;
pub mod gvisor;
pub mod network;
mod passage;
pub mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
};

use nullspace_proto::Result;

use self::{assets::Template, process::Process};

/// Runs executions of sandboxes. An execution is addressed by its id; every
/// call but `create` may be repeated.
#[tonic::async_trait]
pub trait Engine: Send + Sync + 'static {
    /// As in Sandbox.engine.
    fn name(&self) -> &'static str;

    /// What its binary says of itself.
    fn version(&self) -> &str;

    /// SHA-256 of its binary, in hexadecimal.
    fn digest(&self) -> &str;

    /// Starts an execution's agent. On failure nothing is left behind.
    async fn create(&self, launch: &Launch) -> Result<Process>;

    /// Finds an execution that an earlier server started. `None`: it is not
    /// running any more.
    async fn adopt(&self, execution: &str) -> Result<Option<Process>>;

    /// Executions that have anything on this host, running or not.
    async fn executions(&self) -> Result<BTreeSet<String>>;

    /// Keeps bytes beside an execution, which may not have been started yet. They
    /// go away with it.
    fn note(&self, execution: &str, note: &[u8]) -> Result<()>;

    /// What was kept beside executions, in the order of their ids.
    fn notes(&self) -> Result<BTreeMap<String, Vec<u8>>>;

    /// What an execution uses.
    async fn usage(&self, execution: &str) -> Result<Usage>;

    /// Resolves when the memory of an execution comes near its limit.
    async fn memory_pressure(&self, execution: &str, memory_mib: i32) -> Result<()>;

    /// Ends an execution and removes all that it has on this host.
    async fn destroy(&self, execution: &str) -> Result<()>;

    /// Removes what the engine keeps on the host beside executions, unless there
    /// are any.
    async fn close(&self) -> Result<()>;
}

/// What an engine needs to start an execution.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The execution's id, 26 characters.
    pub execution: String,
    /// The root file system, shared and read-only.
    pub template: Template,
    /// The directory that has the agent's binary.
    pub agent: PathBuf,
    /// Processors.
    pub vcpus: i32,
    /// Memory that programs may hold, in MiB.
    pub memory_mib: i32,
    /// Writable disk, in MiB.
    pub disk_mib: i32,
    /// The network namespace.
    pub netns: PathBuf,
    /// Files of the control directory, by name.
    pub control: Vec<(&'static str, String)>,
}

/// What an execution uses, as the host sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time since the start, in nanoseconds.
    pub cpu_nanoseconds: u64,
}

/// Where an execution is on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Of the sandbox.
    pub guest: Ipv4Addr,
    /// Of the host's end.
    pub host: Ipv4Addr,
}
