//! A member of the warm pool: an execution whose agent listens and is part of
//! no sandbox yet. Its record is written before anything of it is on the host,
//! as a sandbox's is.

use std::time::{Duration, SystemTime};

use nullspace_proto::Result;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    sandbox::{
        boot::{Shape, Started},
        record::Execution,
    },
    store::{Condition, Write, encode},
};

/// Where members' records are.
pub(in crate::sandbox) const PREFIX: &str = "member/";
const VERSION: u32 = 1;

/// What is stored of a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::sandbox) struct MemberRecord {
    version: u32,
    pub shape: Shape,
    pub execution: Execution,
    pub state: MemberState,
}

/// Where a member is in its life. It ends by becoming a sandbox, or it is
/// removed; both take its record away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(in crate::sandbox) enum MemberState {
    /// Being started.
    Booting {
        /// When that counts as failed.
        deadline: SystemTime,
    },
    /// Its agent listens.
    Ready,
}

impl MemberRecord {
    /// A member that is being started.
    pub fn booting(shape: Shape, execution: Execution, limit: Duration) -> Self {
        let state = MemberState::Booting { deadline: SystemTime::now() + limit };
        Self { version: VERSION, shape, execution, state }
    }

    /// Its agent listens.
    pub fn ready(&self) -> Self {
        Self { state: MemberState::Ready, ..self.clone() }
    }

    /// Its key in the store.
    pub fn key(&self) -> String {
        format!("{PREFIX}{}", self.execution.id)
    }

    /// The write that stores it.
    pub fn put(&self) -> Result<Write> {
        Write::put_record(self.key(), self)
    }

    /// That it is stored as it is here.
    pub fn stored(&self) -> Result<Condition> {
        Ok(Condition::Equals(self.key(), encode(self)?))
    }
}

/// A ready member. Whoever takes it out of the pool owns it.
pub(in crate::sandbox) struct Member {
    pub record: MemberRecord,
    pub started: Started,
    /// It has left the pool: its death is another's to notice.
    pub left: CancellationToken,
}

impl Member {
    /// A member whose agent listens.
    pub fn new(record: MemberRecord, started: Started) -> Self {
        Self { record, started, left: CancellationToken::new() }
    }
}
