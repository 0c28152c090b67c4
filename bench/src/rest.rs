//! What an idle sandbox costs of ours: the agent, and the server's share.

use std::{fs, time::Duration};

use nullspace_tests::{Bare, Result, group_memory};

use crate::{
    Counts,
    ground::{Ground, small},
    report::{Figure, Report, Target},
};

const MIB: f64 = (1 << 20) as f64;

/// Beside a sandbox of the bare engine that runs `sleep`.
pub async fn idle(ground: &Ground, counts: Counts, report: &mut Report) -> Result {
    let before = resident(ground)?;
    let mut sandboxes = Vec::new();
    for _ in 0..counts.beside.min(50) {
        sandboxes.push(small(&ground.client).await?);
    }
    let share = (resident(ground)? - before) / sandboxes.len() as f64;
    let execution = sandboxes[0].info().await?.execution_id;
    let group = format!("nullspace-{}", ground.server.instance()?);
    let bare = format!("{group}/bare-rest");
    let sleeping = Bare::new(&ground.server, &execution)?.start(&bare, &["/bin/sleep", "1000"])?;
    let own =
        || Ok::<_, Box<dyn std::error::Error + Send + Sync>>(group_memory(&format!("{group}/{execution}"))? as f64);
    let sleep = || Ok::<_, Box<dyn std::error::Error + Send + Sync>>(group_memory(&bare)? as f64);
    // What both read at their start is given back after a while.
    let mut last = (0.0, 0.0);
    let settled = async || {
        let now = (own()?, sleep()?);
        Ok(std::mem::replace(&mut last, now) == now)
    };
    let settled = settled_within(settled).await;
    let (own, sleep) = (own()? / MIB, sleep()? / MIB);
    drop(sleeping);
    for sandbox in sandboxes {
        sandbox.kill().await?;
    }
    settled?;
    report.add(Figure {
        name: "ours for each idle sandbox",
        unit: "MiB",
        samples: vec![own - sleep + share],
        floor_name: "allowed",
        floor: 4.0,
        target: Some(Target::AtMost(1.0)),
    })?;
    report.add(Figure {
        name: "an idle sandbox, all of it",
        unit: "MiB",
        samples: vec![own + share],
        floor_name: "sleep in the bare engine",
        floor: sleep,
        target: None,
    })
}

async fn settled_within(mut settled: impl AsyncFnMut() -> Result<bool>) -> Result {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if settled().await? {
            return Ok(());
        }
    }
    Err("memory does not settle".into())
}

/// What the server has in memory, in MiB.
fn resident(ground: &Ground) -> Result<f64> {
    let pid = ground.server.pid().ok_or("the server does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse::<f64>()? / 1_024.0)
}
