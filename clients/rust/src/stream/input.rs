//! Input of a command on its way: kept until the sandbox has it, so that it can
//! be sent again from where a broken stream left it.

use std::{collections::VecDeque, pin::Pin};

use bytes::{Buf as _, Bytes};
use futures_core::Stream;
use nullspace_proto::v1::{CloseInput, InputAccepted, InputChunk};
use tokio_stream::StreamExt as _;

use crate::{
    error::{Error, Result},
    limits::INPUT_CHUNK_BYTES,
};

/// Where input comes from.
pub(crate) type Source = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Input and its place. Offsets count from the first byte of the source.
pub(crate) struct Input {
    source: Option<Source>,
    /// What the sandbox does not have yet, in pieces; the first begins at `base`.
    kept: VecDeque<Bytes>,
    base: i64,
    /// Everything that was taken from the source ends here.
    end: i64,
    /// What was sent on this stream ends here.
    sent: i64,
    /// May be sent up to here; until the sandbox said so, nothing.
    window_end: Option<i64>,
    /// The end of input was sent on this stream.
    close_sent: bool,
    /// The process takes no more.
    over: bool,
}

/// What goes to the sandbox.
#[derive(Debug, PartialEq)]
pub(crate) enum Outgoing {
    Chunk(InputChunk),
    Close(CloseInput),
}

impl Input {
    /// All of a source, then the end of input.
    pub fn new(source: Source) -> Self {
        Self {
            source: Some(source),
            kept: VecDeque::new(),
            base: 0,
            end: 0,
            sent: 0,
            window_end: None,
            close_sent: false,
            over: false,
        }
    }

    /// A new stream begins. What the sandbox has it says in `accepted`.
    pub fn reset(&mut self) {
        self.sent = self.base;
        self.window_end = None;
        self.close_sent = false;
    }

    /// The sandbox has this much.
    pub fn accepted(&mut self, accepted: &InputAccepted) -> Result<()> {
        if accepted.offset > self.end {
            let message = format!("input was accepted up to byte {} of {}", accepted.offset, self.end);
            return Err(Error::invalid_response(message));
        }
        while self.base < accepted.offset {
            let Some(first) = self.kept.front_mut() else { break };
            let gone = first.len().min(usize::try_from(accepted.offset - self.base).unwrap_or(usize::MAX));
            first.advance(gone);
            self.base += gone as i64;
            if first.is_empty() {
                self.kept.pop_front();
            }
        }
        self.sent = self.sent.max(accepted.offset);
        self.window_end = Some(accepted.offset + accepted.window_bytes);
        Ok(())
    }

    /// The process takes no more.
    pub fn closed(&mut self) {
        self.over = true;
        self.source = None;
        self.kept.clear();
    }

    /// Whether more is wanted of the source: all that was taken has been sent.
    /// One piece is taken ahead of the window, which may be the end of input.
    pub fn wants_more(&self) -> bool {
        !self.over
            && self.source.is_some()
            && self.sent == self.end
            && self.window_end.is_some_and(|window_end| self.end <= window_end)
    }

    /// Takes from the source. May be given up and begun again.
    pub async fn pull(&mut self) -> Result<()> {
        let Some(source) = &mut self.source else { return Ok(()) };
        match source.next().await {
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => {
                self.end += piece.len() as i64;
                self.kept.push_back(piece);
            }
            Some(Err(error)) => return Err(error),
            None => self.source = None,
        }
        Ok(())
    }

    /// Whether something may go now.
    pub fn is_due(&self) -> bool {
        let Some(window_end) = self.window_end.filter(|_| !self.over) else { return false };
        (self.sent < self.end && self.sent < window_end)
            || (self.source.is_none() && self.sent == self.end && !self.close_sent)
    }

    /// What goes next, after [`Self::is_due`].
    pub fn next(&mut self) -> Option<Outgoing> {
        let window_end = self.window_end.filter(|_| self.is_due())?;
        if self.sent == self.end {
            self.close_sent = true;
            return Some(Outgoing::Close(CloseInput { offset: self.sent }));
        }
        let mut skip = usize::try_from(self.sent - self.base).ok()?;
        let piece = self.kept.iter().find(|piece| {
            let here = skip < piece.len();
            skip -= if here { 0 } else { piece.len() };
            here
        })?;
        let room = usize::try_from(window_end - self.sent).ok()?.min(INPUT_CHUNK_BYTES).min(piece.len() - skip);
        let chunk = InputChunk { offset: self.sent, data: piece.slice(skip..skip + room) };
        self.sent += room as i64;
        Some(Outgoing::Chunk(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(pieces: &[&'static str]) -> Input {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        Input::new(Box::pin(tokio_stream::iter(pieces)))
    }

    async fn sent(input: &mut Input) -> String {
        let mut text = String::new();
        loop {
            if input.wants_more() {
                input.pull().await.unwrap();
            }
            match input.next() {
                Some(Outgoing::Chunk(chunk)) => text.push_str(std::str::from_utf8(&chunk.data).unwrap()),
                Some(Outgoing::Close(close)) => text.push_str(&format!("|{}", close.offset)),
                None if input.wants_more() => {}
                None => return text,
            }
        }
    }

    fn accepted(offset: i64, window_bytes: i64) -> InputAccepted {
        InputAccepted { offset, window_bytes }
    }

    #[tokio::test]
    async fn nothing_goes_before_the_sandbox_says_where() {
        let mut input = input(&["abc", "def"]);
        assert_eq!(sent(&mut input).await, "");
        input.accepted(&accepted(0, 4)).unwrap();
        assert_eq!(sent(&mut input).await, "abcd");
        input.accepted(&accepted(2, 4)).unwrap();
        assert_eq!(sent(&mut input).await, "ef|6");
    }

    #[tokio::test]
    async fn after_a_cut_it_goes_on_at_what_was_accepted() {
        let mut input = input(&["abc", "def", "ghi"]);
        input.accepted(&accepted(0, 8)).unwrap();
        assert_eq!(sent(&mut input).await, "abcdefgh");
        input.accepted(&accepted(4, 4)).unwrap();
        input.reset();
        assert_eq!(sent(&mut input).await, "");
        // The sandbox got more than it could say before the cut.
        input.accepted(&accepted(5, 100)).unwrap();
        assert_eq!(sent(&mut input).await, "fghi|9");
        input.reset();
        input.accepted(&accepted(9, 100)).unwrap();
        assert_eq!(sent(&mut input).await, "|9");
    }

    #[tokio::test]
    async fn what_the_process_does_not_take_is_not_sent() {
        let mut input = input(&["abc"]);
        input.accepted(&accepted(0, 2)).unwrap();
        assert_eq!(sent(&mut input).await, "ab");
        input.closed();
        input.accepted(&accepted(2, 0)).unwrap();
        assert_eq!(sent(&mut input).await, "");
        assert!(input.accepted(&accepted(9, 1)).is_err());
    }
}
