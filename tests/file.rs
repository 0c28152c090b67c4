//! FileService.

use nullspace_proto::{
    Reason,
    v1::{
        FileInfo, FileKind, ReadFileRequest, WriteFileFinish, WriteFileOpen, WriteFileRequest,
        read_file_response::Frame as Read, write_file_request::Frame as Write,
    },
};
use nullspace_tests::{Result, TestSandbox, eventually, refused, rounds};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

fn frame(frame: Write) -> WriteFileRequest {
    WriteFileRequest { frame: Some(frame) }
}

async fn send(sandbox: &TestSandbox, frames: Vec<Write>) -> Result<FileInfo, Status> {
    let frames = tokio_stream::iter(frames.into_iter().map(frame).collect::<Vec<_>>());
    let answer = sandbox.api.files().write_file(frames).await?.into_inner();
    Ok(answer.file.unwrap_or_default())
}

fn open(sandbox: &TestSandbox, path: &str) -> WriteFileOpen {
    WriteFileOpen { sandbox_id: sandbox.id(), path: path.into(), ..Default::default() }
}

async fn write_with(sandbox: &TestSandbox, open: WriteFileOpen, bytes: &[u8]) -> Result<FileInfo, Status> {
    let mut frames = vec![Write::Open(open)];
    frames.extend(bytes.chunks(1 << 20).map(|chunk| Write::Data(chunk.to_vec().into())));
    frames.push(Write::Finish(WriteFileFinish { size_bytes: bytes.len() as i64 }));
    send(sandbox, frames).await
}

pub async fn write(sandbox: &TestSandbox, path: &str, bytes: &[u8]) -> Result<FileInfo, Status> {
    write_with(sandbox, open(sandbox, path), bytes).await
}

async fn read_with(sandbox: &TestSandbox, request: ReadFileRequest) -> Result<(FileInfo, Vec<u8>), Status> {
    let request = ReadFileRequest { sandbox_id: sandbox.id(), ..request };
    let mut frames = sandbox.api.files().read_file(request).await?.into_inner();
    let (mut info, mut bytes) = (FileInfo::default(), Vec::new());
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Read::Info(found)) => info = found,
            Some(Read::Data(data)) => bytes.extend_from_slice(&data),
            Some(Read::End(end)) => {
                assert_eq!(end.size_bytes, bytes.len() as i64);
                return Ok((info, bytes));
            }
            None => {}
        }
    }
    Err(Status::unknown("the read ended without its end"))
}

async fn read(sandbox: &TestSandbox, path: &str) -> Result<Vec<u8>, Status> {
    Ok(read_with(sandbox, ReadFileRequest { path: path.into(), ..Default::default() }).await?.1)
}

#[tokio::test]
async fn what_is_written_is_read() -> Result {
    let sandbox = TestSandbox::new().await?;
    let size = rounds(20 << 20, 200 << 20);
    let bytes: Vec<u8> = (0..size).map(|n| (n * 7 + n / 251) as u8).collect();
    for content in [b"".as_slice(), b"text\n", &[0, 255, 13, 10, 128], &bytes] {
        let info = write(&sandbox, "/data/deep/file.bin", content).await?;
        assert_eq!((info.name.as_str(), info.path.as_str()), ("file.bin", "/data/deep/file.bin"));
        assert_eq!((info.kind(), info.size_bytes, info.mode), (FileKind::File, content.len() as i64, 0o644));
        assert_eq!(
            (info.permissions.as_str(), info.owner.as_str(), info.group.as_str()),
            ("-rw-r--r--", "root", "root")
        );
        assert!(read(&sandbox, "/data/deep/file.bin").await? == content);
    }
    let part = ReadFileRequest {
        path: "/data/deep/file.bin".into(),
        offset: 1_000_000,
        length: Some(3_000_000),
        ..Default::default()
    };
    assert!(read_with(&sandbox, part).await?.1 == bytes[1_000_000..4_000_000]);
    assert_eq!(sandbox.sh("ls -A /data/deep").await?, "file.bin\n");
    Ok(())
}

#[tokio::test]
async fn a_relative_path_begins_where_the_contract_says() -> Result {
    let sandbox = TestSandbox::new().await?;
    assert_eq!(write(&sandbox, "a.txt", b"1").await?.path, "/workspace/a.txt");
    let mine = WriteFileOpen { user: "user".into(), ..open(&sandbox, "b/c.txt") };
    let info = write_with(&sandbox, mine, b"2").await?;
    assert_eq!((info.path.as_str(), info.owner.as_str()), ("/home/user/b/c.txt", "user"));
    assert_eq!(sandbox.sh("stat -c '%U %a' /home/user/b /home/user/b/c.txt").await?, "user 755\nuser 644\n");
    let spec = nullspace_proto::v1::SandboxSpec { cwd: "/srv/app".into(), ..nullspace_tests::small() };
    let chosen = TestSandbox::with(&sandbox.api, spec).await?;
    let info = write_with(&chosen, WriteFileOpen { user: "user".into(), ..open(&chosen, "d.txt") }, b"3").await?;
    assert_eq!(info.path, "/srv/app/d.txt");
    Ok(())
}

#[tokio::test]
async fn a_file_appears_whole_or_not_at_all() -> Result {
    let sandbox = TestSandbox::new().await?;
    write(&sandbox, "/tmp/d/kept", b"old").await?;
    let open = || Write::Open(open(&sandbox, "/tmp/d/kept"));
    let data = || Write::Data("new content".into());
    // Without finish, with a wrong size, without open, with a second open.
    refused(send(&sandbox, vec![open(), data()]).await, Reason::InvalidRequest);
    refused(
        send(&sandbox, vec![open(), data(), Write::Finish(WriteFileFinish { size_bytes: 3 })]).await,
        Reason::InvalidRequest,
    );
    refused(send(&sandbox, vec![data()]).await, Reason::InvalidRequest);
    refused(send(&sandbox, vec![open(), open(), data()]).await, Reason::InvalidRequest);
    // A writer that leaves in the middle.
    let (frames, stream) = mpsc::channel(16);
    let mut files = sandbox.api.files();
    let writing = tokio::spawn(async move { files.write_file(ReceiverStream::new(stream)).await });
    frames.send(frame(open())).await?;
    // Enough that it is not held back in memory.
    for _ in 0..8 {
        frames.send(frame(Write::Data(vec![1; 1 << 20].into()))).await?;
    }
    eventually("the temporary file is there", std::time::Duration::from_secs(5), async || {
        Ok(sandbox.sh("ls -A /tmp/d | wc -l").await? == "2\n")
    })
    .await?;
    writing.abort();
    eventually("the temporary file is gone", std::time::Duration::from_secs(5), async || {
        Ok(sandbox.sh("ls -A /tmp/d").await? == "kept\n")
    })
    .await?;
    assert_eq!(read(&sandbox, "/tmp/d/kept").await?, b"old");
    Ok(())
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_a_link_its_target() -> Result {
    let sandbox = TestSandbox::new().await?;
    sandbox
        .sh("echo old > /tmp/script; chmod 750 /tmp/script; chown user /tmp/script; ln -s /tmp/script /tmp/link")
        .await?;
    assert_eq!(write(&sandbox, "/tmp/link", b"new\n").await?.mode, 0o750);
    assert_eq!(
        sandbox.sh("stat -c '%s %a %U' /tmp/script; readlink /tmp/link; cat /tmp/script").await?,
        "4 750 user\n/tmp/script\nnew\n"
    );
    let made = WriteFileOpen { mode: Some(0o600), ..open(&sandbox, "/tmp/secret") };
    assert_eq!(write_with(&sandbox, made, b"x").await?.mode, 0o600);
    Ok(())
}

#[tokio::test]
async fn a_bad_path_is_refused_by_what_is_wrong() -> Result {
    let sandbox = TestSandbox::new().await?;
    sandbox
        .sh("echo x > /tmp/file; mkdir /tmp/dir; mkdir -p /workspace/.nullspace; ln -s /workspace/.nullspace /tmp/sly")
        .await?;
    for (path, reason) in [
        ("/tmp/missing", Reason::FileNotFound),
        ("/tmp/dir", Reason::PathIsDirectory),
        ("/tmp/file/below", Reason::PathNotDirectory),
        ("", Reason::InvalidRequest),
        ("/workspace/.nullspace/x", Reason::InvalidRequest),
        ("/workspace/other/../.nullspace/x", Reason::InvalidRequest),
        ("/tmp/sly/x", Reason::InvalidRequest),
        (&format!("/tmp/{}", "x".repeat(4_096)), Reason::InvalidRequest),
    ] {
        refused(read(&sandbox, path).await, reason);
    }
    for (path, reason) in [
        ("/tmp/dir", Reason::PathIsDirectory),
        ("/tmp/file/below", Reason::PathNotDirectory),
        ("", Reason::InvalidRequest),
        ("/workspace/.nullspace/x", Reason::InvalidRequest),
        ("/tmp/sly/x", Reason::InvalidRequest),
        ("/proc/new", Reason::FileOperationFailed),
    ] {
        let outcome = write(&sandbox, path, b"x").await;
        let status = outcome.expect_err(path);
        let found = nullspace_proto::Error::reason_of(&status);
        let other = (path == "/proc/new").then_some(Reason::FilePermissionDenied);
        assert!(
            found == Some(reason)
                || found.is_some() && found == other
                || found == Some(Reason::FileNotFound) && other.is_some(),
            "{path}: {status:?}"
        );
    }
    let nobody = WriteFileOpen { user: "no-such-user".into(), ..open(&sandbox, "/tmp/x") };
    refused(write_with(&sandbox, nobody, b"").await, Reason::UserNotFound);
    let mode = WriteFileOpen { mode: Some(0o10000), ..open(&sandbox, "/tmp/x") };
    refused(write_with(&sandbox, mode, b"").await, Reason::InvalidRequest);
    let before = ReadFileRequest { path: "/tmp/file".into(), offset: -1, ..Default::default() };
    refused(read_with(&sandbox, before).await, Reason::InvalidRequest);
    let after = ReadFileRequest { path: "/tmp/file".into(), offset: 99, ..Default::default() };
    assert_eq!(read_with(&sandbox, after).await?.1, b"");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_no_half_file() -> Result {
    let sandbox = TestSandbox::new().await?;
    sandbox.sh("head -c 500000000 /dev/zero > /workspace/filler; mkdir /tmp/d").await?;
    refused(write(&sandbox, "/tmp/d/big", &vec![1; 64 << 20]).await, Reason::DiskFull);
    assert_eq!(sandbox.sh("ls -A /tmp/d; rm /workspace/filler").await?, "");
    write(&sandbox, "/tmp/d/big", &vec![1; 8 << 20]).await?;
    Ok(())
}
