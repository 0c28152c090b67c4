//! The calls of CommandService, in a line each.

use nullspace_proto::{
    id,
    v1::{
        CommandSpec, Exit, LogPosition, ReadCommandOutputRequest, SignalCommandRequest, StartCommandRequest,
        WaitCommandRequest, WriteCommandInputRequest, read_command_output_response::Frame as Read,
    },
};
use tonic::Status;

use crate::{Result, TestSandbox};

/// What a read gave: the bytes, where bytes were gone, and its end.
pub type Output = (Vec<u8>, Vec<i64>, i64, bool);

/// A duration of whole seconds.
pub fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

impl TestSandbox {
    /// Starts a command in the background.
    pub async fn start_background(&self, spec: CommandSpec) -> Result<String, Status> {
        let command_id = id::command();
        let request = StartCommandRequest { sandbox_id: self.id(), command_id: command_id.clone(), spec: Some(spec) };
        self.api.commands().start_command(request).await?;
        Ok(command_id)
    }

    /// Waits for its end, at most two minutes.
    pub async fn wait(&self, command_id: &str) -> Result<Exit> {
        for _ in 0..4 {
            let request =
                WaitCommandRequest { sandbox_id: self.id(), command_id: command_id.into(), wait: seconds(30) };
            let command = self.api.commands().wait_command(request).await?.into_inner().command.ok_or("no command")?;
            if let Some(exit) = command.exit {
                return Ok(exit);
            }
        }
        Err("the command does not end".into())
    }

    /// Sends a signal to its group.
    pub async fn signal(&self, command_id: &str, number: i32) -> Result<(), Status> {
        let request = SignalCommandRequest {
            sandbox_id: self.id(),
            command_id: command_id.into(),
            idempotency_key: id::request(),
            number,
        };
        self.api.commands().signal_command(request).await.map(drop)
    }

    /// Writes input as the client `writer`, and returns where it goes on.
    pub async fn write_input(&self, command_id: &str, offset: i64, data: &[u8], close: bool) -> Result<i64, Status> {
        let request = WriteCommandInputRequest {
            sandbox_id: self.id(),
            command_id: command_id.into(),
            client_id: "writer".into(),
            offset,
            data: data.to_vec().into(),
            close,
        };
        Ok(self.api.commands().write_command_input(request).await?.into_inner().accepted_offset)
    }

    /// Reads all output by position: bytes of each stream, truncations, and the end.
    pub async fn read_output(&self, command_id: &str, from: i64, follow: bool) -> Result<Output, Status> {
        let request = ReadCommandOutputRequest {
            sandbox_id: self.id(),
            command_id: command_id.into(),
            position: Some(LogPosition { offset: from, ..Default::default() }),
            follow,
            keepalive: None,
        };
        let mut frames = self.api.commands().read_command_output(request).await?.into_inner();
        let (mut bytes, mut truncated) = (Vec::new(), Vec::new());
        while let Some(frame) = frames.message().await? {
            match frame.frame {
                Some(Read::Output(output)) => bytes.extend_from_slice(&output.data),
                Some(Read::Truncated(cut)) => truncated.push(cut.offset),
                Some(Read::End(end)) => return Ok((bytes, truncated, end.offset, end.output_open)),
                _ => {}
            }
        }
        Err(Status::unknown("the read ended without its end"))
    }
}
