//! A copy of the whole store in one file, from which a store that was lost or
//! damaged is made again.
//!
//! ```text
//! "nullspace store 1\n"
//! commits, entries            u64 each, little-endian
//! key length, key, value length, value    for each entry; lengths are u32
//! SHA-256 of all that
//! ```

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nullspace_proto::{Error, Result};
use sha2::{Digest as _, Sha256};
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Store, Write};

const MAGIC: &[u8] = b"nullspace store 1\n";
/// What changed is exported after this time.
const EVERY: Duration = Duration::from_secs(180);
/// The same for what nothing else could tell again: keys and the server's own.
const SOON: Duration = Duration::from_secs(1);
const PRECIOUS: [&str; 2] = ["key/", "meta/"];

/// Everything that a store has at one moment between two commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// Commits until then.
    pub commits: u64,
    /// In the order of their keys.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Dump {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.commits.to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for field in self.entries.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend((field.len() as u32).to_le_bytes());
            bytes.extend(field);
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_last_chunk::<32>()?;
        if <[u8; 32]>::from(Sha256::digest(body)) != *digest {
            return None;
        }
        let (commits, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first_chunk::<8>()?;
        let mut field = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (field, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(field.to_vec())
        };
        let entries = (0..u64::from_le_bytes(*count)).map(|_| Some((field()?, field()?)));
        Some(Self { commits: u64::from_le_bytes(*commits), entries: entries.collect::<Option<_>>()? })
    }

    /// Puts it in place of the file at `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Reads what `write` wrote. `None`: there is no such file, or it is damaged,
    /// which the log tells.
    pub fn read(path: &Path) -> Option<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(path = %path.display(), %error, "the export of the store cannot be read");
                }
                return None;
            }
        };
        let dump = Self::decode(&bytes);
        if dump.is_none() {
            tracing::error!(path = %path.display(), "the export of the store is damaged");
        }
        dump
    }
}

/// Exports a store while it changes.
pub struct Exporter {
    store: Arc<dyn Store>,
    path: PathBuf,
}

impl Exporter {
    /// To the file at `path`.
    pub fn new(store: Arc<dyn Store>, path: PathBuf) -> Self {
        Self { store, path }
    }

    /// Exports now, if it can: a full disk is no reason not to serve.
    pub async fn try_export(&self) -> bool {
        let exported = self.export().await;
        exported
            .inspect_err(|error| tracing::error!(%error, "a store that is damaged now could not be made again"))
            .is_ok()
    }

    async fn export(&self) -> Result<()> {
        let (dump, path) = (self.store.dump().await?, self.path.clone());
        let fail = |error: &dyn std::fmt::Display| Error::internal(format!("the store was not exported: {error}"));
        let written = tokio::task::spawn_blocking(move || dump.write(&path)).await;
        written.map_err(|error| fail(&error))?.map_err(|error| fail(&error))
    }

    /// Exports what changes, until told to stop. One at the end is the caller's,
    /// when nothing changes any more.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut changes = self.store.watch();
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                change = changes.recv() => match change {
                    Err(RecvError::Closed) => return,
                    change => due = Some(sooner(due, delay(change.as_deref().unwrap_or_default()))),
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = if self.try_export().await { None } else { Some(Instant::now() + EVERY) };
                }
            }
        }
    }
}

fn sooner(due: Option<Instant>, delay: Duration) -> Instant {
    let new = Instant::now() + delay;
    due.map_or(new, |due| due.min(new))
}

/// An empty change is one that was missed.
fn delay(writes: &[Write]) -> Duration {
    let precious = |write: &Write| {
        let (Write::Put(key, _) | Write::Delete(key)) = write;
        PRECIOUS.iter().any(|prefix| key.starts_with(prefix))
    };
    if writes.is_empty() || writes.iter().any(precious) { SOON } else { EVERY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_read_as_it_was_written_or_not_at_all() {
        let directory = crate::tests::temporary_directory("export");
        let path = directory.path().join("store.export");
        assert_eq!(Dump::read(&path), None);
        let entries = (0..100u8).map(|n| (vec![b'k', n], vec![n; usize::from(n) * 50])).collect();
        let dump = Dump { commits: 7, entries };
        dump.write(&path).expect("written");
        assert_eq!(Dump::read(&path).as_ref(), Some(&dump));
        let bytes = fs::read(&path).expect("read");
        for length in [0, 10, MAGIC.len() + 16, bytes.len() - 33, bytes.len() - 1] {
            assert_eq!(Dump::decode(&bytes[..length]), None, "{length}");
        }
        for at in [0, MAGIC.len(), bytes.len() / 2, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Dump::decode(&bad), None, "{at}");
        }
    }
}
