//! What figures are measured on: a server of their own, its client, and the bare
//! engine beside it.

use std::{path::PathBuf, process::Command, time::Duration};

use nullspace::{Client, Sandbox};
use nullspace_tests::{Bare, Result, Server, required};

use crate::report::ms;

/// Programs of the guest, compiled once.
const GUEST_SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/floor.c");

/// A server and what is measured beside it.
pub struct Ground {
    /// The server.
    pub server: Server,
    /// A client of it.
    pub client: Client,
    /// Runs beside everything, so that the engine's spec is known.
    pub sandbox: Sandbox,
    bare: Bare,
}

impl Ground {
    /// A server with further arguments.
    pub async fn new(args: &[&str]) -> Result<Self> {
        let server = Server::start(args).await?;
        let client = client(&server)?;
        let sandbox = small(&client).await?;
        let bare = Bare::new(&server, &sandbox.info().await?.execution_id)?;
        Ok(Self { server, client, sandbox, bare })
    }

    /// Its name and version.
    pub async fn engine(&self) -> Result<String> {
        let capabilities = self.client.system().capabilities().await?;
        let engine = capabilities.engines.into_iter().find(|engine| engine.is_default).ok_or("no engine")?;
        Ok(format!("{} {}", engine.name, engine.version))
    }

    /// Times of `runsc run … /bin/true`, in ms.
    pub fn bare_runs(&mut self, count: usize) -> Result<Vec<f64>> {
        let group = format!("nullspace-{}/bare", self.server.instance()?);
        let times: Result<Vec<_>> = (0..count).map(|_| self.bare.run(&group, &["/bin/true"])).collect();
        Ok(ms(times?))
    }

    /// Ends all that was made here.
    pub async fn finish(self) -> Result {
        drop(self.bare);
        self.server.finish().await
    }
}

/// A client of a server of a test.
pub fn client(server: &Server) -> Result<Client> {
    Ok(Client::builder().url(server.url()?).api_key(server.key()?).build()?)
}

/// A sandbox of the default shape.
pub async fn small(client: &Client) -> Result<Sandbox> {
    let create = client.create_sandbox().vcpus(1).memory_mib(256).disk_mib(2_048);
    Ok(create.timeout(Duration::from_secs(3_600)).await?)
}

/// Puts the guest's program into a sandbox, as /tmp/floor.
pub async fn install_floor(sandbox: &Sandbox) -> Result {
    let program = std::env::temp_dir().join(format!("nullspace-floor-{}", std::process::id()));
    compile(&program)?;
    let bytes = std::fs::read(&program);
    std::fs::remove_file(&program)?;
    sandbox.files().write("/tmp/floor", bytes?).mode(0o755).await?;
    Ok(())
}

fn compile(program: &PathBuf) -> Result {
    let status = Command::new("gcc").args(["-O2", "-static", "-o"]).arg(program).arg(GUEST_SOURCE).status()?;
    if status.success() { Ok(()) } else { Err("the guest's program does not compile".into()) }
}

/// Runs a script of the benchmark with the package's Python, and gives the number
/// that it prints.
pub async fn python(server: &Server, args: &[&str]) -> Result<f64> {
    let mut command = tokio::process::Command::new(required("NULLSPACE_PYTHON")?);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/read.py")).args(args);
    command.env("NULLSPACE_API_URL", server.url()?).env("NULLSPACE_API_KEY", server.key()?);
    let output = command.stderr(std::process::Stdio::inherit()).output().await?;
    if !output.status.success() {
        return Err(format!("read.py {args:?}: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
