//! A server of a test's own, which the test may kill.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Api, Result, patient, required};

/// How long a server may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(20);

/// A server with a data directory of its own. Its sandboxes and rules are
/// removed with it.
pub struct Server {
    data: PathBuf,
    assets: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts one, with further arguments. It starts no sandboxes ahead unless
    /// they say so: tests count what is on the host.
    pub async fn start(args: &[&str]) -> Result<Self> {
        Self::with_assets(required("NULLSPACE_ASSETS")?.into(), args).await
    }

    /// Starts one that runs sandboxes from other files.
    pub async fn with_assets(assets: PathBuf, args: &[&str]) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("nullspace-test-{}", nullspace_proto::id::ulid()));
        fs::create_dir_all(&data)?;
        let mut server = Self { data, assets, args: args.iter().map(|arg| (*arg).to_owned()).collect(), child: None };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts it on the same data after it was stopped or killed.
    pub async fn start_again(&mut self) -> Result {
        let address = self.data.join("listen.addr");
        let _ = fs::remove_file(&address);
        let log = File::options().create(true).append(true).open(self.data.join("server.log"))?;
        let mut command = Command::new(required("NULLSPACED")?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--ready-slots", "2", "--data-dir"]).arg(&self.data);
        command.arg("--assets-dir").arg(&self.assets).env("NULLSPACE_POOL_SIZE", "0");
        command.arg("--client-config").arg(self.data.join("client.json")).args(&self.args);
        for variable in ["NULLSPACE_LISTEN", "NULLSPACE_DATA_DIR", "NULLSPACE_CONFIG"] {
            command.env_remove(variable);
        }
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let begun = Instant::now();
        while fs::metadata(&address).map_or(true, |file| file.len() == 0) {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("the server ended with {status}:\n{}", self.trouble()).into());
            }
            if begun.elapsed() > patient(LIMIT) {
                return Err(format!("the server does not start:\n{}", self.trouble()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.join("server.log")).unwrap_or_default()
    }

    /// The end of what it logged of trouble: short, as it stands before the
    /// error of the test that failed.
    fn trouble(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains(" INFO ")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its name on the host.
    pub fn instance(&self) -> Result<String> {
        Ok(fs::read_to_string(self.data.join("instance"))?.trim().to_owned())
    }

    /// Its first key.
    pub fn key(&self) -> Result<String> {
        let config: serde_json::Value = serde_json::from_slice(&fs::read(self.data.join("client.json"))?)?;
        Ok(config["api_key"].as_str().ok_or("no key")?.to_owned())
    }

    /// Where it listens.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}", fs::read_to_string(self.data.join("listen.addr"))?))
    }

    /// Its API with its first key, on a new connection.
    pub async fn api(&self) -> Result<Api> {
        Api::connect(&self.url()?, Some(&self.key()?)).await
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) -> Result {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends it by SIGTERM, and waits.
    pub async fn stop(&mut self) -> Result {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(child.id())?).ok_or("no pid")?;
        kill_process(pid, Signal::TERM)?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > patient(LIMIT) {
                child.kill()?;
                child.wait()?;
                return Err(format!("the server does not stop:\n{}", self.trouble()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What this server has on the host: namespaces, links, rules, control
    /// groups, and processes that run from its data directory.
    pub fn host_things(&self) -> Result<Vec<String>> {
        let instance = self.instance()?;
        let mut found = Vec::new();
        let entries = |path: &str| -> Vec<String> {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()
        };
        let matching = |path: &str, prefix: &str| -> Vec<String> {
            entries(path)
                .into_iter()
                .filter(|name| name.starts_with(prefix))
                .map(|name| format!("{path}/{name}"))
                .collect()
        };
        found.extend(matching("/run/netns", &format!("ns-{instance}-")));
        found.extend(matching("/sys/class/net", &format!("n{instance}")));
        found.extend(matching("/sys/fs/cgroup", &format!("nullspace-{instance}")));
        for controller in entries("/sys/fs/cgroup") {
            found.extend(matching(&format!("/sys/fs/cgroup/{controller}"), &format!("nullspace-{instance}")));
        }
        let tables = Command::new("nft").args(["list", "tables"]).output()?;
        let table = format!("nullspace_{instance}");
        found.extend(
            String::from_utf8_lossy(&tables.stdout).lines().filter(|line| line.ends_with(&table)).map(str::to_owned),
        );
        let rules = Command::new("nft").args(["list", "table", "ip", "filter"]).output()?;
        let owner = format!("\"nullspace-{instance}\"");
        found.extend(
            String::from_utf8_lossy(&rules.stdout).lines().filter(|line| line.contains(&owner)).map(str::to_owned),
        );
        let data = self.data.to_string_lossy().into_owned();
        found.extend(
            fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| line.contains(&data)).map(str::to_owned),
        );
        for pid in entries("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&data) && self.pid().map(|own| own.to_string()) != Some(pid.clone()) {
                found.push(format!("process {pid}: {line}"));
            }
        }
        Ok(found)
    }

    /// Ends all its sandboxes and stops it; fails if anything stays on the host.
    pub async fn finish(mut self) -> Result {
        if self.child.is_none() {
            self.start_again().await?;
        }
        let api = self.api().await?;
        for sandbox in crate::sandbox::all(&api).await? {
            api.sandboxes()
                .destroy_sandbox(nullspace_proto::v1::DestroySandboxRequest { sandbox_id: sandbox.id })
                .await?;
        }
        self.stop().await?;
        let left = self.host_things()?;
        if left.is_empty() { Ok(()) } else { Err(format!("left on the host: {left:#?}\n{}", self.trouble()).into()) }
    }
}

impl Drop for Server {
    /// Only a failed test comes here with a server that runs or with anything
    /// left; the next start on this host cannot know of it, so it is removed by
    /// the host's own tool.
    fn drop(&mut self) {
        if self.child.is_some() {
            eprintln!("the server of {} was not stopped; its log:\n{}", self.data.display(), self.trouble());
        }
        let _ = self.kill();
        if self.host_things().is_ok_and(|left| left.is_empty()) {
            let _ = fs::remove_dir_all(&self.data);
        } else {
            eprintln!("{} is left as it is", self.data.display());
        }
    }
}
