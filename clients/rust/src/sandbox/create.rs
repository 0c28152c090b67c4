//! Makes sandboxes.

use std::time::Duration;

use nullspace_proto::v1::CreateSandboxRequest;

use super::{
    Sandbox,
    settings::{Settings, sandbox_settings},
};
use crate::{
    SandboxInfo, TimeoutAction,
    client::required,
    connection::{Connection, idempotency_key},
    error::Result,
    limits::CREATE_TIMEOUT,
    method::CREATE_SANDBOX,
    page::Call,
    retry::CallRetries,
};

/// Makes a sandbox. Made by [`Client::create_sandbox`](crate::Client::create_sandbox).
///
/// A connection that breaks meanwhile is made again, and the same creation asked
/// for: there is never a second sandbox.
///
/// ```no_run
/// # async fn example(client: nullspace::Client) -> nullspace::Result<()> {
/// use std::time::Duration;
///
/// let sandbox = client
///     .create_sandbox()
///     .vcpus(2)
///     .memory_mib(512)
///     .timeout(Duration::from_secs(600))
///     .metadata("job", "demo")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct CreateSandbox {
    connection: Connection,
    settings: Settings,
    idempotency_key: Option<String>,
    request_timeout: Duration,
}

sandbox_settings!(CreateSandbox);

impl CreateSandbox {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, settings: Settings::default(), idempotency_key: None, request_timeout: CREATE_TIMEOUT }
    }

    /// How long it lives, 1 s to 30 days: a [`Duration`], or None for ever.
    /// Default: 300 s.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.timeout = timeout.into();
        self
    }

    /// What happens then. Default: it is destroyed.
    pub fn timeout_action(mut self, action: TimeoutAction) -> Self {
        self.settings.timeout_action = Some(action);
        self
    }

    /// One variable for everything that runs in it. At most 1,000, and 128 KiB in
    /// all.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.envs.insert(name.into(), value.into());
        self
    }

    /// Absolute directory where commands start, made if missing. Default: the
    /// template's, `/workspace` in `base`.
    pub fn cwd(mut self, cwd: impl Into<String>) -> Self {
        self.settings.cwd = cwd.into();
        self
    }

    /// At most 128 bytes; a call with a key that was used in the last 24 h gives
    /// that call's sandbox. Default: a new one.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// How long the creation may take, with all attempts. Default: 120 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }
}

impl IntoFuture for CreateSandbox {
    type Output = Result<Sandbox>;
    type IntoFuture = Call<Sandbox>;

    /// # Errors
    /// [`InvalidRequest`](crate::Reason::InvalidRequest), whose
    /// [`violations`](crate::Error::violations) name every bad field;
    /// [`TemplateNotFound`](crate::Reason::TemplateNotFound),
    /// [`CapacityExceeded`](crate::Reason::CapacityExceeded),
    /// [`SandboxStartFailed`](crate::Reason::SandboxStartFailed),
    /// [`IdempotencyKeyReused`](crate::Reason::IdempotencyKeyReused).
    fn into_future(self) -> Call<Sandbox> {
        Box::pin(async move {
            let request = CreateSandboxRequest {
                idempotency_key: idempotency_key(self.idempotency_key),
                spec: Some(self.settings.spec()?),
            };
            let retries = CallRetries::creation(self.request_timeout);
            let response = self.connection.call_with(CREATE_SANDBOX, request, retries).await?;
            let info: SandboxInfo = required(response.sandbox)?;
            Ok(Sandbox::new(self.connection, info.id))
        })
    }
}
