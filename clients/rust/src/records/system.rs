//! The server and its API keys.

use std::{fmt, ops::RangeInclusive, time::SystemTime};

use nullspace_proto::v1;

use super::time;

/// The server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// Such as `0.1.0`.
    pub version: String,
    /// This server on this host.
    pub instance_id: String,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What can run sandboxes.
    pub engines: Vec<Engine>,
    /// What they can be created from.
    pub templates: Vec<Template>,
}

/// What runs sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Engine {
    /// Such as `gvisor`.
    pub name: String,
    /// As its binary prints it.
    pub version: String,
    /// New sandboxes run on it.
    pub is_default: bool,
    /// A kernel of its own stands between programs and the host's.
    pub kernel_isolation: bool,
    /// Processors that a sandbox may have.
    pub vcpus: RangeInclusive<i64>,
    /// Memory, in MiB.
    pub memory_mib: RangeInclusive<i64>,
    /// Disk, in MiB.
    pub disk_mib: RangeInclusive<i64>,
    /// Sandboxes at once.
    pub max_sandboxes: i32,
    /// Processes and threads of a sandbox.
    pub max_processes: i32,
}

/// What a sandbox can be created from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Template {
    /// Its name.
    pub name: String,
    /// SHA-256 of its files, in hexadecimal.
    pub digest: String,
}

/// An API key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKey {
    /// `key_` and 26 characters.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The first characters of the key, to recognise it by.
    pub prefix: String,
    /// Whose sandboxes it reaches.
    pub owner: String,
    /// What it may do; `*` is everything.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When it ends. None: never.
    pub expires_at: Option<SystemTime>,
    /// When it was revoked. None: it was not.
    pub revoked_at: Option<SystemTime>,
    /// The id of the key whose place it took.
    pub rotated_from: Option<String>,
    /// The id of the key that took its place.
    pub rotated_to: Option<String>,
}

/// A new API key. The server has only its hash.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedApiKey {
    /// What is known of it.
    pub key: ApiKey,
    /// The key itself. It is told only now.
    pub secret_key: String,
}

impl fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedApiKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl From<v1::GetVersionResponse> for Version {
    fn from(version: v1::GetVersionResponse) -> Self {
        Self { version: version.version, instance_id: version.instance_id }
    }
}

impl From<v1::GetCapabilitiesResponse> for Capabilities {
    fn from(capabilities: v1::GetCapabilitiesResponse) -> Self {
        let template = |template: v1::TemplateSummary| Template { name: template.name, digest: template.digest };
        Self {
            engines: capabilities.engines.into_iter().map(Engine::from).collect(),
            templates: capabilities.templates.into_iter().map(template).collect(),
        }
    }
}

impl From<v1::EngineCapabilities> for Engine {
    fn from(engine: v1::EngineCapabilities) -> Self {
        let range = |range: Option<v1::IntegerRange>| range.map_or(0..=0, |range| range.min..=range.max);
        Self {
            name: engine.name,
            version: engine.version,
            is_default: engine.is_default,
            kernel_isolation: engine.kernel_isolation,
            vcpus: range(engine.vcpus),
            memory_mib: range(engine.memory_mib),
            disk_mib: range(engine.disk_mib),
            max_sandboxes: engine.max_sandboxes,
            max_processes: engine.max_processes,
        }
    }
}

impl From<v1::ApiKey> for ApiKey {
    fn from(key: v1::ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            owner: key.owner,
            scopes: key.scopes,
            created_at: time(key.created_at),
            expires_at: time(key.expires_at),
            revoked_at: time(key.revoked_at),
            rotated_from: Some(key.rotated_from).filter(|id| !id.is_empty()),
            rotated_to: Some(key.rotated_to).filter(|id| !id.is_empty()),
        }
    }
}
