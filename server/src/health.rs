//! Asks a server on this host whether it serves.

use std::{net::ToSocketAddrs as _, time::Duration};

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nullspace_proto::{Error, Result};
use tokio::net::TcpStream;
use tonic::{body::Body, codegen::http::Response};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// How long the answer may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Fails unless the server at `url` serves.
pub async fn check(url: &str) -> Result<()> {
    let asked = tokio::time::timeout(LIMIT, ask(url)).await;
    match asked.map_err(|_| Error::internal(format!("{url} does not answer")))?? {
        ServingStatus::Serving => Ok(()),
        status => Err(Error::internal(format!("{url} says {}", status.as_str_name()))),
    }
}

async fn ask(url: &str) -> Result<ServingStatus> {
    let fail = |error: &dyn std::fmt::Display| Error::internal(format!("{url}: {error}"));
    let host = url.strip_prefix("http://").ok_or_else(|| Error::invalid_field("url", "must begin with http://"))?;
    let address = host.trim_end_matches('/').to_socket_addrs().map_err(|error| fail(&error))?.next();
    let address = address.ok_or_else(|| fail(&"no such host"))?;
    let stream = TcpStream::connect(address).await.map_err(|error| fail(&error))?;
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| fail(&error))?;
    // Ends with the client below.
    tokio::spawn(connection);
    let channel = tower::service_fn(move |request: Request<Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await as Result<Response<_>, hyper::Error> }
    });
    let origin = url.parse().map_err(|error| fail(&error))?;
    let answer = HealthClient::with_origin(channel, origin).check(HealthCheckRequest::default()).await;
    Ok(answer.map_err(|status| fail(&status))?.into_inner().status())
}
