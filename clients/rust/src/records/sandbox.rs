//! Sandboxes.

use std::time::{Duration, SystemTime};

use nullspace_proto::v1;
use prost_types::value::Kind;

use super::{duration, time, wire_enum};
use crate::error::{Error, Result};

/// What a caller keeps with a sandbox: a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// The largest whole number that the wire holds exactly.
const MAX_EXACT_INTEGER: f64 = nullspace_proto::limits::MAX_EXACT_INTEGER;

wire_enum! {
    /// The states of a sandbox.
    SandboxState from SandboxState {
        /// Being made; it takes no calls.
        Creating = "creating",
        /// It takes calls.
        Running = "running",
        /// Being ended.
        Destroying = "destroying",
        /// Gone. The record stays for 24 h.
        Destroyed = "destroyed",
        /// It could not be made, or its kernel died.
        Error = "error",
    }
}

wire_enum! {
    /// What happens at the end of a sandbox's life.
    TimeoutAction from TimeoutAction {
        /// It is destroyed.
        Destroy = "destroy",
    }
}

/// The size of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resources {
    /// Processors.
    pub vcpus: i32,
    /// Memory, in MiB.
    pub memory_mib: i32,
    /// Writable disk, in MiB.
    pub disk_mib: i32,
}

/// How long a sandbox lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lifetime {
    /// From its start or the last `set_timeout`. None: for ever.
    pub timeout: Option<Duration>,
    /// What happens then.
    pub action: TimeoutAction,
}

/// A sandbox as it was when the server was asked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SandboxInfo {
    /// `sb_` and 26 characters.
    pub id: String,
    /// Counts its executions from 1.
    pub incarnation: i64,
    /// Which execution runs now; positions in output rest on it.
    pub execution_id: String,
    /// What it is doing.
    pub state: SandboxState,
    /// Why, in words. Empty where there is nothing to say.
    pub state_reason: String,
    /// What it was created from.
    pub template: String,
    /// Its size.
    pub resources: Resources,
    /// As given at creation.
    pub metadata: Metadata,
    /// Where commands start and relative paths begin.
    pub cwd: String,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// It may reach other networks.
    pub internet_access: bool,
    /// What runs it, such as `gvisor`.
    pub engine: String,
    /// When it was asked for.
    pub created_at: Option<SystemTime>,
    /// When it began to run.
    pub started_at: Option<SystemTime>,
    /// When its life ends. None: never.
    pub expires_at: Option<SystemTime>,
    /// When it was destroyed or failed.
    pub ended_at: Option<SystemTime>,
}

impl From<v1::Sandbox> for SandboxInfo {
    fn from(sandbox: v1::Sandbox) -> Self {
        let resources = sandbox.resources.unwrap_or_default();
        let lifetime = sandbox.lifetime.unwrap_or_default();
        Self {
            id: sandbox.id,
            incarnation: sandbox.incarnation,
            execution_id: sandbox.execution_id,
            state: SandboxState::from_wire(sandbox.state),
            state_reason: sandbox.state_reason,
            template: sandbox.template,
            resources: Resources {
                vcpus: resources.vcpus.unwrap_or_default(),
                memory_mib: resources.memory_mib.unwrap_or_default(),
                disk_mib: resources.disk_mib.unwrap_or_default(),
            },
            metadata: sandbox.metadata.map(from_struct).unwrap_or_default(),
            cwd: sandbox.cwd,
            lifetime: Lifetime {
                timeout: lifetime.timeout.map(|timeout| duration(Some(timeout))),
                // Where nothing is said it is destroyed.
                action: match TimeoutAction::from_wire(lifetime.action) {
                    TimeoutAction::Unknown(0) => TimeoutAction::Destroy,
                    action => action,
                },
            },
            internet_access: sandbox.internet_access,
            engine: sandbox.engine,
            created_at: time(sandbox.created_at),
            started_at: time(sandbox.started_at),
            expires_at: time(sandbox.expires_at),
            ended_at: time(sandbox.ended_at),
        }
    }
}

/// Resources that a sandbox used, at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MetricsSample {
    /// When.
    pub sampled_at: Option<SystemTime>,
    /// Since the sample before; 100 for each processor that was busy all the time.
    pub cpu_percent: f64,
    /// Its processors.
    pub cpu_count: i32,
    /// Memory that its programs and its kernel hold.
    pub memory_used_bytes: i64,
    /// Memory it may have.
    pub memory_total_bytes: i64,
    /// Disk that is written.
    pub disk_used_bytes: i64,
    /// Disk it may write.
    pub disk_total_bytes: i64,
    /// Into the sandbox, since it was started.
    pub network_rx_bytes: i64,
    /// Out of the sandbox, since it was started.
    pub network_tx_bytes: i64,
}

impl From<v1::MetricsSample> for MetricsSample {
    fn from(sample: v1::MetricsSample) -> Self {
        Self {
            sampled_at: time(sample.sampled_at),
            cpu_percent: sample.cpu_percent,
            cpu_count: sample.cpu_count,
            memory_used_bytes: sample.memory_used_bytes,
            memory_total_bytes: sample.memory_total_bytes,
            disk_used_bytes: sample.disk_used_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            network_rx_bytes: sample.network_rx_bytes,
            network_tx_bytes: sample.network_tx_bytes,
        }
    }
}

/// JSON on the wire.
pub(crate) fn to_struct(metadata: Metadata) -> Result<prost_types::Struct> {
    let fields = metadata.into_iter().map(|(name, value)| Ok((name.clone(), to_value(&name, value)?)));
    Ok(prost_types::Struct { fields: fields.collect::<Result<_>>()? })
}

fn to_value(field: &str, value: serde_json::Value) -> Result<prost_types::Value> {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(exact(field, &number)?),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            let values = values.into_iter().map(|value| to_value(field, value)).collect::<Result<_>>()?;
            Kind::ListValue(prost_types::ListValue { values })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(to_struct(fields)?),
    };
    Ok(prost_types::Value { kind: Some(kind) })
}

/// The wire has doubles only: a number that one would bend is refused here, where
/// it can still be told.
fn exact(field: &str, number: &serde_json::Number) -> Result<f64> {
    let bent = || Error::invalid_field(format!("metadata.{field}"), format!("{number} cannot be held exactly"));
    let whole = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
    if whole.is_some_and(|whole| whole > MAX_EXACT_INTEGER as u64) {
        return Err(bent());
    }
    number.as_f64().ok_or_else(bent)
}

fn from_struct(metadata: prost_types::Struct) -> Metadata {
    metadata.fields.into_iter().map(|(name, value)| (name, from_value(value))).collect()
}

fn from_value(value: prost_types::Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(number)) => {
            let whole = number.fract() == 0.0 && number.abs() <= MAX_EXACT_INTEGER;
            if whole { (number as i64).into() } else { number.into() }
        }
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(from_value).collect(),
        Some(Kind::StructValue(fields)) => from_struct(fields).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_comes_back_as_it_was() {
        let value = json!({"a": 1, "b": [1.5, "x", null, true], "c": {"d": {}}, "n": -9_007_199_254_740_992_i64});
        let serde_json::Value::Object(metadata) = value else { unreachable!() };
        assert_eq!(from_struct(to_struct(metadata.clone()).unwrap()), metadata);
    }

    #[test]
    fn numbers_that_a_double_bends_are_refused() {
        let serde_json::Value::Object(metadata) = json!({"id": 9_007_199_254_740_993_i64}) else { unreachable!() };
        assert_eq!(to_struct(metadata).unwrap_err().violations()[0].field, "metadata.id");
    }
}
