//! SandboxService.

use std::{sync::Arc, time::Duration};

use nullspace_proto::{
    limits,
    v1::{
        ConnectSandboxRequest, ConnectSandboxResponse, CreateSandboxRequest, CreateSandboxResponse,
        DestroySandboxRequest, DestroySandboxResponse, GetSandboxMetricsRequest, GetSandboxMetricsResponse,
        GetSandboxRequest, GetSandboxResponse, ListSandboxesRequest, ListSandboxesResponse, RunOnceRequest,
        RunOnceResponse, SetSandboxTimeoutRequest, SetSandboxTimeoutResponse, sandbox_service_server::SandboxService,
    },
    validate::Checks,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    convert::{self, Mask, Pages},
    run_once::Run,
};
use crate::{
    caller::Caller,
    sandbox::{Sandboxes, Wanted, list::Filter},
    store::idempotency::canonical,
};

/// Frames that a reader of a run may be behind: each may be a mebibyte, and what
/// is on its way is bounded.
const RUN_BACKLOG: usize = 2;

/// Answers SandboxService.
pub struct SandboxApi {
    sandboxes: Arc<Sandboxes>,
}

impl SandboxApi {
    /// Over these sandboxes.
    pub fn new(sandboxes: Arc<Sandboxes>) -> Self {
        Self { sandboxes }
    }
}

#[tonic::async_trait]
impl SandboxService for SandboxApi {
    async fn create_sandbox(
        &self,
        request: Request<CreateSandboxRequest>,
    ) -> Result<Response<CreateSandboxResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let canonical = canonical(&request, |request| request.idempotency_key.clear());
        let mut checks = Checks::default();
        convert::idempotency_key(&mut checks, &request.idempotency_key);
        let wanted = convert::wanted(&mut checks, "spec", request.spec.unwrap_or_default());
        checks.finish()?;
        let record = self.sandboxes.create(&caller.owner, &request.idempotency_key, &canonical, wanted).await?;
        Ok(Response::new(CreateSandboxResponse { sandbox: Some(convert::sandbox(&record)) }))
    }

    async fn get_sandbox(&self, request: Request<GetSandboxRequest>) -> Result<Response<GetSandboxResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let mut checks = Checks::default();
        let mask = Mask::new(&mut checks, request.read_mask);
        checks.finish()?;
        let record = self.sandboxes.get(&caller.owner, &request.sandbox_id)?;
        Ok(Response::new(GetSandboxResponse { sandbox: Some(mask.apply(convert::sandbox(&record))) }))
    }

    async fn list_sandboxes(
        &self,
        request: Request<ListSandboxesRequest>,
    ) -> Result<Response<ListSandboxesResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let mut checks = Checks::default();
        let mask = Mask::new(&mut checks, request.read_mask.clone());
        let size = checks.range("page_size", request.page_size, limits::DEFAULT_PAGE, &limits::PAGE);
        let states =
            request.states.iter().filter_map(|state| convert::state_name(&mut checks, "states", *state)).collect();
        let pages = Pages::of(&canonical(&request, |request| {
            (request.page_token, request.page_size, request.read_mask) = Default::default();
        }));
        let before = pages.begin(&mut checks, &request.page_token);
        let metadata = request.metadata.clone().unwrap_or_default();
        checks.metadata("metadata", &metadata);
        checks.finish()?;
        let filter = Filter { states, template: request.template.clone(), metadata };
        let (page, more) = self.sandboxes.list(&caller.owner, &filter, before, size.unsigned_abs() as usize);
        let next_page_token = pages.next(page.last().map(|record| record.id.as_str()), more);
        let sandboxes = page.iter().map(|record| mask.apply(convert::sandbox(record))).collect();
        Ok(Response::new(ListSandboxesResponse { sandboxes, next_page_token }))
    }

    async fn connect_sandbox(
        &self,
        request: Request<ConnectSandboxRequest>,
    ) -> Result<Response<ConnectSandboxResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let mut checks = Checks::default();
        let lifetime = convert::lifetime(&mut checks, "timeout", request.timeout.as_ref(), limits::MIN_LIFETIME);
        checks.finish()?;
        let record = self.sandboxes.connect(&caller.owner, &request.sandbox_id, lifetime).await?;
        Ok(Response::new(ConnectSandboxResponse { sandbox: Some(convert::sandbox(&record)) }))
    }

    async fn set_sandbox_timeout(
        &self,
        request: Request<SetSandboxTimeoutRequest>,
    ) -> Result<Response<SetSandboxTimeoutResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let canonical = canonical(&request, |request| request.idempotency_key.clear());
        let mut checks = Checks::default();
        convert::idempotency_key(&mut checks, &request.idempotency_key);
        convert::action(&mut checks, "action", request.action);
        let lifetime = convert::lifetime(&mut checks, "timeout", request.timeout.as_ref(), Duration::ZERO);
        checks.finish()?;
        let (id, key) = (&request.sandbox_id, &request.idempotency_key);
        let record = self.sandboxes.set_lifetime(&caller.owner, id, key, &canonical, lifetime).await?;
        Ok(Response::new(SetSandboxTimeoutResponse { sandbox: Some(convert::sandbox(&record)) }))
    }

    async fn destroy_sandbox(
        &self,
        request: Request<DestroySandboxRequest>,
    ) -> Result<Response<DestroySandboxResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let record = self.sandboxes.destroy(&caller.owner, &request.sandbox_id).await?;
        Ok(Response::new(DestroySandboxResponse { sandbox: Some(convert::sandbox(&record)) }))
    }

    async fn get_sandbox_metrics(
        &self,
        request: Request<GetSandboxMetricsRequest>,
    ) -> Result<Response<GetSandboxMetricsResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let samples = self.sandboxes.metrics(&caller.owner, &request.sandbox_id).await?;
        Ok(Response::new(GetSandboxMetricsResponse { samples: samples.into_iter().map(convert::sample).collect() }))
    }

    type RunOnceStream = ReceiverStream<Result<RunOnceResponse, Status>>;

    async fn run_once(&self, request: Request<RunOnceRequest>) -> Result<Response<Self::RunOnceStream>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let canonical = canonical(&request, |request| {
            request.idempotency_key.clear();
            (request.keepalive, request.position) = (None, None);
        });
        let mut checks = Checks::default();
        convert::idempotency_key(&mut checks, &request.idempotency_key);
        let wanted = convert::wanted(&mut checks, "sandbox", request.sandbox.unwrap_or_default());
        let command = request.command.unwrap_or_default();
        checks.command("command", &command);
        checks.position("position", request.position.as_ref());
        checks.duration("keepalive", request.keepalive.as_ref(), Duration::from_secs(1)..=limits::MAX_KEEPALIVE);
        let grace = Duration::ZERO..=limits::MAX_DETACH_GRACE;
        let grace = checks.duration("detach_grace", request.detach_grace.as_ref(), grace);
        checks.finish()?;
        // Without a key nobody can come back.
        let come_back = !request.idempotency_key.is_empty();
        let grace = if come_back { grace.unwrap_or(limits::DEFAULT_DETACH_GRACE) } else { Duration::ZERO };
        let (frames, stream) = mpsc::channel(RUN_BACKLOG);
        let run = Run {
            owner: caller.owner,
            key: request.idempotency_key,
            canonical,
            wanted: Wanted { detach_grace: Some(grace), ..wanted },
            command,
            keepalive: request.keepalive,
            position: request.position,
            frames,
        };
        self.sandboxes.spawn(run.finish(self.sandboxes.clone()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
