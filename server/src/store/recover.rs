//! Opens the store, and makes it again from its export when it is damaged.
//!
//! sled does not say that data is gone: it opens what it can read, which after
//! a truncated or overwritten file is an earlier state, or nothing. So every
//! commit is counted in the store, and the count of the last one that was
//! acknowledged is kept beside it: a store that has fewer is damaged.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nullspace_proto::{Error, Result};

use super::{
    export::Dump,
    mark::Mark,
    sled::{COMMITS, SledStore},
    space::Space,
};

/// Whether a store is as it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Every commit is there.
    AsLeft,
    /// It was made again from an earlier state: what runs may be newer.
    Rebuilt,
}

/// The files of a store below a data directory.
pub struct Files {
    /// sled's own directory.
    pub store: PathBuf,
    /// How many commits were acknowledged.
    pub mark: PathBuf,
    /// The newest export.
    pub export: PathBuf,
    /// Keeps room on the disk.
    pub room: PathBuf,
}

impl Files {
    /// Below `data`.
    pub fn below(data: &Path) -> Self {
        let beside = |name: &str| data.join(name);
        Self {
            store: beside("store"),
            mark: beside("store.mark"),
            export: beside("store.export"),
            room: beside("store.room"),
        }
    }
}

/// Opens the store of a data directory. One that is damaged is moved aside.
pub fn open(data: &Path) -> Result<(SledStore, Origin)> {
    let files = Files::below(data);
    let fault = |error: io::Error| Error::internal(format!("{}: {error}", data.display()));
    let mark = Mark::open(&files.mark).map_err(fault)?;
    let expected = mark.read().or_else(|| Dump::read(&files.export).map(|dump| dump.commits)).unwrap_or(0);
    make_directory(&files.store).map_err(fault)?;
    let space = Space::of(&files.store, &files.room);
    space.for_commits(1)?;
    let found = inspect(&files.store)?;
    let has = found.as_ref().map_or(0, |dump| dump.commits);
    if found.is_some() && has >= expected {
        return Ok((SledStore::open(&files.store, mark, space)?, Origin::AsLeft));
    }
    tracing::error!(
        directory = %files.store.display(), commits = has, acknowledged = expected, opens = found.is_some(),
        "THE STORE IS DAMAGED: commits that were acknowledged are gone; it is made again from the newest state there is"
    );
    let newest = [found, Dump::read(&files.export)].into_iter().flatten().max_by_key(|dump| dump.commits);
    let Some(newest) = newest.filter(|dump| !dump.entries.is_empty()) else {
        let message = format!(
            "the store {} is damaged and {} is of no use; to start with nothing, and end every sandbox that runs, \
             move both away with {}",
            files.store.display(),
            files.export.display(),
            files.mark.display()
        );
        return Err(Error::internal(message));
    };
    rebuild(&files, newest, expected).map_err(fault)?;
    Ok((SledStore::open(&files.store, mark, space)?, Origin::Rebuilt))
}

/// Reads all of the store. `None`: it does not open, or not all can be read.
fn inspect(directory: &Path) -> Result<Option<Dump>> {
    // Damage that sled did not think of is a panic.
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let db = super::sled::open(directory)?;
        super::sled::dump(&db)
    }));
    match read {
        Ok(Ok(dump)) => Ok(Some(dump)),
        Ok(Err(sled::Error::Io(error))) if !is_damage(&error) => {
            Err(Error::internal(format!("the store {} does not open: {error}", directory.display())))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the store cannot be read");
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

/// Whether it is about what is in the files, and not about getting at them.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}

/// Each step leaves what the next start needs to do it again: the state to go on
/// from is the export before the damaged store is moved, and the count of
/// commits, without which a store is damaged, is written last.
fn rebuild(files: &Files, mut from: Dump, acknowledged: u64) -> io::Result<()> {
    from.entries.retain(|(key, _)| key != COMMITS.as_bytes());
    from.write(&files.export)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let aside = files.store.with_extension(format!("damaged.{now}"));
    fs::rename(&files.store, &aside)?;
    make_directory(&files.store)?;
    let db = super::sled::open(&files.store)?;
    let mut batch = sled::Batch::default();
    for (key, value) in &from.entries {
        batch.insert(key.as_slice(), value.as_slice());
    }
    db.apply_batch(batch)?;
    db.flush()?;
    let commits = from.commits.max(acknowledged) + 1;
    db.insert(COMMITS, &commits.to_be_bytes())?;
    db.flush()?;
    File::open(files.store.join("db"))?.sync_all()?;
    tracing::warn!(
        records = from.entries.len(), commits = from.commits, aside = %aside.display(),
        "the store was made again; the damaged one is kept aside"
    );
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store as _, Write};

    async fn commit(store: &SledStore, n: u8) {
        let writes = vec![Write::Put(format!("n/{n:03}"), vec![n; 4_096])];
        assert!(store.commit(vec![], writes).await.expect("committed"));
    }

    async fn count(store: &SledStore) -> usize {
        store.scan("n/", None, 1_000).await.expect("scanned").len()
    }

    /// sled opens all of these without a word, with less in them.
    #[tokio::test]
    async fn a_store_that_lost_commits_is_made_again() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 4] = [
            ("cut", |db| {
                fs::OpenOptions::new().write(true).open(db).and_then(|file| file.set_len(9_000)).expect("cut")
            }),
            ("emptied", |db| fs::write(db, b"").expect("emptied")),
            ("overwritten", |db| {
                let length = fs::metadata(db).expect("there").len() as usize;
                fs::write(db, vec![0x5a; length]).expect("overwritten");
            }),
            ("removed", |db| fs::remove_file(db).expect("removed")),
        ];
        for (name, damage) in damages {
            let directory = crate::tests::temporary_directory("recover");
            let data = directory.path();
            let (store, origin) = open(data).expect("made");
            assert_eq!(origin, Origin::AsLeft);
            for n in 0..40 {
                commit(&store, n).await;
            }
            store.dump().await.expect("dumped").write(&Files::below(data).export).expect("exported");
            commit(&store, 40).await;
            drop(store);
            damage(&data.join("store/db"));

            let (store, origin) = open(data).expect(name);
            assert_eq!((origin, count(&store).await), (Origin::Rebuilt, 40), "{name}");
            // It goes on as any other.
            commit(&store, 41).await;
            drop(store);
            let (store, origin) = open(data).expect(name);
            assert_eq!((origin, count(&store).await), (Origin::AsLeft, 41), "{name}");
        }
    }

    #[tokio::test]
    async fn a_damaged_store_without_export_is_not_started_empty() {
        let directory = crate::tests::temporary_directory("no-export");
        let data = directory.path();
        let (store, _) = open(data).expect("made");
        commit(&store, 1).await;
        drop(store);
        fs::remove_file(data.join("store/db")).expect("removed");
        let error = open(data).err().expect("refused");
        assert!(error.message().contains("store.export"), "{error}");
    }
}
