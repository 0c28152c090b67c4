//! A request id for every call, in the answer and in the log.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use nullspace_proto::id;
use tonic::{Code, Status, body::Body};

const REQUEST_ID: &str = "nullspace-request-id";

/// One call, from its first header to its end.
pub struct Trace {
    path: String,
    request_id: String,
    begun: Instant,
    logged: bool,
}

impl Trace {
    /// A call begins.
    pub fn begin(path: &str) -> Self {
        Self { path: path.to_owned(), request_id: id::request(), begun: Instant::now(), logged: false }
    }

    /// Names the call in what is logged on its way.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!("call", id = self.request_id)
    }

    /// Its answer begins; its end is logged when it comes.
    pub fn end(mut self, mut response: Response<Body>) -> Response<Body> {
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if let Some(code) = code(response.headers()) {
            self.log(code);
            return response;
        }
        response.map(|body| Body::new(Traced { body, trace: self }))
    }

    fn log(&mut self, code: Code) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        let (path, id, took) = (&self.path, &self.request_id, self.begun.elapsed());
        match code {
            Code::Ok => tracing::debug!(path, id, ?took, "ok"),
            Code::Internal | Code::DataLoss => tracing::error!(path, id, ?took, ?code, "failed"),
            Code::Unauthenticated | Code::PermissionDenied => tracing::info!(path, id, ?took, ?code, "refused"),
            // None of ours: the connection broke in the middle of the request.
            Code::Unknown => tracing::debug!(path, id, ?took, "left"),
            _ => tracing::debug!(path, id, ?took, ?code, "refused"),
        }
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

struct Traced {
    body: Body,
    trace: Trace,
}

impl http_body::Body for Traced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
        {
            self.trace.log(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // The caller left before the end.
        self.trace.log(Code::Cancelled);
    }
}
