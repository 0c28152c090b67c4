//! How long to go on when a server cannot be reached. No clock is waited on here.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    limits::{
        BACKOFF_FIRST, BACKOFF_MAX, CALL_PATIENCE, CREATE_ATTEMPTS, CREATE_BACKOFF_FIRST, CREATE_BACKOFF_MAX,
        STREAM_CONNECTED, STREAM_PATIENCE, STREAM_SETTLED,
    },
};

/// Attempts at one call, within the time that it may take in all.
#[derive(Debug)]
pub(crate) struct CallRetries {
    deadline: Instant,
    repeatable: bool,
    attempts_left: Option<u32>,
    pause: Duration,
    longest_pause: Duration,
    give_up: Instant,
}

impl CallRetries {
    /// For a call that may take `timeout`.
    pub fn new(timeout: Duration, repeatable: bool) -> Self {
        let now = Instant::now();
        Self {
            deadline: now + timeout,
            repeatable,
            attempts_left: None,
            pause: BACKOFF_FIRST,
            longest_pause: BACKOFF_MAX,
            give_up: now + timeout.min(CALL_PATIENCE),
        }
    }

    /// For a creation, whose server may be busy with it for longer.
    pub fn creation(timeout: Duration) -> Self {
        let call = Self::new(timeout, true);
        Self {
            attempts_left: Some(CREATE_ATTEMPTS),
            pause: CREATE_BACKOFF_FIRST,
            longest_pause: CREATE_BACKOFF_MAX,
            give_up: call.deadline,
            ..call
        }
    }

    /// For a transfer that begins anew each time and has no limit unless the
    /// caller gave one.
    pub fn transfer(timeout: Option<Duration>, repeatable: bool) -> Self {
        Self::new(timeout.unwrap_or(CALL_PATIENCE), repeatable)
    }

    /// Until when the call is to end.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How long to wait before the next attempt, or `error` itself where there is none.
    ///
    /// A server that was never `reached` is most likely not there at all; the
    /// caller learns of it at once.
    pub fn pause(&mut self, error: Error, reached: bool) -> Result<Duration> {
        if !self.repeatable || !error.is_lost() || !(reached || error.is_from_server()) {
            return Err(error);
        }
        if let Some(left) = &mut self.attempts_left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(error);
            }
        }
        let pause = self.pause.max(error.retry_after().unwrap_or_default());
        self.pause = (self.pause * 2).min(self.longest_pause);
        if Instant::now() + pause >= self.give_up { Err(error) } else { Ok(pause) }
    }
}

/// Attempts to attach again, as long as the server was not away for too long.
#[derive(Debug)]
pub(crate) struct StreamRetries {
    away_since: Option<Instant>,
    settled_at: Option<Instant>,
    pause: Duration,
}

impl StreamRetries {
    /// Before the first stream.
    pub fn new() -> Self {
        Self { away_since: None, settled_at: None, pause: BACKOFF_FIRST }
    }

    /// A stream begins, of which the first sign may take long. One that lasts was connected.
    pub fn opened(&mut self) {
        self.settled_at = Some(Instant::now() + STREAM_CONNECTED);
    }

    /// The command was reached. That alone is no progress: it may break on the next frame, always.
    pub fn joined(&mut self) {
        self.settled_at = Some(Instant::now() + STREAM_SETTLED);
        self.pause = BACKOFF_FIRST;
    }

    /// The stream lives: it brought something.
    pub fn progress(&mut self) {
        if self.away_since.take().is_some() {
            self.pause = BACKOFF_FIRST;
        }
    }

    /// How long to wait before the next attempt, or `error` itself where there is none.
    pub fn pause(&mut self, error: Error, reached: bool) -> Result<Duration> {
        if !error.is_lost() || !(reached || error.is_from_server()) {
            return Err(error);
        }
        let now = Instant::now();
        let settled = self.settled_at.take().is_some_and(|at| now >= at);
        let since = *self.away_since.get_or_insert(now);
        let since = if settled { now } else { since };
        self.away_since = Some(since);
        if now - since >= STREAM_PATIENCE {
            return Err(error);
        }
        let pause = self.pause.max(error.retry_after().unwrap_or_default().min(BACKOFF_MAX));
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use tonic::{Code, Status};

    use super::*;
    use crate::Reason;

    fn lost() -> Error {
        Error::transport("cut")
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_while_its_time_lasts() {
        let mut retries = CallRetries::new(Duration::from_secs(30), true);
        let mut waited = Duration::ZERO;
        while let Ok(pause) = retries.pause(lost(), true) {
            assert!(pause <= BACKOFF_MAX);
            waited += pause;
            advance(pause).await;
        }
        assert!(waited < CALL_PATIENCE && waited > CALL_PATIENCE - BACKOFF_MAX, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_safe_or_not_lost_is_not_repeated() {
        assert!(CallRetries::new(Duration::from_secs(30), false).pause(lost(), true).is_err());
        let refused = Error::new(Reason::SandboxNotFound, Code::NotFound, "gone");
        assert!(CallRetries::new(Duration::from_secs(30), true).pause(refused.clone(), true).is_err());
        assert!(StreamRetries::new().pause(refused, true).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_never_there_is_told_at_once() {
        assert!(CallRetries::new(Duration::from_secs(30), true).pause(lost(), false).is_err());
        assert!(StreamRetries::new().pause(lost(), false).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_own_pause_is_kept() {
        let sent = nullspace_proto::Error::new(nullspace_proto::Reason::SandboxNotReady, "soon");
        let sent = sent.retry_after(Duration::from_secs(4));
        let pause = CallRetries::new(Duration::from_secs(30), true).pause(Status::from(sent).into(), false).unwrap();
        assert_eq!(pause, Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_gives_up_after_its_patience_without_progress() {
        let mut retries = StreamRetries::new();
        let begun = Instant::now();
        while let Ok(pause) = retries.pause(lost(), true) {
            retries.joined(); // Joined, and broken before anything came.
            advance(pause).await;
        }
        let patience = begun.elapsed();
        assert!(patience >= STREAM_PATIENCE && patience < STREAM_PATIENCE + BACKOFF_MAX * 2, "{patience:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_and_time_spent_well_renew_a_streams_patience() {
        let mut retries = StreamRetries::new();
        for round in 0..200 {
            if round % 2 == 0 {
                retries.progress();
            } else {
                retries.joined();
                advance(STREAM_SETTLED).await;
            }
            let pause = retries.pause(lost(), true).unwrap();
            advance(pause).await;
        }
    }
}
