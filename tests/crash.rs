//! A server that is killed loses nothing that it acknowledged, and leaves
//! nothing that it did not.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nullspace_proto::{
    Reason, id,
    v1::{
        AttachOpen, CommandSpec, CreateSandboxRequest, DestroySandboxRequest, GetSandboxRequest, LifetimePolicy,
        ListSandboxesRequest, LogPosition, OutputAck, Overflow, RunOnceRequest, Sandbox, SandboxSpec, SandboxState,
        StartCommandRequest, WaitCommandRequest, attach_command_request::Frame as Ask,
        attach_command_response::Frame as Answer, run_once_response::Frame,
    },
};
use nullspace_tests::{Api, Result, Server, TestSandbox, eventually, refused, rounds, shell, small};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use sha2::{Digest as _, Sha256};

const EVERY_STATE: [SandboxState; 5] = [
    SandboxState::Creating,
    SandboxState::Running,
    SandboxState::Destroying,
    SandboxState::Destroyed,
    SandboxState::Error,
];

async fn all(api: &Api) -> Result<Vec<Sandbox>> {
    let states = EVERY_STATE.map(|state| state as i32).to_vec();
    let request = ListSandboxesRequest { states, page_size: Some(100), ..Default::default() };
    Ok(api.sandboxes().list_sandboxes(request).await?.into_inner().sandboxes)
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

#[tokio::test]
async fn a_server_killed_at_any_step_leaves_nothing_stuck() -> Result {
    let mut server = Server::start(&[]).await?;
    for round in 0..rounds(6, 50) {
        let api = server.api().await?;
        let keep = TestSandbox::with(&api, small()).await?;
        let end = TestSandbox::with(&api, small()).await?;
        let request = CreateSandboxRequest { idempotency_key: id::request(), spec: Some(small()) };
        let (mut creating, mut ending) = (api.sandboxes(), api.sandboxes());
        let create = tokio::spawn({
            let request = request.clone();
            async move { creating.create_sandbox(request).await }
        });
        let destroy = DestroySandboxRequest { sandbox_id: end.id() };
        let ended = tokio::spawn(async move { ending.destroy_sandbox(destroy).await });
        tokio::time::sleep(Duration::from_micros(random(160_000))).await;
        server.kill()?;
        let (created, ended) = (create.await?, ended.await?);
        server.start_again().await?;
        let api = server.api().await?;

        // No record is stuck, and what was acknowledged is so.
        let settled = async || {
            let records = all(&api).await?;
            Ok(records
                .iter()
                .all(|sandbox| !matches!(sandbox.state(), SandboxState::Creating | SandboxState::Destroying)))
        };
        eventually("every record has settled", Duration::from_secs(20), settled).await?;
        let records = all(&api).await?;
        let state = |id: &str| records.iter().find(|sandbox| sandbox.id == id).map(Sandbox::state);
        assert_eq!(state(&keep.id()), Some(SandboxState::Running), "round {round}: {}", server.log());
        if ended.is_ok() {
            assert_eq!(state(&end.id()), Some(SandboxState::Destroyed), "round {round}");
        }
        // The same key gives the sandbox that was acknowledged, or one that runs.
        let again = api.sandboxes().create_sandbox(request).await?.into_inner().sandbox.unwrap();
        if let Ok(created) = created {
            assert_eq!(created.into_inner().sandbox.unwrap(), again, "round {round}");
        }
        let again = TestSandbox { api: api.clone(), sandbox: again };
        let keep = TestSandbox { api: api.clone(), sandbox: keep.sandbox.clone() };
        assert_eq!(again.sh("echo works").await?, "works\n");
        assert_eq!(keep.sh("echo still").await?, "still\n");
        let running = all(&api).await?.iter().filter(|sandbox| sandbox.state() == SandboxState::Running).count();
        let kernels = server.host_things()?.iter().filter(|thing| thing.contains("runsc-sandbox")).count();
        assert_eq!(running, kernels, "round {round}");
        keep.destroy().await?;
        again.destroy().await?;
        let end = DestroySandboxRequest { sandbox_id: end.id() };
        api.sandboxes().destroy_sandbox(end).await?;
    }
    server.finish().await
}

#[tokio::test]
async fn a_stopped_server_leaves_its_sandboxes_to_the_next() -> Result {
    let mut server = Server::start(&[]).await?;
    let api = server.api().await?;
    let sandbox = TestSandbox::with(&api, small()).await?;
    let start = StartCommandRequest {
        sandbox_id: sandbox.id(),
        command_id: "job".into(),
        spec: Some(shell("sleep 1; echo done; exit 5")),
    };
    api.commands().start_command(start).await?;
    let open = AttachOpen { command_id: "job".into(), ..Default::default() };
    let attached = sandbox.attach(open.clone()).await?;
    server.stop().await?;
    // The stream says that the server went, and not that the command ended.
    let status = attached.finish().await.expect_err("the server is gone");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    server.start_again().await?;
    let sandbox = TestSandbox { api: server.api().await?, sandbox: sandbox.sandbox.clone() };
    let finished = sandbox.attach(open).await?.finish().await?;
    assert_eq!((finished.text().as_str(), finished.code()), ("done\n", Some(5)));
    let get = GetSandboxRequest { sandbox_id: sandbox.id(), ..Default::default() };
    assert_eq!(sandbox.api.sandboxes().get_sandbox(get).await?.into_inner().sandbox.as_ref(), Some(&sandbox.sandbox));
    server.finish().await
}

#[tokio::test]
async fn output_goes_on_where_it_was_when_the_server_was_killed() -> Result {
    let mut server = Server::start(&[]).await?;
    let mut sandbox = TestSandbox::with(&server.api().await?, small()).await?;
    let spec = CommandSpec { overflow: Overflow::Block as i32, ..shell("seq 1 3000000") };
    let open = AttachOpen {
        command_id: id::command(),
        start: Some(spec),
        hold: true,
        client_id: "reader".into(),
        ..Default::default()
    };
    let (mut taken, mut kills) = (Vec::new(), 0);
    let mut exit = None;
    while exit.is_none() {
        let position =
            Some(LogPosition { execution_id: sandbox.sandbox.execution_id.clone(), offset: taken.len() as i64 });
        let mut attached = sandbox.attach(AttachOpen { position, ..open.clone() }).await?;
        let stop_at = taken.len() + 5_000_000;
        loop {
            match attached.next().await {
                Ok(Answer::Output(chunk)) => {
                    assert_eq!(chunk.offset, taken.len() as i64);
                    taken.extend_from_slice(&chunk.data);
                    let _ = attached.send(Ask::Ack(OutputAck { offset: taken.len() as i64 })).await;
                }
                Ok(Answer::Truncated(truncated)) => return Err(format!("{truncated:?}").into()),
                Ok(Answer::Exit(ended)) => {
                    exit = Some(ended);
                    break;
                }
                Ok(_) => {}
                Err(_) => break,
            }
            if taken.len() > stop_at && kills < 3 {
                kills += 1;
                server.kill()?;
                server.start_again().await?;
                sandbox = TestSandbox { api: server.api().await?, sandbox: sandbox.sandbox.clone() };
                break;
            }
        }
    }
    let expected: String = (1..=3_000_000).map(|n| format!("{n}\n")).collect();
    assert_eq!((kills, taken.len()), (3, expected.len()));
    assert_eq!(Sha256::digest(&taken), Sha256::digest(expected));
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn a_lifetime_ends_on_time_though_the_server_was_away() -> Result {
    let mut server = Server::start(&[]).await?;
    let api = server.api().await?;
    let lifetime = nullspace_proto::v1::LifetimePolicy {
        timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..Default::default()
    };
    let sandbox =
        TestSandbox::with(&api, nullspace_proto::v1::SandboxSpec { lifetime: Some(lifetime), ..small() }).await?;
    server.kill()?;
    server.start_again().await?;
    let api = server.api().await?;
    let get = || GetSandboxRequest { sandbox_id: sandbox.id(), ..Default::default() };
    let ended = async || {
        Ok(api.sandboxes().get_sandbox(get()).await?.into_inner().sandbox.unwrap().state() == SandboxState::Destroyed)
    };
    eventually("its life ends", Duration::from_secs(10), ended).await?;
    server.finish().await
}

#[tokio::test]
async fn a_run_does_not_outlive_its_server() -> Result {
    let mut server = Server::start(&[]).await?;
    let api = server.api().await?;
    let request = RunOnceRequest { sandbox: Some(small()), command: Some(shell("sleep 1000")), ..Default::default() };
    let mut frames = api.sandboxes().run_once(request).await?.into_inner();
    let Some(Frame::Sandbox(sandbox)) = frames.message().await?.and_then(|frame| frame.frame) else {
        return Err("no sandbox".into());
    };
    server.kill()?;
    server.start_again().await?;
    // It had no key, so nobody can come back for it.
    let api = server.api().await?;
    let get = || GetSandboxRequest { sandbox_id: sandbox.id.clone(), ..Default::default() };
    eventually("it is destroyed", Duration::from_secs(10), async || {
        let found = api.sandboxes().get_sandbox(get()).await?.into_inner().sandbox;
        Ok(found.is_some_and(|sandbox| sandbox.state() == SandboxState::Destroyed))
    })
    .await?;
    server.finish().await
}

/// A killed server's child that is yet to become another program has its lock.
#[tokio::test]
async fn a_lock_that_a_killed_server_left_for_a_moment_is_waited_for() -> Result {
    let mut server = Server::start(&[]).await?;
    server.kill()?;
    let lock = File::open(server.data().join("lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let log = server.data().join("server.log");
    let moment = async {
        let waits = async || Ok(fs::read_to_string(&log)?.contains("waiting for an earlier server"));
        eventually("it is waited for", Duration::from_secs(20), waits).await?;
        drop(lock);
        Result::Ok(())
    };
    let (started, ended): (Result, Result) = tokio::join!(server.start_again(), moment);
    started?;
    ended?;
    server.finish().await
}

/// A tool that a server started goes on when the server is killed.
#[tokio::test]
async fn a_tool_of_a_killed_server_is_waited_for() -> Result {
    let mut server = Server::start(&[]).await?;
    server.kill()?;
    let instance = server.instance()?;
    let mut tool = Command::new("ip");
    tool.arg0(format!("nullspace-{instance}/ip")).args(["-batch", "-"]).stdin(Stdio::piped());
    let mut tool = tool.spawn()?;
    let log = server.data().join("server.log");
    let mut ended = async || -> Result {
        let waits = async || Ok(fs::read_to_string(&log)?.contains("waiting for a tool"));
        eventually("it is waited for", Duration::from_secs(20), waits).await?;
        let mut input = tool.stdin.take().ok_or("no input")?;
        writeln!(input, "netns add ns-{instance}-7")?;
        drop(input);
        assert!(tool.wait()?.success());
        Ok(())
    };
    let (started, ended) = tokio::join!(server.start_again(), ended());
    started?;
    ended?;
    assert!(!Path::new(&format!("/run/netns/ns-{instance}-7")).exists(), "what it made is left");
    server.finish().await
}

/// A start that was ended early leaves a lock in the engine's state, which the
/// engine itself does not know, and a file that is yet to be written.
#[tokio::test]
async fn what_an_ended_start_left_is_removed() -> Result {
    let mut server = Server::start(&[]).await?;
    server.kill()?;
    let execution = nullspace_proto::id::ulid();
    let left =
        ["lock", "state"].map(|kind| server.data().join(format!("runsc/{execution}_sandbox:{execution}.{kind}")));
    left.iter().try_for_each(|path| fs::write(path, ""))?;
    let directory = server.data().join("executions").join(&execution);
    fs::create_dir(&directory)?;
    fs::write(directory.join("pid"), "")?;
    server.start_again().await?;
    assert!(server.log().contains(&execution), "it is not said that something was removed");
    assert!(left.iter().chain([&directory]).all(|path| !path.exists()), "{left:?}, {directory:?}");
    server.finish().await
}

/// A directory that cannot be removed, because something is mounted there.
struct Busy(PathBuf);

impl Busy {
    fn new(path: PathBuf) -> Result<Self> {
        mount("busy", &path, "tmpfs", MountFlags::empty(), None)?;
        Ok(Self(path))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What cannot be removed yet is told, and removed as soon as it can be.
#[tokio::test]
async fn an_end_that_failed_is_tried_again() -> Result {
    let server = Server::start(&[]).await?;
    let api = server.api().await?;
    let lifetime = LifetimePolicy { timeout: Some(Duration::from_secs(1).try_into()?), ..Default::default() };
    let sandbox = TestSandbox::with(&api, SandboxSpec { lifetime: Some(lifetime), ..small() }).await?;
    let busy = Busy::new(server.data().join("executions").join(&sandbox.sandbox.execution_id).join("volumes"))?;
    let is = async |state: SandboxState| {
        let get = GetSandboxRequest { sandbox_id: sandbox.id(), ..Default::default() };
        Ok(api.sandboxes().get_sandbox(get).await?.into_inner().sandbox.unwrap().state() == state)
    };
    let failed = async || Ok(server.log().contains("it is tried again"));
    eventually("the end has failed", Duration::from_secs(20), failed).await?;
    assert!(is(SandboxState::Destroying).await?);
    drop(busy);
    eventually("it is ended", Duration::from_secs(20), async || is(SandboxState::Destroyed).await).await?;
    server.finish().await
}

#[tokio::test]
async fn a_kernel_that_died_meanwhile_is_found_dead() -> Result {
    let mut server = Server::start(&[]).await?;
    let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
    server.kill()?;
    for thing in server.host_things()?.iter().filter(|thing| thing.contains("runsc-sandbox")) {
        let pid =
            thing.split([' ', ':']).nth(1).and_then(|pid| pid.parse().ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.ok_or("no pid")?, rustix::process::Signal::KILL)?;
    }
    server.start_again().await?;
    let api = server.api().await?;
    let wait = WaitCommandRequest { sandbox_id: sandbox.id(), command_id: "any".into(), wait: None };
    refused(api.commands().wait_command(wait).await, Reason::AgentLost);
    server.finish().await
}
