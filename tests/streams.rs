//! Streams under fault: whatever is cut, killed or left unread, no byte is lost
//! or repeated without a word, and nobody else is held up.

use std::time::{Duration, Instant};

use nullspace_proto::{
    Reason, id,
    v1::{
        AttachOpen, CommandSpec, GetCommandRequest, InputChunk, LogPosition, OutputAck, OutputChunk, OutputStream,
        Overflow, RunOnceRequest, attach_command_request::Frame as Ask, attach_command_response::Frame as Answer,
        exit::Outcome, run_once_response::Frame as Run,
    },
};
use nullspace_tests::{
    Api, Attached, Cutter, Follow, Followed, Result, Server, TestSandbox, argv, eventually, patient, refused, required,
    rounds, shell, small,
};
use sha2::{Digest as _, Sha256};

/// Writes blocks of 64 KiB of counted numbers, the even ones to stdout and the
/// odd ones to stderr.
const WRITER: &str = "import array, os, sys\n\
    for block in range(int(sys.argv[1])):\n \
    numbers = array.array('Q', range(block * 8192, block * 8192 + 8192)); numbers.byteswap()\n \
    os.write(1 + block % 2, numbers.tobytes())\n";
const BLOCK: usize = 64 << 10;

fn block(number: usize) -> Vec<u8> {
    (number * 8192..(number + 1) * 8192).flat_map(|n| (n as u64).to_be_bytes()).collect()
}

/// SHA-256 of what `WRITER` puts on both streams.
fn expected(blocks: usize) -> [[u8; 32]; 2] {
    let mut sums = [Sha256::new(), Sha256::new()];
    (0..blocks).for_each(|n| sums[n % 2].update(block(n)));
    sums.map(|sum| sum.finalize().into())
}

fn random(below: usize) -> usize {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    usize::from_ne_bytes(bytes) % below
}

/// Starts a command that waits for its holder.
fn held(spec: CommandSpec) -> AttachOpen {
    AttachOpen {
        command_id: id::command(),
        start: Some(CommandSpec { overflow: Overflow::Block as i32, ..spec }),
        hold: true,
        client_id: "follower".into(),
        ..Default::default()
    }
}

/// A server behind a way that can be cut.
struct Faulty {
    server: Server,
    cutter: Cutter,
    sandbox: TestSandbox,
    /// About so many bytes come between two cuts.
    pace: usize,
    next_cut: usize,
    kills: Vec<usize>,
}

impl Faulty {
    /// For `total` bytes: with so many cuts at least, and kills of the server.
    async fn new(total: usize, cuts: usize, kills: usize) -> Result<Self> {
        let server = Server::start(&[]).await?;
        let cutter = Cutter::to(&server.url()?).await?;
        let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
        let pace = total / cuts / 2;
        let kills = (1..=kills).rev().map(|kill| kill * total / (kills + 1)).collect();
        Ok(Self { server, cutter, sandbox, pace, next_cut: pace, kills })
    }

    /// Follows a command that writes no more than the pace ahead of its reader.
    fn follow(&self, spec: CommandSpec, input: Vec<u8>) -> Result<Follow> {
        let spec = CommandSpec { retain_output_bytes: self.pace.max(65_536) as i64, ..spec };
        let open = AttachOpen { sandbox_id: self.sandbox.id(), ..held(spec) };
        Ok(Follow { url: self.cutter.url(), key: self.server.key()?, open, input, keep_open: false })
    }

    /// So many bytes have come: it is time for the next fault, perhaps.
    async fn fault(&mut self, bytes: usize) -> Result {
        if self.kills.last().is_some_and(|kill| bytes >= *kill) {
            self.kills.pop();
            self.server.kill()?;
            self.server.start_again().await?;
            self.cutter.lead_to(&self.server.url()?);
        }
        if bytes >= self.next_cut {
            self.next_cut = bytes + random(self.pace);
            self.cutter.cut();
        }
        Ok(())
    }

    async fn finish(self, followed: &Followed, cuts: usize) -> Result {
        assert!(self.cutter.cuts() >= cuts && self.kills.is_empty(), "{} cuts", self.cutter.cuts());
        assert!(followed.attaches > cuts / 2, "{} attaches after {cuts} cuts", followed.attaches);
        self.sandbox.release();
        self.server.finish().await
    }
}

#[tokio::test]
async fn output_survives_cuts_and_kills_of_the_server() -> Result {
    let (blocks, cuts, kills) = (rounds(320, 3_200), rounds(20, 200), rounds(1, 5));
    for combine_output in [false, true] {
        let mut faulty = Faulty::new(blocks * BLOCK, cuts, kills).await?;
        let spec = CommandSpec { combine_output, ..argv(["python3", "-c", WRITER, &blocks.to_string()]) };
        let mut sums = [Sha256::new(), Sha256::new()];
        let follow = faulty.follow(spec, Vec::new())?;
        let followed = follow
            .to_end(async |offset, chunk: &OutputChunk| {
                let stream = usize::from(chunk.stream() == OutputStream::Stderr);
                sums[stream].update(&chunk.data);
                faulty.fault(offset as usize + chunk.data.len()).await
            })
            .await?;
        assert_eq!((followed.exit.output_bytes as usize, followed.lost), (blocks * BLOCK, 0));
        let sums: [[u8; 32]; 2] = sums.map(|sum| sum.finalize().into());
        if combine_output {
            let mut whole = Sha256::new();
            (0..blocks).for_each(|n| whole.update(block(n)));
            assert_eq!(sums[0], <[u8; 32]>::from(whole.finalize()));
        } else {
            assert_eq!(sums, expected(blocks));
        }
        faulty.finish(&followed, cuts).await?;
    }
    Ok(())
}

#[tokio::test]
async fn input_survives_cuts_and_kills_of_the_server() -> Result {
    let (bytes, cuts, kills) = (rounds(2 << 20, 20 << 20), rounds(10, 100), rounds(1, 5));
    let mut faulty = Faulty::new(bytes, cuts, kills).await?;
    let input: Vec<u8> = (0..bytes / BLOCK).flat_map(block).collect();
    let follow = faulty.follow(CommandSpec { open_stdin: true, ..argv(["cat"]) }, input.clone())?;
    let mut echoed = Vec::new();
    let followed = follow
        .to_end(async |offset, chunk: &OutputChunk| {
            echoed.extend_from_slice(&chunk.data);
            faulty.fault(offset as usize + chunk.data.len()).await
        })
        .await?;
    assert_eq!(Sha256::digest(&echoed), Sha256::digest(&input));
    faulty.finish(&followed, cuts).await
}

/// One run, followed across cuts and kills of the server by its key.
#[tokio::test]
async fn a_run_survives_cuts_and_kills_of_the_server() -> Result {
    let (blocks, cuts, kills) = (rounds(160, 1_600), rounds(10, 100), rounds(1, 5));
    let mut faulty = Faulty::new(blocks * BLOCK, cuts, kills).await?;
    let mut request = RunOnceRequest {
        idempotency_key: id::request(),
        sandbox: Some(small()),
        // As little is kept as a run allows, so that it soon writes no further ahead.
        command: Some(CommandSpec {
            retain_output_bytes: 65_536,
            ..argv(["python3", "-c", WRITER, &blocks.to_string()])
        }),
        ..Default::default()
    };
    let (mut sums, mut offset, mut attaches) = ([Sha256::new(), Sha256::new()], 0, 0);
    let (mut sandboxes, deadline) =
        (std::collections::BTreeSet::new(), Instant::now() + patient(Duration::from_secs(120)));
    let exit = 'run: loop {
        attaches += 1;
        assert!(Instant::now() < deadline, "at {offset} after {attaches} attaches");
        let Ok(api) = Api::connect(&faulty.cutter.url(), Some(&faulty.server.key()?)).await else { continue };
        let Ok(frames) = api.sandboxes().run_once(request.clone()).await else { continue };
        let mut frames = frames.into_inner();
        loop {
            match frames.message().await.map(|frame| frame.and_then(|frame| frame.frame)) {
                Ok(Some(Run::Sandbox(sandbox))) => {
                    request.position = Some(LogPosition { execution_id: sandbox.execution_id, offset });
                    sandboxes.insert(sandbox.id);
                }
                Ok(Some(Run::Output(chunk))) => {
                    assert_eq!(chunk.offset, offset);
                    sums[usize::from(chunk.stream() == OutputStream::Stderr)].update(&chunk.data);
                    offset += chunk.data.len() as i64;
                    faulty.fault(offset as usize).await?;
                }
                Ok(Some(Run::Exit(exit))) => break 'run exit,
                Ok(Some(Run::Keepalive(_))) => {}
                Ok(frame) => return Err(format!("{frame:?}").into()),
                Err(status) => match nullspace_proto::Error::reason_of(&status) {
                    None | Some(Reason::AgentUnreachable | Reason::ServerStopping) => break,
                    Some(reason) => return Err(format!("{reason:?} at {offset}: {status:?}").into()),
                },
            }
        }
        if let Some(position) = &mut request.position {
            position.offset = offset;
        }
    };
    assert_eq!((exit.output_bytes, sandboxes.len()), (offset, 1));
    assert_eq!(sums.map(|sum| <[u8; 32]>::from(sum.finalize())), expected(blocks));
    let followed = Followed { exit, attaches, lost: 0 };
    faulty.finish(&followed, cuts).await
}

/// Numbers of eight bytes, of which the first names the writer.
fn marked(mark: u8, bytes: usize) -> Vec<u8> {
    let number = |n: u64| [&[mark], &n.to_be_bytes()[1..]].concat();
    (0..bytes as u64 / 8).flat_map(number).collect()
}

#[tokio::test]
async fn two_writers_do_not_eat_each_others_input() -> Result {
    let (bytes, cuts) = (rounds(1 << 20, 10 << 20), rounds(10, 100));
    let mut faulty = Faulty::new(2 * bytes, cuts, 0).await?;
    // A block of input stays together: it is less than a pipe takes at once.
    let program = "import os, sys\nleft = int(sys.argv[1])\nwhile left:\n data = os.read(0, 65536)\n left -= len(data)\n os.write(1, data)\n";
    let total = 2 * bytes;
    let spec = CommandSpec { open_stdin: true, ..argv(["python3", "-c", program, &total.to_string()]) };
    let mut one = faulty.follow(spec, marked(1, bytes))?;
    one.keep_open = true;
    let open = AttachOpen { client_id: "other".into(), ..one.open.clone() };
    let two = Follow { open, input: marked(2, bytes), url: one.url.clone(), key: one.key.clone(), keep_open: true };
    let mut echoed = Vec::new();
    let reading = one.to_end(async |offset, chunk: &OutputChunk| {
        echoed.extend_from_slice(&chunk.data);
        faulty.fault(offset as usize + chunk.data.len()).await
    });
    let (followed, other) = tokio::join!(reading, two.to_end(async |_, _| Ok(())));
    let (followed, other) = (followed?, other?);
    assert_eq!((echoed.len(), other.exit.output_bytes as usize), (total, total));
    // Frames of input have whole numbers, so they can be told apart in the echo.
    for mark in [1, 2] {
        let of_one: Vec<u8> = echoed.chunks_exact(8).filter(|number| number[0] == mark).flatten().copied().collect();
        assert_eq!(Sha256::digest(&of_one), Sha256::digest(marked(mark, bytes)), "writer {mark}");
    }
    faulty.finish(&followed, cuts).await
}

/// A client whose input waits can acknowledge all the same: a process that
/// echoes stands still otherwise, and with it everybody.
#[tokio::test]
async fn a_full_input_does_not_hide_acknowledgements() -> Result {
    let sandbox = TestSandbox::new().await?;
    let spec = CommandSpec { open_stdin: true, retain_output_bytes: 65_536, ..argv(["cat"]) };
    let open = AttachOpen { sandbox_id: sandbox.id(), ..held(spec) };
    let input: Vec<u8> = (0..128).flat_map(block).collect();
    let follow = |client_id: &str, open: &AttachOpen| Follow {
        url: sandbox.api.url.clone(),
        key: required("NULLSPACE_API_KEY").unwrap(),
        open: AttachOpen { client_id: client_id.into(), ..open.clone() },
        input: input.clone(),
        keep_open: client_id == "two",
    };
    let (one, two) = (follow("one", &open), follow("two", &open));
    let both = async { tokio::join!(one.to_end(async |_, _| Ok(())), two.to_end(async |_, _| Ok(()))) };
    let (one, two) = tokio::time::timeout(patient(Duration::from_secs(60)), both).await?;
    // The first to end closes the input of both; what is in by then comes out.
    assert_eq!((one?.lost, two?.lost), (0, 0));
    Ok(())
}

/// So many digits, by turns to stdout and stderr. Each is taken before the next is
/// written, so that each is a message of its own.
fn digits(count: usize) -> CommandSpec {
    let program = "import fcntl, os, sys, termios\n\
        for n in range(int(sys.argv[1])):\n \
        fd = 1 + n % 2; os.write(fd, b'%d' % (n % 10))\n \
        while any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4))): os.sched_yield()\n";
    argv(["python3", "-c", program, &count.to_string()])
}

/// Many clients read a frame only when they have said that they took the last.
#[tokio::test]
async fn a_client_that_speaks_before_it_reads_hears_the_end() -> Result {
    let sandbox = TestSandbox::new().await?;
    let writes = 40_000;
    let mut attached = sandbox.attach(held(digits(writes))).await?;
    sandbox.wait(&attached.command_id).await?;
    // All that waits to be read fits into the windows of the way; what is said to
    // it does not.
    let mut taken = 0;
    let exit = loop {
        match attached.next().await? {
            Answer::Output(chunk) => {
                taken = chunk.offset + chunk.data.len() as i64;
                for _ in 0..4 {
                    attached.say(Ask::Ack(OutputAck { offset: taken })).await?;
                }
            }
            Answer::Exit(exit) => break exit,
            _ => {}
        }
    };
    assert_eq!((exit.outcome, taken), (Some(Outcome::Code(0)), writes as i64));
    Ok(())
}

/// The middle of several times for a call beside everything else.
async fn median_call(sandbox: &TestSandbox, command_id: &str) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..51 {
        let begun = Instant::now();
        let request = GetCommandRequest { sandbox_id: sandbox.id(), command_id: command_id.into() };
        tokio::time::timeout(patient(Duration::from_secs(5)), sandbox.api.commands().get_command(request)).await??;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

#[tokio::test]
async fn stalled_streams_do_not_slow_a_call() -> Result {
    let sandbox = TestSandbox::new().await?;
    // Both have ended or wait, so that nothing competes for the processor.
    let loud = sandbox.start_background(shell("head -c 30000000 /dev/zero")).await?;
    let deaf = sandbox.start_background(CommandSpec { open_stdin: true, ..argv(["sleep", "1000"]) }).await?;
    sandbox.wait(&loud).await?;
    let alone = median_call(&sandbox, &loud).await?;
    // On the same connection of the client as the call.
    let mut stalled = Vec::new();
    for _ in 0..63 {
        stalled.push(sandbox.attach(AttachOpen { command_id: loud.clone(), ..Default::default() }).await?);
    }
    for n in 0..63 {
        let open = AttachOpen { command_id: deaf.clone(), client_id: format!("w{}", n % 16), ..Default::default() };
        let writer = sandbox.attach(open).await?;
        for piece in 0..32 {
            let chunk = InputChunk { offset: piece * BLOCK as i64, data: vec![0; BLOCK].into() };
            writer.send(Ask::Input(chunk)).await?;
        }
        stalled.push(writer);
    }
    let beside = median_call(&sandbox, &loud).await?;
    assert!(beside <= alone * 4, "a call takes {beside:?} beside stalled streams and {alone:?} without");
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_tiny_writes_left_unread_harm_nobody() -> Result {
    let sandbox = TestSandbox::new().await?;
    let writes = rounds(20_000, 100_000);
    let open = AttachOpen { command_id: "tiny".into(), start: Some(digits(writes)), ..Default::default() };
    let mut unread = Vec::new();
    for _ in 0..5 {
        unread.push(sandbox.attach(open.clone()).await?);
    }
    // A frame of HTTP/2 for each would be more than this connection takes unread.
    let plain = sandbox.by(Api::connect_plainly(&sandbox.api.url, Some(&required("NULLSPACE_API_KEY")?)).await?);
    unread.push(plain.attach(open).await?);
    plain.release();
    sandbox.wait("tiny").await?;
    assert_eq!(sandbox.sh("echo beside").await?, "beside\n");
    for reader in unread {
        let finished = reader.finish().await?;
        assert_eq!((finished.stdout.len(), finished.stderr.len()), (writes / 2, writes / 2));
        assert!(finished.stdout.iter().step_by(2).all(|digit| digit % 2 == 0));
    }
    Ok(())
}

#[tokio::test]
async fn two_thousand_attaches_share_a_sandbox() -> Result {
    let sandbox = TestSandbox::new().await?;
    let command = sandbox.start_background(CommandSpec { open_stdin: true, ..shell("read go; seq 1 1000") }).await?;
    let mut attached: Vec<Attached> = Vec::new();
    // A client may have 256 streams on a connection.
    let (count, each) = (rounds(300, 2_000), 100);
    for n in 0..count {
        if n % each == 0 {
            let api = Api::connect(&sandbox.api.url, Some(&required("NULLSPACE_API_KEY")?)).await?;
            let beside = sandbox.by(api);
            let attaching = (n..count.min(n + each))
                .map(|_| beside.attach(AttachOpen { command_id: command.clone(), ..Default::default() }));
            for attach in attaching {
                attached.push(attach.await?);
            }
            beside.release();
        }
    }
    assert_eq!(attached.len(), count);
    sandbox.write_input(&command, 0, b"go\n", true).await?;
    for attached in attached {
        let finished = attached.finish().await?;
        assert_eq!((finished.stdout.len(), finished.code()), (3_893, Some(0)));
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_that_stopped_gets_all_that_was_kept() -> Result {
    let sandbox = TestSandbox::new().await?;
    // More than memory keeps of a sandbox of this size, less than retention.
    let blocks = 800;
    let program = argv(["python3", "-c", WRITER, &blocks.to_string()]);
    let open = AttachOpen { command_id: "writer".into(), start: Some(program), ..Default::default() };
    let stopped = sandbox.attach(open).await?;
    // It waits for nobody, and one that reads beside it gets everything.
    let beside = sandbox.attach(AttachOpen { command_id: "writer".into(), ..Default::default() }).await?;
    let read = beside.finish().await?;
    let sums = |stdout: &[u8], stderr: &[u8]| [Sha256::digest(stdout).into(), Sha256::digest(stderr).into()];
    assert_eq!((sums(&read.stdout, &read.stderr), read.truncated.len()), (expected(blocks), 0));
    let late = stopped.finish().await?;
    assert_eq!((sums(&late.stdout, &late.stderr), late.truncated.len()), (expected(blocks), 0));
    Ok(())
}

/// What the sandbox's disk has been used for, in KiB.
async fn used(sandbox: &TestSandbox) -> Result<i64> {
    Ok(sandbox.sh("df -k --output=used / | tail -1").await?.trim().parse()?)
}

#[tokio::test]
async fn spools_have_a_bound_and_leave_the_disk_to_programs() -> Result {
    let sandbox = TestSandbox::new().await?;
    let before = used(&sandbox).await?;
    let loud = || CommandSpec { retain_output_bytes: 64 << 20, ..shell("head -c 64000000 /dev/zero") };
    let mut commands = Vec::new();
    for _ in 0..rounds(6, 20) {
        let command = sandbox.start_background(loud()).await?;
        sandbox.wait(&command).await?;
        commands.push(command);
    }
    // A quarter of 512 MiB, and some for the file system's own.
    let spooled = used(&sandbox).await? - before;
    assert!((64 << 10..136 << 10).contains(&spooled), "{spooled} KiB on disk");
    // The newest is kept, and the oldest is gone with a word.
    let (bytes, truncated, ..) = sandbox.read_output(&commands[commands.len() - 1], 0, false).await?;
    assert_eq!((bytes.len(), truncated.len()), (64_000_000, 0));
    let (bytes, truncated, end, _) = sandbox.read_output(&commands[0], 0, false).await?;
    assert_eq!((truncated.last().copied().unwrap_or(0) + bytes.len() as i64, end), (end, 64_000_000));
    assert!(bytes.len() < 64_000_000);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_costs_only_retention() -> Result {
    let sandbox = TestSandbox::new().await?;
    sandbox.sh("dd if=/dev/zero of=/workspace/fill bs=1M status=none || true; sync").await?;
    let command = sandbox.start_background(shell("head -c 64000000 /dev/zero; printf end")).await?;
    let exit = sandbox.wait(&command).await?;
    assert_eq!(exit.output_bytes, 64_000_003);
    let (bytes, truncated, end, _) = sandbox.read_output(&command, 0, false).await?;
    assert_eq!((truncated.len(), truncated[0] + bytes.len() as i64), (1, end));
    assert!(bytes.len() > 8 << 20 && bytes.ends_with(b"end"), "{} bytes are left", bytes.len());
    // One that waits for its holder loses nothing.
    let blocks = rounds(400, 1_600);
    let spec = argv(["python3", "-c", WRITER, &blocks.to_string()]);
    let finished = sandbox.attach(held(spec)).await?.finish().await?;
    assert_eq!(
        [Sha256::digest(&finished.stdout), Sha256::digest(&finished.stderr)].map(<[u8; 32]>::from),
        expected(blocks)
    );
    Ok(())
}

#[tokio::test]
async fn every_signal_is_told_by_its_number() -> Result {
    let sandbox = TestSandbox::new().await?;
    for number in [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 31, 34, 64] {
        // Not bash, which ignores QUIT until it has become another program.
        let mut command = sandbox.start(argv(["sh", "-c", "printf tail; exec sleep 1000"])).await?;
        while !matches!(command.next().await?, Answer::Output(_)) {}
        sandbox.signal(&command.command_id.clone(), number).await?;
        let finished = command.finish().await?;
        assert_eq!((finished.signal(), finished.code()), (Some(number), None), "signal {number}");
        // The same by nobody's call.
        let finished = sandbox.run(argv(["sh", "-c", &format!("kill -{number} $$")])).await?;
        assert_eq!(finished.signal(), Some(number));
    }
    Ok(())
}

#[tokio::test]
async fn the_tail_is_told_after_term() -> Result {
    let sandbox = TestSandbox::new().await?;
    // It does not sleep: a signal just before that would wake nobody.
    let line = "trap 'printf last; exit 7' TERM; printf first; while :; do :; done";
    for round in 0..rounds(40, 1_000) {
        let mut command = sandbox.start(argv(["sh", "-c", line])).await?;
        while !matches!(command.next().await?, Answer::Output(_)) {}
        sandbox.signal(&command.command_id.clone(), 15).await?;
        let finished = command.finish().await?;
        assert_eq!((finished.text().as_str(), finished.code()), ("last", Some(7)), "round {round}");
    }
    Ok(())
}

/// The agent is the sandbox's first process: its end is the sandbox's.
#[tokio::test]
async fn a_killed_agent_is_said_at_once() -> Result {
    let server = Server::start(&[]).await?;
    let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
    let mut command = sandbox.start(shell("echo begun; exec sleep 1000")).await?;
    while !matches!(command.next().await?, Answer::Output(_)) {}
    // Nothing inside can end its first process, but its engine can.
    let runsc = format!("{}/engines/current/runsc", required("NULLSPACE_ASSETS")?);
    let mut kill = std::process::Command::new(runsc);
    kill.arg("--root").arg(server.data().join("runsc"));
    assert!(kill.args(["kill", &sandbox.sandbox.execution_id, "KILL"]).status()?.success());
    let ended = tokio::time::timeout(patient(Duration::from_secs(2)), command.finish()).await?;
    refused(ended, Reason::AgentLost);
    refused(sandbox.start(argv(["true"])).await.map(drop), Reason::AgentLost);
    drop(sandbox);
    server.finish().await
}

#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_message_is_no_success() -> Result {
    for _ in 0..rounds(2, 10) {
        let mut server = Server::start(&[]).await?;
        let sandbox = TestSandbox::with(&server.api().await?, small()).await?;
        let mut command = sandbox.start(shell("cat /dev/zero")).await?;
        let mut bytes = 0;
        while bytes < 4 << 20 {
            if let Answer::Output(chunk) = command.next().await? {
                bytes += chunk.data.len();
            }
        }
        server.kill()?;
        let ended = tokio::time::timeout(patient(Duration::from_secs(2)), command.finish()).await?;
        let status = ended.expect_err("a stream that was cut is no success");
        assert!(status.code() != tonic::Code::Ok && std::error::Error::source(&status).is_some(), "{status:?}");
        sandbox.release();
        server.finish().await?;
    }
    Ok(())
}

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Leave {
    /// The stream alone.
    Reset,
    /// The connection, without a word.
    Cut,
    /// Its deadline passes.
    Deadline,
}

#[tokio::test]
async fn a_client_that_leaves_in_any_state_disturbs_no_other() -> Result {
    let sandbox = TestSandbox::new().await?;
    let cutter = Cutter::to(&sandbox.api.url).await?;
    let key = required("NULLSPACE_API_KEY")?;
    // In what it has just seen when it leaves: nothing, output, the end.
    for (leave, seen) in [Leave::Reset, Leave::Cut, Leave::Deadline].into_iter().flat_map(|leave| {
        [("nothing", "read go; echo out"), ("output", "echo out; read go; echo out"), ("end", "echo out")]
            .map(|seen| (leave, seen))
    }) {
        let (seen, line) = seen;
        let far = sandbox.by(Api::connect(&cutter.url(), Some(&key)).await?);
        let command_id = id::command();
        let open = AttachOpen {
            command_id: command_id.clone(),
            start: Some(CommandSpec { open_stdin: true, overflow: Overflow::Block as i32, ..shell(line) }),
            hold: true,
            client_id: "leaver".into(),
            ..Default::default()
        };
        let mut leaver = match leave {
            Leave::Deadline => far.attach_within(open, Duration::from_millis(300)).await?,
            _ => far.attach(open).await?,
        };
        let stayer = sandbox.attach(AttachOpen { command_id: command_id.clone(), ..Default::default() }).await?;
        loop {
            match (seen, leaver.next().await?) {
                ("nothing", Answer::Started(_)) | ("output", Answer::Output(_)) | ("end", Answer::Exit(_)) => break,
                _ => {}
            }
        }
        match leave {
            Leave::Reset => drop(leaver),
            Leave::Cut => cutter.cut(),
            Leave::Deadline => {
                let ended = tokio::time::timeout(patient(Duration::from_secs(5)), leaver.finish()).await?;
                if seen != "end" {
                    assert_eq!(ended.unwrap_err().code(), tonic::Code::DeadlineExceeded, "{seen}");
                }
            }
        }
        // Nothing is refused, whether or not there is a reader of it.
        let _ = sandbox.write_input(&command_id, 0, b"go\n", true).await;
        let finished = stayer.finish().await?;
        let expected = if seen == "output" { "out\nout\n" } else { "out\n" };
        assert_eq!((finished.text().as_str(), finished.code()), (expected, Some(0)), "{leave:?} after {seen}");
        far.release();
    }
    // What they left behind in the server and the agent is gone.
    let settled = async || Ok(sandbox.sh("ls /proc | grep -c '^[0-9]'").await?.trim().parse::<u32>()? <= 8);
    eventually("nothing runs", Duration::from_secs(10), settled).await
}
