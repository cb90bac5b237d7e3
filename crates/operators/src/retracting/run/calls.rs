//! The functions of groups: their kept arguments, and their results.
//!
//! Owns: the kept arguments of functions that are not linear or are distinct. Invariants: the least and the greatest
//! value are the first and last in the order of state; any other function is computed again from all its values, in
//! order, by DataFusion's own accumulator, so that every function of DataFusion works here.

use super::linear::{Linear, Terms};
use super::{Chunk, tagged};
use crate::retracting::{CallSpec, Keeps, RetractingSpec};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use hashbrown::HashMap;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::changes::Changes;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, Encoded, normalize};
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, Keys, Scan, Stretch, Values, Writes};
use highwater_expressions::{ExpressionError, type_name};
use highwater_protocol::ids::ShardId;
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
    /// Its index among the linear functions.
    linear: usize,
    /// Codec of its kept arguments: ordering columns, then arguments. `None` if it keeps none.
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

    /// Returns the number of linear functions.
    pub fn linear(&self) -> usize {
        self.linear
    }

    /// Returns the functions that keep their arguments: index and codec.
    pub fn kept(&self) -> impl Iterator<Item = (usize, &Codec)> {
        self.calls.iter().enumerate().filter_map(|(at, call)| Some((at, call.codec.as_ref()?)))
    }

    pub fn read_linear(&self, bytes: &mut &[u8]) -> Option<Vec<Linear>> {
        self.calls.iter().filter_map(|call| call.spec.linear.as_ref()).map(|kind| Linear::read(kind, bytes)).collect()
    }

    pub fn write_linear(&self, linear: &[Linear], into: &mut Vec<u8>) {
        let kinds = self.calls.iter().filter_map(|call| call.spec.linear.as_ref());
        kinds.zip(linear).for_each(|(kind, linear)| linear.write(kind, into));
    }

    /// Returns the results of one function for many groups, at least one.
    pub fn evaluate(
        &self,
        at: usize,
        rows: usize,
        group: &GroupAt<'_>,
        state: &KeyedState<'_>,
    ) -> Result<ArrayRef, EngineError> {
        let call = &self.calls[at];
        let values = match (&call.spec.linear, call.spec.keeps) {
            (Some(kind), _) => {
                let argument = call.argument_types.first();
                let value = |row: usize| group(row).2[call.linear].value(kind, argument, &call.output);
                let values = (0..rows).map(value).collect::<Result<Vec<_>, _>>();
                values.map_err(|error| error.of_expression(call.spec.function.name(), &call.output))?
            }
            (None, Keeps::Least) => call.extremes(at, rows, group, Direction::Forward, state)?,
            (None, Keeps::Greatest) => call.extremes(at, rows, group, Direction::Backward, state)?,
            (None, _) => call.replays(at, rows, group, state)?,
        };
        let array = ScalarValue::iter_to_array(values)?;
        Ok(if *array.data_type() == call.output { array } else { arrow::compute::cast(&array, &call.output)? })
    }
}

/// Returns key, shard and running values of the group at an index.
type GroupAt<'a> = dyn Fn(usize) -> (&'a [u8], ShardId, &'a [Linear]) + 'a;

impl Call {
    fn prefix(&self, at: usize, key: &[u8]) -> Vec<u8> {
        let mut prefix = tagged(1, key);
        prefix.extend_from_slice(&(at as u16).to_be_bytes());
        prefix
    }

    fn codec(&self) -> Result<&Codec, EngineError> {
        self.codec.as_ref().ok_or_else(|| Fault::Lacks { what: "a function", lacks: "kept values" }.into())
    }

    /// Returns the first value of each group in this direction; NULL if the group has none.
    fn extremes(
        &self,
        at: usize,
        rows: usize,
        group: &GroupAt<'_>,
        direction: Direction,
        state: &KeyedState<'_>,
    ) -> Result<Vec<ScalarValue>, EngineError> {
        let prefixes = self.prefixes(at, rows, group);
        let scan = |(shard, prefix)| Scan { shard, keys: Stretch::Prefix(prefix), direction };
        let scans: Vec<Scan<'_>> = prefixes.iter().map(scan).collect();
        let (mut found, mut places): (Vec<Vec<u8>>, Vec<Option<usize>>) = (Vec::new(), vec![None; rows]);
        state.scan(&scans, &mut |row, key, _| {
            places[row] = Some(found.len());
            found.push(key[prefixes.get(row).1.len()..].to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        let columns = self.codec()?.decode(found.iter().map(Vec::as_slice))?;
        let value = |place: Option<usize>| match place {
            None => Ok(ScalarValue::try_from(&self.output)?),
            Some(place) => Ok(ScalarValue::try_from_array(&columns[0], place)?),
        };
        places.into_iter().map(value).collect()
    }

    /// Returns the result of each group, computed from all of its values. Holds the values of one group at a time.
    fn replays(
        &self,
        at: usize,
        rows: usize,
        group: &GroupAt<'_>,
        state: &KeyedState<'_>,
    ) -> Result<Vec<ScalarValue>, EngineError> {
        let prefixes = self.prefixes(at, rows, group);
        let scans: Vec<Scan<'_>> = prefixes.iter().map(|(shard, prefix)| Scan::prefix(shard, prefix)).collect();
        let (mut results, mut replay) = (Vec::with_capacity(rows), Replay::default());
        state.scan(&scans, &mut |row, key, value| {
            while results.len() < row {
                results.push(self.replay(std::mem::take(&mut replay))?);
            }
            let kept = StoredRow::decode(value)?;
            let times = if self.spec.distinct { 1 } else { kept.weight.max(0) };
            replay.repeats.extend(std::iter::repeat_n(replay.values.len() as u32, times as usize));
            replay.values.push(key[prefixes.get(row).1.len()..].to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        while results.len() < rows {
            results.push(self.replay(std::mem::take(&mut replay))?);
        }
        Ok(results)
    }

    fn replay(&self, Replay { values, repeats }: Replay) -> Result<ScalarValue, EngineError> {
        let mut accumulator = self.spec.function.create_accumulator()?;
        if !repeats.is_empty() {
            let columns = self.codec()?.decode(values.iter().map(Vec::as_slice))?;
            let places = UInt32Array::from(repeats);
            let (ordering, arguments) = columns.split_at(self.spec.order.len());
            // DataFusion's aggregates expect arguments, then ordering columns.
            let values = arguments.iter().chain(ordering).map(|column| take(column, &places, None));
            accumulator.update_batch(&values.collect::<Result<Vec<_>, _>>()?)?;
        }
        accumulator.evaluate().map_err(|error| {
            EngineError::from(ExpressionError::of(error, self.spec.function.name(), &type_name(&self.output)))
        })
    }

    /// Returns the prefixes of the state keys of the groups' values.
    fn prefixes(&self, at: usize, rows: usize, group: &GroupAt<'_>) -> Keys {
        let mut prefixes = Keys::default();
        (0..rows).map(group).for_each(|(key, shard, _)| prefixes.push(shard, &[&self.prefix(at, key)]));
        prefixes
    }
}

/// The kept values of one group in order, and the index of a value as often as its weight.
#[derive(Default)]
struct Replay {
    values: Vec<Vec<u8>>,
    repeats: Vec<u32>,
}

/// The arguments of a batch, prepared for the functions.
pub struct Arguments {
    calls: Vec<CallArguments>,
    /// When the group of each row closes, in milliseconds.
    pub closes: Vec<i64>,
}

struct CallArguments {
    /// Rows that pass the FILTER; `None` if there is none.
    filter: Option<BooleanArray>,
    terms: Option<Terms>,
    /// The encoded argument of each row; `None` if the function keeps none.
    kept: Option<Encoded>,
    /// The argument, if rows where it is NULL are not kept.
    skip: Option<ArrayRef>,
}

impl CallArguments {
    fn passes(&self, row: usize) -> bool {
        self.filter.as_ref().is_none_or(|filter| !filter.is_null(row) && filter.value(row))
    }

    /// Returns the argument to keep of a row that passes the FILTER; `None` if none is kept.
    fn kept(&self, row: usize) -> Option<&[u8]> {
        let is_skipped = self.skip.as_ref().is_some_and(|argument| argument.is_null(row));
        self.kept.as_ref().filter(|_| !is_skipped).map(|kept| kept.row(row))
    }
}

impl Arguments {
    pub fn new(calls: &Calls, columns: &[ArrayRef], closes: Vec<i64>, rows: usize) -> Result<Self, EngineError> {
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
            values.push(CallArguments { filter, terms, kept, skip });
        }
        Ok(Self { calls: values, closes })
    }

    /// Applies the changes of a chunk's groups to their functions; a negative weight retracts.
    pub fn apply(
        &self,
        calls: &Calls,
        changes: &Changes,
        chunk: &mut Chunk,
        state: &mut KeyedState<'_>,
    ) -> Result<(), EngineError> {
        let runs = chunk.runs.iter().enumerate();
        let all: Vec<(usize, usize)> = runs.flat_map(|(group, run)| run.clone().map(move |at| (group, at))).collect();
        for (at, (arguments, call)) in self.calls.iter().zip(&calls.calls).enumerate() {
            for some in all.chunks(OUTPUT_ROWS) {
                match &arguments.kept {
                    Some(_) => self.keep((at, call), some, changes, chunk, state)?,
                    None => arguments.add(call, some, changes, chunk)?,
                }
            }
        }
        Ok(())
    }

    /// Changes the weights of the kept arguments of one function.
    fn keep(
        &self,
        (at, call): (usize, &Call),
        some: &[(usize, usize)],
        changes: &Changes,
        chunk: &mut Chunk,
        state: &mut KeyedState<'_>,
    ) -> Result<(), EngineError> {
        let arguments = &self.calls[at];
        let (mut keys, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        let mut rows: Vec<(usize, usize, i64)> = Vec::with_capacity(some.len());
        for (group, change) in some {
            let row = changes.index(*change) as usize;
            if let Some(kept) = arguments.kept(row).filter(|_| arguments.passes(row)) {
                keys.push(chunk.shards[*group], &[&call.prefix(at, &chunk.keys[*group]), kept]);
                rows.push((*group, row, changes.weight(*change)));
            }
        }
        state.get(&keys, &mut values)?;
        // Several rows can have the same argument.
        let mut changed: HashMap<&[u8], i64> = HashMap::with_capacity(rows.len());
        for (place, (group, row, weight)) in rows.into_iter().enumerate() {
            let (shard, key) = keys.get(place);
            let before = match changed.get(key) {
                Some(before) => *before,
                None => StoredRow::weight_of(values.get(place))?,
            };
            let after = state.weight("aggregate", before + weight)?;
            changed.insert(key, after);
            let kept = StoredRow { close_ms: self.closes[row], weight: after, count: 0 }.encode();
            writes.set(shard, &[key], (after != 0).then_some(&kept));
            let times = i64::from(after > 0) - i64::from(before > 0);
            arguments.add_row(call, row, times, &mut chunk.groups[group].linear)?;
        }
        state.put(&mut writes)
    }
}

impl CallArguments {
    /// Adds rows to the running values of their groups, for a function that keeps no arguments.
    fn add(
        &self,
        call: &Call,
        some: &[(usize, usize)],
        changes: &Changes,
        chunk: &mut Chunk,
    ) -> Result<(), EngineError> {
        for (group, change) in some {
            let row = changes.index(*change) as usize;
            if self.passes(row) {
                self.add_row(call, row, changes.weight(*change), &mut chunk.groups[*group].linear)?;
            }
        }
        Ok(())
    }

    fn add_row(&self, call: &Call, row: usize, times: i64, linear: &mut [Linear]) -> Result<(), EngineError> {
        match (&call.spec.linear, &self.terms) {
            (Some(kind), Some(terms)) => linear[call.linear].add(kind, terms, row, times),
            _ => Ok(()),
        }
    }
}
