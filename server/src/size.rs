//! Ends a request that has a message larger than any method takes, with a typed
//! error, on both planes: the frames' headers are followed, nothing is decoded.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http_body::Frame;
use nullspace_proto::{Error, Reason, limits::MAX_MESSAGE_BYTES};
use tokio::sync::watch;
use tonic::{Status, body::Body};

/// Tells the one who answers that the request was ended here.
#[derive(Clone)]
pub struct Oversize(watch::Receiver<Option<usize>>);

impl Oversize {
    /// The error, if a message was too large.
    pub fn error(&self) -> Option<Error> {
        self.0.borrow().map(too_large)
    }

    /// Resolves when a message was too large.
    pub async fn found(mut self) -> Error {
        match self.0.wait_for(Option::is_some).await.map(|size| *size) {
            Ok(Some(size)) => too_large(size),
            // The request ended within its limits.
            _ => std::future::pending().await,
        }
    }
}

fn too_large(size: usize) -> Error {
    let message = format!("a message of {size} bytes is larger than {MAX_MESSAGE_BYTES}");
    Error::quota(Reason::MessageTooLarge, "message", message).with("limit_bytes", MAX_MESSAGE_BYTES)
}

/// Follows the messages of a request.
pub fn limit(body: Body) -> (Body, Oversize) {
    let (found, oversize) = watch::channel(None);
    let limited = Limited { body, header: [0; 5], header_read: 0, left: 0, found };
    (Body::new(limited), Oversize(oversize))
}

struct Limited {
    body: Body,
    header: [u8; 5],
    header_read: usize,
    /// Bytes of the current message that are still to come.
    left: usize,
    found: watch::Sender<Option<usize>>,
}

impl Limited {
    /// The size of a message that is too large, if these bytes begin one.
    fn follow(&mut self, mut data: &[u8]) -> Option<usize> {
        while !data.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(data.len());
                data.advance(skipped);
                self.left -= skipped;
                continue;
            }
            self.header[self.header_read] = data.get_u8();
            self.header_read += 1;
            if self.header_read == self.header.len() {
                self.header_read = 0;
                self.left = (&self.header[1..]).get_u32() as usize;
                if self.left > MAX_MESSAGE_BYTES {
                    return Some(self.left);
                }
            }
        }
        None
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(size) = frame
            .as_ref()
            .and_then(|frame| frame.as_ref().ok()?.data_ref().cloned())
            .and_then(|data| self.follow(&data))
        {
            self.found.send_replace(Some(size));
            return Poll::Ready(Some(Err(too_large(size).into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
