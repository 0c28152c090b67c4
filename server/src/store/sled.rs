//! The embedded store. One thread commits: transactions that wait together are
//! flushed and synced together.
//!
//! sled's own flush is sync_file_range, which does not survive a power loss, so
//! the database file is synced here as well. Commits are counted, in the store
//! and beside it, so that a store that lost some is known (recover.rs).
//!
//! Once a write has failed, sled refuses all others. So it is closed then, and
//! opened again for the next commit. A full disk is none of these (space.rs).

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nullspace_proto::{Error, Result};
use sled::transaction::{ConflictableTransactionError, TransactionError, TransactionalTree};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Condition, Store, Write, export::Dump, mark::Mark, space::Space};
use crate::fault::fault;

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
    database: Database,
    space: Space,
    jobs: Option<mpsc::Sender<Job>>,
    changes: broadcast::Sender<Arc<[Write]>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// sled's database, while it is open. Only the writer closes and opens it.
#[derive(Clone)]
struct Database(Arc<RwLock<Option<sled::Db>>>);

impl Database {
    fn read<T>(&self, read: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let db = open.as_ref().ok_or_else(|| Error::internal("the store is not open"))?;
        read(db).map_err(failed)
    }

    fn replace(&self, db: Option<sled::Db>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = db;
    }
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
    /// `mark` is told of commits, for which `space` has room.
    pub(super) fn open(directory: &Path, mark: Mark, space: Space) -> Result<Self> {
        let (db, file, count) = open_whole(directory)?;
        let database = Database(Arc::new(RwLock::new(Some(db))));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(WATCH_BACKLOG);
        let writer = Writer {
            directory: directory.to_owned(),
            database: database.clone(),
            file,
            space: space.clone(),
            mark,
            count,
            acknowledged: count,
            is_sound: true,
            changes: changes.clone(),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(queue));
        let writer = thread.map_err(|error| Error::internal(format!("the store's thread does not start: {error}")))?;
        Ok(Self { database, space, jobs: Some(jobs), changes, writer: Mutex::new(Some(writer)) })
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
    directory: PathBuf,
    database: Database,
    file: File,
    space: Space,
    mark: Mark,
    /// Commits so far.
    count: u64,
    /// Of which so many are known to be on disk.
    acknowledged: u64,
    /// No write has failed since the database was opened.
    is_sound: bool,
    changes: broadcast::Sender<Arc<[Write]>>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let room = self.space.for_commits(BATCH);
            let most = room.as_ref().map_or(BATCH, |room| *room);
            let (mut batch, mut next) = (Vec::new(), Some(first));
            while let Some(Job::Commit(commit)) = next {
                batch.push(commit);
                next = if batch.len() < most { queue.try_recv().ok() } else { None };
            }
            self.commit(batch, room.map(drop));
            if let Some(Job::Dump(answer)) = next {
                // The caller may have left.
                let _ = answer.send(self.dump());
            }
        }
    }

    /// Applies each commit, makes all durable, and only then answers.
    fn commit(&mut self, batch: Vec<Commit>, has_room: Result<()>) {
        if batch.is_empty() {
            return;
        }
        let ready = has_room.and_then(|()| if self.is_sound { Ok(()) } else { self.open_again() });
        let outcomes: Vec<_> =
            batch.into_iter().map(|commit| (ready.clone().and_then(|()| self.apply(&commit)), commit)).collect();
        let durable = ready.and_then(|()| self.sync());
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

    /// What is in memory only, because its write failed, goes: nobody was told
    /// that it stands.
    fn open_again(&mut self) -> Result<()> {
        self.database.replace(None);
        let (db, file, count) = open_whole(&self.directory)?;
        if count < self.acknowledged {
            return Err(Error::internal(format!(
                "the store has {count} commits, and {} were acknowledged: restart the server, which makes it again",
                self.acknowledged
            )));
        }
        self.database.replace(Some(db));
        (self.file, self.count, self.is_sound) = (file, count, true);
        tracing::warn!(commits = count, acknowledged = self.acknowledged, "the store can be written again");
        Ok(())
    }

    /// Of what is on disk.
    fn dump(&mut self) -> Result<Dump> {
        if !self.is_sound {
            self.open_again()?;
        }
        self.database.read(dump)
    }

    fn sync(&mut self) -> Result<()> {
        let written = self.database.read(|db| db.flush().map(drop)).and_then(|()| {
            self.file
                .sync_data()
                .and_then(|()| self.mark.set(self.count))
                .map_err(|error| fault(&self.directory, error))
        });
        match &written {
            Ok(()) => self.acknowledged = self.count,
            Err(error) => {
                tracing::error!(%error, "THE STORE CANNOT BE WRITTEN: nothing is made or changed until it can");
                self.is_sound = false;
            }
        }
        written
    }

    fn apply(&mut self, commit: &Commit) -> Result<bool> {
        let count = self.count + 1;
        let change = |tree: &TransactionalTree| {
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
        };
        let is_changed = self.database.read(|db| match db.transaction(change) {
            Ok(()) => Ok(true),
            Err(TransactionError::Abort(())) => Ok(false),
            Err(TransactionError::Storage(error)) => Err(error),
        })?;
        self.count += u64::from(is_changed);
        Ok(is_changed)
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

/// Opens a store, with the file that is synced and the count of its commits.
fn open_whole(directory: &Path) -> Result<(sled::Db, File, u64)> {
    let db = open(directory).map_err(failed)?;
    let file = directory.join("db");
    let opened = File::open(&file).map_err(|error| fault(&file, error))?;
    let count = count(&db).map_err(failed)?;
    Ok((db, opened, count))
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

fn failed(error: sled::Error) -> Error {
    match error {
        sled::Error::Io(error) => fault(Path::new("the store"), error),
        error => Error::internal(format!("the store failed: {error}")),
    }
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
        let value = self.database.read(|db| db.get(key))?;
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
        let entries = |db: &sled::Db| {
            let begin = |entry: &sled::Result<(sled::IVec, sled::IVec)>| {
                entry.as_ref().map_or(true, |(key, _)| key.starts_with(prefix.as_bytes()))
            };
            let entries = db.range(start..).take(limit).take_while(begin);
            entries
                .map(|entry| entry.map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value.to_vec())))
                .collect()
        };
        self.database.read(entries)
    }

    fn check_room(&self) -> Result<()> {
        self.space.check()
    }

    fn watch(&self) -> broadcast::Receiver<Arc<[Write]>> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

    use super::*;

    struct Disk(PathBuf);

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }

    async fn put(store: &SledStore, n: u32) -> Result<bool> {
        store.commit(vec![], vec![Write::Put(format!("n/{n:06}"), vec![7; 1_000])]).await
    }

    /// Where nobody looks for room before, so that writes fail.
    #[tokio::test]
    async fn a_store_that_could_not_be_written_is_opened_again() {
        let directory = crate::tests::temporary_directory("unwritten");
        let disk = Disk(directory.path().to_owned());
        mount("store", &disk.0, "tmpfs", MountFlags::empty(), Some(c"size=4m")).unwrap();
        let (records, mark, elsewhere) = (disk.0.join("store"), disk.0.join("mark"), std::env::temp_dir());
        std::fs::create_dir(&records).unwrap();
        let open = || {
            let space = Space::of(&elsewhere, &elsewhere.join("no/such/file"));
            SledStore::open(&records, Mark::open(&mark).unwrap(), space).unwrap()
        };
        let store = open();
        let mut acknowledged = 0;
        while put(&store, acknowledged).await.is_ok_and(|done| done) {
            acknowledged += 1;
            assert!(acknowledged < 100_000, "the disk is never full");
        }
        assert!(put(&store, acknowledged).await.is_err());
        // More room than it had.
        mount_remount(&disk.0, MountFlags::empty(), c"size=64m").unwrap();
        for n in acknowledged..acknowledged + 100 {
            assert!(put(&store, n).await.unwrap());
        }
        drop(store);
        let found = open().scan("n/", None, usize::MAX).await.unwrap();
        assert_eq!(found.len() as u32, acknowledged + 100);
    }
}
