//! RunOnce: a sandbox for one command. Whatever happens, the sandbox is
//! destroyed, also when the caller leaves at any moment.

use std::sync::Arc;

use nullspace_proto::{
    Error, Reason, Result, id,
    v1::{
        AttachCommandRequest, AttachOpen, CommandSpec, Exit, OutputAck, Overflow, RunOnceResponse,
        attach_command_request, attach_command_response, command_service_client::CommandServiceClient,
        run_once_response::Frame,
    },
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::convert;
use crate::{
    route::pool::AgentChannel,
    sandbox::{Sandboxes, Wanted, live::Live},
    store::idempotency::Ticket,
};

/// Acknowledgements that may be on their way.
const ACKS: usize = 16;

/// One run and the way to its caller.
pub struct Run {
    /// Who asked.
    pub owner: String,
    /// The sandbox.
    pub wanted: Wanted,
    /// The command.
    pub command: CommandSpec,
    /// Silence before a keepalive.
    pub keepalive: Option<prost_types::Duration>,
    /// To the caller.
    pub frames: mpsc::Sender<Result<RunOnceResponse, Status>>,
}

impl Run {
    /// Runs, destroys, and only then says how it ended.
    pub async fn finish(self, sandboxes: Arc<Sandboxes>, ticket: Ticket) {
        let frames = self.frames.clone();
        let outcome = self.run(&sandboxes).await;
        if let Err(error) = sandboxes.end_run(&ticket).await {
            tracing::error!(%error, "the end of a run was not recorded");
        }
        let last = outcome.map(|exit| frame(Frame::Exit(exit))).map_err(Status::from);
        // A caller that has left misses nothing it asked for.
        let _ = frames.send(last).await;
    }

    async fn run(self, sandboxes: &Arc<Sandboxes>) -> Result<Exit> {
        let wanted = Wanted { ephemeral: true, ..self.wanted.clone() };
        let record = sandboxes.create(&self.owner, "", &[], wanted).await?;
        let followed = match sandboxes.live(&self.owner, &record.id) {
            Ok(live) => {
                let _ = self.frames.send(Ok(frame(Frame::Sandbox(convert::sandbox(&record))))).await;
                tokio::select! {
                    followed = self.follow(&live) => followed,
                    () = self.frames.closed() => Err(Error::new(Reason::SandboxStopped, "the caller left")),
                }
            }
            Err(error) => Err(error),
        };
        sandboxes.destroy(&self.owner, &record.id).await?;
        followed
    }

    async fn follow(&self, live: &Live) -> Result<Exit> {
        let (acks, requests) = mpsc::channel(ACKS);
        let start = CommandSpec { overflow: Overflow::Block as i32, ..self.command.clone() };
        let open = AttachOpen {
            sandbox_id: live.sandbox_id.clone(),
            command_id: id::command(),
            start: Some(start),
            hold: true,
            client_id: "run-once".into(),
            keepalive: self.keepalive,
            ..Default::default()
        };
        let send = |frame| acks.send(AttachCommandRequest { frame: Some(frame) });
        let gone = |_| Error::new(Reason::AgentUnreachable, "the sandbox's agent ended the run");
        send(attach_command_request::Frame::Open(open)).await.map_err(gone)?;
        let mut agent = CommandServiceClient::new(AgentChannel(live.pool.clone()));
        let mut answers = agent.attach_command(ReceiverStream::new(requests)).await?.into_inner();
        while let Some(answer) = answers.next().await {
            use attach_command_response::Frame as Answer;
            let passed = match answer?.frame {
                Some(Answer::Exit(exit)) => return Ok(exit),
                Some(Answer::Output(output)) => {
                    let end = output.offset + output.data.len() as i64;
                    let passed = self.frames.send(Ok(frame(Frame::Output(output)))).await;
                    // Sent only after the caller's side has taken the bytes.
                    let _ = send(attach_command_request::Frame::Ack(OutputAck { offset: end })).await;
                    passed
                }
                Some(Answer::Truncated(truncated)) => self.frames.send(Ok(frame(Frame::Truncated(truncated)))).await,
                Some(Answer::Keepalive(keepalive)) => self.frames.send(Ok(frame(Frame::Keepalive(keepalive)))).await,
                _ => Ok(()),
            };
            passed.map_err(|_| Error::new(Reason::SandboxStopped, "the caller left"))?;
        }
        Err(Error::new(Reason::AgentUnreachable, "the command's output ended without its exit"))
    }
}

fn frame(frame: Frame) -> RunOnceResponse {
    RunOnceResponse { frame: Some(frame) }
}
