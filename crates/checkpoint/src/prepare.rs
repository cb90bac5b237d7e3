//! Prepares a batch: the one durable write that makes it a checkpoint.
//!
//! Invariants: the record and its state deltas are one file, durable before the head points to it; the head moves in
//! one epoch-checked transaction, and only from batch N−1 to N; no offset goes back; the mark follows the head.

use crate::error::CheckpointError;
use crate::files;
use crate::format::{self, Kind};
use crate::head::HeadOp;
use crate::keys::{BlobName, HeadKey};
use crate::store::{CheckpointStore, Tip, lock};
use crate::values::{self, BatchEntry};
use highwater_protocol::ids::{BatchId, Epoch, QueryId};
use highwater_protocol::prepare_record::PrepareRecord;
use std::time::{SystemTime, UNIX_EPOCH};

impl CheckpointStore {
    /// Writes the checkpoint of one batch, with the state bytes in `record.state`. After it returns, the batch is
    /// prepared and can only be finished. An error of kind `Retry` means that nothing was prepared.
    pub fn prepare(&self, epoch: Epoch, record: &PrepareRecord) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let (query, batch) = (record.query, record.batch());
        let slot = self.slot(query);
        let mut tip = lock(&slot.tip);
        let before = match tip.take() {
            Some(known) => known,
            None => self.read_tip(query)?,
        };
        let outcome = check_order(&before, record).and_then(|()| self.write(epoch, record, &before));
        match outcome {
            Ok(()) => {
                *tip = Some(Tip { batch: Some(batch), positions: record.positions.clone() });
                Ok(())
            }
            // After a failed write the tip stays unknown and is read from the store next time.
            Err(error) => Err(error),
        }
    }

    fn write(&self, epoch: Epoch, record: &PrepareRecord, before: &Tip) -> Result<(), CheckpointError> {
        let (query, batch) = (record.query, record.batch());
        let bytes = encode_record(record)?;
        self.guarded(self.inner.marks.ensure(query))?;
        let body = self.write_body(BlobName::Batch(query, batch, record.attempt), bytes)?;
        let records = record.partitions.values().map(|partition| partition.records).sum();
        let entry = BatchEntry { body, prepared_at_ms: now_ms(), records };
        let number = |batch: BatchId| batch.to_string().into_bytes();
        let mut ops = vec![
            HeadOp::ExpectPresent(HeadKey::Spec(query)),
            HeadOp::Expect(HeadKey::Latest(query), before.batch.map(number)),
            HeadOp::Put(HeadKey::Batch(query, batch), values::encode(&entry)?),
            HeadOp::Put(HeadKey::Latest(query), number(batch)),
        ];
        let (files, some_unneeded) = self.files_ops(query, &record.plan)?;
        ops.extend(files);
        self.transact(epoch, query, &ops)?;
        self.guarded(self.inner.marks.set_batch(query, epoch, batch))?;
        let slot = self.slot(query);
        files::release_before(&slot, &record.plan.files);
        // A batch does not wait for readers; if there are any, the next compaction deletes the files.
        if some_unneeded
            && let Ok(_deleting) = slot.files.try_write()
            && let Err(error) = self.delete_unneeded_files(query, &slot)
        {
            tracing::warn!(%error, "looked-up files of older batches could not be deleted; this is tried again later");
        }
        Ok(())
    }

    fn read_tip(&self, query: QueryId) -> Result<Tip, CheckpointError> {
        let head = self.latest(query)?;
        Ok(head.map_or_else(Tip::default, |head| Tip {
            batch: Some(head.record.batch()),
            positions: head.record.positions,
        }))
    }

    /// Records that a batch is committed, without waiting for the disk, since recovery asks the sinks anyway.
    pub fn note_committed(&self, epoch: Epoch, query: QueryId, batch: BatchId) -> Result<(), CheckpointError> {
        let prepared = self.latest_batch(query)?;
        if prepared.is_none_or(|prepared| batch > prepared) {
            return Err(CheckpointError::NoBatch { query, batch });
        }
        if self.committed_batch(query)? >= Some(batch) {
            return Ok(());
        }
        self.check_sound()?;
        self.guarded(self.inner.heads.note(epoch, &HeadKey::Committed(query), batch.to_string().as_bytes()))
    }
}

fn check_order(before: &Tip, record: &PrepareRecord) -> Result<(), CheckpointError> {
    let (query, got) = (record.query, record.batch());
    let expected = before.batch.map_or(BatchId(0), BatchId::next);
    if got != expected {
        return Err(CheckpointError::OutOfOrder { query, expected, got });
    }
    // A partition in `record.reset` may be at any position, or absent if the partition no longer exists.
    for (partition, from) in before.positions.iter().filter(|(partition, _)| !record.reset.contains(*partition)) {
        // A partition that is left out would be read from its start again.
        let to = record.positions.get(partition).copied().unwrap_or(0);
        if to < *from || !record.positions.contains_key(partition) {
            return Err(CheckpointError::Regress { batch: got, partition: partition.clone(), from: *from, to });
        }
    }
    Ok(())
}

fn encode_record(record: &PrepareRecord) -> Result<Vec<u8>, CheckpointError> {
    let json = serde_json::to_vec(record).map_err(|error| CheckpointError::Encode(error.to_string()))?;
    let deltas = record.state.iter().map(|delta| {
        let kind = Kind::State { operator: delta.operator, first: delta.first_shard, end: delta.end_shard };
        (kind, delta.bytes.as_slice())
    });
    format::encode(std::iter::once((Kind::Record, json.as_slice())).chain(deltas))
}

/// The time shown to users; no decision depends on it.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
