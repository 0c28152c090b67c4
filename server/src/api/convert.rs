//! Between the wire and the domain.

use std::time::Duration;

use nullspace_proto::{
    id, limits,
    v1::{LifetimePolicy, MetricsSample, Resources, Sandbox, SandboxSpec, SandboxState, TimeoutAction},
    validate::{Checks, duration, timestamp},
};
use prost::Message as _;
use prost_types::{FieldMask, Struct};
use sha2::{Digest as _, Sha256};

use crate::sandbox::{
    Wanted,
    list::StateName,
    metrics::Sample,
    record::{Record, State},
};

/// What a caller wants, with every default filled in. Bad fields are noted.
pub fn wanted(checks: &mut Checks, field: &str, spec: SandboxSpec) -> Wanted {
    let at = |name: &str| format!("{field}.{name}");
    let resources = spec.resources.unwrap_or_default();
    let vcpus = checks.range(&at("resources.vcpus"), resources.vcpus, limits::DEFAULT_VCPUS, &limits::VCPUS);
    let memory_mib = checks.range(
        &at("resources.memory_mib"),
        resources.memory_mib,
        limits::DEFAULT_MEMORY_MIB,
        &limits::MEMORY_MIB,
    );
    let disk_mib =
        checks.range(&at("resources.disk_mib"), resources.disk_mib, limits::DEFAULT_DISK_MIB, &limits::DISK_MIB);
    checks.text(&at("template"), &spec.template, limits::MAX_NAME_BYTES);
    checks.env(&at("envs"), &spec.envs);
    if !spec.cwd.is_empty() {
        checks.directory(&at("cwd"), &spec.cwd);
    }
    let metadata = spec.metadata.unwrap_or_default();
    checks.metadata(&at("metadata"), &metadata);
    let lifetime = match &spec.lifetime {
        None => Some(limits::DEFAULT_LIFETIME),
        Some(policy) => {
            action(checks, &at("lifetime.action"), policy.action);
            checks.duration(
                &at("lifetime.timeout"),
                policy.timeout.as_ref(),
                limits::MIN_LIFETIME..=limits::MAX_LIFETIME,
            )
        }
    };
    Wanted {
        template: if spec.template.is_empty() { limits::DEFAULT_TEMPLATE.to_owned() } else { spec.template },
        vcpus,
        memory_mib,
        disk_mib,
        lifetime,
        metadata: metadata.encode_to_vec(),
        envs: spec.envs,
        cwd: spec.cwd,
        internet: spec.internet_access.unwrap_or(true),
        detach_grace: None,
    }
}

/// Notes a timeout action that is not known.
pub fn action(checks: &mut Checks, field: &str, action: i32) {
    checks.check(TimeoutAction::try_from(action).is_ok(), field, || format!("{action} is not known"));
}

/// The lifetime that a caller asks for from now.
pub fn lifetime(
    checks: &mut Checks,
    field: &str,
    timeout: Option<&prost_types::Duration>,
    shortest: Duration,
) -> Option<Duration> {
    checks.duration(field, timeout, shortest..=limits::MAX_LIFETIME)
}

/// A state to filter by.
pub fn state_name(checks: &mut Checks, field: &str, state: i32) -> Option<StateName> {
    let name = match SandboxState::try_from(state) {
        Ok(SandboxState::Creating) => Some(StateName::Creating),
        Ok(SandboxState::Running) => Some(StateName::Running),
        Ok(SandboxState::Destroying) => Some(StateName::Destroying),
        Ok(SandboxState::Destroyed) => Some(StateName::Destroyed),
        Ok(SandboxState::Error) => Some(StateName::Error),
        Ok(SandboxState::Unspecified) | Err(_) => None,
    };
    checks.check(name.is_some(), field, || format!("{state} is not a state"));
    name
}

/// Page tokens of one list: the last id of a page, and a mark of the filters it
/// was made with, because another list has other pages.
pub struct Pages(String);

impl Pages {
    /// Of a list with these filters, in any encoding that tells them apart.
    pub fn of(filters: &[u8]) -> Self {
        Self(hex::encode(&Sha256::digest(filters)[..4]))
    }

    /// The id that a page begins after. A token that is none of this list is
    /// noted.
    pub fn begin<'a>(&self, checks: &mut Checks, token: &'a str) -> Option<&'a str> {
        if token.is_empty() {
            return None;
        }
        let after =
            token.strip_suffix(&self.0).and_then(|rest| rest.strip_suffix('.')).filter(|id| id::is_well_formed(id));
        checks.check(after.is_some(), "page_token", || "is not from a page of this list with these filters".to_owned());
        after
    }

    /// The token of the page after the one that ends with `last`. Empty: there
    /// is none.
    pub fn next(&self, last: Option<&str>, more: bool) -> String {
        last.filter(|_| more).map(|last| format!("{last}.{}", self.0)).unwrap_or_default()
    }
}

/// A sandbox on the wire.
pub fn sandbox(record: &Record) -> Sandbox {
    let spec = &record.spec;
    let state = match record.state.name() {
        StateName::Creating => SandboxState::Creating,
        StateName::Running => SandboxState::Running,
        StateName::Destroying => SandboxState::Destroying,
        StateName::Destroyed => SandboxState::Destroyed,
        StateName::Error => SandboxState::Error,
    };
    let execution = match &record.state {
        State::Running { execution } => execution.id.clone(),
        _ => String::new(),
    };
    Sandbox {
        id: record.id.clone(),
        incarnation: record.incarnation,
        state: state as i32,
        state_reason: record.reason.clone(),
        template: spec.template.clone(),
        resources: Some(Resources {
            vcpus: Some(spec.vcpus),
            memory_mib: Some(spec.memory_mib),
            disk_mib: Some(spec.disk_mib),
        }),
        metadata: Some(Struct::decode(spec.metadata.as_slice()).unwrap_or_default()),
        cwd: spec.cwd.clone(),
        created_at: Some(timestamp(record.created_at)),
        started_at: record.started_at.map(timestamp),
        expires_at: record.expires_at.map(timestamp),
        lifetime: Some(LifetimePolicy { timeout: spec.lifetime.map(duration), action: TimeoutAction::Destroy as i32 }),
        engine: spec.engine.clone(),
        execution_id: execution,
        internet_access: spec.internet,
        ended_at: record.ended_at.map(timestamp),
    }
}

/// A mask whose every path is checked.
pub struct Mask(Option<Vec<String>>);

impl Mask {
    /// Unknown paths are noted.
    pub fn new(checks: &mut Checks, mask: Option<FieldMask>) -> Self {
        let paths = mask.map(|mask| mask.paths);
        for path in paths.iter().flatten() {
            let known = copy_field(path, &mut Sandbox::default(), Sandbox::default());
            checks.check(known, "read_mask", || format!("{path:?} is not a field of Sandbox"));
        }
        Self(paths)
    }

    /// Leaves only the fields that were asked for.
    pub fn apply(&self, sandbox: Sandbox) -> Sandbox {
        let Some(paths) = &self.0 else { return sandbox };
        let mut masked = Sandbox::default();
        for path in paths {
            copy_field(path, &mut masked, sandbox.clone());
        }
        masked
    }
}

fn copy_field(path: &str, to: &mut Sandbox, from: Sandbox) -> bool {
    match path {
        "id" => to.id = from.id,
        "incarnation" => to.incarnation = from.incarnation,
        "state" => to.state = from.state,
        "state_reason" => to.state_reason = from.state_reason,
        "template" => to.template = from.template,
        "resources" => to.resources = from.resources,
        "metadata" => to.metadata = from.metadata,
        "cwd" => to.cwd = from.cwd,
        "created_at" => to.created_at = from.created_at,
        "started_at" => to.started_at = from.started_at,
        "expires_at" => to.expires_at = from.expires_at,
        "lifetime" => to.lifetime = from.lifetime,
        "engine" => to.engine = from.engine,
        "execution_id" => to.execution_id = from.execution_id,
        "internet_access" => to.internet_access = from.internet_access,
        "ended_at" => to.ended_at = from.ended_at,
        _ => return false,
    }
    true
}

/// A sample on the wire.
pub fn sample(sample: Sample) -> MetricsSample {
    MetricsSample {
        sampled_at: Some(timestamp(sample.at)),
        cpu_percent: sample.cpu_percent,
        cpu_count: sample.cpu_count,
        memory_used_bytes: sample.memory_used,
        memory_total_bytes: sample.memory_total,
        disk_used_bytes: sample.disk_used,
        disk_total_bytes: sample.disk_total,
        network_rx_bytes: sample.received as i64,
        network_tx_bytes: sample.sent as i64,
    }
}

/// Notes a key that is too long.
pub fn idempotency_key(checks: &mut Checks, key: &str) {
    checks.text("idempotency_key", key, limits::MAX_KEY_BYTES);
}
