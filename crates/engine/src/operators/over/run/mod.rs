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

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::operators::over::OverSpec;
use crate::runtime::BatchContext;
use crate::runtime::changes::{ChangeCodec, Changes};
use crate::runtime::exchange::pick;
use crate::runtime::keys::{Codec, shard_of};
use crate::runtime::late::Late;
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::stored_row::StoredRow;
use crate::runtime::ttl::Ttl;
use crate::state::{NEVER, TaskState};
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::concat;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr};
use highwater_functions::size::array_bytes;
use highwater_protocol::ids::{OperatorId, ShardId};
use partition::{Entry, deadline_key, is_empty, limited, prefix_of, prune, scan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct Over {
    operator: OperatorId,
    spec: Arc<OverSpec>,
    shards: u16,
    late_before_ms: Option<i64>,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    changes: ChangeCodec,
    order: Codec,
    output: Codec,
    input: Vec<ChangeBatch>,
    late: Late,
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
    pub fn new(operator: OperatorId, spec: Arc<OverSpec>, context: &BatchContext) -> Result<Self, EngineError> {
        let data_type = |column: usize| spec.input_schema.field(column).data_type().clone();
        let bounded = spec.expiry.is_some();
        Ok(Self {
            operator,
            shards: context.shards,
            ttl: Ttl::of(operator, context),
            late_before_ms: BatchContext::least(&context.late_before, &spec.watermark).filter(|_| bounded),
            close_before_ms: BatchContext::least(&context.close_before, &spec.watermark).filter(|_| bounded),
            changes: ChangeCodec::new(&spec.input_schema, &spec.partition)?,
            order: Codec::sorted(spec.order.iter().map(|(column, options)| (data_type(*column), *options)))?,
            output: Codec::of(&spec.output_schema)?,
            input: Vec::new(),
            late: Late::default(),
            spec,
        })
    }

    fn update(
        &self,
        changes: &Changes,
        state: &mut TaskState,
        touched: &mut BTreeMap<Vec<u8>, ShardId>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let columns = changes.batch.columns();
        let ordering: Vec<ArrayRef> = self.spec.order.iter().map(|(column, _)| columns[*column].clone()).collect();
        let orders = self.order.encode(&ordering, changes.batch.num_rows())?;
        let closes = match &self.spec.expiry {
            Some(expiry) => Some(expiry.times(&changes.batch)?),
            None => None,
        };
        let (mut old, mut new) = (Rows::default(), Rows::default());
        let (mut at, mut making) = (0, 0);
        while at < changes.len() {
            let end = changes.key_end(at);
            let key = changes.key(at);
            let shard = shard_of(key, self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            let prefix = prefix_of(key);
            let before = scan(self.operator, state, shard, &prefix, self.spec.limit)?;
            making += self.reserve(&before, state)?;
            for change in at..end {
                let row = changes.index(change) as usize;
                let order = orders.row(row);
                let full = [prefix.as_slice(), order, changes.row(change)].concat();
                let mut value = Vec::new();
                let there = state.read(self.operator, shard, &full, &mut value);
                let mut weight = changes.weight(change) + if there { StoredRow::decode(&value)?.weight } else { 0 };
                if weight < 0 {
                    self.ttl.missing("over", weight)?;
                    weight = 0;
                }
                let close_ms = closes.as_ref().filter(|c| c.is_valid(row)).map_or(NEVER, |c| c.value(row));
                let kept = StoredRow { close_ms, weight, count: order.len() as i64 };
                state.put(self.operator, shard, &full, (weight > 0).then(|| kept.encode()));
            }
            let after = scan(self.operator, state, shard, &prefix, self.spec.limit)?;
            making += self.reserve(&after, state)?;
            if !self.spec.input_retracts && self.spec.limit.is_some() {
                prune(self.operator, state, shard, &prefix, &after);
            }
            if self.ttl.is_on() {
                let deadline = StoredRow { close_ms: self.ttl.deadline(), weight: 0, count: 0 };
                let lives = !is_empty(self.operator, state, shard, &prefix);
                state.put(self.operator, shard, &deadline_key(&prefix), lives.then(|| deadline.encode()));
            }
            touched.insert(prefix, shard);
            if !self.spec.on_close && before != after {
                old.add(&limited(before, self.spec.limit));
                new.add(&limited(after, self.spec.limit));
            }
            at = end;
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

    /// Counts what is made of a partition's rows until they are emitted: they are copied, decoded, put together with the
    /// functions' columns and encoded again. Returns the bytes.
    fn reserve(&self, rows: &[Entry], state: &mut TaskState) -> Result<usize, EngineError> {
        const COPIES: usize = 4;
        let bytes = partition::size_bytes(rows, self.spec.limit).saturating_mul(COPIES);
        state.charge(self.operator, bytes)?;
        Ok(bytes)
    }

    /// Rows with the functions' columns.
    fn shaped(&self, rows: &Rows, state: &mut TaskState) -> Result<Option<RecordBatch>, EngineError> {
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
                    state.charge(self.operator, most)?;
                    state.take_back(most);
                }
                let values = function.evaluate(&rows)?;
                made += array_bytes(&values);
                state.charge(self.operator, array_bytes(&values))?;
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
        state: &mut TaskState,
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
                state.charge(self.operator, emitted.size_bytes())?;
                out.push(emitted);
            }
        }
        Ok(())
    }

    /// Partitions in which nothing changed for the TTL.
    fn expire(&self, state: &mut TaskState) -> Result<(), EngineError> {
        for (shard, key) in self.ttl.due(state) {
            let prefix = partition::of_deadline(&key)?;
            for entry in scan(self.operator, state, shard, &prefix, None)? {
                self.ttl.forget(state, shard, &entry.key);
            }
            state.put(self.operator, shard, &key, None);
        }
        Ok(())
    }

    /// Partitions whose time is over: emitted now, if final rows are wanted, and forgotten.
    fn close(
        &self,
        touched: BTreeMap<Vec<u8>, ShardId>,
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let Some(close_before) = self.close_before_ms else { return Ok(()) };
        let mut over: BTreeSet<(ShardId, Vec<u8>)> = BTreeSet::new();
        for (shard, key) in state.due(self.operator, close_before) {
            over.insert((shard, partition::prefix_in(&key)?.to_vec()));
        }
        for (prefix, shard) in touched {
            let first = scan(self.operator, state, shard, &prefix, None)?.into_iter().next();
            if first.is_some_and(|entry| entry.close_ms <= close_before) {
                over.insert((shard, prefix));
            }
        }
        let mut rows = Rows::default();
        for (shard, prefix) in over {
            let all = scan(self.operator, state, shard, &prefix, None)?;
            let making = if self.spec.on_close { self.reserve(&all, state)? } else { 0 };
            for entry in &all {
                state.put(self.operator, shard, &entry.key, None);
            }
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

    fn emit_final(&self, rows: &Rows, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        if let Some(rows) = self.shaped(rows, state)?.map(ChangeBatch::inserts) {
            state.charge(self.operator, rows.size_bytes())?;
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
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn counts_output(&self) -> bool {
        true
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        let mut rows = rows;
        if let (Some(expiry), Some(late_before)) = (&self.spec.expiry, self.late_before_ms) {
            let times = expiry.times(&rows.batch)?;
            let keep: BooleanArray =
                times.iter().map(|time| Some(time.is_none_or(|time| time > late_before))).collect();
            rows = self.late.drop_from(0, rows, &keep, (self.operator, self.late_before_ms), &times)?;
        }
        if rows.num_rows() > 0 {
            self.input.push(rows);
        }
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.expire(state)?;
        let input = std::mem::take(&mut self.input);
        let mut touched = BTreeMap::new();
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&changes, state, &mut touched, out)?;
        }
        self.close(touched, state, out)
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
