//! The control group of an execution on the host: cgroup v1, also beside an
//! empty v2 hierarchy ("hybrid"), and v2.
//!
//! The sandbox sees its memory as the spec's limit. The host's limit is raised
//! above it after the start, because the host's kernel would end the whole
//! sandbox, while the agent ends only the program that went too far.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use nullspace_proto::{
    Error, Result,
    limits::{MAX_PROCESSES, MIB},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Pid, Signal, kill_process},
};
use tokio::io::Interest;

use crate::{fault::fault, instance::Instance, runtime::event::Event};

const ROOT: &str = "/sys/fs/cgroup";
/// What only the root of v2 has.
const V2_MARK: &str = "/sys/fs/cgroup/cgroup.controllers";

/// The control groups of this instance.
#[derive(Debug, Clone)]
pub struct Groups {
    name: String,
    unified: bool,
}

/// One execution's group.
#[derive(Debug, Clone)]
pub struct Group {
    path: String,
    unified: bool,
}

impl Groups {
    /// Finds out which kind the host has.
    pub fn new(instance: &Instance) -> Self {
        let groups = Self { name: format!("nullspace-{instance}"), unified: Path::new(V2_MARK).exists() };
        if groups.unified {
            // runsc takes a group that it made for its sandbox's own, and waits
            // for it to be empty when that sandbox ends, whatever others there are.
            // If this fails, so does runsc, and says it.
            let _ = fs::create_dir(Path::new(ROOT).join(&groups.name));
        }
        groups
    }

    /// The group of an execution.
    pub fn group(&self, execution: &str) -> Group {
        Group { path: format!("{}/{execution}", self.name), unified: self.unified }
    }

    /// Executions that have a group.
    pub fn executions(&self) -> Vec<String> {
        let groups = hierarchies(self.unified).into_iter().flat_map(|root| directories(&root.join(&self.name)));
        groups.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect()
    }

    /// Removes the instance's own group if it is empty.
    pub fn close(&self) {
        for root in hierarchies(self.unified) {
            // One that is in use stays.
            let _ = fs::remove_dir(root.join(&self.name));
        }
    }
}

impl Group {
    /// As the OCI spec wants it.
    pub fn spec_path(&self) -> String {
        format!("/{}", self.path)
    }

    fn file(&self, controller: &str, name: &str) -> PathBuf {
        let root = Path::new(ROOT);
        let root = if self.unified { root.to_owned() } else { root.join(controller) };
        root.join(&self.path).join(name)
    }

    /// Lets the host's limit be `bytes`, above what the sandbox sees.
    pub fn raise_memory(&self, bytes: u64) -> Result<()> {
        let file = self.file("memory", if self.unified { "memory.max" } else { "memory.limit_in_bytes" });
        fs::write(&file, bytes.to_string()).map_err(|error| fault(&file, error))
    }

    /// Processor time of the group in nanoseconds.
    pub fn cpu_nanoseconds(&self) -> Result<u64> {
        if !self.unified {
            return read_number(&self.file("cpuacct", "cpuacct.usage"));
        }
        Ok(read_field(&self.file("cpu", "cpu.stat"), "usage_usec")? * 1_000)
    }

    /// Resolves when the group's memory has crossed `threshold` bytes.
    pub async fn memory_crossed(&self, threshold: u64) -> Result<()> {
        if self.unified { self.memory_high(threshold).await } else { self.memory_threshold(threshold).await }
    }

    /// v1 tells by an eventfd.
    async fn memory_threshold(&self, threshold: u64) -> Result<()> {
        let usage_file = self.file("memory", "memory.usage_in_bytes");
        let usage = fs::File::open(&usage_file).map_err(|error| fault(&usage_file, error))?;
        let event =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|error| fault(&usage_file, error))?;
        let control = self.file("memory", "cgroup.event_control");
        let line = format!("{} {} {threshold}", event.as_raw_fd(), usage.as_raw_fd());
        fs::write(&control, line).map_err(|error| fault(&control, error))?;
        let event = Event::new(event, Interest::READABLE).map_err(|error| fault(&control, error))?;
        // It may be above already: that is no event.
        if read_number(&usage_file)? < threshold {
            event.happened(Interest::READABLE).await.map_err(|error| fault(&control, error))?;
        }
        Ok(())
    }

    /// v2 counts `high` events in a file that can be polled. Crossing `high`
    /// slows the group down, so it is lifted again at once.
    async fn memory_high(&self, threshold: u64) -> Result<()> {
        let (stat, events) = (self.file("memory", "memory.stat"), self.file("memory", "memory.events"));
        let before = read_field(&events, "high")?;
        let file = fs::File::open(&events).map_err(|error| fault(&events, error))?;
        let file = Event::new(file, Interest::PRIORITY).map_err(|error| fault(&events, error))?;
        let high = High(self.file("memory", "memory.high"));
        // The kernel would try in vain to bring these below it. One that a killed
        // server left is lifted here as well.
        if read_field(&stat, "anon")? + read_field(&stat, "shmem")? >= threshold {
            return Ok(());
        }
        let high = high.set(threshold).await?;
        while read_field(&events, "high")? == before {
            file.next(Interest::PRIORITY).await.map_err(|error| fault(&events, error))?;
        }
        drop(high);
        Ok(())
    }

    /// Removes the group in every hierarchy. `false`: there are processes in it,
    /// which are told to end.
    pub fn remove(&self) -> Result<bool> {
        let mut removed = true;
        for path in hierarchies(self.unified).into_iter().map(|root| root.join(&self.path)) {
            match remove_tree(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    removed = false;
                    kill_tree(&path);
                }
                Err(error) => return Err(fault(&path, error)),
            }
        }
        Ok(removed)
    }
}

/// A `memory.high` that is lifted with its value.
struct High(PathBuf);

impl High {
    /// The kernel reclaims what is above before it answers, which can take long.
    async fn set(self, bytes: u64) -> Result<Self> {
        let set = tokio::task::spawn_blocking(move || {
            fs::write(&self.0, bytes.to_string()).map_err(|error| fault(&self.0, error))?;
            Ok(self)
        });
        set.await.map_err(|error| Error::internal(format!("memory.high: {error}")))?
    }
}

impl Drop for High {
    fn drop(&mut self) {
        // With the group it goes away by itself.
        let _ = fs::write(&self.0, "max");
    }
}

/// Each mounted hierarchy: several for v1, one for v2.
fn hierarchies(unified: bool) -> Vec<PathBuf> {
    if unified { vec![PathBuf::from(ROOT)] } else { directories(Path::new(ROOT)) }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in directories(path) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends what is in a group that goes away: a start that an earlier server began
/// and that went on without it.
fn kill_tree(path: &Path) {
    directories(path).iter().for_each(|child| kill_tree(child));
    let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        // One that has ended meanwhile is what was wanted.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn read_number(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file).map_err(|error| fault(file, error))?;
    text.trim().parse().map_err(|error| Error::internal(format!("{}: {error}", file.display())))
}

/// A number that a line of a v2 file names.
fn read_field(file: &Path, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).map_err(|error| fault(file, error))?;
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    number.ok_or_else(|| Error::internal(format!("{}: no {name}", file.display())))
}

/// What the host allows a sandbox of `memory_mib` above its own limit: for the
/// kernel of the sandbox, for what the host keeps of each of its processes (about
/// 150 KiB, seen with 4,000 of them), and for what a program takes before the
/// agent acts.
pub fn host_memory(memory_mib: i32) -> u64 {
    const KERNEL: u64 = 192 * MIB;
    const PROCESS: u64 = 192 << 10;
    let memory = u64::from(memory_mib.unsigned_abs()) * MIB;
    memory + memory / 4 + KERNEL + PROCESS * MAX_PROCESSES as u64
}

/// Where the host tells the agent to look closely.
pub fn pressure_threshold(memory_mib: i32) -> u64 {
    u64::from(memory_mib.unsigned_abs()) * MIB / 5 * 4
}
