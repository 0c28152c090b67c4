//! One HTTP/2 connection, made when it is first needed and again when it broke.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, header::USER_AGENT};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    task::AbortHandle,
    time::{Instant, timeout},
};
use tonic::body::Body;

use super::tls::Tls;
use crate::{
    config::Target,
    limits::{CONNECT_TIMEOUT, FRAME_BYTES, KEEPALIVE},
};

/// What the server's log calls this client.
const AGENT: &str = concat!("nullspace-rust/", env!("CARGO_PKG_VERSION"));

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What lines to one server have in common.
pub(super) struct Endpoint {
    pub target: Target,
    pub tls: Option<Tls>,
}

/// How many streams a line carries, and the window of each. The connection's
/// window is their product: a stream that nobody reads keeps to its own part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub streams: u32,
    pub window: u32,
}

/// One connection.
pub(super) struct Line {
    endpoint: Arc<Endpoint>,
    shape: Shape,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// The last attempt that failed, for those who waited for it.
    failed: Option<(Instant, String)>,
}

struct Open {
    sender: http2::SendRequest<Body>,
    driver: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Line {
    pub fn new(endpoint: Arc<Endpoint>, shape: Shape) -> Self {
        Self { endpoint, shape, state: Mutex::default() }
    }

    /// A way onto the connection, which is made if there is none.
    async fn sender(&self) -> Result<http2::SendRequest<Body>, BoxError> {
        let arrived = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(open) = state.open.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok(open.sender.clone());
        }
        // Whoever waited for an attempt has its outcome; else a crowd would
        // try one after the other, each for as long as an attempt may take.
        if let Some((_, message)) = state.failed.as_ref().filter(|(begun, _)| *begun >= arrived) {
            return Err(message.clone().into());
        }
        let begun = Instant::now();
        state.open = None;
        match self.connect().await {
            Ok(open) => {
                let sender = open.sender.clone();
                *state = State { open: Some(open), failed: None };
                Ok(sender)
            }
            Err(error) => {
                let message = format!("{} cannot be reached: {error}", self.endpoint.target.url);
                state.failed = Some((begun, message.clone()));
                Err(message.into())
            }
        }
    }

    async fn connect(&self) -> Result<Open, BoxError> {
        let connecting = async {
            let Target { host, port, .. } = &self.endpoint.target;
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            match &self.endpoint.tls {
                Some(tls) => self.handshake(tls.connect(stream).await?).await,
                None => self.handshake(stream).await,
            }
        };
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| "no answer in time")?
    }

    async fn handshake<S>(&self, stream: S) -> Result<Open, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.shape.window)
            .initial_connection_window_size(self.shape.window * self.shape.streams)
            .max_frame_size(FRAME_BYTES)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        // Calls on it learn of its end by themselves.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Open { sender, driver })
    }
}

/// A line as a service of gRPC.
#[derive(Clone)]
pub(crate) struct Service(pub(super) Arc<Line>);

impl tower_service::Service<http::Request<Body>> for Service {
    type Response = http::Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let line = self.0.clone();
        Box::pin(async move { Ok(line.sender().await?.send_request(request).await?) })
    }
}
