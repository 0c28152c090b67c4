//! Creating sandboxes: cold, from the pool, in a burst, and beside many others.

use std::{
    fs,
    time::{Duration, Instant},
};

use nullspace::{Client, Sandbox};
use nullspace_tests::{Result, Server, eventually};

use crate::{
    Counts, TURNS,
    ground::{Ground, client, small},
    report::{Figure, Report, Target, median, ms},
};

const BARE_RUN: &str = "runsc run … /bin/true";

/// From the request to the end of the first command.
async fn first_command(client: &Client) -> Result<(Sandbox, Duration)> {
    let begun = Instant::now();
    let sandbox = small(client).await?;
    sandbox.commands().run("/bin/true").await?;
    Ok((sandbox, begun.elapsed()))
}

async fn one_after_the_other(client: &Client, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let (sandbox, time) = first_command(client).await?;
        sandbox.kill().await?;
        times.push(time);
    }
    Ok(ms(times))
}

/// What a creation is measured beside, in ms.
pub struct Middle {
    /// `runsc run … /bin/true`.
    pub bare: f64,
    /// A creation without a pool.
    pub cold: f64,
}

/// Without a pool, and the bare engine in turns with it.
pub async fn cold(ground: &mut Ground, counts: Counts, report: &mut Report) -> Result<Middle> {
    let count = counts.samples.div_ceil(TURNS);
    let (mut samples, mut floors) = (Vec::new(), Vec::new());
    // The first one reads files that the others find in memory.
    ground.bare_runs(1)?;
    for _ in 0..TURNS {
        floors.extend(ground.bare_runs(count.div_ceil(2))?);
        samples.extend(one_after_the_other(&ground.client, count).await?);
    }
    let middle = Middle { bare: median(&floors), cold: median(&samples) };
    report.add(Figure {
        name: "create to first command, cold",
        unit: "ms",
        samples,
        floor_name: BARE_RUN,
        floor: middle.bare,
        target: Some(Target::AtMost(1.3)),
    })?;
    Ok(middle)
}

/// How many sandboxes were started ahead, as the server's log says.
fn started_ahead(server: &Server) -> usize {
    server.log().matches("was started ahead").count()
}

/// From a pool: one after the other, and all at once.
pub async fn pooled(counts: Counts, beside: Middle, report: &mut Report) -> Result {
    let size = counts.burst.to_string();
    let memory = (counts.burst * 40).to_string();
    let args = ["--pool-size", &size, "--pool-ready", &size, "--pool-memory", &memory];
    let server = Server::start(&[&args[..], &["--log", "nullspaced=debug"]].concat()).await?;
    let client = client(&server)?;
    let full = async |made: usize| {
        eventually("the pool is full", Duration::from_secs(120), async || Ok(started_ahead(&server) >= made)).await
    };
    full(counts.burst).await?;
    let begun = Instant::now();
    let burst = (0..counts.burst).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { first_command(&client).await })
    });
    let (mut samples, mut sandboxes) = (Vec::new(), Vec::new());
    for made in burst.collect::<Vec<_>>() {
        let (sandbox, time) = made.await??;
        sandboxes.push(sandbox);
        samples.push(time);
    }
    // They share the host's processors, so a part of the time is each one's.
    let each = begun.elapsed() / u32::try_from(counts.burst)?;
    for sandbox in sandboxes {
        sandbox.kill().await?;
    }
    full(2 * counts.burst).await?;
    let mut single = Vec::new();
    for number in 0..counts.samples {
        let (sandbox, time) = first_command(&client).await?;
        sandbox.kill().await?;
        single.push(time);
        // Its successor boots meanwhile, which is not what is measured.
        full(2 * counts.burst + number + 1).await?;
    }
    report.add(Figure {
        name: "create to first command, from the pool",
        unit: "ms",
        samples: ms(single),
        floor_name: BARE_RUN,
        floor: beside.bare,
        target: Some(Target::AtMost(0.25)),
    })?;
    report.add(Figure {
        name: "burst of creates from the pool, each one's part",
        unit: "ms",
        samples: ms([each]),
        floor_name: "cold create",
        floor: beside.cold,
        target: Some(Target::AtMost(0.4)),
    })?;
    report.add(Figure {
        name: "burst of creates from the pool, until each is there",
        unit: "ms",
        samples: ms(samples),
        floor_name: "cold create",
        floor: beside.cold,
        target: None,
    })?;
    server.finish().await
}

/// With many sandboxes that live.
pub async fn beside(ground: &Ground, counts: Counts, report: &mut Report) -> Result {
    let half = counts.samples.div_ceil(2);
    let mut alone = one_after_the_other(&ground.client, half).await?;
    let mut living = Vec::new();
    for _ in 0..counts.beside {
        living.push(small(&ground.client).await?);
    }
    let samples = one_after_the_other(&ground.client, counts.samples).await;
    let memory = available_mib()?;
    for sandbox in &living {
        sandbox.kill().await?;
    }
    let freed = (available_mib()? - memory) / counts.beside as f64;
    alone.extend(one_after_the_other(&ground.client, half).await?);
    eprintln!("{} sandboxes at rest took {freed:.1} MiB of the host each", counts.beside);
    report.add(Figure {
        name: "create to first command beside live sandboxes",
        unit: "ms",
        samples: samples?,
        floor_name: "the same beside none",
        floor: median(&alone),
        target: Some(Target::AtMost(1.3)),
    })
}

fn available_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).ok_or("no MemAvailable")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse::<f64>()? / 1_024.0)
}
