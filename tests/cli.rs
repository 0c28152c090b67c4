//! The command line, by its real binary: what scripts and people rely on.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use nullspace_tests::{Cutter, Result, TestSandbox, eventually, patient, required, rounds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

/// How long a test waits for the program.
const LIMIT: Duration = Duration::from_secs(60);

fn nullspace(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(required("NULLSPACE_CLI")?);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

async fn run(args: &[&str]) -> Result<Output> {
    finish(nullspace(args)?.spawn()?).await
}

async fn finish(child: Child) -> Result<Output> {
    Ok(tokio::time::timeout(patient(LIMIT), child.wait_with_output()).await??)
}

/// Gives it input, and takes all that it says meanwhile.
async fn run_with(args: &[&str], input: Vec<u8>) -> Result<Output> {
    let mut child = nullspace(args)?.stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let writing = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = finish(child).await?;
    // It may have ended before it took all.
    let _ = writing.await?;
    Ok(output)
}

/// Runs it, and checks that it succeeds.
async fn said(args: &[&str]) -> Result<String> {
    let output = run(args).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{args:?}: {} {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs it, and gives the code it ends with and what it says of its failure.
async fn failure(args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = run(args).await?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    let stderr = String::from_utf8(output.stderr)?;
    Ok((output.status.code(), stderr))
}

#[tokio::test]
async fn a_sandbox_is_made_found_and_ended() -> Result {
    let key = nullspace_proto::id::ulid();
    let metadata = format!("job={key}");
    let mut create = vec!["sandbox", "create", "--vcpus", "1", "--memory-mib", "256", "--disk-mib", "512"];
    create.extend(["--timeout", "2m", "--metadata", &metadata, "--metadata-json", r#"{"n": [1]}"#]);
    create.extend(["--env", "A=b=c", "--cwd", "/srv", "--no-internet", "--idempotency-key", &key]);
    let id = said(&create).await?.trim_end().to_owned();
    let again: Value = serde_json::from_str(&said(&[&create[..], &["--json"]].concat()).await?)?;
    assert_eq!(again["id"], id.as_str());

    let info: Value = serde_json::from_str(&said(&["sandbox", "get", &id, "--json"]).await?)?;
    assert_eq!((&info["state"], &info["metadata"]["n"][0]), (&"running".into(), &1.into()));
    assert_eq!(info["resources"], serde_json::json!({"vcpus": 1, "memory_mib": 256, "disk_mib": 512}));
    assert_eq!((&info["cwd"], &info["internet_access"]), (&"/srv".into(), &false.into()));
    assert!(said(&["sandbox", "get", &id]).await?.lines().any(|line| line == "state            running"));
    assert_eq!(said(&["sandbox", "exec", &id, "--", "sh", "-c", "echo $A; pwd"]).await?, "b=c\n/srv\n");

    let list = ["sandbox", "list", "--state", "running", "--metadata", &metadata];
    let lines = said(&list).await?;
    assert!(lines.lines().count() == 2 && lines.lines().nth(1).is_some_and(|line| line.starts_with(&id)), "{lines}");
    let listed: Value = serde_json::from_str(&said(&[&["--json"], &list[..]].concat()).await?)?;
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["id"]), (Some(1), &info["id"]));
    let none: Value = serde_json::from_str(&said(&["--json", "sandbox", "list", "--limit", "0"]).await?)?;
    assert_eq!(none, serde_json::json!([]));

    said(&["sandbox", "timeout", &id, "1h"]).await?;
    let info: Value = serde_json::from_str(&said(&["sandbox", "timeout", &id, "none", "--json"]).await?)?;
    assert_eq!(info["expires_at"], Value::Null);
    assert_eq!(said(&["sandbox", "kill", &id, &id]).await?, format!("{id}\n{id}\n"));
    let info: Value = serde_json::from_str(&said(&["sandbox", "get", &id, "--json"]).await?)?;
    assert_eq!(info["state"], "destroyed");
    Ok(())
}

#[tokio::test]
async fn a_failure_is_one_line_and_a_code() -> Result {
    for (args, code, name) in [
        (&["sandbox", "get", "sb_none"][..], 3, "SANDBOX_NOT_FOUND"),
        (&["sandbox", "kill", "sb_none"], 3, "SANDBOX_NOT_FOUND"),
        (&["sandbox", "create", "--vcpus", "0"], 2, "INVALID_REQUEST"),
        (&["sandbox", "create", "--template", "no-such"], 3, "TEMPLATE_NOT_FOUND"),
        (&["sandbox", "list", "--url", "http://127.0.0.1:1"], 1, "TRANSPORT"),
        (&["sandbox", "list", "--url", "nonsense"], 2, "INVALID_REQUEST"),
        (&["sandbox", "exec", "sb_none", "--", "true"], 125, "SANDBOX_NOT_FOUND"),
        (&["sandbox", "exec", "sb_none", "--url", "http://127.0.0.1:1", "--", "true"], 125, "TRANSPORT"),
    ] {
        let (found, line) = failure(args).await?;
        assert_eq!(found, Some(code), "{args:?}: {line}");
        assert!(line.starts_with(&format!("nullspace: {name}: ")) && line.lines().count() == 1, "{line:?}");
        let (found, line) = failure(&[&["--json"], args].concat()).await?;
        let envelope: Value = serde_json::from_str(&line)?;
        assert_eq!((found, &envelope["error"]["code"]), (Some(code), &name.into()), "{args:?}");
        assert_eq!(line.lines().count(), 1);
    }
    assert_eq!(failure(&["sandbox", "list", "--state", "no-such"]).await?.0, Some(2));
    assert_eq!(failure(&["sandbox", "exec", "sb_none", "true"]).await?.0, Some(125));

    for (args, code) in [(&["sandbox", "list"][..], 4), (&["sandbox", "exec", "sb_none", "--", "true"], 125)] {
        let home = std::env::temp_dir();
        let output = finish(nullspace(args)?.env_clear().env("HOME", &home).current_dir(&home).spawn()?).await?;
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("nullspace: API_KEY_MISSING: "));
    }
    Ok(())
}

#[tokio::test]
async fn exec_is_as_if_the_program_were_here() -> Result {
    let sandbox = TestSandbox::new().await?;
    let id = sandbox.id();
    let exec = |more: &[&'static str]| [&["sandbox", "exec", id.as_str()], more].concat();

    let output = run(&exec(&["--", "sh", "-c", "printf '\\0\\377out'; printf err >&2; exit 7"])).await?;
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(7), &b"\0\xffout"[..], &b"err"[..])
    );
    let script = "id -un; pwd; echo $X";
    let settings = ["--user", "user", "--cwd", "/tmp", "--env", "X=a b", "--", "sh", "-c", script];
    assert_eq!(said(&exec(&settings)).await?, "user\n/tmp\na b\n");
    assert_eq!(run(&exec(&["--", "printf", "%s|", "a b", "--json", ""])).await?.stdout, b"a b|--json||");

    let input: Vec<u8> = (0..8_000_000_u32).map(|number| (number ^ (number >> 9)) as u8).collect();
    let output = run_with(&exec(&["--", "cat"]), input.clone()).await?;
    assert!(output.status.success() && output.stdout == input, "{} bytes came back", output.stdout.len());
    let output = run_with(&exec(&["--no-stdin", "--", "cat"]), b"not read".to_vec()).await?;
    assert_eq!((output.status.code(), output.stdout), (Some(0), Vec::new()));
    // A program that reads no input does not wait for its end.
    let mut child = nullspace(&exec(&["--", "true"]))?.stdin(Stdio::piped()).spawn()?;
    let open = child.stdin.take();
    assert!(finish(child).await?.status.success());
    drop(open);

    for (more, code) in [
        (&["--", "sh", "-c", "kill -9 $$"][..], 137),
        (&["--", "no-such-program"], 127),
        (&["--", "/etc/passwd"], 126),
        (&["--cwd", "/nowhere", "--", "true"], 125),
        (&["--timeout", "300ms", "--", "sleep", "60"], 124),
    ] {
        assert_eq!(run(&exec(more)).await?.status.code(), Some(code), "{more:?}");
    }
    let output = run(&exec(&["--json", "--", "sh", "-c", "printf '\\377'; echo err >&2; exit 3"])).await?;
    let result: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((output.status.code(), &result["exit_code"], &result["stderr"]), (Some(3), &3.into(), &"err\n".into()));
    assert_eq!((&result["stdout"], &result["stdout_base64"]), (&"\u{fffd}".into(), &"/w==".into()));
    let output = run(&exec(&["--json", "--timeout", "300ms", "--", "sh", "-c", "echo begun; sleep 60"])).await?;
    let result: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (output.status.code(), &result["reason"], &result["stdout"]),
        (Some(124), &"timed_out".into(), &"begun\n".into())
    );
    Ok(())
}

#[tokio::test]
async fn exec_talks_line_by_line_and_passes_signals_on() -> Result {
    let sandbox = TestSandbox::new().await?;
    let id = sandbox.id();
    let script = "trap 'echo caught; exit 3' TERM; while read line; do echo got $line; done";
    for (signal, code, last) in [(Signal::TERM, 3, "caught"), (Signal::INT, 130, "")] {
        let mut child =
            nullspace(&["sandbox", "exec", &id, "--", "sh", "-c", script])?.stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        for word in ["one", "two"] {
            stdin.write_all(format!("{word}\n").as_bytes()).await?;
            let line = tokio::time::timeout(patient(LIMIT), lines.next_line()).await??;
            assert_eq!(line.as_deref(), Some(format!("got {word}").as_str()));
        }
        let pid = Pid::from_raw(i32::try_from(child.id().ok_or("it has ended")?)?).ok_or("no pid")?;
        kill_process(pid, signal)?;
        let output = finish(child).await?;
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines.next_line().await?.unwrap_or_default(), last);
    }
    Ok(())
}

#[tokio::test]
async fn exec_ends_a_program_that_nobody_reads() -> Result {
    let sandbox = TestSandbox::new().await?;
    let mut child = nullspace(&["sandbox", "exec", &sandbox.id(), "--", "yes"])?.spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    stdout.read_exact(&mut [0; 2]).await?;
    drop(stdout);
    let output = finish(child).await?;
    assert_eq!(output.status.code(), Some(141), "{}", String::from_utf8_lossy(&output.stderr));
    let client = nullspace::Client::from_env()?.sandbox(sandbox.id());
    eventually("it has ended", LIMIT, async || Ok(client.commands().list().await?.is_empty())).await
}

#[tokio::test]
async fn exec_survives_cuts_both_ways() -> Result {
    let sandbox = TestSandbox::new().await?;
    let cutter = Cutter::to(&required("NULLSPACE_API_URL")?).await?;
    let input: Vec<u8> = (1..=400_000).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let wanted = rounds(20, 200);
    let (url, id) = (cutter.url(), sandbox.id());
    let executing = async {
        while cutter.cuts() < wanted {
            let output = run_with(&["--url", &url, "sandbox", "exec", &id, "--", "cat"], input.clone()).await?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            if stderr.contains("TRANSPORT") && output.stdout.is_empty() {
                // Cut before the server was ever reached: then it may not be there.
                assert_eq!(output.status.code(), Some(125));
                continue;
            }
            assert!(output.status.success() && stderr.is_empty(), "{} {stderr}", output.status);
            assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
        }
        Result::Ok(())
    };
    let pause = Duration::from_millis(20);
    tokio::time::timeout(patient(Duration::from_secs(300)), cutter.every(pause, executing)).await?
}
