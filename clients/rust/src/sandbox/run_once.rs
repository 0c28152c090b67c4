//! One command in a sandbox of its own.

use async_stream::try_stream;
use nullspace_proto::v1::{Overflow, RunOnceRequest};

use super::settings::{Settings, sandbox_settings};
use crate::{
    CommandResult, Events,
    command::{CommandSettings, command_settings},
    connection::{Connection, Times, idempotency_key},
    error::Result,
    limits::{RUN_ONCE_SILENCE, RUN_ONCE_SLACK, SANDBOX_TIMEOUT},
    method::RUN_ONCE,
    page::Call,
    stream::{Following, LogReader, cut_short},
};

/// Runs one program in a sandbox of its own, which the server destroys whatever
/// happens. Made by [`Client::run_once`](crate::Client::run_once).
///
/// There is no shell: use `run_once("sh").args(["-c", line])`.
///
/// ```no_run
/// # async fn example(client: nullspace::Client) -> nullspace::Result<()> {
/// let result = client.run_once("python3").args(["-c", "print(6 * 7)"]).memory_mib(256).await?;
/// assert_eq!(result.stdout_text(), "42\n");
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent before it is awaited"]
pub struct RunOnce {
    connection: Connection,
    settings: Settings,
    command: CommandSettings,
    idempotency_key: Option<String>,
}

sandbox_settings!(RunOnce);
command_settings!(RunOnce);

impl RunOnce {
    pub(crate) fn new(connection: Connection, program: String) -> Self {
        let command = CommandSettings::program(program);
        Self { connection, settings: Settings::default(), command, idempotency_key: None }
    }

    /// At most 128 bytes; a call with a key that was used in the last 24 h runs
    /// nothing and is refused. Default: a new one.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// What the program does, as it comes.
    ///
    /// # Errors
    /// As awaiting it.
    pub fn events(self) -> Events {
        Events::new(match self.request() {
            Ok((connection, request)) => follow(connection, request),
            Err(error) => Box::pin(tokio_stream::once(Err(error))),
        })
    }

    fn request(self) -> Result<(Connection, RunOnceRequest)> {
        let Self { connection, mut settings, command, idempotency_key: key } = self;
        // The sandbox outlives the command's own timeout.
        let longest = nullspace_proto::limits::MAX_LIFETIME;
        let lifetime = command.foreground_timeout().map(|timeout| timeout.saturating_add(RUN_ONCE_SLACK));
        settings.timeout = lifetime.map(|lifetime| lifetime.min(longest).max(SANDBOX_TIMEOUT));
        let request = RunOnceRequest {
            idempotency_key: idempotency_key(key),
            sandbox: Some(settings.spec()?),
            command: Some(command.foreground(Overflow::Block)?),
            keepalive: None,
        };
        Ok((connection, request))
    }
}

/// The one place that knows that a run cannot be joined again: its stream is
/// opened once, and where it breaks the error is the caller's.
fn follow(connection: Connection, request: RunOnceRequest) -> Following {
    Box::pin(try_stream! {
        let mut log = LogReader::default();
        let mut frames = connection.read(RUN_ONCE, request, Times::silence(RUN_ONCE_SILENCE)).await?;
        while let Some(response) = frames.next().await? {
            let Some(frame) = response.frame else { continue };
            if let Some(event) = log.take(frame.into())? {
                yield event;
            }
            if log.ended {
                return;
            }
        }
        Err(cut_short())?;
    })
}

impl IntoFuture for RunOnce {
    type Output = Result<CommandResult>;
    type IntoFuture = Call<CommandResult>;

    /// # Errors
    /// [`CommandTimedOut`](crate::Reason::CommandTimedOut), with the output;
    /// those of [`CreateSandbox`](crate::CreateSandbox) and of
    /// [`RunCommand`](crate::RunCommand). After
    /// [`Transport`](crate::Reason::Transport) it is not known whether the
    /// program ran.
    fn into_future(self) -> Call<CommandResult> {
        Box::pin(self.events().collect())
    }
}
