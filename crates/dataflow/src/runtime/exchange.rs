//! Routes rows by key hash to the tasks that own their shards.
//!
//! Owns: splitting batches by shard. Invariant: rows of one shard keep their order.

use super::keys::{Codec, normalize, shard_of};
use super::pipeline::batch;
use super::split::pieces;
use super::{BatchContext, Emit};
use crate::Edge;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use highwater_protocol::ids::{EdgeId, ShardId};

pub struct Router {
    edge: EdgeId,
    key: Vec<usize>,
    codec: Codec,
    shards: u16,
    /// First shard of each receiving task or lane, ascending.
    receivers: Vec<ShardId>,
}

impl Router {
    pub fn new(edge: &Edge, context: &BatchContext) -> Result<Self, EngineError> {
        Self::to(edge, context.shards, context.receivers.get(&edge.id).cloned().unwrap_or_default())
    }

    /// Returns a router to receivers with these first shards, ascending.
    pub fn to(edge: &Edge, shards: u16, receivers: Vec<ShardId>) -> Result<Self, EngineError> {
        Ok(Self {
            edge: edge.id,
            key: edge.key.clone(),
            codec: Codec::new(edge.key.iter().map(|column| edge.schema.field(*column).data_type()))?,
            shards,
            receivers,
        })
    }

    pub fn route(&self, rows: &ChangeBatch, out: &mut Vec<Emit>) -> Result<(), EngineError> {
        let first = self.receivers.first().copied().unwrap_or_default();
        if self.receivers.len() <= 1 || self.key.is_empty() {
            self.emit(first, rows.clone(), out);
            return Ok(());
        }
        let columns: Vec<ArrayRef> =
            self.key.iter().map(|column| normalize(rows.batch.column(*column).clone())).collect();
        let keys = self.codec.encode(&columns, rows.num_rows())?;
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); self.receivers.len()];
        for row in 0..keys.len() {
            let shard = shard_of(keys.row(row), self.shards);
            let place = self.receivers.partition_point(|first| *first <= shard).saturating_sub(1);
            places[place].push(row as u32);
        }
        for (place, rows_of_place) in places.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let rows = pick(rows, rows_of_place)?;
            self.emit(self.receivers[place], rows, out);
        }
        Ok(())
    }

    fn emit(&self, shard: ShardId, rows: ChangeBatch, out: &mut Vec<Emit>) {
        out.extend(pieces(rows).into_iter().map(|rows| Emit::Exchange { edge: self.edge, shard, rows }));
    }
}

/// Returns the rows with these indexes, in the order of the indexes.
pub fn pick(rows: &ChangeBatch, indexes: Vec<u32>) -> Result<ChangeBatch, EngineError> {
    let indexes = UInt32Array::from(indexes);
    let columns = rows.batch.columns().iter().map(|column| Ok(take(column, &indexes, None)?));
    // The number of rows is passed, since rows may have no columns.
    let batch = batch(&rows.batch.schema(), columns.collect::<Result<_, EngineError>>()?, indexes.len())?;
    let weights = match &rows.weights {
        Some(weights) => take(weights, &indexes, None)?.as_any().downcast_ref::<Int64Array>().cloned(),
        None => None,
    };
    Ok(ChangeBatch { batch, weights })
}
