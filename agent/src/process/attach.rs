//! One attach: a client's frames in, the command's frames out, on one stream.
//! Each has a task, which ends when its client leaves or the exit is told.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use bytes::Bytes;
use futures_core::Stream;
use nullspace_proto::{
    Error, Reason, Result, limits,
    v1::{
        AttachCommandRequest, AttachCommandResponse, InputAccepted, InputChunk, InputClosed, InputClosedReason,
        Keepalive, OutputTruncated, attach_command_request, attach_command_response::Frame,
    },
    validate::Checks,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::{Status, Streaming};

use super::{
    Process, Seat,
    input::{Accepted, Offer},
};
use crate::{
    fault::foreign,
    flow::Share,
    log::{Hold, Piece},
};

/// Batches of frames that wait for a client that does not read.
const WAITING_BATCHES: usize = 1;
/// A batch is full when it has so many bytes. Small frames leave together: one
/// by one they would each be a frame of HTTP/2, of which a receiver takes only
/// so many unread ones before it ends the whole connection.
const BATCH_BYTES: usize = 16 << 10;
/// What a frame has beside its output.
const FRAME_COST: usize = 16;
/// A window that has grown by this much is told to the client.
const WINDOW_STEP: u64 = limits::INPUT_WINDOW as u64 / 4;

/// What leaves on the stream.
pub type Item = Result<AttachCommandResponse, Status>;

/// The way from an attach to its client.
pub fn channel() -> (mpsc::Sender<Vec<Item>>, Frames) {
    let (sender, batches) = mpsc::channel(WAITING_BATCHES);
    (sender, Frames { batch: Vec::new().into_iter(), batches })
}

/// The frames of an attach, one after the other.
pub struct Frames {
    batch: vec::IntoIter<Item>,
    batches: mpsc::Receiver<Vec<Item>>,
}

impl Frames {
    /// With frames that leave first.
    pub fn after(mut self, greeting: Vec<Item>) -> Self {
        self.batch = greeting.into_iter();
        self
    }
}

impl Stream for Frames {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        loop {
            if let Some(frame) = self.batch.next() {
                return Poll::Ready(Some(frame));
            }
            match ready!(self.batches.poll_recv(cx)) {
                Some(batch) => self.batch = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// A client's view of a command.
pub struct Attach {
    process: Arc<Process>,
    share: Share,
    seat: Seat,
    hold: Option<Hold>,
    position: u64,
    keepalive: Duration,
    started_told: bool,
    accepted_told: Option<Accepted>,
    closed_told: bool,
    /// Input was sent to a command that has none open.
    input_refused: bool,
    /// Input that the queue has no room for yet.
    waiting: Option<InputChunk>,
}

impl Attach {
    /// Attaches `client` (empty: without a name) at `position`, which
    /// `Process::position` has checked.
    pub fn new(
        process: Arc<Process>,
        share: Share,
        client: &str,
        position: u64,
        hold: bool,
        keepalive: Duration,
    ) -> Self {
        let seat = process.seat(client);
        let hold = hold.then(|| process.log.hold(seat.client(), position)).flatten();
        Self {
            process,
            share,
            seat,
            hold,
            position,
            keepalive,
            started_told: false,
            accepted_told: None,
            closed_told: false,
            input_refused: false,
            waiting: None,
        }
    }

    /// The frames with which every stream begins. They leave together with the
    /// answer's head: for a short command that is half of all packets.
    pub fn greeting(&mut self) -> Vec<Item> {
        let mut frames = Vec::new();
        while frames.len() < 2
            && let Some(frame) = self.greet()
        {
            frames.push(Ok(AttachCommandResponse { frame: Some(frame) }));
        }
        frames
    }

    fn greet(&mut self) -> Option<Frame> {
        if !self.started_told {
            self.started_told = true;
            return Some(Frame::Started(self.process.info()));
        }
        self.input_news().map(|accepted| {
            self.accepted_told = Some(accepted);
            Frame::InputAccepted(InputAccepted { offset: accepted.offset as i64, window_bytes: accepted.window as i64 })
        })
    }

    /// Serves the client until the exit is told, an error, or it leaves.
    pub async fn run(mut self, requests: Streaming<AttachCommandRequest>, responses: mpsc::Sender<Vec<Item>>) {
        if let Err(error) = self.serve(requests, &responses).await {
            // A client that has left needs no error.
            let _ = responses.send(vec![Err(error.into())]).await;
        }
    }

    async fn serve(
        &mut self,
        mut requests: Streaming<AttachCommandRequest>,
        responses: &mpsc::Sender<Vec<Item>>,
    ) -> Result<()> {
        let process = self.process.clone();
        let mut reading = true;
        let mut silent_since = Instant::now();
        loop {
            let changed = process.log.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.offer_waiting()?;
            let pending = self.pending();
            tokio::select! {
                () = responses.closed() => return Ok(()),
                () = self.seat.superseded() => {
                    return Err(Error::new(Reason::AttachSuperseded, "a newer attach with the same client_id took over"));
                }
                // Beside output, never behind it: a signal must not wait for output to go.
                request = requests.message(), if reading && self.waiting.is_none() => match request {
                    Ok(Some(request)) => self.take(request)?,
                    // Half-closed: the client has no more to say and listens on.
                    Ok(None) => reading = false,
                    Err(status) if status.code() == tonic::Code::Cancelled => reading = false,
                    Err(status) => return Err(foreign(status)),
                },
                permit = responses.reserve(), if pending => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let (batch, last) = self.next_batch();
                    if !batch.is_empty() {
                        permit.send(batch);
                        silent_since = Instant::now();
                    }
                    if last {
                        return Ok(());
                    }
                }
                () = changed, if !pending => {}
                () = sleep_until(silent_since + self.keepalive), if !pending => {
                    // Where a frame still waits to go, there is no silence to break.
                    if let Ok(permit) = responses.try_reserve() {
                        permit.send(vec![Ok(AttachCommandResponse { frame: Some(Frame::Keepalive(Keepalive {})) })]);
                    }
                    silent_since = Instant::now();
                }
            }
        }
    }

    /// A frame of the client.
    fn take(&mut self, request: AttachCommandRequest) -> Result<()> {
        use attach_command_request::Frame;
        let mut checks = Checks::default();
        match request.frame {
            None => checks.fail("frame", "is missing or not known"),
            Some(Frame::Open(_)) => checks.fail("open", "must be sent once"),
            Some(Frame::Input(chunk)) => {
                checks.check(chunk.offset >= 0, "input.offset", || format!("{} is below 0", chunk.offset));
                checks.check(chunk.data.len() <= limits::MAX_CHUNK_BYTES, "input.data", || {
                    format!("{} bytes are more than {}", chunk.data.len(), limits::MAX_CHUNK_BYTES)
                });
                checks.finish()?;
                self.waiting = Some(chunk);
                return Ok(());
            }
            Some(Frame::CloseInput(close)) => {
                checks.check(close.offset >= 0, "close_input.offset", || format!("{} is below 0", close.offset));
                checks.finish()?;
                self.input_refused |= self.process.input.close(self.seat.client(), close.offset as u64).is_err();
                return Ok(());
            }
            Some(Frame::Signal(signal)) => {
                check_signal(&mut checks, "signal.number", signal.number);
                checks.finish()?;
                // One that comes after the end is answered by the exit.
                return match self.process.signal(signal.number) {
                    Err(error) if error.reason() != Reason::CommandEnded => Err(error),
                    _ => Ok(()),
                };
            }
            Some(Frame::Ack(ack)) => {
                checks.check(ack.offset >= 0, "ack.offset", || format!("{} is below 0", ack.offset));
                checks.finish()?;
                if let Some(hold) = &self.hold {
                    hold.acknowledge(ack.offset as u64);
                }
                return Ok(());
            }
        }
        checks.finish()
    }

    /// Puts waiting input into the queue as far as there is room.
    fn offer_waiting(&mut self) -> Result<()> {
        let Some(chunk) = &mut self.waiting else { return Ok(()) };
        let mut offset = chunk.offset as u64;
        match self.process.input.offer(self.seat.client(), &mut offset, &mut chunk.data) {
            Ok(Offer::Full) => chunk.offset = offset as i64,
            Ok(Offer::Taken) => self.waiting = None,
            Err(error) if error.reason() == Reason::InputClosed => {
                self.waiting = None;
                self.input_refused = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether there is a frame to send.
    fn pending(&self) -> bool {
        let log = &self.process.log;
        !self.started_told
            || self.input_news().is_some()
            || self.closed_news().is_some()
            || log.has_more(self.position)
            || self.process.exit().is_some()
    }

    /// What there is to send, up to the size of a batch, and whether it is all.
    fn next_batch(&mut self) -> (Vec<Item>, bool) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(frame) = self.next_frame()
        {
            let last = matches!(frame, Frame::Exit(_));
            bytes += FRAME_COST
                + match &frame {
                    Frame::Output(chunk) => chunk.data.len(),
                    _ => 0,
                };
            batch.push(Ok(AttachCommandResponse { frame: Some(frame) }));
            if last {
                return (batch, true);
            }
        }
        (batch, false)
    }

    fn next_frame(&mut self) -> Option<Frame> {
        if let Some(frame) = self.greet() {
            return Some(frame);
        }
        if let Some(reason) = self.closed_news() {
            self.closed_told = true;
            return Some(Frame::InputClosed(InputClosed { reason: reason.into() }));
        }
        let exit = self.process.exit();
        let left = exit.map_or(u64::MAX, |exit| exit.output_bytes.saturating_sub(self.position));
        let max = left.min(self.share.piece_bytes() as u64) as usize;
        match (max > 0).then(|| self.process.log.read(&mut self.position, max, false)).flatten() {
            Some(Piece::Data(chunk)) => {
                self.share.moved(chunk.data.len());
                Some(Frame::Output(chunk.into()))
            }
            Some(Piece::Lost(offset)) => Some(Frame::Truncated(OutputTruncated { offset: offset as i64 })),
            None => exit.map(|exit| Frame::Exit(exit.into())),
        }
    }

    /// Where this client's input stands, if that is worth a frame.
    fn input_news(&self) -> Option<Accepted> {
        let now = self.process.input.accepted(self.seat.client());
        let Some(told) = self.accepted_told else { return Some(now) };
        let grown = (now.offset + now.window).saturating_sub(told.offset + told.window);
        // While a chunk waits for room its rest will be told of.
        let moved = now.offset != told.offset && self.waiting.is_none();
        (moved || grown >= WINDOW_STEP || (grown > 0 && now.drained)).then_some(now)
    }

    /// Why input has closed, if the client does not know.
    fn closed_news(&self) -> Option<InputClosedReason> {
        let reason = self.process.input.closed().filter(|_| !self.closed_told)?;
        // That there never was any is told to those who send some.
        (reason != InputClosedReason::NotOpened || self.input_refused).then_some(reason)
    }
}

/// A signal that Linux has.
pub fn check_signal(checks: &mut Checks, field: &str, number: i32) {
    checks.check((1..=64).contains(&number), field, || format!("{number} is not in 1 to 64"));
}

/// Input of a call that is not a stream: waits until all of it is in.
pub async fn write_input(
    process: &Process,
    client: &str,
    mut offset: u64,
    mut data: Bytes,
    close: bool,
) -> Result<u64> {
    let end = offset + data.len() as u64;
    loop {
        let changed = process.log.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if process.input.offer(client, &mut offset, &mut data)? == Offer::Taken {
            break;
        }
        changed.await;
    }
    if close {
        process.input.close(client, end)?;
    }
    Ok(process.input.accepted(client).offset)
}
