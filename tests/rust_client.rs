//! The Rust client: every method once, and what it promises beyond the API.

mod commands;
mod cuts;
mod files;
mod tls;

use std::{collections::BTreeSet, time::Duration};

use nullspace::{Client, Error, Reason, Sandbox, SandboxState};
use nullspace_tests::{Result, TestSandbox};
use tokio_stream::StreamExt as _;

/// The client of the server under test.
fn client() -> Result<Client> {
    Ok(Client::from_env()?)
}

/// A sandbox that goes away with its first part, as this client sees it.
async fn sandbox() -> Result<(TestSandbox, Sandbox)> {
    let owner = TestSandbox::new().await?;
    let sandbox = client()?.sandbox(owner.id());
    Ok((owner, sandbox))
}

/// Checks that a call was refused with a reason.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, reason: Reason) -> Error {
    let error = outcome.expect_err(reason.name());
    assert_eq!(error.reason(), reason, "{error:?}");
    assert!(!error.message().is_empty() && !error.suggested_action().is_empty());
    error
}

#[tokio::test]
async fn a_sandbox_lives_and_ends() -> Result {
    let client = client()?;
    let key = nullspace_proto::id::ulid();
    let create = || {
        let create = client.create_sandbox().template("base").vcpus(1).memory_mib(256).disk_mib(512).cwd("/srv/job");
        let create = create.timeout(Duration::from_secs(120)).env("COLOUR", "blue").internet_access(false);
        create.metadata("job", key.as_str()).metadata("size", 3).idempotency_key(key.as_str())
    };
    let sandbox = create().await?;
    assert_eq!(create().await?.id(), sandbox.id(), "the same key is the same sandbox");

    let info = sandbox.info().await?;
    assert_eq!((info.id.as_str(), info.state, info.template.as_str()), (sandbox.id(), SandboxState::Running, "base"));
    assert_eq!((info.resources.vcpus, info.resources.memory_mib, info.resources.disk_mib), (1, 256, 512));
    assert_eq!(info.metadata["size"], 3);
    assert_eq!((info.cwd.as_str(), info.internet_access), ("/srv/job", false));
    assert_eq!(info.lifetime.timeout, Some(Duration::from_secs(120)));
    assert!(info.created_at <= info.started_at && info.started_at < info.expires_at);
    let said = sandbox.commands().shell("echo $COLOUR; pwd").await?;
    assert_eq!(said.stdout_text(), "blue\n/srv/job\n");

    let connected = client.connect_sandbox(sandbox.id()).timeout(Duration::from_secs(300)).await?;
    assert!(connected.info().await?.expires_at > info.expires_at);
    let short = connected.set_timeout(Duration::from_secs(60)).await?;
    assert!(short.expires_at < info.expires_at);
    assert_eq!(connected.set_timeout(None).await?.expires_at, None);
    assert_eq!(sandbox.metrics().await?.last().ok_or("no sample")?.cpu_count, 1);

    let listed = client.list_sandboxes().metadata("job", key.as_str()).await?;
    assert_eq!(listed.iter().map(|info| &info.id).collect::<Vec<_>>(), [sandbox.id()]);
    assert!(sandbox.is_running().await?);
    assert_eq!(sandbox.kill().await?.state, SandboxState::Destroyed);
    assert_eq!(client.kill_sandbox(sandbox.id()).await?.state, SandboxState::Destroyed);
    assert!(!sandbox.is_running().await?);
    refused(sandbox.commands().run("true").await, Reason::SandboxStopped);
    refused(client.connect_sandbox(sandbox.id()).await, Reason::SandboxStopped);
    Ok(())
}

#[tokio::test]
async fn lists_come_page_by_page_and_whole() -> Result {
    let client = client()?;
    let job = nullspace_proto::id::ulid();
    let mut made = BTreeSet::new();
    for _ in 0..3 {
        let create = client.create_sandbox().vcpus(1).memory_mib(256).metadata("job", job.as_str());
        made.insert(create.timeout(Duration::from_secs(120)).await?.id().to_owned());
    }
    let list = || client.list_sandboxes().metadata("job", job.as_str()).state(SandboxState::Running);
    let first = list().page_size(2).page().await?;
    assert_eq!(first.entries.len(), 2);
    let token = first.next_page_token.ok_or("no second page")?;
    let second = list().page_size(2).page_token(token).page().await?;
    assert_eq!((second.entries.len(), second.next_page_token), (1, None));

    let mut found = BTreeSet::new();
    let mut entries = list().page_size(1).entries();
    while let Some(info) = entries.next().await {
        found.insert(info?.id);
    }
    assert_eq!(found, made);
    refused(list().page_token("nonsense").page().await, Reason::InvalidRequest);
    for id in made {
        client.kill_sandbox(id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_by_reason() -> Result {
    let client = client()?;
    let error = refused(client.create_sandbox().vcpus(0).memory_mib(1).cwd("a/b").await, Reason::InvalidRequest);
    let fields: BTreeSet<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["spec.cwd", "spec.resources.memory_mib", "spec.resources.vcpus"].into());
    assert_eq!((error.code(), error.is_retryable()), (nullspace::Code::InvalidArgument, false));
    assert!(error.request_id().is_some_and(|id| id.starts_with("req_")), "{error:?}");

    refused(client.create_sandbox().template("no-such").await, Reason::TemplateNotFound);
    refused(client.create_sandbox().metadata("n", 1_u64 << 60).await, Reason::InvalidRequest);
    refused(client.get_sandbox("sb_none").await, Reason::SandboxNotFound);
    refused(client.get_sandbox("not an id").await, Reason::SandboxNotFound);
    refused(client.sandbox("sb_none").files().read("/x").await, Reason::SandboxNotFound);
    refused(client.sandbox("sb_none").commands().run("true").await, Reason::SandboxNotFound);

    let url = nullspace_tests::required("NULLSPACE_API_URL")?;
    let stranger = Client::builder().url(url.as_str()).api_key("ns_live_wrong").build()?;
    refused(stranger.list_sandboxes().await, Reason::ApiKeyInvalid);
    refused(Client::builder().url("localhost:3000").build(), Reason::InvalidRequest);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once() -> Result {
    // Nothing listens there: the port was given to this test and given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let client = Client::builder().url(format!("http://127.0.0.1:{port}")).api_key("key").build()?;
    let begun = std::time::Instant::now();
    let error = refused(client.system().version().await, Reason::Transport);
    assert_eq!(error.code(), nullspace::Code::Unavailable);
    refused(client.sandbox("sb_x").commands().run("true").await, Reason::Transport);
    refused(client.run_once("true").await, Reason::Transport);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_run_once_leaves_nothing() -> Result {
    let client = client()?;
    let key = nullspace_proto::id::ulid();
    let run = client.run_once("sh").args(["-c", "echo $A; pwd; echo no >&2; exit 3"]).env("A", "b").cwd("/tmp");
    let result = run.vcpus(1).memory_mib(256).metadata("job", key.as_str()).idempotency_key(key.as_str()).await?;
    assert_eq!((result.code(), result.stdout_text(), result.stderr_text()), (3, "b\n/tmp\n".into(), "no\n".into()));
    let left = client.list_sandboxes().metadata("job", key.as_str()).await?;
    assert_eq!(left, []);

    let slow = client.run_once("sh").args(["-c", "echo begun; sleep 60"]).timeout(Duration::from_secs(1));
    let error = refused(slow.memory_mib(256).await, Reason::CommandTimedOut);
    assert_eq!(error.result().ok_or("no result")?.stdout_text(), "begun\n");
    refused(client.run_once("no-such-program").memory_mib(256).await, Reason::ProgramNotFound);
    Ok(())
}

#[tokio::test]
async fn the_system_tells_of_itself_and_makes_keys() -> Result {
    let system = client()?.system();
    assert!(!system.version().await?.version.is_empty());
    let capabilities = system.capabilities().await?;
    assert!(capabilities.engines.iter().any(|engine| engine.is_default && engine.vcpus.contains(&1)));
    assert!(capabilities.templates.iter().any(|template| template.name == "base"));
    assert_eq!(system.whoami().await?.scopes, ["*"]);

    let name = nullspace_proto::id::ulid();
    let create = system.create_api_key(name.as_str()).scope("sandbox.read").lifetime(Duration::from_secs(600));
    let created = create.idempotency_key(name.as_str()).await?;
    assert!(!format!("{created:?}").contains(&created.secret_key));
    assert!(created.key.expires_at > created.key.created_at);
    let url = nullspace_tests::required("NULLSPACE_API_URL")?;
    let limited = Client::builder().url(url).api_key(created.secret_key.as_str()).build()?;
    assert_eq!(limited.system().whoami().await?.id, created.key.id);
    let error = refused(limited.create_sandbox().await, Reason::ScopeMissing);
    assert_eq!(error.metadata("scope"), Some("sandbox.write"));

    let rotated = system.rotate_api_key().key(created.key.id.as_str()).await?;
    assert_eq!(
        (rotated.key.rotated_from.as_deref(), rotated.key.owner.as_str()),
        (Some(created.key.id.as_str()), "default")
    );
    refused(limited.system().whoami().await, Reason::ApiKeyInvalid);
    refused(system.rotate_api_key().key(created.key.id.as_str()).await, Reason::ApiKeyEnded);
    system.revoke_api_key(rotated.key.id).await?;

    let mut keys = system.list_api_keys().page_size(1).entries();
    let mut found = false;
    while let Some(key) = keys.next().await {
        found |= key?.name == name;
    }
    assert!(found);
    assert!(system.revoke_api_key(created.key.id.as_str()).await?.revoked_at.is_some());
    refused(limited.list_sandboxes().await, Reason::ApiKeyInvalid);
    refused(system.revoke_api_key("key_none").await, Reason::ApiKeyNotFound);
    Ok(())
}
