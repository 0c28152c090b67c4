//! Accepts connections, with TLS or on loopback without, until told to stop.

use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nullspace_proto::{Error, Result, limits};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::health_server::Health;
use tonic_reflection::server::v1::ServerReflection;

use super::Dispatch;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A silent connection is probed after this, and closed when it stays silent.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long calls may go on once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Where calls come in.
pub struct Front {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Front {
    /// Listens. Without TLS only on loopback, because keys travel in clear text.
    pub async fn bind(address: SocketAddr, tls: Option<(&Path, &Path)>) -> Result<Self> {
        let tls = tls.map(|(certificate, key)| acceptor(certificate, key)).transpose()?;
        if tls.is_none() && !address.ip().is_loopback() {
            let message = format!(
                "{address} is not loopback: API keys would travel in clear text; give --tls-cert and --tls-key, or listen on 127.0.0.1"
            );
            return Err(Error::invalid_field("listen", message));
        }
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.map_err(|error| Error::internal(format!("{address} cannot be listened on: {error}")))?;
        Ok(Self { listener, tls })
    }

    /// The address, with the port that was chosen.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|error| Error::internal(error.to_string()))
    }

    /// As clients write it.
    pub fn url(&self) -> Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.address()?))
    }

    /// Serves until `stop`; then calls have a little time to end.
    pub async fn serve<H: Health, R: ServerReflection>(self, dispatch: Dispatch<H, R>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, self.tls.clone(), dispatch.clone(), stop.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: it passes.
                    tracing::error!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

async fn connection<H: Health, R: ServerReflection>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    dispatch: Dispatch<H, R>,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was lost");
        return;
    }
    let Some(tls) = tls else { return serve(stream, dispatch, stop).await };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, dispatch, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn serve<H, R, S>(stream: S, dispatch: Dispatch<H, R>, stop: CancellationToken)
where
    H: Health,
    R: ServerReflection,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let dispatch = dispatch.clone();
        async move { Ok::<_, Infallible>(super::answer(dispatch, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::FRONT_STREAM_WINDOW)
        .initial_connection_window_size(limits::FRONT_STREAM_WINDOW * limits::FRONT_STREAMS)
        .max_concurrent_streams(limits::FRONT_STREAMS)
        .max_header_list_size(limits::MAX_HEADER_BYTES)
        .max_frame_size(limits::FRONT_FRAME_BYTES)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, connection).await {
                Ok(served) => served,
                // What is left is cut; clients attach again to the next server.
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let bad = |path: &Path, error: &dyn std::fmt::Display| {
        Error::invalid_field("tls", format!("{}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| bad(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private);
    let mut config = config.map_err(|error| bad(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
