//! Input of a command on its way: kept until the sandbox has it, so that it can
//! be sent again from where a broken stream left it.

use std::{collections::VecDeque, pin::Pin};

use bytes::{Buf as _, Bytes, BytesMut};
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
    /// What was sent on this stream ends here, in or at the end of the piece
    /// `cursor`, which begins at `cursor_base`.
    sent: i64,
    cursor: usize,
    cursor_base: i64,
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
            cursor: 0,
            cursor_base: 0,
            window_end: None,
            close_sent: false,
            over: false,
        }
    }

    /// A new stream begins. What the sandbox has it says in `accepted`.
    pub fn reset(&mut self) {
        (self.sent, self.cursor, self.cursor_base) = (self.base, 0, self.base);
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
                self.cursor = self.cursor.saturating_sub(1);
            }
        }
        self.sent = self.sent.max(self.base);
        self.cursor_base = self.cursor_base.max(self.base);
        self.window_end = Some(accepted.offset + accepted.window_bytes);
        Ok(())
    }

    /// The process takes no more.
    pub fn closed(&mut self) {
        self.over = true;
        self.source = None;
        self.kept.clear();
    }

    /// Whether more is wanted of the source: what was taken and not sent fills no
    /// chunk. One piece is taken ahead of the window, which may be the end of input.
    pub fn wants_more(&self) -> bool {
        !self.over
            && self.source.is_some()
            && self.end - self.sent < INPUT_CHUNK_BYTES as i64
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
        let room = usize::try_from(window_end - self.sent).ok()?.min(INPUT_CHUNK_BYTES);
        let data = self.take_unsent(room);
        let chunk = InputChunk { offset: self.sent, data };
        self.sent += chunk.data.len() as i64;
        Some(Outgoing::Chunk(chunk))
    }

    /// Bytes from `sent` on, at most `room`. Small pieces go together, so that a
    /// source of lines makes no stream of tiny frames.
    fn take_unsent(&mut self, room: usize) -> Bytes {
        let mut gathered = BytesMut::new();
        let mut at = self.sent;
        while let Some(piece) = self.kept.get(self.cursor) {
            let skip = usize::try_from(at - self.cursor_base).unwrap_or_default();
            if skip >= piece.len() {
                self.cursor_base += piece.len() as i64;
                self.cursor += 1;
                continue;
            }
            let part = piece.slice(skip..piece.len().min(skip + room - gathered.len()));
            if gathered.is_empty() && (part.len() == room || self.cursor + 1 == self.kept.len()) {
                return part;
            }
            at += part.len() as i64;
            gathered.extend_from_slice(&part);
            if gathered.len() == room {
                break;
            }
        }
        gathered.freeze()
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

    /// Whatever the sizes of pieces and windows, and however often a stream breaks:
    /// the sandbox gets each byte once, in order.
    #[tokio::test]
    async fn a_sandbox_that_takes_what_it_likes_gets_every_byte_once() {
        for seed in 1..200_u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let whole: Vec<u8> = (0..random(2_000)).map(|_| random(256) as u8).collect();
            let mut pieces = Vec::new();
            let mut rest = Bytes::from(whole.clone());
            while !rest.is_empty() {
                pieces.push(Ok(rest.split_to(rest.len().min(random(40) as usize))));
            }
            let mut input = Input::new(Box::pin(tokio_stream::iter(pieces)));
            let (mut taken, mut closed) = (Vec::new(), false);
            input.accepted(&accepted(0, random(100) as i64)).unwrap();
            while !closed {
                match random(8) {
                    0 => input.reset(),
                    1..4 => input.accepted(&accepted(taken.len() as i64, random(100) as i64)).unwrap(),
                    4 if input.wants_more() => input.pull().await.unwrap(),
                    _ => match input.next() {
                        Some(Outgoing::Chunk(chunk)) => {
                            let seen = taken.len() - usize::try_from(chunk.offset).unwrap();
                            taken.extend_from_slice(chunk.data.get(seen..).unwrap_or_default());
                        }
                        Some(Outgoing::Close(close)) => closed = close.offset as usize == taken.len(),
                        None => {}
                    },
                }
            }
            assert!(taken == whole, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn small_pieces_go_together() {
        let mut input = input(&["a"; 100]);
        input.accepted(&accepted(0, 1_000)).unwrap();
        for _ in 0..100 {
            input.pull().await.unwrap();
        }
        let Some(Outgoing::Chunk(chunk)) = input.next() else { panic!("nothing is due") };
        assert_eq!(chunk.data.len(), 100);
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
