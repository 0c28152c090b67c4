//! A command that exists, by the id that lasts.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use nullspace_proto::{
    v1::{SignalCommandRequest, WaitCommandRequest},
    validate,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{AttachCommand, Commands, ReadOutput, input::InputCursor, known};
use crate::{
    CommandInfo, CommandResult, Events, Exit, Reason, Signal,
    connection::{Connection, idempotency_key},
    error::{Error, Result},
    limits::{WAIT, WAIT_CALL_TIMEOUT},
    method::{SIGNAL_COMMAND, WAIT_COMMAND},
    retry::StreamRetries,
};

/// A handle on a command. Cheap to clone; clones write one input, in the order
/// of their calls.
///
/// What the command writes is kept in its sandbox, so nothing is missed by
/// asking late. Dropping the handle leaves the command as it is.
#[derive(Clone)]
pub struct Command {
    connection: Connection,
    sandbox_id: String,
    command_id: String,
    input: Arc<Mutex<InputCursor>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("command_id", &self.command_id).finish_non_exhaustive()
    }
}

impl Command {
    pub(crate) fn new(connection: Connection, sandbox_id: String, command_id: String) -> Self {
        Self { connection, sandbox_id, command_id, input: Arc::default() }
    }

    /// The id by which it is known for good.
    pub fn id(&self) -> &str {
        &self.command_id
    }

    /// Its state now.
    ///
    /// # Errors
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn info(&self) -> Result<CommandInfo> {
        Commands::new(self.connection.clone(), self.sandbox_id.clone()).get(&self.command_id).await
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// [`CommandTimedOut`](Reason::CommandTimedOut), it was ended by its timeout;
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn wait(&self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.wait_for(WAIT).await? {
                return Ok(exit);
            }
        }
    }

    /// Waits until it has ended, at most `limit`. None: it still runs.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub async fn wait_for(&self, limit: Duration) -> Result<Option<Exit>> {
        match self.ended_within(limit).await? {
            Some(exit) if exit.is_timed_out() => Err(Error::timed_out(CommandResult::without_output(exit))),
            exit => Ok(exit),
        }
    }

    /// Sends a signal to its process group.
    ///
    /// # Errors
    /// [`CommandEnded`](Reason::CommandEnded),
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn signal(&self, signal: impl Into<Signal>) -> Result<()> {
        let request = SignalCommandRequest {
            sandbox_id: self.sandbox_id.clone(),
            command_id: self.command_id.clone(),
            idempotency_key: idempotency_key(None),
            number: signal.into().number(),
        };
        self.connection.call(SIGNAL_COMMAND, request, None).await?;
        Ok(())
    }

    /// Ends it and its process group by KILL; returns when it has ended. One that
    /// has ended is fine.
    ///
    /// # Errors
    /// [`CommandNotFound`](Reason::CommandNotFound).
    pub async fn kill(&self) -> Result<Exit> {
        match self.signal(Signal::KILL).await {
            Err(error) if error.reason() != Reason::CommandEnded => return Err(error),
            _ => {}
        }
        loop {
            if let Some(exit) = self.ended_within(WAIT).await? {
                return Ok(exit);
            }
        }
    }

    /// Writes input. Returns when the sandbox has taken it, which it does at once
    /// while the command has less than 1 MiB unread.
    ///
    /// # Errors
    /// [`InputClosed`](Reason::InputClosed), it takes no input (any more);
    /// [`DeadlineExceeded`](Reason::DeadlineExceeded), it did not read in time: a
    /// later call writes on where this one stopped, so the rest is to be asked of
    /// whoever wrote it.
    pub async fn write_input(&self, data: impl Into<Bytes>) -> Result<()> {
        self.write(data.into(), false).await
    }

    /// No more input: the command reads end-of-file.
    ///
    /// # Errors
    /// As [`Self::write_input`].
    pub async fn close_input(&self) -> Result<()> {
        self.write(Bytes::new(), true).await
    }

    async fn write(&self, data: Bytes, close: bool) -> Result<()> {
        let mut input = self.input.lock().await;
        input.write(&self.connection, (&self.sandbox_id, &self.command_id), data, close).await
    }

    /// Reads its output by position.
    pub fn output(&self) -> ReadOutput {
        ReadOutput::new(self.connection.clone(), self.sandbox_id.clone(), self.command_id.clone())
    }

    /// What it does, from the first byte that is kept to its end.
    pub fn events(&self) -> Events {
        self.output().events()
    }

    /// Waits until it has ended, and gives how, with all output that was kept
    /// since its start.
    ///
    /// # Errors
    /// [`CommandTimedOut`](Reason::CommandTimedOut), with the output.
    pub async fn result(&self) -> Result<CommandResult> {
        self.events().collect().await
    }

    /// Joins it on a stream of both directions: it may be given input, and wait
    /// for this reader.
    pub fn attach(&self) -> AttachCommand {
        AttachCommand::new(self.connection.clone(), self.sandbox_id.clone(), self.command_id.clone())
    }

    /// How it ended, if it does within `limit`. A server that is away for less
    /// than a stream would bear is waited for.
    async fn ended_within(&self, limit: Duration) -> Result<Option<Exit>> {
        let end = Instant::now() + limit;
        let mut retries = StreamRetries::new();
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(WAIT);
            let request = WaitCommandRequest {
                sandbox_id: self.sandbox_id.clone(),
                command_id: self.command_id.clone(),
                wait: Some(validate::duration(left)),
            };
            match self.connection.call(WAIT_COMMAND, request, Some(WAIT_CALL_TIMEOUT)).await {
                Ok(response) => {
                    retries.progress();
                    let exit = known(response.command)?.exit;
                    if exit.is_some() || Instant::now() >= end {
                        return Ok(exit);
                    }
                }
                Err(error) => sleep(retries.pause(error, self.connection.reached())?).await,
            }
        }
    }
}
