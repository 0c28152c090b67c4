//! Passes one call to the agent of the sandbox that it names.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use nullspace_proto::{
    Error, Reason, Result,
    body::{Until, lend},
    policy::Method,
};
use tonic::{Status, body::Body};

use super::first;
use crate::{
    caller::Caller,
    quota::Quotas,
    sandbox::{Sandboxes, live::Live},
    size::Oversize,
};

const INCARNATION: &str = "nullspace-incarnation";
const SANDBOX_ID: &str = "nullspace-sandbox-id";
/// Headers of the caller that an agent must not see or that are for one hop.
const NOT_PASSED: [&str; 4] = ["authorization", "connection", "te", "host"];

/// The sandbox plane.
#[derive(Clone)]
pub struct Relay {
    sandboxes: Arc<Sandboxes>,
    quotas: Quotas,
}

impl Relay {
    /// Routes to these sandboxes, as much as each may have.
    pub fn new(sandboxes: Arc<Sandboxes>, quotas: Quotas) -> Self {
        Self { sandboxes, quotas }
    }

    /// Passes a call on. The caller is authorized for the method already.
    pub async fn call(&self, method: &'static Method, caller: Caller, request: Request<Body>) -> Response<Body> {
        match self.route(method, &caller, request).await {
            Ok(response) => response,
            Err(error) => Status::from(error).into_http(),
        }
    }

    async fn route(&self, method: &'static Method, caller: &Caller, request: Request<Body>) -> Result<Response<Body>> {
        refuse_compression(request.headers())?;
        let (mut parts, mut body) = request.into_parts();
        let oversize = parts.extensions.remove::<Oversize>();
        let first = first::read(&mut body, method.opens).await.map_err(|error| reported(oversize.as_ref(), error))?;
        let live = self.sandboxes.live(&caller.owner, &first.sandbox_id)?;
        check_incarnation(&parts.headers, &live)?;
        let share = self.quotas.of_sandbox(&live.sandbox_id, method)?;
        for name in NOT_PASSED {
            parts.headers.remove(name);
        }
        parts.headers.insert("te", HeaderValue::from_static("trailers"));
        parts.version = http::Version::HTTP_2;
        let (body, left) = lend(share.paced(Body::new(Rest { read: Some(first.read), body })));
        let request = Request::from_parts(parts, Body::new(body));
        let sent = live.pool.call(request, method.bulk);
        let response = match oversize {
            Some(oversize) => tokio::select! {
                biased;
                error = oversize.clone().found() => return Err(error),
                response = sent => response.map(|body| Body::new(Until::new(body, oversize.found()))),
            },
            None => sent.await,
        };
        let response = if method.opens { response.map(|body| Body::new(left.read_during(body))) } else { response };
        let mut response = share.hold(response);
        name_execution(response.headers_mut(), &live);
        Ok(response)
    }
}

/// A body that was cut because a message was too large says so.
fn reported(oversize: Option<&Oversize>, error: Error) -> Error {
    oversize.and_then(Oversize::error).unwrap_or(error)
}

fn refuse_compression(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-encoding") {
        Some(encoding) if encoding != "identity" => {
            Err(Error::new(Reason::EncodingUnsupported, "compressed messages are not taken by calls into a sandbox"))
        }
        _ => Ok(()),
    }
}

fn check_incarnation(headers: &HeaderMap, live: &Live) -> Result<()> {
    let Some(asked) = headers.get(INCARNATION) else { return Ok(()) };
    let asked: i64 = asked
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::invalid_field(format!("metadata {INCARNATION}"), "must be a whole number"))?;
    if asked == live.incarnation {
        return Ok(());
    }
    let message = format!("incarnation {} runs, not {asked}", live.incarnation);
    Err(Error::wrong_state(Reason::StaleIncarnation, "sandbox", message).with("incarnation", live.incarnation))
}

fn name_execution(headers: &mut HeaderMap, live: &Live) {
    headers.insert(INCARNATION, HeaderValue::from(live.incarnation));
    if let Ok(id) = HeaderValue::from_str(&live.sandbox_id) {
        headers.insert(SANDBOX_ID, id);
    }
}

/// A request whose beginning has been read.
struct Rest {
    read: Option<Bytes>,
    body: Body,
}

impl http_body::Body for Rest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_none() && self.body.is_end_stream()
    }
}
