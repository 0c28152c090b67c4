//! Figures, each beside the floor that was measured in the same run.

use std::{fs, io::Write as _, path::Path, time::Duration};

use nullspace_tests::Result;
use serde_json::json;

/// What is wanted of a ratio.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Times: at most so many of the floor.
    AtMost(f64),
    /// Rates: at least this part of the floor.
    AtLeast(f64),
}

/// One figure.
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Of the samples and the floor.
    pub unit: &'static str,
    /// As measured.
    pub samples: Vec<f64>,
    /// What it is compared with.
    pub floor_name: &'static str,
    /// In the same unit.
    pub floor: f64,
    /// Of the ratio of the middle sample to the floor. `None`: told for its own sake.
    pub target: Option<Target>,
}

impl Figure {
    fn at(&self, percent: usize) -> f64 {
        percentile(&self.samples, percent)
    }

    fn ratio(&self) -> f64 {
        self.at(50) / self.floor
    }

    fn met(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtMost(most) => self.ratio() <= most,
            Target::AtLeast(least) => self.ratio() >= least,
        })
    }
}

/// Milliseconds.
pub fn ms(times: impl IntoIterator<Item = Duration>) -> Vec<f64> {
    times.into_iter().map(|time| time.as_secs_f64() * 1_000.0).collect()
}

/// The value below which so many percent of the samples are.
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// The middle one.
pub fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50)
}

/// Where figures go: a line each to a file and to stdout, and a table at the end.
pub struct Report {
    file: fs::File,
    host: serde_json::Value,
    engine: String,
    rows: Vec<[String; 7]>,
}

impl Report {
    /// Writes to a file, anew.
    pub fn create(path: &Path, engine: String) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
        let cpus = std::thread::available_parallelism()?.get();
        let host = json!({ "cpus": cpus, "memory_gib": memory, "kernel": kernel, "arch": std::env::consts::ARCH });
        Ok(Self { file: fs::File::create(path)?, host, engine, rows: Vec::new() })
    }

    /// Adds a figure.
    pub fn add(&mut self, figure: Figure) -> Result {
        let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
        let target = match figure.target {
            Some(Target::AtMost(most)) => format!("≤ {most}"),
            Some(Target::AtLeast(least)) => format!("≥ {least}"),
            None => String::new(),
        };
        let line = json!({
            "figure": figure.name,
            "unit": figure.unit,
            "count": figure.samples.len(),
            "p50": round(figure.at(50)),
            "p95": round(figure.at(95)),
            "p99": round(figure.at(99)),
            "floor": round(figure.floor),
            "floor_name": figure.floor_name,
            "ratio": round(figure.ratio()),
            "target": target,
            "met": figure.met(),
            "engine": self.engine,
            "host": self.host,
        });
        writeln!(self.file, "{line}")?;
        println!("{line}");
        let met = match figure.met() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        self.rows.push([
            figure.name.to_owned(),
            format!("{:.2} {}", figure.at(50), figure.unit),
            format!("{:.2}", figure.at(95)),
            format!("{} {:.2}", figure.floor_name, figure.floor),
            format!("{:.2}", figure.ratio()),
            target,
            met.to_owned(),
        ]);
        Ok(())
    }

    /// The table, for people.
    pub fn table(&self) -> String {
        let head = ["figure", "p50", "p95", "beside", "ratio", "target", "met"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let mut table = String::new();
        for row in rows {
            for (cell, width) in row.iter().zip(&widths) {
                table += &format!("{cell:<width$}  ");
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_samples() {
        let samples: Vec<_> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([50, 95, 99, 100].map(|percent| percentile(&samples, percent)), [50.0, 95.0, 99.0, 100.0]);
        assert_eq!(median(&[3.0]), 3.0);
    }
}
