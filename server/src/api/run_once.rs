//! RunOnce: a sandbox for one command. The sandbox and the command are keyed, so
//! that a caller that was cut off finds both again.

use std::sync::Arc;

use nullspace_proto::{
    Error, Reason, Result, limits,
    v1::{
        AttachCommandRequest, AttachOpen, CommandSpec, LogPosition, OutputAck, Overflow, RunOnceResponse,
        attach_command_request, attach_command_response, command_service_client::CommandServiceClient,
        run_once_response::Frame,
    },
    validate,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::convert;
use crate::{
    route::pool::AgentChannel,
    sandbox::{Sandboxes, Wanted, live::Live},
};

/// Acknowledgements that may be on their way.
const ACKS: usize = 16;
/// What may be on its way to a caller, in the queue, in buffers and in a window
/// of 4 MiB: so much less is acknowledged than was sent, because a caller that was
/// cut off has not got all of it.
const ON_THE_WAY: i64 = 12 << 20;
/// A run keeps at least this much: what is on its way, and some to go on with.
const MIN_RETAINED: i64 = 32 << 20;
/// The one command of a run.
const COMMAND: &str = "run";

/// One call, and the way to its caller.
pub struct Run {
    /// Who asked.
    pub owner: String,
    /// The run's name.
    pub key: String,
    /// What the name stands for.
    pub canonical: Vec<u8>,
    /// The sandbox.
    pub wanted: Wanted,
    /// The command.
    pub command: CommandSpec,
    /// Silence before a keepalive.
    pub keepalive: Option<prost_types::Duration>,
    /// Where to go on.
    pub position: Option<LogPosition>,
    /// To the caller.
    pub frames: mpsc::Sender<Result<RunOnceResponse, Status>>,
}

impl Run {
    /// Follows the run until its end, an error, or its caller leaves.
    pub async fn finish(self, sandboxes: Arc<Sandboxes>) {
        let last = self.run(&sandboxes).await;
        if let Err(error) = last {
            // A caller that has left misses nothing.
            let _ = self.frames.send(Err(error.into())).await;
        }
    }

    async fn run(&self, sandboxes: &Arc<Sandboxes>) -> Result<()> {
        let again = self.position.is_some();
        let beginning = sandboxes.begin_run(&self.owner, &self.key, &self.canonical, self.wanted.clone(), again);
        let (record, live, _caller) = beginning.await?;
        let mut started = false;
        let followed = tokio::select! {
            followed = self.follow(convert::sandbox(&record), &live, &mut started) => followed,
            () = self.frames.closed() => return Ok(()),
        };
        // There is nothing to come back for. Who was here before has seen it start.
        if let Err(error) = &followed
            && !(started || again)
            && !error.reason().is_retryable()
            && !matches!(error.reason(), Reason::AttachSuperseded | Reason::OutputDiverged | Reason::AgentLost)
        {
            sandboxes.give_up_run(&self.owner, &record.id, error).await?;
        }
        followed
    }

    async fn follow(&self, sandbox: nullspace_proto::v1::Sandbox, live: &Live, started: &mut bool) -> Result<()> {
        self.pass(Frame::Sandbox(sandbox)).await;
        let (asks, requests) = mpsc::channel(ACKS);
        let ask = |frame| asks.send(AttachCommandRequest { frame: Some(frame) });
        let gone = |_| Error::new(Reason::AgentUnreachable, "the sandbox's agent ended the run");
        ask(attach_command_request::Frame::Open(self.open(live))).await.map_err(gone)?;
        let mut agent = CommandServiceClient::new(AgentChannel(live.pool.clone()));
        let mut answers = agent.attach_command(ReceiverStream::new(requests)).await?.into_inner();
        while let Some(answer) = answers.next().await {
            use attach_command_response::Frame as Answer;
            match answer?.frame {
                Some(Answer::Started(_)) => *started = true,
                Some(Answer::Output(output)) => {
                    let end = output.offset + output.data.len() as i64;
                    self.pass(Frame::Output(output)).await;
                    // What is refused here is told by the stream's end.
                    let offset = (end - ON_THE_WAY).max(0);
                    let _ = ask(attach_command_request::Frame::Ack(OutputAck { offset })).await;
                }
                Some(Answer::Truncated(truncated)) => self.pass(Frame::Truncated(truncated)).await,
                Some(Answer::Keepalive(keepalive)) => self.pass(Frame::Keepalive(keepalive)).await,
                Some(Answer::Exit(exit)) => {
                    self.pass(Frame::Exit(exit)).await;
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(Error::new(Reason::AgentUnreachable, "the command's output ended without its exit"))
    }

    fn open(&self, live: &Live) -> AttachOpen {
        let mut start = CommandSpec { overflow: Overflow::Block as i32, ..self.command.clone() };
        // The process waits for a caller as long as the sandbox does.
        let grace = self.wanted.detach_grace.unwrap_or_default().max(limits::DEFAULT_HOLD_GRACE);
        start.hold_grace = Some(validate::duration(grace));
        if start.retain_output_bytes > 0 {
            start.retain_output_bytes = start.retain_output_bytes.max(MIN_RETAINED);
        }
        AttachOpen {
            sandbox_id: live.sandbox_id.clone(),
            command_id: COMMAND.into(),
            start: Some(start),
            position: self.position.clone(),
            hold: true,
            client_id: "run-once".into(),
            keepalive: self.keepalive,
        }
    }

    /// Gives the caller a frame. One that has left is `run`'s to notice.
    async fn pass(&self, frame: Frame) {
        if self.frames.send(Ok(RunOnceResponse { frame: Some(frame) })).await.is_err() {
            std::future::pending().await
        }
    }
}
