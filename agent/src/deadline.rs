//! The deadline of a call, `grpc-timeout`, on unary calls and on streams. When it
//! has passed, the call's work is dropped and its status says so. What a call
//! has started, a command, goes on.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use nullspace_proto::{Error, Reason};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

/// How long the caller waits.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Answers a call, within its deadline if it has one.
pub async fn within(timeout: Option<Duration>, answer: impl Future<Output = Response<Body>>) -> Response<Body> {
    let Some(timeout) = timeout else { return answer.await };
    let mut deadline = Box::pin(sleep(timeout));
    let mut answer = Box::pin(answer);
    let answered = poll_fn(|context| match answer.as_mut().poll(context) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => deadline.as_mut().poll(context).map(|()| None),
    });
    match answered.await {
        Some(response) => response.map(|body| Body::new(Bounded { body: Some(body), deadline })),
        None => passed().into_http(),
    }
}

fn passed() -> Status {
    Error::new(Reason::DeadlineExceeded, "the deadline of the call has passed").into()
}

/// A body that ends when the deadline has passed.
struct Bounded {
    /// None: the deadline has passed, and the work behind the body is dropped.
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // First: a stream that always has a frame ready must end too.
        let late = self.deadline.as_mut().poll(context).is_ready();
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if !late {
            return Pin::new(body).poll_frame(context);
        }
        self.body = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(passed().add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &'static str| {
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]))
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "-1S", "123456789S", "1x", "1 S"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
