//! Memory of the sandbox. At its limit the largest program ends, so that the
//! sandbox lives: the host would end all of it.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::{
    control::{Control, Execution},
    process::{Cause, table::Table},
};

/// How often memory is read while it is watched: what a program can fill
/// meanwhile must fit into the host's headroom.
const POLL: Duration = Duration::from_millis(5);
/// How long it is watched at least.
const WATCH: Duration = Duration::from_secs(5);
/// It is watched on while more than this part is used, in percent.
const NEAR: u64 = 75;
/// How long those that were ended may take to give their memory back before
/// others are ended. On a busy host it takes a while.
const RELEASE: Duration = Duration::from_secs(1);

/// Bytes of memory of the sandbox.
pub fn total() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// Bytes of memory that are used.
pub fn used() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_sub(info.freeram).saturating_mul(info.mem_unit.into())
}

/// Watches memory when told to.
pub struct Watch {
    control: Arc<Control>,
    table: Arc<Table>,
    running: Arc<AtomicBool>,
    again: Arc<AtomicBool>,
}

impl Watch {
    /// A watch that sleeps.
    pub fn new(control: Arc<Control>, table: Arc<Table>) -> Self {
        Self { control, table, running: Arc::default(), again: Arc::default() }
    }

    /// Watches for a while from now on.
    pub fn start(&self) {
        self.again.store(true, Ordering::Relaxed);
        if !self.running.swap(true, Ordering::Relaxed) {
            let (control, table) = (self.control.clone(), self.table.clone());
            let (running, again) = (self.running.clone(), self.again.clone());
            tokio::spawn(async move {
                watch(&control, &table, &again).await;
                running.store(false, Ordering::Relaxed);
            });
        }
    }
}

async fn watch(control: &Control, table: &Table, again: &AtomicBool) {
    let Ok(execution) = control.execution() else { return };
    let limit = execution.memory_bytes.min(total());
    let mut until = Instant::now();
    loop {
        let used = used();
        let now = Instant::now();
        let near = used.saturating_mul(100) > limit.saturating_mul(NEAR);
        let told = again.swap(false, Ordering::Relaxed);
        if told || near {
            until = now + WATCH;
        }
        if told && near {
            // Output goes to disk before a program has to end.
            control.spill_logs();
        }
        if now >= until {
            return;
        }
        if used >= limit {
            let ended = end_largest(table, &execution);
            while ended && self::used() >= limit && now.elapsed() < RELEASE {
                sleep(POLL).await;
            }
        }
        sleep(POLL).await;
    }
}

/// Ends the largest session among programs. Whether there was one.
fn end_largest(table: &Table, execution: &Execution) -> bool {
    let commands: HashMap<i32, _> = table.running().into_iter().map(|process| (process.pid, process)).collect();
    let pids = execution.program_pids().unwrap_or_else(|| all_pids().collect());
    // Without a cgroup only what belongs to a command is known to be a program.
    let known = |session: i32| execution.cgroup_procs().is_some() || commands.contains_key(&session);
    let mut sessions: HashMap<i32, (u64, Vec<i32>)> = HashMap::new();
    for pid in pids {
        let Some(usage) = usage(pid).filter(|usage| known(usage.session)) else { continue };
        let session = sessions.entry(usage.session).or_default();
        session.0 += usage.resident_pages;
        session.1.push(pid);
    }
    let Some((session, (pages, pids))) = sessions.into_iter().max_by_key(|(_, (pages, _))| *pages) else {
        return false;
    };
    if let Some(process) = commands.get(&session) {
        process.will_end(Cause::OutOfMemory);
    }
    eprintln!("nullspace-agent: memory is used up: ending session {session}, {pages} pages, {} processes", pids.len());
    for pid in pids.into_iter().filter_map(Pid::from_raw) {
        // One that has ended meanwhile is what was wanted.
        let _ = kill_process(pid, Signal::KILL);
    }
    true
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != 1)
}

struct Usage {
    session: i32,
    resident_pages: u64,
}

fn usage(pid: i32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, also parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let session = fields.nth(3)?.parse().ok()?;
    let resident_pages = fields.nth(17)?.parse().ok()?;
    Some(Usage { session, resident_pages })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert!(used() > 0 && used() <= total());
        let own = usage(std::process::id() as i32).unwrap();
        assert!(own.resident_pages > 0);
    }
}
