//! The net changes of a batch: rows by key, each with the sum of its weights.
//!
//! Owns: consolidation of deltas (DBSP, Budiu et al., VLDB 2023, section 5). Invariants: changes are sorted by key,
//! then by row; none has weight zero; equal input in any order gives equal changes.

use super::keys::{Codec, Encoded, normalize};
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use std::ops::Range;

/// Encodes the rows of one input and their keys.
#[derive(Debug)]
pub struct ChangeCodec {
    schema: SchemaRef,
    key: Vec<usize>,
    pub keys: Codec,
    pub rows: Codec,
}

/// Net changes, sorted by key and row.
pub struct Changes {
    pub batch: RecordBatch,
    keys: Encoded,
    rows: Encoded,
    /// Row of `batch` and net weight, sorted by key and row.
    net: Vec<(u32, i64)>,
}

impl ChangeCodec {
    /// Returns the codec of rows of `schema`. `key` is a list of its columns.
    pub fn new(schema: &SchemaRef, key: &[usize]) -> Result<Self, EngineError> {
        Ok(Self {
            schema: schema.clone(),
            key: key.to_vec(),
            keys: Codec::new(key.iter().map(|column| schema.field(*column).data_type()))?,
            rows: Codec::of(schema)?,
        })
    }

    /// Returns the net changes of this input; `None` if there are none.
    pub fn consolidate(&self, input: &[ChangeBatch]) -> Result<Option<Changes>, EngineError> {
        let Some(all) = ChangeBatch::concat(&self.schema, input)? else { return Ok(None) };
        let count = all.num_rows();
        let key: Vec<ArrayRef> = self.key.iter().map(|c| normalize(all.batch.column(*c).clone())).collect();
        let keys = self.keys.encode(&key, count)?;
        let rows = self.rows.encode(all.batch.columns(), count)?;
        let mut order: Vec<u32> = (0..count as u32).collect();
        let at = |row: u32| (keys.row(row as usize), rows.row(row as usize));
        order.sort_unstable_by(|a, b| at(*a).cmp(&at(*b)).then(a.cmp(b)));
        let mut net: Vec<(u32, i64)> = Vec::with_capacity(count);
        for row in order {
            let weight = all.weight(row as usize);
            match net.last_mut() {
                Some((last, sum)) if at(*last) == at(row) => *sum += weight,
                _ => net.push((row, weight)),
            }
        }
        net.retain(|(_, weight)| *weight != 0);
        Ok((!net.is_empty()).then_some(Changes { batch: all.batch, keys, rows, net }))
    }
}

impl Changes {
    /// Returns the number of changes, at least one.
    #[expect(clippy::len_without_is_empty, reason = "there are none without a change")]
    pub fn len(&self) -> usize {
        self.net.len()
    }

    pub fn key(&self, change: usize) -> &[u8] {
        self.keys.row(self.net[change].0 as usize)
    }

    pub fn row(&self, change: usize) -> &[u8] {
        self.rows.row(self.net[change].0 as usize)
    }

    pub fn weight(&self, change: usize) -> i64 {
        self.net[change].1
    }

    /// Returns the row of the change in `batch`.
    pub fn index(&self, change: usize) -> u32 {
        self.net[change].0
    }

    /// Returns the runs of changes that share a key, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at;
            (start < self.len()).then(|| {
                at = self.key_end(start);
                start..at
            })
        })
    }

    /// Returns the exclusive end of the run of changes that share the key of `start`.
    pub fn key_end(&self, start: usize) -> usize {
        let key = self.key(start);
        (start + 1..self.len()).find(|at| self.key(*at) != key).unwrap_or(self.len())
    }
}
