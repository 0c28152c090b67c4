//! What happens on a command's stream. Readers are fed frames and say what they
//! mean; a broken stream is opened again where it stopped.

mod attachment;
mod follow;
mod input;
mod log;

pub(crate) use self::{
    attachment::Attachment,
    follow::{Following, Readable, attached, cut_short, read},
    input::{Input, Source},
    log::{Frame, LogReader, Reading},
};

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio_stream::StreamExt as _;

use crate::{
    CommandInfo, CommandResult, Exit, OutputStream,
    error::{Error, Result},
};

/// What a command does, in order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// It runs, or ran. First; also after the stream was attached again.
    Started(CommandInfo),
    /// It wrote something.
    Output(Output),
    /// The oldest output was gone before it was read. Only with
    /// [`Overflow::Truncate`](crate::Overflow::Truncate).
    Lost {
        /// How many bytes are missing here.
        bytes: u64,
    },
    /// It has ended. Last.
    Ended(Exit),
}

/// A place in a command's output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// The execution of the sandbox in which the offset was read. Empty: the one
    /// that runs now.
    pub execution_id: String,
    /// Bytes from the beginning of the log of both streams.
    pub offset: i64,
}

impl From<i64> for Position {
    fn from(offset: i64) -> Self {
        Self { execution_id: String::new(), offset }
    }
}

/// Bytes that a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Where.
    pub stream: OutputStream,
    /// Where in the log of both streams they begin.
    pub offset: i64,
    /// As the command wrote them.
    pub data: Bytes,
}

/// What a command does, as it comes: a [`Stream`] of [`Event`].
///
/// It ends with [`Event::Ended`], or with an error; nothing else says that a
/// command has ended. A connection that breaks is made again and reading goes on
/// where it stopped, with no byte lost and none twice. Dropping it leaves the
/// command as it is.
#[must_use = "nothing is sent before it is polled"]
pub struct Events(Following);

impl Events {
    pub(crate) fn new(following: Following) -> Self {
        Self(following)
    }

    /// Reads on to the end of the command and gathers what it wrote from here on.
    ///
    /// # Errors
    /// [`CommandTimedOut`](crate::Reason::CommandTimedOut), with the output.
    pub async fn collect(self) -> Result<CommandResult> {
        collect(self.0).await
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        self.0.as_mut().poll_next(cx).map(|event| match event {
            Some(Ok(Event::Ended(exit))) if exit.is_timed_out() => {
                Some(Err(Error::timed_out(CommandResult::without_output(exit))))
            }
            event => event,
        })
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Follows a command to its end and keeps what it writes.
pub(crate) async fn collect(mut events: Following) -> Result<CommandResult> {
    let (mut stdout, mut stderr, mut lost_bytes) = (BytesMut::new(), BytesMut::new(), 0);
    while let Some(event) = events.next().await {
        match event? {
            Event::Started(_) => {}
            Event::Output(output) if output.stream == OutputStream::Stderr => stderr.extend_from_slice(&output.data),
            Event::Output(output) => stdout.extend_from_slice(&output.data),
            Event::Lost { bytes } => lost_bytes += bytes,
            Event::Ended(exit) => {
                let (stdout, stderr) = (stdout.freeze(), stderr.freeze());
                let timed_out = exit.is_timed_out();
                let result = CommandResult { exit, stdout, stderr, lost_bytes };
                return if timed_out { Err(Error::timed_out(result)) } else { Ok(result) };
            }
        }
    }
    Err(cut_short())
}
