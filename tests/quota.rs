//! What one key and one sandbox may have at once: calls and streams past a limit
//! are refused, bytes are slowed down.

use std::time::{Duration, Instant};

use nullspace_proto::{
    Reason, id,
    v1::{AttachOpen, CreateApiKeyRequest, GetCommandRequest, StartCommandRequest, WaitCommandRequest, WhoAmIRequest},
};
use nullspace_tests::{Api, Attached, Result, Server, TestSandbox, eventually, refused, rounds, shell, small};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt as _;

/// What a refusal must tell: whose limit, the numbers, and when to come again.
#[track_caller]
fn over(outcome: Result<impl std::fmt::Debug, Status>, subject: &str, what: &str, limit: usize) {
    let status = refused(outcome, Reason::ConcurrencyLimitReached);
    let details = status.get_error_details();
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, subject);
    assert!(violation.description.contains(what), "{violation:?}");
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["limit"], limit.to_string());
    assert_eq!((metadata["used"].as_str(), metadata["asked"].as_str()), (limit.to_string().as_str(), "1"));
    assert!(details.retry_info().unwrap().retry_delay.is_some_and(|delay| delay > Duration::ZERO));
}

async fn follow(sandbox: &TestSandbox) -> Result<Attached, Status> {
    let mut attached = sandbox.start(shell("sleep 1000")).await?;
    attached.next().await?;
    Ok(attached)
}

fn unwatched<T>(outcome: Result<T, Status>) -> Result<(), Status> {
    outcome.map(drop)
}

#[tokio::test]
async fn a_key_has_so_many_calls_and_streams_at_once() -> Result {
    let server = Server::start(&["--key-calls", "4", "--key-streams", "2"]).await?;
    let api = server.api().await?;
    let me = api.system().who_am_i(WhoAmIRequest {}).await?.into_inner().key.unwrap();
    let subject = format!("api_key:{}", me.id);
    let other = api.system().create_api_key(CreateApiKeyRequest::default()).await?.into_inner().secret_key;
    let other = api.with_key(Some(&other))?;
    let sandbox = TestSandbox::with(&api, small()).await?;

    let streams = [follow(&sandbox).await?, follow(&sandbox).await?];
    over(unwatched(follow(&sandbox).await), &subject, "2 streams", 2);
    // Calls that are no streams go on, up to their own limit.
    let wait = WaitCommandRequest {
        sandbox_id: sandbox.id(),
        command_id: streams[0].command_id.clone(),
        wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
    };
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (mut commands, wait) = (api.commands(), wait.clone());
            // What looks whether they are there may be the one call too many.
            tokio::spawn(async move { while commands.wait_command(wait.clone()).await.is_err() {} })
        })
        .collect();
    let full = async || Ok(api.system().who_am_i(WhoAmIRequest {}).await.is_err());
    eventually("both wait", Duration::from_secs(5), full).await?;
    over(api.system().who_am_i(WhoAmIRequest {}).await, &subject, "4 calls", 4);
    // Another key of the same owner has its own.
    let others = TestSandbox { api: other.clone(), sandbox: sandbox.sandbox.clone() };
    let theirs = follow(&others).await?;

    // What ends makes room, also when the caller just leaves.
    for waiting in waiting {
        waiting.abort();
    }
    drop(streams);
    let room = async || Ok(follow(&sandbox).await.is_ok());
    eventually("there is room again", Duration::from_secs(5), room).await?;
    drop(theirs);
    std::mem::forget(others);
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn a_call_that_ended_makes_room_for_the_next() -> Result {
    let server = Server::start(&["--key-calls", "1", "--sandbox-calls", "1"]).await?;
    let api = server.api().await?;
    let sandbox = TestSandbox::with(&api, small()).await?;
    for _ in 0..rounds(300, 3_000) {
        api.system().who_am_i(WhoAmIRequest {}).await?;
        let get = GetCommandRequest { sandbox_id: sandbox.id(), command_id: "none".into() };
        refused(api.commands().get_command(get).await, Reason::CommandNotFound);
    }
    for _ in 0..rounds(30, 300) {
        // A stream whose last frame has come may be there for a moment yet.
        let one = async || Ok(sandbox.sh("echo one").await.is_ok_and(|text| text == "one\n"));
        eventually("there is room again", Duration::from_secs(5), one).await?;
    }
    // Its own end is a call as well.
    let ended = async || Ok(sandbox.destroy().await.is_ok());
    eventually("it can be destroyed", Duration::from_secs(5), ended).await?;
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn a_sandbox_has_so_many_calls_and_streams_at_once() -> Result {
    let server = Server::start(&["--sandbox-streams", "2", "--sandbox-calls", "3"]).await?;
    let api = server.api().await?;
    let (one, two) = (TestSandbox::with(&api, small()).await?, TestSandbox::with(&api, small()).await?);
    let subject = format!("sandbox:{}", one.id());
    let streams = [follow(&one).await?, follow(&one).await?];
    over(unwatched(follow(&one).await), &subject, "2 streams", 2);
    let get = GetCommandRequest { sandbox_id: one.id(), command_id: streams[0].command_id.clone() };
    api.commands().get_command(get).await?;
    assert_eq!(two.sh("echo free").await?, "free\n");
    drop(streams);
    let room = async || Ok(one.sh("echo room").await.is_ok());
    eventually("there is room again", Duration::from_secs(5), room).await?;
    drop((one, two));
    server.finish().await
}

/// How long a sandbox takes to tell 4 MB, which must come whole.
async fn output(sandbox: &TestSandbox) -> Result<Duration> {
    let begun = Instant::now();
    let finished = sandbox.run(shell("head -c 4000000 /dev/zero")).await?;
    assert_eq!((finished.code(), finished.stdout.len()), (Some(0), 4_000_000));
    Ok(begun.elapsed())
}

#[tokio::test]
async fn bytes_are_paced_and_not_lost() -> Result {
    const LEAST: Duration = Duration::from_millis(1_500);
    let server = Server::start(&["--sandbox-bytes-per-second", "2000000"]).await?;
    let api = server.api().await?;
    let (one, two) = (TestSandbox::with(&api, small()).await?, TestSandbox::with(&api, small()).await?);
    // Each has its own pace, and its streams share it.
    let (first, second, other) = tokio::join!(output(&one), output(&one), output(&two));
    let (first, second, other) = (first?, second?, other?);
    assert!(first.max(second) >= 2 * LEAST && other >= LEAST, "{first:?} {second:?} {other:?}");
    assert!(other < first.max(second), "{first:?} {second:?} {other:?}");

    // Also what goes in, and also in calls one after another.
    let begun = Instant::now();
    crate::file::write(&one, "/workspace/in", &[7; 4_000_000]).await?;
    assert!(begun.elapsed() >= LEAST, "{:?}", begun.elapsed());
    assert_eq!(one.sh("stat -c %s /workspace/in").await?, "4000000\n");
    drop((one, two));
    server.finish().await?;

    let server = Server::start(&["--key-bytes-per-second", "2000000"]).await?;
    let api = server.api().await?;
    let (one, two) = (TestSandbox::with(&api, small()).await?, TestSandbox::with(&api, small()).await?);
    let (first, second) = tokio::join!(output(&one), output(&two));
    assert!(first?.max(second?) >= 2 * LEAST);
    drop((one, two));
    server.finish().await
}

/// The defaults are out of the way of what programs do.
#[tokio::test]
async fn ten_thousand_calls_and_two_thousand_attaches_are_within_the_defaults() -> Result {
    let server = Server::start(&[]).await?;
    let api = server.api().await?;
    let sandbox = TestSandbox::with(&api, small()).await?;
    let start = StartCommandRequest {
        sandbox_id: sandbox.id(),
        command_id: "shared".into(),
        spec: Some(shell("echo ready; sleep 1000")),
    };
    api.commands().start_command(start).await?;
    let mut attached = Vec::new();
    while attached.len() < rounds(400, 2_000) {
        // A connection at the front has 256 streams.
        let api = Api::connect(&server.url()?, Some(&server.key()?)).await?;
        let through = TestSandbox { api, sandbox: sandbox.sandbox.clone() };
        for _ in 0..200 {
            let open = AttachOpen { command_id: "shared".into(), client_id: id::request(), ..Default::default() };
            attached.push(through.attach(open).await?);
        }
        std::mem::forget(through);
    }
    for attached in &mut attached {
        attached.next().await?;
    }
    let mut waiting = JoinSet::new();
    while waiting.len() < rounds(1_000, 10_000) {
        let api = Api::connect(&server.url()?, Some(&server.key()?)).await?;
        for _ in 0..250 {
            let wait = WaitCommandRequest {
                sandbox_id: sandbox.id(),
                command_id: "shared".into(),
                wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            };
            let mut commands = api.commands();
            waiting.spawn(async move { commands.wait_command(wait).await });
        }
    }
    sandbox.signal("shared", 9).await?;
    while let Some(waited) = waiting.join_next().await {
        assert!(waited??.into_inner().command.is_some_and(|command| command.exit.is_some()));
    }
    drop(attached);
    drop(sandbox);
    server.finish().await
}
