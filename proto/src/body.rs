//! Answers that end early, with a status. A gRPC answer that has begun can only
//! say what went wrong in its trailers; a reset reaches the caller as INTERNAL or
//! UNKNOWN, which says nothing.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tonic::{Code, Status};

use crate::Error;

/// An error as the end of an answer that has begun.
pub fn trailers(error: Error) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if Status::from(error).add_header(&mut headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
    }
    headers
}

/// A body that ends with an error once a future resolves to it. What is behind
/// the body is dropped then.
pub struct Until<B, F> {
    body: Option<B>,
    end: Pin<Box<F>>,
}

impl<B, F> Until<B, F> {
    /// `body`, for as long as `end` is pending.
    pub fn new(body: B, end: F) -> Self {
        Self { body: Some(body), end: Box::pin(end) }
    }

    fn finish(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.body = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(error)))))
    }
}

impl<B, F> http_body::Body for Until<B, F>
where
    B: http_body::Body<Data = Bytes, Error: Into<Error>> + Unpin,
    F: Future<Output = Error>,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(error) = self.end.as_mut().poll(cx) {
            return self.finish(error);
        }
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if frame.is_trailers() {
                    self.body = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.finish(error.into()),
            None => {
                self.body = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}
