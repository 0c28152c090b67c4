//! Reads a file, piece by piece.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use bytes::Bytes;
use nullspace_proto::{Error, Reason, Result, v1::FileInfo};

use super::{info, paths::Place, refused};
use crate::{flow::Share, users::Users};

/// The buffer for a file whose size is not known, as below /proc.
const UNKNOWN_BYTES: u64 = 64 << 10;

/// A file that is being read.
pub struct Reading {
    file: File,
    share: Share,
    path: PathBuf,
    info: FileInfo,
    /// What may still be read.
    left: u64,
    /// What the file's size promises.
    expected: u64,
    /// Read and not yet taken. None: the end.
    piece: Option<Bytes>,
}

impl Reading {
    /// Opens a file to read `length` bytes from `offset`.
    pub fn open(place: &Place, users: &Users, share: Share, offset: u64, length: u64) -> Result<Self> {
        let path = place.real.clone();
        // Without waiting for a writer, should it be a pipe.
        let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path);
        regular(&path, &std::fs::metadata(&path).map_err(refused(&place.named))?)?;
        let mut file = open().map_err(refused(&place.named))?;
        let metadata = file.metadata().map_err(refused(&place.named))?;
        regular(&path, &metadata)?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).map_err(refused(&place.named))?;
        }
        let expected = metadata.len().saturating_sub(offset);
        let info = info::describe(place, &metadata, users);
        Ok(Self { file, share, path, info, left: length, expected, piece: None })
    }

    /// What the file is.
    pub fn info(&self) -> FileInfo {
        self.info.clone()
    }

    /// Takes the piece that was read. None: there is no more.
    pub fn take(&mut self) -> Option<Bytes> {
        self.piece.take()
    }

    /// Reads the next piece.
    pub fn advance(&mut self) -> Result<()> {
        self.piece = self.read().map_err(refused(&self.path))?;
        Ok(())
    }

    fn read(&mut self) -> io::Result<Option<Bytes>> {
        let piece = self.share.piece_bytes() as u64;
        let want = if self.expected == 0 { UNKNOWN_BYTES } else { self.expected };
        let want = want.min(piece).min(self.left);
        let mut piece = Vec::with_capacity(want as usize);
        (&self.file).take(want).read_to_end(&mut piece)?;
        let read = piece.len() as u64;
        self.share.moved(piece.len());
        self.left -= read;
        self.expected = self.expected.saturating_sub(read);
        Ok((read > 0).then(|| piece.into()))
    }
}

/// Refuses what is not a file of bytes.
pub fn regular(path: &std::path::Path, metadata: &Metadata) -> Result<()> {
    let name = path.display().to_string();
    match metadata.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => {
            Err(Error::wrong_state(Reason::PathIsDirectory, &name, format!("{name:?} is a directory"))
                .with("path", name))
        }
        _ => {
            let message = format!("{name:?} is a device, pipe or socket");
            Err(Error::wrong_state(Reason::FileOperationFailed, &name, message).with("path", name))
        }
    }
}
