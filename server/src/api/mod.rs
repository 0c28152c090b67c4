//! The control plane: one file per service. A method checks its request's
//! fields, calls the domain, and converts the answer; who may call it, logs and
//! deadlines are the front's.

mod convert;
mod run_once;
mod sandbox;
mod system;

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use nullspace_proto::{
    Error, Reason,
    v1::{sandbox_service_server::SandboxServiceServer, system_service_server::SystemServiceServer},
};
use tonic::{Status, body::Body, server::NamedService};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tower::{Service, ServiceExt as _};

pub use self::{sandbox::SandboxApi, system::SystemApi};

/// Every service that the server itself answers.
#[derive(Clone)]
pub struct Api<H: Health, R: ServerReflection> {
    sandbox: SandboxServiceServer<SandboxApi>,
    system: SystemServiceServer<SystemApi>,
    health: HealthServer<H>,
    reflection: ServerReflectionServer<R>,
}

impl<H: Health, R: ServerReflection> Api<H, R> {
    /// From the services.
    pub fn new(
        sandbox: SandboxApi,
        system: SystemApi,
        health: HealthServer<H>,
        reflection: ServerReflectionServer<R>,
    ) -> Self {
        Self {
            sandbox: SandboxServiceServer::from_arc(Arc::new(sandbox)),
            system: SystemServiceServer::from_arc(Arc::new(system)),
            health,
            reflection,
        }
    }

    /// Answers a call by the service that its path names.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        if service == SandboxServiceServer::<SandboxApi>::NAME {
            answer(self.sandbox.clone(), request).await
        } else if service == SystemServiceServer::<SystemApi>::NAME {
            answer(self.system.clone(), request).await
        } else if service == HealthServer::<H>::NAME {
            answer(self.health.clone(), request).await
        } else if service == ServerReflectionServer::<R>::NAME {
            answer(self.reflection.clone(), request).await
        } else {
            let message = format!("there is no method {}", request.uri().path());
            Status::from(Error::new(Reason::MethodUnknown, message)).into_http()
        }
    }
}

async fn answer<S>(service: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    match service.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Services that anyone may call: they tell nothing of any sandbox.
pub fn is_open(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/") || path.starts_with("/grpc.reflection.v1.ServerReflection/")
}
