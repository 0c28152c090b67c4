//! Standard input of a command: several clients write, each with offsets and a
//! window of its own, into one bounded queue that a task feeds to the process.
//! The window is kept for its client alone: one that keeps to it is never told to
//! wait, so what it sends behind its input (acknowledgements) is always read.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::{Buf as _, Bytes};
use nullspace_proto::{Error, Reason, Result, limits, v1::InputClosedReason};
use rustix::io::Errno;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use crate::{log::Log, spawn};

/// Standard input.
pub struct Input {
    state: Mutex<State>,
    /// The feeder waits here.
    work: Notify,
    /// Its readers are woken when input moves, for they tell their clients.
    log: Arc<Log>,
}

/// What may be queued of all clients together.
const QUEUE_BYTES: usize = limits::INPUT_CLIENTS * limits::INPUT_WINDOW;

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    queued: usize,
    /// Those with a name, the one that wrote last at the end.
    clients: Vec<Client>,
    /// No more input is taken; what is queued still goes to the process.
    closing: bool,
    closed: Option<InputClosedReason>,
}

/// A piece of a client's input.
struct Queued {
    client: Arc<str>,
    data: Bytes,
}

struct Client {
    id: Arc<str>,
    accepted: u64,
    /// How much of it is in the queue.
    queued: usize,
    close_at: Option<u64>,
}

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its input below is with the agent.
    pub offset: u64,
    /// How much more may be sent.
    pub window: u64,
    /// None of it waits to be taken by the process.
    pub drained: bool,
}

/// What became of offered input.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// All of it is in.
    Taken,
    /// The queue is full; what is left is to be offered again.
    Full,
}

impl Input {
    /// Input that was not opened: /dev/null.
    pub fn none(log: Arc<Log>) -> Arc<Self> {
        let closed = Some(InputClosedReason::NotOpened);
        Arc::new(Self { state: Mutex::new(State { closed, ..State::default() }), work: Notify::new(), log })
    }

    /// Input that is to be fed to a process.
    pub fn open(log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Notify::new(), log })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Why no more input is taken, if so.
    pub fn closed(&self) -> Option<InputClosedReason> {
        self.state().closed
    }

    /// Where `client` stands.
    pub fn accepted(&self, client: &str) -> Accepted {
        let state = self.state();
        let known = state.clients.iter().find(|known| *known.id == *client);
        let (offset, queued) = known.map_or((0, 0), |known| (known.accepted, known.queued));
        let open = state.closed.is_none() && !state.closing;
        let window = if open { room(state.queued, queued) as u64 } else { 0 };
        Accepted { offset, window, drained: queued == 0 }
    }

    /// Takes as much of `data`, which begins at `offset` of this client's
    /// input, as there is room for; `data` and `offset` move on. What was
    /// accepted before is ignored.
    pub fn offer(&self, client: &str, offset: &mut u64, data: &mut Bytes) -> Result<Offer> {
        let mut state = self.state();
        let state = &mut *state;
        let total = state.queued;
        let shut = state.closed.or(state.closing.then_some(InputClosedReason::Client));
        let known = state.client(client);
        if *offset > known.accepted {
            // What came before was refused, so this is no gap of the client's.
            if let Some(reason) = shut {
                return Err(closed(reason));
            }
            let message = format!("input continues at {}, not at {offset}", known.accepted);
            return Err(Error::new(Reason::InputGap, message).with("accepted_offset", known.accepted));
        }
        let repeated = (known.accepted - *offset).min(data.len() as u64);
        data.advance(repeated as usize);
        *offset += repeated;
        if data.is_empty() {
            return Ok(Offer::Taken);
        }
        if let Some(reason) = shut {
            return Err(closed(reason));
        }
        let taken = data.split_to(data.len().min(room(total, known.queued)));
        *offset += taken.len() as u64;
        known.queued += taken.len();
        let client = known.id.clone();
        known.accepted = *offset;
        if known.close_at.is_some_and(|at| known.accepted >= at) {
            state.closing = true;
        }
        if !taken.is_empty() {
            state.queued += taken.len();
            state.queue.push_back(Queued { client, data: taken });
            self.work.notify_one();
        }
        Ok(if data.is_empty() { Offer::Taken } else { Offer::Full })
    }

    /// Ends input once `offset` bytes of this client are in. That it is ending
    /// already is no error: the call may be a repeated one.
    pub fn close(&self, client: &str, offset: u64) -> Result<()> {
        let mut state = self.state();
        match state.closed {
            _ if state.closing => return Ok(()),
            Some(reason) => return Err(closed(reason)),
            None => {}
        }
        let known = state.client(client);
        if known.accepted >= offset {
            state.closing = true;
            self.work.notify_one();
        } else {
            known.close_at = Some(offset);
        }
        Ok(())
    }

    /// Forgets a client that had no name.
    pub fn forget(&self, client: &str) {
        self.state().clients.retain(|known| *known.id != *client);
    }

    /// The process takes nothing more.
    pub fn end(&self, reason: InputClosedReason) {
        let mut state = self.state();
        state.closed.get_or_insert(reason);
        state.queue = VecDeque::new();
        state.queued = 0;
        drop(state);
        self.log.wake();
    }

    /// Feeds a process until its input ends. The write end closes with it.
    pub async fn feed(self: Arc<Self>, stdin: OwnedFd) {
        let reason = match spawn::watch(stdin, Interest::WRITABLE) {
            Ok(stdin) => self.feed_open(&stdin).await,
            Err(_) => InputClosedReason::Process,
        };
        self.end(reason);
    }

    async fn feed_open(&self, stdin: &AsyncFd<OwnedFd>) -> InputClosedReason {
        loop {
            let next = {
                let state = self.state();
                match state.queue.front() {
                    None if state.closing => return InputClosedReason::Client,
                    next => next.map(|queued| queued.data.clone()),
                }
            };
            let Some(data) = next else {
                tokio::select! {
                    () = self.work.notified() => continue,
                    // The process closed its end while there was nothing to write.
                    _ = broken(stdin) => return InputClosedReason::Process,
                }
            };
            // Tried before asking whether it can be: `broken` has used readiness up.
            match rustix::io::write(stdin.get_ref(), &data) {
                Ok(written) => self.written(written),
                Err(Errno::AGAIN) => {
                    let Ok(mut guard) = stdin.writable().await else { return InputClosedReason::Process };
                    match guard.try_io(|stdin| Ok(rustix::io::write(stdin, &data)?)) {
                        Ok(Ok(written)) => self.written(written),
                        Ok(Err(_)) => return InputClosedReason::Process,
                        Err(_would_block) => {}
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return InputClosedReason::Process,
            }
        }
    }

    fn written(&self, written: usize) {
        let mut state = self.state();
        let state = &mut *state;
        state.queued = state.queued.saturating_sub(written);
        if let Some(front) = state.queue.front_mut() {
            if let Some(client) = state.clients.iter_mut().find(|known| known.id == front.client) {
                client.queued = client.queued.saturating_sub(written);
            }
            front.data.advance(written.min(front.data.len()));
            if front.data.is_empty() {
                state.queue.pop_front();
            }
        }
        self.log.wake();
    }
}

/// What a client may send more, when so much of all and of its own is queued.
fn room(total: usize, own: usize) -> usize {
    limits::INPUT_WINDOW.saturating_sub(own).min(QUEUE_BYTES.saturating_sub(total))
}

/// Returns when the read end of a pipe has no one left.
async fn broken(stdin: &AsyncFd<OwnedFd>) {
    loop {
        match stdin.ready(Interest::WRITABLE).await {
            Ok(guard) if guard.ready().is_write_closed() => return,
            // Writable all the time: only the next change matters.
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => return,
        }
    }
}

/// The error of input that is not taken.
fn closed(reason: InputClosedReason) -> Error {
    let why = match reason {
        InputClosedReason::NotOpened => "the command was started without open_stdin",
        InputClosedReason::Process => "the process closed its input, or has ended",
        _ => "input was closed by a client",
    };
    Error::wrong_state(Reason::InputClosed, "input", why)
}

impl State {
    /// The state of a client, which becomes the one that wrote last. Only the
    /// last ones are kept.
    fn client(&mut self, id: &str) -> &mut Client {
        let client = match self.clients.iter().position(|known| *known.id == *id) {
            Some(at) => self.clients.remove(at),
            None => {
                let named = |known: &Client| !known.id.starts_with(ANONYMOUS);
                if !id.starts_with(ANONYMOUS)
                    && self.clients.iter().filter(|known| named(known)).count() >= limits::INPUT_CLIENTS
                    && let Some(oldest) = self.clients.iter().position(named)
                {
                    self.clients.remove(oldest);
                }
                Client { id: id.into(), accepted: 0, queued: 0, close_at: None }
            }
        };
        let last = self.clients.len();
        self.clients.push(client);
        &mut self.clients[last]
    }
}

/// Begins the id of a client that gave none: no client can choose it.
pub const ANONYMOUS: char = '#';
