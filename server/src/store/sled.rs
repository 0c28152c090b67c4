//! The embedded store. One thread commits: transactions that wait together are
//! flushed and synced together.
//!
//! sled's own flush is sync_file_range, which does not survive a power loss, so
//! the database file is synced here as well. Commits are counted, in the store
//! and beside it, so that a store that lost some is known (recover.rs).

use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nullspace_proto::{Error, Result};
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Condition, Store, Write, export::Dump, recover::Mark};

/// How many commits there were, as a big-endian u64.
pub(super) const COMMITS: &str = "meta/commits";

/// Commits that may wait.
const QUEUE: usize = 1_024;
/// Commits that are made durable by one sync at most.
const BATCH: usize = 256;
/// Changes that a watcher may be behind.
const WATCH_BACKLOG: usize = 4_096;
/// How long a lock is waited for, and how often it is tried.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// Memory for pages.
const CACHE_BYTES: u64 = 32 << 20;

/// A [`Store`] in a directory.
pub struct SledStore {
    db: sled::Db,
    jobs: Option<mpsc::Sender<Job>>,
    changes: broadcast::Sender<Arc<[Write]>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

enum Job {
    Commit(Commit),
    /// Between commits, so that it is of one moment.
    Dump(oneshot::Sender<Result<Dump>>),
}

struct Commit {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    answer: oneshot::Sender<Result<bool>>,
}

impl SledStore {
    /// Opens or makes the store in `directory`. Fails if another process has it.
    /// `mark` is told of commits.
    pub(super) fn open(directory: &Path, mark: Mark) -> Result<Self> {
        let fail = |error: &dyn std::fmt::Display| {
            Error::internal(format!("the store {} does not open: {error}", directory.display()))
        };
        let db = open(directory).map_err(|e| fail(&e))?;
        let count = count(&db).map_err(|e| fail(&e))?;
        let file = File::open(directory.join("db")).map_err(|e| fail(&e))?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let writer = Writer { db: db.clone(), file, mark, count, changes: changes.clone() };
        let writer =
            std::thread::Builder::new().name("store".into()).spawn(move || writer.run(queue)).map_err(|e| fail(&e))?;
        Ok(Self { db, jobs: Some(jobs), changes, writer: Mutex::new(Some(writer)) })
    }
}

impl SledStore {
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let closed = || Error::internal("the store is closed");
        let (answer, outcome) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(job(answer)).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.jobs = None;
        let writer = self.writer.get_mut().map(Option::take);
        if let Ok(Some(writer)) = writer {
            // Its queue is closed, so it ends after what it holds.
            let _ = writer.join();
        }
    }
}

struct Writer {
    db: sled::Db,
    file: File,
    mark: Mark,
    /// Commits so far.
    count: u64,
    changes: broadcast::Sender<Arc<[Write]>>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut next) = (Vec::new(), Some(first));
            while let Some(Job::Commit(commit)) = next {
                batch.push(commit);
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            self.commit(batch);
            if let Some(Job::Dump(answer)) = next {
                // The caller may have left.
                let _ = answer.send(dump(&self.db).map_err(|error| failed(&error)));
            }
        }
    }

    /// Applies each commit, makes all durable, and only then answers.
    fn commit(&mut self, batch: Vec<Commit>) {
        if batch.is_empty() {
            return;
        }
        let outcomes: Vec<_> = batch.into_iter().map(|commit| (self.apply(&commit), commit)).collect();
        let durable = self.sync();
        for (outcome, commit) in outcomes {
            let outcome = durable.clone().and(outcome);
            if matches!(outcome, Ok(true)) {
                // Nobody watches: that is no fault.
                let _ = self.changes.send(commit.writes.into());
            }
            // The caller may have left; the commit stands.
            let _ = commit.answer.send(outcome);
        }
    }

    fn sync(&self) -> Result<()> {
        self.db.flush().map_err(|error| Error::internal(format!("the store was not flushed: {error}")))?;
        self.file.sync_data().map_err(|error| Error::internal(format!("the store was not synced: {error}")))?;
        self.mark.set(self.count).map_err(|error| Error::internal(format!("commits were not counted: {error}")))
    }

    fn apply(&mut self, commit: &Commit) -> Result<bool> {
        let count = self.count + 1;
        let outcome = self.db.transaction(|tree| {
            if !holds(tree, &commit.conditions)? {
                return Err(ConflictableTransactionError::Abort(()));
            }
            for write in &commit.writes {
                match write {
                    Write::Put(key, value) => tree.insert(key.as_bytes(), value.as_slice())?,
                    Write::Delete(key) => tree.remove(key.as_bytes())?,
                };
            }
            tree.insert(COMMITS, &count.to_be_bytes())?;
            Ok(())
        });
        match outcome {
            Ok(()) => {
                self.count = count;
                Ok(true)
            }
            Err(TransactionError::Abort(())) => Ok(false),
            Err(TransactionError::Storage(error)) => Err(failed(&error)),
        }
    }
}

fn configured(directory: &Path) -> sled::Config {
    sled::Config::new().path(directory).cache_capacity(CACHE_BYTES).flush_every_ms(None)
}

/// Opens the store in `directory`. One that was closed a moment ago is waited
/// for: sled's own threads give its lock back a little later.
pub(super) fn open(directory: &Path) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match configured(directory).open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && begun.elapsed() < LOCK_LIMIT => {
                std::thread::sleep(LOCK_RETRY);
            }
            opened => return opened,
        }
    }
}

/// sled says of a lock that it is an error of no kind.
fn is_locked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Other)
}

/// Everything, with the count of commits.
pub(super) fn dump(db: &sled::Db) -> sled::Result<Dump> {
    let entries = db.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())));
    Ok(Dump { commits: count(db)?, entries: entries.collect::<sled::Result<_>>()? })
}

/// A store of an earlier release has not counted.
fn count(db: &sled::Db) -> sled::Result<u64> {
    let value = db.get(COMMITS)?;
    Ok(value.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))).unwrap_or(0))
}

fn failed(error: &sled::Error) -> Error {
    Error::internal(format!("the store failed: {error}"))
}

fn holds(tree: &TransactionalTree, conditions: &[Condition]) -> Result<bool, ConflictableTransactionError<()>> {
    for condition in conditions {
        let held = match condition {
            Condition::Absent(key) => tree.get(key.as_bytes())?.is_none(),
            Condition::Equals(key, value) => tree.get(key.as_bytes())?.is_some_and(|found| found == value.as_slice()),
        };
        if !held {
            return Ok(false);
        }
    }
    Ok(true)
}

#[tonic::async_trait]
impl Store for SledStore {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let value = self.db.get(key).map_err(|error| failed(&error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<bool> {
        self.ask(|answer| Job::Commit(Commit { conditions, writes, answer })).await
    }

    async fn dump(&self) -> Result<Dump> {
        self.ask(Job::Dump).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let start = after.map_or_else(|| prefix.as_bytes().to_vec(), |after| [after.as_bytes(), b"\0"].concat());
        let mut entries = Vec::new();
        for entry in self.db.range(start..).take(limit) {
            let (key, value) = entry.map_err(|error| failed(&error))?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            entries.push((String::from_utf8_lossy(&key).into_owned(), value.to_vec()));
        }
        Ok(entries)
    }

    fn watch(&self) -> broadcast::Receiver<Arc<[Write]>> {
        self.changes.subscribe()
    }
}
