//! What is stored of a sandbox. A transition makes the next record from this
//! one, and it is written before it is believed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::runtime::network::Slot;

/// The version of the record's shape; a later one reads all earlier ones.
const VERSION: u32 = 1;

/// A sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// `sb_` and 26 characters.
    pub id: String,
    /// Who made it.
    pub owner: String,
    /// Executions so far.
    pub incarnation: i64,
    /// Where it is in its life.
    pub state: State,
    /// Why, in words.
    pub reason: String,
    /// What it was made from.
    pub spec: Spec,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it began to run.
    pub started_at: Option<SystemTime>,
    /// When it was destroyed or failed.
    pub ended_at: Option<SystemTime>,
    /// When its life ends.
    pub expires_at: Option<SystemTime>,
}

/// What a sandbox is made from, with every default filled in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// A template's name.
    pub template: String,
    /// The files it stands for.
    pub template_digest: String,
    /// The engine that runs it.
    pub engine: String,
    /// Processors.
    pub vcpus: i32,
    /// MiB.
    pub memory_mib: i32,
    /// MiB.
    pub disk_mib: i32,
    /// From start or from the last change. `None`: for ever.
    pub lifetime: Option<Duration>,
    /// The caller's, as an encoded google.protobuf.Struct.
    pub metadata: Vec<u8>,
    /// Below those of commands.
    pub envs: BTreeMap<String, String>,
    /// Absolute.
    pub cwd: String,
    /// The caller chose `cwd`.
    pub cwd_chosen: bool,
    /// It may reach other networks.
    pub internet: bool,
    /// It is there for one run: how long it waits for a caller. `None`: it has a
    /// life of its own.
    #[serde(default)]
    pub detach_grace: Option<Duration>,
}

/// Where a sandbox is in its life, with what is only true there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Being made.
    Creating {
        /// What is being started.
        execution: Execution,
        /// When it counts as failed.
        deadline: SystemTime,
    },
    /// Taking calls.
    Running {
        /// What runs.
        execution: Execution,
    },
    /// Being ended.
    Destroying {
        /// What is being removed.
        execution: Execution,
        /// When ending it is tried again.
        deadline: SystemTime,
        /// What it becomes then.
        end: End,
    },
    /// Gone.
    Destroyed,
    /// It could not be made, or its kernel died.
    Error {
        /// Its kernel died.
        lost: bool,
    },
}

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By a call or its timeout.
    Destroyed,
    /// It could not be made.
    Failed,
    /// Its kernel died.
    Lost,
}

/// One run of a sandbox's kernel, and what it has on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// 26 characters; also the engine's name for it.
    pub id: String,
    /// Its network slot.
    pub slot: u32,
    /// What its agent asks of the server.
    pub secret: String,
    /// What it had used before the sandbox had it.
    #[serde(default, skip_serializing_if = "Before::is_nothing")]
    pub before: Before,
}

/// What an execution used while it waited in the warm pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Processor time in nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Bytes.
    pub received: u64,
    /// Bytes.
    pub sent: u64,
}

impl Before {
    // Records of an earlier release have no such field, and must stay as they are.
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Execution {
    /// Its network slot.
    pub fn slot(&self) -> Slot {
        Slot::from_number(self.slot)
    }
}

impl Record {
    /// A sandbox that is being made.
    pub fn creating(id: String, owner: String, spec: Spec, execution: Execution, limit: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            version: VERSION,
            id,
            owner,
            incarnation: 1,
            state: State::Creating { execution, deadline: now + limit },
            reason: String::new(),
            expires_at: None,
            spec,
            created_at: now,
            started_at: None,
            ended_at: None,
        }
    }

    /// It is being made from another execution.
    pub fn created_from(&self, execution: Execution, limit: Duration) -> Self {
        Self { state: State::Creating { execution, deadline: SystemTime::now() + limit }, ..self.clone() }
    }

    /// It runs now, and its life begins.
    pub fn running(&self, execution: Execution) -> Self {
        let now = SystemTime::now();
        let expires_at = self.spec.lifetime.map(|lifetime| now + lifetime);
        Self { state: State::Running { execution }, started_at: Some(now), expires_at, ..self.clone() }
    }

    /// It is being ended.
    pub fn destroying(&self, end: End, reason: &str, limit: Duration) -> Option<Self> {
        let execution = self.execution()?.clone();
        let state = State::Destroying { execution, deadline: SystemTime::now() + limit, end };
        Some(Self { state, reason: reason.to_owned(), ..self.clone() })
    }

    /// Nothing of it is left.
    pub fn ended(&self, end: End) -> Self {
        let state = match end {
            End::Destroyed => State::Destroyed,
            End::Failed => State::Error { lost: false },
            End::Lost => State::Error { lost: true },
        };
        Self { state, ended_at: Some(self.ended_at.unwrap_or_else(SystemTime::now)), expires_at: None, ..self.clone() }
    }

    /// Nothing of it is left, and nobody saw its end.
    pub fn gone(&self, reason: &str) -> Self {
        Self { reason: reason.to_owned(), ..self.ended(End::Destroyed) }
    }

    /// It lives for this long from now.
    pub fn with_lifetime(&self, lifetime: Option<Duration>) -> Self {
        let mut record = self.clone();
        record.spec.lifetime = lifetime;
        record.expires_at = lifetime.map(|lifetime| SystemTime::now() + lifetime);
        record
    }

    /// What it has on the host, if anything.
    pub fn execution(&self) -> Option<&Execution> {
        match &self.state {
            State::Creating { execution, .. } | State::Running { execution } | State::Destroying { execution, .. } => {
                Some(execution)
            }
            State::Destroyed | State::Error { .. } => None,
        }
    }
}
