//! Inspects checkpoints: which batches are kept, and whether every byte of them is intact.
//!
//! Owns: lists and verification. Does not own: repair; nothing in this module writes.

use crate::error::CheckpointError;
use crate::format::{Container, Kind};
use crate::keys::HeadKey;
use crate::read::parse_record;
use crate::store::CheckpointStore;
use crate::values::{BatchEntry, Body, SnapshotEntry, decode};
use highwater_protocol::ids::{BatchId, OperatorId, QueryId};
use highwater_protocol::offsets::SourcePartition;
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::state_delta;
use serde::Serialize;

/// One kept batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchSummary {
    pub batch_id: u64,
    /// True if recorded as committed. The newest batch may be committed without the record: recovery asks the sinks.
    pub committed: bool,
    /// Milliseconds since the Unix epoch.
    pub prepared_at_ms: i64,
    /// Records read by the batch.
    pub num_input_rows: u64,
    /// Bytes of record and state changes as stored.
    pub size_bytes: u64,
    /// Bytes of the snapshot of the whole state after this batch; `None` if there is none.
    pub snapshot_bytes: Option<u64>,
}

/// What a verification has read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    pub batches: u64,
    pub snapshots: u64,
    /// Number of files that rows look up.
    pub files: u64,
    /// Number of sections: records, and state of one operator each.
    pub sections: u64,
    pub size_bytes: u64,
    /// Everything that is damaged, by file. Empty if all is intact.
    pub problems: Vec<String>,
}

impl CheckpointStore {
    /// Lists every kept batch, oldest first.
    pub fn batches(&self, query: QueryId) -> Result<Vec<BatchSummary>, CheckpointError> {
        let committed = self.committed_batch(query)?;
        let mut snapshot: Option<(BatchId, u64)> = None;
        for (key, value) in self.inner.heads.scan(&HeadKey::snapshots_of(query))? {
            if let HeadKey::Snapshot(_, at) = key {
                snapshot = Some((at, decode::<SnapshotEntry>(&key, &value)?.size_bytes()));
            }
        }
        let mut found = Vec::new();
        for (key, value) in self.inner.heads.scan(&HeadKey::batches_of(query))? {
            let HeadKey::Batch(_, batch) = key else { continue };
            let entry: BatchEntry = decode(&key, &value)?;
            found.push(BatchSummary {
                batch_id: batch.0,
                committed: committed >= Some(batch),
                prepared_at_ms: entry.prepared_at_ms,
                num_input_rows: entry.records,
                size_bytes: entry.body.size_bytes(),
                snapshot_bytes: snapshot.filter(|(at, _)| *at == batch).map(|(_, bytes)| bytes),
            });
        }
        Ok(found)
    }

    /// Reads and checks everything kept of a query: checksums, formats, that the chain has no gap and positions never
    /// go back. Continues after damage, so that all of it is reported.
    pub fn verify(&self, query: QueryId) -> Result<Verification, CheckpointError> {
        let slot = self.slot(query);
        let _reading = slot.files.read();
        let mut report = Verification::default();
        for (key, value) in self.inner.heads.scan(&HeadKey::snapshots_of(query))? {
            let entry = decode::<SnapshotEntry>(&key, &value);
            let Some(entry) = report.keep(entry) else { continue };
            report.snapshots += 1;
            for part in &entry.parts {
                self.verify_body(&key, &part.body, &mut report);
            }
        }
        let mut before: Option<PrepareRecord> = None;
        for (key, value) in self.inner.heads.scan(&HeadKey::batches_of(query))? {
            let entry = decode::<BatchEntry>(&key, &value);
            let Some(entry) = report.keep(entry) else { continue };
            report.batches += 1;
            let Some(record) = self.verify_body(&key, &entry.body, &mut report) else { continue };
            if let Some(partition) = before.as_ref().and_then(|before| record.regressed(before)) {
                report.problems.push(regressed(&key, &partition));
            }
            before = Some(record);
        }
        for file in self.verify_files(query) {
            report.files += 1;
            report.size_bytes += report.keep(file).unwrap_or_default();
        }
        let latest = self.latest_batch(query)?;
        report.keep(self.check_mark(query, latest));
        if let Some(latest) = latest
            && let Err(error) = self.chain(query, latest)
        {
            report.problems.push(error.to_string());
        }
        Ok(report)
    }

    /// Checks one file. Returns its record; `None` if it has none or is damaged.
    fn verify_body(&self, key: &HeadKey, body: &Body, report: &mut Verification) -> Option<PrepareRecord> {
        report.size_bytes += body.size_bytes();
        let (file, bytes) = report.keep(self.read_body(key, body))?;
        let container = report.keep(Container::parse(&file, &bytes))?;
        let sections = report.keep(container.read(|_| true))?;
        let mut record = None;
        for (kind, bytes) in sections {
            report.sections += 1;
            match kind {
                Kind::Record => record = report.keep(parse_record(&file, &container)),
                Kind::State { operator, .. } => report.verify_delta(&file, operator, &bytes),
                Kind::Spec | Kind::File => {}
            }
        }
        record
    }
}

impl Verification {
    fn keep<T>(&mut self, result: Result<T, CheckpointError>) -> Option<T> {
        result.inspect_err(|error| self.problems.push(error.to_string())).ok()
    }

    fn verify_delta(&mut self, file: &str, operator: OperatorId, bytes: &[u8]) {
        let merged = state_delta::merge(&[bytes], |_| true, false);
        let merged = merged.map_err(|error| CheckpointError::delta(&format!("{file}, operator {operator}"), error));
        self.keep(merged);
    }
}

fn regressed(key: &HeadKey, partition: &SourcePartition) -> String {
    format!("the checkpoint is damaged: head store key {key}: the position of {} goes back", partition.tp)
}
