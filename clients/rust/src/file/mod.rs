//! Files of a sandbox.

mod frames;
mod read;
mod write;

use bytes::Bytes;
use futures_core::Stream;

pub use self::{
    read::{FileStream, ReadFile},
    write::WriteFile,
};
use crate::{connection::Connection, error::Result};

/// Reads and writes files of a sandbox. Made by [`Sandbox::files`](crate::Sandbox::files).
///
/// A path is absolute, or relative to the sandbox's `cwd`, else to the home of
/// the `user` that was named, else to `/workspace`. It has at most 4,096 bytes,
/// and is not under `/workspace/.nullspace`.
///
/// ```no_run
/// # async fn example(sandbox: nullspace::Sandbox) -> nullspace::Result<()> {
/// let files = sandbox.files();
/// files.write("/workspace/data.bin", vec![0, 1]).await?;
/// assert_eq!(files.read("/workspace/data.bin").await?, vec![0, 1]);
/// println!("{}", files.read("/etc/os-release").text().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Files {
    connection: Connection,
    sandbox_id: String,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("sandbox_id", &self.sandbox_id).finish_non_exhaustive()
    }
}

impl Files {
    pub(crate) fn new(connection: Connection, sandbox_id: String) -> Self {
        Self { connection, sandbox_id }
    }

    /// Reads a file.
    pub fn read(&self, path: impl Into<String>) -> ReadFile {
        ReadFile::new(self.connection.clone(), self.sandbox_id.clone(), path.into())
    }

    /// Writes a whole file, atomically: it appears complete, or not at all.
    pub fn write(&self, path: impl Into<String>, content: impl Into<Bytes>) -> WriteFile {
        WriteFile::whole(self.connection.clone(), self.sandbox_id.clone(), path.into(), content.into())
    }

    /// The same from pieces as they come. An error among them leaves nothing
    /// written, and is the source of a [`SourceFailed`](crate::Reason::SourceFailed).
    ///
    /// It is not sent again when the connection breaks: what was taken from the
    /// stream is gone.
    pub fn write_stream<S, E>(&self, path: impl Into<String>, content: S) -> WriteFile
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        WriteFile::pieces(self.connection.clone(), self.sandbox_id.clone(), path.into(), content)
    }
}
