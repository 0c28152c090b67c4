//! What a store that was made again does not know. Each sandbox's record lies
//! beside its execution as well, written after every commit, so that one that
//! is newer than the store's state is taken up and not ended.

use std::collections::{BTreeMap, BTreeSet};

use nullspace_proto::Result;

use super::{
    PREFIX, Sandboxes,
    record::{Record, State},
    warm::{self, MemberRecord},
};
use crate::store::{Write, decode, encode, recover::Origin, scan_all};

/// What a server starts from.
pub(super) struct Known {
    pub records: Vec<Record>,
    pub members: Vec<MemberRecord>,
}

impl Sandboxes {
    /// Reads all records, and brings them up to what the host knows.
    pub(super) async fn read_records(&self, origin: Origin) -> Result<Known> {
        let records: Vec<(String, Record)> = scan_all(&*self.store, PREFIX).await?;
        let members: Vec<(String, MemberRecord)> = scan_all(&*self.store, warm::PREFIX).await?;
        let mut records = records.into_iter().map(|(_, record)| (record.id.clone(), record)).collect();
        let mut members = members.into_iter().map(|(_, member)| member).collect();
        let mut writes = self.take_notes(&mut records, origin)?;
        if origin == Origin::Rebuilt {
            let there = self.boots.engine.executions().await?;
            writes.extend(end_gone(&mut records, &there)?);
            writes.extend(forget_gone(&mut members, &records, &there));
        }
        if !writes.is_empty() {
            self.store.commit(vec![], writes).await?;
        }
        Ok(Known { records: records.into_values().collect(), members })
    }

    /// Takes the records that lie beside executions where the store lacks them, or
    /// has an earlier state.
    fn take_notes(&self, records: &mut BTreeMap<String, Record>, origin: Origin) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        // In the order of the executions' ids, so that a sandbox's newest is last.
        for (execution, bytes) in self.boots.engine.notes()? {
            let Ok(note) = decode::<Record>(&execution, &bytes) else {
                tracing::error!(execution, "the note beside an execution cannot be read");
                continue;
            };
            let is_its = note.execution().is_some_and(|named| named.id == execution);
            let is_newer = match records.get(&note.id) {
                Some(_) => origin == Origin::Rebuilt,
                // One that was being made was promised to nobody.
                None => !matches!(note.state, State::Creating { .. }),
            };
            if is_its && is_newer {
                tracing::warn!(
                    sandbox = note.id,
                    execution,
                    "the store did not know of a sandbox, or not its last state; it is taken up from its note"
                );
                writes.push(Write::Put(format!("{PREFIX}{}", note.id), encode(&note)?));
                records.insert(note.id.clone(), note);
            }
        }
        Ok(writes)
    }

    /// Leaves a record beside its execution.
    pub(super) fn note(&self, record: &Record) {
        let Some(execution) = record.execution() else { return };
        let noted = encode(record).and_then(|bytes| self.boots.engine.note(&execution.id, &bytes));
        if let Err(error) = noted {
            // The store has it; only a store that is lost later would miss it.
            tracing::error!(sandbox = record.id, %error, "a sandbox's record was not noted beside its execution");
        }
    }
}

/// Sandboxes that have ended since. Their slots may be others' now, so nothing
/// on the host is touched.
fn end_gone(records: &mut BTreeMap<String, Record>, there: &BTreeSet<String>) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for record in records.values_mut() {
        if record.execution().is_some_and(|execution| !there.contains(&execution.id)) {
            tracing::warn!(sandbox = record.id, "a sandbox has ended since the store's state");
            *record = record.gone("it ended, and the store lost when and why");
            writes.push(Write::Put(format!("{PREFIX}{}", record.id), encode(record)?));
        }
    }
    Ok(writes)
}

/// Members that are sandboxes or gone by now.
fn forget_gone(
    members: &mut Vec<MemberRecord>,
    records: &BTreeMap<String, Record>,
    there: &BTreeSet<String>,
) -> Vec<Write> {
    let sandboxes: BTreeSet<_> = records.values().filter_map(|record| Some(&record.execution()?.id)).collect();
    let mut writes = Vec::new();
    members.retain(|member| {
        let id = &member.execution.id;
        let stays = there.contains(id) && !sandboxes.contains(id);
        if !stays {
            writes.push(Write::Delete(member.key()));
        }
        stays
    });
    writes
}
