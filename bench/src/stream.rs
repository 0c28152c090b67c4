//! Much output, to the Rust and the Python client.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nullspace::Event;
use nullspace_proto::v1::{
    OutputChunk, OutputStream, ReadCommandOutputResponse, read_command_output_response::Frame as Answer,
};
use nullspace_tests::{Result, eventually};
use prost::Message as _;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_stream::StreamExt as _;

use crate::{
    Counts,
    ground::{Ground, install_floor, python},
    report::{Figure, Report, Target, median},
};

const ROUNDS: usize = 3;
const PORT: u16 = 9_000;
/// Prints the address of the guest. No packet is sent.
const ADDRESS: &str = "import socket as s; u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.connect(('192.0.2.1', 1)); \
     print(u.getsockname()[0])";

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// Stdout of a command, beside the same bytes by raw TCP through a plain relay.
pub async fn rust(ground: &Ground, counts: Counts, report: &mut Report) -> Result {
    install_floor(&ground.sandbox).await?;
    let (mut samples, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floors.push(rate(counts.bytes, raw(ground, counts.bytes).await?));
        let begun = Instant::now();
        let run = ground.sandbox.commands().run("/tmp/floor").args(["print", &counts.bytes.to_string()]);
        let mut events = run.timeout(Duration::from_secs(300)).events();
        let mut read = 0;
        while let Some(event) = events.next().await {
            if let Event::Output(output) = event? {
                read += output.data.len();
            }
        }
        samples.push(rate(read, begun.elapsed()));
        if read != counts.bytes {
            return Err(format!("{read} of {} bytes", counts.bytes).into());
        }
    }
    report.add(Figure {
        name: "stdout, Rust client",
        unit: "MB/s",
        samples,
        floor_name: "raw TCP and a plain relay",
        floor: median(&floors),
        target: Some(Target::AtLeast(0.5)),
    })
}

/// Reads so many bytes from a program in the sandbox, through a relay.
async fn raw(ground: &Ground, bytes: usize) -> Result<Duration> {
    let address = ground.sandbox.commands().run("python3").args(["-c", ADDRESS]).await?.stdout_text();
    let address = format!("{}:{PORT}", address.trim());
    let commands = ground.sandbox.commands();
    let server = commands.run("/tmp/floor").args(["serve", &PORT.to_string(), &bytes.to_string()]).start().await?;
    let listening = async || Ok(server.info().await?.output_end > 0);
    eventually("the guest's program listens", Duration::from_secs(10), listening).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let relay = listener.local_addr()?;
    let relaying = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await?;
        let mut far = TcpStream::connect(address).await?;
        tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 1 << 20, 1 << 20).await
    });
    let mut buffer = vec![0; 1 << 20];
    let begun = Instant::now();
    let mut stream = TcpStream::connect(relay).await?;
    let mut left = bytes;
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(format!("{left} bytes did not come").into());
        }
        left -= read;
    }
    let took = begun.elapsed();
    drop(stream);
    relaying.await??;
    server.wait().await?;
    Ok(took)
}

/// The same bytes to Python, beside what grpcio reads from a bare server.
async fn python_rates(ground: &Ground, bytes: usize) -> Result<(f64, f64)> {
    let size = bytes.to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(serve_bytes(listener, bytes));
    let bare = python(&ground.server, &["bare", &url, &size]).await;
    serving.abort();
    let ours = python(&ground.server, &["command", ground.sandbox.id(), &size]).await?;
    Ok((rate(bytes, Duration::from_secs_f64(ours)), rate(bytes, Duration::from_secs_f64(bare?))))
}

/// Stdout of a command, to the Python client.
pub async fn python_stream(ground: &Ground, counts: Counts, report: &mut Report) -> Result {
    install_floor(&ground.sandbox).await?;
    let (mut samples, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (ours, bare) = python_rates(ground, counts.bytes).await?;
        samples.push(ours);
        floors.push(bare);
    }
    report.add(Figure {
        name: "stdout, Python client",
        unit: "MB/s",
        samples,
        floor_name: "grpcio from a bare server",
        floor: median(&floors),
        target: Some(Target::AtLeast(0.8)),
    })
}

/// Answers every call with so many bytes, in messages of the API.
async fn serve_bytes(listener: TcpListener, bytes: usize) -> Result {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let answer = move |_: Request<Incoming>| async move {
        let body = Messages { left: bytes, message: message(), ended: false };
        let response = Response::builder().header("content-type", "application/grpc").body(body);
        Ok::<_, Infallible>(response.unwrap_or_default())
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_frame_size(1 << 20).max_send_buf_size(4 << 20);
    Ok(builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await?)
}

/// A mebibyte of output, as one message of the API.
fn message() -> Bytes {
    let chunk = OutputChunk { offset: 1, stream: OutputStream::Stdout.into(), data: vec![0; 1 << 20].into() };
    let body = ReadCommandOutputResponse { frame: Some(Answer::Output(chunk)) }.encode_to_vec();
    let mut message = BytesMut::with_capacity(5 + body.len());
    message.put_u8(0);
    message.put_u32(body.len() as u32);
    message.put_slice(&body);
    message.freeze()
}

#[derive(Default)]
struct Messages {
    left: usize,
    message: Bytes,
    ended: bool,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left > 0 {
            self.left = self.left.saturating_sub(1 << 20);
            return Poll::Ready(Some(Ok(Frame::data(self.message.clone()))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let trailers = HeaderMap::from_iter([(
            http::header::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
