//! SystemService.

use std::{sync::Arc, time::Duration};

use nullspace_proto::{
    limits,
    v1::{
        ApiKey, CreateApiKeyRequest, CreateApiKeyResponse, EngineCapabilities, GetCapabilitiesRequest,
        GetCapabilitiesResponse, GetVersionRequest, GetVersionResponse, IntegerRange, ListApiKeysRequest,
        ListApiKeysResponse, RevokeApiKeyRequest, RevokeApiKeyResponse, RotateApiKeyRequest, RotateApiKeyResponse,
        TemplateSummary, WhoAmIRequest, WhoAmIResponse, system_service_server::SystemService,
    },
    validate::{Checks, timestamp},
};
use tonic::{Request, Response, Status};

use super::convert::{self, Pages};
use crate::{
    caller::Caller,
    instance::Instance,
    keys::{ApiKeys, KeyRecord, KeySpec},
    sandbox::Sandboxes,
    store::idempotency::canonical,
};

/// Answers SystemService.
pub struct SystemApi {
    instance: Instance,
    keys: Arc<ApiKeys>,
    sandboxes: Arc<Sandboxes>,
}

impl SystemApi {
    /// Of this server.
    pub fn new(instance: Instance, keys: Arc<ApiKeys>, sandboxes: Arc<Sandboxes>) -> Self {
        Self { instance, keys, sandboxes }
    }
}

#[tonic::async_trait]
impl SystemService for SystemApi {
    async fn get_version(&self, _: Request<GetVersionRequest>) -> Result<Response<GetVersionResponse>, Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(GetVersionResponse { version, instance_id: self.instance.to_string() }))
    }

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let engine = self.sandboxes.engine();
        let range = |range: &std::ops::RangeInclusive<i32>| {
            Some(IntegerRange { min: i64::from(*range.start()), max: i64::from(*range.end()) })
        };
        let engine = EngineCapabilities {
            name: engine.name().to_owned(),
            version: engine.version().to_owned(),
            is_default: true,
            kernel_isolation: true,
            vcpus: range(&limits::VCPUS),
            memory_mib: range(&limits::MEMORY_MIB),
            disk_mib: range(&limits::DISK_MIB),
            max_sandboxes: i32::try_from(self.sandboxes.max()).unwrap_or(i32::MAX),
            max_processes: limits::MAX_PROCESSES,
        };
        let templates = self.sandboxes.assets().templates().into_iter();
        let templates =
            templates.map(|template| TemplateSummary { name: template.name, digest: template.digest }).collect();
        Ok(Response::new(GetCapabilitiesResponse { engines: vec![engine], templates }))
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(WhoAmIResponse { key: Some(api_key(&caller.key)) }))
    }

    async fn create_api_key(
        &self,
        request: Request<CreateApiKeyRequest>,
    ) -> Result<Response<CreateApiKeyResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let canonical = canonical(&request, |request| request.idempotency_key.clear());
        let mut checks = Checks::default();
        convert::idempotency_key(&mut checks, &request.idempotency_key);
        checks.text("name", &request.name, limits::MAX_NAME_BYTES);
        let owner = &request.owner;
        let plain =
            owner.len() <= 64 && owner.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        checks.check(plain, "owner", || "does not match [a-z0-9-]{1,64}".to_owned());
        let range = Duration::from_secs(1)..=limits::MAX_KEY_LIFETIME;
        let lifetime = checks.duration("lifetime", request.lifetime.as_ref(), range);
        checks.finish()?;
        let spec = KeySpec { name: request.name, scopes: request.scopes, owner: request.owner, lifetime };
        let (key, secret_key) = self.keys.create(&caller.key, &request.idempotency_key, &canonical, spec).await?;
        Ok(Response::new(CreateApiKeyResponse { key: Some(api_key(&key)), secret_key }))
    }

    async fn list_api_keys(
        &self,
        request: Request<ListApiKeysRequest>,
    ) -> Result<Response<ListApiKeysResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let mut checks = Checks::default();
        let size = checks.range("page_size", request.page_size, limits::DEFAULT_PAGE, &limits::PAGE);
        let pages = Pages::of(b"");
        let after = pages.begin(&mut checks, &request.page_token);
        checks.finish()?;
        let (keys, more) = self.keys.list(&caller.owner, after, size.unsigned_abs() as usize);
        let next_page_token = pages.next(keys.last().map(|key| key.id.as_str()), more);
        Ok(Response::new(ListApiKeysResponse { keys: keys.iter().map(|key| api_key(key)).collect(), next_page_token }))
    }

    async fn rotate_api_key(
        &self,
        request: Request<RotateApiKeyRequest>,
    ) -> Result<Response<RotateApiKeyResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let canonical = canonical(&request, |request| request.idempotency_key.clear());
        let mut checks = Checks::default();
        convert::idempotency_key(&mut checks, &request.idempotency_key);
        let grace = checks.duration("grace", request.grace.as_ref(), Duration::ZERO..=limits::MAX_KEY_GRACE);
        checks.finish()?;
        let (id, key) = (&request.key_id, &request.idempotency_key);
        let grace = grace.unwrap_or_default();
        let (key, secret_key) = self.keys.rotate(&caller.key, key, &canonical, id, grace).await?;
        Ok(Response::new(RotateApiKeyResponse { key: Some(api_key(&key)), secret_key }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<RevokeApiKeyRequest>,
    ) -> Result<Response<RevokeApiKeyResponse>, Status> {
        let (caller, request) = (Caller::of(&request)?, request.into_inner());
        let key = self.keys.revoke(&caller.owner, &request.key_id).await?;
        Ok(Response::new(RevokeApiKeyResponse { key: Some(api_key(&key)) }))
    }
}

fn api_key(record: &KeyRecord) -> ApiKey {
    ApiKey {
        id: record.id.clone(),
        name: record.name.clone(),
        prefix: record.prefix.clone(),
        owner: record.owner.clone(),
        scopes: record.scopes.clone(),
        created_at: Some(timestamp(record.created_at)),
        expires_at: record.expires_at.map(timestamp),
        revoked_at: record.revoked_at.map(timestamp),
        rotated_from: record.rotated_from.clone().unwrap_or_default(),
        rotated_to: record.rotated_to.clone().unwrap_or_default(),
    }
}
