//! Commands in a running sandbox.

use std::time::{Duration, Instant};

use nullspace_tests::{Result, runsc};

use crate::{
    Counts, TURNS,
    ground::{Ground, install_floor},
    report::{Figure, Report, Target, median, ms},
};

async fn floor(ground: &Ground, what: &str, count: usize) -> Result<Vec<f64>> {
    let printed = ground.sandbox.commands().run("/tmp/floor").args([what, &count.to_string()]).await?.stdout_text();
    let nanoseconds: Result<Vec<u64>, _> = printed.split_whitespace().map(str::parse).collect();
    Ok(ms(nanoseconds?.into_iter().map(Duration::from_nanos)))
}

/// One command after the other.
pub async fn warm(ground: &Ground, counts: Counts, report: &mut Report) -> Result {
    install_floor(&ground.sandbox).await?;
    let count = (counts.samples * 4).div_ceil(TURNS);
    let commands = ground.sandbox.commands();
    let (mut times, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        floors.extend(floor(ground, "each", count).await?);
        for _ in 0..count {
            let begun = Instant::now();
            commands.run("/bin/true").await?;
            times.push(begun.elapsed());
        }
    }
    let samples = ms(times);
    report.add(Figure {
        name: "warm command",
        unit: "ms",
        samples: samples.clone(),
        floor_name: "vfork and exec inside",
        floor: median(&floors),
        target: Some(Target::AtMost(1.5)),
    })?;
    let execution = ground.sandbox.info().await?.execution_id;
    let mut times = Vec::new();
    for _ in 0..counts.samples.min(20) {
        let mut exec = runsc(&ground.server.data().join("runsc"))?;
        let begun = Instant::now();
        let status = exec.args(["exec", &execution, "/bin/true"]).status()?;
        times.push(begun.elapsed());
        if !status.success() {
            return Err(format!("runsc exec: {status}").into());
        }
    }
    report.add(Figure {
        name: "warm command",
        unit: "ms",
        samples,
        floor_name: "runsc exec",
        floor: median(&ms(times)),
        target: Some(Target::AtMost(0.5)),
    })
}

/// Many at once; the time until the last has ended.
pub async fn at_once(ground: &Ground, counts: Counts, report: &mut Report) -> Result {
    let count = counts.burst * 4;
    let (mut samples, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        floors.extend(floor(ground, "all", count).await?);
        let begun = Instant::now();
        let running = (0..count).map(|_| {
            let run = ground.sandbox.commands().run("/bin/true");
            tokio::spawn(run.into_future())
        });
        for run in running.collect::<Vec<_>>() {
            run.await??;
        }
        samples.push(begun.elapsed());
    }
    report.add(Figure {
        name: "commands at once, all",
        unit: "ms",
        samples: ms(samples),
        floor_name: "the same by one program inside",
        floor: median(&floors),
        target: Some(Target::AtMost(2.0)),
    })
}
