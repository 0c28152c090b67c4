//! Sandboxes.

mod create;
mod list;
mod run_once;
mod settings;

use std::time::Duration;

use nullspace_proto::{
    v1::{ConnectSandboxRequest, GetSandboxMetricsRequest, SetSandboxTimeoutRequest},
    validate,
};

pub use self::{create::CreateSandbox, list::ListSandboxes, run_once::RunOnce};
use crate::{
    Client, Commands, Files, MetricsSample, SandboxInfo, SandboxState, TimeoutAction,
    client::required,
    connection::{Connection, idempotency_key},
    error::Result,
    method::{CONNECT_SANDBOX, GET_SANDBOX_METRICS, SET_SANDBOX_TIMEOUT},
    page::Call,
};

/// A handle on a sandbox. It lives until its timeout or until it is killed, and
/// not only as long as the handle.
#[derive(Debug, Clone)]
pub struct Sandbox {
    client: Client,
    id: String,
}

impl Sandbox {
    pub(crate) fn new(connection: Connection, id: String) -> Self {
        Self { client: Client { connection }, id }
    }

    /// `sb_` and 26 characters.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs programs in it.
    pub fn commands(&self) -> Commands {
        Commands::new(self.client.connection.clone(), self.id.clone())
    }

    /// Reads and writes its files.
    pub fn files(&self) -> Files {
        Files::new(self.client.connection.clone(), self.id.clone())
    }

    /// What it is now. Never wakes it.
    ///
    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound).
    pub async fn info(&self) -> Result<SandboxInfo> {
        self.client.get_sandbox(&self.id).await
    }

    /// Whether it runs now.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub async fn is_running(&self) -> Result<bool> {
        Ok(self.info().await?.state == SandboxState::Running)
    }

    /// Sets how long it lives from now, at most 30 days: a [`Duration`], or None
    /// for ever. [`Duration::ZERO`] ends it now.
    ///
    /// ```no_run
    /// # async fn example(sandbox: nullspace::Sandbox) -> nullspace::Result<()> {
    /// use std::time::Duration;
    ///
    /// sandbox.set_timeout(Duration::from_secs(1_200)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_timeout(&self, timeout: impl Into<Option<Duration>>) -> SetTimeout {
        SetTimeout {
            connection: self.client.connection.clone(),
            request: SetSandboxTimeoutRequest {
                sandbox_id: self.id.clone(),
                timeout: timeout.into().map(validate::duration),
                ..Default::default()
            },
        }
    }

    /// What it used in the last hour, one sample each 10 s, oldest first; the
    /// last one is of this moment while it runs.
    ///
    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound).
    pub async fn metrics(&self) -> Result<Vec<MetricsSample>> {
        let request = GetSandboxMetricsRequest { sandbox_id: self.id.clone() };
        let response = self.client.connection.call(GET_SANDBOX_METRICS, request, None).await?;
        Ok(response.samples.into_iter().map(MetricsSample::from).collect())
    }

    /// Destroys it; returns when it is gone. One that is gone already is fine.
    ///
    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound).
    pub async fn kill(&self) -> Result<SandboxInfo> {
        self.client.kill_sandbox(&self.id).await
    }
}

/// Looks for a sandbox that runs. Made by [`Client::connect_sandbox`].
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct ConnectSandbox {
    sandbox: Sandbox,
    timeout: Option<Duration>,
}

impl ConnectSandbox {
    pub(crate) fn new(connection: Connection, sandbox_id: String) -> Self {
        Self { sandbox: Sandbox::new(connection, sandbox_id), timeout: None }
    }

    /// Let it live at least this long from now, 1 s to 30 days. It never lives
    /// shorter than before.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl IntoFuture for ConnectSandbox {
    type Output = Result<Sandbox>;
    type IntoFuture = Call<Sandbox>;

    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound),
    /// [`SandboxNotReady`](crate::Reason::SandboxNotReady),
    /// [`SandboxStopped`](crate::Reason::SandboxStopped),
    /// [`AgentLost`](crate::Reason::AgentLost).
    fn into_future(self) -> Call<Sandbox> {
        let Self { sandbox, timeout } = self;
        let timeout = timeout.map(validate::duration);
        let request = ConnectSandboxRequest { sandbox_id: sandbox.id.clone(), timeout };
        Box::pin(async move {
            let response = sandbox.client.connection.call(CONNECT_SANDBOX, request, None).await?;
            let info: SandboxInfo = required(response.sandbox)?;
            Ok(Sandbox { id: info.id, ..sandbox })
        })
    }
}

/// Sets a sandbox's life. Made by [`Sandbox::set_timeout`].
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct SetTimeout {
    connection: Connection,
    request: SetSandboxTimeoutRequest,
}

impl SetTimeout {
    /// What happens then. Default: as it is.
    pub fn action(mut self, action: TimeoutAction) -> Self {
        self.request.action = action.to_wire();
        self
    }

    /// At most 128 bytes; a call with a key that was used in the last 24 h gives
    /// that call's answer. Default: a new one.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.request.idempotency_key = key.into();
        self
    }
}

impl IntoFuture for SetTimeout {
    type Output = Result<SandboxInfo>;
    type IntoFuture = Call<SandboxInfo>;

    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound),
    /// [`SandboxNotReady`](crate::Reason::SandboxNotReady),
    /// [`SandboxStopped`](crate::Reason::SandboxStopped),
    /// [`AgentLost`](crate::Reason::AgentLost),
    /// [`IdempotencyKeyReused`](crate::Reason::IdempotencyKeyReused).
    fn into_future(self) -> Call<SandboxInfo> {
        let Self { connection, mut request } = self;
        request.idempotency_key = idempotency_key(Some(request.idempotency_key));
        Box::pin(async move { required(connection.call(SET_SANDBOX_TIMEOUT, request, None).await?.sandbox) })
    }
}
