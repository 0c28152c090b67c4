//! The agent of a sandbox: PID 1, which runs commands and serves files over
//! gRPC to the server that made the sandbox. A library, so that tests can run it
//! as an ordinary process.

mod cgroup;
mod command;
mod control;
mod fault;
mod file;
mod flow;
pub mod log;
mod memory;
mod prepare;
mod process;
mod reap;
mod server;
mod spawn;
mod users;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use nullspace_proto::limits;
use tokio::net::TcpListener;

pub use spawn::begin_clean;

/// What is different in a sandbox and in a test.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The directory with the execution's id and secret, which the server writes.
    pub control: PathBuf,
    /// Where users are looked up and host files are placed.
    pub etc: PathBuf,
    /// Where relative file paths begin when nothing else says so.
    pub workspace: PathBuf,
    /// Where output lies that memory has no room for, in files without a name.
    pub spool: PathBuf,
    /// The root of cgroups. None: processes are not counted.
    pub cgroup: Option<PathBuf>,
    /// The machine is the sandbox: its name may be set.
    pub pid1: bool,
}

impl Config {
    /// As in a sandbox.
    pub fn sandbox() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, limits::AGENT_PORT).into(),
            control: "/run/nullspace/control".into(),
            etc: "/etc".into(),
            workspace: "/workspace".into(),
            // On the root overlay, like nothing else there: the mounts are beside it.
            spool: "/run/nullspace".into(),
            cgroup: Some("/sys/fs/cgroup".into()),
            pid1: true,
        }
    }
}

/// An agent that listens.
pub struct Agent {
    listener: TcpListener,
    services: Arc<server::Services>,
}

impl Agent {
    /// Takes its port, on which callers wait until it is ready.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let services = server::Services::new(config);
        services.prepare();
        Ok(Self { listener, services })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves and reaps. Returns only when that is not possible.
    pub async fn run(self) -> io::Result<()> {
        tokio::select! {
            error = reap::run() => error,
            () = server::serve(self.listener, self.services) => Ok(()),
        }
    }
}
