//! One answer per idempotency key. A key belongs to an owner and a method; the
//! first call that brings it does the work, calls beside it wait for its
//! answer, and later calls get it again for 24 h.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, Mac};
use nullspace_proto::{Error, Reason, Result, limits};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::watch;

use super::{Store, Write, decode, scan_all};

const PREFIX: &str = "idempotency/";
/// How long a call waits for the one that does its work.
const WAIT: Duration = Duration::from_secs(120);

/// The outcomes of keyed calls.
pub struct Idempotency {
    store: Arc<dyn Store>,
    digest_key: [u8; 32],
    running: Arc<Mutex<HashMap<String, watch::Receiver<()>>>>,
}

/// What to do with a call.
pub enum Begin {
    /// It was answered before, with this.
    Answered(Vec<u8>),
    /// It is the first; commit its outcome with [`Ticket::outcome`].
    First(Ticket),
}

/// The right to do a keyed call's work. Dropping it lets a waiting call try.
pub struct Ticket {
    entry: Option<Entry>,
}

struct Entry {
    key: String,
    digest: String,
    running: Arc<Mutex<HashMap<String, watch::Receiver<()>>>>,
    _done: watch::Sender<()>,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    digest: String,
    answer: Vec<u8>,
    at: SystemTime,
}

impl Idempotency {
    /// Over a store, with a key of the server's own for digests: what a caller
    /// sent cannot be guessed from them.
    pub fn new(store: Arc<dyn Store>, digest_key: [u8; 32]) -> Self {
        Self { store, digest_key, running: Arc::default() }
    }

    /// Decides what to do with a call. `canonical` is the request, decoded and
    /// encoded again with its key cleared. An empty `key` is always first.
    pub async fn begin(&self, owner: &str, method: &str, key: &str, canonical: &[u8]) -> Result<Begin> {
        if key.is_empty() {
            return Ok(Begin::First(Ticket { entry: None }));
        }
        let digest = self.digest(canonical);
        let key = format!("{PREFIX}{owner}/{method}/{key}");
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            if let Some(bytes) = self.store.get(&key).await? {
                return self.answer(decode(&key, &bytes)?, &digest);
            }
            let mut first = match self.enter(&key, &digest) {
                // The outcome may have been committed between the look and the entry.
                Ok(ticket) => match self.store.get(&key).await? {
                    Some(bytes) => return self.answer(decode(&key, &bytes)?, &digest),
                    None => return Ok(Begin::First(ticket)),
                },
                Err(first) => first,
            };
            // Ends with an error when the first call is over; that is the signal.
            let ended = tokio::time::timeout_at(deadline, first.changed()).await;
            ended.map_err(|_| Error::new(Reason::CallInProgress, "the first call with this key still runs"))?.ok();
        }
    }

    fn enter(&self, key: &str, digest: &str) -> Result<Ticket, watch::Receiver<()>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = running.get(key) {
            return Err(first.clone());
        }
        let (done, first) = watch::channel(());
        running.insert(key.to_owned(), first);
        let entry =
            Entry { key: key.to_owned(), digest: digest.to_owned(), running: self.running.clone(), _done: done };
        Ok(Ticket { entry: Some(entry) })
    }

    fn answer(&self, outcome: Outcome, digest: &str) -> Result<Begin> {
        if outcome.digest == digest {
            return Ok(Begin::Answered(outcome.answer));
        }
        let age = outcome.at.elapsed().unwrap_or_default().as_secs();
        let message = format!("the idempotency key was used {age} s ago with another request");
        Err(Error::new(Reason::IdempotencyKeyReused, message).with("first_used_seconds_ago", age))
    }

    fn digest(&self, canonical: &[u8]) -> String {
        // A MAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.digest_key) else { return String::new() };
        mac.update(canonical);
        hex::encode(mac.finalize().into_bytes())
    }

    /// Forgets outcomes that are older than the contract keeps them.
    pub async fn forget_old(&self) -> Result<()> {
        let outcomes: Vec<(String, Outcome)> = scan_all(&*self.store, PREFIX).await?;
        let old =
            outcomes.into_iter().filter(|(_, outcome)| outcome.at.elapsed().is_ok_and(|age| age > limits::RETENTION));
        let writes: Vec<_> = old.map(|(key, _)| Write::Delete(key)).collect();
        if !writes.is_empty() {
            self.store.commit(vec![], writes).await?;
        }
        Ok(())
    }
}

impl Ticket {
    /// The write that records the call's answer, for the same commit as its work.
    pub fn outcome(&self, answer: Vec<u8>) -> Result<Option<Write>> {
        let Some(entry) = &self.entry else { return Ok(None) };
        let outcome = Outcome { digest: entry.digest.clone(), answer, at: SystemTime::now() };
        Write::put_record(entry.key.clone(), &outcome).map(Some)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A request without its idempotency key, encoded the same whoever sent it.
pub fn canonical<M: prost::Message + Clone>(request: &M, clear_key: impl FnOnce(&mut M)) -> Vec<u8> {
    let mut request = request.clone();
    clear_key(&mut request);
    request.encode_to_vec()
}
