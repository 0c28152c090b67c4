//! Records of the server, as bytes under keys. What `commit` has acknowledged
//! is on disk.

pub mod export;
pub mod idempotency;
mod mark;
pub mod recover;
pub mod sled;
mod space;

use std::sync::Arc;

use nullspace_proto::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::broadcast;

use self::export::Dump;

/// A place for records: several keys change together or not at all.
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one value.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Applies `writes` if every condition holds. `false`: one did not, and
    /// nothing was written.
    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<bool>;

    /// Up to `limit` entries whose keys begin with `prefix` and come after
    /// `after`, in the order of their keys.
    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>>;

    /// Everything, as of one moment between two commits.
    async fn dump(&self) -> Result<Dump>;

    /// Fails where there is no room for anything new. What only changes or ends
    /// what there is does not ask: for that some room is kept.
    fn check_room(&self) -> Result<()>;

    /// Changes from now on, in the order of their commits. A receiver that falls
    /// behind is told how many it missed, and blocks no writer.
    fn watch(&self) -> broadcast::Receiver<Arc<[Write]>>;
}

/// What must hold for a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent(String),
    /// The key has this value.
    Equals(String, Vec<u8>),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a value.
    Put(String, Vec<u8>),
    /// Removes a key, if it is there.
    Delete(String),
}

impl Write {
    /// Sets a value to a record.
    pub fn put_record(key: impl Into<String>, record: &impl Serialize) -> Result<Self> {
        Ok(Self::Put(key.into(), encode(record)?))
    }
}

/// A record as JSON, the same for the same record.
pub fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|error| Error::internal(format!("a record cannot be encoded: {error}")))
}

/// Decodes what `encode` made.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::internal(format!("record {key} cannot be read: {error}")))
}

/// Reads every record below a prefix.
pub async fn scan_all<T: DeserializeOwned>(store: &dyn Store, prefix: &str) -> Result<Vec<(String, T)>> {
    const PAGE: usize = 1_000;
    let mut records = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.scan(prefix, after.as_deref(), PAGE).await?;
        let full = page.len() == PAGE;
        for (key, bytes) in page {
            records.push((key.clone(), decode(&key, &bytes)?));
            after = Some(key);
        }
        if !full {
            return Ok(records);
        }
    }
}

#[cfg(test)]
mod tests {
    //! The test set of the trait, run on each implementation.

    use super::*;

    async fn conformance(store: &dyn Store) -> Result<()> {
        let mut changes = store.watch();
        assert_eq!(store.get("a/1").await?, None);

        let writes = vec![Write::Put("a/1".into(), b"one".to_vec()), Write::Put("a/2".into(), b"two".to_vec())];
        assert!(store.commit(vec![Condition::Absent("a/1".into())], writes.clone()).await?);
        assert_eq!(changes.recv().await.ok().as_deref(), Some(writes.as_slice()));

        // A condition that fails leaves everything as it was.
        let other = vec![Write::Put("a/1".into(), b"other".to_vec()), Write::Delete("a/2".into())];
        assert!(!store.commit(vec![Condition::Absent("a/1".into())], other.clone()).await?);
        assert!(!store.commit(vec![Condition::Equals("a/2".into(), b"three".to_vec())], other.clone()).await?);
        assert_eq!(store.get("a/1").await?, Some(b"one".to_vec()));
        assert_eq!(store.get("a/2").await?, Some(b"two".to_vec()));

        assert!(store.commit(vec![Condition::Equals("a/2".into(), b"two".to_vec())], other).await?);
        assert_eq!(store.get("a/1").await?, Some(b"other".to_vec()));
        assert_eq!(store.get("a/2").await?, None);

        let many = (0..25).map(|n| Write::Put(format!("b/{n:02}"), vec![n])).collect();
        assert!(store.commit(vec![], many).await?);
        let first = store.scan("b/", None, 10).await?;
        let second = store.scan("b/", Some(&first[9].0), 100).await?;
        assert_eq!(first.iter().chain(&second).map(|(_, v)| v[0]).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
        assert_eq!(store.scan("b", None, 100).await?.len(), 25);
        assert!(store.scan("c/", None, 10).await?.is_empty());

        // Counted are commits that happened.
        let dump = store.dump().await?;
        assert_eq!(dump.commits, 3);
        assert!(dump.entries.is_sorted() && dump.entries.contains(&(b"a/1".to_vec(), b"other".to_vec())));
        Ok(())
    }

    /// Of two commits that exclude each other exactly one happens.
    async fn one_winner(store: Arc<dyn Store>) -> Result<()> {
        let attempts: Vec<_> = (0..32u8)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    store.commit(vec![Condition::Absent("w".into())], vec![Write::Put("w".into(), vec![n])]).await
                })
            })
            .collect();
        let mut winners = 0;
        for attempt in attempts {
            winners += usize::from(attempt.await.map_err(|error| Error::internal(error.to_string()))??);
        }
        assert_eq!(winners, 1);
        Ok(())
    }

    #[tokio::test]
    async fn sled_conforms() -> Result<()> {
        let dir = crate::tests::temporary_directory("store");
        let store = Arc::new(recover::open(dir.path())?.0);
        conformance(&*store).await?;
        one_winner(store.clone()).await?;
        drop(store);
        // What was acknowledged is there after the store was closed.
        let (store, origin) = recover::open(dir.path())?;
        assert_eq!(origin, recover::Origin::AsLeft);
        assert_eq!(store.get("a/1").await?, Some(b"other".to_vec()));
        Ok(())
    }
}
