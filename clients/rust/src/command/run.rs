//! Starts commands.

use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use nullspace_proto::{
    id,
    v1::{Overflow, StartCommandRequest},
};
use tokio_stream::StreamExt as _;

use super::{Command, CommandSettings, command_settings};
use crate::{
    CommandResult, Events,
    connection::Connection,
    error::{Error, Result},
    method::START_COMMAND,
    page::Call,
    stream::{Attachment, Following, Input, Source, attached},
};

/// Runs a command. Made by [`Commands::run`](crate::Commands::run) and
/// [`Commands::shell`](crate::Commands::shell).
///
/// Awaiting it runs the command in the foreground, to its end. An exit code other
/// than 0, and an end by a signal, is a result and no error.
/// [`events`](Self::events) gives its output as it comes, and
/// [`start`](Self::start) leaves it running.
///
/// Output is a log in the sandbox: a connection that breaks is made again and
/// reading goes on where it stopped, for up to 60 s without a server. In the
/// foreground the command waits rather than that output is lost. Dropping the
/// future or the stream leaves the command running: its timeout ends it.
///
/// ```no_run
/// # async fn example(sandbox: nullspace::Sandbox) -> nullspace::Result<()> {
/// let result = sandbox.commands().run("python3").args(["-c", "print(6 * 7)"]).await?;
/// println!("{} {}", result.code(), result.stdout_text());
///
/// let sorted = sandbox.commands().run("sort").input("pear\napple\n").await?;
/// assert_eq!(sorted.stdout_text(), "apple\npear\n");
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent before it is awaited"]
pub struct RunCommand {
    connection: Connection,
    sandbox_id: String,
    command: CommandSettings,
    command_id: Option<String>,
    input: Option<Source>,
}

command_settings!(RunCommand);

impl RunCommand {
    pub(crate) fn new(connection: Connection, sandbox_id: String, command: CommandSettings) -> Self {
        Self { connection, sandbox_id, command, command_id: None, input: None }
    }

    /// Standard input, whole. In the foreground only.
    pub fn input(self, input: impl Into<Bytes>) -> Self {
        self.input_stream(tokio_stream::once(Ok::<_, std::convert::Infallible>(input.into())))
    }

    /// Standard input, in pieces as they come; the command reads end-of-file
    /// after the last. An error among them ends the following with
    /// [`SourceFailed`](crate::Reason::SourceFailed), and leaves the command as
    /// it is. In the foreground only.
    pub fn input_stream<S, E>(mut self, input: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.input = Some(Box::pin(input.map(|piece| piece.map_err(Error::source_failed))));
        self
    }

    /// Keep standard input open for [`Command::write_input`], or not: then it is
    /// `/dev/null`. Default: only in the background.
    pub fn open_stdin(mut self, open: bool) -> Self {
        self.command.open_stdin = Some(open);
        self
    }

    /// A label to find the command by. At most 256 bytes.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.command.tag = tag.into();
        self
    }

    /// How many bytes of output to keep, 64 KiB to 64 MiB. Default: 64 MiB, or
    /// what the sandbox's memory allows if that is less.
    pub fn retain_output_bytes(mut self, bytes: i64) -> Self {
        self.command.retain_output_bytes = bytes;
        self
    }

    /// What happens when that many bytes are kept. Default: the command waits in
    /// the foreground; the oldest go in the background.
    pub fn overflow(mut self, overflow: crate::Overflow) -> Self {
        self.command.overflow = Some(overflow);
        self
    }

    /// With [`Overflow::Block`](crate::Overflow::Block): how long the command
    /// waits for a reader that was lost, at most 1 h. Default: 60 s.
    pub fn hold_grace(mut self, grace: Duration) -> Self {
        self.command.hold_grace = Some(grace);
        self
    }

    /// The id by which the command is known for good: `[A-Za-z0-9_-]{1,64}`.
    /// Under an id that is known nothing is started again: the command is joined.
    /// Default: a new one.
    pub fn command_id(mut self, command_id: impl Into<String>) -> Self {
        self.command_id = Some(command_id.into());
        self
    }

    /// A handle on the command that this will run: to signal it, or to write its
    /// input, while its events are read.
    pub fn handle(&mut self) -> Command {
        let command_id = self.command_id.get_or_insert_with(id::command).clone();
        Command::new(self.connection.clone(), self.sandbox_id.clone(), command_id)
    }

    /// Runs it in the foreground, and gives what it does as it comes.
    ///
    /// ```no_run
    /// # async fn example(sandbox: nullspace::Sandbox) -> nullspace::Result<()> {
    /// use nullspace::Event;
    /// use tokio_stream::StreamExt as _;
    ///
    /// let mut events = sandbox.commands().shell("for i in 1 2 3; do echo $i; sleep 1; done").events();
    /// while let Some(event) = events.next().await {
    ///     match event? {
    ///         Event::Output(output) => print!("{}", String::from_utf8_lossy(&output.data)),
    ///         Event::Ended(exit) => println!("exit code {}", exit.code()),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(self) -> Events {
        let following: Following = match self.attachment() {
            Ok((connection, attachment)) => attached(connection, attachment),
            Err(error) => Box::pin(tokio_stream::once(Err(error))),
        };
        Events::new(following)
    }

    fn attachment(mut self) -> Result<(Connection, Attachment)> {
        if self.input.is_some() {
            self.command.open_stdin = Some(true);
        }
        let command_id = self.command_id.unwrap_or_else(id::command);
        let spec = self.command.foreground(Overflow::Block)?;
        let hold = spec.overflow() == Overflow::Block;
        let input = self.input.map(Input::new);
        Ok((self.connection, Attachment::start(self.sandbox_id, command_id, spec, hold, input)))
    }

    /// Starts it in the background and returns at once. It has no time limit
    /// unless one was given; input stays open and the oldest output goes unless
    /// something else was said.
    ///
    /// ```no_run
    /// # async fn example(sandbox: nullspace::Sandbox) -> nullspace::Result<()> {
    /// let command = sandbox.commands().run("sort").start().await?;
    /// command.write_input("pear\napple\n").await?;
    /// command.close_input().await?;
    /// println!("{}", command.result().await?.stdout_text());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of awaiting it, but for the command's end.
    pub async fn start(self) -> Result<Command> {
        if self.input.is_some() {
            let message = "cannot go with start: write it with Command::write_input";
            return Err(Error::invalid_field("input", message));
        }
        let command_id = self.command_id.unwrap_or_else(id::command);
        let request = StartCommandRequest {
            sandbox_id: self.sandbox_id.clone(),
            command_id: command_id.clone(),
            spec: Some(self.command.background()?),
        };
        self.connection.call(START_COMMAND, request, None).await?;
        Ok(Command::new(self.connection, self.sandbox_id, command_id))
    }
}

impl IntoFuture for RunCommand {
    type Output = Result<CommandResult>;
    type IntoFuture = Call<CommandResult>;

    /// # Errors
    /// [`CommandTimedOut`](crate::Reason::CommandTimedOut), it ran past its
    /// timeout; the error has its output.
    /// [`ProgramNotFound`](crate::Reason::ProgramNotFound),
    /// [`ProgramNotExecutable`](crate::Reason::ProgramNotExecutable),
    /// [`WorkingDirectoryInvalid`](crate::Reason::WorkingDirectoryInvalid),
    /// [`UserNotFound`](crate::Reason::UserNotFound),
    /// [`ProcessLimitReached`](crate::Reason::ProcessLimitReached),
    /// [`CommandLimitReached`](crate::Reason::CommandLimitReached),
    /// [`CommandStartFailed`](crate::Reason::CommandStartFailed),
    /// [`InvalidRequest`](crate::Reason::InvalidRequest).
    fn into_future(self) -> Call<CommandResult> {
        Box::pin(self.events().collect())
    }
}
