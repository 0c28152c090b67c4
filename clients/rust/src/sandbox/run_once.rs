//! One command in a sandbox of its own.

use async_stream::try_stream;
use nullspace_proto::v1::{DestroySandboxRequest, Overflow, RunOnceRequest, run_once_response::Frame as Answer};
use tokio::time::sleep;

use super::settings::{Settings, sandbox_settings};
use crate::{
    CommandResult, Events,
    command::{CommandSettings, command_settings},
    connection::{Connection, Times, idempotency_key},
    error::Result,
    limits::{RUN_ONCE_SILENCE, RUN_ONCE_SLACK, SANDBOX_TIMEOUT},
    method::{DESTROY_SANDBOX, RUN_ONCE},
    page::Call,
    retry::StreamRetries,
    stream::{Following, Frame, LogReader, cut_short},
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

/// Follows a run to its end, over as many streams as that takes.
fn follow(connection: Connection, mut request: RunOnceRequest) -> Following {
    Box::pin(try_stream! {
        let mut log = LogReader::default();
        let mut sandbox_id = String::new();
        let mut retries = StreamRetries::new();
        loop {
            retries.opened();
            if !sandbox_id.is_empty() {
                request.position = Some(log.position());
            }
            let opening = connection.read(RUN_ONCE, request.clone(), Times::silence(RUN_ONCE_SILENCE));
            let error = match opening.await {
                Err(error) => error,
                Ok(mut frames) => loop {
                    let frame = match frames.next().await {
                        Ok(Some(response)) => response.frame,
                        Ok(None) => break cut_short(),
                        Err(error) => break error,
                    };
                    retries.progress();
                    if let Some(Answer::Sandbox(sandbox)) = &frame {
                        sandbox_id.clone_from(&sandbox.id);
                        log.begin_in(&sandbox.execution_id);
                    }
                    if let Some(event) = log.take(frame.map_or(Frame::Other, Frame::from))? {
                        if log.ended {
                            // The sandbox goes without this as well, later.
                            let _ = connection.call(DESTROY_SANDBOX, DestroySandboxRequest { sandbox_id }, None).await;
                            yield event;
                            return;
                        }
                        yield event;
                    }
                },
            };
            sleep(retries.pause(error, connection.reached())?).await;
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
