//! How many writers each sink of a query may have in use.
//!
//! Owns: the stored numbers. Invariant: they only grow, and are durable before a writer is used for the first time; so
//! after a crash of all processes every writer that may have an open transaction is known.

use crate::error::CheckpointError;
use crate::head::HeadOp;
use crate::keys::HeadKey;
use crate::store::CheckpointStore;
use crate::values::{self, decode};
use highwater_protocol::ids::{Epoch, QueryId, SinkId};
use std::collections::BTreeMap;

impl CheckpointStore {
    /// Stores durably how many writers each sink may have in use. Numbers never shrink.
    pub fn reserve_writers(
        &self,
        epoch: Epoch,
        query: QueryId,
        counts: &BTreeMap<SinkId, u32>,
    ) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let mut all = self.reserved_writers(query)?;
        for (sink, count) in counts {
            let known = all.entry(*sink).or_default();
            *known = (*known).max(*count);
        }
        let ops =
            [HeadOp::ExpectPresent(HeadKey::Spec(query)), HeadOp::Put(HeadKey::Writers(query), values::encode(&all)?)];
        self.transact(epoch, query, &ops)
    }

    /// Returns the numbers as last stored; empty if none were.
    pub fn reserved_writers(&self, query: QueryId) -> Result<BTreeMap<SinkId, u32>, CheckpointError> {
        let key = HeadKey::Writers(query);
        let value = self.inner.heads.get(&key)?;
        Ok(value.map(|value| decode(&key, &value)).transpose()?.unwrap_or_default())
    }
}
