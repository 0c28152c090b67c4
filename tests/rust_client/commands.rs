//! Commands through the Rust client.

use std::time::Duration;

use nullspace::{Event, Outcome, OutputStream, Overflow, Position, Program, Reason, Signal, TerminationReason};
use nullspace_tests::{Result, eventually, patient};
use tokio_stream::StreamExt as _;

use super::{client, refused, sandbox};

#[tokio::test]
async fn a_command_runs_as_it_was_asked() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let commands = sandbox.commands();
    let result = commands.run("printf").args(["%s|", "a b", "", "c"]).await?;
    assert_eq!((result.code(), result.stdout_text()), (0, "a b||c|".into()));
    assert!(result.success() && result.lost_bytes == 0);

    let line = "echo $X; pwd; id -un; echo err >&2; exit 7";
    let result = commands.shell(line).env("X", "y").cwd("/tmp").user("user").await?;
    assert_eq!((result.code(), result.stdout_text()), (7, "y\n/tmp\nuser\n".into()));
    assert_eq!((result.stderr_text(), result.exit.reason), ("err\n".into(), TerminationReason::Exited));

    let result = commands.shell("echo out; echo err >&2; echo out").combine_output().await?;
    assert_eq!((result.stdout_text(), result.stderr_text()), ("out\nerr\nout\n".into(), String::new()));
    let result = commands.shell("kill -9 $$").await?;
    assert_eq!((result.code(), result.exit.outcome), (137, Outcome::Signal(9)));

    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let result = commands.run("cat").input(all.clone()).await?;
    assert!(result.stdout == all, "{} bytes came back", result.stdout.len());
    assert_eq!(commands.run("cat").await?.stdout_text(), "", "without input it is /dev/null");
    Ok(())
}

#[tokio::test]
async fn what_cannot_run_is_refused_by_reason() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let commands = sandbox.commands();
    refused(commands.run("no-such-program").await, Reason::ProgramNotFound);
    refused(commands.run("/etc/passwd").await, Reason::ProgramNotExecutable);
    refused(commands.run("true").cwd("/nowhere").await, Reason::WorkingDirectoryInvalid);
    refused(commands.run("true").user("nobody-such").await, Reason::UserNotFound);
    refused(commands.run("true").cwd("a/b").await, Reason::InvalidRequest);
    refused(commands.run("true").timeout(Duration::ZERO).await, Reason::InvalidRequest);
    refused(commands.shell("true").arg("more").await, Reason::InvalidRequest);
    refused(commands.run("true").arg("x".repeat(2_000_000)).await, Reason::MessageTooLarge);
    refused(commands.run("cat").input("x").start().await, Reason::InvalidRequest);
    refused(commands.get("cmd_none").await, Reason::CommandNotFound);
    refused(commands.find(-1).await, Reason::CommandNotFound);
    refused(commands.connect("cmd_none").await, Reason::CommandNotFound);
    refused(commands.command("cmd_none").kill().await, Reason::CommandNotFound);
    refused(commands.command("cmd_none").result().await, Reason::CommandNotFound);
    let used = commands.run("true").command_id("mine").await;
    assert!(used?.success());
    refused(commands.run("false").command_id("mine").await, Reason::IdempotencyKeyReused);
    Ok(())
}

#[tokio::test]
async fn a_timeout_is_an_error_that_has_the_output() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let slow = || sandbox.commands().shell("echo begun; echo err >&2; sleep 60").timeout(Duration::from_millis(500));
    let error = refused(slow().await, Reason::CommandTimedOut);
    let result = error.result().ok_or("no result")?;
    assert_eq!((result.stdout_text(), result.stderr_text()), ("begun\n".into(), "err\n".into()));
    assert_eq!(result.exit.reason, TerminationReason::TimedOut);
    assert_eq!((error.code(), error.is_retryable()), (nullspace::Code::DeadlineExceeded, false));

    let command = slow().start().await?;
    refused(command.wait().await, Reason::CommandTimedOut);
    refused(command.result().await, Reason::CommandTimedOut);
    let mut events = slow().events();
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    refused(last.ok_or("no event")?, Reason::CommandTimedOut);
    Ok(())
}

#[tokio::test]
async fn a_background_command_is_found_fed_and_ended() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let commands = sandbox.commands();
    let sort = commands.run("sort").tag("sorter").start().await?;
    sort.write_input("pear\n").await?;
    sort.clone().write_input("apple\n").await?;
    assert_eq!(sort.wait_for(Duration::from_millis(10)).await?, None);
    let running = commands.list().tag("sorter").await?;
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].program, Some(Program::Argv(vec!["sort".into()])));
    assert_eq!(commands.find(running[0].pid).await?.command_id, sort.id());
    let same = commands.connect(sort.id()).await?;
    assert_eq!(same.info().await?.exit, None);
    sort.close_input().await?;
    assert_eq!(same.result().await?.stdout_text(), "apple\npear\n");
    assert!(same.wait().await?.success());
    refused(sort.write_input("late\n").await, Reason::InputClosed);
    refused(sort.signal(Signal::TERM).await, Reason::CommandEnded);
    assert!(sort.kill().await?.success(), "one that has ended is fine");
    assert_eq!(commands.list().tag("sorter").await?, []);
    assert_eq!(commands.list().tag("sorter").ended().page_size(1).page().await?.entries.len(), 1);

    let sleeper = commands.run("sleep").arg("600").start().await?;
    sleeper.signal(Signal::TERM).await?;
    let exit = sleeper.wait().await?;
    assert_eq!((exit.signal(), exit.reason), (Some(15), TerminationReason::KilledByUser));
    let sleeper = commands.run("sleep").arg("600").start().await?;
    assert_eq!(sleeper.kill().await?.signal(), Some(9));
    Ok(())
}

#[tokio::test]
async fn input_that_nobody_reads_ends_with_the_deadline() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let url = nullspace_tests::required("NULLSPACE_API_URL")?;
    let hasty = nullspace::Client::builder().url(url).request_timeout(Duration::from_secs(1)).build()?;
    let gate = "until [ -e /tmp/gate ]; do sleep 0.05; done; wc -c";
    let command = hasty.sandbox(sandbox.id()).commands().shell(gate).start().await?;
    refused(command.write_input(vec![b'x'; 4 << 20]).await, Reason::DeadlineExceeded);
    sandbox.files().write("/tmp/gate", "").await?;
    command.close_input().await?;
    // What was taken was taken once, whatever the caller was told of it.
    let taken: usize = command.result().await?.stdout_text().trim().parse()?;
    assert!((1 << 20..4 << 20).contains(&taken), "{taken}");
    Ok(())
}

#[tokio::test]
async fn output_is_read_by_position() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let command =
        sandbox.commands().shell("echo one; sleep 0.05; echo two >&2; sleep 0.05; echo three").start().await?;
    command.wait().await?;
    let all = command.output().await?;
    assert_eq!((&all.output[..], &all.stderr[..]), (&b"one\ntwo\nthree\n"[..], &b"two\n"[..]));
    assert_eq!((all.next.offset, all.exit.map(|exit| exit.code())), (14, Some(0)));
    let part = command.output().position(2).limit(4).await?;
    assert_eq!((&part.output[..], part.next.offset), (&b"e\ntw"[..], 6));
    let rest = command.output().position(part.next).await?;
    assert_eq!((&rest.stdout[..], &rest.stderr[..]), (&b"three\n"[..], &b"o\n"[..]));
    let execution_id = sandbox.info().await?.execution_id;
    assert_eq!(command.output().position(Position { execution_id, offset: 8 }).await?.output, "three\n");
    let elsewhere = Position { execution_id: "other".into(), offset: 1 };
    refused(command.output().position(elsewhere).await, Reason::OutputDiverged);
    Ok(())
}

#[tokio::test]
async fn output_that_is_gone_is_told() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let run = sandbox.commands().shell("head -c 300000 /dev/zero | tr '\\0' a; echo end").retain_output_bytes(65_536);
    let command = run.start().await?;
    command.wait().await?;
    let result = command.result().await?;
    assert_eq!(result.lost_bytes + result.stdout.len() as u64, 300_004);
    assert!(result.lost_bytes > 0 && result.stdout.ends_with(b"aend\n"));
    let slice = command.output().await?;
    assert_eq!((slice.lost_bytes, slice.next.offset), (result.lost_bytes, 300_004));
    Ok(())
}

#[tokio::test]
async fn a_command_is_joined_with_input_and_hold() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let run = sandbox.commands().shell("read line; seq 1 200000; echo $line").retain_output_bytes(65_536);
    let command = run.overflow(Overflow::Block).hold_grace(Duration::from_secs(600)).start().await?;
    let result = command.attach().hold().input("hello\n").events().collect().await?;
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).chain(["hello\n".into()]).collect();
    assert!(result.stdout == expected, "{} of {} bytes", result.stdout.len(), expected.len());
    let tail = command.attach().position(expected.len() as i64 - 6).events().collect().await?;
    assert_eq!(tail.stdout_text(), "hello\n");
    Ok(())
}

#[tokio::test]
async fn events_come_as_they_happen() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let (gate, wait) = tokio::sync::mpsc::channel::<Result<nullspace::Bytes, std::io::Error>>(1);
    let input = tokio_stream::wrappers::ReceiverStream::new(wait);
    let mut events = sandbox.commands().shell("echo first; read line; echo $line >&2").input_stream(input).events();
    assert!(matches!(events.next().await.transpose()?, Some(Event::Started(info)) if info.pid > 0));
    let Some(Event::Output(output)) = events.next().await.transpose()? else { return Err("no output".into()) };
    assert_eq!((output.stream, &output.data[..]), (OutputStream::Stdout, &b"first\n"[..]));
    gate.send(Ok("second\n".into())).await?;
    drop(gate);
    let Some(Event::Output(output)) = events.next().await.transpose()? else { return Err("no output".into()) };
    assert_eq!((output.stream, output.offset, &output.data[..]), (OutputStream::Stderr, 6, &b"second\n"[..]));
    assert!(matches!(events.next().await.transpose()?, Some(Event::Ended(exit)) if exit.success()));
    assert!(events.next().await.is_none());

    let broken = tokio_stream::once(Err::<nullspace::Bytes, _>(std::io::Error::other("no more")));
    let error = refused(sandbox.commands().run("cat").input_stream(broken).await, Reason::SourceFailed);
    assert_eq!(std::error::Error::source(&error).ok_or("no source")?.to_string(), "no more");
    Ok(())
}

#[tokio::test]
async fn a_killed_sandbox_ends_what_waits_for_it() -> Result {
    let (owner, sandbox) = sandbox().await?;
    let command = sandbox.commands().run("sleep").arg("600").start().await?;
    let mut events = command.events();
    let foreground = tokio::spawn(sandbox.commands().run("sleep").arg("600").timeout(None).into_future());
    // Both are there before the sandbox goes.
    eventually("both run", Duration::from_secs(10), async || Ok(sandbox.commands().list().await?.len() == 2)).await?;
    owner.destroy().await?;
    let limit = patient(Duration::from_secs(10));
    let next = tokio::time::timeout(limit, events.next()).await?.ok_or("no event")?;
    refused(next, Reason::SandboxStopped);
    refused(tokio::time::timeout(limit, foreground).await??, Reason::SandboxStopped);
    Ok(())
}

#[tokio::test]
async fn three_hundred_commands_run_at_once_over_one_client() -> Result {
    const COUNT: usize = 300;
    let sandbox = client()?.create_sandbox().memory_mib(1_024).timeout(Duration::from_secs(300)).await?;
    let (gates, running): (Vec<_>, Vec<_>) = (0..COUNT)
        .map(|_| {
            let (gate, wait) = tokio::sync::mpsc::channel::<Result<nullspace::Bytes, std::io::Error>>(1);
            let input = tokio_stream::wrappers::ReceiverStream::new(wait);
            let run = sandbox.commands().run("cat").input_stream(input).timeout(Duration::from_secs(300));
            (gate, tokio::spawn(run.into_future()))
        })
        .unzip();
    eventually("all run", Duration::from_secs(120), async || {
        Ok(sandbox.commands().list().page_size(1_000).await?.len() == COUNT)
    })
    .await?;
    for (number, gate) in gates.into_iter().enumerate() {
        gate.send(Ok(format!("{number}").into())).await?;
    }
    for (number, run) in running.into_iter().enumerate() {
        assert_eq!(run.await??.stdout_text(), format!("{number}"));
    }
    sandbox.kill().await?;
    Ok(())
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_up_no_call() -> Result {
    let (_owner, sandbox) = sandbox().await?;
    let flood = sandbox.commands().shell("yes | head -c 30000000").start().await?;
    flood.wait().await?;
    let mut stalled = Vec::new();
    for _ in 0..130 {
        let mut events = sandbox.commands().command(flood.id()).events();
        // It has begun; from here on nobody reads it.
        events.next().await.transpose()?;
        stalled.push(events);
    }
    let limit = patient(Duration::from_secs(10));
    assert!(tokio::time::timeout(limit, sandbox.is_running()).await??);
    let run = sandbox.commands().run("echo").arg("through").into_future();
    assert_eq!(tokio::time::timeout(limit, run).await??.stdout_text(), "through\n");
    assert_eq!(flood.result().await?.stdout.len(), 30_000_000);
    drop(stalled);
    client()?.get_sandbox(sandbox.id()).await?;
    Ok(())
}
