//! Attaches: input, readers that stall, clients that leave, holders, deadlines.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::*;
use nullspace_proto::{
    Reason,
    agent::v1::{AssignRequest, GetStatsRequest, WatchMemoryRequest},
    v1::{
        AttachOpen, CloseInput, CommandSignal, CommandSpec, GetCommandRequest, InputAccepted, InputChunk,
        InputClosedReason, LogPosition, OutputAck, Overflow, SignalCommandRequest, StartCommandRequest,
        TerminationReason, WaitCommandRequest, WriteCommandInputRequest, attach_command_request::Frame as In,
        attach_command_response::Frame,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

fn with_input(spec: CommandSpec) -> CommandSpec {
    CommandSpec { open_stdin: true, ..spec }
}

fn input(offset: i64, data: &'static str) -> In {
    In::Input(InputChunk { offset, data: data.into() })
}

fn accepted(frame: Frame) -> Option<InputAccepted> {
    match frame {
        Frame::InputAccepted(accepted) => Some(accepted),
        _ => None,
    }
}

fn closed(frame: Frame) -> Option<InputClosedReason> {
    match frame {
        Frame::InputClosed(closed) => Some(closed.reason()),
        _ => None,
    }
}

#[tokio::test]
async fn input_counts_per_client_and_a_repeat_is_ignored() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let named = |client: &str| AttachOpen { client_id: client.into(), ..open("c", Some(with_input(argv(["cat"])))) };
    let mut a = Attached::open(&mut commands, named("a")).await.unwrap();
    let start = a.until(accepted).await.unwrap();
    assert_eq!((start.offset, start.window_bytes), (0, 1 << 20));
    let mut b = Attached::open(&mut commands, named("b")).await.unwrap();
    a.send(input(0, "one "));
    a.send(input(2, "e two "));
    a.until(|frame| accepted(frame).filter(|accepted| accepted.offset == 8)).await.unwrap();
    b.send(input(0, "three "));
    b.until(|frame| accepted(frame).filter(|accepted| accepted.offset == 6)).await.unwrap();
    // The stream is cut; a new one learns where it was, and sends all again.
    drop(a);
    let mut a = Attached::open(&mut commands, named("a")).await.unwrap();
    assert_eq!(a.until(accepted).await.unwrap().offset, 8);
    a.send(input(0, "one two "));
    a.send(input(8, "four\n"));
    a.send(In::CloseInput(CloseInput { offset: 13 }));
    assert_eq!(a.until(closed).await.unwrap(), InputClosedReason::Client);
    a.finish().await.unwrap();
    let whole = Attached::open(&mut commands, open("c", None)).await.unwrap().finish().await.unwrap();
    assert_eq!(whole.text(), "one two three four\n");
    assert_eq!(b.until(closed).await.unwrap(), InputClosedReason::Client);
}

#[tokio::test]
async fn a_gap_in_input_is_an_error_that_says_where_to_go_on() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let mut a = Attached::open(&mut commands, open("c", Some(with_input(argv(["cat"]))))).await.unwrap();
    a.send(input(0, "ab"));
    a.send(input(3, "cd"));
    let status = loop {
        match a.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!((reason(&status), status.code()), (Reason::InputGap, Code::OutOfRange));
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    assert_eq!(info.metadata["accepted_offset"], "2");
    // The command runs on.
    let get = GetCommandRequest { command_id: "c".into(), ..Default::default() };
    assert!(commands.get_command(get).await.unwrap().into_inner().command.unwrap().exit.is_none());
    let kill = SignalCommandRequest { command_id: "c".into(), number: 9, ..Default::default() };
    commands.signal_command(kill).await.unwrap();
}

#[tokio::test]
async fn input_by_calls_waits_for_room_and_can_be_repeated() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let gate = sandbox.path("gate");
    let script = format!("while [ ! -e {gate} ]; do sleep 0.01; done; wc -c");
    let spec = Some(with_input(shell(&script)));
    commands.start_command(StartCommandRequest { command_id: "c".into(), spec, ..Default::default() }).await.unwrap();
    let write = |offset, bytes, close| WriteCommandInputRequest {
        command_id: "c".into(),
        client_id: "me".into(),
        offset,
        data: vec![b'x'; bytes].into(),
        close,
        ..Default::default()
    };
    let mib = 1 << 20;
    let first = commands.write_command_input(write(0, mib, false)).await.unwrap().into_inner();
    assert_eq!(first.accepted_offset, mib as i64);
    assert_eq!(
        commands.write_command_input(write(0, mib, false)).await.unwrap().into_inner().accepted_offset,
        mib as i64
    );
    let gap = commands.write_command_input(write(mib as i64 + 1, 1, false)).await.unwrap_err();
    assert_eq!(reason(&gap), Reason::InputGap);
    // The queue and the pipe are full: the call waits, and its deadline ends it.
    let mut request = tonic::Request::new(write(mib as i64, mib, false));
    request.set_timeout(Duration::from_millis(100));
    let late = commands.write_command_input(request).await.unwrap_err();
    assert_eq!((reason(&late), late.code()), (Reason::DeadlineExceeded, Code::DeadlineExceeded));
    fs::write(&gate, "").unwrap();
    let all = commands.write_command_input(write(mib as i64, mib, true)).await.unwrap().into_inner();
    assert_eq!(all.accepted_offset, 2 * mib as i64);
    let output = Attached::open(&mut commands, open("c", None)).await.unwrap().finish().await.unwrap();
    assert_eq!(output.text().trim(), "2097152");
    // What was accepted before is accepted still; new input is not.
    assert!(commands.write_command_input(write(mib as i64, mib, false)).await.is_ok());
    let status = commands.write_command_input(write(2 * mib as i64, 1, false)).await.unwrap_err();
    assert_eq!(reason(&status), Reason::InputClosed);
}

#[tokio::test]
async fn input_that_is_not_taken_is_told() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    // Never opened: /dev/null.
    let mut a = Attached::open(&mut commands, open("never", Some(shell("cat; sleep 1000")))).await.unwrap();
    assert_eq!(a.until(accepted).await.unwrap().window_bytes, 0);
    a.send(input(0, "x"));
    assert_eq!(a.until(closed).await.unwrap(), InputClosedReason::NotOpened);
    let write = WriteCommandInputRequest {
        command_id: "never".into(),
        client_id: "me".into(),
        data: "x".into(),
        ..Default::default()
    };
    assert_eq!(reason(&commands.write_command_input(write).await.unwrap_err()), Reason::InputClosed);
    a.send(In::Signal(CommandSignal { number: 9 }));
    assert_eq!(a.finish().await.unwrap().exit.reason(), TerminationReason::KilledByUser);
    // Closed by the process while nobody writes, then by its end.
    let mut a =
        Attached::open(&mut commands, open("closes", Some(with_input(shell("exec <&-; sleep 1000"))))).await.unwrap();
    assert_eq!(a.until(closed).await.unwrap(), InputClosedReason::Process);
    a.send(In::Signal(CommandSignal { number: 9 }));
    a.finish().await.unwrap();
    let mut a = Attached::open(&mut commands, open("ends", Some(with_input(argv(["true"]))))).await.unwrap();
    assert_eq!(a.until(closed).await.unwrap(), InputClosedReason::Process);
}

#[tokio::test]
async fn more_input_than_the_window_flows_as_it_is_taken() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let mut a = Attached::open(&mut commands, open("c", Some(with_input(argv(["sha256sum"]))))).await.unwrap();
    let total = 8 << 20;
    let piece = bytes::Bytes::from(vec![b'y'; 100_000]);
    let (mut sent, mut output) = (0, Output::default());
    let exit = a.until(|frame| accepted(frame).map(|accepted| accepted.offset + accepted.window_bytes));
    let mut allowed = exit.await.unwrap();
    while sent < total {
        while sent < total.min(allowed) {
            let n = (total.min(allowed) - sent).min(100_000);
            a.send(In::Input(InputChunk { offset: sent, data: piece.slice(..n as usize) }));
            sent += n;
        }
        if sent < total {
            allowed =
                a.until(|frame| accepted(frame).map(|accepted| accepted.offset + accepted.window_bytes)).await.unwrap();
        }
    }
    a.send(In::CloseInput(CloseInput { offset: total }));
    a.until(|frame| output.take(frame)).await.unwrap();
    // SHA-256 of 8 MiB of `y`.
    use sha2::Digest as _;
    let expected: String =
        sha2::Sha256::digest(vec![b'y'; total as usize]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(output.text().starts_with(&expected), "{}", output.text());
}

#[tokio::test]
async fn a_stalled_reader_stops_neither_the_process_nor_another_reader() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let gate = sandbox.path("gate");
    let script = format!("while [ ! -e {gate} ]; do sleep 0.01; done; head -c 200000000 /dev/zero");
    let spec = CommandSpec { retain_output_bytes: 1 << 20, ..shell(&script) };
    let _stalled = Attached::open(&mut commands, open("c", Some(spec))).await.unwrap();
    let reader = Attached::open(&mut commands, open("c", None)).await.unwrap();
    fs::write(&gate, "").unwrap();
    let output = reader.finish().await.unwrap();
    assert_eq!((output.exit.output_bytes, output.code()), (200_000_000, Some(0)));
    // And another call on the same connection answers.
    let get = GetCommandRequest { command_id: "c".into(), ..Default::default() };
    assert_eq!(commands.get_command(get).await.unwrap().into_inner().command.unwrap().output_end, 200_000_000);
}

#[tokio::test]
async fn many_stalled_streams_leave_a_connection_usable() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let spec = with_input(shell("sleep 1000"));
    commands
        .start_command(StartCommandRequest { command_id: "c".into(), spec: Some(spec), ..Default::default() })
        .await
        .unwrap();
    let mut streams = Vec::new();
    for _ in 0..63 {
        let a = Attached::open(&mut commands, open("c", None)).await.unwrap();
        for part in 0..20 {
            a.send(In::Input(InputChunk { offset: part << 20, data: vec![0; 1 << 20].into() }));
        }
        streams.push(a);
    }
    let get = GetCommandRequest { command_id: "c".into(), ..Default::default() };
    let answer = tokio::time::timeout(PATIENCE, commands.get_command(get)).await.expect("the connection hangs");
    assert!(answer.unwrap().into_inner().command.unwrap().exit.is_none());
    drop(streams);
    let kill = SignalCommandRequest { command_id: "c".into(), number: 9, ..Default::default() };
    commands.signal_command(kill).await.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_tiny_writes_left_unread_cost_little() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let script = "import os\nfor i in range(100000): os.write(1, b'x')";
    let mut a = Attached::open(&mut commands, open("c", Some(argv(["python3", "-c", script])))).await.unwrap();
    let wait = WaitCommandRequest { command_id: "c".into(), ..Default::default() };
    commands.wait_command(wait).await.unwrap();
    let (mut frames, mut bytes) = (0, 0);
    a.until(|frame| match frame {
        Frame::Output(chunk) => {
            frames += 1;
            bytes += chunk.data.len();
            None
        }
        Frame::Exit(exit) => Some(exit),
        _ => None,
    })
    .await
    .unwrap();
    assert_eq!(bytes, 100_000);
    assert!(frames < 3_000, "{frames} frames");
}

/// Many clients read a frame only when they have said that they took the last.
#[tokio::test]
async fn a_client_that_speaks_before_it_reads_hears_the_end() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    // Each is taken before the next is written, so that each is a message.
    let program = "import fcntl, os, termios\n\
        for n in range(75000):\n \
        fd = 1 + n % 2; os.write(fd, b'.')\n \
        while any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4))): os.sched_yield()\n";
    let (requests, receiver) = mpsc::channel(1);
    let start = open("c", Some(argv(["python3", "-c", program])));
    requests.send(frame(In::Open(start))).await.unwrap();
    let mut frames = commands.attach_command(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let end = async || {
        let wait = WaitCommandRequest { command_id: "c".into(), ..Default::default() };
        commands.clone().wait_command(wait).await.unwrap().into_inner().command.unwrap().exit.is_some()
    };
    eventually("the command ends", end).await;
    let (mut offset, mut exit) = (0, None);
    while exit.is_none() {
        let next = timeout(PATIENCE, frames.message()).await.expect("no frame came").unwrap().unwrap();
        match next.frame.unwrap() {
            Frame::Output(chunk) => offset = chunk.offset + chunk.data.len() as i64,
            Frame::Exit(ended) => exit = Some(ended),
            _ => {}
        }
        // Of what still waits to go when the exit is known, each is answered with
        // more than fits on the way back.
        for _ in 0..30 {
            let said = requests.send(frame(In::Ack(OutputAck { offset })));
            // It may be too late for it, but not stand still.
            let _ = timeout(PATIENCE, said).await.expect("nobody takes what is said");
        }
    }
    assert_eq!((offset, exit.unwrap().output_bytes), (75_000, 75_000));
}

#[tokio::test]
async fn a_client_that_leaves_harms_nobody() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let spec = with_input(shell("cat; echo done"));
    let mut stays = Attached::open(&mut commands, open("c", Some(spec))).await.unwrap();
    stays.until(accepted).await.unwrap();
    for _ in 0..20 {
        let mut others = sandbox.commands().await;
        let mut leaves = Attached::open(&mut others, open("c", None)).await.unwrap();
        leaves.next().await.unwrap();
        leaves.send(input(0, "x"));
        // By a reset of the stream, and by a cut of the connection.
        drop(leaves);
        drop(others);
    }
    stays.send(input(0, "y\n"));
    stays.send(In::CloseInput(CloseInput { offset: 2 }));
    let mut output = Output::default();
    let exit = stays.until(|frame| output.take(frame)).await.unwrap();
    assert_eq!(exit.reason(), TerminationReason::Exited);
    assert!(output.text().ends_with("done\n"));
}

#[tokio::test]
async fn calls_that_are_given_up_at_once_do_not_end_the_connection() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let mut stays = Attached::open(&mut commands, open("c", Some(with_input(argv(["cat"]))))).await.unwrap();
    for _ in 0..10 {
        let calls = (0..50).map(|_| {
            let mut commands = commands.clone();
            tokio::spawn(async move {
                commands.wait_command(WaitCommandRequest { command_id: "c".into(), ..Default::default() }).await
            })
        });
        let calls: Vec<_> = calls.collect();
        tokio::task::yield_now().await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
    }
    stays.send(In::CloseInput(CloseInput { offset: 0 }));
    assert_eq!(stays.until(|frame| Output::default().take(frame)).await.unwrap().reason(), TerminationReason::Exited);
}

#[tokio::test]
async fn a_newer_attach_of_the_same_client_takes_over() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let named = |start| AttachOpen { client_id: "me".into(), ..open("c", start) };
    let mut old = Attached::open(&mut commands, named(Some(with_input(argv(["cat"]))))).await.unwrap();
    old.until(accepted).await.unwrap();
    let new = Attached::open(&mut commands, named(None)).await.unwrap();
    let status = loop {
        match old.next().await {
            Ok(frame) => assert!(frame.is_some(), "it must end in an error"),
            Err(status) => break status,
        }
    };
    assert_eq!((reason(&status), status.code()), (Reason::AttachSuperseded, Code::Aborted));
    new.send(In::CloseInput(CloseInput { offset: 0 }));
    assert_eq!(new.finish().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_blocked_process_waits_for_its_holder_and_loses_nothing() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let spec = CommandSpec {
        overflow: Overflow::Block.into(),
        retain_output_bytes: 65_536,
        ..shell("head -c 3000000 /dev/zero; echo end >&2")
    };
    let hold = |start, offset| AttachOpen {
        client_id: "me".into(),
        hold: true,
        position: Some(LogPosition { offset, ..Default::default() }),
        ..open("c", start)
    };
    let mut attached = Attached::open(&mut commands, hold(Some(spec), 0)).await.unwrap();
    let mut received = 0;
    // Nothing acknowledged: exactly what is retained comes, and no more.
    while attached.offset < 65_536 {
        let frame = attached.next().await.unwrap().unwrap();
        attached.check(&frame);
        assert!(!matches!(frame, Frame::Truncated(_) | Frame::Exit(_)));
    }
    let get = || GetCommandRequest { command_id: "c".into(), ..Default::default() };
    let info = commands.get_command(get()).await.unwrap().into_inner().command.unwrap();
    assert_eq!((info.output_start, info.output_end, info.exit), (0, 65_536, None));
    // The holder is lost and comes back where it was.
    drop(attached);
    let mut attached = Attached::open(&mut commands, hold(None, 65_536)).await.unwrap();
    let exit = loop {
        let frame = attached.next().await.unwrap().unwrap();
        attached.check(&frame);
        match frame {
            Frame::Output(chunk) => {
                received += chunk.data.len();
                attached.send(In::Ack(OutputAck { offset: attached.offset }));
            }
            Frame::Truncated(_) => panic!("a byte was lost"),
            Frame::Exit(exit) => break exit,
            _ => {}
        }
    };
    assert_eq!((received, exit.output_bytes), (3_000_004 - 65_536, 3_000_004));
}

#[tokio::test]
async fn a_process_stays_near_a_holder_that_takes_output_as_it_comes() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let spec = CommandSpec { overflow: Overflow::Block.into(), ..shell("head -c 500000000 /dev/zero") };
    let hold = AttachOpen { client_id: "me".into(), hold: true, ..open("c", Some(spec)) };
    let mut attached = Attached::open(&mut commands, hold).await.unwrap();
    let (mut ahead, mut asked) = (Vec::new(), 0);
    loop {
        let frame = attached.next().await.unwrap().unwrap();
        attached.check(&frame);
        if matches!(frame, Frame::Exit(_)) {
            break;
        }
        attached.send(In::Ack(OutputAck { offset: attached.offset }));
        if attached.offset > asked + 10_000_000 {
            asked = attached.offset;
            let get = GetCommandRequest { command_id: "c".into(), ..Default::default() };
            let info = commands.get_command(get).await.unwrap().into_inner().command.unwrap();
            ahead.push(info.output_end - asked);
        }
    }
    // A busy machine lets the reader stand still now and then.
    ahead.sort_unstable();
    assert!(ahead[ahead.len() / 2] < 24 << 20, "{ahead:?}");
}

#[tokio::test]
async fn without_a_holder_a_process_waits_for_its_grace_and_goes_on() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let spec = CommandSpec {
        overflow: Overflow::Block.into(),
        retain_output_bytes: 65_536,
        hold_grace: Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }),
        ..shell("head -c 3000000 /dev/zero")
    };
    let began = Instant::now();
    // A reader that does not hold does not count.
    let mut attached = Attached::open(&mut commands, open("c", Some(spec))).await.unwrap();
    let exit = attached.until(|frame| matches!(frame, Frame::Exit(_)).then_some(())).await;
    exit.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_ends_at_its_deadline() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let keepalive = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let open = AttachOpen { keepalive, ..open("c", Some(shell("sleep 1000"))) };
    let mut attached = Attached::open(&mut commands, open).await.unwrap();
    let began = Instant::now();
    attached.until(|frame| matches!(frame, Frame::Keepalive(_)).then_some(())).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(900));
    drop(attached);
    // The deadline of a stream ends it, and not the command.
    let mut request = tonic::Request::new(tokio_stream::iter([frame(In::Open(common::open("c", None)))]));
    request.set_timeout(Duration::from_millis(200));
    let mut stream = commands.attach_command(request).await.unwrap().into_inner();
    let status = loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!((reason(&status), status.code()), (Reason::DeadlineExceeded, Code::DeadlineExceeded));
    let kill = SignalCommandRequest { command_id: "c".into(), number: 9, ..Default::default() };
    commands.signal_command(kill).await.unwrap();
}

#[tokio::test]
async fn frames_that_make_no_sense_are_refused() {
    let sandbox = Sandbox::start().await;
    let mut commands = sandbox.commands().await;
    let start = |id: &str| open(id, Some(with_input(argv(["cat"]))));
    let bad: [(&str, Vec<In>); 6] = [
        ("no open", vec![In::Ack(OutputAck { offset: 0 })]),
        ("two opens", vec![In::Open(start("two")), In::Open(start("two"))]),
        ("signal 65", vec![In::Open(start("signal")), In::Signal(CommandSignal { number: 65 })]),
        ("input below 0", vec![In::Open(start("below")), input(-1, "x")]),
        (
            "too much input",
            vec![In::Open(start("much")), In::Input(InputChunk { offset: 0, data: vec![0; (1 << 20) + 1].into() })],
        ),
        ("nothing", vec![]),
    ];
    for (what, frames) in bad {
        let requests = tokio_stream::iter(frames.into_iter().map(frame).collect::<Vec<_>>());
        let mut end = Ok(());
        match commands.attach_command(requests).await {
            Err(status) => end = Err(status),
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while end.is_ok() {
                    match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
                        Ok(message) => assert!(message.is_some(), "{what}"),
                        Err(status) => end = Err(status),
                    }
                }
            }
        }
        assert_eq!(reason(&end.unwrap_err()), Reason::InvalidRequest, "{what}");
    }
}

#[tokio::test]
async fn only_who_knows_the_secret_is_answered_and_only_after_assign() {
    let sandbox = Sandbox::with(Options { assign: false, ..Options::default() }).await;
    let get = || GetCommandRequest { command_id: "c".into(), ..Default::default() };
    let client = Client::connect(sandbox.address, "a-guess").await;
    let mut stranger = nullspace_proto::v1::command_service_client::CommandServiceClient::new(client);
    assert_eq!(stranger.get_command(get()).await.unwrap_err().code(), Code::Unauthenticated);
    let mut commands = sandbox.commands().await;
    let status = commands.get_command(get()).await.unwrap_err();
    assert_eq!((reason(&status), status.code()), (Reason::SandboxNotReady, Code::Unavailable));
    let mut agent = sandbox.agent().await;
    let mut wrong = sandbox.assignment();
    wrong.execution_id = "01janother".into();
    let status = agent.assign(wrong).await.unwrap_err();
    assert_eq!((reason(&status), status.code()), (Reason::StaleIncarnation, Code::FailedPrecondition));
    for _ in 0..2 {
        assert!(!agent.assign(sandbox.assignment()).await.unwrap().into_inner().version.is_empty());
    }
    assert_eq!(reason(&commands.get_command(get()).await.unwrap_err()), Reason::CommandNotFound);
    assert_eq!(fs::read_to_string(sandbox.path("etc/hosts")).unwrap(), "127.0.0.1 localhost sandbox\n");
    let stats = agent.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
    assert!(stats.memory_used_bytes > 0 && stats.memory_used_bytes < stats.memory_total_bytes);
    assert!(stats.disk_used_bytes > 0 && stats.disk_used_bytes < stats.disk_total_bytes);
}

/// What is an execution's is made before the agent answers, and made again in a
/// sandbox that was restored as another execution.
#[tokio::test]
async fn what_was_prepared_is_of_the_execution_that_is_assigned() {
    let sandbox = Sandbox::with(Options { assign: false, ..Options::default() }).await;
    let hosts = || fs::read_to_string(sandbox.path("etc/hosts")).unwrap();
    assert_eq!(hosts(), "127.0.0.1 localhost sandbox\n");
    fs::write(sandbox.path("control/execution_id"), "01jrestored").unwrap();
    fs::write(sandbox.path("control/hosts"), "127.0.0.1 localhost restored\n").unwrap();
    let request = AssignRequest { execution_id: "01jrestored".into(), ..sandbox.assignment() };
    sandbox.agent().await.assign(request).await.unwrap();
    assert_eq!(hosts(), "127.0.0.1 localhost restored\n");
}

#[tokio::test]
async fn at_its_memory_limit_a_sandbox_loses_its_largest_command_and_no_other() {
    // Less than the machine uses already: whatever runs is too much.
    let sandbox = Sandbox::with(Options { memory_bytes: 1 << 20, ..Options::default() }).await;
    let mut commands = sandbox.commands().await;
    let small = Attached::open(&mut commands, open("small", Some(argv(["sleep", "1000"])))).await.unwrap();
    let script = "x = bytearray(50 << 20)\nprint('full', flush=True)\nimport time\ntime.sleep(1000)";
    let mut large = Attached::open(&mut commands, open("large", Some(argv(["python3", "-c", script])))).await.unwrap();
    large.until(|frame| matches!(frame, Frame::Output(_)).then_some(())).await.unwrap();
    sandbox.agent().await.watch_memory(WatchMemoryRequest {}).await.unwrap();
    let output = large.finish().await.unwrap();
    assert_eq!((output.signal(), output.exit.reason()), (Some(9), TerminationReason::OutOfMemory));
    // The next one only after this one's memory had time to come back.
    assert_eq!(small.finish().await.unwrap().exit.reason(), TerminationReason::OutOfMemory);
}
