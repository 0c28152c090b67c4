//! The bare engine, without any of ours: what an isolated program costs anyway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::mount::{UnmountFlags, unmount};

use crate::{Result, Server, required};

/// The flags of a sandbox that count for its costs.
const FLAGS: [&str; 6] = [
    "--network=sandbox",
    "--platform=systrap",
    "--directfs=true",
    "--file-access-mounts=shared",
    "--in-sandbox-cgroup=v2",
    "--cpu-num-from-quota=true",
];

/// Memory of a control group that is not cache, in bytes. v1 or v2.
pub fn group_memory(group: &str) -> Result<i64> {
    let (v1, v2) =
        (format!("/sys/fs/cgroup/memory/{group}/memory.stat"), format!("/sys/fs/cgroup/{group}/memory.stat"));
    let (text, names) = match fs::read_to_string(&v1) {
        Ok(text) => (text, ["total_rss ", "total_shmem "]),
        Err(_) => (fs::read_to_string(&v2)?, ["anon ", "shmem "]),
    };
    let values =
        text.lines().filter_map(|line| names.iter().find_map(|name| line.strip_prefix(name)?.parse::<i64>().ok()));
    Ok(values.sum())
}

/// The engine with the spec of a sandbox that runs: the same root, mounts and
/// limits, and a network of its own. Removed with its value.
pub struct Bare {
    name: String,
    directory: PathBuf,
    spec: serde_json::Value,
}

impl Bare {
    /// As this execution of a server is.
    pub fn new(server: &Server, execution: &str) -> Result<Self> {
        let name = nullspace_proto::id::ulid();
        let directory = server.data().join("bare");
        fs::create_dir_all(&directory)?;
        let spec = server.data().join(format!("executions/{execution}/bundle/config.json"));
        let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(spec)?)?;
        let namespaces = spec["linux"]["namespaces"].as_array_mut().ok_or("no namespaces")?;
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(serde_json::json!({ "type": "network", "path": format!("/run/netns/bare-{name}") }));
        let bare = Self { name, directory, spec };
        // With an interface, as the other has: its kernel's network costs as well.
        let netns = format!(
            "ip netns add bare-{0}; ip link add bare type veth peer name eth0 netns bare-{0}
             ip link set bare netns bare-{0}; ip -n bare-{0} addr add 192.0.2.2/30 dev eth0
             ip -n bare-{0} link set bare up; ip -n bare-{0} link set eth0 up; ip -n bare-{0} link set lo up",
            bare.name
        );
        let made = Command::new("sh").args(["-ec", &netns]).status()?;
        if made.success() { Ok(bare) } else { Err("no namespace".into()) }
    }

    /// Starts a program in the background, in a control group.
    pub fn start(mut self, group: &str, args: &[&str]) -> Result<Self> {
        self.prepare(group, args)?;
        let mut run = self.runsc(true)?;
        let status = run.args(["run", "--detach", "--bundle"]).arg(&self.directory).arg(&self.name).status()?;
        if status.success() { Ok(self) } else { Err(format!("runsc run: {status}").into()) }
    }

    /// Runs a program from beginning to end, as one execution.
    pub fn run(&mut self, group: &str, args: &[&str]) -> Result<Duration> {
        self.prepare(group, args)?;
        let mut run = self.runsc(true)?;
        run.args(["run", "--bundle"]).arg(&self.directory).arg(&self.name);
        let begun = Instant::now();
        let status = run.status()?;
        if status.success() { Ok(begun.elapsed()) } else { Err(format!("runsc run: {status}").into()) }
    }

    fn prepare(&mut self, group: &str, args: &[&str]) -> Result {
        self.spec["process"]["args"] = args.iter().copied().collect();
        self.spec["linux"]["cgroupsPath"] = format!("/{group}").into();
        Ok(fs::write(self.directory.join("config.json"), self.spec.to_string())?)
    }

    fn runsc(&self, runs: bool) -> Result<Command> {
        let mut command = runsc(&self.directory.join("state"))?;
        if runs {
            command.args(FLAGS).arg(format!("--overlay2=root:dir={},size=512m", self.directory.display()));
        }
        Ok(command)
    }
}

/// The engine, with its state in a directory.
pub fn runsc(state: &Path) -> Result<Command> {
    let mut command = Command::new(format!("{}/engines/current/runsc", required("NULLSPACE_ASSETS")?));
    command.arg("--root").arg(state).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.runsc(false).and_then(|mut runsc| Ok(runsc.args(["delete", "--force", &self.name]).status()?));
        let _ = Command::new("ip").args(["netns", "delete", &format!("bare-{}", self.name)]).status();
        while unmount(self.directory.join("state/null-netns"), UnmountFlags::DETACH).is_ok() {}
    }
}
