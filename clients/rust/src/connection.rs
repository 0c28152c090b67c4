//! Calls and streams of one client, with its key.

use std::{sync::Arc, time::Duration};

use nullspace_proto::limits::MAX_MESSAGE_BYTES;
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming, client::Grpc, metadata::AsciiMetadataValue};

use crate::{
    Reason,
    codec::ClientCodec,
    config::Config,
    error::{Error, Result},
    limits::{OUTBOX_FRAMES, REQUEST_TIMEOUT},
    method::Method,
    retry::CallRetries,
    transport::{Lease, Pool},
};

/// The server may still answer that the time is up, which says more.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// A server and a key, and calls with them. Clones share their connections.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Inner>);

struct Inner {
    pool: Pool,
    authorization: AsciiMetadataValue,
    request_timeout: Duration,
}

impl Connection {
    pub fn new(config: &Config, request_timeout: Option<Duration>) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            pool: Pool::new(config)?,
            authorization: config.authorization.clone(),
            request_timeout: request_timeout.unwrap_or(REQUEST_TIMEOUT),
        })))
    }

    /// Whether the server has answered before.
    pub fn reached(&self) -> bool {
        self.0.pool.reached()
    }

    /// One request, one answer. A call that was lost is made again where that
    /// is safe, all within `timeout`.
    pub async fn call<Q, R>(&self, method: Method<Q, R>, request: Q, timeout: Option<Duration>) -> Result<R>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        let timeout = timeout.unwrap_or(self.0.request_timeout);
        self.call_with(method, request, CallRetries::new(timeout, method.is_repeatable())).await
    }

    /// The same with attempts of the caller's choice.
    pub async fn call_with<Q, R>(&self, method: Method<Q, R>, request: Q, mut retries: CallRetries) -> Result<R>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        check_size(&request)?;
        loop {
            let lease = self.0.pool.unary();
            let sent = self.request(request.clone(), Some(retries.deadline()));
            let mut grpc = lease.grpc();
            let answer = async {
                ready(&mut grpc).await?;
                grpc.unary(sent, method.uri(), ClientCodec::<Q, R>::default()).await.map_err(Error::from)
            };
            let outcome = match timeout_at(retries.deadline() + ANSWER_GRACE, answer).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::deadline("the call did not end within its time")),
            };
            self.0.pool.note(&outcome);
            match outcome {
                Ok(response) => return Ok(response.into_inner()),
                Err(error) => sleep(retries.pause(error, self.reached())?).await,
            }
        }
    }

    /// One request, a stream of answers.
    pub async fn read<Q, R>(&self, method: Method<Q, R>, request: Q, times: Times) -> Result<Frames<R>>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        check_size(&request)?;
        let lease = self.0.pool.stream();
        let sent = self.request(request, times.deadline);
        let mut grpc = lease.grpc();
        let answers = async {
            ready(&mut grpc).await?;
            grpc.server_streaming(sent, method.uri(), ClientCodec::<Q, R>::default()).await.map_err(Error::from)
        };
        let answers = times.bound(times.silent_at(), answers).await;
        self.0.pool.note(&answers);
        Ok(Frames { answers: answers?.into_inner(), times, connection: self.clone(), _lease: lease })
    }

    /// A stream of requests, a stream of answers.
    pub async fn converse<Q, R>(&self, method: Method<Q, R>, first: Q, times: Times) -> Result<Duplex<Q, R>>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        check_size(&first)?;
        let lease = self.0.pool.stream();
        let (outbox, requests) = mpsc::channel(OUTBOX_FRAMES);
        // It has room: it was made in the line before.
        let _ = outbox.try_send(first);
        let sent = self.request(ReceiverStream::new(requests), times.deadline);
        let mut grpc = lease.grpc();
        let answers = async {
            ready(&mut grpc).await?;
            grpc.streaming(sent, method.uri(), ClientCodec::<Q, R>::default()).await.map_err(Error::from)
        };
        let answers = times.bound(times.silent_at(), answers).await;
        self.0.pool.note(&answers);
        let frames = Frames { answers: answers?.into_inner(), times, connection: self.clone(), _lease: lease };
        Ok(Duplex { outbox, frames })
    }

    /// A stream of requests, one answer. The answer may come before all requests
    /// were taken: then it says why.
    pub async fn upload<Q, R>(
        &self,
        method: Method<Q, R>,
        requests: mpsc::Receiver<Q>,
        deadline: Option<Instant>,
    ) -> Result<R>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let lease = self.0.pool.stream();
        let sent = self.request(ReceiverStream::new(requests), deadline);
        let mut grpc = lease.grpc();
        let answer = async {
            ready(&mut grpc).await?;
            grpc.client_streaming(sent, method.uri(), ClientCodec::<Q, R>::default()).await.map_err(Error::from)
        };
        let outcome = match deadline {
            None => answer.await,
            Some(deadline) => match timeout_at(deadline + ANSWER_GRACE, answer).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::deadline("the transfer did not end within its time")),
            },
        };
        self.0.pool.note(&outcome);
        outcome.map(tonic::Response::into_inner)
    }

    fn request<T>(&self, message: T, deadline: Option<Instant>) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.0.authorization.clone());
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        }
        request
    }
}

async fn ready<S>(grpc: &mut Grpc<S>) -> Result<()>
where
    S: tower_service::Service<http::Request<tonic::body::Body>, Response = http::Response<hyper::body::Incoming>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    grpc.ready().await.map_err(|error| Error::transport(error.into().to_string()))
}

/// Refuses what the server would not take.
fn check_size(request: &impl Message) -> Result<()> {
    let size = request.encoded_len();
    if size <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    let message = format!("the request has {size} bytes; at most {MAX_MESSAGE_BYTES} can be sent");
    Err(Error::new(Reason::MessageTooLarge, Code::ResourceExhausted, message))
}

/// How long a stream may last, and may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub deadline: Option<Instant>,
    pub silence: Duration,
}

impl Times {
    /// No end, but some sign of life.
    pub fn silence(silence: Duration) -> Self {
        Self { deadline: None, silence }
    }

    /// When a wait that begins now is a silence.
    pub fn silent_at(&self) -> Instant {
        Instant::now() + self.silence
    }

    async fn bound<T>(&self, silent_at: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
        let deadline = self.deadline.map(|deadline| deadline + ANSWER_GRACE);
        let end = deadline.map_or(silent_at, |deadline| deadline.min(silent_at));
        match timeout_at(end, work).await {
            Ok(outcome) => outcome,
            Err(_) if end == silent_at => {
                Err(Error::transport(format!("the stream was silent for {:.0} s", self.silence.as_secs_f64())))
            }
            Err(_) => Err(Error::deadline("the transfer did not end within its time")),
        }
    }
}

/// Answers, one after the other. Dropping it ends the stream.
pub(crate) struct Frames<R> {
    answers: Streaming<R>,
    times: Times,
    connection: Connection,
    _lease: Lease,
}

impl<R> Frames<R> {
    /// The next answer; None at a good end. Only the time in which somebody
    /// waits counts as silence.
    pub async fn next(&mut self) -> Result<Option<R>> {
        let silent_at = self.silent_at();
        self.next_by(silent_at).await
    }

    /// When a wait that begins now is a silence.
    pub fn silent_at(&self) -> Instant {
        self.times.silent_at()
    }

    /// The same for a wait that began before. May be given up and begun again.
    pub async fn next_by(&mut self, silent_at: Instant) -> Result<Option<R>> {
        let times = self.times;
        let next = async { self.answers.message().await.map_err(Error::from) };
        let outcome = times.bound(silent_at, next).await;
        self.connection.0.pool.note(&outcome);
        outcome
    }
}

/// A stream in both directions.
pub(crate) struct Duplex<Q, R> {
    /// What goes to the server. Closed when the stream is over.
    pub outbox: mpsc::Sender<Q>,
    /// What comes from it.
    pub frames: Frames<R>,
}

/// The caller's key, or a new one.
pub(crate) fn idempotency_key(given: Option<String>) -> String {
    given.filter(|key| !key.is_empty()).unwrap_or_else(nullspace_proto::id::ulid)
}
