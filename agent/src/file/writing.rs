//! Writes a file so that it appears complete or not at all: beside its place
//! under another name, then renamed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use nullspace_proto::{Error, Result, id, v1::FileInfo};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{done, info, paths::Place, reading::regular, refused};
use crate::{control::Control, flow::Share};

/// Permission bits of a new file.
const FILE_MODE: u32 = 0o644;
/// Permission bits of a directory that is made on the way.
const DIRECTORY_MODE: u32 = 0o755;

/// Frames that are gathered: tiny ones have more overhead than bytes.
const MAX_GATHERED: usize = 4_096;
/// How often a directory is made again that someone else removes.
const ATTEMPTS: u32 = 5;

/// Where and how to write.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Absolute.
    pub path: PathBuf,
    /// User and group of the file and of directories that are made.
    pub owner: Option<(u32, u32)>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// A write that is under way. Bytes are gathered to large pieces, and one piece
/// is written while the next one is gathered.
pub struct Upload {
    share: Share,
    destination: Destination,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    received: u64,
    writing: Option<JoinHandle<Result<Writing>>>,
}

impl Upload {
    /// Nothing is touched before there is something to write.
    pub fn new(destination: Destination, share: Share) -> Self {
        Self { share, destination, gathered: Vec::new(), gathered_bytes: 0, received: 0, writing: None }
    }

    /// More bytes. Waits while two pieces are full.
    pub async fn push(&mut self, data: Bytes) -> Result<()> {
        self.received += data.len() as u64;
        self.gathered_bytes += data.len();
        self.share.moved(data.len());
        self.gathered.push(data);
        if self.gathered_bytes >= self.share.piece_bytes() || self.gathered.len() >= MAX_GATHERED {
            let pieces = std::mem::take(&mut self.gathered);
            self.gathered_bytes = 0;
            let writing = self.opened().await?;
            self.writing = Some(spawn_blocking(move || writing.get()?.write(&pieces)));
        }
        Ok(())
    }

    /// Gives up. When it returns, nothing is left of the file.
    pub async fn abandon(&mut self) {
        if let Some(writing) = self.writing.take() {
            let written = done(writing).await;
            let _ = spawn_blocking(move || drop(written)).await;
        }
    }

    /// The file as the last write left it, or still to be opened.
    async fn opened(&mut self) -> Result<Opening> {
        Ok(match self.writing.take() {
            Some(writing) => Opening::Open(done(writing).await?),
            None => Opening::New(self.destination.clone()),
        })
    }

    /// Makes the file appear, if `size` bytes have come.
    pub async fn finish(&mut self, size: i64, control: Arc<Control>) -> Result<FileInfo> {
        if u64::try_from(size) != Ok(self.received) {
            let description = format!("{} bytes came, not {size}: nothing was written", self.received);
            return Err(Error::invalid_field("finish.size_bytes", description));
        }
        let pieces = std::mem::take(&mut self.gathered);
        let writing = self.opened().await?;
        done(spawn_blocking(move || writing.get()?.write(&pieces)?.publish(&control))).await
    }
}

impl Drop for Upload {
    /// A client that left: what is written is removed where it may take time.
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            tokio::spawn(async move {
                let written = writing.await;
                let _ = spawn_blocking(move || drop(written)).await;
            });
        }
    }
}

enum Opening {
    New(Destination),
    Open(Writing),
}

impl Opening {
    fn get(self) -> Result<Writing> {
        match self {
            Self::New(destination) => Writing::open(destination),
            Self::Open(writing) => Ok(writing),
        }
    }
}

/// A file under its temporary name. Dropped, it is gone without a trace.
struct Writing {
    place: Place,
    file: File,
    traces: Traces,
    owner: Option<(u32, u32)>,
    mode: u32,
}

/// What must not be left when a write fails: the temporary file, and the
/// directories that were made for it.
#[derive(Default)]
struct Traces {
    file: Option<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
        // Only those in which nobody else has put something.
        for directory in self.directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Writing {
    fn open(destination: Destination) -> Result<Self> {
        let Destination { path, owner, mode } = destination;
        let place = Place::find(&path)?;
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(refused(&path)(io::Error::from_raw_os_error(libc::EISDIR)));
        }
        let existing = match fs::symlink_metadata(&place.real) {
            Ok(metadata) => {
                regular(&place.real, &metadata)?;
                Some(metadata)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refused(&place.named)(error)),
        };
        let mut traces = Traces::default();
        let directory = place.real.parent().unwrap_or(Path::new("/"));
        let temporary = directory.join(format!(".nullspace-{}", id::ulid()));
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        let mut attempts = 0;
        let file = loop {
            attempts += 1;
            make_directories(directory, owner, &mut traces.directories).map_err(refused(directory))?;
            match create() {
                // Another write that failed has just removed what it had made.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {}
                created => break created.map_err(refused(&place.named))?,
            }
        };
        traces.file = Some(temporary);
        Ok(Self {
            owner: owner.or(existing.as_ref().map(|metadata| (metadata.uid(), metadata.gid()))),
            mode: mode.or(existing.as_ref().map(|metadata| metadata.mode() & 0o7777)).unwrap_or(FILE_MODE),
            place,
            file,
            traces,
        })
    }

    fn write(mut self, pieces: &[Bytes]) -> Result<Self> {
        for piece in pieces {
            self.file.write_all(piece).map_err(refused(&self.place.named))?;
        }
        Ok(self)
    }

    fn publish(mut self, control: &Control) -> Result<FileInfo> {
        let named = self.place.named.clone();
        // The owner first: a change of it takes the set-user-id bit away.
        if let Some((uid, gid)) = self.owner {
            fchown(&self.file, Some(uid), Some(gid)).map_err(refused(&named))?;
        }
        self.file.set_permissions(Permissions::from_mode(self.mode)).map_err(refused(&named))?;
        if let Some(temporary) = &self.traces.file {
            fs::rename(temporary, &self.place.real).map_err(refused(&named))?;
        }
        self.traces.file = None;
        self.traces.directories.clear();
        let metadata = self.file.metadata().map_err(refused(&named))?;
        Ok(info::describe(&self.place, &metadata, control.users()))
    }
}

/// Makes a directory and those above it that are missing.
fn make_directories(directory: &Path, owner: Option<(u32, u32)>, made: &mut Vec<PathBuf>) -> io::Result<()> {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(above) = directory.parent() {
        make_directories(above, owner, made)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Ok(()) => made.push(directory.to_owned()),
        // Someone else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    match owner {
        Some((uid, gid)) => chown(directory, Some(uid), Some(gid)),
        None => Ok(()),
    }
}
