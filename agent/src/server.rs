//! Accepts connections, checks the secret of every call and hands it to its
//! service.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nullspace_proto::{
    Error, Reason, agent::v1::agent_service_server::AgentServiceServer, body, deadline, limits, policy,
    v1::command_service_server::CommandServiceServer, v1::file_service_server::FileServiceServer,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tonic::{Code, Status, body::Body};
use tower_service::Service as _;

use crate::{
    Config,
    command::CommandApi,
    control::{AgentApi, Control},
    fault::foreign,
    file::FileApi,
    flow::Flow,
    log::{Budget, Disk},
    process::table::Table,
};

/// Calls of a connection. The server has at most `limits::AGENT_STREAMS`; a few
/// more, because the two ends do not learn of a call's end at the same time.
const STREAMS: u32 = limits::AGENT_STREAMS as u32 + 16;
/// What a call may send ahead. Streams times this is the connection's window, so
/// that no call that is not read holds up another. With a quarter of it uploads
/// have half the rate.
const STREAM_WINDOW: u32 = 256 << 10;
/// What waits to be sent on one call before the next message is asked for.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Connections at once. Programs of the sandbox can connect too.
const CONNECTIONS: usize = 256;
/// A connection on which nobody has shown the secret ends after this time.
const STRANGER: Duration = Duration::from_secs(10);
/// How long to wait when no descriptor is left for a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Memory for logs until the sandbox's own is known.
const INITIAL_LOG_BYTES: usize = 16 << 20;
/// The call that comes before all others.
const ASSIGN: &str = "/nullspace.agent.v1.AgentService/Assign";
/// Calls that the server may give up before they were looked at. The library's
/// own limit of 20 would end the connection, with all its calls, when the agent
/// is busy for a moment while clients leave.
const PENDING_RESETS: usize = 1_024;
/// Metadata that carries the secret.
const SECRET: &str = "nullspace-secret";

/// The services and what they share.
pub struct Services {
    control: Arc<Control>,
    agent: AgentServiceServer<AgentApi>,
    command: CommandServiceServer<CommandApi>,
    file: FileServiceServer<FileApi>,
}

impl Services {
    /// All services of an agent.
    pub fn new(config: Config) -> Arc<Self> {
        let budget = Budget::new(INITIAL_LOG_BYTES, Disk::new(config.spool.clone()));
        let workspace = config.workspace.clone();
        let flow = Flow::new();
        let control = Control::new(config, budget.clone(), flow.clone());
        let table = Table::new(control.clone(), budget);
        let max = limits::MAX_MESSAGE_BYTES;
        Arc::new(Self {
            agent: AgentServiceServer::new(AgentApi::new(control.clone(), table.clone()))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            command: CommandServiceServer::new(CommandApi::new(table, flow.clone()))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            file: FileServiceServer::new(FileApi::new(control.clone(), flow, workspace))
                .max_decoding_message_size(max)
                .max_encoding_message_size(max),
            control,
        })
    }

    /// Does what can be done before the first call.
    pub fn prepare(&self) {
        self.control.prepare();
    }

    async fn answer(&self, request: Request<Incoming>, known: &AtomicBool) -> Response<Body> {
        let offered = request.headers().get(SECRET).map_or(&b""[..], |secret| secret.as_bytes());
        if !self.control.knows_secret(offered) {
            return refused(Error::new(Reason::ApiKeyInvalid, "nullspace-secret is missing or wrong"));
        }
        known.store(true, Ordering::Relaxed);
        let deadline = deadline::of(request.headers());
        deadline::bound(deadline, self.dispatch(request)).await
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Response<Body> {
        if request.headers().get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            return refused(Error::new(Reason::EncodingUnsupported, "the request is compressed"));
        }
        let path = request.uri().path();
        if let Err(error) = self.control.execution()
            && path != ASSIGN
        {
            return refused(error);
        }
        if !policy::find(path).is_some_and(|method| method.opens) {
            return self.serve(request).await;
        }
        let (parts, body) = request.into_parts();
        let (body, left) = body::lend(body);
        self.serve(Request::from_parts(parts, body)).await.map(|answer| Body::new(left.read_during(answer)))
    }

    async fn serve<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
    {
        let path = request.uri().path();
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map_or("", |(service, _)| service);
        match service {
            "nullspace.agent.v1.AgentService" => ours(infallible(self.agent.clone().call(request).await)),
            "nullspace.v1.CommandService" => ours(infallible(self.command.clone().call(request).await)),
            "nullspace.v1.FileService" => ours(infallible(self.file.clone().call(request).await)),
            _ => refused(Error::new(Reason::MethodUnknown, format!("the agent has no {path:?}"))),
        }
    }
}

/// An answer with a reason, also where the refusal is not from our services but
/// from the library below them.
fn ours(answer: Response<Body>) -> Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => refused(foreign(status)),
        _ => answer,
    }
}

fn infallible(answer: Result<Response<Body>, Infallible>) -> Response<Body> {
    let Ok(response) = answer;
    response
}

fn refused(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, services: Arc<Services>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The peer gave up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                eprintln!("nullspace-agent: accepting a connection: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let services = services.clone();
        tokio::spawn(async move {
            converse(stream, services).await;
            drop(permit);
        });
    }
}

async fn converse(stream: TcpStream, services: Arc<Services>) {
    // Frames leave when they are ready; only loopback fails here.
    let _ = stream.set_nodelay(true);
    let known = Arc::new(AtomicBool::new(false));
    let seen = known.clone();
    let service = service_fn(move |request| {
        let (services, known) = (services.clone(), known.clone());
        async move { Ok::<_, Infallible>(services.answer(request, &known).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAMS * STREAM_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_frame_size(limits::CHUNK_FRAME_BYTES)
        .max_header_list_size(limits::MAX_HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // How a connection ends is the server's to judge.
        _ = &mut connection => return,
        () = sleep(STRANGER) => {}
    }
    if seen.load(Ordering::Relaxed) {
        let _ = connection.await;
    }
}
