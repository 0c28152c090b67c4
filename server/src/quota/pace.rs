//! Bytes per second: what has passed is paid for in time before more passes.
//! Nobody reads meanwhile, so the windows of HTTP/2 fill and the sender waits.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

/// Silence that is credited: what was not used before this is lost.
const CREDIT: Duration = Duration::from_millis(100);

/// The pace that the streams of one holder share.
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When all that has passed is paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, paid: Mutex::new(Instant::now()) }
    }

    /// Until when nothing may pass, if not at once.
    pub(super) fn wait(&self) -> Option<Instant> {
        let paid = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        (paid > Instant::now()).then_some(paid)
    }

    fn passed(&self, bytes: usize) {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = Instant::now().checked_sub(CREDIT).unwrap_or_else(Instant::now).max(*paid);
        *paid = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
    }
}

/// A body at a pace.
pub(super) struct Paced {
    body: Body,
    pace: Arc<Pace>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) fn new(body: Body, pace: Arc<Pace>) -> Self {
        Self { body, pace, wait: None }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Others may have passed meanwhile, so it is asked again after a wait.
        while let Some(until) = self.pace.wait() {
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        self.wait = None;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.pace.passed(data.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_takes_its_time() {
        let pace = Pace::new(1_000_000);
        let begun = Instant::now();
        for _ in 0..6 {
            while let Some(until) = pace.wait() {
                tokio::time::sleep_until(until).await;
            }
            pace.passed(100_000);
        }
        // The last need not be paid for, and a little is credited.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(390), "{took:?}");
    }
}
