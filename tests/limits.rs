//! What a sandbox may use, and what happens past it: the sandbox lives, and the
//! host is none the wiser.

use std::{fs, time::Duration};

use nullspace_proto::{
    Reason,
    limits::MAX_PROCESSES,
    v1::{
        AttachOpen, DestroySandboxRequest, GetSandboxRequest, LifetimePolicy, ReadCommandOutputRequest, Resources,
        SandboxState, StartCommandRequest, TerminationReason, WaitCommandRequest,
        attach_command_response::Frame as Answer,
    },
};
use nullspace_tests::{
    Api, Bare, Result, Server, TestSandbox, argv, group_memory, patient, refused, seconds, shell, small,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

#[tokio::test]
async fn a_program_that_takes_too_much_memory_is_ended_alone() -> Result {
    let sandbox = TestSandbox::new().await?;
    let beside = sandbox.start(shell("echo beside; sleep 1000")).await?;
    for _ in 0..3 {
        let hog = "python3 -c 'import time\nkeep = []\nwhile True: keep.append(bytes(range(256)) * 4096)'";
        let finished = timeout(patient(Duration::from_secs(30)), sandbox.run(shell(hog))).await??;
        assert_eq!(
            (finished.signal(), finished.exit.reason()),
            (Some(9), TerminationReason::OutOfMemory),
            "{:?}",
            finished.exit
        );
    }
    assert_eq!(sandbox.sh("pgrep -c sleep").await?, "1\n", "the innocent one was ended");
    drop(beside);
    // What fits is let be.
    let fits = "python3 -c 'keep = bytes(range(256)) * (160 * 4096); print(len(keep) >> 20)'";
    assert_eq!(sandbox.sh(fits).await?, "160\n");
    Ok(())
}

#[tokio::test]
async fn a_program_near_the_limit_goes_on_after_the_server_was_killed() -> Result {
    let mut server = Server::start(&[]).await?;
    let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
    let line = "python3 -c 'import time\ntime.sleep(2)\nkeep = bytes(range(256)) * (210 * 4096)\n\
                print(len(keep) >> 20, flush=True)\ntime.sleep(1000)'";
    let open = || AttachOpen { command_id: "near".into(), ..Default::default() };
    drop(sandbox.attach(AttachOpen { start: Some(shell(line)), ..open() }).await?);
    server.kill()?;
    // Past what a server is told of: nobody is there to be told.
    let group = format!("nullspace-{}/{}", server.instance()?, sandbox.sandbox.execution_id);
    let grown = async || Ok(group_memory(&group)? > 205 << 20);
    nullspace_tests::eventually("the program has its memory", Duration::from_secs(30), grown).await?;
    server.start_again().await?;
    let sandbox = TestSandbox { api: server.api().await?, sandbox: sandbox.sandbox.clone() };
    let mut attached = sandbox.attach(open()).await?;
    let chunk = loop {
        if let Answer::Output(chunk) = attached.next().await? {
            break chunk;
        }
    };
    assert_eq!(chunk.data.as_ref(), b"210\n");
    // On cgroup v2 what tells of memory slows the group down until it is lifted.
    let execution = &sandbox.sandbox.execution_id;
    let high = format!("/sys/fs/cgroup/nullspace-{}/{execution}/memory.high", server.instance()?);
    if fs::exists(&high)? {
        let lifted = async || Ok(fs::read_to_string(&high)? == "max\n");
        nullspace_tests::eventually("the group is not slowed down", Duration::from_secs(5), lifted).await?;
    }
    drop((attached, sandbox));
    server.finish().await
}

#[tokio::test]
async fn a_full_disk_is_full_inside_only() -> Result {
    let sandbox = TestSandbox::new().await?;
    let said = sandbox
        .sh("dd if=/dev/zero of=/workspace/big bs=1M count=600 status=none || echo full; df -k --output=avail / | tail -1")
        .await?;
    let [full, left] = said.lines().collect::<Vec<_>>()[..] else { return Err(said.into()) };
    assert_eq!((full, left.trim()), ("full", "0"));
    // The agent and its commands go on, and what is deleted is free again.
    assert_eq!(
        sandbox
            .sh("rm /workspace/big; dd if=/dev/zero of=/workspace/half bs=1M count=300 status=none && echo wrote")
            .await?,
        "wrote\n"
    );
    Ok(())
}

#[tokio::test]
async fn a_fork_bomb_gets_eagain_and_the_sandbox_lives() -> Result {
    let sandbox = TestSandbox::with(
        &Api::shared().await?,
        nullspace_proto::v1::SandboxSpec {
            resources: Some(Resources { vcpus: Some(1), memory_mib: Some(2_048), disk_mib: Some(512) }),
            lifetime: Some(LifetimePolicy { timeout: seconds(3_600), ..Default::default() }),
            ..small()
        },
    )
    .await?;
    // It goes on when it is refused: the limit must hold every time. 11 is EAGAIN.
    let bomb = r#"while ($refused < 500) {
            $p = fork();
            if (!defined $p) { $error = $! + 0; $refused++ } elsif ($p) { $n++ } else { sleep 1000; exit }
        }
        $| = 1; print "$error $n\n"; kill 9, -$$;"#;
    let finished = timeout(patient(Duration::from_secs(120)), sandbox.run(argv(["perl", "-e", bomb]))).await??;
    let said = finished.text();
    let count = said.strip_prefix("11 ").and_then(|count| count.trim().parse::<i32>().ok());
    assert!(count.is_some_and(|count| (MAX_PROCESSES - 50..MAX_PROCESSES).contains(&count)), "{said:?} {finished:?}");
    assert_eq!(finished.signal(), Some(9));
    let alive = async || Ok(sandbox.run(shell("echo alive")).await.is_ok_and(|finished| finished.text() == "alive\n"));
    nullspace_tests::eventually("commands start again", Duration::from_secs(30), alive).await
}

/// The host's process that is the kernel of a sandbox.
fn sentry(execution: &str) -> Result<Pid> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
        if arguments.first() == Some(&b"runsc-sandbox".as_slice()) && arguments.contains(&execution.as_bytes()) {
            return Pid::from_raw(pid).ok_or_else(|| "pid 0".into());
        }
    }
    Err("no sentry".into())
}

#[tokio::test]
async fn the_death_of_a_kernel_is_said_at_once() -> Result {
    let sandbox = TestSandbox::new().await?;
    let attached = sandbox.start(shell("echo begun; sleep 1000")).await?;
    let id = attached.command_id.clone();
    let start =
        StartCommandRequest { sandbox_id: sandbox.id(), command_id: "other".into(), spec: Some(shell("sleep 1000")) };
    sandbox.api.commands().start_command(start).await?;
    let read =
        ReadCommandOutputRequest { sandbox_id: sandbox.id(), command_id: id, follow: true, ..Default::default() };
    let mut reading = sandbox.api.commands().read_command_output(read).await?.into_inner();
    let (mut commands, wait) = (
        sandbox.api.commands(),
        WaitCommandRequest { sandbox_id: sandbox.id(), command_id: "other".into(), wait: None },
    );
    let waiting = tokio::spawn(async move { commands.wait_command(wait).await });
    kill_process(sentry(&sandbox.sandbox.execution_id)?, Signal::KILL)?;

    // Every call that was open ends within the two seconds that are promised.
    let limit = patient(Duration::from_secs(2));
    refused(timeout(limit, attached.finish()).await?, Reason::AgentLost);
    refused(timeout(limit, waiting).await??, Reason::AgentLost);
    let ended = async {
        loop {
            match reading.message().await {
                Ok(Some(_)) => {}
                outcome => return outcome,
            }
        }
    };
    refused(timeout(limit, ended).await?, Reason::AgentLost);
    let get = || GetSandboxRequest { sandbox_id: sandbox.id(), ..Default::default() };
    let gone = async || {
        Ok(sandbox.api.sandboxes().get_sandbox(get()).await?.into_inner().sandbox.unwrap().state()
            == SandboxState::Error)
    };
    nullspace_tests::eventually("the record says so", Duration::from_secs(5), gone).await?;
    let start = StartCommandRequest { sandbox_id: sandbox.id(), command_id: "late".into(), spec: Some(shell("true")) };
    refused(sandbox.api.commands().start_command(start).await, Reason::AgentLost);
    assert!(sentry(&sandbox.sandbox.execution_id).is_err());
    let destroyed = sandbox.api.sandboxes().destroy_sandbox(DestroySandboxRequest { sandbox_id: sandbox.id() }).await?;
    assert_eq!(destroyed.into_inner().sandbox.unwrap().state(), SandboxState::Destroyed);
    Ok(())
}

#[tokio::test]
async fn the_first_sandbox_ends_beside_others() -> Result {
    let server = Server::start(&[]).await?;
    let api = server.api().await?;
    let (first, second) = (TestSandbox::with(&api, small()).await?, TestSandbox::with(&api, small()).await?);
    // What the engine made on cgroup v2, it waits for until it is empty.
    let name = &first.sandbox.execution_id;
    let state = fs::read(server.data().join(format!("runsc/{name}_sandbox:{name}.state")))?;
    let state: serde_json::Value = serde_json::from_slice(&state)?;
    if fs::exists("/sys/fs/cgroup/cgroup.controllers")? {
        let own = serde_json::json!([format!("/sys/fs/cgroup/nullspace-{}/{name}", server.instance()?)]);
        assert_eq!(state.pointer("/sandbox/cgroup/cgroupv2/own"), Some(&own));
    }
    first.destroy().await?;
    assert_eq!(second.sh("echo lives").await?, "lives\n");
    drop((first, second));
    server.finish().await
}

#[tokio::test]
async fn an_agent_at_rest_costs_at_most_two_mebibytes() -> Result {
    let server = Server::start(&[]).await?;
    let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
    let execution = sandbox.sandbox.execution_id.clone();
    let groups = format!("nullspace-{}", server.instance()?);
    let bare = Bare::new(&server, &execution)?.start(&format!("{groups}/bare"), &["/bin/sleep", "1000"])?;
    let cost = || {
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
            group_memory(&format!("{groups}/{execution}"))? - group_memory(&format!("{groups}/bare"))?,
        )
    };
    let settled = async || Ok(cost()? <= 2 << 20);
    let outcome = nullspace_tests::eventually("the agent costs at most 2 MiB", Duration::from_secs(20), settled).await;
    println!("an agent costs {} KiB over sleep", cost()? >> 10);
    drop((bare, sandbox));
    server.finish().await?;
    outcome
}
