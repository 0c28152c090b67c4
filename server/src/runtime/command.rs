//! Runs a tool of the host to its end, under a time limit.

use std::{ffi::OsStr, process::Stdio, time::Duration};

use nullspace_proto::{Error, Result};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// Longest time a tool may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `program`, gives it `input`, and returns what it wrote to stdout. A
/// failure tells what it wrote to stderr.
pub async fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>, input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let fail = |error: std::io::Error| Error::internal(format!("{program} cannot be run: {error}"));
    let mut child = command.spawn().map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends without reading its input tells why on stderr.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    let output = output.map_err(|_| Error::internal(format!("{program} took more than {LIMIT:?}")))?.map_err(fail)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::internal(format!("{program} failed with {}: {}", output.status, stderr.trim())))
}
