//! Load: many sandboxes that live at once, and everything at once for a while.

use std::{
    fs,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nullspace::{Client, CreateSandbox, Event, Reason, Sandbox, Signal, TerminationReason};
use nullspace_tests::{Cutter, Result, Server, eventually, rounds};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_stream::StreamExt as _;

/// What a sandbox at rest may take of the host's memory, everything counted.
const SANDBOX_MIB: f64 = 32.0;
/// What of the host's memory is left to others.
const HOST_MIB: f64 = 4_096.0;
/// What the server may keep of one: "ours" is 4 MiB with its agent.
const SHARE_MIB: f64 = 1.0;
/// What may be in the server's memory after a soak beyond what was there early
/// in it: for its allocator and its store's cache.
const SLACK_MIB: f64 = 32.0;
/// What a server keeps for a day of each call that made something.
const RECORD_MIB: f64 = 4.0 / 1_024.0;
/// How many calls a test has in flight.
const AT_ONCE: usize = 8;
/// Between two cuts of a soak.
const CUT_EVERY: Duration = Duration::from_millis(250);

fn small(client: &Client) -> CreateSandbox {
    client.create_sandbox().memory_mib(256).disk_mib(512).timeout(None)
}

fn client(server: &Server, url: &str) -> Result<Client> {
    Ok(Client::builder().url(url).api_key(server.key()?).build()?)
}

/// A number that a line of a file of /proc names.
fn field(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find(|line| line.starts_with(name)).ok_or_else(|| format!("{path}: no {name}"))?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

fn available_mib() -> Result<f64> {
    Ok(field("/proc/meminfo", "MemAvailable:")? / 1_024.0)
}

/// What a server has of the host.
#[derive(Debug, Clone, Copy)]
struct Usage {
    resident_mib: f64,
    threads: f64,
    descriptors: usize,
}

impl Usage {
    fn of(server: &Server) -> Result<Self> {
        let process = format!("/proc/{}", server.pid().ok_or("the server does not run")?);
        let status = format!("{process}/status");
        Ok(Self {
            resident_mib: field(&status, "VmRSS:")? / 1_024.0,
            threads: field(&status, "Threads:")?,
            descriptors: fs::read_dir(format!("{process}/fd"))?.count(),
        })
    }
}

/// Does all of it, some at a time.
async fn some_at_a_time<T: Send + 'static>(
    all: impl IntoIterator<Item = impl Future<Output = Result<T, nullspace::Error>> + Send + 'static>,
) -> Result<Vec<T>> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for one in all {
        let turns = turns.clone();
        running.spawn(async move {
            let _turn = turns.acquire().await;
            one.await
        });
    }
    let mut done = Vec::new();
    while let Some(one) = running.join_next().await {
        done.push(one??);
    }
    Ok(done)
}

#[tokio::test]
async fn many_sandboxes_live_at_once() -> Result {
    let server = Server::start(&[]).await?;
    let client = client(&server, &server.url()?)?;
    let free = available_mib()?;
    // As many as the host has room for.
    let count = rounds(30, 500).min(((free - HOST_MIB) / SANDBOX_MIB) as usize);
    let before = Usage::of(&server)?;
    let sandboxes = some_at_a_time((0..count).map(|_| small(&client).into_future())).await?;
    let taken = (free - available_mib()?) / count as f64;
    let share = (Usage::of(&server)?.resident_mib - before.resident_mib) / count as f64;
    println!("{count} sandboxes live at once: {taken:.1} MiB of the host each, {share:.2} of them in the server");
    assert!(taken < SANDBOX_MIB, "{taken} MiB for each of {count}");
    assert!(share < SHARE_MIB, "{share} MiB for each of {count}");

    let listed: Vec<_> = client.list_sandboxes().page_size(100).entries().collect::<Result<_, _>>().await?;
    assert_eq!(listed.len(), count);
    // Each is its own, and answers.
    let said = some_at_a_time(sandboxes.iter().map(|sandbox| {
        let (id, commands) = (sandbox.id().to_owned(), sandbox.commands());
        async move { Ok((commands.shell(format!("echo {id} > /tmp/id; cat /tmp/id")).await?.stdout_text(), id)) }
    }));
    for (said, id) in said.await? {
        assert_eq!(said.trim(), id);
    }
    let ends = sandboxes.into_iter().map(|sandbox| async move { sandbox.kill().await });
    assert_eq!(some_at_a_time(ends).await?.len(), count);
    let given_back = async || Ok(Usage::of(&server)?.descriptors < before.descriptors + 32);
    eventually("the server holds nothing of them", Duration::from_secs(20), given_back).await?;
    server.finish().await
}

/// How long a soak takes: `SOAK` seconds, or a minute at full scale.
fn soak_time() -> Result<Duration> {
    Ok(match std::env::var("SOAK") {
        Ok(seconds) if !seconds.is_empty() => Duration::from_secs(seconds.parse()?),
        _ => Duration::from_secs(rounds(8, 60) as u64),
    })
}

/// What the jobs of a soak share.
struct Soak {
    client: Client,
    /// The same server, behind a way that is cut.
    cut: Client,
    /// Lives as long as the soak.
    old: Sandbox,
    until: Instant,
    /// Calls that leave a record behind.
    made: AtomicUsize,
}

type Job = (&'static str, Result<usize>);

impl Soak {
    /// Repeats a job until time is up. An error that is not expected ends it.
    async fn repeat<F: Future<Output = Result>>(
        self: Arc<Self>,
        name: &'static str,
        job: impl Fn(Arc<Self>) -> F,
    ) -> Job {
        let mut times = 0;
        while Instant::now() < self.until {
            if let Err(error) = job(self.clone()).await {
                return (name, Err(error));
            }
            self.made.fetch_add(1, Relaxed);
            times += 1;
        }
        (name, Ok(times))
    }

    /// What a server has after a while, and what was made until then.
    async fn usage_after(&self, server: &Server, time: Duration) -> Result<(Usage, usize)> {
        tokio::time::sleep(time).await;
        Ok((Usage::of(server)?, self.made.load(Relaxed)))
    }
}

/// Waits for the end of all, or for the first failure.
async fn all_well(mut jobs: JoinSet<Job>) -> Result {
    while let Some(job) = jobs.join_next().await {
        let (name, times) = job?;
        println!("{name}: {} times", times.map_err(|error| format!("{name}: {error}"))?);
    }
    Ok(())
}

async fn lives(soak: Arc<Soak>) -> Result {
    let sandbox = small(&soak.client).metadata("job", "soak").await?;
    let said = sandbox.commands().shell("echo $((6 * 7))").await?;
    assert_eq!(said.stdout_text(), "42\n");
    let content = vec![7; 100_000];
    sandbox.files().write("/workspace/data", content.clone()).await?;
    assert_eq!(sandbox.files().read("/workspace/data").await?, content);
    assert!(!sandbox.metrics().await?.is_empty());
    sandbox.kill().await?;
    Ok(())
}

async fn talks(soak: Arc<Soak>) -> Result {
    let input: String = (1..=40_000).map(|number| format!("{number}\n")).collect();
    let result = soak.old.commands().run("cat").input(input.clone()).await?;
    assert_eq!((result.stdout == input, result.code()), (true, 0));
    Ok(())
}

async fn follows(soak: Arc<Soak>) -> Result {
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let result = soak.cut.sandbox(soak.old.id()).commands().run("seq").args(["1", "200000"]).await?;
    let (exit, lost) = (&result.exit, result.lost_bytes);
    assert!(result.stdout == expected, "{} of {} bytes, {lost} lost, {exit:?}", result.stdout.len(), expected.len());
    assert_eq!(lost, 0);
    Ok(())
}

async fn kills(soak: Arc<Soak>) -> Result {
    let command = soak.old.commands().run("sleep").args(["1000"]).start().await?;
    command.signal(Signal::TERM).await?;
    let exit = command.wait().await?;
    assert_eq!(exit.reason, TerminationReason::KilledByUser, "{exit:?}");
    Ok(())
}

async fn runs_once(soak: Arc<Soak>) -> Result {
    let result = soak.cut.run_once("echo").args(["once"]).await?;
    assert_eq!(result.stdout_text(), "once\n");
    Ok(())
}

async fn leaves(soak: Arc<Soak>) -> Result {
    let command = soak.old.commands().run("yes").start().await?;
    let mut readers = Vec::new();
    for _ in 0..10 {
        let mut events = command.events();
        while !matches!(events.next().await.ok_or("an end")??, Event::Output(_)) {}
        readers.push(events);
    }
    drop(readers);
    command.kill().await?;
    Ok(())
}

async fn is_refused(soak: Arc<Soak>) -> Result {
    let missing = soak.old.commands().run("/no/such/program").await.expect_err("no such program");
    assert_eq!(missing.reason(), Reason::ProgramNotFound);
    let unknown = soak.client.get_sandbox(format!("sb_{}", nullspace_proto::id::ulid())).await;
    assert_eq!(unknown.expect_err("no such sandbox").reason(), Reason::SandboxNotFound);
    let file = soak.old.files().read("/no/such/file").await.expect_err("no such file");
    assert_eq!(file.reason(), Reason::FileNotFound);
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// Memory, threads and files must not grow with time, no call may fail that
/// should not, and nothing may be left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_ends_where_it_began() -> Result {
    let time = soak_time()?;
    let server = Server::start(&["--pool-size", "2"]).await?;
    let cutter = Cutter::to(&server.url()?).await?;
    let client = client(&server, &server.url()?)?;
    let (cut, old) = (self::client(&server, &cutter.url())?, small(&client).await?);
    cut.system().version().await?;
    let soak = Arc::new(Soak { client, cut, old, until: Instant::now() + time, made: 0.into() });

    let mut jobs = JoinSet::new();
    jobs.spawn(soak.clone().repeat("lives", lives));
    jobs.spawn(soak.clone().repeat("talks", talks));
    jobs.spawn(soak.clone().repeat("follows", follows));
    jobs.spawn(soak.clone().repeat("kills", kills));
    jobs.spawn(soak.clone().repeat("runs once", runs_once));
    jobs.spawn(soak.clone().repeat("leaves", leaves));
    jobs.spawn(soak.clone().repeat("is refused", is_refused));
    let working = async { tokio::try_join!(soak.usage_after(&server, time / 4), all_well(jobs)) };
    let ((early, made), ()) = cutter.every(CUT_EVERY, working).await?;

    let made = soak.made.load(Relaxed) - made;
    let most = early.resident_mib + SLACK_MIB + made as f64 * RECORD_MIB;
    let settled = async || {
        let last = Usage::of(&server)?;
        Ok(last.resident_mib <= most
            && last.threads <= early.threads + 4.0
            && last.descriptors <= early.descriptors + 16)
    };
    let settled = eventually("the server is as it was", Duration::from_secs(30), settled).await;
    let last = Usage::of(&server)?;
    println!("{time:?}, {} cuts, {made} made since; early {early:?}, at the end {last:?}", cutter.cuts());
    settled.map_err(|error| format!("{error}: {early:?} became {last:?} after {made}"))?;
    // The old one is well.
    assert_eq!(soak.old.commands().shell("echo still").await?.stdout_text(), "still\n");
    server.finish().await
}
