//! The simulated head store: epochs, prepare records, the unsynced note of the last commit, and state as of a batch.
//!
//! Owns: the guarantees of crate `checkpoint`: one epoch-checked durable write per batch, in order, and no offset goes
//! back; notes may be lost.

use crate::types::Fault;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{BatchId, Epoch, ShardId, SinkId};
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::state_delta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub struct HeadStore {
    pub epoch: u64,
    pub records: Vec<Arc<PrepareRecord>>,
    /// How many writers each sink may have in use.
    pub reserved: BTreeMap<SinkId, u32>,
    /// Lost in a crash, unless a later prepare made it durable.
    pub note: Option<BatchId>,
    pub durable_note: Option<BatchId>,
    pub fault: Option<Fault>,
}

/// Why the store refused a write.
pub struct Refused {
    pub kind: ErrorKind,
    pub message: String,
}

impl HeadStore {
    pub fn claim(&mut self) -> Epoch {
        self.epoch += 1;
        Epoch(self.epoch)
    }

    pub fn prepare(&mut self, epoch: Epoch, record: Arc<PrepareRecord>) -> Result<(), Refused> {
        if epoch.0 != self.epoch && self.fault != Some(Fault::NoStoreFencing) {
            return Err(Refused { kind: ErrorKind::Fenced, message: format!("epoch {epoch} is over") });
        }
        let expected = BatchId(self.records.len() as u64);
        if record.batch() != expected {
            let message = format!("batch {} where {expected} belongs", record.batch());
            return Err(Refused { kind: ErrorKind::Fatal, message });
        }
        if let Some(partition) = self.records.last().and_then(|before| record.regressed(before)) {
            return Err(Refused { kind: ErrorKind::Fatal, message: format!("{} would go back", partition.tp) });
        }
        self.records.push(record);
        self.durable_note = self.note;
        Ok(())
    }

    pub fn reserve(&mut self, epoch: Epoch, counts: BTreeMap<SinkId, u32>) -> Result<(), Refused> {
        if epoch.0 != self.epoch && self.fault != Some(Fault::NoStoreFencing) {
            return Err(Refused { kind: ErrorKind::Fenced, message: format!("epoch {epoch} is over") });
        }
        self.reserved = counts;
        Ok(())
    }

    pub fn note_committed(&mut self, epoch: Epoch, batch: BatchId) {
        if epoch.0 == self.epoch {
            self.note = self.note.max(Some(batch));
        }
    }

    /// The driver's host crashes. Returns true if that loses a note.
    pub fn crash(&mut self) -> bool {
        let lost = self.note != self.durable_note;
        self.note = self.durable_note;
        lost
    }

    /// The newest record as it is read back: encoded and decoded, without state bytes.
    pub fn latest(&self) -> Option<PrepareRecord> {
        let bytes = serde_json::to_vec(self.records.last()?.as_ref()).unwrap();
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// State of `shards` after `base`, as one delta.
    pub fn state(&self, base: BatchId, shards: &BTreeSet<ShardId>) -> Vec<u8> {
        let upto = self.records.iter().take(base.0 as usize + 1);
        let deltas: Vec<&[u8]> = upto.flat_map(|record| &record.state).map(|delta| delta.bytes.as_slice()).collect();
        state_delta::merge(&deltas, |shard| shards.contains(&shard), true).unwrap()
    }
}
