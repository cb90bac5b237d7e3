//! Functions over the values of groups: what each keeps, and its result.
//!
//! Owns: the kept arguments of functions that are not linear. Invariants: the least and the greatest value are found
//! by their place in the order; any other function is fed all its values anew, in order, by DataFusion's own
//! accumulator, so whatever DataFusion has runs here.

use super::linear::{Linear, Terms};
use super::tagged;
use crate::error::EngineError;
use crate::operators::retracting::{CallSpec, Keeps, RetractingSpec};
use crate::runtime::keys::{Codec, Encoded, normalize};
use crate::runtime::stored_row::StoredRow;
use crate::runtime::ttl::Ttl;
use crate::state::{Direction, TaskState};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use highwater_protocol::ids::{OperatorId, ShardId};
use std::ops::ControlFlow;

/// All functions of one aggregate.
pub struct Calls {
    calls: Vec<Call>,
    linear: usize,
}

struct Call {
    spec: CallSpec,
    argument_types: Vec<DataType>,
    output: DataType,
    /// Its place among the linear ones.
    linear: usize,
    /// Of what it keeps: ordering columns, then arguments.
    codec: Option<Codec>,
}

impl Calls {
    pub fn new(spec: &RetractingSpec) -> Result<Self, EngineError> {
        let mut calls = Vec::with_capacity(spec.calls.len());
        let mut linear = 0;
        for (at, call) in spec.calls.iter().enumerate() {
            let data_type = |column: &usize| spec.input_schema.field(*column).data_type().clone();
            let argument_types: Vec<DataType> = call.arguments.iter().map(data_type).collect();
            let ordering = call.order.iter().map(|(column, options)| (data_type(column), *options));
            let arguments = argument_types.iter().map(|data_type| (data_type.clone(), SortOptions::default()));
            let codec = match call.keeps {
                Keeps::Nothing => None,
                _ => Some(Codec::sorted(ordering.chain(arguments))?),
            };
            let output = spec.output_schema.field(spec.group_width + at).data_type().clone();
            calls.push(Call { spec: call.clone(), argument_types, output, linear, codec });
            linear += usize::from(call.linear.is_some());
        }
        Ok(Self { calls, linear })
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// How many are linear.
    pub fn linear(&self) -> usize {
        self.linear
    }

    pub fn read_linear(&self, bytes: &mut &[u8]) -> Option<Vec<Linear>> {
        self.calls.iter().filter_map(|call| call.spec.linear.as_ref()).map(|kind| Linear::read(kind, bytes)).collect()
    }

    pub fn write_linear(&self, linear: &[Linear], into: &mut Vec<u8>) {
        let kinds = self.calls.iter().filter_map(|call| call.spec.linear.as_ref());
        kinds.zip(linear).for_each(|(kind, linear)| linear.write(kind, into));
    }

    /// Results of one function for many groups.
    pub fn evaluate<'a>(
        &self,
        at: usize,
        operator: OperatorId,
        rows: usize,
        group: &dyn Fn(usize) -> (&'a [u8], ShardId, &'a [Linear]),
        state: &TaskState,
    ) -> Result<ArrayRef, EngineError> {
        let call = &self.calls[at];
        let mut values = Vec::with_capacity(rows);
        for row in 0..rows {
            let (key, shard, linear) = group(row);
            values.push(match (&call.spec.linear, call.spec.keeps) {
                (Some(kind), _) => linear[call.linear].value(kind, call.argument_types.first(), &call.output)?,
                (None, Keeps::Least) => call.extreme(operator, at, key, shard, Direction::Forward, state)?,
                (None, Keeps::Greatest) => call.extreme(operator, at, key, shard, Direction::Backward, state)?,
                (None, _) => call.replay(operator, at, key, shard, state)?,
            });
        }
        let array = ScalarValue::iter_to_array(values)?;
        Ok(if *array.data_type() == call.output { array } else { arrow::compute::cast(&array, &call.output)? })
    }
}

impl Call {
    fn prefix(&self, at: usize, key: &[u8]) -> Vec<u8> {
        let mut prefix = tagged(1, key);
        prefix.extend_from_slice(&(at as u16).to_be_bytes());
        prefix
    }

    fn codec(&self) -> Result<&Codec, EngineError> {
        self.codec.as_ref().ok_or_else(|| EngineError::Internal("a function that keeps nothing".into()))
    }

    fn extreme(
        &self,
        operator: OperatorId,
        at: usize,
        key: &[u8],
        shard: ShardId,
        direction: Direction,
        state: &TaskState,
    ) -> Result<ScalarValue, EngineError> {
        let prefix = self.prefix(at, key);
        let mut found: Option<Vec<u8>> = None;
        state.walk(operator, shard, &prefix, direction, &mut |key, _| {
            found = Some(key[prefix.len()..].to_vec());
            ControlFlow::Break(())
        });
        match found {
            None => Ok(ScalarValue::try_from(&self.output)?),
            Some(bytes) => {
                let columns = self.codec()?.decode(std::iter::once(bytes.as_slice()))?;
                Ok(ScalarValue::try_from_array(&columns[0], 0)?)
            }
        }
    }

    fn replay(
        &self,
        operator: OperatorId,
        at: usize,
        key: &[u8],
        shard: ShardId,
        state: &TaskState,
    ) -> Result<ScalarValue, EngineError> {
        let prefix = self.prefix(at, key);
        let (mut rows, mut repeats) = (Vec::new(), Vec::new());
        let mut failed = None;
        state.walk(operator, shard, &prefix, Direction::Forward, &mut |key, value| match StoredRow::decode(value) {
            Ok(kept) => {
                let times = if self.spec.distinct { 1 } else { kept.weight.max(0) };
                repeats.extend(std::iter::repeat_n(rows.len() as u32, times as usize));
                rows.push(key[prefix.len()..].to_vec());
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let mut accumulator = self.spec.function.create_accumulator()?;
        if !repeats.is_empty() {
            let columns = self.codec()?.decode(rows.iter().map(Vec::as_slice))?;
            let places = UInt32Array::from(repeats);
            let (ordering, arguments) = columns.split_at(self.spec.order.len());
            // As DataFusion's aggregates take them: arguments, then what they are ordered by.
            let values = arguments.iter().chain(ordering).map(|column| take(column, &places, None));
            accumulator.update_batch(&values.collect::<Result<Vec<_>, _>>()?)?;
        }
        Ok(accumulator.evaluate()?)
    }
}

/// The arguments of a batch, as the functions take them.
pub struct Values {
    calls: Vec<CallValues>,
}

struct CallValues {
    /// Rows that pass the FILTER; `None`: all.
    filter: Option<BooleanArray>,
    terms: Option<Terms>,
    /// What is kept of each row.
    kept: Option<Encoded>,
    /// Rows whose argument is NULL are not kept.
    skip: Option<ArrayRef>,
}

impl Values {
    pub fn new(calls: &Calls, columns: &[ArrayRef], rows: usize) -> Result<Self, EngineError> {
        let mut values = Vec::with_capacity(calls.calls.len());
        for call in &calls.calls {
            let arguments: Vec<ArrayRef> = call.spec.arguments.iter().map(|column| columns[*column].clone()).collect();
            let filter = match call.spec.filter {
                Some(column) => columns[column].as_boolean_opt().cloned(),
                None => None,
            };
            let terms = match &call.spec.linear {
                Some(kind) => Some(Terms::new(kind, &arguments, rows)?),
                None => None,
            };
            let kept = match &call.codec {
                Some(codec) => {
                    let ordering = call.spec.order.iter().map(|(column, _)| columns[*column].clone());
                    let of_keys = |array: ArrayRef| if call.spec.distinct { normalize(array) } else { array };
                    let all: Vec<ArrayRef> = ordering.chain(arguments.iter().cloned().map(of_keys)).collect();
                    Some(codec.encode(&all, rows)?)
                }
                None => None,
            };
            let skips = matches!(call.spec.keeps, Keeps::Least | Keeps::Greatest);
            let skip = arguments.first().filter(|argument| skips && argument.null_count() > 0).cloned();
            values.push(CallValues { filter, terms, kept, skip });
        }
        Ok(Self { calls: values })
    }

    /// Adds one row to all functions of its group; a negative weight takes it away.
    #[allow(clippy::too_many_arguments)]
    pub fn apply(
        &self,
        calls: &Calls,
        operator: OperatorId,
        key: &[u8],
        shard: ShardId,
        row: usize,
        weight: i64,
        close_ms: i64,
        linear: &mut [Linear],
        ttl: &Ttl,
        state: &mut TaskState,
    ) -> Result<(), EngineError> {
        for (at, (values, call)) in self.calls.iter().zip(&calls.calls).enumerate() {
            if values.filter.as_ref().is_some_and(|filter| filter.is_null(row) || !filter.value(row)) {
                continue;
            }
            let mut times = weight;
            if let Some(kept) = &values.kept {
                if values.skip.as_ref().is_some_and(|argument| argument.is_null(row)) {
                    continue;
                }
                let mut full = call.prefix(at, key);
                full.extend_from_slice(kept.row(row));
                let mut value = Vec::new();
                let before = match state.read(operator, shard, &full, &mut value) {
                    true => StoredRow::decode(&value)?.weight,
                    false => 0,
                };
                let mut after = before + weight;
                if after < 0 {
                    ttl.missing("aggregate", after)?;
                    after = 0;
                }
                let keep = StoredRow { close_ms, weight: after, count: 0 };
                state.put(operator, shard, &full, (after != 0).then(|| keep.encode()));
                times = i64::from(after > 0) - i64::from(before > 0);
            }
            if let (Some(kind), Some(terms)) = (&call.spec.linear, &values.terms) {
                linear[call.linear].add(kind, terms, row, times)?;
            }
        }
        Ok(())
    }
}
