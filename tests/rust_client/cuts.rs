//! What the Rust client makes of connections that break and servers that die.

use std::time::{Duration, Instant};

use nullspace::{Bytes, Client, Reason};
use nullspace_tests::{Cutter, Result, Server, TestSandbox, eventually, patient, required, rounds, small};
use sha2::{Digest as _, Sha256};

use super::refused;

/// Between two cuts.
const PAUSE: Duration = Duration::from_millis(20);

/// A client behind a way that can be cut, and a sandbox.
async fn behind_a_cutter() -> Result<(Cutter, TestSandbox, nullspace::Sandbox)> {
    let owner = TestSandbox::new().await?;
    let cutter = Cutter::to(&required("NULLSPACE_API_URL")?).await?;
    let client = Client::builder().url(cutter.url()).build()?;
    // The server is known to be there: from now on it is waited for.
    client.system().version().await?;
    let sandbox = client.sandbox(owner.id());
    Ok((cutter, owner, sandbox))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn output_survives_cuts_in_its_middle() -> Result {
    let (cutter, _owner, sandbox) = behind_a_cutter().await?;
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    let wanted = rounds(20, 200);
    let reading = async {
        while cutter.cuts() < wanted {
            let result = sandbox.commands().run("seq").args(["1", "300000"]).timeout(Duration::from_secs(120)).await?;
            assert!(result.stdout == expected, "{} of {} bytes", result.stdout.len(), expected.len());
            assert_eq!((result.code(), result.lost_bytes), (0, 0));
        }
        Result::Ok(())
    };
    tokio::time::timeout(patient(Duration::from_secs(300)), cutter.every(PAUSE, reading)).await?
}

#[tokio::test]
async fn a_log_that_is_read_again_survives_cuts() -> Result {
    let (cutter, _owner, sandbox) = behind_a_cutter().await?;
    let command = sandbox.commands().shell("seq 1 300000; echo done >&2").start().await?;
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    let wanted = rounds(20, 200);
    let reading = async {
        while cutter.cuts() < wanted {
            let result = command.result().await?;
            assert!(result.stdout == expected && result.stderr_text() == "done\n");
            assert_eq!(command.output().await?.output.len(), expected.len() + 5);
        }
        Result::Ok(())
    };
    tokio::time::timeout(patient(Duration::from_secs(300)), cutter.every(PAUSE, reading)).await?
}

#[tokio::test]
async fn input_survives_cuts_in_its_middle() -> Result {
    let (cutter, _owner, sandbox) = behind_a_cutter().await?;
    let input: Vec<u8> = (0..24_000_000_u32).map(|number| (number ^ (number >> 11)) as u8).collect();
    let expected = format!("{}  -\n", sha256(&input));
    let wanted = rounds(20, 200);
    let writing = async {
        while cutter.cuts() < wanted {
            // In pieces that are no frames, and whole.
            let pieces: Vec<_> =
                input.chunks(100_001).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
            let run = sandbox.commands().run("sha256sum").input_stream(tokio_stream::iter(pieces));
            assert_eq!(run.timeout(Duration::from_secs(120)).await?.stdout_text(), expected);
            let command = sandbox.commands().run("sha256sum").start().await?;
            command.write_input(input[..4_000_000].to_vec()).await?;
            command.write_input(input[4_000_000..].to_vec()).await?;
            command.close_input().await?;
            assert_eq!(command.result().await?.stdout_text(), expected);
        }
        Result::Ok(())
    };
    tokio::time::timeout(patient(Duration::from_secs(300)), cutter.every(PAUSE, writing)).await?
}

#[tokio::test]
async fn calls_and_files_survive_cuts() -> Result {
    let (cutter, _owner, sandbox) = behind_a_cutter().await?;
    let content: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let wanted = rounds(10, 100);
    let calling = async {
        while cutter.cuts() < wanted {
            assert!(sandbox.is_running().await?);
            let key = nullspace_proto::id::ulid();
            assert!(sandbox.files().write(format!("/tmp/{key}"), content.clone()).await.is_ok());
            assert!(sandbox.files().read(format!("/tmp/{key}")).await? == content);
            // Keyed: once, however often it was sent.
            let command =
                sandbox.commands().shell("echo run >> /tmp/runs; sleep 600").tag(key.as_str()).start().await?;
            assert_eq!(sandbox.commands().list().tag(key.as_str()).await?.len(), 1);
            assert_eq!(command.kill().await?.signal(), Some(9));
        }
        Result::Ok(())
    };
    // A transfer begins anew after each cut, so it needs a pause that it fits in.
    tokio::time::timeout(patient(Duration::from_secs(300)), cutter.every(PAUSE * 10, calling)).await?
}

#[tokio::test]
async fn a_killed_server_is_waited_for_and_no_byte_is_lost() -> Result {
    let mut server = Server::start(&[]).await?;
    let cutter = Cutter::to(&server.url()?).await?;
    let client = Client::builder().url(cutter.url()).api_key(server.key()?).build()?;
    let owner = TestSandbox::with(&server.api().await?, small()).await?;
    let sandbox = client.sandbox(owner.id());
    for _ in 0..rounds(2, 10) {
        let lines = "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); echo $i; [ $((i % 200)) -gt 0 ] || sleep 0.2; done";
        let run = sandbox.commands().shell(format!("{lines}; cat")).timeout(Duration::from_secs(120));
        let run = tokio::spawn(run.input(vec![b'x'; 3_000_000]).into_future());
        let waited = sandbox.commands().shell("sleep 3; exit 5").start().await?;
        let waiting = tokio::spawn(async move { waited.wait().await });
        eventually("it writes", Duration::from_secs(10), async || {
            Ok(sandbox.commands().list().await?.iter().any(|command| command.output_end > 1_000))
        })
        .await?;
        server.kill()?;
        cutter.cut();
        server.start_again().await?;
        cutter.lead_to(&server.url()?);
        let expected: String = (1..=2_000).map(|number| format!("{number}\n")).collect();
        let result = run.await??;
        assert_eq!(result.stdout[..expected.len()], *expected.as_bytes());
        assert_eq!(result.stdout.len(), expected.len() + 3_000_000);
        assert_eq!(waiting.await??.code(), 5);
    }
    sandbox.kill().await?;
    server.finish().await
}

#[tokio::test]
async fn a_run_that_is_cut_is_taken_up_again() -> Result {
    let cutter = Cutter::to(&required("NULLSPACE_API_URL")?).await?;
    let client = Client::builder().url(cutter.url()).api_key(required("NULLSPACE_API_KEY")?).build()?;
    client.system().version().await?;
    let line = "for i in 1 2 3 4 5 6; do seq $((i*50000-49999)) $((i*50000)); sleep 0.2; done; exit 7";
    let mark = nullspace_proto::id::ulid();
    let run = client.run_once("sh").args(["-c", line]).memory_mib(256).metadata("job", mark.as_str());
    let result = cutter.every(Duration::from_millis(100), run.into_future()).await?;
    let expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(cutter.cuts() > 3 && result.code() == 7 && result.stdout_text() == expected, "{} cuts", cutter.cuts());
    assert_eq!(client.list_sandboxes().metadata("job", mark.as_str()).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_server_that_stays_away_is_given_up_in_time() -> Result {
    let (cutter, _owner, sandbox) = behind_a_cutter().await?;
    let command = sandbox.commands().run("sleep").arg("600").start().await?;
    // Nothing listens there.
    cutter.lead_to("http://127.0.0.1:1");
    cutter.cut();
    let begun = Instant::now();
    refused(command.info().await, Reason::Transport);
    assert!(begun.elapsed() < patient(Duration::from_secs(15)), "{:?}", begun.elapsed());
    Ok(())
}
