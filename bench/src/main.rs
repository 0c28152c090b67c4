//! The shipped benchmark: each figure beside the bare engine or the raw floor,
//! measured in the same run. A JSON line per figure, and a table at the end.

mod ground;
mod life;
mod report;
mod rest;
mod stream;
mod work;

use std::{path::PathBuf, process::ExitCode};

use nullspace_tests::{Result, rounds};

use crate::{ground::Ground, report::Report};

/// Ours and what it is measured beside take turns: a machine has faster and
/// slower minutes.
const TURNS: usize = 8;

/// How much is done: little, or with SCALE=full what the figures are of.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Samples of a short thing.
    samples: usize,
    /// Sandboxes of a burst, and commands at once.
    burst: usize,
    /// Sandboxes that live beside.
    beside: usize,
    /// Bytes of a stream.
    bytes: usize,
}

impl Counts {
    fn new() -> Self {
        Self { samples: rounds(5, 50), burst: rounds(4, 50), beside: rounds(8, 200), bytes: rounds(64 << 20, 1 << 30) }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nullspace-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all, or those whose names are given.
async fn run() -> Result {
    let wanted: Vec<_> = std::env::args().skip(1).collect();
    let path = std::env::var_os("NULLSPACE_BENCH_FILE").map_or_else(|| "bench.jsonl".into(), PathBuf::from);
    let counts = Counts::new();
    let mut ground = Ground::new(&["--pool-size", "0"]).await?;
    let mut report = Report::create(&path, ground.engine().await?)?;
    let outcome = measure(&wanted, counts, &mut ground, &mut report).await;
    ground.finish().await?;
    outcome?;
    eprintln!("\n{}\n{} has the lines", report.table(), path.display());
    Ok(())
}

async fn measure(wanted: &[String], counts: Counts, ground: &mut Ground, report: &mut Report) -> Result {
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if wants("create") {
        let middle = life::cold(ground, counts, report).await?;
        life::pooled(counts, middle, report).await?;
    }
    if wants("command") {
        work::warm(ground, counts, report).await?;
        work::at_once(ground, counts, report).await?;
    }
    if wants("stream") {
        stream::rust(ground, counts, report).await?;
        stream::python_stream(ground, counts, report).await?;
    }
    if wants("rest") {
        rest::idle(ground, counts, report).await?;
    }
    if wants("beside") {
        life::beside(ground, counts, report).await?;
    }
    Ok(())
}
