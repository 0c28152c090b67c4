//! Makes, finds and ends sandboxes.

use nullspace::{Client, Result, SandboxInfo};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

use crate::{
    args::{Create, List},
    output::{Printer, one_line, sandbox_json, time},
    values::Lifetime,
};

/// Makes one, and prints its id.
pub async fn create(client: &Client, args: Create, printer: Printer) -> Result<()> {
    let mut create = client.create_sandbox().template(args.template).internet_access(!args.no_internet);
    if let Some(vcpus) = args.vcpus {
        create = create.vcpus(vcpus);
    }
    if let Some(memory_mib) = args.memory_mib {
        create = create.memory_mib(memory_mib);
    }
    if let Some(disk_mib) = args.disk_mib {
        create = create.disk_mib(disk_mib);
    }
    if let Some(Lifetime(timeout)) = args.timeout {
        create = create.timeout(timeout);
    }
    if let Some(cwd) = args.cwd {
        create = create.cwd(cwd);
    }
    if let Some(key) = args.idempotency_key {
        create = create.idempotency_key(key);
    }
    for (name, value) in args.metadata_json.into_iter().flat_map(|metadata| metadata.0) {
        create = create.metadata(name, value);
    }
    create = args.metadata.into_iter().fold(create, |create, pair| create.metadata(pair.name, pair.value));
    create = args.env.into_iter().fold(create, |create, pair| create.env(pair.name, pair.value));
    let sandbox = create.await?;
    let value = if printer.json { sandbox_json(&sandbox.info().await?) } else { Value::Null };
    printer.print(&value, sandbox.id());
    Ok(())
}

/// Prints a line for each, or one JSON list.
pub async fn list(client: &Client, args: List, printer: Printer) -> Result<()> {
    let mut list = args.state.into_iter().fold(client.list_sandboxes(), |list, state| list.state(state));
    list = args.metadata.into_iter().fold(list, |list, pair| list.metadata(pair.name, pair.value));
    if let Some(template) = args.template {
        list = list.template(template);
    }
    let sandboxes: Vec<SandboxInfo> =
        list.entries().take(args.limit.unwrap_or(usize::MAX)).collect::<Result<_>>().await?;
    let value: Vec<Value> = sandboxes.iter().map(sandbox_json).collect();
    let mut lines = vec![row(["ID", "STATE", "TEMPLATE", "EXPIRES", "METADATA"])];
    lines.extend(sandboxes.iter().map(|info| {
        let expires = time(info.expires_at).unwrap_or_else(|| "never".to_owned());
        let metadata = match info.metadata.is_empty() {
            true => String::new(),
            false => Value::Object(info.metadata.clone()).to_string(),
        };
        row([&info.id, info.state.name(), &one_line(&info.template), &expires, &metadata])
    }));
    printer.print(&value.into(), &lines.join("\n"));
    Ok(())
}

fn row([id, state, template, expires, metadata]: [&str; 5]) -> String {
    format!("{id:<29}  {state:<10}  {template:<16}  {expires:<30}  {metadata}").trim_end().to_owned()
}

/// Prints all that is known of one.
pub async fn get(client: &Client, sandbox: String, printer: Printer) -> Result<()> {
    let value = sandbox_json(&client.get_sandbox(sandbox).await?);
    let members = value.as_object().into_iter().flatten();
    let said = members.filter(|(_, value)| !value.is_null() && value.as_str() != Some(""));
    let lines: Vec<String> = said.map(|(name, value)| format!("{name:<16} {}", plain(value))).collect();
    printer.print(&value, &lines.join("\n"));
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), one_line)
}

/// Ends some, one after the other, and prints their ids.
pub async fn kill(client: &Client, sandboxes: Vec<String>, printer: Printer) -> Result<()> {
    let mut first_failure = None;
    for sandbox in sandboxes {
        match client.kill_sandbox(sandbox).await {
            Ok(info) => printer.print(&json!({"id": info.id, "state": info.state.to_string()}), &info.id),
            // The others are ended all the same.
            Err(error) if first_failure.is_none() => first_failure = Some(error),
            Err(error) => printer.error(&error),
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Sets how long one lives, and prints until when.
pub async fn timeout(client: &Client, sandbox: String, timeout: Lifetime, printer: Printer) -> Result<()> {
    let info = client.sandbox(sandbox).set_timeout(timeout.0).await?;
    let until = time(info.expires_at).unwrap_or_else(|| "never".to_owned());
    printer.print(&sandbox_json(&info), &until);
    Ok(())
}
