//! Sandboxes that are started ahead: whoever gets one cannot tell it from
//! another, and whatever happens to the server, none is lost or taken twice.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nullspace_proto::{
    Reason, id,
    v1::{CreateSandboxRequest, GetSandboxRequest, ListSandboxesRequest, Sandbox, SandboxSpec, SandboxState},
};
use nullspace_tests::{Api, Result, Server, TestSandbox, eventually, refused, required, rounds, small};
use prost_types::{Struct, Value, value::Kind};
use rustix::process::{Pid, Signal, kill_process};

/// How long a pool may take to fill.
const FILL: Duration = Duration::from_secs(60);

async fn pool(size: usize) -> Result<Server> {
    let server = Server::start(&args(size).iter().map(String::as_str).collect::<Vec<_>>()).await?;
    filled(&server, size).await?;
    Ok(server)
}

fn args(size: usize) -> [String; 8] {
    let text = [
        "--log",
        "info,nullspaced::sandbox::warm=debug",
        "--pool-memory",
        "4096",
        "--pool-size",
        "",
        "--pool-ready",
        "",
    ];
    text.map(|text| if text.is_empty() { size.to_string() } else { text.to_owned() })
}

/// Executions that have anything on the host.
fn executions(server: &Server) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(server.data().join("executions"))?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Executions that were started ahead, as the log tells, and still are there.
fn ahead(server: &Server) -> Result<BTreeSet<String>> {
    let log = server.log();
    let ahead = log.lines().filter(|line| line.contains("started ahead"));
    let named = ahead.filter_map(|line| Some(line.split_once("execution=\"")?.1.split_once('"')?.0.to_owned()));
    let there = executions(server)?;
    Ok(named.filter(|id| there.contains(id)).collect())
}

/// Those that nobody has taken.
async fn ready(server: &Server) -> Result<BTreeSet<String>> {
    let taken: BTreeSet<_> =
        listed(&server.api().await?).await?.into_iter().map(|sandbox| sandbox.execution_id).collect();
    Ok(ahead(server)?.difference(&taken).cloned().collect())
}

async fn listed(api: &Api) -> Result<Vec<Sandbox>> {
    let request = ListSandboxesRequest { page_size: Some(100), ..Default::default() };
    Ok(api.sandboxes().list_sandboxes(request).await?.into_inner().sandboxes)
}

/// Waits until so many are ready, and nothing else is on the host but sandboxes.
async fn filled(server: &Server, size: usize) -> Result {
    let full = async || {
        let ready = ready(server).await?;
        let sandboxes = listed(&server.api().await?).await?.into_iter().map(|sandbox| sandbox.execution_id);
        Ok(ready.len() == size && executions(server)? == sandboxes.chain(ready).collect())
    };
    eventually("the pool is full", FILL, full).await
}

async fn create(api: &Api) -> Result<TestSandbox> {
    TestSandbox::with(api, SandboxSpec::default()).await
}

#[tokio::test]
async fn a_ready_sandbox_becomes_what_was_asked_for() -> Result {
    let server = pool(2).await?;
    let (api, before) = (server.api().await?, ready(&server).await?);
    assert_eq!(listed(&api).await?, [], "members are nobody's sandboxes");
    let member = |kind| Some(Struct { fields: [("n".to_owned(), Value { kind: Some(kind) })].into() });
    let spec = |n: f64| SandboxSpec {
        metadata: member(Kind::NumberValue(n)),
        envs: [("GREETING".to_owned(), format!("hello {n}"))].into(),
        cwd: format!("/srv/{n}"),
        ..Default::default()
    };
    let one = TestSandbox::with(&api, spec(1.0)).await?;
    let two = TestSandbox::with(&api, spec(2.0)).await?;
    let mut own = Vec::new();
    for (sandbox, n) in [(&one, 1.0), (&two, 2.0)] {
        let made = &sandbox.sandbox;
        assert!(before.contains(&made.execution_id), "not from the pool: {}", server.log());
        assert_eq!((made.state(), made.incarnation, &made.metadata), (SandboxState::Running, 1, &spec(n).metadata));
        assert_eq!(sandbox.sh("echo $GREETING; pwd").await?, format!("hello {n}\n/srv/{n}\n"));
        let request = GetSandboxRequest { sandbox_id: sandbox.id(), ..Default::default() };
        assert_eq!(api.sandboxes().get_sandbox(request).await?.into_inner().sandbox.as_ref(), Some(made));
        for line in [
            "hostname",
            "cat /etc/machine-id",
            "od -An -N16 -tx1 /dev/urandom",
            "python3 -c 'import random; print(random.random())'",
        ] {
            own.push(sandbox.sh(line).await?);
        }
    }
    assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), 8, "{own:?}");
    assert_ne!(one.sandbox.execution_id, two.sandbox.execution_id);
    drop((one, two));
    server.finish().await
}

#[tokio::test]
async fn a_burst_is_served_from_the_pool() -> Result {
    let size = rounds(12, 50);
    let server = pool(size).await?;
    let (api, before) = (server.api().await?, ready(&server).await?);
    let begun = Instant::now();
    let creating: Vec<_> = (0..size)
        .map(|_| {
            let api = api.clone();
            tokio::spawn(async move {
                let sandbox = create(&api).await?;
                assert_eq!(sandbox.sh("echo here").await?, "here\n");
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(sandbox)
            })
        })
        .collect();
    let mut made = Vec::new();
    for sandbox in creating {
        made.push(sandbox.await??);
    }
    let took = begun.elapsed();
    println!("{size} sandboxes, each with a command, in {took:?}");
    let taken: BTreeSet<_> = made.iter().map(|sandbox| sandbox.sandbox.execution_id.clone()).collect();
    assert_eq!(taken, before, "each member was taken once: {}", server.log());
    drop(made);
    server.finish().await
}

#[tokio::test]
async fn another_shape_boots_and_then_is_started_ahead() -> Result {
    let server = pool(1).await?;
    let (api, before) = (server.api().await?, ready(&server).await?);
    let spec = SandboxSpec { internet_access: Some(false), ..Default::default() };
    for spec in [small(), small(), spec] {
        let sandbox = TestSandbox::with(&api, spec).await?;
        assert!(!ahead(&server)?.contains(&sandbox.sandbox.execution_id), "{}", server.log());
        assert_eq!(sandbox.sh("echo cold").await?, "cold\n");
    }
    // Two of a shape announce more of it.
    filled(&server, 2).await?;
    let sandbox = TestSandbox::with(&api, small()).await?;
    assert!(ahead(&server)?.contains(&sandbox.sandbox.execution_id) && !before.contains(&sandbox.sandbox.execution_id));
    let disk: u64 = sandbox.sh("df -k --output=size / | tail -1").await?.trim().parse()?;
    assert_eq!(disk, 512 * 1024);
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn a_server_killed_with_a_pool_loses_and_leaks_nothing() -> Result {
    const SIZE: usize = 3;
    let mut server = pool(SIZE).await?;
    for round in 0..rounds(6, 50) {
        let api = server.api().await?;
        let requests: Vec<_> = (0..4)
            .map(|_| CreateSandboxRequest { idempotency_key: id::request(), spec: Some(SandboxSpec::default()) })
            .collect();
        let creating: Vec<_> = requests
            .iter()
            .map(|request| {
                let (mut sandboxes, request) = (api.sandboxes(), request.clone());
                tokio::spawn(async move { sandboxes.create_sandbox(request).await })
            })
            .collect();
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        tokio::time::sleep(Duration::from_micros(u64::from_le_bytes(bytes) % 60_000)).await;
        server.kill()?;
        server.start_again().await?;
        let api = server.api().await?;
        let mut made = Vec::new();
        for (request, created) in requests.into_iter().zip(creating) {
            let again = api.sandboxes().create_sandbox(request).await?.into_inner().sandbox.unwrap();
            if let Ok(created) = created.await? {
                assert_eq!(created.into_inner().sandbox.as_ref(), Some(&again), "round {round}");
            }
            made.push(TestSandbox { api: api.clone(), sandbox: again });
        }
        let executions: BTreeSet<_> = made.iter().map(|sandbox| sandbox.sandbox.execution_id.clone()).collect();
        assert_eq!(executions.len(), made.len(), "round {round}: an execution was taken twice");
        for sandbox in &made {
            assert_eq!(sandbox.sh("echo works").await?, "works\n", "round {round}");
        }
        for sandbox in listed(&api).await? {
            assert_eq!(sandbox.state(), SandboxState::Running, "round {round}: {sandbox:?}");
        }
        // What was acknowledged to nobody is gone, and the pool is whole.
        filled(&server, SIZE).await.map_err(|error| format!("round {round}: {error}\n{}", server.log()))?;
        drop(made);
    }
    server.finish().await
}

#[tokio::test]
async fn members_outlive_a_killed_server_and_not_a_stopped_one() -> Result {
    let mut server = pool(2).await?;
    let before = ready(&server).await?;
    server.kill()?;
    server.start_again().await?;
    let adopted = async || Ok(server.log().matches("started ahead was adopted").count() == 2);
    eventually("members are adopted", FILL, adopted).await?;
    let sandbox = create(&server.api().await?).await?;
    assert!(before.contains(&sandbox.sandbox.execution_id), "{}", server.log());

    server.stop().await?;
    assert_eq!(executions(&server)?, [sandbox.sandbox.execution_id.clone()].into());
    let things = server.host_things()?;
    for kind in ["/run/netns/", "runsc-sandbox"] {
        assert_eq!(things.iter().filter(|thing| thing.contains(kind)).count(), 1, "{things:#?}");
    }
    server.start_again().await?;
    let sandbox = TestSandbox { api: server.api().await?, sandbox: sandbox.sandbox.clone() };
    assert_eq!(sandbox.sh("echo still").await?, "still\n");
    drop(sandbox);
    server.finish().await
}

/// The one kernel that a server has on the host.
fn kernel(server: &Server) -> Result<Pid> {
    let kernel = server.host_things()?.into_iter().find(|thing| thing.contains("runsc-sandbox")).ok_or("no kernel")?;
    Pid::from_raw(kernel.split([' ', ':']).nth(1).ok_or("no pid")?.parse()?).ok_or_else(|| "no pid".into())
}

#[tokio::test]
async fn a_member_that_died_is_replaced() -> Result {
    let server = pool(1).await?;
    let before = ready(&server).await?;
    kill_process(kernel(&server)?, Signal::KILL)?;
    let replaced = async || {
        let now = executions(&server)?;
        Ok(now.len() == 1 && now.is_disjoint(&before) && now == ready(&server).await?)
    };
    eventually("another is ready", FILL, replaced).await?;
    let sandbox = create(&server.api().await?).await?;
    assert_eq!(sandbox.sh("echo alive").await?, "alive\n");
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn a_creation_whose_member_does_not_answer_boots() -> Result {
    let server = pool(1).await?;
    let before = ready(&server).await?;
    // It lives, so nobody has noticed.
    kill_process(kernel(&server)?, Signal::STOP)?;
    let request = CreateSandboxRequest { idempotency_key: id::request(), spec: Some(SandboxSpec::default()) };
    let api = server.api().await?;
    let made = api.sandboxes().create_sandbox(request.clone()).await?.into_inner();
    let sandbox = TestSandbox { api: api.clone(), sandbox: made.sandbox.clone().unwrap() };
    assert!(!before.contains(&sandbox.sandbox.execution_id), "{}", server.log());
    assert_eq!(sandbox.sh("echo other").await?, "other\n");
    assert_eq!(api.sandboxes().create_sandbox(request).await?.into_inner(), made);
    filled(&server, 1).await?;
    assert!(executions(&server)?.is_disjoint(&before), "what did not answer is removed");
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn idle_members_make_room_for_sandboxes() -> Result {
    let server = Server::start(&[
        "--pool-ready",
        "2",
        "--pool-size",
        "2",
        "--max-sandboxes",
        "3",
        "--log",
        "info,nullspaced::sandbox::warm=debug",
    ])
    .await?;
    filled(&server, 2).await?;
    let api = server.api().await?;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(TestSandbox::with(&api, small()).await?);
    }
    let status = refused(
        api.sandboxes().create_sandbox(CreateSandboxRequest { spec: Some(small()), ..Default::default() }).await,
        Reason::CapacityExceeded,
    );
    assert!(status.message().contains('3'), "{status:?}");
    made[0].destroy().await?;
    made.push(TestSandbox::with(&api, small()).await?);
    assert_eq!(made[3].sh("echo in").await?, "in\n");
    drop(made);
    server.finish().await
}

/// Assets whose agent is this file.
fn assets_with(agent: &Path, directory: &Path) -> Result {
    let given = required("NULLSPACE_ASSETS")?;
    fs::create_dir_all(directory)?;
    for shared in ["engines", "templates"] {
        let link = directory.join(shared);
        if !link.exists() {
            symlink(Path::new(&given).join(shared), link)?;
        }
    }
    let mut install = Command::new(required("NULLSPACED")?);
    install.args(["install", "--assets-dir"]).arg(directory).arg("agent").arg(agent);
    let output = install.output()?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
}

#[tokio::test]
async fn members_of_another_agent_are_replaced() -> Result {
    let directory = std::env::temp_dir().join(format!("nullspace-assets-{}", id::ulid()));
    let agent = Path::new(&required("NULLSPACE_ASSETS")?).join("agents/current/nullspace-agent");
    assets_with(&agent, &directory)?;
    let server =
        Server::with_assets(directory.clone(), &args(1).iter().map(String::as_str).collect::<Vec<_>>()).await?;
    filled(&server, 1).await?;
    let before = ready(&server).await?;

    let newer = directory.join("newer");
    fs::write(&newer, [fs::read(&agent)?, b"\n".to_vec()].concat())?;
    assets_with(&newer, &directory)?;
    let replaced = async || Ok(executions(&server)?.is_disjoint(&before));
    eventually("the old one is gone", FILL, replaced).await?;
    filled(&server, 1).await?;
    let sandbox = create(&server.api().await?).await?;
    assert!(ahead(&server)?.contains(&sandbox.sandbox.execution_id));
    assert_eq!(sandbox.sh("echo new").await?, "new\n");
    drop(sandbox);
    server.finish().await?;
    Ok(fs::remove_dir_all(directory)?)
}
