//! What the host's file system refuses, as an error of ours.

use std::{io, path::Path};

use nullspace_proto::{Error, Reason};

/// A failure at `path`. A full disk is the caller's to know: it passes.
pub fn fault(path: &Path, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
        _ => Error::internal(format!("{}: {error}", path.display())),
    }
}

/// The disk is full.
pub fn full() -> Error {
    let message = "the disk that the server keeps its data on is full; free some of it, and call again";
    Error::quota(Reason::CapacityExceeded, "host", message)
}
