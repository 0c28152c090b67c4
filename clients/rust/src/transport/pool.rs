//! Which call goes on which connection.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use http::Uri;
use tonic::client::Grpc;

use super::{
    line::{Endpoint, Line, Service, Shape},
    tls::Tls,
};
use crate::{
    config::Config,
    error::{Error, Result},
    limits::{NARROW_STREAMS, NARROW_WINDOW, UNARY_STREAMS, UNARY_WINDOW, WIDE_STREAMS, WIDE_WINDOW},
};

const UNARY: Shape = Shape { streams: UNARY_STREAMS, window: UNARY_WINDOW };
const WIDE: Shape = Shape { streams: WIDE_STREAMS, window: WIDE_WINDOW };
const NARROW: Shape = Shape { streams: NARROW_STREAMS, window: NARROW_WINDOW };

/// All connections to one server.
///
/// A stream that nobody reads holds on to its window, so streams never share a
/// connection with single calls. The first few share one with large windows;
/// the rest go where a hundred share small ones.
pub(crate) struct Pool {
    origin: Uri,
    unary: Arc<Lines>,
    wide: Arc<Lines>,
    narrow: Arc<Lines>,
    reached: AtomicBool,
}

impl Pool {
    pub fn new(config: &Config) -> Result<Self> {
        let tls = config.target.secure.then(|| Tls::new(config)).transpose()?;
        let origin = config.target.url.parse().map_err(|_| Error::invalid_field("url", "is no URL"))?;
        let endpoint = Arc::new(Endpoint { target: config.target.clone(), tls });
        let lines = |shape, most| Arc::new(Lines { endpoint: endpoint.clone(), shape, most, lines: Mutex::default() });
        Ok(Self {
            origin,
            unary: lines(UNARY, usize::MAX),
            wide: lines(WIDE, 1),
            narrow: lines(NARROW, usize::MAX),
            reached: AtomicBool::new(false),
        })
    }

    /// Room for a single call.
    pub fn unary(&self) -> Lease {
        self.unary.take_or_add(&self.origin)
    }

    /// Room for a stream.
    pub fn stream(&self) -> Lease {
        self.wide.take(&self.origin).unwrap_or_else(|| self.narrow.take_or_add(&self.origin))
    }

    /// Whether the server has answered at least once.
    pub fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Learns from an outcome whether the server can be reached.
    pub fn note<T>(&self, outcome: &Result<T>) {
        if outcome.as_ref().map_or_else(Error::is_from_server, |_| true) {
            self.reached.store(true, Ordering::Relaxed);
        }
    }
}

/// Connections of one shape.
struct Lines {
    endpoint: Arc<Endpoint>,
    shape: Shape,
    most: usize,
    lines: Mutex<Vec<Used>>,
}

struct Used {
    line: Arc<Line>,
    streams: u32,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<Used>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, origin: &Uri) -> Option<Lease> {
        let mut lines = self.lock();
        let free = lines.iter().position(|used| used.streams < self.shape.streams);
        if free.is_none() && lines.len() >= self.most {
            return None;
        }
        Some(self.lease(&mut lines, free, origin))
    }

    fn take_or_add(self: &Arc<Self>, origin: &Uri) -> Lease {
        let mut lines = self.lock();
        let free = lines.iter().position(|used| used.streams < self.shape.streams);
        self.lease(&mut lines, free, origin)
    }

    fn lease(self: &Arc<Self>, lines: &mut Vec<Used>, free: Option<usize>, origin: &Uri) -> Lease {
        let index = free.unwrap_or_else(|| {
            lines.push(Used { line: Arc::new(Line::new(self.endpoint.clone(), self.shape)), streams: 0 });
            lines.len() - 1
        });
        lines[index].streams += 1;
        Lease { lines: self.clone(), line: lines[index].line.clone(), origin: origin.clone() }
    }

    /// One idle connection is kept for the next call.
    fn give_back(&self, line: &Arc<Line>) {
        let mut lines = self.lock();
        if let Some(used) = lines.iter_mut().find(|used| Arc::ptr_eq(&used.line, line)) {
            used.streams -= 1;
        }
        let mut idle = 0;
        lines.retain(|used| {
            idle += usize::from(used.streams == 0);
            used.streams > 0 || idle <= 1
        });
    }
}

/// Room on a connection, given back when it is dropped.
pub(crate) struct Lease {
    lines: Arc<Lines>,
    line: Arc<Line>,
    origin: Uri,
}

impl Lease {
    /// gRPC on it.
    pub fn grpc(&self) -> Grpc<Service> {
        let most = nullspace_proto::limits::MAX_MESSAGE_BYTES;
        let grpc = Grpc::with_origin(Service(self.line.clone()), self.origin.clone());
        grpc.max_decoding_message_size(most).max_encoding_message_size(most)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lines.give_back(&self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Target;

    fn pool() -> Pool {
        let target = Target { url: "http://localhost:1".into(), host: "localhost".into(), port: 1, secure: false };
        let authorization = "Bearer key".parse().unwrap();
        Pool::new(&Config { target, authorization, ca_cert: None }).unwrap()
    }

    #[test]
    fn streams_spread_over_lines_which_end_when_idle() {
        let pool = pool();
        let counts = |lines: &Lines| lines.lock().iter().map(|used| used.streams).collect::<Vec<_>>();
        let streams: Vec<Lease> = (0..300).map(|_| pool.stream()).collect();
        assert_eq!(counts(&pool.wide), [WIDE_STREAMS]);
        assert_eq!(counts(&pool.narrow), [100, 100, 300 - 200 - WIDE_STREAMS]);
        let call = pool.unary();
        assert_eq!(counts(&pool.unary), [1]);
        drop((streams, call));
        assert_eq!([counts(&pool.wide), counts(&pool.narrow), counts(&pool.unary)], [vec![0], vec![0], vec![0]]);
    }

    #[test]
    fn windows_of_all_streams_fit_into_the_connections() {
        for shape in [UNARY, WIDE, NARROW] {
            let all = u64::from(shape.streams) * u64::from(shape.window);
            // The largest window that HTTP/2 knows.
            assert!(all < 1 << 31, "{shape:?}");
        }
    }
}
