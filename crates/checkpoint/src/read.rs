//! Reading checkpoints back: records, and state as of a batch.
//!
//! Invariant: the state of batch N is the newest snapshot at or before N, then every delta after it up to N, in order
//! and without a gap. Damage is an error that names the file; nothing falls back to an older checkpoint by itself.

use crate::error::CheckpointError;
use crate::format::{Container, Kind};
use crate::keys::HeadKey;
use crate::store::CheckpointStore;
use crate::values::{BatchEntry, Body, SnapshotEntry, decode};
use highwater_protocol::ids::{BatchId, OperatorId, QueryId, ShardId};
use highwater_protocol::parallel::in_parallel;
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::state_delta;
use std::collections::{BTreeMap, BTreeSet};

/// More threads than this do not make a disk faster.
const MAX_THREADS: usize = 8;

/// The newest checkpoint of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Without state bytes, which [`CheckpointStore::read_state`] reads.
    pub record: PrepareRecord,
    /// True if the batch is known to be committed. If false, the sinks must be asked.
    pub committed: bool,
}

/// Selects shards and an operator.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub shards: &'a (dyn Fn(ShardId) -> bool + Sync),
    /// `None`: every operator.
    pub operator: Option<OperatorId>,
}

impl Wanted<'_> {
    /// True if a section belongs to the operator and overlaps the shards.
    fn takes(&self, kind: Kind) -> bool {
        let Kind::State { operator, first, end } = kind else { return false };
        self.operator.is_none_or(|wanted| wanted == operator) && (first.0..end.0).any(|s| (self.shards)(ShardId(s)))
    }
}

/// The files that make up the state after a batch.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Without parts if there is no snapshot, or it is empty.
    pub snapshot: SnapshotEntry,
    pub snapshot_at: Option<BatchId>,
    /// Batches after the snapshot, in order.
    pub deltas: Vec<(BatchId, Body)>,
}

impl CheckpointStore {
    /// Returns the newest prepared batch; `None` before the first. It is an error if that batch is damaged, or if a
    /// mark shows that a newer one was prepared; an older batch is never returned instead.
    pub fn latest(&self, query: QueryId) -> Result<Option<Head>, CheckpointError> {
        let found = self.latest_batch(query)?;
        self.check_mark(query, found)?;
        let Some(batch) = found else { return Ok(None) };
        let record = self.record(query, batch)?.ok_or_else(|| {
            CheckpointError::damaged(format!("head store key {}", HeadKey::Batch(query, batch)), "it is missing")
        })?;
        let committed = self.committed_batch(query)? >= Some(batch);
        Ok(Some(Head { record, committed }))
    }

    /// Returns the record of one batch, without state bytes; `None` if it is not kept.
    pub fn record(&self, query: QueryId, batch: BatchId) -> Result<Option<PrepareRecord>, CheckpointError> {
        let slot = self.slot(query);
        let _reading = slot.files.read();
        let key = HeadKey::Batch(query, batch);
        let Some(value) = self.inner.heads.get(&key)? else { return Ok(None) };
        let entry: BatchEntry = decode(&key, &value)?;
        let (file, bytes) = self.read_body(&key, &entry.body)?;
        let record = parse_record(&file, &Container::parse(&file, &bytes)?)?;
        if record.query != query || record.batch() != batch {
            return Err(CheckpointError::damaged(file, "it holds a different batch"));
        }
        Ok(Some(record))
    }

    /// Returns the state of some shards after `batch`, as deltas to load in this order: one per operator and snapshot
    /// part, then one per operator for everything after the snapshot.
    pub fn read_state(
        &self,
        query: QueryId,
        batch: BatchId,
        shards: &BTreeSet<ShardId>,
    ) -> Result<Vec<(OperatorId, Vec<u8>)>, CheckpointError> {
        let slot = self.slot(query);
        let _reading = slot.files.read();
        let chain = self.chain(query, batch)?;
        self.fold(query, &chain, Wanted { shards: &|shard| shards.contains(&shard), operator: None })
    }

    /// Finds the files that make up the state after `batch`.
    pub(crate) fn chain(&self, query: QueryId, batch: BatchId) -> Result<Chain, CheckpointError> {
        let mut chain = Chain::default();
        for (key, value) in self.inner.heads.scan(&HeadKey::snapshots_of(query))? {
            if let HeadKey::Snapshot(_, at) = key
                && at <= batch
            {
                chain.snapshot = decode(&key, &value)?;
                chain.snapshot_at = Some(at);
            }
        }
        let first = chain.snapshot_at.map_or(BatchId(0), BatchId::next);
        for (key, value) in self.inner.heads.scan(&HeadKey::batches_of(query))? {
            if let HeadKey::Batch(_, at) = key
                && (first..=batch).contains(&at)
            {
                chain.deltas.push((at, decode::<BatchEntry>(&key, &value)?.body));
            }
        }
        let wanted = batch.next().0.saturating_sub(first.0);
        if chain.deltas.len() as u64 != wanted {
            return Err(self.gap(query, batch, first, &chain)?);
        }
        Ok(chain)
    }

    fn gap(
        &self,
        query: QueryId,
        batch: BatchId,
        first: BatchId,
        chain: &Chain,
    ) -> Result<CheckpointError, CheckpointError> {
        if self.latest_batch(query)?.is_none_or(|latest| batch > latest) || chain.deltas.is_empty() {
            return Ok(CheckpointError::NoBatch { query, batch });
        }
        let held: BTreeSet<BatchId> = chain.deltas.iter().map(|(at, _)| *at).collect();
        let missing = (first.0..=batch.0).map(BatchId).find(|at| !held.contains(at)).unwrap_or(first);
        let key = HeadKey::Batch(query, missing);
        Ok(CheckpointError::damaged(format!("head store key {key}"), "a state delta is missing"))
    }

    /// Reads a chain in parallel: snapshot parts as they are, later deltas merged into one per operator.
    pub(crate) fn fold(
        &self,
        query: QueryId,
        chain: &Chain,
        wanted: Wanted<'_>,
    ) -> Result<Vec<(OperatorId, Vec<u8>)>, CheckpointError> {
        let keep = wanted.shards;
        let at = chain.snapshot_at.unwrap_or_default();
        let parts = chain.snapshot.parts.iter().filter(|part| (part.first..part.end).any(|s| keep(ShardId(s))));
        let snapshots = parts.map(|part| (HeadKey::Snapshot(query, at), &part.body));
        let deltas = chain.deltas.iter().map(|(at, body)| (HeadKey::Batch(query, *at), body));
        let snapshot_parts = snapshots.clone().count();
        let files: Vec<(HeadKey, &Body)> = snapshots.chain(deltas).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let read = in_parallel(files, threads, |(key, body)| self.read_sections(&key, body, wanted))?;
        let mut out = Vec::new();
        let mut later: BTreeMap<OperatorId, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
        for (index, sections) in read.into_iter().enumerate() {
            for (operator, bytes) in sections {
                if index < snapshot_parts {
                    out.push((operator, bytes));
                } else {
                    later.entry(operator).or_default().push((index, bytes));
                }
            }
        }
        // Deletions matter only if a snapshot may hold the key.
        let drop_deleted = snapshot_parts == 0;
        for (operator, deltas) in later {
            let slices: Vec<&[u8]> = deltas.iter().map(|(_, bytes)| bytes.as_slice()).collect();
            let merged = state_delta::merge(&slices, keep, drop_deleted);
            out.push((operator, merged.map_err(|error| CheckpointError::delta(&format!("query {query}"), error))?));
        }
        Ok(out)
    }

    /// Returns the state sections of one file that overlap the wanted shards, reduced to these.
    fn read_sections(
        &self,
        key: &HeadKey,
        body: &Body,
        wanted: Wanted<'_>,
    ) -> Result<Vec<(OperatorId, Vec<u8>)>, CheckpointError> {
        let (file, bytes) = self.read_body(key, body)?;
        let container = Container::parse(&file, &bytes)?;
        let keep = wanted.shards;
        let mut found = Vec::new();
        for (kind, bytes) in container.read(|kind| wanted.takes(kind))? {
            let Kind::State { operator, first, end } = kind else { continue };
            let all = (first.0..end.0).all(|shard| keep(ShardId(shard)));
            let cut = if all { Ok(bytes) } else { state_delta::merge(&[&bytes], keep, false) };
            found.push((operator, cut.map_err(|error| CheckpointError::delta(&file, error))?));
        }
        Ok(found)
    }
}

pub(crate) fn parse_record(file: &str, container: &Container<'_>) -> Result<PrepareRecord, CheckpointError> {
    let json = container.read_one(Kind::Record)?;
    serde_json::from_slice(&json).map_err(|error| CheckpointError::damaged(file, error))
}
