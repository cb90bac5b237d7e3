//! `OVER (PARTITION BY … ORDER BY …)`, and the first rows of partitions: Top-N, deduplication, LIMIT.
//!
//! Owns: the rows of partitions in this task's shards, in order. A row's key in state: length of the partition
//! (`u32`), partition, order columns, row; its count is the length of the order columns.
//! Invariants: what a batch gives is the partition's rows as they are less those as they were; ties of the order are
//! broken by the rows themselves, so that every process sees the same order; of inputs that take nothing back,
//! rows behind the limit are forgotten. With a TTL a partition expires as a whole when no row of it changed for that
//! long, since the ranks of those that stayed would otherwise shift without being emitted; its deadline has a key of its
//! own: length with the highest bit set, partition. What is made of a partition's rows is counted before it is made.

mod partition;
mod view;

use crate::over::OverSpec;
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, Encoded};
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, NEVER, Values, Writes};
use highwater_functions::size::array_bytes;
use highwater_protocol::ids::ShardId;
use partition::{Entry, deadline_key, is_empty, limited, prefix_of, prune, scan};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
pub use view::reader;

pub struct Over {
    spec: Arc<OverSpec>,
    changes: ChangeCodec,
    order: Codec,
    output: Codec,
    input: Vec<ChangeBatch>,
}

/// The rows that a batch changes.
struct RowChanges {
    changes: Changes,
    orders: Encoded,
    /// When each row's time is over; `None`: never.
    closes: Option<Int64Array>,
}

/// Buffers that are used again for each partition.
#[derive(Default)]
struct Buffers {
    keys: Keys,
    values: Values,
    writes: Writes,
}

/// Rows of many partitions, decoded together.
#[derive(Default)]
struct Rows {
    bytes: Vec<Vec<u8>>,
    /// End of each partition.
    ends: Vec<usize>,
}

impl Rows {
    fn add(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.bytes.extend(std::iter::repeat_n(entry.row.clone(), entry.weight.max(0) as usize));
        }
        self.ends.push(self.bytes.len());
    }

    fn ranges(&self) -> impl Iterator<Item = (usize, usize)> {
        std::iter::once(0).chain(self.ends.iter().copied()).zip(self.ends.iter().copied())
    }
}

impl Over {
    pub fn new(spec: Arc<OverSpec>) -> Result<Self, EngineError> {
        let data_type = |column: usize| spec.input_schema.field(column).data_type().clone();
        Ok(Self {
            changes: ChangeCodec::new(&spec.input_schema, &spec.partition)?,
            order: Codec::sorted(spec.order.iter().map(|(column, options)| (data_type(*column), *options)))?,
            output: Codec::of(&spec.output_schema)?,
            input: Vec::new(),
            spec,
        })
    }

    fn row_changes(&self, changes: Changes) -> Result<RowChanges, EngineError> {
        let columns = changes.batch.columns();
        let ordering: Vec<ArrayRef> = self.spec.order.iter().map(|(column, _)| columns[*column].clone()).collect();
        let orders = self.order.encode(&ordering, changes.batch.num_rows())?;
        let closes = match &self.spec.expiry {
            Some(expiry) => Some(expiry.times(&changes.batch)?),
            None => None,
        };
        Ok(RowChanges { changes, orders, closes })
    }

    fn update(
        &self,
        rows: &RowChanges,
        state: &mut KeyedState<'_>,
        touched: &mut BTreeMap<Vec<u8>, ShardId>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let mut buffers = Buffers::default();
        let (mut old, mut new) = (Rows::default(), Rows::default());
        let mut making = 0;
        for run in rows.changes.runs() {
            let key = rows.changes.key(run.start);
            let (shard, prefix) = (state.shard_of(key), prefix_of(key));
            let before = scan(state, shard, &prefix, self.spec.limit)?;
            making += self.reserve(&before, state)?;
            self.write(rows, run, (shard, &prefix), state, &mut buffers)?;
            let after = scan(state, shard, &prefix, self.spec.limit)?;
            making += self.reserve(&after, state)?;
            if !self.spec.input_retracts && self.spec.limit.is_some() {
                prune(state, shard, &prefix, &after, &mut buffers.writes)?;
                state.put(&mut buffers.writes)?;
            }
            if state.expires() {
                let deadline = StoredRow { close_ms: state.deadline(), weight: 0, count: 0 }.encode();
                let lives = !is_empty(state, shard, &prefix)?;
                buffers.writes.set(shard, &[&deadline_key(&prefix)], lives.then_some(&deadline));
                state.put(&mut buffers.writes)?;
            }
            touched.insert(prefix, shard);
            if !self.spec.on_close && before != after {
                old.add(&limited(before, self.spec.limit));
                new.add(&limited(after, self.spec.limit));
            }
            if new.bytes.len() + old.bytes.len() > OUTPUT_ROWS {
                self.emit(&std::mem::take(&mut old), &std::mem::take(&mut new), state, out)?;
            }
            if new.bytes.is_empty() && old.bytes.is_empty() {
                state.take_back(std::mem::take(&mut making));
            }
        }
        self.emit(&old, &new, state, out)?;
        state.take_back(making);
        Ok(())
    }

    /// Writes what changes in one partition.
    fn write(
        &self,
        rows: &RowChanges,
        run: Range<usize>,
        (shard, prefix): (ShardId, &[u8]),
        state: &mut KeyedState<'_>,
        Buffers { keys, values, writes }: &mut Buffers,
    ) -> Result<(), EngineError> {
        let RowChanges { changes, orders, closes } = rows;
        keys.clear();
        for change in run.clone() {
            let order = orders.row(changes.index(change) as usize);
            keys.push(shard, &[prefix, order, changes.row(change)]);
        }
        state.get(keys, values)?;
        for (place, change) in run.enumerate() {
            let row = changes.index(change) as usize;
            let before = StoredRow::weight_of(values.get(place))?;
            let weight = state.weight("over", before + changes.weight(change))?;
            let close_ms = closes.as_ref().filter(|c| c.is_valid(row)).map_or(NEVER, |c| c.value(row));
            let kept = StoredRow { close_ms, weight, count: orders.row(row).len() as i64 }.encode();
            writes.set(shard, &[keys.get(place).1], (weight > 0).then_some(&kept));
        }
        state.put(writes)
    }

    /// Counts what is made of a partition's rows until they are emitted: they are copied, decoded, put together with the
    /// functions' columns and encoded again. Returns the bytes.
    fn reserve(&self, rows: &[Entry], state: &mut KeyedState<'_>) -> Result<usize, EngineError> {
        const COPIES: usize = 4;
        let bytes = partition::size_bytes(rows, self.spec.limit).saturating_mul(COPIES);
        state.charge(bytes)?;
        Ok(bytes)
    }

    /// Rows with the functions' columns.
    fn shaped(&self, rows: &Rows, state: &mut KeyedState<'_>) -> Result<Option<RecordBatch>, EngineError> {
        if rows.bytes.is_empty() {
            return Ok(None);
        }
        let columns = self.changes.rows.decode(rows.bytes.iter().map(Vec::as_slice))?;
        let all = batch(&self.spec.input_schema, columns, rows.bytes.len())?;
        let mut shaped: Vec<ArrayRef> = all.columns()[..self.spec.width].to_vec();
        let mut made = 0;
        for function in &self.spec.functions {
            let mut parts = Vec::new();
            for (start, end) in rows.ranges().filter(|(start, end)| start < end) {
                let rows = all.slice(start, end - start);
                if let Some(most) = gathered_bytes(function.as_ref(), &rows)? {
                    // Counted before it is made: every row has what is in its frame.
                    state.charge(most)?;
                    state.take_back(most);
                }
                let values = function.evaluate(&rows)?;
                made += array_bytes(&values);
                state.charge(array_bytes(&values))?;
                parts.push(values);
            }
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            shaped.push(concat(&parts)?);
        }
        state.take_back(made);
        Ok(Some(batch(&self.spec.output_schema, shaped, rows.bytes.len())?))
    }

    /// The difference of partitions as they were and as they are.
    fn emit(
        &self,
        old: &Rows,
        new: &Rows,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let (was, is) = (self.shaped(old, state)?, self.shaped(new, state)?);
        let encode = |rows: &Option<RecordBatch>| match rows {
            Some(rows) => self.output.encode(rows.columns(), rows.num_rows()).map(Some),
            None => Ok(None),
        };
        let (was_bytes, is_bytes) = (encode(&was)?, encode(&is)?);
        let (mut gone, mut come): (Vec<u32>, Vec<u32>) = Default::default();
        for ((old_start, old_end), (new_start, new_end)) in old.ranges().zip(new.ranges()) {
            let mut places: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
            if let Some(bytes) = &was_bytes {
                (old_start..old_end).for_each(|row| places.entry(bytes.row(row)).or_default().push(row as u32));
            }
            if let Some(bytes) = &is_bytes {
                for row in new_start..new_end {
                    if places.get_mut(bytes.row(row)).and_then(Vec::pop).is_none() {
                        come.push(row as u32);
                    }
                }
            }
            gone.extend(places.into_values().flatten());
        }
        for (rows, places, weight) in [(was, gone, -1), (is, come, 1)] {
            if let Some(rows) = rows.filter(|_| !places.is_empty()) {
                let weights = Some(Int64Array::from(vec![weight; places.len()]));
                let emitted = ChangeBatch { batch: pick(&ChangeBatch::inserts(rows), places)?.batch, weights };
                state.charge(emitted.size_bytes())?;
                out.push(emitted);
            }
        }
        Ok(())
    }

    /// Partitions whose time is over: emitted now, if final rows are wanted, and forgotten.
    fn close(
        &self,
        touched: BTreeMap<Vec<u8>, ShardId>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if state.close_before_ms().is_none() {
            return Ok(());
        }
        let mut over: BTreeSet<(ShardId, Vec<u8>)> = BTreeSet::new();
        for (shard, key) in state.closing()?.iter() {
            over.insert((shard, partition::prefix_in(key)?.to_vec()));
        }
        for (prefix, shard) in touched {
            if partition::first_close(state, shard, &prefix)?.is_some_and(|close_ms| state.closes(close_ms)) {
                over.insert((shard, prefix));
            }
        }
        let (mut rows, mut writes) = (Rows::default(), Writes::default());
        for (shard, prefix) in over {
            let all = scan(state, shard, &prefix, None)?;
            let making = if self.spec.on_close { self.reserve(&all, state)? } else { 0 };
            all.iter().for_each(|entry| writes.delete(shard, &[&entry.key]));
            state.put(&mut writes)?;
            if self.spec.on_close {
                let first = partition::first(all, self.spec.limit);
                rows.add(&limited(first, self.spec.limit));
            }
            if rows.bytes.len() > OUTPUT_ROWS {
                self.emit_final(&std::mem::take(&mut rows), state, out)?;
            }
            state.take_back(making);
        }
        self.emit_final(&rows, state, out)
    }

    fn emit_final(
        &self,
        rows: &Rows,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if let Some(rows) = self.shaped(rows, state)?.map(ChangeBatch::inserts) {
            state.charge(rows.size_bytes())?;
            out.push(rows);
        }
        Ok(())
    }
}

/// What a function that gathers all values of a frame may make of a partition, bytes; `None`: it gives one value a row.
fn gathered_bytes(function: &dyn WindowExpr, rows: &RecordBatch) -> Result<Option<usize>, EngineError> {
    let (plain, sliding) = (
        function.as_any().downcast_ref::<PlainAggregateWindowExpr>(),
        function.as_any().downcast_ref::<SlidingAggregateWindowExpr>(),
    );
    let aggregate =
        plain.map(|plain| plain.get_aggregate_expr()).or(sliding.map(|sliding| sliding.get_aggregate_expr()));
    if aggregate.is_none_or(|aggregate| !matches!(aggregate.fun().name(), "array_agg" | "string_agg")) {
        return Ok(None);
    }
    let values = function.evaluate_args(rows)?.first().map_or(0, array_bytes);
    Ok(Some(values.saturating_mul(frame_rows(function.get_window_frame()).min(rows.num_rows()))))
}

/// Rows of a frame at most.
fn frame_rows(frame: &WindowFrame) -> usize {
    let away = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(rows)))
        | WindowFrameBound::Following(ScalarValue::UInt64(Some(rows))) => usize::try_from(*rows).ok(),
        _ => None,
    };
    let both = away(&frame.start_bound).zip(away(&frame.end_bound)).filter(|_| frame.units == WindowFrameUnits::Rows);
    both.map_or(usize::MAX, |(before, after)| before.saturating_add(after).saturating_add(1))
}

impl Stateful for Over {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Itself
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        let rows = match &self.spec.expiry {
            Some(expiry) => {
                let over_at = expiry.times(&rows.batch)?;
                late.drop_late(0, rows, &over_at, Untimed::Kept)?
            }
            None => rows,
        };
        if rows.num_rows() > 0 {
            self.input.push(rows);
        }
        Ok(())
    }

    /// Partitions in which nothing changed for the TTL go as a whole.
    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        let (mut rows, mut deadlines) = (Keys::default(), Writes::default());
        for (shard, key) in due.iter() {
            for entry in scan(state, shard, &partition::of_deadline(key)?, None)? {
                rows.push(shard, &[&entry.key]);
            }
            deadlines.delete(shard, &[key]);
        }
        state.forget(&rows)?;
        state.put(&mut deadlines)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let mut touched = BTreeMap::new();
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&self.row_changes(changes)?, state, &mut touched, out)?;
        }
        self.close(touched, state, out)
    }
}
