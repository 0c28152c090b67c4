//! How a server starts, and when it refuses to, in one line that says why.

use std::{
    fs,
    process::{Command, Stdio},
};

use nullspace_proto::v1::{GetVersionRequest, WhoAmIRequest};
use nullspace_tests::{Api, Result, Server, required};

/// What a start that fails says.
fn refusal(args: &[&str]) -> Result<String> {
    let mut command = Command::new(required("NULLSPACED")?);
    command.arg("serve").args(["--assets-dir", &required("NULLSPACE_ASSETS")?]).args(args).stdin(Stdio::null());
    let output = command.env_remove("NULLSPACE_LISTEN").output()?;
    assert!(!output.status.success(), "it did not refuse {args:?}");
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[tokio::test]
async fn a_server_refuses_to_start_where_it_would_be_unsafe() -> Result {
    let server = Server::start(&[]).await?;
    let other = server.data().join("other");
    let data = other.to_string_lossy().into_owned();

    let said = refusal(&["--data-dir", &data, "--listen", "0.0.0.0:0"])?;
    assert!(said.contains("clear text") && said.contains("--tls-cert") && !said.contains('\n'), "{said}");
    let said = refusal(&["--data-dir", &server.data().to_string_lossy(), "--listen", "127.0.0.1:0"])?;
    assert!(said.contains("another server uses it"), "{said}");
    let taken = server.url()?.trim_start_matches("http://").to_owned();
    let said = refusal(&["--data-dir", &data, "--listen", &taken])?;
    assert!(said.contains(&taken), "{said}");
    let file = server.data().join("settings.toml");
    fs::write(&file, "listn = '127.0.0.1:0'\n")?;
    let said = refusal(&["--data-dir", &data, "--config", &file.to_string_lossy()])?;
    assert!(said.contains("listn"), "{said}");
    server.finish().await
}

#[tokio::test]
async fn a_first_start_leaves_a_key_and_a_later_one_the_address() -> Result {
    let mut server = Server::start(&[]).await?;
    let (key, first) = (server.key()?, server.url()?);
    let file = server.data().join("client.json");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file)?.permissions()) & 0o777, 0o600);
    let config = |text: &str| -> Result<serde_json::Value> { Ok(serde_json::from_str(text)?) };
    assert_eq!(config(&fs::read_to_string(&file)?)?["base_url"], first);

    // What else is in the file stays, and a new address is noted.
    let mut changed = config(&fs::read_to_string(&file)?)?;
    changed["base_url"] = "http://127.0.0.1:1".into();
    changed["other"] = 1.into();
    fs::write(&file, changed.to_string())?;
    server.stop().await?;
    server.start_again().await?;
    let now = config(&fs::read_to_string(&file)?)?;
    assert_eq!((&now["base_url"], &now["api_key"], &now["other"]), (&server.url()?.into(), &key.into(), &1.into()));
    server.api().await?.system().who_am_i(WhoAmIRequest {}).await?;
    server.finish().await
}

#[tokio::test]
async fn every_setting_is_documented_and_two_servers_are_two_instances() -> Result {
    let server = Server::start(&[]).await?;
    let listing = Command::new(required("NULLSPACED")?).args(["serve", "--help"]).output()?;
    let help = String::from_utf8_lossy(&listing.stdout);
    for name in [
        "config",
        "listen",
        "data-dir",
        "assets-dir",
        "client-config",
        "tls-cert",
        "tls-key",
        "dns",
        "subnet",
        "ready-slots",
        "max-sandboxes",
        "pool-size",
        "pool-ready",
        "pool-memory",
        "key-calls",
        "key-streams",
        "key-bytes-per-second",
        "sandbox-calls",
        "sandbox-streams",
        "sandbox-bytes-per-second",
        "log",
    ] {
        let variable = format!("NULLSPACE_{}", name.replace('-', "_").to_uppercase());
        assert!(help.contains(&format!("--{name}")) && help.contains(&variable), "{name}: {help}");
    }
    // Two servers beside each other are two instances.
    let second = Server::start(&[]).await?;
    assert_ne!(server.instance()?, second.instance()?);
    let version = async |api: Api| {
        Ok::<_, tonic::Status>(api.system().get_version(GetVersionRequest {}).await?.into_inner().instance_id)
    };
    assert_eq!(version(server.api().await?).await?, server.instance()?);
    assert_eq!(version(second.api().await?).await?, second.instance()?);
    second.finish().await?;
    server.finish().await
}
