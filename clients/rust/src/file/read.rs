//! Reads files.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_stream::try_stream;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use nullspace_proto::v1::{ReadFileRequest, ReadFileResponse};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;

use super::frames::FrameReader;
use crate::{
    FileInfo,
    connection::{Connection, Frames, Times},
    error::{Error, Result},
    limits::{FILE_RESERVE_BYTES, FILE_SILENCE},
    method::READ_FILE,
    page::Call,
    retry::CallRetries,
};

/// Reads a file. Made by [`Files::read`](crate::Files::read).
///
/// Awaiting it gives all bytes; a connection that breaks is made again, and the
/// file read anew.
#[derive(Clone)]
#[must_use = "nothing is sent before it is awaited"]
pub struct ReadFile {
    connection: Connection,
    request: ReadFileRequest,
    request_timeout: Option<Duration>,
}

impl ReadFile {
    pub(super) fn new(connection: Connection, sandbox_id: String, path: String) -> Self {
        let request = ReadFileRequest { sandbox_id, path, ..Default::default() };
        Self { connection, request, request_timeout: None }
    }

    /// In whose home a relative path begins. Files are read as root all the same.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.request.user = user.into();
        self
    }

    /// Where to begin, in bytes.
    pub fn offset(mut self, offset: i64) -> Self {
        self.request.offset = offset;
        self
    }

    /// How many bytes at most. Default: to the end.
    pub fn length(mut self, length: i64) -> Self {
        self.request.length = Some(length);
        self
    }

    /// How long the whole transfer may take. Default: as long as it takes, while
    /// it does not stand still for 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// The file as text. What is not UTF-8 is U+FFFD.
    ///
    /// # Errors
    /// As awaiting it.
    pub async fn text(self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes().await?).into_owned())
    }

    /// The file in pieces, so that it need not fit into memory. Returns when it
    /// is known that the file is there. When the connection breaks the stream
    /// ends with an error: the file may be another by then.
    ///
    /// # Errors
    /// As awaiting it.
    pub async fn stream(self) -> Result<FileStream> {
        let deadline = self.request_timeout.map(|timeout| Instant::now() + timeout);
        open(&self.connection, self.request, deadline).await
    }

    async fn bytes(self) -> Result<Bytes> {
        let mut retries = CallRetries::transfer(self.request_timeout, true);
        let deadline = self.request_timeout.map(|_| retries.deadline());
        loop {
            let error = match self.attempt(deadline).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            sleep(retries.pause(error, self.connection.reached())?).await;
        }
    }

    async fn attempt(&self, deadline: Option<Instant>) -> Result<Bytes> {
        let mut stream = open(&self.connection, self.request.clone(), deadline).await?;
        // A file that comes in one piece is not copied.
        let first = stream.next().await.transpose()?.unwrap_or_default();
        let Some(second) = stream.next().await.transpose()? else { return Ok(first) };
        let expected = usize::try_from(stream.info.size_bytes).unwrap_or_default();
        let mut all = BytesMut::with_capacity(expected.min(FILE_RESERVE_BYTES));
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(piece) = stream.next().await.transpose()? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

impl IntoFuture for ReadFile {
    type Output = Result<Bytes>;
    type IntoFuture = Call<Bytes>;

    /// # Errors
    /// [`FileNotFound`](crate::Reason::FileNotFound),
    /// [`UserNotFound`](crate::Reason::UserNotFound),
    /// [`FilePermissionDenied`](crate::Reason::FilePermissionDenied),
    /// [`PathIsDirectory`](crate::Reason::PathIsDirectory),
    /// [`PathNotDirectory`](crate::Reason::PathNotDirectory),
    /// [`FileOperationFailed`](crate::Reason::FileOperationFailed),
    /// [`InvalidRequest`](crate::Reason::InvalidRequest).
    fn into_future(self) -> Call<Bytes> {
        Box::pin(self.bytes())
    }
}

/// A file in pieces: a [`Stream`] of bytes. It ends without an error only when
/// all of the file has come. Made by [`ReadFile::stream`].
#[must_use]
pub struct FileStream {
    info: FileInfo,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
}

impl FileStream {
    /// What the file is.
    pub fn info(&self) -> &FileInfo {
        &self.info
    }
}

impl Stream for FileStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        self.pieces.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for FileStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStream").field("info", &self.info).finish_non_exhaustive()
    }
}

async fn open(connection: &Connection, request: ReadFileRequest, deadline: Option<Instant>) -> Result<FileStream> {
    let times = Times { deadline, silence: FILE_SILENCE };
    let mut frames = connection.read(READ_FILE, request, times).await?;
    let mut reader = FrameReader::default();
    let first = next(&mut frames, &mut reader).await?;
    let info = reader.info.clone();
    let info = info.ok_or_else(|| Error::invalid_response("a read began without the file's info"))?;
    let pieces = try_stream! {
        if !first.is_empty() {
            yield first;
        }
        while !reader.ended {
            let piece = next(&mut frames, &mut reader).await?;
            if !piece.is_empty() {
                yield piece;
            }
        }
    };
    Ok(FileStream { info, pieces: Box::pin(pieces) })
}

async fn next(frames: &mut Frames<ReadFileResponse>, reader: &mut FrameReader) -> Result<Bytes> {
    match frames.next().await? {
        Some(frame) => reader.take(frame),
        None => Err(reader.cut_short()),
    }
}
