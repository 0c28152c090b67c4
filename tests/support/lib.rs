//! What end-to-end tests share: the server under test, servers of a test's own,
//! and sandboxes that go away with their value.

mod attach;
mod bare;
mod commands;
mod cutter;
mod follow;
mod sandbox;
mod server;

use std::time::{Duration, Instant};

use nullspace_proto::{
    Reason,
    v1::{
        command_service_client::CommandServiceClient, file_service_client::FileServiceClient,
        sandbox_service_client::SandboxServiceClient, system_service_client::SystemServiceClient,
    },
};
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::interceptor::{InterceptedService, Interceptor},
    transport::{Channel, Endpoint},
};

pub use self::{
    attach::{Attached, Finished, argv, shell},
    bare::{Bare, group_memory, runsc},
    commands::seconds,
    cutter::Cutter,
    follow::{Follow, Followed},
    sandbox::{TestSandbox, small},
    server::Server,
};

/// What a stream may bring before it is read.
const STREAM_WINDOW: u32 = 256 << 10;

/// What a test answers.
pub type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Sends an API key with every call.
#[derive(Clone)]
pub struct Key(Option<AsciiMetadataValue>);

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// A channel with a key.
pub type Authorized = InterceptedService<Channel, Key>;

/// The API of a server, as one caller.
#[derive(Clone)]
pub struct Api {
    /// Where the server is.
    pub url: String,
    channel: Channel,
    key: Key,
}

impl Api {
    /// The server that `make test` started.
    pub async fn shared() -> Result<Self> {
        Self::connect(&required("NULLSPACE_API_URL")?, Some(&required("NULLSPACE_API_KEY")?)).await
    }

    /// A server and a key, on a connection of its own. Its windows are wide
    /// enough for a hundred streams of which nobody reads one.
    pub async fn connect(url: &str, key: Option<&str>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(100 * STREAM_WINDOW);
        Self::through(endpoint, url, key).await
    }

    /// The same on a connection as a library makes it that is told nothing.
    pub async fn connect_plainly(url: &str, key: Option<&str>) -> Result<Self> {
        Self::through(Endpoint::from_shared(url.to_owned())?, url, key).await
    }

    async fn through(endpoint: Endpoint, url: &str, key: Option<&str>) -> Result<Self> {
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await?;
        Ok(Self { url: url.to_owned(), channel, key: key_of(key)? })
    }

    /// The same connection with another key, or without one.
    pub fn with_key(&self, key: Option<&str>) -> Result<Self> {
        Ok(Self { key: key_of(key)?, ..self.clone() })
    }

    /// Without any key: for services that are open.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn authorized(&self) -> Authorized {
        InterceptedService::new(self.channel.clone(), self.key.clone())
    }

    /// SandboxService.
    pub fn sandboxes(&self) -> SandboxServiceClient<Authorized> {
        SandboxServiceClient::new(self.authorized())
    }

    /// CommandService.
    pub fn commands(&self) -> CommandServiceClient<Authorized> {
        CommandServiceClient::new(self.authorized()).max_encoding_message_size(usize::MAX)
    }

    /// FileService.
    pub fn files(&self) -> FileServiceClient<Authorized> {
        FileServiceClient::new(self.authorized()).max_encoding_message_size(usize::MAX)
    }

    /// SystemService.
    pub fn system(&self) -> SystemServiceClient<Authorized> {
        SystemServiceClient::new(self.authorized())
    }
}

fn key_of(key: Option<&str>) -> Result<Key> {
    Ok(Key(key.map(|key| format!("Bearer {key}").parse()).transpose()?))
}

/// A variable that `make test` sets.
pub fn required(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set; run these tests with `make test`").into())
}

/// How much to do: few rounds, or with SCALE=full the number that is promised.
pub fn rounds(few: usize, promised: usize) -> usize {
    if std::env::var("SCALE").as_deref() == Ok("full") { promised } else { few }
}

/// A time that is enough on a usual machine. A slower one has more:
/// NULLSPACE_TEST_PATIENCE is a factor.
pub fn patient(limit: Duration) -> Duration {
    let factor = std::env::var("NULLSPACE_TEST_PATIENCE").ok().and_then(|factor| factor.parse().ok());
    limit * factor.unwrap_or(1)
}

/// Waits until a condition holds, and fails if it does not in time.
pub async fn eventually<F: Future<Output = Result<bool>>>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> F,
) -> Result {
    let (begun, limit) = (Instant::now(), patient(limit));
    while !condition().await? {
        if begun.elapsed() > limit {
            return Err(format!("not within {limit:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Checks that a call was refused with a reason, and with that reason's code.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: std::result::Result<T, Status>, reason: Reason) -> Status {
    let status = outcome.expect_err(reason.name());
    let found = nullspace_proto::Error::reason_of(&status);
    assert_eq!(found, Some(reason), "{status:?}");
    assert_eq!(status.code(), reason.code());
    assert!(!status.message().is_empty());
    status
}
