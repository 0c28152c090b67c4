//! FileService, through its own API.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use common::*;
use nullspace_proto::{
    Reason,
    v1::{
        FileInfo, FileKind, ReadFileRequest, WriteFileFinish, WriteFileOpen, WriteFileRequest,
        read_file_response::Frame, write_file_request::Frame as In,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

fn frames(open: WriteFileOpen, data: &[u8], chunk: usize, size: i64) -> Vec<WriteFileRequest> {
    let data = data.chunks(chunk).map(|piece| In::Data(piece.to_vec().into()));
    let all = [In::Open(open)].into_iter().chain(data).chain([In::Finish(WriteFileFinish { size_bytes: size })]);
    all.map(|frame| WriteFileRequest { frame: Some(frame) }).collect()
}

async fn write(sandbox: &Sandbox, open: WriteFileOpen, data: &[u8]) -> Result<FileInfo, Status> {
    let requests = tokio_stream::iter(frames(open, data, 1 << 20, data.len() as i64));
    Ok(sandbox.files().await.write_file(requests).await?.into_inner().file.unwrap())
}

fn to(path: &str) -> WriteFileOpen {
    WriteFileOpen { path: path.into(), ..Default::default() }
}

async fn read(sandbox: &Sandbox, request: ReadFileRequest) -> Result<(FileInfo, Vec<u8>), Status> {
    let mut stream = sandbox.files().await.read_file(request).await?.into_inner();
    let (mut info, mut data) = (None, Vec::new());
    while let Some(response) = stream.message().await? {
        match response.frame.unwrap() {
            Frame::Info(first) => info = Some(first),
            Frame::Data(piece) => data.extend_from_slice(&piece),
            Frame::End(end) => {
                assert_eq!(end.size_bytes, data.len() as i64);
                return Ok((info.unwrap(), data));
            }
        }
    }
    panic!("a read without an end");
}

fn from(path: &str) -> ReadFileRequest {
    ReadFileRequest { path: path.into(), ..Default::default() }
}

fn names(directory: &str) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn what_is_written_is_read() {
    let sandbox = Sandbox::start().await;
    let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 253) as u8).collect();
    let path = sandbox.path("workspace/made/on/the/way/file.bin");
    let info = write(&sandbox, to(&path), &data).await.unwrap();
    assert_eq!((info.name.as_str(), info.path.as_str(), info.size_bytes), ("file.bin", path.as_str(), 5_000_000));
    assert_eq!((info.kind(), info.permissions.as_str(), info.owner.as_str()), (FileKind::File, "-rw-r--r--", "root"));
    let (info, all) = read(&sandbox, from(&path)).await.unwrap();
    assert!(all == data && info.mode == 0o644);
    let part = ReadFileRequest { offset: 1_234_567, length: Some(2_000_000), ..from(&path) };
    assert!(read(&sandbox, part).await.unwrap().1 == data[1_234_567..3_234_567]);
    let past = ReadFileRequest { offset: 9_000_000, ..from(&path) };
    assert!(read(&sandbox, past).await.unwrap().1.is_empty());
    let none = ReadFileRequest { length: Some(0), ..from(&path) };
    assert!(read(&sandbox, none).await.unwrap().1.is_empty());
    write(&sandbox, to(&path), b"").await.unwrap();
    assert!(read(&sandbox, from(&path)).await.unwrap().1.is_empty());
    // A file whose size says nothing.
    assert!(read(&sandbox, from("/proc/self/status")).await.unwrap().1.starts_with(b"Name:"));
    assert_eq!(names(&sandbox.path("workspace/made/on/the/way")), ["file.bin"]);
}

#[tokio::test]
async fn a_write_that_does_not_finish_leaves_no_trace() {
    let sandbox = Sandbox::start().await;
    let path = sandbox.path("workspace/file");
    fs::write(&path, "old").unwrap();
    let new = sandbox.path("workspace/new/directory/file");
    let mut files = sandbox.files().await;
    let data = vec![1; 3 << 20];
    // A wrong size, no finish, a second open.
    for open in [to(&path), to(&new)] {
        let requests = frames(open.clone(), &data, 1 << 20, 5);
        assert_eq!(reason(&files.write_file(tokio_stream::iter(requests)).await.unwrap_err()), Reason::InvalidRequest);
        let mut requests = frames(open.clone(), &data, 1 << 20, 0);
        requests.pop();
        assert_eq!(reason(&files.write_file(tokio_stream::iter(requests)).await.unwrap_err()), Reason::InvalidRequest);
        let mut requests = frames(open.clone(), &data, 1 << 20, 3 << 20);
        requests.insert(3, WriteFileRequest { frame: Some(In::Open(open)) });
        assert_eq!(reason(&files.write_file(tokio_stream::iter(requests)).await.unwrap_err()), Reason::InvalidRequest);
    }
    // A client that leaves in the middle.
    let (sender, receiver) = mpsc::unbounded_channel();
    for frame in frames(to(&path), &data, 1 << 20, 0).into_iter().take(4) {
        sender.send(frame).unwrap();
    }
    let call = tokio::spawn(async move { files.write_file(UnboundedReceiverStream::new(receiver)).await });
    eventually("a temporary file", || async { names(&sandbox.path("workspace")).len() > 1 }).await;
    call.abort();
    eventually("no temporary file", || async { names(&sandbox.path("workspace")) == ["file"] }).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

#[tokio::test]
async fn a_reader_of_the_old_file_keeps_it() {
    let sandbox = Sandbox::start().await;
    let path = sandbox.path("workspace/file");
    fs::write(&path, vec![b'o'; 4 << 20]).unwrap();
    let mut stream = sandbox.files().await.read_file(from(&path)).await.unwrap().into_inner();
    stream.message().await.unwrap();
    write(&sandbox, to(&path), b"new").await.unwrap();
    let mut old = 0;
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Frame::Data(data)) = response.frame {
            assert!(data.iter().all(|byte| *byte == b'o'));
            old += data.len();
        }
    }
    assert_eq!((old, fs::read_to_string(&path).unwrap().as_str()), (4 << 20, "new"));
}

#[tokio::test]
async fn owner_and_mode_are_kept_unless_asked() {
    let sandbox = Sandbox::start().await;
    let path = sandbox.path("workspace/file");
    fs::write(&path, "old").unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(44)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4750)).unwrap();
    let info = write(&sandbox, to(&path), b"1").await.unwrap();
    assert_eq!((info.mode, info.owner.as_str(), info.group.as_str()), (0o4750, "user", "video"));
    assert_eq!(info.permissions, "-rwsr-x---");
    let info =
        write(&sandbox, WriteFileOpen { mode: Some(0o600), user: "root".into(), ..to(&path) }, b"2").await.unwrap();
    assert_eq!((info.mode, info.owner.as_str(), info.group.as_str()), (0o600, "root", "root"));
    // Directories on the way belong to the user too.
    let below = sandbox.path("workspace/a/b/file");
    write(&sandbox, WriteFileOpen { user: " user ".into(), ..to(&below) }, b"3").await.unwrap();
    for path in ["workspace/a", "workspace/a/b", "workspace/a/b/file"] {
        assert_eq!(fs::metadata(sandbox.path(path)).unwrap().uid(), 1000, "{path}");
    }
    assert_eq!(fs::metadata(sandbox.path("workspace/a")).unwrap().mode() & 0o7777, 0o755);
    let status =
        write(&sandbox, WriteFileOpen { user: "nobody-of-this-name".into(), ..to(&path) }, b"").await.unwrap_err();
    assert_eq!(reason(&status), Reason::UserNotFound);
}

#[tokio::test]
async fn links_are_written_through() {
    let sandbox = Sandbox::start().await;
    let (target, link, dangling) =
        (sandbox.path("workspace/target"), sandbox.path("workspace/link"), sandbox.path("workspace/dangling"));
    fs::write(&target, "old").unwrap();
    symlink("target", &link).unwrap();
    symlink("made/later", &dangling).unwrap();
    let info = write(&sandbox, to(&link), b"new").await.unwrap();
    assert_eq!(
        (info.path.as_str(), info.symlink_target.as_str(), info.kind()),
        (link.as_str(), target.as_str(), FileKind::File)
    );
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    write(&sandbox, to(&dangling), b"made").await.unwrap();
    assert_eq!(fs::read_to_string(sandbox.path("workspace/made/later")).unwrap(), "made");
    assert_eq!(read(&sandbox, from(&link)).await.unwrap().1, b"new");
}

#[tokio::test]
async fn relative_paths_begin_where_the_contract_says() {
    let sandbox = Sandbox::start().await;
    let relative = |user: &str| WriteFileOpen { user: user.into(), ..to("here") };
    assert_eq!(write(&sandbox, relative(""), b"").await.unwrap().path, sandbox.path("workspace/here"));
    assert_eq!(write(&sandbox, relative("user"), b"").await.unwrap().path, sandbox.path("home/here"));
    let chosen = Sandbox::with(Options { cwd_chosen: true, ..Options::default() }).await;
    assert_eq!(write(&chosen, relative("user"), b"").await.unwrap().path, chosen.path("cwd/here"));
    assert_eq!(read(&chosen, from("./x/../here")).await.unwrap().0.path, chosen.path("cwd/here"));
}

#[tokio::test]
async fn refusals_have_reasons() {
    let sandbox = Sandbox::start().await;
    let (file, directory, pipe) =
        (sandbox.path("workspace/file"), sandbox.path("workspace"), sandbox.path("workspace/pipe"));
    fs::write(&file, "").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("/workspace/.nullspace/x", sandbox.path("workspace/reserved")).unwrap();
    let below = format!("{file}/below");
    let reads = [
        ("/no/such/file", Reason::FileNotFound, Code::NotFound),
        (&directory, Reason::PathIsDirectory, Code::FailedPrecondition),
        (&below, Reason::PathNotDirectory, Code::FailedPrecondition),
        (&pipe, Reason::FileOperationFailed, Code::FailedPrecondition),
        ("/workspace/x/../.nullspace/y", Reason::InvalidRequest, Code::InvalidArgument),
        (&sandbox.path("workspace/reserved"), Reason::InvalidRequest, Code::InvalidArgument),
        ("", Reason::InvalidRequest, Code::InvalidArgument),
    ];
    for (path, expected, code) in reads {
        let status = read(&sandbox, from(path)).await.unwrap_err();
        assert_eq!((reason(&status), status.code()), (expected, code), "read {path:?}");
    }
    let writes = [
        (directory.as_str(), Reason::PathIsDirectory),
        (&format!("{directory}/new/"), Reason::PathIsDirectory),
        (&below, Reason::PathNotDirectory),
        (&format!("{file}/deeper/below"), Reason::PathNotDirectory),
        (&pipe, Reason::FileOperationFailed),
        ("/dev/null", Reason::FileOperationFailed),
        ("/workspace/.nullspace/x", Reason::InvalidRequest),
        (&sandbox.path("workspace/reserved"), Reason::InvalidRequest),
        ("/proc/nothing", Reason::FileNotFound),
    ];
    for (path, expected) in writes {
        let status = write(&sandbox, to(path), b"x").await.unwrap_err();
        assert_eq!(reason(&status), expected, "write {path:?}: {status:?}");
    }
    let status = write(&sandbox, WriteFileOpen { mode: Some(0o10000), ..to(&file) }, b"").await.unwrap_err();
    assert_eq!(reason(&status), Reason::InvalidRequest);
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_no_trace() {
    let sandbox = Sandbox::start().await;
    let disk = sandbox.path("disk");
    fs::create_dir(&disk).unwrap();
    let options = Some(c"size=1m");
    if rustix::mount::mount("none", disk.as_str(), "tmpfs", rustix::mount::MountFlags::empty(), options).is_err() {
        return;
    }
    let status = write(&sandbox, to(&format!("{disk}/below/file")), &vec![1; 3 << 20]).await;
    let left = names(&disk);
    rustix::mount::unmount(disk.as_str(), rustix::mount::UnmountFlags::empty()).unwrap();
    let status = status.unwrap_err();
    assert_eq!((reason(&status), status.code()), (Reason::DiskFull, Code::ResourceExhausted));
    assert!(left.is_empty(), "{left:?}");
}
