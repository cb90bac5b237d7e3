//! Joins of two inputs by key, both kept: inner, outer, semi, anti and mark.
//!
//! Owns: the rows of both sides in this task's shards, and per row of a side whose unmatched rows count, how many
//! rows match it. A row's key in state: side, length of the join key (`u32`), join key, row.
//! Invariants: what a batch gives is (L+ΔL)⋈(R+ΔR) − L⋈R (DBSP, Budiu et al., VLDB 2023), in an order fixed by keys; a
//! row that can match nothing any more leaves the state. With a TTL, so does each row that no time bounds and that was
//! not written for that long: by its own change, or by a change of how many rows match it where that is kept.

mod pairs;
mod rows;

use crate::changelog::ChangeBatch;
use crate::dataflow::JoinOutput;
use crate::error::EngineError;
use crate::operators::join::JoinSpec;
use crate::runtime::BatchContext;
use crate::runtime::changes::{ChangeCodec, Changes};
use crate::runtime::exchange::pick;
use crate::runtime::keys::shard_of;
use crate::runtime::late::Late;
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::stored_row::StoredRow;
use crate::runtime::ttl::Ttl;
use crate::state::{NEVER, TaskState};
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, new_null_array};
use arrow::compute::{is_not_null, kernels::boolean::and, not};
use highwater_protocol::ids::{OperatorId, ShardId};
use pairs::emit_pairs;
use rows::{KeyRows, Store, collect};
use std::sync::Arc;

/// Pairs looked at before their rows are written to state.
const CHUNK_PAIRS: usize = 1 << 16;

pub struct Join {
    operator: OperatorId,
    spec: Arc<JoinSpec>,
    shards: u16,
    late_before_ms: Option<i64>,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    codecs: [ChangeCodec; 2],
    input: [Vec<ChangeBatch>; 2],
    /// Rows whose key or time is NULL: they match nothing.
    unmatchable: [Vec<ChangeBatch>; 2],
    late: Late,
}

impl Join {
    pub fn new(operator: OperatorId, spec: Arc<JoinSpec>, context: &BatchContext) -> Result<Self, EngineError> {
        let codec = |side: usize| ChangeCodec::new(&spec.sides[side].schema, &spec.sides[side].key);
        let bounded = spec.sides.iter().any(|side| side.expiry.is_some());
        Ok(Self {
            operator,
            shards: context.shards,
            ttl: Ttl::of(operator, context),
            late_before_ms: BatchContext::least(&context.late_before, &spec.watermark).filter(|_| bounded),
            close_before_ms: BatchContext::least(&context.close_before, &spec.watermark).filter(|_| bounded),
            codecs: [codec(0)?, codec(1)?],
            input: Default::default(),
            unmatchable: Default::default(),
            late: Late::default(),
            spec,
        })
    }

    /// Without rows whose time is over.
    fn in_time(&mut self, side: usize, rows: ChangeBatch) -> Result<ChangeBatch, EngineError> {
        let (Some(expiry), Some(late_before)) = (&self.spec.sides[side].expiry, self.late_before_ms) else {
            return Ok(rows);
        };
        let closes = expiry.times(&rows.batch)?;
        let keep: BooleanArray =
            closes.iter().map(|close| Some(close.is_none_or(|close| close > late_before))).collect();
        self.late.drop_from(side, rows, &keep, (self.operator, self.late_before_ms), &closes)
    }

    /// Sets aside rows that can match nothing because their key or their time is NULL.
    fn matchable(&mut self, side: usize, rows: ChangeBatch) -> Result<ChangeBatch, EngineError> {
        if self.spec.null_equal {
            return Ok(rows);
        }
        let mut keep: Option<BooleanArray> = None;
        // A row without a time is within no range of time.
        let side_spec = &self.spec.sides[side];
        for column in side_spec.key.iter().copied().chain(side_spec.expiry.map(|expiry| expiry.column)) {
            let column = rows.batch.column(column);
            if column.is_nullable() {
                let there = is_not_null(column)?;
                keep = Some(match keep {
                    Some(keep) => and(&keep, &there)?,
                    None => there,
                });
            }
        }
        let Some(keep) = keep.filter(|keep| keep.true_count() < rows.num_rows()) else { return Ok(rows) };
        if self.spec.output.shows_unmatched(side) {
            self.unmatchable[side].push(rows.filter(&not(&keep)?)?);
        }
        rows.filter(&keep)
    }

    /// Joins what both sides change, key by key.
    fn join(
        &self,
        changes: [Option<Changes>; 2],
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let mut at = [0usize; 2];
        let mut chunk = Chunk::default();
        loop {
            let next = |side: usize| changes[side].as_ref().filter(|c| at[side] < c.len()).map(|c| c.key(at[side]));
            let key = match (next(0), next(1)) {
                (None, None) => break,
                (Some(left), Some(right)) => left.min(right),
                (Some(key), None) | (None, Some(key)) => key,
            };
            let mut runs = [0..0, 0..0];
            for side in 0..2 {
                if let Some(all) = &changes[side]
                    && next(side) == Some(key)
                {
                    runs[side] = at[side]..all.key_end(at[side]);
                }
            }
            let shard = shard_of(key, self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            let rows = collect(self.operator, state, shard, key, &changes, &runs, &self.ttl, &mut chunk.stores)?;
            chunk.pairs += rows.pairs();
            chunk.keys.push((key.to_vec(), shard, rows));
            for side in 0..2 {
                at[side] = at[side].max(runs[side].end);
            }
            if chunk.pairs >= CHUNK_PAIRS || chunk.stores.iter().any(|store| store.len() >= CHUNK_PAIRS) {
                self.settle(std::mem::take(&mut chunk), state, out)?;
            }
        }
        self.settle(chunk, state, out)
    }

    /// Gives the pairs of a chunk, and writes its rows to state.
    fn settle(&self, mut chunk: Chunk, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        if chunk.keys.is_empty() {
            return Ok(());
        }
        let columns = [
            self.codecs[0].rows.decode(chunk.stores[0].bytes())?,
            self.codecs[1].rows.decode(chunk.stores[1].bytes())?,
        ];
        let keys: Vec<&KeyRows> = chunk.keys.iter().map(|(_, _, rows)| rows).collect();
        let mut charge = |rows: &ChangeBatch| state.charge(self.operator, rows.batch.get_array_memory_size());
        emit_pairs(&self.spec, &keys, &mut chunk.stores, &columns, &mut |rows| {
            charge(&rows)?;
            out.push(rows);
            Ok(())
        })?;
        for (side, columns) in columns.iter().enumerate() {
            self.settle_side(side, &chunk, columns, state, out)?;
        }
        Ok(())
    }

    fn settle_side(
        &self,
        side: usize,
        chunk: &Chunk,
        columns: &[ArrayRef],
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let store = &chunk.stores[side];
        let closes = match &self.spec.sides[side].expiry {
            Some(expiry) if store.len() > 0 => {
                let rows = batch(&self.spec.sides[side].schema, columns.to_vec(), store.len())?;
                Some(expiry.times(&rows)?)
            }
            _ => None,
        };
        let mut lonely = Lonely::default();
        for (key, shard, rows) in &chunk.keys {
            for place in rows.sides[side].clone() {
                let row = &store.rows[place];
                let (old, new) = (row.old.map_or(0, |old| old.weight), row.weight());
                let (close_ms, due) = match (&closes, row.old) {
                    (Some(closes), _) => {
                        let close_ms = if closes.is_valid(place) { closes.value(place) } else { NEVER };
                        (close_ms, self.close_before_ms.is_some_and(|before| close_ms <= before))
                    }
                    // Looked at, not written.
                    (None, Some(old)) if (old.weight, old.count) == (new, row.count) => (old.close_ms, false),
                    (None, _) => (self.ttl.deadline(), false),
                };
                let was = (old, row.old.is_some_and(|old| old.count > 0));
                self.show(side, place, was, (new, row.count > 0), due, &mut lonely);
                let kept = StoredRow { close_ms, weight: new, count: row.count };
                let gone = new == 0 || due;
                if gone && row.old.is_some() || !gone && row.old != Some(kept) {
                    let value = (!gone).then(|| kept.encode());
                    state.put(self.operator, *shard, &state_key(side, key, &row.bytes), value);
                }
            }
        }
        self.emit_lonely(side, columns, store.len(), lonely, out)
    }

    /// What a side shows of a row by itself, as a difference.
    fn show(&self, side: usize, place: usize, was: (i64, bool), is: (i64, bool), due: bool, lonely: &mut Lonely) {
        let place = place as u32;
        let (mut unmatched, mut matched) = (0, 0);
        for ((weight, has_match), sign) in [(was, -1), (is, 1)] {
            match has_match {
                true => matched += sign * weight,
                false => unmatched += sign * weight,
            }
        }
        match self.spec.output {
            JoinOutput::Mark if side == 0 => {
                lonely.push(place, unmatched, false);
                lonely.push(place, matched, true);
            }
            JoinOutput::Semi if side == 0 => lonely.push(place, matched, true),
            _ if !self.spec.output.shows_unmatched(side) => {}
            // Final rows only: once nothing can match it any more.
            _ if self.spec.on_close => {
                if due && !is.1 {
                    lonely.push(place, is.0, false);
                }
            }
            _ => lonely.push(place, unmatched, false),
        }
    }

    /// Gives rows of one side, with NULLs for the other or a mark.
    fn emit_lonely(
        &self,
        side: usize,
        columns: &[ArrayRef],
        rows: usize,
        lonely: Lonely,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if lonely.places.is_empty() {
            return Ok(());
        }
        let all = batch(&self.spec.sides[side].schema, columns.to_vec(), rows)?;
        for start in (0..lonely.places.len()).step_by(OUTPUT_ROWS) {
            let end = lonely.places.len().min(start + OUTPUT_ROWS);
            let picked = pick(&ChangeBatch::inserts(all.clone()), lonely.places[start..end].to_vec())?;
            let marks = BooleanArray::from(lonely.marks[start..end].to_vec());
            let batch = self.shape(side, picked.batch.columns(), end - start, marks)?;
            out.push(ChangeBatch { batch, weights: Some(Int64Array::from(lonely.weights[start..end].to_vec())) });
        }
        Ok(())
    }

    /// Columns of one side as the output has them.
    fn shape(
        &self,
        side: usize,
        columns: &[ArrayRef],
        rows: usize,
        marks: BooleanArray,
    ) -> Result<arrow::array::RecordBatch, EngineError> {
        let own = columns[..self.spec.sides[side].width].iter().cloned();
        let mut shaped: Vec<ArrayRef> = Vec::new();
        match self.spec.output {
            JoinOutput::Pairs { .. } => {
                let other = &self.spec.sides[1 - side];
                let nulls = other.schema.fields().iter().take(other.width).map(|f| new_null_array(f.data_type(), rows));
                match side {
                    0 => shaped.extend(own.chain(nulls)),
                    _ => shaped.extend(nulls.chain(own)),
                }
            }
            JoinOutput::Mark => {
                shaped.extend(own);
                shaped.push(Arc::new(marks));
            }
            JoinOutput::Semi | JoinOutput::Anti => shaped.extend(own),
        }
        batch(&self.spec.output_schema, shaped, rows)
    }

    /// Rows that no row of this batch touched and that can match nothing any more.
    fn close_untouched(&self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let Some(close_before) = self.close_before_ms else { return Ok(()) };
        let due: Vec<(ShardId, Box<[u8]>)> = state.due(self.operator, close_before);
        for due in due.chunks(OUTPUT_ROWS) {
            let mut lonely: [(Vec<Vec<u8>>, Vec<i64>); 2] = Default::default();
            for (shard, key) in due {
                let (side, row) = split_key(key)?;
                if self.spec.on_close && self.spec.output.shows_unmatched(side) {
                    let mut value = Vec::new();
                    state.read(self.operator, *shard, key, &mut value);
                    let kept = StoredRow::decode(&value)?;
                    if kept.count == 0 {
                        lonely[side].0.push(row.to_vec());
                        lonely[side].1.push(kept.weight);
                    }
                }
                state.put(self.operator, *shard, key, None);
            }
            for (side, (rows, weights)) in lonely.into_iter().enumerate().filter(|(_, (rows, _))| !rows.is_empty()) {
                let columns = self.codecs[side].rows.decode(rows.iter().map(Vec::as_slice))?;
                let marks = vec![false; rows.len()];
                let places = (0..rows.len() as u32).collect();
                self.emit_lonely(side, &columns, rows.len(), Lonely { places, weights, marks }, out)?;
            }
        }
        Ok(())
    }
}

impl Stateful for Join {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn counts_output(&self) -> bool {
        true
    }

    fn push(&mut self, port: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        let rows = self.in_time(port, rows)?;
        let rows = self.matchable(port, rows)?;
        if rows.num_rows() > 0 {
            self.input[port].push(rows);
        }
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.ttl.forget_due(state);
        let [left, right] = std::mem::take(&mut self.input);
        let changes = [self.codecs[0].consolidate(&left)?, self.codecs[1].consolidate(&right)?];
        self.join(changes, state, out)?;
        self.close_untouched(state, out)?;
        for (side, rows) in std::mem::take(&mut self.unmatchable).into_iter().enumerate() {
            for rows in rows {
                let marks = BooleanArray::from(vec![false; rows.num_rows()]);
                let batch = self.shape(side, rows.batch.columns(), rows.num_rows(), marks)?;
                out.push(ChangeBatch { batch, weights: rows.weights });
            }
        }
        out.retain(|rows| rows.num_rows() > 0);
        if !self.spec.retracts {
            out.iter_mut().try_for_each(insert_only)?;
        }
        Ok(())
    }

    fn late(&mut self) -> Option<&mut Late> {
        Some(&mut self.late)
    }

    fn late_rows(&self) -> u64 {
        self.late.count()
    }

    fn ttl(&self) -> Option<&Ttl> {
        Some(&self.ttl)
    }
}

/// Rows without weights, each as often as its weight says.
pub(crate) fn insert_only(rows: &mut ChangeBatch) -> Result<(), EngineError> {
    let Some(weights) = rows.weights.take() else { return Ok(()) };
    if weights.iter().flatten().all(|weight| weight == 1) {
        return Ok(());
    }
    let mut places = Vec::new();
    for (row, weight) in weights.iter().flatten().enumerate() {
        if weight < 0 {
            return Err(EngineError::Internal("an append-only join takes a row back".into()));
        }
        places.extend(std::iter::repeat_n(row as u32, weight as usize));
    }
    *rows = pick(rows, places)?;
    Ok(())
}

/// Keys whose pairs are emitted together.
#[derive(Default)]
struct Chunk {
    keys: Vec<(Vec<u8>, ShardId, KeyRows)>,
    stores: [Store; 2],
    pairs: usize,
}

/// Rows of one side that are emitted without the other.
#[derive(Default)]
struct Lonely {
    places: Vec<u32>,
    weights: Vec<i64>,
    marks: Vec<bool>,
}

impl Lonely {
    fn push(&mut self, place: u32, weight: i64, mark: bool) {
        if weight != 0 {
            self.places.push(place);
            self.weights.push(weight);
            self.marks.push(mark);
        }
    }
}

/// What all rows of a side under one join key begin with in state.
fn state_prefix(side: usize, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + key.len());
    bytes.push(side as u8);
    bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

fn state_key(side: usize, key: &[u8], row: &[u8]) -> Vec<u8> {
    let mut bytes = state_prefix(side, key);
    bytes.extend_from_slice(row);
    bytes
}

/// Side and row of a key in state.
fn split_key(bytes: &[u8]) -> Result<(usize, &[u8]), EngineError> {
    let split = || {
        let (side, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        Some((usize::from(*side), rest.get(u32::from_be_bytes(*length) as usize..)?))
    };
    split().filter(|(side, _)| *side < 2).ok_or_else(|| EngineError::Internal("a join's key is cut off".into()))
}
