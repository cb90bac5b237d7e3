//! Output of OVER: rows of partitions with the functions' columns, as differences or as final rows.
//!
//! Owns: computing functions, comparing old and new partitions. Invariant: memory is reserved before a partition's rows
//! are decoded and computed.

use super::Over;
use super::partition::{Entry, size_bytes};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::pipeline::batch;
use highwater_functions::size::array_bytes;
use std::collections::BTreeMap;

/// Rows of many partitions, decoded together.
#[derive(Default)]
pub struct Rows {
    /// Each row as often as its weight.
    rows: Vec<Entry>,
    /// End of each partition.
    ends: Vec<usize>,
}

impl Rows {
    pub fn add(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.rows.extend(std::iter::repeat_n(entry.clone(), entry.weight.max(0) as usize));
        }
        self.ends.push(self.rows.len());
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn ranges(&self) -> impl Iterator<Item = (usize, usize)> {
        std::iter::once(0).chain(self.ends.iter().copied()).zip(self.ends.iter().copied())
    }
}

impl Over {
    /// Reserves memory for a partition's rows until they are emitted: they are copied, decoded, combined with the
    /// functions' columns and encoded again. Returns the bytes reserved.
    pub fn reserve(&self, rows: &[Entry], state: &mut KeyedState<'_>) -> Result<usize, EngineError> {
        const COPIES: usize = 4;
        let bytes = size_bytes(rows, self.spec.limit).saturating_mul(COPIES);
        state.charge(bytes)?;
        Ok(bytes)
    }

    /// Returns the rows with the functions' columns; `None` if there are no rows.
    fn shaped(&self, rows: &Rows, state: &mut KeyedState<'_>) -> Result<Option<RecordBatch>, EngineError> {
        if rows.rows.is_empty() {
            return Ok(None);
        }
        let columns = self.changes.rows.decode(rows.rows.iter().map(Entry::row))?;
        let all = batch(&self.spec.input_schema, columns, rows.len())?;
        let mut shaped: Vec<ArrayRef> = all.columns()[..self.spec.width].to_vec();
        let mut made = 0;
        for function in &self.spec.functions {
            let mut parts = Vec::new();
            for (start, end) in rows.ranges().filter(|(start, end)| start < end) {
                let rows = all.slice(start, end - start);
                if let Some(most) = gathered_bytes(function.as_ref(), &rows)? {
                    // Reserved before the call: every row gets a copy of all values in its frame.
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
        Ok(Some(batch(&self.spec.output_schema, shaped, rows.len())?))
    }

    /// Emits the difference between old and new partitions.
    pub fn emit(
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

    /// Emits final partitions.
    pub fn emit_final(
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

/// Returns the most bytes that a function that gathers all values of a frame may return for a partition; `None` for any
/// other function.
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

/// Returns the maximum number of rows in a frame.
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
