//! A command's output, by position.

use bytes::{Bytes, BytesMut};
use tokio_stream::StreamExt as _;

use crate::{
    Event, Events, Exit, OutputStream, Position,
    connection::Connection,
    error::Result,
    page::Call,
    stream::{LogReader, Reading, read},
};

/// Reads a command's output. Made by [`Command::output`](crate::Command::output).
///
/// Awaiting it reads what is there now; [`events`](Self::events) follows it to
/// the command's end. Reading takes nothing away and holds nobody up.
///
/// ```no_run
/// # async fn example(command: nullspace::Command) -> nullspace::Result<()> {
/// let first = command.output().limit(100).await?;
/// let rest = command.output().position(first.next.clone()).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent before it is awaited"]
pub struct ReadOutput {
    connection: Connection,
    reading: Reading,
    limit: Option<usize>,
}

/// A part of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputSlice {
    /// Both streams, in the order in which the sandbox read them.
    pub output: Bytes,
    /// What of it is standard output.
    pub stdout: Bytes,
    /// What of it is standard error.
    pub stderr: Bytes,
    /// Bytes that were gone before they were read.
    pub lost_bytes: u64,
    /// Where the next read goes on.
    pub next: Position,
    /// How the command ended, if reading came to its end.
    pub exit: Option<Exit>,
}

impl ReadOutput {
    pub(super) fn new(connection: Connection, sandbox_id: String, command_id: String) -> Self {
        let reading = Reading { sandbox_id, command_id, log: LogReader::default(), follow: false };
        Self { connection, reading, limit: None }
    }

    /// Where to begin. Default: the first byte that is kept.
    pub fn position(mut self, position: impl Into<Position>) -> Self {
        let position = position.into();
        self.reading.log = LogReader::at(position.execution_id, position.offset);
        self
    }

    /// How many bytes at most. Default: all. Does not hold for
    /// [`events`](Self::events).
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// What the command does, as it comes, to its end.
    pub fn events(mut self) -> Events {
        self.reading.follow = true;
        Events::new(read(self.connection, self.reading))
    }

    async fn slice(self) -> Result<OutputSlice> {
        let execution_id = self.reading.log.position().execution_id;
        let mut offset = self.reading.log.offset;
        let mut room = self.limit.unwrap_or(usize::MAX);
        let (mut output, mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        let (mut lost_bytes, mut exit) = (0, None);
        let mut events = read(self.connection, self.reading);
        while room > 0 {
            match events.next().await.transpose()? {
                None => break,
                Some(Event::Output(piece)) => {
                    let data = &piece.data[..piece.data.len().min(room)];
                    room -= data.len();
                    offset = piece.offset + data.len() as i64;
                    output.extend_from_slice(data);
                    let stream = if piece.stream == OutputStream::Stderr { &mut stderr } else { &mut stdout };
                    stream.extend_from_slice(data);
                }
                Some(Event::Lost { bytes }) => {
                    lost_bytes += bytes;
                    offset += i64::try_from(bytes).unwrap_or(i64::MAX);
                }
                Some(Event::Ended(ended)) => exit = Some(ended),
                Some(Event::Started(_)) => {}
            }
        }
        let next = Position { execution_id, offset };
        let (output, stdout, stderr) = (output.freeze(), stdout.freeze(), stderr.freeze());
        Ok(OutputSlice { output, stdout, stderr, lost_bytes, next, exit })
    }
}

impl IntoFuture for ReadOutput {
    type Output = Result<OutputSlice>;
    type IntoFuture = Call<OutputSlice>;

    /// # Errors
    /// [`CommandNotFound`](crate::Reason::CommandNotFound),
    /// [`OutputDiverged`](crate::Reason::OutputDiverged).
    fn into_future(self) -> Call<OutputSlice> {
        Box::pin(self.slice())
    }
}
