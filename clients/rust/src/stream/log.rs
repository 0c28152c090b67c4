//! A place in the log of a command, moved on by frames.

use std::time::Duration;

use bytes::Buf as _;
use nullspace_proto::v1::{
    LogPosition, OutputChunk, ReadCommandOutputRequest, ReadCommandOutputResponse,
    attach_command_response::Frame as Attach, read_command_output_response::Frame as Read,
    run_once_response::Frame as RunOnce,
};

use super::{Event, Output, Readable};
use crate::{
    CommandInfo, Exit,
    error::{Error, Result},
    limits::COMMAND_SILENCE,
    method::{Method, READ_COMMAND_OUTPUT},
};

/// A frame of any stream that has output.
pub(crate) enum Frame {
    Started(Box<nullspace_proto::v1::CommandInfo>),
    /// Reading goes on in this execution.
    Joined(String),
    Output(OutputChunk),
    Truncated(i64),
    Exit(nullspace_proto::v1::Exit),
    End,
    Other,
}

impl From<Attach> for Frame {
    fn from(frame: Attach) -> Self {
        match frame {
            Attach::Started(info) => Self::Started(Box::new(info)),
            Attach::Output(chunk) => Self::Output(chunk),
            Attach::Truncated(truncated) => Self::Truncated(truncated.offset),
            Attach::Exit(exit) => Self::Exit(exit),
            Attach::InputAccepted(_) | Attach::InputClosed(_) | Attach::Keepalive(_) => Self::Other,
        }
    }
}

impl From<Read> for Frame {
    fn from(frame: Read) -> Self {
        match frame {
            Read::Output(chunk) => Self::Output(chunk),
            Read::Truncated(truncated) => Self::Truncated(truncated.offset),
            Read::Exit(exit) => Self::Exit(exit),
            Read::End(_) => Self::End,
            Read::Started(info) => Self::Joined(info.execution_id),
            Read::Keepalive(_) => Self::Other,
        }
    }
}

impl From<RunOnce> for Frame {
    fn from(frame: RunOnce) -> Self {
        match frame {
            RunOnce::Output(chunk) => Self::Output(chunk),
            RunOnce::Truncated(truncated) => Self::Truncated(truncated.offset),
            RunOnce::Exit(exit) => Self::Exit(exit),
            RunOnce::Sandbox(_) | RunOnce::Keepalive(_) => Self::Other,
        }
    }
}

/// A place in a log. Bytes that came before are dropped, so that a frame may
/// come twice; bytes that are missing are an error unless the server says that
/// they are gone.
#[derive(Debug, Default)]
pub(crate) struct LogReader {
    execution_id: String,
    /// Where the next byte belongs.
    pub offset: i64,
    /// The command has ended, and all it had written by then has come.
    pub ended: bool,
    /// A read that does not follow has come to its end.
    pub at_end: bool,
}

impl LogReader {
    /// Begins at an offset that was read in an execution.
    pub fn at(execution_id: String, offset: i64) -> Self {
        Self { execution_id, offset, ..Self::default() }
    }

    /// Reading begins in this execution, unless it began before.
    pub fn begin_in(&mut self, execution_id: &str) {
        // Only the first one: after a reconnect the offset still counts in the
        // execution in which reading began.
        if self.execution_id.is_empty() {
            execution_id.clone_into(&mut self.execution_id);
        }
    }

    /// Where to go on.
    pub fn position(&self) -> LogPosition {
        LogPosition { execution_id: self.execution_id.clone(), offset: self.offset }
    }

    /// Moves on by one frame of the server.
    pub fn take(&mut self, frame: Frame) -> Result<Option<Event>> {
        match frame {
            Frame::Started(info) => {
                self.begin_in(&info.execution_id);
                Ok(Some(Event::Started(CommandInfo::try_from(*info)?)))
            }
            Frame::Joined(execution_id) => {
                self.begin_in(&execution_id);
                Ok(None)
            }
            Frame::Output(chunk) => self.output(chunk),
            Frame::Truncated(offset) => Ok(self.skip_to(offset)),
            Frame::Exit(exit) => self.exit(exit),
            Frame::End => {
                self.at_end = true;
                Ok(None)
            }
            Frame::Other => Ok(None),
        }
    }

    fn output(&mut self, chunk: OutputChunk) -> Result<Option<Event>> {
        let seen = usize::try_from(self.offset - chunk.offset);
        let seen = seen.map_err(|_| {
            Error::invalid_response(format!("output jumped from byte {} to {}", self.offset, chunk.offset))
        })?;
        let stream = chunk.stream().into();
        let mut data = chunk.data;
        data.advance(seen.min(data.len()));
        if data.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += data.len() as i64;
        Ok(Some(Event::Output(Output { stream, offset, data })))
    }

    fn skip_to(&mut self, offset: i64) -> Option<Event> {
        let bytes = u64::try_from(offset - self.offset).ok().filter(|&bytes| bytes > 0)?;
        self.offset = offset;
        Some(Event::Lost { bytes })
    }

    fn exit(&mut self, exit: nullspace_proto::v1::Exit) -> Result<Option<Event>> {
        if exit.output_bytes > self.offset {
            let message = format!("the exit came at byte {} of {}", self.offset, exit.output_bytes);
            return Err(Error::invalid_response(message));
        }
        self.ended = true;
        Ok(Some(Event::Ended(Exit::try_from(exit)?)))
    }
}

/// ReadCommandOutput: reads without starting or holding a command.
#[derive(Debug)]
pub(crate) struct Reading {
    pub sandbox_id: String,
    pub command_id: String,
    pub log: LogReader,
    pub follow: bool,
}

impl Readable for Reading {
    type Request = ReadCommandOutputRequest;
    type Response = ReadCommandOutputResponse;
    const METHOD: Method<ReadCommandOutputRequest, ReadCommandOutputResponse> = READ_COMMAND_OUTPUT;
    const SILENCE: Duration = COMMAND_SILENCE;

    fn open(&self) -> ReadCommandOutputRequest {
        ReadCommandOutputRequest {
            sandbox_id: self.sandbox_id.clone(),
            command_id: self.command_id.clone(),
            position: (self.log.offset > 0).then(|| self.log.position()),
            follow: self.follow,
            keepalive: None,
        }
    }

    fn take(&mut self, response: ReadCommandOutputResponse) -> Result<Option<Event>> {
        self.log.take(response.frame.map_or(Frame::Other, Frame::from))
    }

    /// Following ends with the command's exit: what its descendants write later is
    /// not waited for.
    fn is_over(&self) -> bool {
        self.log.at_end || (self.follow && self.log.ended)
    }
}

#[cfg(test)]
mod tests {
    use nullspace_proto::v1::{self, exit::Outcome};

    use super::*;

    fn chunk(offset: i64, data: &'static [u8]) -> Frame {
        Frame::Output(OutputChunk { offset, stream: v1::OutputStream::Stdout.into(), data: data.into() })
    }

    fn exit(output_bytes: i64) -> Frame {
        Frame::Exit(v1::Exit { outcome: Some(Outcome::Code(0)), output_bytes, ..Default::default() })
    }

    fn bytes(event: Option<Event>) -> Vec<u8> {
        match event {
            Some(Event::Output(output)) => output.data.to_vec(),
            None => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_byte_comes_twice_and_none_is_missing() {
        let mut log = LogReader::default();
        assert_eq!(bytes(log.take(chunk(0, b"abc")).unwrap()), b"abc");
        assert_eq!(bytes(log.take(chunk(0, b"abc")).unwrap()), b"");
        assert_eq!(bytes(log.take(chunk(1, b"bcde")).unwrap()), b"de");
        assert_eq!(log.take(chunk(6, b"x")).unwrap_err().reason(), crate::Reason::InvalidResponse);
        assert_eq!(log.position().offset, 5);
    }

    #[test]
    fn bytes_that_are_gone_are_told_once() {
        let mut log = LogReader::default();
        log.take(chunk(0, b"abc")).unwrap();
        assert!(matches!(log.take(Frame::Truncated(10)).unwrap(), Some(Event::Lost { bytes: 7 })));
        assert!(log.take(Frame::Truncated(10)).unwrap().is_none());
        assert!(log.take(Frame::Truncated(2)).unwrap().is_none());
        assert_eq!(bytes(log.take(chunk(10, b"k")).unwrap()), b"k");
    }

    #[test]
    fn an_exit_before_all_output_is_not_believed() {
        let mut log = LogReader::default();
        log.take(chunk(0, b"abc")).unwrap();
        assert!(log.take(exit(4)).is_err());
        assert!(matches!(log.take(exit(3)).unwrap(), Some(Event::Ended(_))));
        assert!(log.ended);
    }

    #[test]
    fn a_reader_keeps_the_execution_in_which_it_began() {
        let mut log = LogReader::default();
        let started =
            |id: &str| Frame::Started(Box::new(v1::CommandInfo { execution_id: id.into(), ..Default::default() }));
        log.take(started("first")).unwrap();
        log.take(started("second")).unwrap();
        assert_eq!(log.position().execution_id, "first");
    }
}
