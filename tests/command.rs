//! CommandService.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nullspace_proto::{
    Reason,
    v1::{
        AttachOpen, CommandSignal, CommandSpec, InputChunk, ListCommandsRequest, StartCommandRequest,
        TerminationReason, WaitCommandRequest, attach_command_request::Frame as Ask,
        attach_command_response::Frame as Answer,
    },
};
use nullspace_tests::{Result, TestSandbox, argv, eventually, refused, rounds, seconds, shell};
use tokio::task::JoinSet;

#[tokio::test]
async fn argv_keeps_its_boundaries_and_a_shell_does_not() -> Result {
    let sandbox = TestSandbox::new().await?;
    let finished = sandbox.run(argv(["printf", "%s|", "a b", "", "$HOME", "*"])).await?;
    assert_eq!((finished.text().as_str(), finished.code()), ("a b||$HOME|*|", Some(0)));
    assert_eq!(finished.exit.reason(), TerminationReason::Exited);
    let finished = sandbox.run(shell("printf '%s|' a   b $HOME; echo oops >&2; exit 42")).await?;
    assert_eq!(
        (finished.text().as_str(), finished.stderr.as_slice(), finished.code()),
        ("a|b|/root|", b"oops\n".as_slice(), Some(42))
    );
    assert!(finished.started.pid > 1 && finished.exit.wall_time.is_some(), "{finished:?}");
    let finished = sandbox.run(argv(["python3", "-c", "keep = bytes(range(256)) * 100000; sum(keep)"])).await?;
    assert!(finished.exit.peak_memory_bytes > 25_000_000 && finished.exit.cpu_time.is_some(), "{finished:?}");
    Ok(())
}

#[tokio::test]
async fn a_command_has_its_user_directory_and_environment() -> Result {
    let sandbox = TestSandbox::new().await?;
    let line = "id -un; pwd; echo $HOME $A $B; sudo -n id -un; umask";
    let env = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "two words".to_owned())]);
    let finished = sandbox.run(CommandSpec { user: "user".into(), cwd: "/tmp".into(), env, ..shell(line) }).await?;
    assert_eq!(
        finished.text(),
        "user\n/tmp\n/home/user 1 two words\nroot\n0022\n",
        "{}",
        String::from_utf8_lossy(&finished.stderr)
    );
    assert_eq!((finished.started.user.as_str(), finished.started.cwd.as_str()), ("user", "/tmp"));
    assert!(finished.started.spec.unwrap().env.is_empty());
    // Nothing of one command is in the next.
    assert_eq!(sandbox.sh("id -un; pwd; echo [$A$B]").await?, "root\n/workspace\n[]\n");
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_says_why() -> Result {
    let sandbox = TestSandbox::new().await?;
    sandbox.sh("touch /tmp/plain; printf 'no format' > /tmp/odd; chmod +x /tmp/odd; printf '#!/no/such\\n' > /tmp/lost; chmod +x /tmp/lost").await?;
    for (spec, reason) in [
        (argv(["no-such-program"]), Reason::ProgramNotFound),
        (argv(["/no/such/program"]), Reason::ProgramNotFound),
        (argv(["/tmp/lost"]), Reason::ProgramNotFound),
        (argv(["/tmp/plain"]), Reason::ProgramNotExecutable),
        (argv(["/tmp"]), Reason::ProgramNotExecutable),
        (argv(["/tmp/odd"]), Reason::ProgramNotExecutable),
        (CommandSpec { cwd: "/no/such".into(), ..shell("true") }, Reason::WorkingDirectoryInvalid),
        (CommandSpec { cwd: "/tmp/plain".into(), ..shell("true") }, Reason::WorkingDirectoryInvalid),
        (CommandSpec { user: "nobody-here".into(), ..shell("true") }, Reason::UserNotFound),
        (CommandSpec { cwd: "relative".into(), ..shell("true") }, Reason::InvalidRequest),
        (CommandSpec { timeout: seconds(0), ..shell("true") }, Reason::InvalidRequest),
        (CommandSpec { timeout: seconds(-1), ..shell("true") }, Reason::InvalidRequest),
        (CommandSpec { timeout: seconds(i64::MAX), ..shell("true") }, Reason::InvalidRequest),
        (CommandSpec { retain_output_bytes: 1, ..shell("true") }, Reason::InvalidRequest),
        (CommandSpec::default(), Reason::InvalidRequest),
    ] {
        refused(sandbox.start_background(spec.clone()).await, reason);
        let attached = sandbox.start(spec).await;
        let outcome = match attached {
            Ok(attached) => attached.finish().await,
            Err(status) => Err(status),
        };
        refused(outcome, reason);
    }
    let list = ListCommandsRequest { sandbox_id: sandbox.id(), ..Default::default() };
    let commands = sandbox.api.commands().list_commands(list).await?.into_inner().commands;
    assert_eq!(commands.len(), 1, "a command that did not start is no command: {commands:?}");
    Ok(())
}

/// The whole group of an ended command has gone with it.
async fn no_sleep_is_left(sandbox: &TestSandbox) -> Result {
    let gone = async || Ok(sandbox.sh("pgrep -c sleep || true").await? == "0\n");
    eventually("the group is gone", Duration::from_secs(5), gone).await
}

#[tokio::test]
async fn a_signal_ends_a_command_and_says_who_sent_it() -> Result {
    let sandbox = TestSandbox::new().await?;
    // A shell lets what it runs in the background ignore INT.
    for (number, line) in [
        (1, "sleep 1000 & sleep 1000"),
        (2, "sleep 1000"),
        (9, "sleep 1000 & sleep 1000"),
        (15, "sleep 1000 & sleep 1000"),
    ] {
        let command = sandbox.start_background(shell(line)).await?;
        // gVisor may miss a process that is being forked when its group is signalled.
        let sleeps = line.matches("sleep").count().to_string();
        let begun = async || Ok(sandbox.sh("pgrep -c sleep || true").await?.trim() == sleeps);
        eventually("all of the group runs", Duration::from_secs(10), begun).await?;
        sandbox.signal(&command, number).await?;
        let exit = sandbox.wait(&command).await?;
        assert_eq!(
            (exit.outcome, exit.reason()),
            (Some(nullspace_proto::v1::exit::Outcome::Signal(number)), TerminationReason::KilledByUser)
        );
        refused(sandbox.signal(&command, number).await, Reason::CommandEnded);
    }
    let finished = sandbox.run(shell("kill -SEGV $$")).await?;
    assert_eq!((finished.signal(), finished.exit.reason()), (Some(11), TerminationReason::Signalled));
    no_sleep_is_left(&sandbox).await?;
    let command = sandbox
        .start_background(shell("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done"))
        .await?;
    for number in [0, 65, -1] {
        refused(sandbox.signal(&command, number).await, Reason::InvalidRequest);
    }
    let attach = AttachOpen { command_id: command.clone(), ..Default::default() };
    let mut attached = sandbox.attach(attach).await?;
    while !matches!(attached.next().await?, Answer::Output(_)) {}
    attached.send(Ask::Signal(CommandSignal { number: 10 })).await?;
    let finished = attached.finish().await?;
    assert_eq!((finished.text().as_str(), finished.code()), ("got\n", Some(3)));
    Ok(())
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() -> Result {
    let sandbox = TestSandbox::new().await?;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    let finished = sandbox.run(CommandSpec { timeout, ..shell("echo begun; sleep 1001 & sleep 1001") }).await?;
    assert_eq!((finished.text().as_str(), finished.signal()), ("begun\n", Some(15)));
    assert_eq!(finished.exit.reason(), TerminationReason::TimedOut);
    no_sleep_is_left(&sandbox).await?;
    Ok(())
}

#[tokio::test]
async fn input_has_offsets_and_an_end() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = sandbox.start_background(CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    assert_eq!(sandbox.write_input(&command, 0, b"hello ", false).await?, 6);
    // A repeated range is ignored, a gap is refused.
    assert_eq!(sandbox.write_input(&command, 0, b"hello world", false).await?, 11);
    let status = refused(sandbox.write_input(&command, 20, b"x", false).await, Reason::InputGap);
    assert_eq!(tonic_types::StatusExt::get_details_error_info(&status).unwrap().metadata["accepted_offset"], "11");
    assert_eq!(sandbox.write_input(&command, 11, &[0, 255, 10], true).await?, 14);
    let exit = sandbox.wait(&command).await?;
    assert_eq!(exit.outcome, Some(nullspace_proto::v1::exit::Outcome::Code(0)));
    assert_eq!(sandbox.read_output(&command, 0, true).await?.0, b"hello world\x00\xff\n");
    refused(sandbox.write_input(&command, 14, b"x", false).await, Reason::InputClosed);
    let closed = sandbox.start_background(argv(["cat"])).await?;
    assert_eq!(sandbox.wait(&closed).await?.output_bytes, 0);
    refused(sandbox.write_input(&closed, 0, b"x", false).await, Reason::InputClosed);
    Ok(())
}

/// Input that is on its way when a process closes its end harms nothing.
#[tokio::test]
async fn input_that_nobody_takes_is_no_gap() -> Result {
    let sandbox = TestSandbox::new().await?;
    let spec = CommandSpec { open_stdin: true, ..shell("exec 0<&-; echo shut; sleep 1; exit 4") };
    let mut command = sandbox.start(spec).await?;
    while !matches!(command.next().await?, Answer::InputClosed(_)) {}
    for n in 0..8 {
        command.send(Ask::Input(InputChunk { offset: n * 1_000, data: vec![1; 1_000].into() })).await?;
    }
    assert_eq!(command.finish().await?.code(), Some(4));
    Ok(())
}

#[tokio::test]
async fn the_same_id_is_the_same_process() -> Result {
    let sandbox = TestSandbox::new().await?;
    let request = StartCommandRequest {
        sandbox_id: sandbox.id(),
        command_id: "once".into(),
        spec: Some(shell("echo run >> /tmp/runs; cat /tmp/runs")),
    };
    let (mut one, mut two) = (sandbox.api.commands(), sandbox.api.commands());
    let (first, second) = tokio::join!(one.start_command(request.clone()), two.start_command(request.clone()));
    let (first, second) = (first?.into_inner().command.unwrap(), second?.into_inner().command.unwrap());
    assert_eq!((first.pid, first.command_id), (second.pid, second.command_id));
    sandbox.wait("once").await?;
    // Also after it ended: attaching gives its output and its exit again.
    let open = AttachOpen { command_id: "once".into(), start: request.spec.clone(), ..Default::default() };
    let finished = sandbox.attach(open).await?.finish().await?;
    assert_eq!((finished.text().as_str(), finished.code()), ("run\n", Some(0)));
    let other = StartCommandRequest { spec: Some(shell("echo other")), ..request };
    refused(sandbox.api.commands().start_command(other).await, Reason::IdempotencyKeyReused);
    for bad in ["", "a b", &"x".repeat(65)] {
        let request =
            StartCommandRequest { sandbox_id: sandbox.id(), command_id: bad.into(), spec: Some(shell("true")) };
        refused(sandbox.api.commands().start_command(request).await, Reason::InvalidRequest);
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_that_is_over_first_has_no_exit() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = sandbox.start_background(shell("sleep 1000")).await?;
    let request = |wait| WaitCommandRequest { sandbox_id: sandbox.id(), command_id: command.clone(), wait };
    let short = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    assert_eq!(sandbox.api.commands().wait_command(request(short)).await?.into_inner().command.unwrap().exit, None);
    refused(sandbox.api.commands().wait_command(request(seconds(61))).await, Reason::InvalidRequest);
    sandbox.signal(&command, 9).await?;
    sandbox.wait(&command).await?;
    let unknown = WaitCommandRequest { sandbox_id: sandbox.id(), command_id: "nothing".into(), wait: None };
    refused(sandbox.api.commands().wait_command(unknown).await, Reason::CommandNotFound);
    Ok(())
}

#[tokio::test]
async fn commands_are_listed_newest_first() -> Result {
    let sandbox = TestSandbox::new().await?;
    let mut ids = Vec::new();
    for n in 0..5 {
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        ids.push(
            sandbox
                .start_background(CommandSpec { tag: tag.into(), ..shell(if n == 4 { "sleep 1000" } else { "true" }) })
                .await?,
        );
    }
    ids.reverse();
    for ended in &ids[1..] {
        sandbox.wait(ended).await?;
    }
    let base = || ListCommandsRequest { sandbox_id: sandbox.id(), ..Default::default() };
    let list = async |request: ListCommandsRequest| -> Result<(Vec<String>, String, i64)> {
        let page = sandbox.api.commands().list_commands(request).await?.into_inner();
        let pid = page.commands.first().map_or(0, |command| command.pid);
        Ok((page.commands.into_iter().map(|command| command.command_id).collect(), page.next_page_token, pid))
    };
    assert_eq!(list(base()).await?.0, ids);
    let (first, token, pid) = list(ListCommandsRequest { page_size: 2, ..base() }).await?;
    let (second, _, _) = list(ListCommandsRequest { page_size: 2, page_token: token, ..base() }).await?;
    assert_eq!([first, second].concat(), ids[..4]);
    assert_eq!(list(ListCommandsRequest { tag: "odd".into(), ..base() }).await?.0.len(), 2);
    assert_eq!(list(ListCommandsRequest { running_only: true, ..base() }).await?.0, ids[..1]);
    assert_eq!(list(ListCommandsRequest { pid, ..base() }).await?.0, ids[..1]);
    Ok(())
}

#[tokio::test]
async fn a_stream_must_begin_with_open() -> Result {
    let sandbox = TestSandbox::new().await?;
    let mut command = sandbox.start(CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    while !matches!(command.next().await?, Answer::InputAccepted(_)) {}
    command
        .send(Ask::Open(AttachOpen { sandbox_id: sandbox.id(), command_id: "again".into(), ..Default::default() }))
        .await?;
    refused(command.finish().await, Reason::InvalidRequest);
    Ok(())
}

#[tokio::test]
async fn many_commands_run_at_once() -> Result {
    let sandbox = Arc::new(TestSandbox::new().await?);
    let mut running = JoinSet::new();
    for n in 0..rounds(40, 200) {
        let sandbox = sandbox.clone();
        running.spawn(async move {
            let finished = sandbox.run(shell(&format!("echo {n}; exit {}", n % 100))).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((n, finished))
        });
    }
    while let Some(run) = running.join_next().await {
        let (n, finished) = run??;
        assert_eq!((finished.text(), finished.code()), (format!("{n}\n"), Some((n % 100) as i32)));
    }
    Ok(())
}
