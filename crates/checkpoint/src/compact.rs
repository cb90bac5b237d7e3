//! Compaction: replaces a chain of deltas by a snapshot of the state.
//!
//! Owns: when a snapshot is worth it, and the order of its steps. With N the newest prepared batch, the snapshot is
//! taken at N−1, so that the state after N−1 (from which N would be finished) and after N both stay readable. Steps:
//! write the parts; one transaction sets the new snapshot and removes the older keys; delete the older blobs. A crash
//! leaves either the old chain or the new one, and unreferenced blobs that the next open removes.

use crate::error::CheckpointError;
use crate::format::{self, Container, Kind};
use crate::head::HeadOp;
use crate::keys::{BlobName, HeadKey};
use crate::read::{Chain, Wanted};
use crate::store::CheckpointStore;
use crate::values::{self, BatchEntry, Body, SnapshotEntry, SnapshotPart, decode};
use highwater_protocol::ids::{BatchId, Epoch, OperatorId, QueryId, ShardId};
use highwater_protocol::state_delta;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, TryLockError};

/// When a chain is worth replacing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Deltas are not merged while they take less than this, bytes as stored.
    pub min_delta_bytes: u64,
    /// Longest chain; limits recovery time and the number of files.
    pub max_deltas: usize,
    /// Approximate size of a snapshot part, which is merged in memory; bytes as stored.
    pub part_bytes: u64,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        Self { min_delta_bytes: 4 * 1024 * 1024, max_deltas: 500, part_bytes: 32 * 1024 * 1024 }
    }
}

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Batch of the new snapshot; `None` if it was not worth it, or another compaction is running.
    pub snapshot: Option<BatchId>,
    pub snapshot_bytes: u64,
    /// Number of batches whose deltas are merged and whose records are no longer kept.
    pub batches_removed: usize,
}

impl CheckpointStore {
    /// Compacts the chain if the policy asks for it. Batches can be prepared meanwhile.
    pub fn compact(&self, epoch: Epoch, query: QueryId) -> Result<CompactionReport, CheckpointError> {
        self.compact_with(epoch, query, CompactionPolicy::default())
    }

    /// Like [`compact`](Self::compact), with another policy.
    pub fn compact_with(
        &self,
        epoch: Epoch,
        query: QueryId,
        policy: CompactionPolicy,
    ) -> Result<CompactionReport, CheckpointError> {
        self.check_epoch(epoch)?;
        let slot = self.slot(query);
        let _alone = match slot.compacting.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return Ok(CompactionReport::default()),
        };
        let Some(target) = self.latest_batch(query)?.and_then(|latest| latest.0.checked_sub(1)).map(BatchId) else {
            return Ok(CompactionReport::default());
        };
        let chain = self.chain(query, target)?;
        let delta_bytes: u64 = chain.deltas.iter().map(|(_, body)| body.size_bytes()).sum();
        let worth = delta_bytes > policy.min_delta_bytes.max(chain.snapshot.size_bytes());
        if chain.deltas.is_empty() || !(worth || chain.deltas.len() >= policy.max_deltas) {
            return Ok(CompactionReport::default());
        }
        let total = delta_bytes + chain.snapshot.size_bytes();
        let entry = self.write_snapshot(epoch, query, target, &chain, total.div_ceil(policy.part_bytes.max(1)))?;
        let snapshot_bytes = entry.size_bytes();
        let batches_removed = self.swap(epoch, query, target, entry)?;
        Ok(CompactionReport { snapshot: Some(target), snapshot_bytes, batches_removed })
    }

    /// Writes the state after `target` in about `parts` parts, each merged by itself.
    fn write_snapshot(
        &self,
        epoch: Epoch,
        query: QueryId,
        target: BatchId,
        chain: &Chain,
        parts: u64,
    ) -> Result<SnapshotEntry, CheckpointError> {
        let shards = self.end_shard(query, chain)?;
        let step = u64::from(shards).div_ceil(parts.max(1)).max(1);
        let step = u16::try_from(step).unwrap_or(u16::MAX);
        let mut entry = SnapshotEntry::default();
        for (part, first) in (0..shards).step_by(step.into()).enumerate() {
            let end = first.saturating_add(step).min(shards);
            let whole = self.fold_whole(query, chain, first..end, None)?;
            if whole.is_empty() {
                continue;
            }
            let kind = |operator| Kind::State { operator, first: ShardId(first), end: ShardId(end) };
            let sections = whole.iter().map(|(operator, bytes)| (kind(*operator), bytes.as_slice()));
            let bytes = format::encode(sections)?;
            let name = BlobName::SnapshotPart(query, target, epoch, part as u32);
            entry.parts.push(SnapshotPart { first, end, body: self.write_part(name, bytes)? });
        }
        Ok(entry)
    }

    /// Returns the state of some shards without deletions: one delta for each operator, or for `operator` only.
    pub(crate) fn fold_whole(
        &self,
        query: QueryId,
        chain: &Chain,
        shards: Range<u16>,
        operator: Option<OperatorId>,
    ) -> Result<BTreeMap<OperatorId, Vec<u8>>, CheckpointError> {
        let keep = |shard: ShardId| shards.contains(&shard.0);
        let mut by_operator: BTreeMap<OperatorId, Vec<Vec<u8>>> = BTreeMap::new();
        for (operator, bytes) in self.fold(query, chain, Wanted { shards: &keep, operator })? {
            by_operator.entry(operator).or_default().push(bytes);
        }
        let whole = by_operator.into_iter().map(|(operator, deltas)| {
            let slices: Vec<&[u8]> = deltas.iter().map(Vec::as_slice).collect();
            let merged = state_delta::merge(&slices, keep, true);
            Ok((operator, merged.map_err(|error| CheckpointError::delta(&format!("query {query}"), error))?))
        });
        whole.collect()
    }

    /// Writes a part as a blob, however small it is: many small parts in one head value would add up.
    fn write_part(&self, name: BlobName, bytes: Vec<u8>) -> Result<Body, CheckpointError> {
        let name = name.to_string();
        self.inner.blobs.put(&name, &bytes)?;
        Ok(Body::Blob { name, size_bytes: bytes.len() as u64 })
    }

    /// One past the highest shard that has state.
    fn end_shard(&self, query: QueryId, chain: &Chain) -> Result<u16, CheckpointError> {
        let mut end = chain.snapshot.parts.iter().map(|part| part.end).max().unwrap_or(0);
        for (at, body) in &chain.deltas {
            let (file, bytes) = self.read_body(&HeadKey::Batch(query, *at), body)?;
            end = end.max(Container::parse(&file, &bytes)?.end_shard());
        }
        Ok(end)
    }

    /// Replaces the chain by the new snapshot.
    fn swap(
        &self,
        epoch: Epoch,
        query: QueryId,
        target: BatchId,
        entry: SnapshotEntry,
    ) -> Result<usize, CheckpointError> {
        let mut ops = vec![
            HeadOp::ExpectPresent(HeadKey::Spec(query)),
            HeadOp::Put(HeadKey::Snapshot(query, target), values::encode(&entry)?),
        ];
        let mut unused: Vec<String> = Vec::new();
        let mut batches_removed = 0;
        for (key, value) in self.inner.heads.scan(&HeadKey::snapshots_of(query))? {
            if key != HeadKey::Snapshot(query, target) {
                let old: SnapshotEntry = decode(&key, &value)?;
                unused.extend(old.parts.iter().filter_map(|part| part.body.blob().map(str::to_string)));
                ops.push(HeadOp::Delete(key));
            }
        }
        for (key, value) in self.inner.heads.scan(&HeadKey::batches_of(query))? {
            if matches!(key, HeadKey::Batch(_, batch) if batch < target) {
                let old: BatchEntry = decode(&key, &value)?;
                unused.extend(old.body.blob().map(str::to_string));
                ops.push(HeadOp::Delete(key));
                batches_removed += 1;
            }
        }
        self.transact(epoch, query, &ops)?;
        let slot = self.slot(query);
        let _deleting = slot.files.write();
        for blob in &unused {
            self.inner.blobs.delete(blob)?;
        }
        self.delete_unneeded_files(query, &slot)?;
        Ok(batches_removed)
    }
}
