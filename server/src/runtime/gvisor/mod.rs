//! gVisor: runsc with systrap. An execution's things on the host are its
//! directory, runsc's state, its control group, and its processes.

mod cgroup;
mod spec;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nullspace_proto::{Error, Reason, Result};
use rustix::mount::UnmountFlags;
use tokio::process::Command;

use super::{Engine, Launch, Usage, process::Process};
use crate::{fault::fault, instance::Instance};

/// What is kept beside an execution, in its directory.
const NOTE: &str = "note.json";
/// How long runsc may take to start a sandbox.
const START: Duration = Duration::from_secs(20);
/// How long a sandbox may take to end: with thousands of processes and a busy
/// host it is many seconds.
const END: Duration = Duration::from_secs(40);
/// How often a control group is tried that has processes.
const GROUP_RETRY: Duration = Duration::from_millis(5);

/// Runs executions with runsc.
pub struct Gvisor {
    runsc: PathBuf,
    version: String,
    digest: String,
    data: PathBuf,
    groups: cgroup::Groups,
}

impl Gvisor {
    /// Uses a runsc binary. Its state and the executions' directories are below
    /// `data`.
    pub async fn open(runsc: PathBuf, data: &Path, instance: &Instance) -> Result<Self> {
        let output = super::command::run(&runsc.to_string_lossy(), ["--version"], "").await?;
        let digest = runsc.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        let version = output.lines().next().and_then(|line| line.strip_prefix("runsc version ")).unwrap_or("unknown");
        // A build from source says VERSION_MISSING; then its hash has to do.
        let version = if version == "VERSION_MISSING" {
            format!("sha256:{}", digest.get(..12).unwrap_or(digest))
        } else {
            version.to_owned()
        };
        let digest = digest.to_owned();
        let engine = Self { runsc, version, digest, data: data.to_owned(), groups: cgroup::Groups::new(instance) };
        for directory in [engine.state(), engine.overlays(), engine.directories()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(|error| Error::internal(format!("{}: {error}", directory.display())))?;
        }
        Ok(engine)
    }

    fn state(&self) -> PathBuf {
        self.data.join("runsc")
    }

    fn overlays(&self) -> PathBuf {
        self.data.join("overlay")
    }

    fn directories(&self) -> PathBuf {
        self.data.join("executions")
    }

    fn directory(&self, execution: &str) -> PathBuf {
        self.directories().join(execution)
    }

    fn runsc(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.runsc);
        command.arg("--root").arg(self.state()).arg("--log").arg(directory.join("runsc.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command
    }

    fn prepare(&self, launch: &Launch, directory: &Path) -> io::Result<()> {
        private(directory)?;
        private(&directory.join("bundle"))?;
        for visible in ["control", "volumes/rw", "volumes/ro"] {
            fs::create_dir_all(directory.join(visible))?;
            fs::set_permissions(directory.join(visible), fs::Permissions::from_mode(0o755))?;
        }
        for (name, content) in &launch.control {
            let mode = if *name == "secret" { 0o400 } else { 0o444 };
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(directory.join("control").join(name))?;
            io::Write::write_all(&mut file, content.as_bytes())?;
        }
        let spec = spec::spec(launch, directory, &self.groups.group(&launch.execution));
        fs::write(directory.join("bundle/config.json"), spec.to_string())
    }

    async fn start(&self, launch: &Launch, directory: &Path) -> Result<Process> {
        let stderr = fs::File::create(directory.join("stderr.log")).map_err(|error| fault(directory, error))?;
        let mut command = self.runsc(directory);
        command.args(spec::FLAGS).arg(format!(
            "--overlay2=root:dir={},size={}m",
            self.overlays().display(),
            launch.disk_mib
        ));
        command.args(["run", "--detach", "--bundle"]).arg(directory.join("bundle"));
        command.arg("--pid-file").arg(directory.join("pid")).arg(&launch.execution).stderr(stderr);
        let mut child = command.spawn().map_err(|error| fault(&self.runsc, error))?;
        let status = tokio::time::timeout(START, child.wait()).await;
        match status {
            Ok(Ok(status)) if status.success() => {}
            outcome => {
                let said = fs::read_to_string(directory.join("stderr.log")).unwrap_or_default();
                let message = format!("runsc run: {outcome:?}: {}", said.trim());
                tracing::error!(execution = launch.execution, %message);
                return Err(Error::new(Reason::SandboxStartFailed, "the engine could not start the sandbox"));
            }
        }
        self.groups.group(&launch.execution).raise_memory(cgroup::host_memory(launch.memory_mib))?;
        self.open_process(directory)?
            .ok_or_else(|| Error::new(Reason::SandboxStartFailed, "the sandbox ended at its start"))
    }

    fn open_process(&self, directory: &Path) -> Result<Option<Process>> {
        // runsc may be about to write it: its start is not over then.
        let text = fs::read_to_string(directory.join("pid")).unwrap_or_default();
        text.trim().parse().map_or(Ok(None), Process::open)
    }

    /// Removes what runsc has of an execution but does not know: a start that was
    /// ended early leaves a lock or a half-written file.
    fn remove_state(&self, execution: &str) -> Result<()> {
        let prefix = format!("{execution}_sandbox:");
        for entry in fs::read_dir(self.state()).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&prefix) {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(&entry.path(), error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a control group, in which processes may still be ending.
    async fn remove_group(&self, execution: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + END;
        while !self.groups.group(execution).remove()? {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::internal(format!("processes of {execution} do not end")));
            }
            tokio::time::sleep(GROUP_RETRY).await;
        }
        Ok(())
    }

    /// Whether a process is the sandbox of this execution: its number may have
    /// been given to another since.
    fn is_sandbox(process: &Process, execution: &str) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == execution.as_bytes())
    }
}

#[tonic::async_trait]
impl Engine for Gvisor {
    fn name(&self) -> &'static str {
        "gvisor"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    async fn create(&self, launch: &Launch) -> Result<Process> {
        let directory = self.directory(&launch.execution);
        self.prepare(launch, &directory).map_err(|error| fault(&directory, error))?;
        match self.start(launch, &directory).await {
            Ok(process) => Ok(process),
            Err(error) => {
                if let Err(error) = self.destroy(&launch.execution).await {
                    tracing::error!(%error, execution = launch.execution, "a failed start was not cleaned up");
                }
                Err(error)
            }
        }
    }

    async fn adopt(&self, execution: &str) -> Result<Option<Process>> {
        let process = self.open_process(&self.directory(execution))?;
        Ok(process.filter(|process| Self::is_sandbox(process, execution)))
    }

    async fn executions(&self) -> Result<BTreeSet<String>> {
        let names = |path: PathBuf| -> Vec<String> {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()
        };
        let states = names(self.state()).into_iter().filter_map(|name| {
            // runsc keeps ID_sandbox:ID.state and a lock beside it.
            let id = name.split_once("_sandbox:")?.0;
            Some(id.to_owned())
        });
        Ok(names(self.directories()).into_iter().chain(states).chain(self.groups.executions()).collect())
    }

    fn note(&self, execution: &str, note: &[u8]) -> Result<()> {
        let directory = self.directory(execution);
        let write = || {
            private(&directory)?;
            let fresh = directory.join("note.new");
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            io::Write::write_all(&mut file, note)?;
            // Not synced: an execution does not outlive the host's kernel either.
            fs::rename(&fresh, directory.join(NOTE))
        };
        write().map_err(|error| fault(&directory, error))
    }

    fn notes(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let directories = self.directories();
        let entries = fs::read_dir(&directories).map_err(|error| fault(&directories, error))?.flatten();
        let notes = entries.filter_map(|entry| {
            let note = fs::read(entry.path().join(NOTE)).ok()?;
            Some((entry.file_name().into_string().ok()?, note))
        });
        Ok(notes.collect())
    }

    async fn usage(&self, execution: &str) -> Result<Usage> {
        Ok(Usage { cpu_nanoseconds: self.groups.group(execution).cpu_nanoseconds()? })
    }

    async fn memory_pressure(&self, execution: &str, memory_mib: i32) -> Result<()> {
        self.groups.group(execution).memory_crossed(cgroup::pressure_threshold(memory_mib)).await
    }

    async fn destroy(&self, execution: &str) -> Result<()> {
        let directory = self.directory(execution);
        let process = match self.adopt(execution).await? {
            Some(process) => Some(process),
            // It may be that an earlier server has begun a start that still runs.
            None => starter(execution)?,
        };
        if let Some(process) = process {
            process.kill();
            let ended = tokio::time::timeout(END, process.ended()).await;
            ended.map_err(|_| Error::internal(format!("the sandbox of {execution} does not end")))?;
        }
        let mut delete = self.runsc(&self.data);
        delete.args(["delete", "--force", execution]).stderr(Stdio::piped());
        let output = tokio::time::timeout(END, delete.output()).await;
        let output = output.map_err(|_| Error::internal(format!("runsc delete {execution} does not end")))?;
        let output = output.map_err(|error| fault(&self.runsc, error))?;
        if !output.status.success() {
            // What runsc does not know has no state; the rest is removed below.
            tracing::debug!(execution, stderr = %String::from_utf8_lossy(&output.stderr).trim(), "runsc delete");
        }
        self.remove_state(execution)?;
        self.remove_group(execution).await?;
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(&directory, error)),
            _ => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        if !self.executions().await?.is_empty() {
            return Ok(());
        }
        self.groups.close();
        // runsc leaves this mount after its last sandbox, and several of them on
        // top of each other when it started some at once.
        let leftover = self.state().join("null-netns");
        while rustix::mount::unmount(&leftover, UnmountFlags::DETACH).is_ok() {}
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(&leftover, error)),
            _ => Ok(()),
        }
    }
}

fn private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The `runsc run` of an execution, if one runs. Its gofer names the same bundle.
fn starter(execution: &str) -> Result<Option<Process>> {
    let starts = |arguments: &[&[u8]]| {
        let mut arguments = arguments.iter();
        arguments.any(|argument| *argument == b"run") && arguments.any(|last| *last == execution.as_bytes())
    };
    Ok(Process::find(starts)?.pop())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process;

    use super::*;

    /// A process with further arguments, which waits until its input is closed.
    fn waits(arguments: &[&str]) -> process::Child {
        let mut command = process::Command::new("sh");
        let child = command.args(["-c", "read line"]).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // It may still be on its way from one program to the other, without arguments.
        let line = format!("/proc/{}/cmdline", child.id());
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        while fs::read(&line).unwrap().is_empty() {
            assert!(std::time::Instant::now() < limit, "it has no arguments");
            std::thread::yield_now();
        }
        child
    }

    #[tokio::test]
    async fn a_gofer_is_not_taken_for_the_start_of_its_sandbox() {
        let id = nullspace_proto::id::ulid();
        let mut gofer = waits(&["runsc-gofer", "gofer", "--bundle", "/b", &id]);
        let mut other = waits(&["runsc", "run", "--detach", "--bundle", "/b", "another"]);
        assert!(starter(&id).unwrap().is_none());
        let mut start = waits(&["runsc", "run", "--detach", "--bundle", "/b", &id]);
        let found = starter(&id).unwrap().map(|process| process.pid);
        assert_eq!(found, i32::try_from(start.id()).ok());
        for child in [&mut gofer, &mut other, &mut start] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}
