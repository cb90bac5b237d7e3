//! Running joins of two inputs by key, with both sides in state: inner, outer, semi, anti and mark.
//!
//! Owns: the rows of both sides in this task's shards, and, for a side that needs it, the number of matches of each
//! row. A row's key in state: side, length of the join key (`u32`), join key, row.
//! Invariants: a batch emits (L+ΔL)⋈(R+ΔR) − L⋈R (DBSP, Budiu et al., VLDB 2023), in an order fixed by keys; a row that
//! no later row can match is evicted. With a TTL, a row without a time bound expires if it was not written for that
//! long, neither by its own change nor by a change of its number of matches. Keys are read and written together, as
//! many as fit in memory.

mod close;
mod pairs;
mod read;
mod rows;
mod view;

use crate::join::JoinSpec;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, new_null_array};
use arrow::compute::{is_not_null, kernels::boolean::and, not};
use highwater_dataflow::JoinOutput;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, NEVER, Writes};
use pairs::emit_pairs;
use read::Reader;
use rows::{Chunk, KeyRows, key_runs};
use std::sync::Arc;
pub use view::reader;

pub struct Join {
    spec: Arc<JoinSpec>,
    codecs: [ChangeCodec; 2],
    input: [Vec<ChangeBatch>; 2],
    /// Rows whose key or time is NULL, which match nothing.
    unmatchable: [Vec<ChangeBatch>; 2],
}

impl Join {
    pub fn new(spec: Arc<JoinSpec>) -> Result<Self, EngineError> {
        let codec = |side: usize| ChangeCodec::new(&spec.sides[side].schema, &spec.sides[side].key);
        Ok(Self { codecs: [codec(0)?, codec(1)?], input: Default::default(), unmatchable: Default::default(), spec })
    }

    /// Removes rows whose key or time is NULL, which match nothing, and keeps them in `unmatchable` if the join shows
    /// them.
    fn matchable(&mut self, side: usize, rows: ChangeBatch) -> Result<ChangeBatch, EngineError> {
        if self.spec.null_equal {
            return Ok(rows);
        }
        let mut keep: Option<BooleanArray> = None;
        // A row without a time is outside every range of times.
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

    /// Joins the changes of both sides, some keys at a time.
    fn join(
        &self,
        changes: [Option<Changes>; 2],
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let (mut chunk, mut reader) = (Chunk::default(), Reader::new(&changes));
        let mut all = key_runs(&changes).peekable();
        while all.peek().is_some() {
            let (mut keys, mut rows) = (Vec::new(), 0);
            while let Some(key) = all.next_if(|_| rows < OUTPUT_ROWS) {
                rows += key.runs[0].len() + key.runs[1].len();
                keys.push(key);
            }
            reader.look_up(&keys, state)?;
            let mut portions = Portions::of(keys.len());
            while let Some(asked) = portions.next() {
                portions.done(reader.collect(&keys[asked], state, &mut chunk)?);
                if chunk.is_full(state.portion_bytes()) {
                    self.settle(std::mem::take(&mut chunk), state, out)?;
                }
            }
        }
        self.settle(chunk, state, out)
    }

    /// Emits the pairs of a chunk, and writes its rows to state.
    fn settle(
        &self,
        mut chunk: Chunk<'_>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if chunk.keys.is_empty() {
            return Ok(());
        }
        let columns = [
            self.codecs[0].rows.decode(chunk.stores[0].bytes())?,
            self.codecs[1].rows.decode(chunk.stores[1].bytes())?,
        ];
        let keys: Vec<&KeyRows> = chunk.keys.iter().map(|(_, _, rows)| rows).collect();
        emit_pairs(&self.spec, &keys, &mut chunk.stores, &columns, &mut |rows| {
            state.charge(rows.batch.get_array_memory_size())?;
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
        chunk: &Chunk<'_>,
        columns: &[ArrayRef],
        state: &mut KeyedState<'_>,
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
        let (mut lonely, mut writes) = (Lonely::default(), Writes::default());
        for (key, shard, rows) in &chunk.keys {
            for place in rows.sides[side].clone() {
                let row = &store.rows[place];
                let (old, new) = (row.old.map_or(0, |old| old.weight), row.weight());
                let (close_ms, due) = match (&closes, row.old) {
                    (Some(closes), _) => {
                        let close_ms = if closes.is_valid(place) { closes.value(place) } else { NEVER };
                        (close_ms, state.closes(close_ms))
                    }
                    // Only read, so its deadline does not change.
                    (None, Some(old)) if (old.weight, old.count) == (new, row.count) => (old.close_ms, false),
                    (None, _) => (state.deadline(), false),
                };
                let was = (old, row.old.is_some_and(|old| old.count > 0));
                self.show(side, place, was, (new, row.count > 0), due, &mut lonely);
                let kept = StoredRow { close_ms, weight: new, count: row.count };
                let gone = new == 0 || due;
                if gone && row.old.is_some() || !gone && row.old != Some(kept) {
                    let value = (!gone).then(|| kept.encode());
                    writes.set(
                        *shard,
                        &[&head(side, key), key, store.row(place)],
                        value.as_ref().map(<[u8; 24]>::as_slice),
                    );
                }
            }
        }
        state.put(&mut writes)?;
        self.emit_lonely(side, columns, store.len(), lonely, out)
    }

    /// Adds to `lonely` the difference in how a row is shown without a match. `was` and `is` are weight and whether it
    /// has matches.
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
            // Only final rows are emitted: when no later row can match them.
            _ if self.spec.on_close => {
                if due && !is.1 {
                    lonely.push(place, is.0, false);
                }
            }
            _ => lonely.push(place, unmatched, false),
        }
    }

    /// Emits rows of one side, with NULLs for the other side or with a mark.
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

    /// Returns the columns of one side in the form of the output.
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
}

impl Stateful for Join {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Itself
    }

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
    }

    fn push(&mut self, port: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        let rows = match &self.spec.sides[port].expiry {
            Some(expiry) => {
                let over_at = expiry.times(&rows.batch)?;
                // A row without a time matches nothing: it is lost unless it is shown without a match.
                let is_shown = self.spec.null_equal || self.spec.output.shows_unmatched(port);
                let untimed = if is_shown { Untimed::Kept } else { Untimed::Dropped };
                late.drop_late(port, rows, &over_at, untimed)?
            }
            None => rows,
        };
        let rows = self.matchable(port, rows)?;
        if rows.num_rows() > 0 {
            self.input[port].push(rows);
        }
        Ok(())
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        state.forget(due)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
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
}

/// Replaces weights by repeated rows.
///
/// # Errors
/// A weight is negative.
pub(crate) fn insert_only(rows: &mut ChangeBatch) -> Result<(), EngineError> {
    let Some(weights) = rows.weights.take() else { return Ok(()) };
    if weights.iter().flatten().all(|weight| weight == 1) {
        return Ok(());
    }
    let mut places = Vec::new();
    for (row, weight) in weights.iter().flatten().enumerate() {
        if weight < 0 {
            return Err(Fault::Retracts("an append-only join").into());
        }
        places.extend(std::iter::repeat_n(row as u32, weight as usize));
    }
    *rows = pick(rows, places)?;
    Ok(())
}

/// Rows of one side that are emitted without the other side.
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

/// Returns the bytes before a join key in state: the side, and the key's length.
fn head(side: usize, key: &[u8]) -> [u8; 5] {
    let [a, b, c, d] = (key.len() as u32).to_be_bytes();
    [side as u8, a, b, c, d]
}
