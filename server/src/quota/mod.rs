//! What one API key and one sandbox may have at once. A call or a stream over a
//! limit is refused, with the time to come again; bytes are never refused, but
//! paced, which the other end sees as a slow network (decision 0006).

mod pace;

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use nullspace_proto::{Error, Reason, Result, policy::Method};
use tonic::{Status, body::Body};

use self::pace::{Pace, Paced};

/// When a refused call may come again.
const AGAIN: Duration = Duration::from_secs(1);
/// Holders that are remembered before those that are at rest are forgotten.
const SWEEP_FROM: usize = 1_024;

/// Limits of one holder. 0: none.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls of any kind at once.
    pub calls: usize,
    /// Of those, streams.
    pub streams: usize,
    /// Bytes of messages, in both directions together.
    pub bytes_per_second: u64,
}

/// Limits of every key and of every sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub key: Limits,
    pub sandbox: Limits,
}

/// Who uses what.
#[derive(Clone)]
pub struct Quotas {
    settings: Settings,
    holders: Arc<Mutex<HashMap<Holder, Used>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Key(String),
    Sandbox(String),
}

#[derive(Default)]
struct Used {
    calls: usize,
    streams: usize,
    pace: Option<Arc<Pace>>,
}

/// A call's part of what its holder may have. Gives it back when dropped.
pub struct Share {
    holders: Arc<Mutex<HashMap<Holder, Used>>>,
    holder: Holder,
    streams: bool,
    pace: Option<Arc<Pace>>,
}

impl Quotas {
    /// Nobody uses anything.
    pub fn new(settings: Settings) -> Self {
        Self { settings, holders: Arc::default() }
    }

    /// A call with a key begins.
    pub fn of_key(&self, id: &str, method: &Method) -> Result<Share> {
        self.begin(Holder::Key(id.to_owned()), &self.settings.key, method)
    }

    /// A call into a sandbox begins.
    pub fn of_sandbox(&self, id: &str, method: &Method) -> Result<Share> {
        self.begin(Holder::Sandbox(id.to_owned()), &self.settings.sandbox, method)
    }

    fn begin(&self, holder: Holder, limits: &Limits, method: &Method) -> Result<Share> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.len() >= SWEEP_FROM && !holders.contains_key(&holder) {
            holders.retain(|_, used| !used.is_at_rest());
        }
        let used = holders.entry(holder.clone()).or_default();
        admit(&holder, "calls", limits.calls, used.calls)?;
        if method.streams {
            admit(&holder, "streams", limits.streams, used.streams)?;
        }
        used.calls += 1;
        used.streams += usize::from(method.streams);
        if used.pace.is_none() && limits.bytes_per_second > 0 {
            used.pace = Some(Arc::new(Pace::new(limits.bytes_per_second)));
        }
        let pace = used.pace.clone();
        drop(holders);
        Ok(Share { holders: self.holders.clone(), holder, streams: method.streams, pace })
    }
}

fn admit(holder: &Holder, what: &str, limit: usize, used: usize) -> Result<()> {
    if limit == 0 || used < limit {
        return Ok(());
    }
    let message = format!("{holder} may have {limit} {what} at once, has {used} and asked for 1 more");
    let error = Error::quota(Reason::ConcurrencyLimitReached, holder.subject(), message);
    Err(error.with("limit", limit).with("used", used).with("asked", 1).retry_after(AGAIN))
}

impl Used {
    fn is_at_rest(&self) -> bool {
        self.calls == 0 && self.pace.as_ref().is_none_or(|pace| pace.wait().is_none())
    }
}

impl Holder {
    /// As in QuotaFailure.
    fn subject(&self) -> String {
        match self {
            Self::Key(id) => format!("api_key:{id}"),
            Self::Sandbox(id) => format!("sandbox:{id}"),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "API key {id}"),
            Self::Sandbox(id) => write!(f, "sandbox {id}"),
        }
    }
}

impl Share {
    /// A request at its holder's pace.
    pub fn paced(&self, body: Body) -> Body {
        match &self.pace {
            Some(pace) => Body::new(Paced::new(body, pace.clone())),
            None => body,
        }
    }

    /// An answer at its holder's pace, which has the share until it ends.
    pub fn hold(self, response: Response<Body>) -> Response<Body> {
        if http_body::Body::is_end_stream(response.body()) {
            return response;
        }
        response.map(|body| Body::new(Held { body: self.paced(body), share: Some(self) }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = holders.get_mut(&self.holder) else { return };
        used.calls -= 1;
        used.streams -= usize::from(self.streams);
        // What it sent lately counts for its next call.
        if used.is_at_rest() {
            holders.remove(&self.holder);
        }
    }
}

/// Gives the share back before the last frame goes out: a caller that has seen
/// the end must find room for its next call.
struct Held {
    body: Body,
    share: Option<Share>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
            self.share = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
