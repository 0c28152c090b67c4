//! Reads the output of a command: ReadCommandOutput.

use std::{sync::Arc, time::Duration};

use futures_core::Stream;
use nullspace_proto::v1::{
    Keepalive, OutputChunk, OutputEnd, OutputTruncated, ReadCommandOutputResponse, read_command_output_response::Frame,
};
use tokio::time::sleep;
use tonic::Status;

use super::Process;
use crate::{
    flow::Share,
    log::{Chunk, Piece},
};

/// A read that has begun. Each call of `next` gives one frame.
pub struct OutputReader {
    process: Arc<Process>,
    share: Share,
    position: u64,
    /// Where to end. None: with the log.
    until: Option<u64>,
    keepalive: Duration,
    started_told: bool,
    exit_told: bool,
    ended: bool,
}

impl From<Chunk> for OutputChunk {
    fn from(chunk: Chunk) -> Self {
        Self { offset: chunk.offset as i64, stream: chunk.tag.into(), data: chunk.data }
    }
}

impl OutputReader {
    /// A reader at `position`, which `Process::position` has checked.
    pub fn new(process: Arc<Process>, share: Share, position: u64, follow: bool, keepalive: Duration) -> Self {
        // Fixed now: a program that writes faster than its reader would have no end.
        let until = (!follow).then(|| process.log.range().1);
        Self { process, share, position, until, keepalive, started_told: false, exit_told: false, ended: false }
    }

    /// All frames, in order, read as they are asked for.
    pub fn frames(self) -> impl Stream<Item = Result<ReadCommandOutputResponse, Status>> + Send {
        async_stream::stream! {
            let mut reader = self;
            while let Some(frame) = reader.next().await {
                yield Ok(frame);
            }
        }
    }

    /// The next frame. None: the end has been sent.
    async fn next(&mut self) -> Option<ReadCommandOutputResponse> {
        if self.ended {
            return None;
        }
        let process = self.process.clone();
        loop {
            let changed = process.log.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(frame) = self.ready() {
                return Some(ReadCommandOutputResponse { frame: Some(frame) });
            }
            tokio::select! {
                () = changed => {}
                () = sleep(self.keepalive) => {
                    return Some(ReadCommandOutputResponse { frame: Some(Frame::Keepalive(Keepalive {})) });
                }
            }
        }
    }

    fn ready(&mut self) -> Option<Frame> {
        if !std::mem::replace(&mut self.started_told, true) {
            return Some(Frame::Started(self.process.info()));
        }
        let exit = self.process.exit().filter(|_| !self.exit_told);
        // The exit stands between the output before it and that of descendants.
        let stops = [exit.map(|exit| exit.output_bytes), self.until];
        let left = stops.into_iter().flatten().map(|stop| stop.saturating_sub(self.position)).min();
        let max = left.map_or(usize::MAX, |left| left as usize).min(self.share.piece_bytes());
        // Asked first: what is appended after it is found open.
        let closed = self.process.log.is_closed();
        if max > 0 {
            match self.process.log.read(&mut self.position, max, self.until.is_some()) {
                Some(Piece::Data(chunk)) => {
                    self.share.moved(chunk.data.len());
                    return Some(Frame::Output(chunk.into()));
                }
                Some(Piece::Lost(offset)) => return Some(Frame::Truncated(OutputTruncated { offset: offset as i64 })),
                None => {}
            }
        }
        if let Some(exit) = exit
            && self.position >= exit.output_bytes
        {
            self.exit_told = true;
            return Some(Frame::Exit(exit.into()));
        }
        if self.until.is_none() && !closed {
            return None;
        }
        self.ended = true;
        Some(Frame::End(OutputEnd { offset: self.position as i64, output_open: !closed }))
    }
}
