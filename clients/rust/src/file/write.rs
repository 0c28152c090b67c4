//! Writes files.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures_core::Stream;
use nullspace_proto::v1::{WriteFileOpen, WriteFileRequest, WriteFileResponse, write_file_request::Frame};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt as _;

use super::frames::FrameWriter;
use crate::{
    FileInfo,
    client::required,
    connection::Connection,
    error::{Error, Result},
    limits::{FILE_SILENCE, OUTBOX_FRAMES},
    method::WRITE_FILE,
    page::Call,
    retry::CallRetries,
};

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Writes a whole file, atomically: it appears complete, or not at all. Made by
/// [`Files::write`](crate::Files::write) and
/// [`Files::write_stream`](crate::Files::write_stream).
///
/// Missing parents are made. A file that is there is replaced; whoever reads it
/// goes on reading the old one.
#[must_use = "nothing is sent before it is awaited"]
pub struct WriteFile {
    connection: Connection,
    open: WriteFileOpen,
    content: Content,
    request_timeout: Option<Duration>,
}

enum Content {
    /// Can be sent again.
    Whole(Bytes),
    /// Cannot.
    Pieces(Pieces),
}

impl WriteFile {
    pub(super) fn whole(connection: Connection, sandbox_id: String, path: String, content: Bytes) -> Self {
        Self::new(connection, sandbox_id, path, Content::Whole(content))
    }

    pub(super) fn pieces<S, E>(connection: Connection, sandbox_id: String, path: String, content: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let content = content.map(|piece| piece.map_err(Error::source_failed));
        Self::new(connection, sandbox_id, path, Content::Pieces(Box::pin(content)))
    }

    fn new(connection: Connection, sandbox_id: String, path: String, content: Content) -> Self {
        let open = WriteFileOpen { sandbox_id, path, ..Default::default() };
        Self { connection, open, content, request_timeout: None }
    }

    /// Who owns the file and the directories that are made. Default: root.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.open.user = user.into();
        self
    }

    /// Permission bits, 0 to 0o7777. Default: those of the file that is replaced,
    /// else 0o644.
    pub fn mode(mut self, mode: u32) -> Self {
        // What does not fit is out of range in any case; the server says so.
        self.open.mode = Some(i32::try_from(mode).unwrap_or(i32::MAX));
        self
    }

    /// How long the whole transfer may take. Default: as long as it takes, while
    /// it does not stand still for 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    async fn write(self) -> Result<FileInfo> {
        let Self { connection, open, content, request_timeout } = self;
        let repeatable = matches!(content, Content::Whole(_));
        let mut retries = CallRetries::transfer(request_timeout, repeatable);
        let deadline = request_timeout.map(|_| retries.deadline());
        let whole = match content {
            Content::Whole(whole) => whole,
            Content::Pieces(pieces) => return attempt(&connection, open, pieces, deadline).await,
        };
        loop {
            let pieces = Box::pin(tokio_stream::once(Ok(whole.clone())));
            let error = match attempt(&connection, open.clone(), pieces, deadline).await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            sleep(retries.pause(error, connection.reached())?).await;
        }
    }
}

impl IntoFuture for WriteFile {
    type Output = Result<FileInfo>;
    type IntoFuture = Call<FileInfo>;

    /// # Errors
    /// [`UserNotFound`](crate::Reason::UserNotFound),
    /// [`FilePermissionDenied`](crate::Reason::FilePermissionDenied),
    /// [`DiskFull`](crate::Reason::DiskFull),
    /// [`PathIsDirectory`](crate::Reason::PathIsDirectory),
    /// [`PathNotDirectory`](crate::Reason::PathNotDirectory),
    /// [`FileOperationFailed`](crate::Reason::FileOperationFailed),
    /// [`InvalidRequest`](crate::Reason::InvalidRequest).
    fn into_future(self) -> Call<FileInfo> {
        Box::pin(self.write())
    }
}

async fn attempt(
    connection: &Connection,
    open: WriteFileOpen,
    pieces: Pieces,
    deadline: Option<Instant>,
) -> Result<FileInfo> {
    let (outbox, requests) = mpsc::channel(OUTBOX_FRAMES);
    let answer = connection.upload(WRITE_FILE, requests, deadline);
    let feed = feed(outbox, open, pieces);
    tokio::pin!(answer, feed);
    // An answer before the last frame says why no more is wanted.
    let response: WriteFileResponse = tokio::select! {
        response = &mut answer => response?,
        fed = &mut feed => {
            fed?;
            // All is on its way; what the last frames need is as bounded as each before.
            match timeout(FILE_SILENCE, answer).await {
                Ok(response) => response?,
                Err(_) => return Err(stalled()),
            }
        }
    };
    required(response.file)
}

/// Sends all frames. Ends early, without an error, when the call is over.
async fn feed(outbox: mpsc::Sender<WriteFileRequest>, open: WriteFileOpen, mut pieces: Pieces) -> Result<()> {
    let mut writer = FrameWriter::default();
    if !send(&outbox, WriteFileRequest { frame: Some(Frame::Open(open)) }).await? {
        return Ok(());
    }
    while let Some(piece) = pieces.next().await {
        let mut piece = piece?;
        while let Some(frame) = writer.full(&mut piece) {
            if !send(&outbox, frame).await? {
                return Ok(());
            }
        }
    }
    for frame in writer.finish() {
        if !send(&outbox, frame).await? {
            return Ok(());
        }
    }
    Ok(())
}

async fn send(outbox: &mpsc::Sender<WriteFileRequest>, frame: WriteFileRequest) -> Result<bool> {
    match timeout(FILE_SILENCE, outbox.send(frame)).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(stalled()),
    }
}

fn stalled() -> Error {
    Error::deadline(format!("the server took nothing for {:.0} s", FILE_SILENCE.as_secs_f64()))
}
