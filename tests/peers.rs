//! Ten mistakes that other sandboxes make with the output of commands. Each is
//! a test here, by the mistake's name.

use std::time::Instant;

use nullspace_proto::{
    Reason, id,
    v1::{
        AttachOpen, CommandSpec, InputChunk, ListCommandsRequest, OutputStream, Overflow, TerminationReason,
        attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
    },
};
use nullspace_tests::{Api, Cutter, Result, TestSandbox, argv, refused, required, rounds, shell};

#[tokio::test]
async fn mistake_1_output_that_nobody_listens_to_is_thrown_away() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = sandbox.start_background(shell("seq 1 100000; seq 1 1000 >&2")).await?;
    sandbox.wait(&command).await?;
    let late = sandbox.attach(AttachOpen { command_id: command, ..Default::default() }).await?.finish().await?;
    assert_eq!((late.stdout.len(), late.stderr.len(), late.truncated.len()), (588_895, 3_893, 0));
    // A foreground command whose client was cut off goes on, and is had again.
    let cutter = Cutter::to(&sandbox.api.url).await?;
    let far = sandbox.by(Api::connect(&cutter.url(), Some(&required("NULLSPACE_API_KEY")?)).await?);
    let open = AttachOpen {
        command_id: id::command(),
        start: Some(CommandSpec {
            open_stdin: true,
            overflow: Overflow::Block as i32,
            ..shell("echo a; read go; echo b")
        }),
        hold: true,
        client_id: "me".into(),
        ..Default::default()
    };
    let mut command = far.attach(open.clone()).await?;
    while !matches!(command.next().await?, Answer::Output(_)) {}
    cutter.cut();
    assert!(command.finish().await.is_err());
    far.release();
    sandbox.write_input(&open.command_id, 0, b"go\n", true).await?;
    let again = sandbox.attach(open).await?.finish().await?;
    assert_eq!((again.text().as_str(), again.code()), ("a\nb\n", Some(0)));
    Ok(())
}

#[tokio::test]
async fn mistake_2_one_stalled_reader_stops_every_other_and_the_process() -> Result {
    let sandbox = TestSandbox::new().await?;
    let line = "read go; head -c 60000000 /dev/zero";
    let open = AttachOpen {
        command_id: id::command(),
        start: Some(CommandSpec { open_stdin: true, ..shell(line) }),
        ..Default::default()
    };
    let stalled = sandbox.attach(open.clone()).await?;
    let reader = sandbox.attach(AttachOpen { start: None, ..open }).await?;
    stalled.send(Ask::Input(InputChunk { offset: 0, data: "go\n".into() })).await?;
    let finished = reader.finish().await?;
    assert_eq!((finished.stdout.len(), finished.code()), (60_000_000, Some(0)));
    drop(stalled);
    Ok(())
}

#[tokio::test]
async fn mistake_3_a_client_that_leaves_by_a_reset_kills_anothers_command() -> Result {
    let sandbox = TestSandbox::new().await?;
    let cutter = Cutter::to(&sandbox.api.url).await?;
    for round in 0..rounds(3, 20) {
        let far = sandbox.by(Api::connect(&cutter.url(), Some(&required("NULLSPACE_API_KEY")?)).await?);
        let innocent = sandbox.start(CommandSpec { open_stdin: true, ..shell("read go; echo lives") }).await?;
        let mut leaver = far.start(shell("yes")).await?;
        while !matches!(leaver.next().await?, Answer::Output(_)) {}
        cutter.cut();
        let left = leaver.command_id.clone();
        drop(leaver);
        far.release();
        innocent.send(Ask::Input(InputChunk { offset: 0, data: "go\n".into() })).await?;
        let finished = innocent.finish().await?;
        assert_eq!((finished.text().as_str(), finished.code()), ("lives\n", Some(0)), "round {round}");
        // Its own command goes on, too.
        sandbox.signal(&left, 9).await?;
        assert_eq!(sandbox.wait(&left).await?.reason(), TerminationReason::KilledByUser);
    }
    Ok(())
}

#[tokio::test]
async fn mistake_4_reconnecting_to_an_ended_command_runs_it_again() -> Result {
    let sandbox = TestSandbox::new().await?;
    let open = || AttachOpen {
        command_id: "once".into(),
        start: Some(shell("echo ran >> /tmp/runs; exit 7")),
        ..Default::default()
    };
    for _ in 0..3 {
        assert_eq!(sandbox.attach(open()).await?.finish().await?.code(), Some(7));
    }
    assert_eq!(sandbox.sh("wc -l < /tmp/runs").await?.trim(), "1");
    Ok(())
}

#[tokio::test]
async fn mistake_5_the_tail_is_lost_at_exit() -> Result {
    let sandbox = TestSandbox::new().await?;
    for round in 0..rounds(30, 300) {
        // More than a pipe holds, ended in the middle of a line.
        let finished = sandbox.run(shell("seq 1 20000; printf 'the very end'")).await?;
        assert_eq!(finished.stdout.len() as i64, finished.exit.output_bytes, "round {round}");
        assert!(finished.stdout.ends_with(b"20000\nthe very end"), "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn mistake_6_a_grandchild_holds_the_exit_up_or_its_output_is_dropped() -> Result {
    let sandbox = TestSandbox::new().await?;
    let mut command =
        sandbox.start(shell("(until [ -e /tmp/go ]; do sleep 0.02; done; echo late) & echo early")).await?;
    let id = command.command_id.clone();
    // The exit comes though the grandchild waits for what is only made after it.
    loop {
        if let Answer::Exit(exit) = command.next().await? {
            assert!(exit.output_open, "that a descendant has the output is said");
            break;
        }
    }
    sandbox.sh("touch /tmp/go").await?;
    let (bytes, _, _, open) = sandbox.read_output(&id, 0, true).await?;
    assert_eq!((bytes.as_slice(), open), (b"early\nlate\n".as_slice(), false));
    Ok(())
}

#[tokio::test]
async fn mistake_7_a_death_is_an_exit_code_and_a_missing_program_is_127() -> Result {
    let sandbox = TestSandbox::new().await?;
    let finished = sandbox.run(shell("kill -SEGV $$")).await?;
    assert_eq!((finished.code(), finished.signal()), (None, Some(11)));
    assert_eq!(finished.exit.reason(), TerminationReason::Signalled);
    refused(sandbox.start(argv(["no-such-program"])).await.map(drop), Reason::ProgramNotFound);
    // A program may say 127 itself.
    assert_eq!(sandbox.run(shell("exit 127")).await?.code(), Some(127));
    Ok(())
}

#[tokio::test]
async fn mistake_8_files_of_ended_commands_are_never_removed() -> Result {
    let sandbox = TestSandbox::new().await?;
    let files = "find / -xdev -type f -newer /tmp/mark 2>/dev/null | grep -v -e ^/proc -e ^/sys; true";
    sandbox.sh("touch /tmp/mark; sleep 0.05").await?;
    for _ in 0..rounds(10, 50) {
        let command = sandbox.start_background(shell("head -c 4000000 /dev/zero")).await?;
        sandbox.wait(&command).await?;
    }
    assert_eq!(sandbox.sh(files).await?, "");
    // What is known of them is bounded, and says what they were.
    let request = ListCommandsRequest { sandbox_id: sandbox.id(), page_size: 1, ..Default::default() };
    let listed = sandbox.api.commands().list_commands(request).await?.into_inner();
    assert!(listed.commands.len() == 1 && !listed.next_page_token.is_empty());
    Ok(())
}

#[tokio::test]
async fn mistake_9_output_is_polled_for() -> Result {
    let sandbox = TestSandbox::new().await?;
    let begun = Instant::now();
    let mut command = sandbox.start(shell("echo a; sleep 1")).await?;
    while !matches!(command.next().await?, Answer::Output(_)) {}
    let first = begun.elapsed();
    command.finish().await?;
    // Ten polls a second would be a tenth of it late, on average half of that.
    let mut echoes = Vec::new();
    let mut command = sandbox.start(CommandSpec { open_stdin: true, ..argv(["cat"]) }).await?;
    for n in 0..50 {
        let sent = Instant::now();
        command.send(Ask::Input(InputChunk { offset: n, data: "x".into() })).await?;
        while !matches!(command.next().await?, Answer::Output(_)) {}
        echoes.push(sent.elapsed());
    }
    echoes.sort();
    let whole = begun.elapsed();
    assert!(first < whole / 2, "the first byte came after {first:?}");
    // Fifty echoes one after the other fit into the time of a few polls.
    assert!(echoes[25] * 20 < whole, "an echo takes {:?}", echoes[25]);
    Ok(())
}

#[tokio::test]
async fn mistake_10_text_events_eat_bytes() -> Result {
    let sandbox = TestSandbox::new().await?;
    let all =
        r"import os; b = bytes(range(256)) + b'\r\n\r\xff\xc3\x28no newline'; os.write(1, b); os.write(2, b[::-1])";
    let finished = sandbox.run(argv(["python3", "-c", all])).await?;
    let mut expected: Vec<u8> = (0..=255).collect();
    expected.extend_from_slice(b"\r\n\r\xff\xc3\x28no newline");
    assert_eq!(finished.stdout, expected);
    expected.reverse();
    assert_eq!(finished.stderr, expected);
    // One frame for each stream, told apart.
    let mut command = sandbox.start(shell(r"printf '\r'; printf '\377' >&2")).await?;
    let mut seen = Vec::new();
    loop {
        match command.next().await? {
            Answer::Output(chunk) => seen.push((chunk.stream(), chunk.data.to_vec())),
            Answer::Exit(_) => break,
            _ => {}
        }
    }
    seen.sort_by_key(|(stream, _)| *stream as i32);
    assert_eq!(seen, [(OutputStream::Stdout, b"\r".to_vec()), (OutputStream::Stderr, vec![0xff])]);
    Ok(())
}
