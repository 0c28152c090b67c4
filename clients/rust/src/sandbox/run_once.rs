//! One command in a sandbox of its own.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_stream::try_stream;
use nullspace_proto::v1::{
    DestroySandboxRequest, Overflow, RunOnceRequest, RunOnceResponse, run_once_response::Frame as Answer,
};
use tokio_stream::StreamExt as _;

use super::settings::{Settings, sandbox_settings};
use crate::{
    CommandResult, Event, Events,
    command::{CommandSettings, command_settings},
    connection::{Connection, idempotency_key},
    error::Result,
    limits::{RUN_ONCE_SILENCE, RUN_ONCE_SLACK, SANDBOX_TIMEOUT},
    method::{DESTROY_SANDBOX, Method, RUN_ONCE},
    page::Call,
    stream::{Following, Frame, LogReader, Readable, read},
};

/// Runs one program in a sandbox of its own, which is destroyed whatever
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

    /// Names the run, at most 128 bytes. A second call with the key of one that
    /// goes on follows that, from its beginning; one that has ended in the last
    /// 24 h is not run again. Default: a new one.
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
            ..Default::default()
        };
        Ok((connection, request))
    }
}

/// A run that is followed.
struct Running {
    request: RunOnceRequest,
    log: LogReader,
    /// The sandbox, once it is known.
    sandbox_id: Arc<OnceLock<String>>,
}

impl Readable for Running {
    type Request = RunOnceRequest;
    type Response = RunOnceResponse;
    const METHOD: Method<RunOnceRequest, RunOnceResponse> = RUN_ONCE;
    const SILENCE: Duration = RUN_ONCE_SILENCE;

    fn open(&self) -> RunOnceRequest {
        let position = self.sandbox_id.get().map(|_| self.log.position());
        RunOnceRequest { position, ..self.request.clone() }
    }

    fn take(&mut self, response: RunOnceResponse) -> Result<Option<Event>> {
        if let Some(Answer::Sandbox(sandbox)) = &response.frame {
            // A run has one sandbox, so a later frame names the same.
            self.sandbox_id.get_or_init(|| sandbox.id.clone());
            self.log.begin_in(&sandbox.execution_id);
        }
        self.log.take(response.frame.map_or(Frame::Other, Frame::from))
    }

    fn is_over(&self) -> bool {
        self.log.ended
    }
}

/// Follows a run to its end, and ends its sandbox before that is told.
fn follow(connection: Connection, request: RunOnceRequest) -> Following {
    let sandbox_id = Arc::new(OnceLock::new());
    let running = Running { request, log: LogReader::default(), sandbox_id: sandbox_id.clone() };
    let mut events = read(connection.clone(), running);
    Box::pin(try_stream! {
        while let Some(event) = events.next().await.transpose()? {
            if let (Event::Ended(_), Some(sandbox_id)) = (&event, sandbox_id.get()) {
                let request = DestroySandboxRequest { sandbox_id: sandbox_id.clone() };
                // The sandbox goes without this as well, later.
                let _ = connection.call(DESTROY_SANDBOX, request, None).await;
            }
            yield event;
        }
    })
}

impl IntoFuture for RunOnce {
    type Output = Result<CommandResult>;
    type IntoFuture = Call<CommandResult>;

    /// # Errors
    /// [`CommandTimedOut`](crate::Reason::CommandTimedOut), with the output;
    /// those of [`CreateSandbox`](crate::CreateSandbox) and of
    /// [`RunCommand`](crate::RunCommand). A lost connection is taken up again;
    /// after [`Transport`](crate::Reason::Transport) it is not known whether the
    /// program ran, and nothing of it is left.
    fn into_future(self) -> Call<CommandResult> {
        Box::pin(self.events().collect())
    }
}
