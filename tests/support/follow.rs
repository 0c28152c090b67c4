//! Follows a command across cut connections and servers that were killed: by
//! hand, as the contract says it, so that it does not rest on a client of ours.

use std::time::{Duration, Instant};

use nullspace_proto::v1::{
    AttachCommandRequest, AttachOpen, CloseInput, Exit, InputChunk, LogPosition, OutputAck, OutputChunk,
    attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{Api, Result, patient};

/// How long a server may be away.
const AWAY: Duration = Duration::from_secs(30);
/// Bytes of input in one frame.
const PIECE: usize = 64 << 10;

/// A command that is followed to its end, whatever happens on the way.
pub struct Follow {
    /// Where the server is reached.
    pub url: String,
    /// The API key.
    pub key: String,
    /// How it is attached; `position` is filled in.
    pub open: AttachOpen,
    /// What is sent to it, then the end of input.
    pub input: Vec<u8>,
    /// It has no end of input: others write too.
    pub keep_open: bool,
}

/// What was seen of it.
#[derive(Debug, Default)]
pub struct Followed {
    /// How it ended.
    pub exit: Exit,
    /// How often it was attached to.
    pub attaches: usize,
    /// Bytes that were gone.
    pub lost: i64,
}

struct Place {
    execution: String,
    offset: i64,
    lost: i64,
}

impl Follow {
    /// Gives every byte once and in order to `take`, which is told how many
    /// came before.
    pub async fn to_end(self, mut take: impl AsyncFnMut(i64, &OutputChunk) -> Result) -> Result<Followed> {
        let mut place = Place { execution: String::new(), offset: 0, lost: 0 };
        let mut attaches = 0;
        let mut reached = Instant::now();
        loop {
            attaches += 1;
            let before = place.offset;
            match self.attach(&mut place, &mut take).await? {
                Ok(exit) => return Ok(Followed { exit, attaches, lost: place.lost }),
                Err(status) if is_cut(&status) => {
                    if place.offset > before {
                        reached = Instant::now();
                    }
                    if reached.elapsed() > patient(AWAY) {
                        return Err(format!("no way to the command for {AWAY:?}: {status:?}").into());
                    }
                    // A server that starts again is not there for a moment.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(status) => return Err(format!("attach {attaches} at {}: {status:?}", place.offset).into()),
            }
        }
    }

    async fn attach(
        &self,
        place: &mut Place,
        take: &mut impl AsyncFnMut(i64, &OutputChunk) -> Result,
    ) -> Result<Result<Exit, Status>> {
        let api = match Api::connect(&self.url, Some(&self.key)).await {
            Ok(api) => api,
            Err(error) => return Ok(Err(Status::unavailable(error.to_string()))),
        };
        let (asks, requests) = mpsc::channel(64);
        let position = LogPosition { execution_id: place.execution.clone(), offset: place.offset };
        let open = AttachOpen { position: Some(position), ..self.open.clone() };
        asks.send(AttachCommandRequest { frame: Some(Ask::Open(open)) }).await?;
        let answers = api.commands().attach_command(ReceiverStream::new(requests)).await;
        let mut answers = match answers {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut sent = None;
        loop {
            let answer = match answers.message().await {
                Ok(Some(answer)) => answer.frame.ok_or("an empty frame")?,
                Ok(None) => return Err("the stream ended without exit and without error".into()),
                Err(status) => return Ok(Err(status)),
            };
            match answer {
                Answer::Started(started) => place.execution = started.execution_id,
                Answer::Output(chunk) => {
                    if chunk.offset != place.offset || chunk.data.is_empty() {
                        return Err(format!("a chunk at {}, not at {}", chunk.offset, place.offset).into());
                    }
                    take(place.offset, &chunk).await?;
                    place.offset += chunk.data.len() as i64;
                    // What is refused here is told by the stream's end.
                    let ack = Ask::Ack(OutputAck { offset: place.offset });
                    let _ = asks.try_send(AttachCommandRequest { frame: Some(ack) });
                }
                Answer::Truncated(truncated) => {
                    place.lost += truncated.offset - place.offset;
                    place.offset = truncated.offset;
                }
                Answer::InputAccepted(accepted) => {
                    let from = sent.unwrap_or(accepted.offset);
                    sent = Some(self.feed(&asks, from, accepted.offset + accepted.window_bytes).await);
                }
                Answer::Exit(exit) => {
                    if exit.output_bytes != place.offset {
                        return Err(format!("exit at {} of {} bytes", place.offset, exit.output_bytes).into());
                    }
                    return Ok(Ok(exit));
                }
                Answer::InputClosed(_) | Answer::Keepalive(_) => {}
            }
        }
    }

    /// Sends input from an offset as far as the window reaches and the stream
    /// takes it. Gives where it stopped.
    async fn feed(&self, asks: &mpsc::Sender<AttachCommandRequest>, from: i64, window: i64) -> i64 {
        let mut at = from as usize;
        if self.input.is_empty() {
            return from;
        }
        while at < self.input.len().min(window as usize) {
            let end = self.input.len().min(window as usize).min(at + PIECE);
            let chunk = InputChunk { offset: at as i64, data: self.input[at..end].to_vec().into() };
            if asks.try_send(AttachCommandRequest { frame: Some(Ask::Input(chunk)) }).is_err() {
                return at as i64;
            }
            at = end;
        }
        if at == self.input.len() && !self.keep_open {
            let close = Ask::CloseInput(CloseInput { offset: at as i64 });
            let _ = asks.send(AttachCommandRequest { frame: Some(close) }).await;
        }
        at as i64
    }
}

/// Whether a status says that the connection is gone, and not the command.
fn is_cut(status: &Status) -> bool {
    let from_transport = std::error::Error::source(status).is_some();
    status.code() == Code::Unavailable || (from_transport && status.details().is_empty())
}
