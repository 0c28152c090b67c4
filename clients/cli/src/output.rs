//! What is printed: for people, or as JSON with the names of the proto.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use nullspace::{Error, Exit, SandboxInfo};
use serde_json::{Value, json};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    /// As JSON.
    pub json: bool,
    /// What to end with when nothing can be printed.
    pub failure: u8,
}

impl Printer {
    /// A value, or the text that says the same to people. What cannot be told did
    /// not happen for whoever asked: then this is the end of the process.
    pub fn print(self, value: &Value, text: &str) {
        let line = if self.json { value.to_string() } else { text.to_owned() };
        match writeln!(io::stdout().lock(), "{line}") {
            // Whoever reads it may have enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                eprintln!("nullspace: the output cannot be written: {error}");
                std::process::exit(self.failure.into());
            }
            _ => {}
        }
    }

    /// An error, in one line on standard error.
    pub fn error(self, error: &Error) {
        if self.json {
            eprintln!("{}", error_json(error));
            return;
        }
        let request = error.request_id().map(|id| format!(" ({id})")).unwrap_or_default();
        let name = error.reason_name();
        eprintln!("nullspace: {name}: {}{request}. {}", one_line(error.message()), error.suggested_action());
    }
}

fn error_json(error: &Error) -> Value {
    let mut envelope = json!({
        "code": error.reason_name(),
        "message": error.message(),
        "retryable": error.is_retryable(),
        "suggested_action": error.suggested_action(),
    });
    if let Some(id) = error.request_id() {
        envelope["request_id"] = id.into();
    }
    let violations = error.violations().iter();
    let violations: Vec<Value> =
        violations.map(|bad| json!({"field": bad.field, "description": bad.description})).collect();
    if !violations.is_empty() {
        envelope["violations"] = violations.into();
    }
    json!({ "error": envelope })
}

/// Without what would move a terminal's cursor, or begin another line.
pub fn one_line(text: &str) -> String {
    let escaped = |character: char| match character.is_control() {
        true => character.escape_default().collect::<String>(),
        false => character.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// A sandbox.
pub fn sandbox_json(info: &SandboxInfo) -> Value {
    json!({
        "id": info.id,
        "incarnation": info.incarnation,
        "execution_id": info.execution_id,
        "state": info.state.to_string(),
        "state_reason": info.state_reason,
        "template": info.template,
        "resources": {
            "vcpus": info.resources.vcpus,
            "memory_mib": info.resources.memory_mib,
            "disk_mib": info.resources.disk_mib,
        },
        "metadata": info.metadata,
        "cwd": info.cwd,
        "lifetime": {
            "timeout_seconds": info.lifetime.timeout.as_ref().map(Duration::as_secs_f64),
            "action": info.lifetime.action.to_string(),
        },
        "internet_access": info.internet_access,
        "engine": info.engine,
        "created_at": time(info.created_at),
        "started_at": time(info.started_at),
        "expires_at": time(info.expires_at),
        "ended_at": time(info.ended_at),
    })
}

/// As RFC 3339 writes it.
pub fn time(time: Option<SystemTime>) -> Option<String> {
    time.map(|time| prost_types::Timestamp::from(time).to_string())
}

/// A command's end. Output is text; what is not UTF-8 is also there in base64.
pub fn exit_json(exit: &Exit, stdout: &[u8], stderr: &[u8]) -> Value {
    let mut value = json!({
        "exit_code": exit.code(),
        "signal": exit.signal(),
        "reason": exit.reason.to_string(),
        "stdout": String::from_utf8_lossy(stdout),
        "stderr": String::from_utf8_lossy(stderr),
        "wall_time_seconds": exit.wall_time.as_secs_f64(),
        "cpu_time_seconds": exit.cpu_time.as_secs_f64(),
        "peak_memory_bytes": exit.peak_memory_bytes,
    });
    for (name, bytes) in [("stdout_base64", stdout), ("stderr_base64", stderr)] {
        if std::str::from_utf8(bytes).is_err() {
            value[name] = BASE64_STANDARD.encode(bytes).into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_moves_no_cursor() {
        assert_eq!(one_line("a\nb\u{1b}[2J ü"), "a\\nb\\u{1b}[2J ü");
    }
}
