//! An agent in this process, and a client of it.

#![allow(dead_code, clippy::unwrap_used)]

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nullspace_agent::{Agent, Config};
use nullspace_proto::{
    Error, Reason,
    agent::v1::{AgentLimits, AssignRequest, agent_service_client::AgentServiceClient},
    limits,
    v1::{
        AttachCommandRequest, AttachCommandResponse, AttachOpen, CommandSpec, Exit, OutputStream,
        attach_command_request, attach_command_response::Frame, command_service_client::CommandServiceClient,
        command_spec::Program, exit::Outcome, file_service_client::FileServiceClient,
    },
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, body::Body, metadata::MetadataValue, service::Interceptor};

pub const SECRET: &str = "a-secret-of-this-execution";
pub const EXECUTION: &str = "01jexecution0000000000000a";
/// No step of a test may take longer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An agent, its directories, and how to reach it.
pub struct Sandbox {
    pub directory: PathBuf,
    pub address: SocketAddr,
}

/// What tests change before an agent starts.
pub struct Options {
    pub memory_bytes: i64,
    pub max_processes: i32,
    pub cgroup: Option<PathBuf>,
    pub cwd_chosen: bool,
    pub assign: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, max_processes: 0, cgroup: None, cwd_chosen: false, assign: true }
    }
}

impl Sandbox {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("nullspace-agent-{}-{number}", std::process::id()));
        for name in ["control", "etc", "cwd", "workspace", "home"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("control/execution_id", EXECUTION);
        write("control/secret", SECRET);
        write("control/hosts", "127.0.0.1 localhost sandbox\n");
        let home = directory.join("home").display().to_string();
        write(
            "etc/passwd",
            &format!(
                "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::{home}:/bin/sh\nlocked:x:1001:1001::/:/usr/sbin/nologin\n"
            ),
        );
        write("etc/group", "root:x:0:\nuser:x:1000:\nvideo:x:44:user\n");
        let config = Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            control: directory.join("control"),
            etc: directory.join("etc"),
            workspace: directory.join("workspace"),
            spool: directory.clone(),
            cgroup: options.cgroup,
            pid1: false,
        };
        let agent = Agent::bind(config).await.unwrap();
        let address = agent.address().unwrap();
        tokio::spawn(agent.run());
        let sandbox = Self { directory, address };
        if options.assign {
            let limits =
                AgentLimits { memory_bytes: options.memory_bytes, max_processes: options.max_processes, disk_bytes: 0 };
            let request =
                AssignRequest { cwd_chosen: options.cwd_chosen, limits: Some(limits), ..sandbox.assignment() };
            sandbox.agent().await.assign(request).await.unwrap();
        }
        sandbox
    }

    pub fn assignment(&self) -> AssignRequest {
        AssignRequest {
            execution_id: EXECUTION.into(),
            envs: [("SANDBOX".to_owned(), "yes".to_owned()), ("LEVEL".to_owned(), "sandbox".to_owned())].into(),
            cwd: self.path("cwd"),
            entropy: vec![7; 32].into(),
            ..Default::default()
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    pub async fn agent(&self) -> AgentServiceClient<Client> {
        AgentServiceClient::new(Client::connect(self.address, SECRET).await)
    }

    pub async fn commands(&self) -> CommandServiceClient<Client> {
        CommandServiceClient::new(Client::connect(self.address, SECRET).await)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
    }

    pub async fn files(&self) -> FileServiceClient<Client> {
        FileServiceClient::new(Client::connect(self.address, SECRET).await)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
    }

    /// Runs a command to its end.
    pub async fn run(&self, spec: CommandSpec) -> Result<Output, Status> {
        let mut commands = self.commands().await;
        Attached::open(&mut commands, open("run", Some(spec))).await?.finish().await
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A connection with the windows that the server uses.
#[derive(Clone)]
pub struct Client {
    sender: http2::SendRequest<Body>,
    address: SocketAddr,
    secret: &'static str,
}

impl Client {
    pub async fn connect(address: SocketAddr, secret: &'static str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(limits::AGENT_STREAM_WINDOW)
            .initial_connection_window_size(limits::AGENT_STREAM_WINDOW * limits::AGENT_STREAMS as u32)
            .max_frame_size(limits::CHUNK_FRAME_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender, address, secret }
    }
}

impl tower_service::Service<http::Request<Body>> for Client {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let uri = format!("http://{}{}", self.address, request.uri().path());
        *request.uri_mut() = uri.parse().unwrap();
        request.headers_mut().insert("nullspace-secret", self.secret.parse().unwrap());
        Box::pin(self.sender.send_request(request))
    }
}

/// What a command left.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

impl Output {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn code(&self) -> Option<i32> {
        match self.exit.outcome {
            Some(Outcome::Code(code)) => Some(code),
            _ => None,
        }
    }

    pub fn signal(&self) -> Option<i32> {
        match self.exit.outcome {
            Some(Outcome::Signal(signal)) => Some(signal),
            _ => None,
        }
    }
}

/// An attach.
pub struct Attached {
    pub requests: mpsc::UnboundedSender<AttachCommandRequest>,
    pub responses: tonic::Streaming<AttachCommandResponse>,
    pub offset: i64,
}

impl Attached {
    pub async fn open(commands: &mut CommandServiceClient<Client>, open: AttachOpen) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let offset = open.position.as_ref().map_or(0, |position| position.offset);
        let attached = requests.send(frame(attach_command_request::Frame::Open(open)));
        attached.unwrap();
        let responses = commands.attach_command(UnboundedReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses, offset })
    }

    pub fn send(&self, frame: attach_command_request::Frame) {
        // The stream may have ended, which the next read tells.
        let _ = self.requests.send(self::frame(frame));
    }

    /// The next frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, Status> {
        let message = timeout(PATIENCE, self.responses.message()).await.expect("no frame came")?;
        Ok(message.map(|message| message.frame.expect("an empty frame")))
    }

    /// The next frame that `wanted` takes; others are dropped, but for output
    /// every frame must continue where the last one ended.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(Frame) -> Option<T>) -> Result<T, Status> {
        // Keepalives would come for ever.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let Some(frame) = self.next().await? else { panic!("the stream ended") };
            self.check(&frame);
            if let Some(found) = wanted(frame) {
                return Ok(found);
            }
        }
        panic!("only other frames came")
    }

    pub fn check(&mut self, frame: &Frame) {
        match frame {
            Frame::Output(chunk) => {
                assert_eq!(chunk.offset, self.offset, "output must continue where it ended");
                assert!(!chunk.data.is_empty());
                self.offset += chunk.data.len() as i64;
            }
            Frame::Truncated(truncated) => {
                assert!(truncated.offset > self.offset);
                self.offset = truncated.offset;
            }
            _ => {}
        }
    }

    /// Reads to the end of the stream, which must be the exit.
    pub async fn finish(mut self) -> Result<Output, Status> {
        let mut output = Output::default();
        output.exit = self.until(|frame| output.take(frame)).await?;
        assert!(self.next().await?.is_none(), "the exit is the last frame");
        Ok(output)
    }
}

impl Output {
    pub fn take(&mut self, frame: Frame) -> Option<Exit> {
        match frame {
            Frame::Output(chunk) => match chunk.stream() {
                OutputStream::Stdout => self.stdout.extend_from_slice(&chunk.data),
                OutputStream::Stderr => self.stderr.extend_from_slice(&chunk.data),
                OutputStream::Unspecified => panic!("output of no stream"),
            },
            Frame::Exit(exit) => return Some(exit),
            _ => {}
        }
        None
    }
}

pub fn frame(frame: attach_command_request::Frame) -> AttachCommandRequest {
    AttachCommandRequest { frame: Some(frame) }
}

pub fn open(id: &str, start: Option<CommandSpec>) -> AttachOpen {
    AttachOpen { command_id: id.into(), start, ..Default::default() }
}

pub fn shell(line: &str) -> CommandSpec {
    CommandSpec { program: Some(Program::Shell(line.into())), ..Default::default() }
}

pub fn argv<const N: usize>(args: [&str; N]) -> CommandSpec {
    let args = args.map(str::to_owned).into();
    CommandSpec { program: Some(Program::Argv(nullspace_proto::v1::Argv { args })), ..Default::default() }
}

pub fn reason(status: &Status) -> Reason {
    Error::reason_of(status).unwrap_or_else(|| panic!("not an error of ours: {status:?}"))
}

/// Waits until something is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// Sends another secret.
pub struct Secret(pub &'static str);

impl Interceptor for Secret {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().insert("nullspace-secret", MetadataValue::from_static(self.0));
        Ok(request)
    }
}
