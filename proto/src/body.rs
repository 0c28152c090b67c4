//! Bodies around bodies.
//!
//! Answers that end early, with a status: a gRPC answer that has begun can only
//! say what went wrong in its trailers; a reset reaches the caller as INTERNAL or
//! UNKNOWN, which says nothing.
//!
//! Requests that are read for as long as their answer goes out: a caller may read
//! a message only when what it says to the last one has gone.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio::{sync::oneshot, task::JoinHandle};
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

/// Lends a request to what answers it.
pub fn lend<B>(request: B) -> (Lent<B>, Left<B>) {
    let (back, left) = oneshot::channel();
    (Lent(Some((request, back))), Left(left))
}

/// A request that goes back when it is dropped.
pub struct Lent<B>(Option<(B, oneshot::Sender<B>)>);

impl<B: http_body::Body + Unpin> http_body::Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.0 {
            Some((request, _)) => Pin::new(request).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(request, _)| request.is_end_stream())
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        if let Some((request, back)) = self.0.take() {
            // Nobody waits for it once the answer is out.
            let _ = back.send(request);
        }
    }
}

/// What the answering side leaves of a request.
pub struct Left<B>(oneshot::Receiver<B>);

impl<B> Left<B>
where
    B: http_body::Body<Data: Send, Error: Send> + Send + Unpin + 'static,
{
    /// The answer. While it goes out, what is left of the request is read, and
    /// counts for nothing.
    pub fn read_during<A>(self, answer: A) -> Answer<A> {
        let reading = tokio::spawn(async move {
            let Ok(mut request) = self.0.await else { return };
            while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut request).poll_frame(cx)).await {}
        });
        Answer { body: answer, reading }
    }
}

/// An answer that ends the reading of its request.
pub struct Answer<A> {
    body: A,
    reading: JoinHandle<()>,
}

impl<A: http_body::Body + Unpin> http_body::Body for Answer<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl<A> Drop for Answer<A> {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
