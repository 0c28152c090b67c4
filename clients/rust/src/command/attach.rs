//! Joins a command.

use bytes::Bytes;
use futures_core::Stream;
use tokio_stream::StreamExt as _;

use crate::{
    Events, Position,
    connection::Connection,
    error::{Error, Result},
    stream::{Attachment, Input, LogReader, attached},
};

/// Joins a command on a stream of both directions. Made by
/// [`Command::attach`](crate::Command::attach).
///
/// ```no_run
/// # async fn example(command: nullspace::Command) -> nullspace::Result<()> {
/// let result = command.attach().input("the last words\n").events().collect().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent before it is polled"]
pub struct AttachCommand {
    connection: Connection,
    attachment: Attachment,
}

impl AttachCommand {
    pub(super) fn new(connection: Connection, sandbox_id: String, command_id: String) -> Self {
        Self { connection, attachment: Attachment::join(sandbox_id, command_id) }
    }

    /// Where to begin. Default: the first byte that is kept.
    pub fn position(mut self, position: impl Into<Position>) -> Self {
        let position = position.into();
        self.attachment.log = LogReader::at(position.execution_id, position.offset);
        self
    }

    /// The command waits for this reader rather than that output is lost, if it
    /// was started with [`Overflow::Block`](crate::Overflow::Block).
    pub fn hold(mut self) -> Self {
        self.attachment.hold = true;
        self
    }

    /// Input, whole; then the command reads end-of-file.
    pub fn input(self, input: impl Into<Bytes>) -> Self {
        self.input_stream(tokio_stream::once(Ok::<_, std::convert::Infallible>(input.into())))
    }

    /// Input, in pieces as they come; the command reads end-of-file after the last.
    pub fn input_stream<S, E>(mut self, input: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let source = input.map(|piece| piece.map_err(Error::source_failed));
        self.attachment.input = Some(Input::new(Box::pin(source)));
        self
    }

    /// What it does, as it comes.
    pub fn events(self) -> Events {
        Events::new(attached(self.connection, self.attachment))
    }
}
