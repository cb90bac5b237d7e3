//! Looking at what one operator keeps: how much it is, and its entries, a few shards at a time.
//!
//! Owns: how much is held in memory at once. Does not own: what entries mean (operators); nothing here changes anything.

use crate::compact::CompactionPolicy;
use crate::error::CheckpointError;
use crate::read::Chain;
use crate::store::CheckpointStore;
use highwater_protocol::ids::{BatchId, OperatorId, QueryId};
use highwater_protocol::state_delta::{DeltaEntry, DeltaReader};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

/// How much an operator keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    pub entries: u64,
    /// Of keys and values.
    pub bytes: u64,
}

impl CheckpointStore {
    /// How much each operator keeps after `batch`, in all `shards` of the query; those that keep nothing are left out.
    pub fn state_sizes(
        &self,
        query: QueryId,
        batch: BatchId,
        shards: u16,
    ) -> Result<BTreeMap<OperatorId, StateSize>, CheckpointError> {
        let mut sizes: BTreeMap<OperatorId, StateSize> = BTreeMap::new();
        self.visit_shards(query, batch, shards, None, |operator, entries| {
            let size = sizes.entry(operator).or_default();
            size.entries += entries.len() as u64;
            size.bytes += entries.iter().map(|entry| (entry.key.len() + value_of(entry).len()) as u64).sum::<u64>();
            Ok::<_, CheckpointError>(ControlFlow::Continue(()))
        })?;
        Ok(sizes)
    }

    /// Visits the state of an operator after `batch` in all `shards` of the query, by shard and key, some entries at a time,
    /// until `visit` breaks. Most of what is not visited is not read.
    ///
    /// # Errors
    /// The batch is not kept, its checkpoint is damaged, or what `visit` returns.
    pub fn visit_state<E: From<CheckpointError>>(
        &self,
        query: QueryId,
        batch: BatchId,
        shards: u16,
        operator: OperatorId,
        mut visit: impl FnMut(&[DeltaEntry<'_>]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        self.visit_shards(query, batch, shards, Some(operator), |_, entries| visit(entries))
    }

    fn visit_shards<E: From<CheckpointError>>(
        &self,
        query: QueryId,
        batch: BatchId,
        shards: u16,
        operator: Option<OperatorId>,
        mut visit: impl FnMut(OperatorId, &[DeltaEntry<'_>]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let slot = self.slot(query);
        let _reading = slot.files.read();
        let chain = self.chain(query, batch)?;
        // Of all operators everything is wanted; of one perhaps a few entries.
        let first = if operator.is_none() { u16::MAX } else { 1 };
        for shards in stretches(shards, &chain, first) {
            for (operator, bytes) in self.fold_whole(query, &chain, shards, operator)? {
                let delta = |error| CheckpointError::delta(&format!("query {query}"), error);
                let entries = DeltaReader::new(&bytes).map_err(delta)?.collect::<Result<Vec<_>, _>>().map_err(delta)?;
                if visit(operator, &entries)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The value of an entry that is not deleted.
fn value_of<'a>(entry: &DeltaEntry<'a>) -> &'a [u8] {
    entry.value.unwrap_or_default()
}

/// Returns the ranges of shards to read one after the other: `first` shards, then twice as many each time, up to the size of
/// a snapshot part.
fn stretches(end: u16, chain: &Chain, first_step: u16) -> impl Iterator<Item = Range<u16>> {
    let bytes = chain.snapshot.size_bytes() + chain.deltas.iter().map(|(_, body)| body.size_bytes()).sum::<u64>();
    let parts = bytes.div_ceil(CompactionPolicy::default().part_bytes).max(1);
    let most = u16::try_from(u64::from(end).div_ceil(parts)).unwrap_or(u16::MAX).max(1);
    let (mut first, mut step) = (0u16, first_step.min(most));
    std::iter::from_fn(move || {
        let shards = first..end.min(first.saturating_add(step));
        first = shards.end;
        step = step.saturating_mul(2).min(most);
        (!shards.is_empty()).then_some(shards)
    })
}
