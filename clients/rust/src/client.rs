//! The way in.

use std::{fmt, path::PathBuf, time::Duration};

use nullspace_proto::v1::{DestroySandboxRequest, GetSandboxRequest};

use crate::{
    ConnectSandbox, CreateSandbox, ListSandboxes, RunOnce, Sandbox, SandboxInfo, System,
    config::{Given, resolve},
    connection::Connection,
    error::{Error, Result},
    method::{DESTROY_SANDBOX, GET_SANDBOX},
};

/// A server and an API key. Cheap to clone; clones share their connections,
/// which end with the last of them.
///
/// ```no_run
/// # async fn example() -> nullspace::Result<()> {
/// use nullspace::Client;
///
/// let client = Client::from_env()?;
/// let sandbox = client.create_sandbox().await?;
/// let result = sandbox.commands().shell("echo ready").await?;
/// print!("{}", result.stdout_text());
/// sandbox.kill().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) connection: Connection,
}

impl Client {
    /// A client with settings from the environment and the configuration files.
    ///
    /// The key is NULLSPACE_API_KEY, that of `.env` in the working directory, or
    /// `api_key` of `$XDG_CONFIG_HOME/nullspace/config.json` or
    /// `~/.nullspace/config.json`. The URL is NULLSPACE_API_URL or
    /// NULLSPACE_BASE_URL, both again in `.env`, `base_url` or `api_url` of the
    /// files, else `http://localhost:3000`. For `https://` the certificates to
    /// trust are those of NULLSPACE_CA_CERT or SSL_CERT_FILE (a path), else
    /// those of this machine. Blank counts as missing; sources after the first
    /// that answers are not read. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiKeyMissing`](crate::Reason::ApiKeyMissing), there is no key anywhere;
    /// [`InvalidRequest`](crate::Reason::InvalidRequest), an unusable URL or file.
    pub fn from_env() -> Result<Self> {
        Self::builder().build()
    }

    /// A client with settings of the caller's choice.
    ///
    /// ```no_run
    /// # fn example() -> nullspace::Result<()> {
    /// let client = nullspace::Client::builder().url("https://sandboxes.example.com").api_key("ns_live_…").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Makes a sandbox: `client.create_sandbox().vcpus(1).await?`.
    pub fn create_sandbox(&self) -> CreateSandbox {
        CreateSandbox::new(self.connection.clone())
    }

    /// A sandbox that runs, from anywhere: `client.connect_sandbox(id).await?`.
    pub fn connect_sandbox(&self, sandbox_id: impl Into<String>) -> ConnectSandbox {
        ConnectSandbox::new(self.connection.clone(), sandbox_id.into())
    }

    /// A handle on a sandbox, without asking the server whether it is there.
    pub fn sandbox(&self, sandbox_id: impl Into<String>) -> Sandbox {
        Sandbox::new(self.connection.clone(), sandbox_id.into())
    }

    /// Reads a sandbox. Never wakes it; destroyed ones can be read for 24 h.
    ///
    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound).
    pub async fn get_sandbox(&self, sandbox_id: impl Into<String>) -> Result<SandboxInfo> {
        let request = GetSandboxRequest { sandbox_id: sandbox_id.into(), read_mask: None };
        required(self.connection.call(GET_SANDBOX, request, None).await?.sandbox)
    }

    /// Sandboxes of the key's owner, newest first.
    pub fn list_sandboxes(&self) -> ListSandboxes {
        ListSandboxes::new(self.connection.clone())
    }

    /// Destroys a sandbox; returns when it is gone. One that is gone already is fine.
    ///
    /// # Errors
    /// [`SandboxNotFound`](crate::Reason::SandboxNotFound).
    pub async fn kill_sandbox(&self, sandbox_id: impl Into<String>) -> Result<SandboxInfo> {
        let request = DestroySandboxRequest { sandbox_id: sandbox_id.into() };
        required(self.connection.call(DESTROY_SANDBOX, request, None).await?.sandbox)
    }

    /// Runs one program in a sandbox of its own, which the server destroys
    /// whatever happens: `client.run_once("python3").args(["-c", "print(1)"]).await?`.
    pub fn run_once(&self, program: impl Into<String>) -> RunOnce {
        RunOnce::new(self.connection.clone(), program.into())
    }

    /// The server itself, and its API keys.
    pub fn system(&self) -> System {
        System::new(self.connection.clone())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Settings of a client. What is not set is looked for as
/// [`Client::from_env`] says.
#[derive(Clone, Default)]
#[must_use]
pub struct ClientBuilder {
    given: Given,
    request_timeout: Option<Duration>,
}

impl ClientBuilder {
    /// Where the server is: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.given.url = Some(url.into());
        self
    }

    /// The key that goes with every call.
    pub fn api_key(mut self, api_key: impl Into<String>) -> Self {
        self.given.api_key = Some(api_key.into());
        self
    }

    /// A file with the certificates to trust, in PEM. Only for `https://`.
    ///
    /// A server's own certificate can stand in it if it is not one of an
    /// authority: made with `basicConstraints=CA:FALSE`, which openssl must be told.
    pub fn ca_cert(mut self, path: impl Into<PathBuf>) -> Self {
        self.given.ca_cert = Some(path.into());
        self
    }

    /// How long a call may take, with all attempts. Default: 30 s; a creation
    /// has 120 s unless it says otherwise. Streams have no limit: what they do
    /// may go on for as long as the server gives a sign of life.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Client::from_env`].
    pub fn build(self) -> Result<Client> {
        let config = resolve(&self.given)?;
        Ok(Client { connection: Connection::new(&config, self.request_timeout)? })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("url", &self.given.url).finish_non_exhaustive()
    }
}

/// What every good answer has.
pub(crate) fn required<T, R: From<T>>(value: Option<T>) -> Result<R> {
    value.map(R::from).ok_or_else(|| Error::invalid_response("the answer is empty"))
}
