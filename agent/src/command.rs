//! CommandService.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use nullspace_proto::{
    Error, Result, limits,
    v1::{
        AttachCommandRequest, AttachOpen, GetCommandRequest, GetCommandResponse, ListCommandsRequest,
        ListCommandsResponse, ReadCommandOutputRequest, ReadCommandOutputResponse, SignalCommandRequest,
        SignalCommandResponse, StartCommandRequest, StartCommandResponse, WaitCommandRequest, WaitCommandResponse,
        WriteCommandInputRequest, WriteCommandInputResponse, attach_command_request,
        command_service_server::CommandService,
    },
    validate::Checks,
};
use prost::Message as _;
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    fault::foreign,
    flow::Flow,
    process::{
        attach::{self, Attach},
        read::OutputReader,
        table::{Filter, Table},
    },
};

/// CommandService over the commands of a sandbox.
pub struct CommandApi {
    table: Arc<Table>,
    flow: Arc<Flow>,
}

impl CommandApi {
    /// The service.
    pub fn new(table: Arc<Table>, flow: Arc<Flow>) -> Self {
        Self { table, flow }
    }

    fn attach(&self, open: AttachOpen) -> Result<Attach> {
        let mut checks = Checks::default();
        checks.chosen_id("open.command_id", &open.command_id);
        if let Some(spec) = &open.start {
            checks.command("open.start", spec);
        }
        if !open.client_id.is_empty() {
            checks.chosen_id("open.client_id", &open.client_id);
        }
        checks.position("open.position", open.position.as_ref());
        let keepalive = check_keepalive(&mut checks, "open.keepalive", open.keepalive.as_ref());
        checks.finish()?;
        let process = match open.start {
            Some(spec) => self.table.start(&open.command_id, spec)?,
            None => self.table.find(&open.command_id)?,
        };
        let position = process.position(open.position.as_ref())?;
        Ok(Attach::new(process, self.flow.join(), &open.client_id, position, open.hold, keepalive))
    }
}

fn check_keepalive(checks: &mut Checks, field: &str, asked: Option<&prost_types::Duration>) -> Duration {
    let range = Duration::from_secs(1)..=limits::MAX_KEEPALIVE;
    checks.duration(field, asked, range).unwrap_or(limits::DEFAULT_KEEPALIVE)
}

fn id_alone(id: &str) -> Result<()> {
    let mut checks = Checks::default();
    checks.chosen_id("command_id", id);
    checks.finish()
}

async fn first(requests: &mut Streaming<AttachCommandRequest>) -> Result<AttachOpen> {
    let late = || Error::invalid_field("open", "did not come in time");
    let first = timeout(limits::FIRST_MESSAGE, requests.message()).await.map_err(|_| late())?.map_err(foreign)?;
    match first.and_then(|first| first.frame) {
        Some(attach_command_request::Frame::Open(open)) => Ok(open),
        _ => Err(Error::invalid_field("open", "must be the first frame")),
    }
}

#[tonic::async_trait]
impl CommandService for CommandApi {
    type AttachCommandStream = attach::Frames;
    type ReadCommandOutputStream = Pin<Box<dyn Stream<Item = Result<ReadCommandOutputResponse, Status>> + Send>>;

    async fn attach_command(
        &self,
        request: Request<Streaming<AttachCommandRequest>>,
    ) -> Result<Response<Self::AttachCommandStream>, Status> {
        let mut requests = request.into_inner();
        let open = first(&mut requests).await?;
        let mut attach = self.attach(open)?;
        let (sender, frames) = attach::channel();
        let frames = frames.after(attach.greeting());
        // Ends when `frames`, which the stream owns, is dropped.
        tokio::spawn(attach.run(requests, sender));
        Ok(Response::new(frames))
    }

    async fn start_command(
        &self,
        request: Request<StartCommandRequest>,
    ) -> Result<Response<StartCommandResponse>, Status> {
        let StartCommandRequest { command_id, spec, .. } = request.into_inner();
        let mut checks = Checks::default();
        checks.chosen_id("command_id", &command_id);
        match &spec {
            Some(spec) => checks.command("spec", spec),
            None => checks.fail("spec", "is required"),
        }
        checks.finish()?;
        let process = self.table.start(&command_id, spec.unwrap_or_default())?;
        Ok(Response::new(StartCommandResponse { command: Some(process.info()) }))
    }

    async fn read_command_output(
        &self,
        request: Request<ReadCommandOutputRequest>,
    ) -> Result<Response<Self::ReadCommandOutputStream>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        checks.chosen_id("command_id", &request.command_id);
        checks.position("position", request.position.as_ref());
        let keepalive = check_keepalive(&mut checks, "keepalive", request.keepalive.as_ref());
        checks.finish()?;
        let process = self.table.find(&request.command_id)?;
        let position = process.position(request.position.as_ref())?;
        let reader = OutputReader::new(process, self.flow.join(), position, request.follow, keepalive);
        Ok(Response::new(Box::pin(reader.frames())))
    }

    async fn write_command_input(
        &self,
        request: Request<WriteCommandInputRequest>,
    ) -> Result<Response<WriteCommandInputResponse>, Status> {
        let WriteCommandInputRequest { command_id, client_id, offset, data, close, .. } = request.into_inner();
        let mut checks = Checks::default();
        checks.chosen_id("command_id", &command_id);
        checks.chosen_id("client_id", &client_id);
        checks.check(offset >= 0, "offset", || format!("{offset} is below 0"));
        checks.check(data.len() <= limits::MAX_CHUNK_BYTES, "data", || {
            format!("{} bytes are more than {}", data.len(), limits::MAX_CHUNK_BYTES)
        });
        checks.finish()?;
        let process = self.table.find(&command_id)?;
        let accepted = attach::write_input(&process, &client_id, offset as u64, data, close).await?;
        Ok(Response::new(WriteCommandInputResponse { accepted_offset: accepted as i64 }))
    }

    async fn signal_command(
        &self,
        request: Request<SignalCommandRequest>,
    ) -> Result<Response<SignalCommandResponse>, Status> {
        let SignalCommandRequest { command_id, idempotency_key, number, .. } = request.into_inner();
        let mut checks = Checks::default();
        checks.chosen_id("command_id", &command_id);
        checks.text("idempotency_key", &idempotency_key, limits::MAX_KEY_BYTES);
        attach::check_signal(&mut checks, "number", number);
        checks.finish()?;
        self.table.signal(&idempotency_key, &command_id, number)?;
        Ok(Response::new(SignalCommandResponse {}))
    }

    async fn wait_command(
        &self,
        request: Request<WaitCommandRequest>,
    ) -> Result<Response<WaitCommandResponse>, Status> {
        let WaitCommandRequest { command_id, wait, .. } = request.into_inner();
        let mut checks = Checks::default();
        checks.chosen_id("command_id", &command_id);
        let wait =
            checks.duration("wait", wait.as_ref(), Duration::ZERO..=limits::MAX_WAIT).unwrap_or(limits::MAX_WAIT);
        checks.finish()?;
        let process = self.table.find(&command_id)?;
        tokio::select! {
            biased;
            _ = process.ended() => {}
            () = sleep(wait) => {}
        }
        Ok(Response::new(WaitCommandResponse { command: Some(process.info()) }))
    }

    async fn get_command(&self, request: Request<GetCommandRequest>) -> Result<Response<GetCommandResponse>, Status> {
        let id = request.into_inner().command_id;
        id_alone(&id)?;
        Ok(Response::new(GetCommandResponse { command: Some(self.table.find(&id)?.info()) }))
    }

    async fn list_commands(
        &self,
        request: Request<ListCommandsRequest>,
    ) -> Result<Response<ListCommandsResponse>, Status> {
        let request = request.into_inner();
        let mut checks = Checks::default();
        checks.text("tag", &request.tag, limits::MAX_TAG_BYTES);
        checks.check(request.pid >= 0, "pid", || format!("{} is below 0", request.pid));
        let size = checks.range("page_size", Some(request.page_size), 0, &limits::COMMAND_PAGE);
        let before = page_start(&request.page_token);
        checks.check(before.is_some(), "page_token", || "is not from a previous page".to_owned());
        checks.finish()?;
        let size = if size == 0 { limits::DEFAULT_COMMAND_PAGE } else { size };
        let filter = Filter { running_only: request.running_only, tag: &request.tag, pid: request.pid };
        // A page must fit into a message, whatever the commands' arguments are.
        let mut room = limits::MAX_CHUNK_BYTES;
        let fits = |info: &nullspace_proto::v1::CommandInfo| {
            let bytes = info.encoded_len();
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        };
        let (commands, next) = self.table.list(&filter, before.unwrap_or(u64::MAX), size as usize, fits);
        let next_page_token = next.map_or_else(String::new, |sequence| format!("{sequence:x}"));
        Ok(Response::new(ListCommandsResponse { commands, next_page_token }))
    }
}

/// Where a page begins: below the command that the token names.
fn page_start(token: &str) -> Option<u64> {
    match token {
        "" => Some(u64::MAX),
        token => u64::from_str_radix(token, 16).ok(),
    }
}
