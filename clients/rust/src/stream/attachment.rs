//! AttachCommand: starts or joins a command, gives it input and takes its output.

use nullspace_proto::v1::{
    AttachCommandRequest, AttachOpen, CommandSpec, OutputAck, attach_command_request::Frame as Ask,
    attach_command_response::Frame as Answer,
};

use super::{Event, Input, LogReader, input::Outgoing};
use crate::{error::Result, limits::ACK_BYTES};

/// One command as its holder sees it, over as many streams as that takes.
pub(crate) struct Attachment {
    pub sandbox_id: String,
    pub command_id: String,
    client_id: String,
    /// Starts the command under its id. None once it runs: then nothing may
    /// start it again, not even if it is forgotten.
    spec: Option<CommandSpec>,
    pub hold: bool,
    acknowledged: i64,
    ack_due: bool,
    /// A holder acknowledges each time that it has taken so many bytes.
    ack_bytes: i64,
    pub input: Option<Input>,
    pub log: LogReader,
}

impl Attachment {
    /// Starts a command; with `hold` it waits for this reader.
    pub fn start(sandbox_id: String, command_id: String, spec: CommandSpec, hold: bool, input: Option<Input>) -> Self {
        Self {
            sandbox_id,
            command_id,
            client_id: nullspace_proto::id::ulid(),
            spec: Some(spec),
            hold,
            acknowledged: 0,
            ack_due: false,
            ack_bytes: ACK_BYTES,
            input,
            log: LogReader::default(),
        }
    }

    /// Joins a command that exists.
    pub fn join(sandbox_id: String, command_id: String) -> Self {
        let started = Self::start(sandbox_id, command_id, CommandSpec::default(), false, None);
        Self { spec: None, ..started }
    }

    /// The first frame of a stream. Also of the next one, after a stream broke.
    pub fn open(&mut self) -> AttachCommandRequest {
        if let Some(input) = &mut self.input {
            input.reset();
        }
        // Acknowledgements may have been lost with the stream before; a process
        // that waits for one of them writes nothing that would bring the next.
        self.ack_due = self.hold && self.log.offset > 0;
        let open = AttachOpen {
            sandbox_id: self.sandbox_id.clone(),
            command_id: self.command_id.clone(),
            start: self.spec.clone(),
            position: (self.log.offset > 0).then(|| self.log.position()),
            hold: self.hold,
            client_id: self.client_id.clone(),
            keepalive: None,
        };
        AttachCommandRequest { frame: Some(Ask::Open(open)) }
    }

    /// What a frame of the server means.
    pub fn take(&mut self, frame: Answer) -> Result<Option<Event>> {
        match &frame {
            Answer::Started(info) => {
                self.spec = None;
                let retained = info.spec.as_ref().map_or(0, |spec| spec.retain_output_bytes);
                if retained > 0 {
                    self.ack_bytes = ACK_BYTES.min(retained / 2);
                }
            }
            Answer::InputAccepted(accepted) => {
                if let Some(input) = &mut self.input {
                    input.accepted(accepted)?;
                }
            }
            Answer::InputClosed(_) => {
                if let Some(input) = &mut self.input {
                    input.closed();
                }
            }
            _ => {}
        }
        self.log.take(frame.into())
    }

    /// Whether a frame may go now. To be asked after the last event was used:
    /// what is acknowledged the process need not keep.
    pub fn is_due(&self) -> bool {
        self.is_ack_due() || self.input.as_ref().is_some_and(Input::is_due)
    }

    /// The frame that goes next.
    pub fn next(&mut self) -> Option<AttachCommandRequest> {
        let frame = if self.is_ack_due() {
            self.ack_due = false;
            self.acknowledged = self.log.offset;
            Ask::Ack(OutputAck { offset: self.log.offset })
        } else {
            match self.input.as_mut()?.next()? {
                Outgoing::Chunk(chunk) => Ask::Input(chunk),
                Outgoing::Close(close) => Ask::CloseInput(close),
            }
        };
        Some(AttachCommandRequest { frame: Some(frame) })
    }

    fn is_ack_due(&self) -> bool {
        self.ack_due || (self.hold && self.log.offset - self.acknowledged >= self.ack_bytes)
    }
}

#[cfg(test)]
mod tests {
    use nullspace_proto::v1::{CommandInfo, OutputChunk};

    use super::*;

    fn attachment() -> Attachment {
        Attachment::start("sb".into(), "cmd".into(), CommandSpec::default(), true, None)
    }

    fn opened(request: AttachCommandRequest) -> AttachOpen {
        match request.frame {
            Some(Ask::Open(open)) => open,
            other => panic!("{other:?}"),
        }
    }

    fn output(offset: i64, size: usize) -> Answer {
        Answer::Output(OutputChunk { offset, data: vec![0; size].into(), ..Default::default() })
    }

    #[test]
    fn a_command_that_runs_is_never_started_again() {
        let mut attachment = attachment();
        assert!(opened(attachment.open()).start.is_some());
        assert!(opened(attachment.open()).start.is_some(), "nobody said that it runs");
        attachment.take(Answer::Started(CommandInfo { execution_id: "e".into(), ..Default::default() })).unwrap();
        attachment.take(output(0, 10)).unwrap();
        let open = opened(attachment.open());
        assert_eq!(open.start, None);
        let position = open.position.unwrap();
        assert_eq!((position.execution_id.as_str(), position.offset), ("e", 10));
    }

    #[test]
    fn a_holder_acknowledges_in_time_and_again_after_a_cut() {
        let mut attachment = attachment();
        attachment.open();
        attachment.take(output(0, 262_143)).unwrap();
        assert!(!attachment.is_due());
        attachment.take(output(262_143, 1)).unwrap();
        let ack = attachment.next().unwrap().frame;
        assert_eq!(ack, Some(Ask::Ack(OutputAck { offset: 262_144 })));
        assert!(!attachment.is_due() && attachment.next().is_none());
        attachment.open();
        assert_eq!(attachment.next().unwrap().frame, ack);
    }

    #[test]
    fn a_command_that_keeps_little_is_acknowledged_sooner() {
        let mut attachment = attachment();
        attachment.open();
        let spec = CommandSpec { retain_output_bytes: 65_536, ..Default::default() };
        attachment.take(Answer::Started(CommandInfo { spec: Some(spec), ..Default::default() })).unwrap();
        attachment.take(output(0, 32_767)).unwrap();
        assert!(!attachment.is_due());
        attachment.take(output(32_767, 1)).unwrap();
        assert!(attachment.is_due());
    }
}
