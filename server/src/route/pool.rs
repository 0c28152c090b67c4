//! Connections to one execution's agent. On each, streams times window is at
//! most the connection's window, so stalled readers never block other calls;
//! when one is full another is opened.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nullspace_proto::{Error, Reason, Result, body::Until, limits};
use tokio::{net::TcpStream, sync::watch};
use tokio_util::task::TaskTracker;
use tonic::{Status, body::Body};

use crate::runtime::Address;

/// Metadata that proves to an agent that its server calls.
const SECRET: &str = "nullspace-secret";
/// How much later than its agent's connections the death of a sandbox is known.
const DEATH: Duration = Duration::from_millis(500);

/// The connections to one agent.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    address: Address,
    secret: HeaderValue,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// One connection is opened at a time.
    opening: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    ended: watch::Sender<Option<Reason>>,
}

struct Connection {
    kind: Kind,
    sender: SendRequest<Body>,
    streams: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// For calls that must answer fast.
    Interactive,
    /// For large transfers.
    Bulk,
    /// For all, once the sandbox has used its window budget.
    Small,
}

impl Kind {
    fn streams(self) -> usize {
        if self == Self::Bulk { limits::BULK_STREAMS } else { limits::AGENT_STREAMS }
    }

    fn stream_window(self) -> u32 {
        match self {
            Self::Interactive => limits::AGENT_STREAM_WINDOW,
            Self::Bulk => limits::BULK_STREAM_WINDOW,
            Self::Small => limits::SMALL_STREAM_WINDOW,
        }
    }

    fn window(self) -> u32 {
        self.stream_window() * self.streams() as u32
    }
}

impl Pool {
    /// For the agent at `address`, which knows `secret`.
    pub fn new(address: Address, secret: &str) -> Result<Self> {
        let mut secret =
            HeaderValue::from_str(secret).map_err(|_| Error::internal("an agent's secret is not ASCII"))?;
        secret.set_sensitive(true);
        let (ended, _) = watch::channel(None);
        Ok(Self(Arc::new(Inner {
            address,
            secret,
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            ended,
        })))
    }

    /// Ends every stream and refuses further ones, with `reason`. The first
    /// reason stays.
    pub fn end(&self, reason: Reason) {
        self.0.ended.send_if_modified(|ended| ended.is_none() && ended.replace(reason).is_none());
        self.connections().clear();
    }

    /// Why the pool was ended, if it was.
    pub fn ended(&self) -> Option<Reason> {
        *self.0.ended.borrow()
    }

    /// Resolves when the pool is ended.
    pub async fn wait_ended(&self) -> Reason {
        let mut ended = self.0.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await.map(|reason| *reason);
        reason.ok().flatten().unwrap_or(Reason::SandboxStopped)
    }

    /// Sends a request to the agent. Whatever goes wrong on the way, also after
    /// the answer has begun, is a gRPC status in the answer.
    pub async fn call(&self, request: Request<Body>, bulk: bool) -> Response<Body> {
        match self.send(request, bulk).await {
            Ok(response) => {
                let pool = self.clone();
                let ended = async move { ended_error(pool.wait_ended().await) };
                response.map(|body| Body::new(Until::new(body, ended)))
            }
            Err(error) => Status::from(error).into_http(),
        }
    }

    async fn send(&self, request: Request<Body>, bulk: bool) -> Result<Response<AgentBody>> {
        let mut request = absolute(request);
        request.headers_mut().insert(SECRET, self.0.secret.clone());
        let sending = async {
            let slot = self.slot(bulk).await?;
            let mut sender = slot.0.sender.clone();
            let sent = async {
                sender.ready().await?;
                sender.send_request(request).await
            };
            match sent.await {
                Ok(response) => {
                    Ok(response.map(|inner| AgentBody { inner, pool: self.clone(), broken: None, _slot: slot }))
                }
                Err(error) => Err(self.why(&error).await),
            }
        };
        tokio::select! {
            biased;
            reason = self.wait_ended() => Err(ended_error(reason)),
            response = sending => response,
        }
    }

    /// Why a connection broke. An agent that was killed takes its sandbox with it,
    /// a moment later: then it is that.
    async fn why(&self, error: &hyper::Error) -> Error {
        match tokio::time::timeout(DEATH, self.wait_ended()).await {
            Ok(reason) => ended_error(reason),
            Err(_) => {
                let message = format!("the connection to the sandbox's agent broke: {error}");
                Error::new(Reason::AgentUnreachable, message)
            }
        }
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Connection>>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream on a connection that has one free, opening one if needed.
    async fn slot(&self, bulk: bool) -> Result<Slot> {
        if let Some(slot) = self.free_slot(bulk) {
            return Ok(slot);
        }
        let _opening = self.0.opening.lock().await;
        // Another call may have opened one meanwhile.
        if let Some(slot) = self.free_slot(bulk) {
            return Ok(slot);
        }
        let kind = self.next_kind(bulk);
        let connection = Arc::new(Connection { kind, sender: self.open(kind).await?, streams: AtomicUsize::new(1) });
        if self.ended().is_none() {
            self.connections().push(connection.clone());
        }
        Ok(Slot(connection))
    }

    fn free_slot(&self, bulk: bool) -> Option<Slot> {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.sender.is_closed());
        let wanted = |kind: Kind| if bulk { kind == Kind::Bulk } else { kind == Kind::Interactive };
        let (first, others): (Vec<_>, Vec<_>) = connections.iter().partition(|connection| wanted(connection.kind));
        // A large transfer may use any connection while the budget forbids a
        // new one; a small call never takes a bulk slot.
        let others = others.into_iter().filter(|connection| connection.kind == Kind::Small);
        first.into_iter().chain(others).find_map(Slot::take)
    }

    fn next_kind(&self, bulk: bool) -> Kind {
        let wanted = if bulk { Kind::Bulk } else { Kind::Interactive };
        let held: u64 = self.connections().iter().map(|connection| u64::from(connection.kind.window())).sum();
        if held + u64::from(wanted.window()) <= limits::SANDBOX_WINDOW_BUDGET { wanted } else { Kind::Small }
    }

    async fn open(&self, kind: Kind) -> Result<SendRequest<Body>> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Error::new(Reason::AgentUnreachable, format!("the sandbox's agent cannot be reached: {error}"))
        };
        let connecting = TcpStream::connect((self.0.address.guest, limits::AGENT_PORT));
        let stream = tokio::time::timeout(limits::AGENT_CONNECT, connecting).await;
        let stream =
            stream.map_err(|_| unreachable(&"connecting took too long"))?.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(kind.stream_window())
            .initial_connection_window_size(kind.window())
            .max_frame_size(limits::CHUNK_FRAME_BYTES)
            .max_header_list_size(limits::MAX_HEADER_BYTES)
            .keep_alive_interval(limits::AGENT_KEEPALIVE)
            .keep_alive_timeout(limits::AGENT_KEEPALIVE)
            .keep_alive_while_idle(true);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        // It ends when its last sender is dropped or its peer goes away.
        self.0.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an agent ended");
            }
        });
        Ok(sender)
    }
}

/// One stream on a connection. Gives it back when dropped.
struct Slot(Arc<Connection>);

impl Slot {
    fn take(connection: &Arc<Connection>) -> Option<Self> {
        let most = connection.kind.streams();
        let take = |streams| (streams < most).then_some(streams + 1);
        connection.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Self(connection.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

fn ended_error(reason: Reason) -> Error {
    let message = match reason {
        Reason::AgentLost => "the sandbox's kernel died",
        Reason::ServerStopping => "the server is stopping",
        _ => "the sandbox was stopped",
    };
    Error::wrong_state(reason, "sandbox", message)
}

/// The body of an agent's answer. Holds its stream.
struct AgentBody {
    inner: Incoming,
    pool: Pool,
    /// The connection broke: why, once that is known.
    broken: Option<Pin<Box<dyn Future<Output = Error> + Send>>>,
    _slot: Slot,
}

impl http_body::Body for AgentBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.broken.is_none() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Err(error)) => {
                    let pool = self.pool.clone();
                    self.broken = Some(Box::pin(async move { pool.why(&error).await }));
                }
                Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                None => return Poll::Ready(None),
            }
        }
        let Some(broken) = &mut self.broken else { return Poll::Ready(None) };
        broken.as_mut().poll(cx).map(|error| Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// The pool as a tonic client's channel, for the server's own calls.
#[derive(Clone)]
pub struct AgentChannel(pub Pool);

impl tower::Service<Request<Body>> for AgentChannel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pool = self.0.clone();
        Box::pin(async move { Ok(pool.call(request, false).await) })
    }
}

/// HTTP/2 wants a scheme and an authority; an agent looks at neither.
fn absolute(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = http::Uri::builder().scheme("http").authority("agent").path_and_query(path);
    if let Ok(uri) = uri.build() {
        *request.uri_mut() = uri;
    }
    request
}
