//! Commands, followed on one stream.

use std::time::Duration;

use nullspace_proto::{
    id,
    v1::{
        Argv, AttachCommandRequest, AttachCommandResponse, AttachOpen, CommandInfo, CommandSpec, Exit, OutputAck,
        OutputStream, attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
        command_spec::Program, exit::Outcome,
    },
};
use tokio::{sync::mpsc, time::error::Elapsed};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{Result, TestSandbox, patient};

/// How long a test waits for a frame.
const LIMIT: Duration = Duration::from_secs(30);

/// A program with arguments.
pub fn argv<const N: usize>(args: [&str; N]) -> CommandSpec {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    CommandSpec { program: Some(Program::Argv(Argv { args })), ..Default::default() }
}

/// A line for the shell.
pub fn shell(line: &str) -> CommandSpec {
    CommandSpec { program: Some(Program::Shell(line.to_owned())), ..Default::default() }
}

/// An attached command.
pub struct Attached {
    /// Its id.
    pub command_id: String,
    asks: mpsc::Sender<AttachCommandRequest>,
    answers: Streaming<AttachCommandResponse>,
}

/// A command that has ended, with all that it wrote.
#[derive(Debug, Default)]
pub struct Finished {
    /// The first frame.
    pub started: CommandInfo,
    /// Bytes from stdout.
    pub stdout: Vec<u8>,
    /// Bytes from stderr.
    pub stderr: Vec<u8>,
    /// Where the first chunk began.
    pub first_offset: Option<i64>,
    /// Where output was cut off.
    pub truncated: Vec<i64>,
    /// The last frame.
    pub exit: Exit,
}

impl Finished {
    /// Its exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        match self.exit.outcome {
            Some(Outcome::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.exit.outcome {
            Some(Outcome::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// What it wrote to stdout, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl TestSandbox {
    /// Starts a command and follows it.
    pub async fn start(&self, spec: CommandSpec) -> Result<Attached, Status> {
        self.attach(AttachOpen { command_id: id::command(), start: Some(spec), ..Default::default() }).await
    }

    /// Opens an attach; the sandbox's id is filled in.
    pub async fn attach(&self, open: AttachOpen) -> Result<Attached, Status> {
        self.attach_with(open, None).await
    }

    /// The same with a deadline for the whole stream, which the server keeps.
    pub async fn attach_within(&self, open: AttachOpen, limit: Duration) -> Result<Attached, Status> {
        self.attach_with(open, Some(limit)).await
    }

    async fn attach_with(&self, open: AttachOpen, limit: Option<Duration>) -> Result<Attached, Status> {
        let (asks, requests) = mpsc::channel(64);
        let command_id = open.command_id.clone();
        let open = AttachOpen { sandbox_id: self.id(), ..open };
        let _ = asks.send(AttachCommandRequest { frame: Some(Ask::Open(open)) }).await;
        let mut request = tonic::Request::new(ReceiverStream::new(requests));
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        let answers = self.api.commands().attach_command(request).await?.into_inner();
        Ok(Attached { command_id, asks, answers })
    }

    /// Runs a command to its end.
    pub async fn run(&self, spec: CommandSpec) -> Result<Finished> {
        Ok(self.start(spec).await?.finish().await?)
    }

    /// Runs a shell line, which must succeed, and returns what it wrote.
    pub async fn sh(&self, line: &str) -> Result<String> {
        let finished = self.run(shell(line)).await?;
        if finished.code() == Some(0) {
            return Ok(finished.text());
        }
        Err(format!("{line:?} ended with {:?}: {}", finished.exit, String::from_utf8_lossy(&finished.stderr)).into())
    }
}

impl Attached {
    /// Sends a frame, once those before it have gone.
    pub async fn send(&self, frame: Ask) -> Result {
        let sent = self.asks.send(AttachCommandRequest { frame: Some(frame) });
        Ok(tokio::time::timeout(patient(LIMIT), sent).await??)
    }

    /// The same where it may be too late for it: the stream has ended.
    pub async fn say(&self, frame: Ask) -> Result<(), Status> {
        match self.send(frame).await {
            Err(error) if error.is::<Elapsed>() => Err(Status::unknown("nobody takes what is said")),
            _ => Ok(()),
        }
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Answer, Status> {
        let next = tokio::time::timeout(patient(LIMIT), self.answers.message()).await;
        let next = next.map_err(|_| Status::unknown(format!("no frame within {LIMIT:?}")))??;
        next.and_then(|answer| answer.frame).ok_or_else(|| Status::unknown("the stream ended without exit"))
    }

    /// Follows it to its end, acknowledging what it took.
    pub async fn finish(mut self) -> Result<Finished, Status> {
        let mut finished = Finished::default();
        loop {
            match self.next().await? {
                Answer::Started(started) => finished.started = started,
                Answer::Output(chunk) => {
                    finished.first_offset.get_or_insert(chunk.offset);
                    let end = chunk.offset + chunk.data.len() as i64;
                    match chunk.stream() {
                        OutputStream::Stderr => finished.stderr.extend_from_slice(&chunk.data),
                        _ => finished.stdout.extend_from_slice(&chunk.data),
                    }
                    let ack = Ask::Ack(OutputAck { offset: end });
                    self.say(ack).await?;
                }
                Answer::Truncated(truncated) => finished.truncated.push(truncated.offset),
                Answer::Exit(exit) => {
                    finished.exit = exit;
                    // Nothing follows, and the stream ends well.
                    let end = tokio::time::timeout(patient(LIMIT), self.answers.message()).await;
                    return match end.map_err(|_| Status::unknown("the stream does not end"))?? {
                        None => Ok(finished),
                        Some(frame) => Err(Status::unknown(format!("after the exit: {frame:?}"))),
                    };
                }
                Answer::InputAccepted(_) | Answer::InputClosed(_) | Answer::Keepalive(_) => {}
            }
        }
    }
}
