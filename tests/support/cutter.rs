//! A way to a server that can be cut: a TCP relay on loopback.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use crate::Result;

/// Relays connections to a server, and cuts them when told to.
pub struct Cutter {
    address: SocketAddr,
    way: Arc<Way>,
    accepting: AbortHandle,
}

struct Way {
    /// Where it leads; another after a server has started again.
    target: Mutex<String>,
    connections: Mutex<JoinSet<()>>,
    cuts: AtomicUsize,
}

impl Cutter {
    /// A way to the server at `url`.
    pub async fn to(url: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let way = Arc::new(Way { target: Mutex::new(host(url)), connections: Mutex::default(), cuts: 0.into() });
        let accepting = tokio::spawn(way.clone().accept(listener)).abort_handle();
        Ok(Self { address, way, accepting })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections lead to the server at `url`.
    pub fn lead_to(&self, url: &str) {
        *self.way.target.lock().unwrap_or_else(PoisonError::into_inner) = host(url);
    }

    /// Ends all connections, as a network does: without a word.
    pub fn cut(&self) {
        let mut connections = self.way.connections();
        while connections.try_join_next().is_some() {}
        if connections.is_empty() {
            return;
        }
        connections.abort_all();
        self.way.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// How often there was something to cut.
    pub fn cuts(&self) -> usize {
        self.way.cuts.load(Ordering::Relaxed)
    }

    /// Cuts every `pause` while `work` runs.
    pub async fn every<T>(&self, pause: Duration, work: impl Future<Output = T>) -> T {
        let cutting = async {
            loop {
                tokio::time::sleep(pause).await;
                self.cut();
            }
        };
        tokio::select! {
            done = work => done,
            () = cutting => unreachable!("cutting has no end"),
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepting.abort();
        self.way.connections().abort_all();
    }
}

impl Way {
    fn connections(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        // Ends with the listener.
        while let Ok((client, _)) = listener.accept().await {
            let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.connections().spawn(async move {
                // A server that is away or a client that left: both ends see it.
                let _ = relay(client, &target).await;
            });
        }
    }
}

async fn relay(mut client: TcpStream, target: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, 256 << 10, 256 << 10).await?;
    Ok(())
}

fn host(url: &str) -> String {
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}
