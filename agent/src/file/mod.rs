//! FileService. File work runs on threads of its own, a mebibyte at a time: a
//! file system of the sandbox may be slow, or hang, and must not hold up others.

mod info;
mod paths;
mod reading;
mod writing;

use std::{io, path::PathBuf, pin::Pin, sync::Arc};

use futures_core::Stream;
use nullspace_proto::{
    Error, Reason, Result, limits,
    v1::{
        FileInfo, ReadFileEnd, ReadFileRequest, ReadFileResponse, WriteFileOpen, WriteFileRequest, WriteFileResponse,
        file_service_server::FileService, read_file_response, write_file_request,
    },
    validate::Checks,
};
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    control::Control,
    fault::{fault, foreign},
    flow::Flow,
    users::User,
};
use paths::Place;
use reading::Reading;
use writing::{Destination, Upload};

/// FileService over the files of a sandbox.
pub struct FileApi {
    control: Arc<Control>,
    flow: Arc<Flow>,
    workspace: PathBuf,
}

impl FileApi {
    /// The service. `workspace` is where relative paths begin when nothing else
    /// says so.
    pub fn new(control: Arc<Control>, flow: Arc<Flow>, workspace: PathBuf) -> Self {
        Self { control, flow, workspace }
    }

    /// Who was named, and the absolute path.
    fn locate(&self, path: &str, user: &str) -> Result<(Option<User>, PathBuf)> {
        let execution = self.control.execution()?;
        let user = match user.trim() {
            "" => None,
            name => Some(self.control.users().find(name)?),
        };
        let base = match &user {
            _ if execution.cwd_chosen => execution.cwd.clone().into(),
            Some(user) => user.home.clone().into(),
            None => self.workspace.clone(),
        };
        Ok((user, base.join(path)))
    }

    fn read(&self, request: &ReadFileRequest) -> Result<JoinHandle<Result<Reading>>> {
        let mut checks = Checks::default();
        check_path(&mut checks, "path", &request.path);
        checks.text("user", &request.user, limits::MAX_USER_BYTES);
        checks.check(request.offset >= 0, "offset", || format!("{} is below 0", request.offset));
        let length = request.length.unwrap_or(i64::MAX);
        checks.check(length >= 0, "length", || format!("{length} is below 0"));
        checks.finish()?;
        let (_, path) = self.locate(&request.path, &request.user)?;
        let (control, share) = (self.control.clone(), self.flow.join());
        let (offset, length) = (request.offset as u64, length as u64);
        Ok(tokio::task::spawn_blocking(move || {
            let mut reading = Reading::open(&Place::find(&path)?, control.users(), share, offset, length)?;
            reading.advance()?;
            Ok(reading)
        }))
    }

    fn destination(&self, open: &WriteFileOpen) -> Result<Destination> {
        let mut checks = Checks::default();
        check_path(&mut checks, "open.path", &open.path);
        checks.text("open.user", &open.user, limits::MAX_USER_BYTES);
        if let Some(mode) = open.mode {
            checks.check((0..=0o7777).contains(&mode), "open.mode", || format!("{mode:o} is not in 0 to 7777"));
        }
        checks.finish()?;
        let (user, path) = self.locate(&open.path, &open.user)?;
        let owner = user.map(|user| (user.uid, user.gid));
        Ok(Destination { path, owner, mode: open.mode.map(|mode| mode as u32) })
    }
}

fn check_path(checks: &mut Checks, field: &str, path: &str) {
    checks.check(!path.is_empty(), field, || "must not be empty".to_owned());
    checks.text(field, path, limits::MAX_PATH_BYTES);
}

/// Waits for file work.
async fn done<T>(work: JoinHandle<Result<T>>) -> Result<T> {
    work.await.unwrap_or_else(|broken| Err(fault(format!("file work broke off: {broken}"))))
}

#[tonic::async_trait]
impl FileService for FileApi {
    type ReadFileStream = Pin<Box<dyn Stream<Item = Result<ReadFileResponse, Status>> + Send>>;

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        // Opened before the stream begins: a missing file fails the call itself.
        let mut reading = done(self.read(&request.into_inner())?).await?;
        let frame = |frame| ReadFileResponse { frame: Some(frame) };
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            yield frame(read_file_response::Frame::Info(reading.info()));
            let mut size_bytes = 0;
            while let Some(data) = reading.take() {
                size_bytes += data.len() as i64;
                // The next piece is read while this one is sent.
                let next = tokio::task::spawn_blocking(move || reading.advance().map(|()| reading));
                yield frame(read_file_response::Frame::Data(data));
                reading = done(next).await?;
            }
            yield frame(read_file_response::Frame::End(ReadFileEnd { size_bytes }));
        })))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<WriteFileRequest>>,
    ) -> Result<Response<WriteFileResponse>, Status> {
        let mut requests = request.into_inner();
        let late = || Error::invalid_field("open", "did not come in time");
        let first = timeout(limits::FIRST_MESSAGE, requests.message()).await.map_err(|_| late())?.map_err(foreign)?;
        let Some(write_file_request::Frame::Open(open)) = first.and_then(|first| first.frame) else {
            return Err(Error::invalid_field("open", "must be the first frame").into());
        };
        let mut upload = Upload::new(self.destination(&open)?, self.flow.join());
        match self.receive(&mut requests, &mut upload).await {
            Ok(file) => Ok(Response::new(WriteFileResponse { file: Some(file) })),
            Err(error) => {
                upload.abandon().await;
                Err(error.into())
            }
        }
    }
}

impl FileApi {
    async fn receive(&self, requests: &mut Streaming<WriteFileRequest>, upload: &mut Upload) -> Result<FileInfo> {
        loop {
            let Some(request) = requests.message().await.map_err(foreign)? else {
                return Err(Error::invalid_field("finish", "did not come: nothing was written"));
            };
            match request.frame {
                Some(write_file_request::Frame::Data(data)) if data.len() > limits::MAX_CHUNK_BYTES => {
                    let description = format!("{} bytes are more than {}", data.len(), limits::MAX_CHUNK_BYTES);
                    return Err(Error::invalid_field("data", description));
                }
                Some(write_file_request::Frame::Data(data)) => upload.push(data).await?,
                Some(write_file_request::Frame::Finish(finish)) => {
                    return upload.finish(finish.size_bytes, self.control.clone()).await;
                }
                Some(write_file_request::Frame::Open(_)) => {
                    return Err(Error::invalid_field("open", "must be sent once"));
                }
                None => return Err(Error::invalid_field("frame", "is missing or not known")),
            }
        }
    }
}

/// The error of a file system's refusal.
fn refused(path: &std::path::Path) -> impl Fn(io::Error) -> Error {
    move |error| {
        let name = path.display().to_string();
        let (reason, what) = match error.raw_os_error() {
            Some(libc::ENOENT) => return Error::not_found(Reason::FileNotFound, "file", name),
            Some(libc::ENOTDIR) => (Reason::PathNotDirectory, "a part of the path is not a directory".to_owned()),
            Some(libc::EISDIR) => (Reason::PathIsDirectory, "it is a directory".to_owned()),
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => (Reason::FilePermissionDenied, error.to_string()),
            Some(libc::ENOSPC | libc::EDQUOT) => {
                return Error::quota(Reason::DiskFull, "disk", format!("{name:?}: the disk is full"))
                    .with("path", name);
            }
            _ => (Reason::FileOperationFailed, error.to_string()),
        };
        Error::wrong_state(reason, &name, format!("{name:?}: {what}")).with("path", name)
    }
}
