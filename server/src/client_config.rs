//! The file in which clients find the server and its first key.

use std::{fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use nullspace_proto::{Error, Result};
use serde_json::{Map, Value};

/// Leaves a key and the server's address, and keeps what else is there.
pub fn write(path: &Path, key: &str, url: &str) -> Result<()> {
    let mut config = read(path);
    config.insert("api_key".into(), key.into());
    config.insert("base_url".into(), url.into());
    replace(path, &config).map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
    tracing::info!(path = %path.display(), "clients find the server and a key there");
    Ok(())
}

/// Corrects the server's address in a file whose key is the server's.
pub fn refresh(path: &Path, is_ours: impl FnOnce(&str) -> bool, url: &str) -> Result<()> {
    let config = read(path);
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = text("api_key");
    if text("base_url") != url && is_ours(&key) { write(path, &key, url) } else { Ok(()) }
}

fn read(path: &Path) -> Map<String, Value> {
    // What is not there or cannot be read is made anew.
    fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn replace(path: &Path, config: &Map<String, Value>) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(serde_json::to_string_pretty(config)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
