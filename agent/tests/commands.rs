//! CommandService, through its own API, with ordinary processes.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use common::*;
use nullspace_proto::{
    Reason,
    v1::{
        CommandSpec, GetCommandRequest, ListCommandsRequest, Overflow, SignalCommandRequest, StartCommandRequest,
        TerminationReason, WaitCommandRequest, attach_command_response::Frame,
    },
};
use tonic::Code;

#[tokio::test]
async fn a_command_runs_and_says_how_it_ended() {
    let sandbox = Sandbox::start().await;
    let output = sandbox.run(shell("echo out; echo err >&2; exit 3")).await.unwrap();
    assert_eq!((output.text(), output.stderr.as_slice(), output.code()), ("out\n", &b"err\n"[..], Some(3)));
    assert_eq!(output.exit.reason(), TerminationReason::Exited);
    assert_eq!(output.exit.output_bytes, 8);
    assert!(!output.exit.output_open && output.exit.ended_at.is_some());
}

#[tokio::test]
async fn what_a_command_used_is_its_own() {
    let sandbox = Sandbox::start().await;
    let script = "x = bytearray(300 << 20)\nfor _ in range(2000000): pass";
    let exit = sandbox.run(argv(["python3", "-c", script])).await.unwrap().exit;
    assert!(exit.peak_memory_bytes > 300 << 20 && exit.peak_memory_bytes < 400 << 20);
    let cpu = exit.cpu_time.unwrap();
    assert!(cpu.nanos > 20_000_000 || cpu.seconds > 0);
    // A small one's cannot be told from ours, and no wrong number is told.
    let small = Attached::open(&mut sandbox.commands().await, open("small", Some(argv(["true"])))).await.unwrap();
    assert_eq!(small.finish().await.unwrap().exit.peak_memory_bytes, 0);
}

#[tokio::test]
async fn refusals_below_the_services_have_reasons_too() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await.max_encoding_message_size(usize::MAX);
    let spec = CommandSpec { env: [("A".to_owned(), "x".repeat(2 << 20))].into(), ..argv(["true"]) };
    let large = StartCommandRequest { command_id: "c".into(), spec: Some(spec), ..Default::default() };
    assert_eq!(reason(&commands.start_command(large).await.unwrap_err()), Reason::MessageTooLarge);
    let mut client = tonic::client::Grpc::new(Client::connect(sandbox.address, SECRET).await);
    for (path, expected) in [
        ("/nullspace.v1.CommandService/RunAway", Reason::MethodUnknown),
        ("/nullspace.v1.OtherService/Run", Reason::MethodUnknown),
        ("/", Reason::MethodUnknown),
    ] {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<GetCommandRequest, GetCommandRequest>::default();
        let request = tonic::Request::new(GetCommandRequest::default());
        let status = client.unary(request, http::uri::PathAndQuery::from_static(path), codec).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{path}");
    }
    let mut compressed = tonic::Request::new(GetCommandRequest { command_id: "c".into(), ..Default::default() });
    compressed.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    assert_eq!(reason(&commands.get_command(compressed).await.unwrap_err()), Reason::EncodingUnsupported);
}

#[tokio::test]
async fn a_start_that_fails_says_exactly_why() {
    let sandbox = Sandbox::start().await;
    let path = |name: &str| sandbox.path(name);
    for (name, text, mode) in [
        ("plain", "echo no permission\n", 0o644),
        ("script", "echo no interpreter\n", 0o755),
        ("lost", "#!/no/such/interpreter\n", 0o755),
    ] {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(path("locked")).unwrap();
    fs::set_permissions(path("locked"), fs::Permissions::from_mode(0o700)).unwrap();
    let in_directory = |cwd: &str| CommandSpec { cwd: cwd.into(), ..argv(["true"]) };
    let as_user = |user: &str, spec: CommandSpec| CommandSpec { user: user.into(), ..spec };
    let with_path = CommandSpec { env: [("PATH".to_owned(), sandbox.path(""))].into(), ..argv(["plain"]) };
    let cases = [
        (argv(["no-such-program"]), Reason::ProgramNotFound),
        (argv(["/no/such/program"]), Reason::ProgramNotFound),
        (argv([&path("plain/below")]), Reason::ProgramNotFound),
        (argv([&path("lost")]), Reason::ProgramNotFound),
        (argv([&path("plain")]), Reason::ProgramNotExecutable),
        (argv([&path("script")]), Reason::ProgramNotExecutable),
        (argv(["/tmp"]), Reason::ProgramNotExecutable),
        (with_path, Reason::ProgramNotExecutable),
        (in_directory("/no/such/directory"), Reason::WorkingDirectoryInvalid),
        (in_directory(&path("plain")), Reason::WorkingDirectoryInvalid),
        (as_user("user", in_directory(&path("locked"))), Reason::WorkingDirectoryInvalid),
        (as_user("nobody-of-this-name", argv(["true"])), Reason::UserNotFound),
        (as_user("4242", argv(["true"])), Reason::UserNotFound),
    ];
    for (spec, expected) in cases {
        let status = sandbox.run(spec.clone()).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{spec:?}: {status:?}");
    }
    // Nothing of it is remembered: the id is still free. Nothing of it is left.
    assert_eq!(sandbox.run(argv(["true"])).await.unwrap().code(), Some(0));
    eventually("no zombie", || async { zombies().is_empty() }).await;
}

/// Children of this process that nobody has reaped.
fn zombies() -> Vec<String> {
    let own = std::process::id().to_string();
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let is_ours = |stat: &String| {
        let rest: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        rest[0] == "Z" && rest[1] == own
    };
    stats.filter(is_ours).collect()
}

#[tokio::test]
async fn every_bad_field_is_named_and_nothing_is_started() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let mut bad = open("bad id", Some(CommandSpec { cwd: "relative".into(), ..shell("touch started") }));
    bad.keepalive = Some(prost_types::Duration { seconds: 0, nanos: 1 });
    bad.client_id = "?".into();
    let Err(status) = Attached::open(&mut commands, bad).await else { panic!("it was accepted") };
    assert_eq!(reason(&status), Reason::InvalidRequest);
    for field in ["open.command_id", "open.start.cwd", "open.keepalive", "open.client_id"] {
        assert!(status.message().contains(field), "{field} in {}", status.message());
    }
    assert!(commands.list_commands(ListCommandsRequest::default()).await.unwrap().into_inner().commands.is_empty());
    let missing = commands.start_command(StartCommandRequest { command_id: "c".into(), ..Default::default() }).await;
    assert_eq!(reason(&missing.unwrap_err()), Reason::InvalidRequest);
    let missing = commands.get_command(GetCommandRequest { command_id: "c".into(), ..Default::default() }).await;
    assert_eq!(reason(&missing.unwrap_err()), Reason::CommandNotFound);
}

#[tokio::test]
async fn environment_user_and_directory_are_what_was_asked_for() {
    let sandbox = Sandbox::start().await;
    let env = [("LEVEL".to_owned(), "command".to_owned()), ("HOME".to_owned(), "/elsewhere".to_owned())];
    let spec = CommandSpec { env: env.into(), ..argv(["env"]) };
    let output = sandbox.run(spec).await.unwrap();
    let mut lines: Vec<_> = output.text().lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let expected =
        ["HOME=/elsewhere", "LEVEL=command", "LOGNAME=root", path, "SANDBOX=yes", "SHELL=/bin/sh", "USER=root"];
    assert_eq!(lines, expected);

    fs::set_permissions(&sandbox.directory, fs::Permissions::from_mode(0o755)).unwrap();
    let spec = CommandSpec { user: "user".into(), ..shell("id -u; id -g; id -G; echo $HOME $LEVEL; pwd") };
    let mut commands = sandbox.commands().await;
    let attached = Attached::open(&mut commands, open("as-user", Some(spec))).await.unwrap();
    let home = sandbox.path("home");
    let expected = format!("1000\n1000\n1000 44\n{home} sandbox\n{}\n", sandbox.path("cwd"));
    assert_eq!(attached.finish().await.unwrap().text(), expected);
    // A user without a usable shell has command lines run all the same.
    let spec = CommandSpec { user: "locked".into(), cwd: "/".into(), ..shell("id -u; pwd") };
    let attached = Attached::open(&mut commands, open("locked", Some(spec))).await.unwrap();
    assert_eq!(attached.finish().await.unwrap().text(), "1001\n/\n");
}

#[tokio::test]
async fn a_command_gets_three_descriptors_and_a_clean_slate() {
    // As PID 1 does first: what a parent left open is not for commands.
    nullspace_agent::begin_clean();
    let sandbox = Sandbox::start().await;
    let script = "ls /proc/self/fd | tr '\\n' ' '; grep -E '^Sig(Ign|Blk)' /proc/self/status; \
                  ps -o sid= -p $$ | tr -d ' '; echo $$; umask";
    let output = sandbox.run(shell(script)).await.unwrap();
    let lines: Vec<_> = output.text().lines().collect();
    // `ls` has the directory open besides.
    assert_eq!(lines[0], "0 1 2 3 SigBlk:\t0000000000000000");
    // But for two that belong to the C library.
    let ignored = u64::from_str_radix(lines[1].strip_prefix("SigIgn:\t").unwrap(), 16).unwrap();
    assert_eq!(ignored & !(3 << 31), 0);
    assert_eq!(lines[2], lines[3], "it leads its own session");
}

#[tokio::test]
async fn the_end_of_output_is_never_lost() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    for round in 0..1_000 {
        let spec = argv(["/bin/echo", "the last words"]);
        let attached = Attached::open(&mut commands, open(&format!("round-{round}"), Some(spec))).await.unwrap();
        let output = attached.finish().await.unwrap();
        assert_eq!((output.text(), output.exit.output_bytes), ("the last words\n", 15));
    }
    // A pipe full of output at the very end, of both streams.
    let script = "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2; kill -9 $$";
    for round in 0..50 {
        let attached =
            Attached::open(&mut commands, open(&format!("full-{round}"), Some(shell(script)))).await.unwrap();
        let output = attached.finish().await.unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len(), output.signal()), (60_000, 60_000, Some(9)));
        assert_eq!(output.exit.reason(), TerminationReason::Signalled);
    }
}

#[tokio::test]
async fn combined_output_has_one_order() {
    let sandbox = Sandbox::start().await;
    let mut spec = shell("for i in $(seq 1 300); do echo $i; echo e$i >&2; done");
    spec.combine_output = true;
    let expected: String = (1..=300).map(|i| format!("{i}\ne{i}\n")).collect();
    assert_eq!(sandbox.run(spec).await.unwrap().text(), expected);
}

#[tokio::test]
async fn exit_does_not_wait_for_a_grandchild_that_keeps_the_output() {
    let sandbox = Sandbox::start().await;
    let gate = sandbox.path("gate");
    fs::write(sandbox.path("wait"), "").unwrap();
    let script = format!("(while [ ! -e {gate} ]; do sleep 0.01; done; echo late) & echo early");
    let mut commands = sandbox.commands().await;
    let output = Attached::open(&mut commands, open("c", Some(shell(&script)))).await.unwrap().finish().await.unwrap();
    assert_eq!((output.text(), output.exit.output_open, output.exit.output_bytes), ("early\n", true, 6));
    fs::write(&gate, "").unwrap();
    let (frames, end) = read_output(&sandbox, "c", 0, true).await;
    assert_eq!(frames, ["early\n", "exit", "late\n"]);
    assert_eq!(end, (11, false));
}

/// The frames of ReadCommandOutput as text, and how they ended.
async fn read_output(sandbox: &Sandbox, id: &str, offset: i64, follow: bool) -> (Vec<String>, (i64, bool)) {
    use nullspace_proto::v1::{LogPosition, ReadCommandOutputRequest, read_command_output_response::Frame};
    let request = ReadCommandOutputRequest {
        command_id: id.into(),
        position: Some(LogPosition { offset, ..Default::default() }),
        follow,
        ..Default::default()
    };
    let mut stream = sandbox.commands().await.read_command_output(request).await.unwrap().into_inner();
    let mut frames = Vec::new();
    while let Some(response) = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        match response.frame.unwrap() {
            Frame::Output(chunk) => frames.push(String::from_utf8(chunk.data.to_vec()).unwrap()),
            Frame::Truncated(truncated) => frames.push(format!("truncated {}", truncated.offset)),
            Frame::Exit(_) => frames.push("exit".into()),
            Frame::Started(started) => assert_eq!(started.execution_id, common::EXECUTION),
            Frame::Keepalive(_) => {}
            Frame::End(end) => {
                assert!(stream.message().await.unwrap().is_none());
                return (frames, (end.offset, end.output_open));
            }
        }
    }
    panic!("the stream ended without an end");
}

#[tokio::test]
async fn output_is_read_from_any_position_with_or_without_following() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let gate = sandbox.path("gate");
    let script = format!("printf 0123456789; while [ ! -e {gate} ]; do sleep 0.01; done");
    let start = StartCommandRequest { command_id: "c".into(), spec: Some(shell(&script)), ..Default::default() };
    let command = commands.start_command(start).await.unwrap().into_inner().command.unwrap();
    assert!(command.pid > 1 && command.exit.is_none() && command.execution_id == EXECUTION);
    eventually("output", || async { read_output(&sandbox, "c", 0, false).await.1 == (10, true) }).await;
    assert_eq!(read_output(&sandbox, "c", 7, false).await, (vec!["789".into()], (10, true)));
    fs::write(&gate, "").unwrap();
    assert_eq!(read_output(&sandbox, "c", 4, true).await, (vec!["456789".into(), "exit".into()], (10, false)));
    assert_eq!(read_output(&sandbox, "c", 10, false).await, (vec!["exit".into()], (10, false)));
    // A position that never was, and one of another history.
    for (execution_id, offset, branch) in [("", 11, "10"), ("01jother", 3, "0")] {
        let mut request = open("c", None);
        request.position = Some(nullspace_proto::v1::LogPosition { execution_id: execution_id.into(), offset });
        let Err(status) = Attached::open(&mut commands, request).await else { panic!("it was accepted") };
        assert_eq!((reason(&status), status.code()), (Reason::OutputDiverged, Code::OutOfRange));
        let branch_offset =
            tonic_types::StatusExt::get_details_error_info(&status).unwrap().metadata["branch_offset"].clone();
        assert_eq!(branch_offset, branch);
    }
}

#[tokio::test]
async fn reading_without_following_ends_however_fast_the_program_writes() {
    let sandbox = Sandbox::start().await;
    let spec = CommandSpec { retain_output_bytes: 65_536, ..argv(["cat", "/dev/zero"]) };
    let mut commands = sandbox.commands().await;
    commands
        .start_command(StartCommandRequest { command_id: "c".into(), spec: Some(spec), ..Default::default() })
        .await
        .unwrap();
    for _ in 0..5 {
        let (_, (_, output_open)) = read_output(&sandbox, "c", 0, false).await;
        assert!(output_open);
    }
    let kill = SignalCommandRequest { command_id: "c".into(), number: 9, ..Default::default() };
    commands.signal_command(kill).await.unwrap();
}

#[tokio::test]
async fn starting_twice_is_one_process() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let spec =
        CommandSpec { env: (0..50).map(|n| (format!("N{n}"), n.to_string())).collect(), ..shell("echo x >> runs") };
    let mut pids = Vec::new();
    for _ in 0..3 {
        let request = StartCommandRequest { command_id: "c".into(), spec: Some(spec.clone()), ..Default::default() };
        let command = commands.start_command(request).await.unwrap().into_inner().command.unwrap();
        assert!(command.spec.unwrap().env.is_empty(), "the environment may hold secrets");
        pids.push(command.pid);
        let output =
            Attached::open(&mut commands, open("c", Some(spec.clone()))).await.unwrap().finish().await.unwrap();
        assert_eq!(output.code(), Some(0));
    }
    assert!(pids.iter().all(|pid| *pid == pids[0]));
    assert_eq!(fs::read_to_string(sandbox.path("cwd/runs")).unwrap(), "x\n");
    let Err(status) = Attached::open(&mut commands, open("c", Some(shell("echo y")))).await else { panic!("accepted") };
    assert_eq!((reason(&status), status.code()), (Reason::IdempotencyKeyReused, Code::AlreadyExists));
}

#[tokio::test]
async fn signals_reach_the_group_and_are_told_from_other_deaths() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let script = "sleep 1000 & echo $!; sleep 1000";
    let mut attached = Attached::open(&mut commands, open("c", Some(shell(script)))).await.unwrap();
    let child: i32 = attached
        .until(|frame| match frame {
            Frame::Output(chunk) => Some(String::from_utf8_lossy(&chunk.data).trim().parse().unwrap()),
            _ => None,
        })
        .await
        .unwrap();
    let signal = |key: &str, id: &str, number| SignalCommandRequest {
        command_id: id.into(),
        idempotency_key: key.into(),
        number,
        ..Default::default()
    };
    for number in [0, -1, 65] {
        let status = commands.signal_command(signal("", "c", number)).await.unwrap_err();
        assert_eq!(reason(&status), Reason::InvalidRequest);
    }
    commands.signal_command(signal("key", "c", 15)).await.unwrap();
    let output = attached.finish().await.unwrap();
    assert_eq!((output.signal(), output.exit.reason()), (Some(15), TerminationReason::KilledByUser));
    eventually("the child is gone", || async { !exists(&format!("/proc/{child}/exe")) }).await;
    // The same call again is the same call; a new one finds it ended.
    commands.signal_command(signal("key", "c", 15)).await.unwrap();
    assert_eq!(
        reason(&commands.signal_command(signal("key", "c", 9)).await.unwrap_err()),
        Reason::IdempotencyKeyReused
    );
    assert_eq!(reason(&commands.signal_command(signal("new", "c", 9)).await.unwrap_err()), Reason::CommandEnded);
    assert_eq!(reason(&commands.signal_command(signal("", "nothing", 9)).await.unwrap_err()), Reason::CommandNotFound);
    // A program that ends itself was not ended by a user; one that handles the
    // signal ends by itself.
    let output =
        Attached::open(&mut commands, open("self", Some(shell("kill -TERM $$")))).await.unwrap().finish().await;
    assert_eq!(output.unwrap().exit.reason(), TerminationReason::Signalled);
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut attached = Attached::open(&mut commands, open("handles", Some(shell(script)))).await.unwrap();
    attached.until(|frame| matches!(frame, Frame::Output(_)).then_some(())).await.unwrap();
    attached.send(nullspace_proto::v1::attach_command_request::Frame::Signal(nullspace_proto::v1::CommandSignal {
        number: 15,
    }));
    let output = attached.finish().await.unwrap();
    assert_eq!((output.code(), output.exit.reason()), (Some(7), TerminationReason::Exited));
}

#[tokio::test]
async fn a_timeout_ends_the_group() {
    let sandbox = Sandbox::start().await;
    let timeout = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let mut spec = shell("trap 'echo told; exit 0' TERM; sleep 1000 & wait");
    spec.timeout = timeout(0, 100_000_000);
    let began = Instant::now();
    let output = sandbox.run(spec).await.unwrap();
    assert_eq!((output.text(), output.code()), ("told\n", Some(0)));
    assert_eq!(output.exit.reason(), TerminationReason::TimedOut);
    assert!(began.elapsed() >= Duration::from_millis(100) && began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn what_ignores_its_end_is_killed_also_below_a_leader_that_obeyed() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 });
    let stubborn = "trap '' TERM; while :; do sleep 0.05; done";
    let alone = CommandSpec { timeout, ..shell(stubborn) };
    let below = CommandSpec { timeout, ..shell(&format!("sh -c \"{stubborn}\" & echo $!; wait")) };
    let alone = Attached::open(&mut commands, open("alone", Some(alone))).await.unwrap();
    let below = Attached::open(&mut commands, open("below", Some(below))).await.unwrap();
    let output = below.finish().await.unwrap();
    assert_eq!((output.signal(), output.exit.reason()), (Some(15), TerminationReason::TimedOut));
    assert!(output.exit.output_open);
    let child = output.text().trim().to_owned();
    assert!(exists(&format!("/proc/{child}/exe")), "it has its time to end");
    let output = alone.finish().await.unwrap();
    assert_eq!((output.signal(), output.exit.reason()), (Some(9), TerminationReason::TimedOut));
    eventually("the child is killed", || async { !exists(&format!("/proc/{child}/exe")) }).await;
}

#[tokio::test]
async fn waiting_ends_with_the_command_or_with_patience() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let request =
        StartCommandRequest { command_id: "c".into(), spec: Some(shell("sleep 0.2; exit 5")), ..Default::default() };
    commands.start_command(request).await.unwrap();
    let wait = |nanos| WaitCommandRequest {
        command_id: "c".into(),
        wait: Some(prost_types::Duration { seconds: 0, nanos }),
        ..Default::default()
    };
    assert!(commands.wait_command(wait(0)).await.unwrap().into_inner().command.unwrap().exit.is_none());
    assert!(commands.wait_command(wait(1_000_000)).await.unwrap().into_inner().command.unwrap().exit.is_none());
    let forever = WaitCommandRequest { command_id: "c".into(), ..Default::default() };
    let exit = commands.wait_command(forever).await.unwrap().into_inner().command.unwrap().exit.unwrap();
    assert_eq!(exit.outcome, Some(nullspace_proto::v1::exit::Outcome::Code(5)));
    let wall = exit.wall_time.unwrap();
    assert!(wall.nanos >= 200_000_000 && wall.seconds < 5);
}

#[tokio::test]
async fn lists_are_newest_first_and_pages_hold_still() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    for n in 0..7 {
        let tag = if n % 2 == 0 { "even" } else { "" };
        let line = if n == 6 { "sleep 1000" } else { "true" };
        let spec = CommandSpec { tag: tag.into(), ..shell(line) };
        let request = StartCommandRequest { command_id: format!("c{n}"), spec: Some(spec), ..Default::default() };
        commands.start_command(request).await.unwrap();
        if n < 6 {
            commands
                .wait_command(WaitCommandRequest { command_id: format!("c{n}"), ..Default::default() })
                .await
                .unwrap();
        }
    }
    let mut list = async |request: ListCommandsRequest| {
        let page = commands.list_commands(request).await.unwrap().into_inner();
        (
            page.commands.iter().map(|command| command.command_id.clone()).collect::<Vec<_>>(),
            page.next_page_token,
            page.commands,
        )
    };
    let (ids, token, _) = list(ListCommandsRequest { page_size: 3, ..Default::default() }).await;
    assert_eq!(ids, ["c6", "c5", "c4"]);
    let (ids, token, _) = list(ListCommandsRequest { page_size: 3, page_token: token, ..Default::default() }).await;
    assert_eq!(ids, ["c3", "c2", "c1"]);
    let (ids, token, _) = list(ListCommandsRequest { page_size: 3, page_token: token, ..Default::default() }).await;
    assert_eq!((ids, token.as_str()), (vec!["c0".to_owned()], ""));
    let (ids, token, _) = list(ListCommandsRequest { tag: "even".into(), page_size: 4, ..Default::default() }).await;
    assert_eq!((ids, token.as_str()), (["c6", "c4", "c2", "c0"].map(str::to_owned).to_vec(), ""));
    let (ids, _, running) = list(ListCommandsRequest { running_only: true, ..Default::default() }).await;
    assert_eq!(ids, ["c6"]);
    let (ids, ..) = list(ListCommandsRequest { pid: running[0].pid, ..Default::default() }).await;
    assert_eq!(ids, ["c6"]);
    let bad = ListCommandsRequest { page_token: "no token".into(), page_size: 1_001, ..Default::default() };
    assert_eq!(reason(&commands.list_commands(bad).await.unwrap_err()), Reason::InvalidRequest);
    let kill = SignalCommandRequest { command_id: "c6".into(), number: 9, ..Default::default() };
    commands.signal_command(kill).await.unwrap();
}

#[tokio::test]
async fn processes_are_limited_and_the_sandbox_lives() {
    // Version 1 of cgroups, as on a host of ours; elsewhere there is nothing to test with.
    let group = format!("/sys/fs/cgroup/pids/nullspace-agent-test-{}", std::process::id());
    if fs::create_dir(&group).is_err() {
        return;
    }
    let root = std::env::temp_dir().join(format!("nullspace-agent-cgroup-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    std::os::unix::fs::symlink(&group, root.join("pids")).unwrap();
    let options = Options { cgroup: Some(root.clone()), max_processes: 8, ..Default::default() };
    let sandbox = Sandbox::with(options).await;
    let script = "n=0; while [ $n -lt 20 ]; do sleep 1000 & n=$((n+1)); done 2>/dev/null; echo never";
    let mut commands = sandbox.commands().await;
    let output =
        Attached::open(&mut commands, open("bomb", Some(shell(script)))).await.unwrap().finish().await.unwrap();
    assert!(!output.text().contains("never") && output.code() != Some(0), "{output:?}");
    let start = |id: &str| StartCommandRequest {
        command_id: id.into(),
        spec: Some(argv(["sleep", "1000"])),
        ..Default::default()
    };
    // The leader has ended: there is room for one, and no more.
    let current = || fs::read_to_string(format!("{group}/programs/pids.current")).unwrap();
    eventually("the leader is gone", || async { current().trim() == "7" }).await;
    commands.start_command(start("last")).await.unwrap();
    let status = commands.start_command(start("one-too-many")).await.unwrap_err();
    assert_eq!((reason(&status), status.code()), (Reason::ProcessLimitReached, Code::ResourceExhausted));
    let procs = || fs::read_to_string(format!("{group}/programs/cgroup.procs")).unwrap_or_default();
    assert_eq!(procs().lines().count(), 8);
    for pid in procs().lines() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    eventually("the group is empty", || async { procs().is_empty() }).await;
    drop(sandbox);
    eventually("the group is gone", || async { fs::remove_dir(format!("{group}/programs")).is_ok() }).await;
    fs::remove_dir(&group).unwrap();
    fs::remove_dir_all(&root).unwrap();
}

#[tokio::test]
async fn retention_is_kept_and_told() {
    let sandbox = Sandbox::start().await;
    let spec = CommandSpec {
        retain_output_bytes: 65_536,
        overflow: Overflow::Truncate.into(),
        ..shell("head -c 1000000 /dev/zero")
    };
    let mut commands = sandbox.commands().await;
    commands
        .start_command(StartCommandRequest { command_id: "c".into(), spec: Some(spec), ..Default::default() })
        .await
        .unwrap();
    let request = WaitCommandRequest { command_id: "c".into(), ..Default::default() };
    let info = commands.wait_command(request).await.unwrap().into_inner().command.unwrap();
    assert_eq!((info.output_start, info.output_end, info.output_open), (1_000_000 - 65_536, 1_000_000, false));
    let mut attached = Attached::open(&mut commands, open("c", None)).await.unwrap();
    let mut output = Output::default();
    let mut first = None;
    output.exit = attached
        .until(|frame| {
            if let Frame::Truncated(truncated) = &frame {
                first.get_or_insert(truncated.offset);
            }
            output.take(frame)
        })
        .await
        .unwrap();
    assert_eq!((first, output.stdout.len()), (Some(1_000_000 - 65_536), 65_536));
}
