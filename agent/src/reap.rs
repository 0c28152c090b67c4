//! Children of this process: who starts them, who reaps them, who is told. One
//! for the whole process, because `wait4` takes any child.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use rustix::io::Errno;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::Instant,
};

use crate::spawn::{self, Launch, Reaped, SpawnError, Stack};

/// A child of ours that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How, and what it used.
    pub reaped: Reaped,
    /// When, on the clock that measures.
    pub at: Instant,
    /// When, on the clock on the wall.
    pub wall: SystemTime,
}

struct Children {
    stack: Option<Stack>,
    waiting: HashMap<i32, oneshot::Sender<Ended>>,
}

/// Held from before a child is made until it is in the map, so that no child is
/// reaped that is not yet known; and while one is signalled, so that its id is
/// still its own.
static CHILDREN: Mutex<Option<Children>> = Mutex::new(None);

fn children() -> MutexGuard<'static, Option<Children>> {
    let mut guard = CHILDREN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    guard.get_or_insert_with(|| Children { stack: None, waiting: HashMap::new() });
    guard
}

/// Starts a program; the receiver hears of its end.
pub fn start(launch: &Launch<'_>) -> Result<(i32, oneshot::Receiver<Ended>), SpawnError> {
    let mut guard = children();
    let Some(children) = guard.as_mut() else { unreachable!("`children` fills it") };
    let pid = spawn::spawn(launch, children.stack.get_or_insert_with(Stack::new))?;
    let (sender, receiver) = oneshot::channel();
    children.waiting.insert(pid, sender);
    Ok((pid, receiver))
}

/// Signals the process group of a child that has not been reaped. ESRCH: it has.
pub fn signal_group(pid: i32, signal: i32) -> Result<(), Errno> {
    let guard = children();
    match guard.as_ref().is_some_and(|children| children.waiting.contains_key(&pid)) {
        true => spawn::signal_group(pid, signal),
        false => Err(Errno::SRCH),
    }
}

/// Reaps every child that ends, those that were inherited too. Never returns.
pub async fn run() -> std::io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        reap_all();
        ended.recv().await;
    }
}

fn reap_all() {
    let mut guard = children();
    let Some(children) = guard.as_mut() else { return };
    while let Some(reaped) = spawn::reap() {
        if let Some(waiting) = children.waiting.remove(&reaped.pid) {
            // Nobody listens any more when the service was stopped.
            let _ = waiting.send(Ended { reaped, at: Instant::now(), wall: SystemTime::now() });
        }
    }
}
