//! Decides who answers a call, after finding out who makes it. Both follow from
//! the schema: a method's policy names its plane and its scope.

use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use nullspace_proto::{Error, Reason, Result, policy};
use tonic::{Status, body::Body};
use tonic_health::pb::health_server::Health;
use tonic_reflection::server::v1::ServerReflection;

use crate::{
    api::{self, Api},
    caller::Caller,
    keys::ApiKeys,
    quota::Quotas,
    route::Relay,
};

/// Both planes behind one door.
pub struct Dispatch<H: Health, R: ServerReflection>(Arc<Planes<H, R>>);

struct Planes<H: Health, R: ServerReflection> {
    keys: Arc<ApiKeys>,
    quotas: Quotas,
    api: Api<H, R>,
    relay: Relay,
}

impl<H: Health, R: ServerReflection> Clone for Dispatch<H, R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H: Health, R: ServerReflection> Dispatch<H, R> {
    /// From the keys, what they may use, and both planes.
    pub fn new(keys: Arc<ApiKeys>, quotas: Quotas, api: Api<H, R>, relay: Relay) -> Self {
        Self(Arc::new(Planes { keys, quotas, api, relay }))
    }

    /// Answers a call.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        if api::is_open(path) {
            return self.0.api.call(request).await;
        }
        let Some(method) = policy::find(path) else {
            return Status::from(Error::new(Reason::MethodUnknown, format!("there is no method {path}"))).into_http();
        };
        let admitted = self.caller(request.headers(), method.scope).and_then(|caller| {
            let share = self.0.quotas.of_key(&caller.key.id, method)?;
            Ok((caller, share))
        });
        let (caller, share) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return Status::from(error).into_http(),
        };
        let mut request = request.map(|body| share.paced(body));
        share.hold(if method.sandbox_plane {
            self.0.relay.call(method, caller, request).await
        } else {
            request.extensions_mut().insert(caller);
            self.0.api.call(request).await
        })
    }

    fn caller(&self, headers: &HeaderMap, scope: &'static str) -> Result<Caller> {
        let missing = || Error::new(Reason::ApiKeyMissing, "send `authorization: Bearer <API key>`");
        let header = headers.get("authorization").and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        let (scheme, key) = header.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") || key.trim().is_empty() {
            return Err(missing());
        }
        let key = self.0.keys.authenticate(key.trim())?;
        key.require(scope)?;
        Ok(Caller { owner: key.owner.clone(), key })
    }
}
