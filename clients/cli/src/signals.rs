//! Signals that this process gets and the program in the sandbox is to have.

use std::{cell::Cell, io, time::Duration};

use nullspace::{Command, Reason, Signal};
use tokio::{
    signal::unix::{self, SignalKind},
    sync::Notify,
    time::timeout,
};

use crate::output::one_line;

/// How long a signal waits for a program that has not begun, and an attempt to
/// end one whose user is leaving.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Whether the program has begun.
#[derive(Debug, Default)]
pub struct Begun {
    begun: Cell<bool>,
    changed: Notify,
}

impl Begun {
    /// It has.
    pub fn set(&self) {
        self.begun.set(true);
        self.changed.notify_one();
    }

    async fn wait(&self) {
        while !self.begun.get() {
            self.changed.notified().await;
        }
    }
}

/// The signals that are passed on.
pub struct Signals {
    hang_up: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Catches them from now on.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            hang_up: unix::signal(SignalKind::hangup())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            quit: unix::signal(SignalKind::quit())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hang_up.recv() => Signal::HUP,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }

    /// Passes each on. Ends only with one that came before the program had begun,
    /// when the program does not begin: then it is for this process.
    pub async fn pass_on(mut self, command: &Command, begun: &Begun) -> Signal {
        loop {
            let signal = self.next().await;
            if timeout(LAST_WORD, begun.wait()).await.is_err() {
                end(command).await;
                return signal;
            }
            match command.signal(signal).await {
                Err(error) if error.reason() != Reason::CommandEnded => {
                    eprintln!("nullspace: the signal was not passed on: {}", one_line(error.message()));
                }
                _ => {}
            }
        }
    }
}

/// Ends a program whose output nobody takes any more. Nobody would ever know how
/// it ends.
pub async fn end(command: &Command) {
    // There is no more to be done where it fails.
    let _ = timeout(LAST_WORD, command.signal(Signal::KILL)).await;
}
