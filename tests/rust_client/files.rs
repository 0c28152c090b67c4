//! Files through the Rust client.

use nullspace::{Bytes, FileKind, Reason};
use nullspace_tests::Result;
use tokio_stream::StreamExt as _;

use super::{refused, sandbox};

#[tokio::test]
async fn a_file_is_written_and_read() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let files = sandbox.files();
    let content: Vec<u8> = (0..=255).cycle().take(5_000_001).collect();
    let info = files.write("/srv/new/blob", content.clone()).user("user").mode(0o600).await?;
    assert_eq!((info.path.as_str(), info.kind, info.size_bytes), ("/srv/new/blob", FileKind::File, 5_000_001));
    assert_eq!((info.mode, info.permissions.as_str(), info.owner.as_str()), (0o600, "-rw-------", "user"));
    assert!(files.read("/srv/new/blob").await? == content);
    assert_eq!(files.read("/srv/new/blob").offset(255).length(3).await?, vec![255, 0, 1]);

    let mut stream = files.read("/srv/new/blob").stream().await?;
    assert_eq!(stream.info().size_bytes, 5_000_001);
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    assert!(all == content);

    files.write("note", "grüße\n").await?;
    assert_eq!(files.read("/workspace/note").text().await?, "grüße\n");
    files.write("empty", Bytes::new()).await?;
    assert_eq!(files.read("empty").await?, "");
    Ok(())
}

#[tokio::test]
async fn a_file_is_written_from_pieces_or_not_at_all() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let files = sandbox.files();
    let pieces = || (0..300).map(|number| Ok::<_, std::io::Error>(Bytes::from(vec![number as u8; 10_000])));
    let info = files.write_stream("/tmp/d/whole", tokio_stream::iter(pieces())).await?;
    assert_eq!(info.size_bytes, 3_000_000);
    let expected: Vec<u8> = (0..300).flat_map(|number| vec![number as u8; 10_000]).collect();
    assert!(files.read("/tmp/d/whole").await? == expected);

    let broken = pieces().chain([Err(std::io::Error::other("the disk of the caller"))]);
    let outcome = files.write_stream("/tmp/d/half", tokio_stream::iter(broken)).await;
    assert!(refused(outcome, Reason::SourceFailed).message().contains("the disk of the caller"));
    assert_eq!(sandbox.commands().run("ls").args(["-A", "/tmp/d"]).await?.stdout_text(), "whole\n");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_read_or_written_is_refused_by_reason() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let files = sandbox.files();
    refused(files.read("/nowhere").await, Reason::FileNotFound);
    refused(files.read("/nowhere").stream().await, Reason::FileNotFound);
    refused(files.read("/etc").await, Reason::PathIsDirectory);
    refused(files.read("/etc/passwd/x").await, Reason::PathNotDirectory);
    refused(files.read("/etc/passwd").offset(-1).await, Reason::InvalidRequest);
    refused(files.write("/etc", "x").await, Reason::PathIsDirectory);
    refused(files.write("/proc/x/y", "x").await, Reason::FilePermissionDenied);
    refused(files.write("/tmp/x", "x").user("nobody-such").await, Reason::UserNotFound);
    refused(files.write("/tmp/x", "x").mode(0o10_000).await, Reason::InvalidRequest);
    refused(files.write("/workspace/.nullspace/x", "x").await, Reason::InvalidRequest);
    // Refused while it is still being sent.
    refused(files.write("/etc", vec![0; 64 << 20]).await, Reason::PathIsDirectory);
    refused(files.write("/tmp/big", vec![1; 600 << 20]).await, Reason::DiskFull);
    assert_eq!(files.write("/tmp/small", "fits").await?.size_bytes, 4);
    Ok(())
}
