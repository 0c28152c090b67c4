//! CommandService.

use std::{collections::BTreeMap, time::Duration};

use nullspace_proto::{
    Reason, id,
    v1::{
        AttachOpen, CloseInput, CommandSignal, CommandSpec, Exit, GetCommandRequest, InputChunk, InputClosedReason,
        ListCommandsRequest, LogPosition, OutputStream, Overflow, ReadCommandOutputRequest, SignalCommandRequest,
        StartCommandRequest, TerminationReason, WaitCommandRequest, WriteCommandInputRequest,
        attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
        read_command_output_response::Frame as Read,
    },
};
use nullspace_tests::{Attached, Finished, Result, TestSandbox, argv, eventually, refused, rounds, shell};
use sha2::{Digest as _, Sha256};
use tonic::Status;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

async fn start(sandbox: &TestSandbox, spec: CommandSpec) -> Result<String, Status> {
    let command_id = id::command();
    let request = StartCommandRequest { sandbox_id: sandbox.id(), command_id: command_id.clone(), spec: Some(spec) };
    sandbox.api.commands().start_command(request).await?;
    Ok(command_id)
}

async fn wait(sandbox: &TestSandbox, command_id: &str) -> Result<Exit> {
    let request = WaitCommandRequest { sandbox_id: sandbox.id(), command_id: command_id.into(), wait: seconds(30) };
    let command = sandbox.api.commands().wait_command(request).await?.into_inner().command.ok_or("no command")?;
    command.exit.ok_or_else(|| "the command does not end".into())
}

async fn signal(sandbox: &TestSandbox, command_id: &str, number: i32) -> Result<(), Status> {
    let request = SignalCommandRequest {
        sandbox_id: sandbox.id(),
        command_id: command_id.into(),
        idempotency_key: id::request(),
        number,
    };
    sandbox.api.commands().signal_command(request).await.map(drop)
}

async fn write(sandbox: &TestSandbox, command_id: &str, offset: i64, data: &[u8], close: bool) -> Result<i64, Status> {
    let request = WriteCommandInputRequest {
        sandbox_id: sandbox.id(),
        command_id: command_id.into(),
        client_id: "writer".into(),
        offset,
        data: data.to_vec().into(),
        close,
    };
    Ok(sandbox.api.commands().write_command_input(request).await?.into_inner().accepted_offset)
}

/// Reads all output by position: bytes of each stream, truncations, and the end.
async fn read(
    sandbox: &TestSandbox,
    command_id: &str,
    from: i64,
    follow: bool,
) -> Result<(Vec<u8>, Vec<i64>, i64, bool), Status> {
    let request = ReadCommandOutputRequest {
        sandbox_id: sandbox.id(),
        command_id: command_id.into(),
        position: Some(LogPosition { offset: from, ..Default::default() }),
        follow,
        keepalive: None,
    };
    let mut frames = sandbox.api.commands().read_command_output(request).await?.into_inner();
    let (mut bytes, mut truncated) = (Vec::new(), Vec::new());
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Read::Output(output)) => bytes.extend_from_slice(&output.data),
            Some(Read::Truncated(cut)) => truncated.push(cut.offset),
            Some(Read::End(end)) => return Ok((bytes, truncated, end.offset, end.output_open)),
            _ => {}
        }
    }
    Err(Status::unknown("the read ended without its end"))
}

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
    assert!(
        finished.started.pid > 1 && finished.exit.wall_time.is_some() && finished.exit.peak_memory_bytes > 0,
        "{finished:?}"
    );
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
        refused(start(&sandbox, spec.clone()).await, reason);
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

#[tokio::test]
async fn output_is_binary_and_whole() -> Result {
    let sandbox = TestSandbox::new().await?;
    let size = rounds(64 << 20, 512 << 20);
    sandbox.sh("head -c 1048576 /dev/urandom > /tmp/block").await?;
    let line = format!("for i in $(seq {}); do cat /tmp/block; done", size >> 20);
    let spec = CommandSpec { overflow: Overflow::Block as i32, ..shell(&line) };
    let open = AttachOpen {
        command_id: id::command(),
        start: Some(spec),
        hold: true,
        client_id: "reader".into(),
        ..Default::default()
    };
    let finished = sandbox.attach(open).await?.finish().await?;
    assert_eq!((finished.stdout.len(), finished.exit.output_bytes), (size, size as i64));
    let sums = sandbox.sh(&format!("for i in $(seq {}); do cat /tmp/block; done | sha256sum", size >> 20)).await?;
    assert_eq!(hex(&Sha256::digest(&finished.stdout)), sums.split_whitespace().next().unwrap());
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_tail_is_never_lost() -> Result {
    let sandbox = TestSandbox::new().await?;
    for round in 0..rounds(60, 1_000) {
        let finished = sandbox.run(shell("echo first; echo second >&2; printf last")).await?;
        assert_eq!(
            (finished.text().as_str(), finished.stderr.as_slice()),
            ("first\nlast", b"second\n".as_slice()),
            "round {round}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn exit_does_not_wait_for_a_grandchild() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = sandbox.start(shell("(sleep 1; echo late) & echo early")).await?;
    let id = command.command_id.clone();
    let finished = command.finish().await?;
    assert_eq!((finished.text().as_str(), finished.exit.output_open), ("early\n", true));
    let (bytes, _, end, open) = read(&sandbox, &id, 0, true).await?;
    assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end, open), ("early\nlate\n", 11, false));
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
        let command = start(&sandbox, shell(line)).await?;
        signal(&sandbox, &command, number).await?;
        let exit = wait(&sandbox, &command).await?;
        assert_eq!(
            (exit.outcome, exit.reason()),
            (Some(nullspace_proto::v1::exit::Outcome::Signal(number)), TerminationReason::KilledByUser)
        );
        refused(signal(&sandbox, &command, number).await, Reason::CommandEnded);
    }
    let finished = sandbox.run(shell("kill -SEGV $$")).await?;
    assert_eq!((finished.signal(), finished.exit.reason()), (Some(11), TerminationReason::Signalled));
    no_sleep_is_left(&sandbox).await?;
    let command =
        start(&sandbox, shell("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.01; done")).await?;
    for number in [0, 65, -1] {
        refused(signal(&sandbox, &command, number).await, Reason::InvalidRequest);
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
    let command = start(&sandbox, CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    assert_eq!(write(&sandbox, &command, 0, b"hello ", false).await?, 6);
    // A repeated range is ignored, a gap is refused.
    assert_eq!(write(&sandbox, &command, 0, b"hello world", false).await?, 11);
    let status = refused(write(&sandbox, &command, 20, b"x", false).await, Reason::InputGap);
    assert_eq!(tonic_types::StatusExt::get_details_error_info(&status).unwrap().metadata["accepted_offset"], "11");
    assert_eq!(write(&sandbox, &command, 11, &[0, 255, 10], true).await?, 14);
    let exit = wait(&sandbox, &command).await?;
    assert_eq!(exit.outcome, Some(nullspace_proto::v1::exit::Outcome::Code(0)));
    assert_eq!(read(&sandbox, &command, 0, true).await?.0, b"hello world\x00\xff\n");
    refused(write(&sandbox, &command, 14, b"x", false).await, Reason::InputClosed);
    let closed = start(&sandbox, argv(["cat"])).await?;
    assert_eq!(wait(&sandbox, &closed).await?.output_bytes, 0);
    refused(write(&sandbox, &closed, 0, b"x", false).await, Reason::InputClosed);
    Ok(())
}

#[tokio::test]
async fn input_and_output_flow_on_one_stream() -> Result {
    let sandbox = TestSandbox::new().await?;
    let mut command = sandbox.start(CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    let mut accepted = 0;
    let block: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    let total = 64 * block.len() as i64;
    let (mut sent, mut echoed) = (0i64, 0i64);
    let mut window = 0;
    while echoed < total {
        while sent < total && sent + block.len() as i64 <= accepted + window {
            command.send(Ask::Input(InputChunk { offset: sent, data: block.clone().into() })).await?;
            sent += block.len() as i64;
        }
        match command.next().await? {
            Answer::InputAccepted(input) => (accepted, window) = (input.offset, input.window_bytes),
            Answer::Output(chunk) => {
                assert_eq!(chunk.offset, echoed);
                assert!(chunk.data.iter().enumerate().all(|(n, byte)| *byte == ((echoed + n as i64) % 256) as u8));
                echoed += chunk.data.len() as i64;
            }
            _ => {}
        }
    }
    command.send(Ask::CloseInput(CloseInput { offset: total })).await?;
    let mut closed = None;
    loop {
        match command.next().await? {
            Answer::InputClosed(input) => closed = Some(input.reason()),
            Answer::Exit(exit) => {
                assert_eq!(exit.output_bytes, total);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(closed, Some(InputClosedReason::Client));
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
    wait(&sandbox, "once").await?;
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

/// Starts a command that writes `count` numbered lines once it is told to.
async fn numbered(sandbox: &TestSandbox, count: usize) -> Result<Attached> {
    let line = format!("echo ready; read go; seq 1 {count}");
    let mut command = sandbox.start(CommandSpec { open_stdin: true, ..shell(&line) }).await?;
    while !matches!(command.next().await?, Answer::Output(_)) {}
    Ok(command)
}

#[tokio::test]
async fn a_stalled_reader_stops_nobody() -> Result {
    let sandbox = TestSandbox::new().await?;
    let stalled = numbered(&sandbox, 1_000_000).await?;
    let open = AttachOpen { command_id: stalled.command_id.clone(), ..Default::default() };
    let reader = sandbox.attach(open).await?;
    stalled.send(Ask::Input(InputChunk { offset: 0, data: "go\n".into() })).await?;
    // The one that reads gets all or is told; the one that does not is not waited for.
    let finished = reader.finish().await?;
    assert_eq!((finished.code(), finished.exit.output_bytes), (Some(0), 6_888_896 + 6));
    let lost: i64 = finished.exit.output_bytes - finished.stdout.len() as i64;
    assert!(lost == 0 || !finished.truncated.is_empty(), "{lost} bytes are missing and nobody said so");
    // A call beside it is answered as ever.
    assert_eq!(sandbox.sh("echo beside").await?, "beside\n");
    drop(stalled);
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_disturbs_nobody() -> Result {
    let sandbox = TestSandbox::new().await?;
    for _ in 0..rounds(5, 50) {
        let leaver = numbered(&sandbox, 1_000).await?;
        let open = AttachOpen { command_id: leaver.command_id.clone(), ..Default::default() };
        let stayer = sandbox.attach(open).await?;
        let go = InputChunk { offset: 0, data: "go\n".into() };
        let request = WriteCommandInputRequest {
            sandbox_id: sandbox.id(),
            command_id: leaver.command_id.clone(),
            client_id: "other".into(),
            data: go.data.clone(),
            ..Default::default()
        };
        drop(leaver);
        sandbox.api.commands().write_command_input(request).await?;
        let finished = stayer.finish().await?;
        assert_eq!((finished.stdout.len(), finished.code()), (3_893 + 6, Some(0)));
    }
    Ok(())
}

#[tokio::test]
async fn a_newer_attach_takes_over_and_ends_the_older() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = start(&sandbox, CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    let open = || AttachOpen { command_id: command.clone(), client_id: "me".into(), ..Default::default() };
    let older = sandbox.attach(open()).await?;
    older.send(Ask::Input(InputChunk { offset: 0, data: "abc".into() })).await?;
    let mut newer = None;
    // The older one's input may still be on its way.
    for _ in 0..200 {
        let mut attached = sandbox.attach(open()).await?;
        let accepted = loop {
            if let Answer::InputAccepted(input) = attached.next().await? {
                break input.offset;
            }
        };
        newer = Some(attached);
        if accepted == 3 {
            break;
        }
    }
    refused(older.finish().await, Reason::AttachSuperseded);
    let newer = newer.unwrap();
    newer.send(Ask::CloseInput(CloseInput { offset: 3 })).await?;
    assert_eq!(newer.finish().await?.text(), "abc");
    Ok(())
}

#[tokio::test]
async fn blocked_output_waits_for_its_holder_and_loses_nothing() -> Result {
    let sandbox = TestSandbox::new().await?;
    let spec = CommandSpec {
        overflow: Overflow::Block as i32,
        retain_output_bytes: 65_536,
        ..shell("seq 1 200000; echo done > /tmp/done")
    };
    let open = AttachOpen {
        command_id: id::command(),
        start: Some(spec),
        hold: true,
        client_id: "holder".into(),
        ..Default::default()
    };
    let mut command = sandbox.attach(open.clone()).await?;
    let mut taken = Vec::new();
    // Without an acknowledgement it stands still once retention is full.
    while taken.len() < 40_000 {
        if let Answer::Output(chunk) = command.next().await? {
            taken.extend_from_slice(&chunk.data);
        }
    }
    assert_eq!(sandbox.sh("test -e /tmp/done || echo waits").await?, "waits\n");
    drop(command);
    // The same client comes back, takes up its hold, and gets all the rest.
    let position = Some(LogPosition { offset: taken.len() as i64, ..Default::default() });
    let rest = sandbox.attach(AttachOpen { position, ..open }).await?.finish().await?;
    assert_eq!((rest.truncated.len(), rest.code()), (0, Some(0)));
    taken.extend_from_slice(&rest.stdout);
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(Sha256::digest(&taken), Sha256::digest(expected));
    Ok(())
}

#[tokio::test]
async fn truncated_output_is_said_to_be() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = start(&sandbox, CommandSpec { retain_output_bytes: 65_536, ..shell("seq 1 200000") }).await?;
    let exit = wait(&sandbox, &command).await?;
    let (bytes, truncated, end, open) = read(&sandbox, &command, 0, false).await?;
    assert_eq!((exit.output_bytes, end, open), (1_288_895, 1_288_895, false));
    assert_eq!(truncated.len(), 1);
    assert_eq!(truncated[0] + bytes.len() as i64, end);
    assert!(bytes.ends_with(b"\n200000\n") && bytes.len() <= 65_536 && bytes.len() > 32_768, "{}", bytes.len());
    let request = GetCommandRequest { sandbox_id: sandbox.id(), command_id: command };
    let info = sandbox.api.commands().get_command(request).await?.into_inner().command.unwrap();
    assert_eq!((info.output_start, info.output_end, info.output_open), (truncated[0], end, false));
    Ok(())
}

#[tokio::test]
async fn combined_output_keeps_the_order_of_both_streams() -> Result {
    let sandbox = TestSandbox::new().await?;
    let line = "for i in $(seq 200); do echo o$i; echo e$i >&2; done";
    let finished = sandbox.run(CommandSpec { combine_output: true, ..shell(line) }).await?;
    let expected: String = (1..=200).map(|n| format!("o{n}\ne{n}\n")).collect();
    assert_eq!((finished.text(), finished.stderr.len()), (expected, 0));
    Ok(())
}

#[tokio::test]
async fn a_position_of_another_execution_has_diverged() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = start(&sandbox, shell("echo text")).await?;
    wait(&sandbox, &command).await?;
    let at = |execution_id: &str, offset| Some(LogPosition { execution_id: execution_id.into(), offset });
    let open = |position| AttachOpen { command_id: command.clone(), position, ..Default::default() };
    let mine = &sandbox.sandbox.execution_id;
    let finished = sandbox.attach(open(at(mine, 2))).await?.finish().await?;
    assert_eq!((finished.text().as_str(), finished.first_offset), ("xt\n", Some(2)));
    for (position, reason) in [
        (at("01jzother", 0), Reason::OutputDiverged),
        (at(mine, 999), Reason::OutputDiverged),
        (at(mine, -1), Reason::InvalidRequest),
    ] {
        let outcome = match sandbox.attach(open(position)).await {
            Ok(attached) => attached.finish().await,
            Err(status) => Err(status),
        };
        refused(outcome, reason);
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() -> Result {
    let sandbox = TestSandbox::new().await?;
    let open = AttachOpen {
        command_id: id::command(),
        start: Some(shell("sleep 3; echo end")),
        keepalive: seconds(1),
        ..Default::default()
    };
    let mut command = sandbox.attach(open).await?;
    let mut alive = 0;
    loop {
        match command.next().await? {
            Answer::Keepalive(_) => alive += 1,
            Answer::Exit(_) => break,
            _ => {}
        }
    }
    assert!((1..=4).contains(&alive), "{alive} keepalives in 3 s");
    Ok(())
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_not_the_command() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = start(&sandbox, shell("sleep 1; echo survived")).await?;
    let mut request = tonic::Request::new(ReadCommandOutputRequest {
        sandbox_id: sandbox.id(),
        command_id: command.clone(),
        follow: true,
        ..Default::default()
    });
    request.metadata_mut().insert("grpc-timeout", "200m".parse()?);
    let mut frames = sandbox.api.commands().read_command_output(request).await?.into_inner();
    let ended = async {
        loop {
            if let Err(status) = frames.message().await {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(5), ended).await?;
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(read(&sandbox, &command, 0, true).await?.0, b"survived\n");
    Ok(())
}

#[tokio::test]
async fn a_wait_that_is_over_first_has_no_exit() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = start(&sandbox, shell("sleep 1000")).await?;
    let request = |wait| WaitCommandRequest { sandbox_id: sandbox.id(), command_id: command.clone(), wait };
    let short = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    assert_eq!(sandbox.api.commands().wait_command(request(short)).await?.into_inner().command.unwrap().exit, None);
    refused(sandbox.api.commands().wait_command(request(seconds(61))).await, Reason::InvalidRequest);
    signal(&sandbox, &command, 9).await?;
    wait(&sandbox, &command).await?;
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
            start(&sandbox, CommandSpec { tag: tag.into(), ..shell(if n == 4 { "sleep 1000" } else { "true" }) })
                .await?,
        );
    }
    ids.reverse();
    for ended in &ids[1..] {
        wait(&sandbox, ended).await?;
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
    let sandbox = TestSandbox::new().await?;
    let runs = (0..rounds(40, 200)).map(|n| {
        let line = format!("echo {n}; exit {}", n % 100);
        let running = sandbox.start(shell(&line));
        async move { Ok::<_, Status>((n, running.await?.finish().await?)) }
    });
    let mut pending: Vec<std::pin::Pin<Box<dyn Future<Output = Result<(usize, Finished), Status>>>>> = Vec::new();
    for run in runs {
        pending.push(Box::pin(run));
    }
    for run in join_all(pending).await {
        let (n, finished) = run?;
        assert_eq!((finished.text(), finished.code()), (format!("{n}\n"), Some((n % 100) as i32)));
        assert_eq!(finished.started.spec.map(|spec| spec.open_stdin), Some(false));
    }
    Ok(())
}

async fn join_all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(output) = std::pin::Pin::new(future).poll(cx)
            {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn output_tells_its_streams_apart() -> Result {
    let sandbox = TestSandbox::new().await?;
    let mut command = sandbox.start(shell("echo a; sleep 0.2; echo b >&2; sleep 0.2; echo c")).await?;
    let mut seen = Vec::new();
    loop {
        match command.next().await? {
            Answer::Output(chunk) => seen.push((chunk.offset, chunk.stream(), chunk.data.to_vec())),
            Answer::Exit(_) => break,
            _ => {}
        }
    }
    let expected = [
        (0, OutputStream::Stdout, b"a\n".to_vec()),
        (2, OutputStream::Stderr, b"b\n".to_vec()),
        (4, OutputStream::Stdout, b"c\n".to_vec()),
    ];
    assert_eq!(seen, expected);
    Ok(())
}
