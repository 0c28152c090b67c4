//! Where calls come in: listening, TLS, and what happens to every call before
//! it is answered. From the outside in: trace, deadline, size, dispatch.

mod dispatch;
pub mod listen;
mod trace;

pub use dispatch::Dispatch;

use http::{Request, Response};
use hyper::body::Incoming;
use nullspace_proto::deadline;
use tonic::body::Body;
use tonic_health::pb::health_server::Health;
use tonic_reflection::server::v1::ServerReflection;
use tracing::Instrument as _;

use crate::size;

/// Answers one call of any kind.
pub async fn answer<H: Health, R: ServerReflection>(
    dispatch: Dispatch<H, R>,
    request: Request<Incoming>,
) -> Response<Body> {
    let traced = trace::Trace::begin(request.uri().path());
    let (parts, body) = request.into_parts();
    let (body, oversize) = size::limit(Body::new(body));
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(oversize);
    let deadline = deadline::of(request.headers());
    let answer = deadline::bound(deadline, dispatch.call(request)).instrument(traced.span());
    let response = answer.await;
    traced.end(response)
}
