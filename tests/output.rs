//! Output is a log: whatever happens to a stream or a reader, no byte is lost or
//! repeated without a word.

use std::time::Duration;

use nullspace_proto::{
    Reason, id,
    v1::{
        AttachOpen, CloseInput, CommandSpec, GetCommandRequest, InputChunk, InputClosedReason, LogPosition,
        OutputStream, Overflow, ReadCommandOutputRequest, WriteCommandInputRequest,
        attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
    },
};
use nullspace_tests::{Attached, Result, TestSandbox, argv, refused, rounds, seconds, shell};
use sha2::{Digest as _, Sha256};

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
    let (bytes, _, end, open) = sandbox.read_output(&id, 0, true).await?;
    assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end, open), ("early\nlate\n", 11, false));
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
    let command = sandbox.start_background(CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
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
    let command =
        sandbox.start_background(CommandSpec { retain_output_bytes: 65_536, ..shell("seq 1 200000") }).await?;
    let exit = sandbox.wait(&command).await?;
    let (bytes, truncated, end, open) = sandbox.read_output(&command, 0, false).await?;
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
    let command = sandbox.start_background(shell("echo text")).await?;
    sandbox.wait(&command).await?;
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
    let command = sandbox.start_background(shell("sleep 1; echo survived")).await?;
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
    assert_eq!(sandbox.read_output(&command, 0, true).await?.0, b"survived\n");
    Ok(())
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
