//! Lists of sandboxes. The order is that of ids, which is that of creation, so
//! a page that begins after an id is right whatever came and went meanwhile.

use std::{
    ops::Bound,
    sync::{Arc, PoisonError},
};

use prost::Message as _;
use prost_types::Struct;

use super::{
    Sandboxes,
    record::{Record, State},
};

/// Which sandboxes to list.
pub struct Filter {
    /// Empty: any but destroyed ones.
    pub states: Vec<StateName>,
    /// Empty: any.
    pub template: String,
    /// Members that the metadata must have.
    pub metadata: Struct,
}

/// A state without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StateName {
    Creating,
    Running,
    Destroying,
    Destroyed,
    Error,
}

impl State {
    /// Which state this is.
    pub fn name(&self) -> StateName {
        match self {
            Self::Creating { .. } => StateName::Creating,
            Self::Running { .. } => StateName::Running,
            Self::Destroying { .. } => StateName::Destroying,
            Self::Destroyed => StateName::Destroyed,
            Self::Error { .. } => StateName::Error,
        }
    }
}

impl Filter {
    fn admits(&self, record: &Record) -> bool {
        let state = record.state.name();
        let state = if self.states.is_empty() { state != StateName::Destroyed } else { self.states.contains(&state) };
        state && (self.template.is_empty() || self.template == record.spec.template) && self.admits_metadata(record)
    }

    fn admits_metadata(&self, record: &Record) -> bool {
        if self.metadata.fields.is_empty() {
            return true;
        }
        let found = Struct::decode(record.spec.metadata.as_slice()).unwrap_or_default();
        self.metadata.fields.iter().all(|(name, value)| found.fields.get(name) == Some(value))
    }
}

impl Sandboxes {
    /// Up to `limit` sandboxes of an owner, newest first, older than `before`;
    /// and whether there are more.
    pub fn list(&self, owner: &str, filter: &Filter, before: Option<&str>, limit: usize) -> (Vec<Arc<Record>>, bool) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let records = entries.range::<str, _>((Bound::Unbounded, end)).rev().map(|(_, entry)| entry.record());
        let mut page: Vec<_> =
            records.filter(|record| record.owner == owner && filter.admits(record)).take(limit + 1).collect();
        let more = page.len() > limit;
        page.truncate(limit);
        (page, more)
    }
}
