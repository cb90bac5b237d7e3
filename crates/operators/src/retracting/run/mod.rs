//! Running a GROUP BY over input with retracts, or with functions that need all their values.
//!
//! Owns: the state of groups in this task's shards, in two kinds of keys. A group, `0 | length (u32) | group`: close
//! time, number of rows, the running values of linear functions, and the values last computed. An argument of a
//! function that keeps its arguments, `1 | length (u32) | group | function (u16) | arguments`: a `StoredRow`.
//! Invariants: a group exists while it has rows (the group of all rows: always, once it exists); a batch emits the
//! difference to the values emitted before. With a TTL, a group expires with its arguments when it had no change for
//! that long; a retract of an expired row has as much effect as the remaining state allows, as in Flink.

mod calls;
mod exact;
pub mod linear;
mod view;

use crate::retracting::RetractingSpec;
use arrow::array::{ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use calls::{Arguments, Calls};
pub use exact::ExactSum;
use exact::take as take_bytes;
use highwater_dataflow::EmitMode;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::close_times;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::{Keys, NEVER, Scan, Values, Writes};
use highwater_protocol::ids::ShardId;
use linear::Linear;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
pub use view::reader;

pub struct RetractingAggregate {
    spec: Arc<RetractingSpec>,
    changes: ChangeCodec,
    output: Codec,
    calls: Calls,
    /// Encoded key of the group of all rows; `None` if there is no such group.
    total: Option<Vec<u8>>,
    input: Vec<ChangeBatch>,
}

/// A group in state.
#[derive(Debug, Default)]
struct Group {
    rows: i64,
    linear: Vec<Linear>,
    /// The values last computed, encoded; `None` for a new group. They have been emitted, unless groups are emitted
    /// when they close.
    emitted: Option<Vec<u8>>,
}

/// Groups whose values are emitted together.
#[derive(Default)]
struct Chunk {
    keys: Vec<Vec<u8>>,
    shards: Vec<ShardId>,
    closes: Vec<i64>,
    /// Range of the changes of each group.
    runs: Vec<Range<usize>>,
    groups: Vec<Group>,
}

impl RetractingAggregate {
    pub fn new(spec: Arc<RetractingSpec>) -> Result<Self, EngineError> {
        let key: Vec<usize> = (0..spec.group_width).collect();
        let changes = ChangeCodec::new(&spec.input_schema, &key)?;
        let values = spec.output_schema.fields().iter().skip(spec.group_width).map(|field| field.data_type());
        Ok(Self {
            total: match &spec.total {
                Some(total) => {
                    let columns: Vec<ArrayRef> = total.key.iter().map(|v| v.to_array()).collect::<Result<_, _>>()?;
                    Some(changes.keys.encode(&columns, 1)?.row(0).to_vec())
                }
                None => None,
            },
            changes,
            output: Codec::new(values)?,
            calls: Calls::new(&spec)?,
            input: Vec::new(),
            spec,
        })
    }

    fn closes(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<i64>, EngineError> {
        match self.spec.close {
            Some(close) => Ok(close_times(close, columns)?.iter().map(|time| time.unwrap_or(NEVER)).collect()),
            None => Ok(vec![NEVER; rows]),
        }
    }

    fn update(
        &self,
        changes: &Changes,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let columns = changes.batch.columns();
        let closes = self.closes(columns, changes.batch.num_rows())?;
        let arguments = Arguments::new(&self.calls, columns, closes, changes.batch.num_rows())?;
        let mut chunk = Chunk::default();
        for run in changes.runs() {
            let key = changes.key(run.start);
            chunk.keys.push(key.to_vec());
            chunk.shards.push(state.shard_of(key));
            chunk.closes.push(match self.spec.close {
                Some(_) => arguments.closes[changes.index(run.start) as usize],
                None => self.deadline(key, state),
            });
            chunk.runs.push(run);
            if chunk.keys.len() == OUTPUT_ROWS {
                self.apply(std::mem::take(&mut chunk), changes, &arguments, state, out)?;
            }
        }
        self.apply(chunk, changes, &arguments, state, out)
    }

    /// Applies the changes of a chunk's groups, and emits the differences.
    fn apply(
        &self,
        mut chunk: Chunk,
        changes: &Changes,
        arguments: &Arguments,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        self.read(&mut chunk, state)?;
        arguments.apply(&self.calls, changes, &mut chunk, state)?;
        for (group, run) in chunk.groups.iter_mut().zip(&chunk.runs) {
            let more: i64 = run.clone().map(|change| changes.weight(change)).sum();
            group.rows = state.weight("aggregate", group.rows + more)?;
        }
        self.settle(chunk, state, out)
    }

    /// Returns when a group that no watermark closes expires. The group of all rows never does.
    fn deadline(&self, key: &[u8], state: &KeyedState<'_>) -> i64 {
        if self.total.as_deref() == Some(key) { NEVER } else { state.deadline() }
    }

    /// Creates and emits the group of all rows, if it must exist and does not yet.
    fn begin_total(&self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let Some(key) = self.total.as_ref().filter(|_| self.spec.total.as_ref().is_some_and(|total| total.at_once))
        else {
            return Ok(());
        };
        let shard = state.shard_of(key);
        if !state.owns(shard) {
            return Ok(());
        }
        let (keys, shards) = (vec![key.clone()], vec![shard]);
        let mut chunk = Chunk { keys, shards, closes: vec![NEVER], ..Chunk::default() };
        self.read(&mut chunk, state)?;
        match chunk.groups.iter().any(|group| group.emitted.is_some()) {
            true => Ok(()),
            false => self.settle(chunk, state, out),
        }
    }

    /// Writes a chunk's groups, and emits the differences.
    fn settle(
        &self,
        mut chunk: Chunk,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let rows = chunk.groups.len();
        if rows == 0 {
            return Ok(());
        }
        let mut keys = self.changes.keys.decode(chunk.keys.iter().map(Vec::as_slice))?;
        let values = self.values(&chunk, state)?;
        let encoded = self.output.encode(&values, rows)?;
        let (mut gone, mut come, mut old) = (Vec::new(), Vec::new(), Vec::new());
        let (mut writes, mut dead) = (Writes::default(), Keys::default());
        for row in 0..rows {
            let group = &mut chunk.groups[row];
            let due = state.closes(chunk.closes[row]);
            let lives = group.rows > 0 || self.total.as_ref() == Some(&chunk.keys[row]);
            let new = encoded.row(row);
            let old_values = group.emitted.replace(new.to_vec());
            let is_same = lives && old_values.as_deref() == Some(new);
            match self.spec.emit {
                EmitMode::OnClose => {
                    if due && lives {
                        come.push(row as u32);
                    }
                }
                EmitMode::OnFirst | EmitMode::Updates => {
                    if let Some(values) = old_values.filter(|_| !is_same) {
                        gone.push(row as u32);
                        old.push(values);
                    }
                    if lives && !is_same {
                        come.push(row as u32);
                    }
                }
            }
            let (shard, key) = (chunk.shards[row], chunk.keys[row].as_slice());
            let kept = (lives && !due).then(|| self.write(group, chunk.closes[row]));
            writes.set(shard, &[&group_key(key)], kept.as_deref());
            if state.expires() && !lives {
                // Retracts of expired rows may have emptied the group while arguments are left.
                dead.push(shard, &[&tagged(1, key)]);
            }
        }
        values_of(&dead, state)?.iter().for_each(|(shard, key)| writes.delete(shard, &[key]));
        state.put(&mut writes)?;
        if !gone.is_empty() {
            let picked = UInt32Array::from(gone);
            let mut columns: Vec<ArrayRef> =
                keys.iter().map(|key| take(key, &picked, None)).collect::<Result<_, _>>()?;
            columns.extend(self.output.decode(old.iter().map(Vec::as_slice))?);
            let weights = Some(Int64Array::from(vec![-1; picked.len()]));
            out.push(ChangeBatch { batch: batch(&self.spec.output_schema, columns, picked.len())?, weights });
        }
        if !come.is_empty() {
            let weights = (self.spec.emit == EmitMode::Updates).then(|| Int64Array::from(vec![1; come.len()]));
            keys.extend(values);
            let all = batch(&self.spec.output_schema, keys, rows)?;
            out.push(ChangeBatch { batch: pick(&ChangeBatch::inserts(all), come)?.batch, weights });
        }
        Ok(())
    }

    fn values(&self, chunk: &Chunk, state: &KeyedState<'_>) -> Result<Vec<ArrayRef>, EngineError> {
        let group = |row: usize| (chunk.keys[row].as_slice(), chunk.shards[row], chunk.groups[row].linear.as_slice());
        (0..self.calls.len()).map(|at| self.calls.evaluate(at, chunk.groups.len(), &group, state)).collect()
    }

    /// Closes groups that the watermark has passed and that no row of this batch has touched.
    fn close_untouched(&self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let (due, mut groups) = (state.closing()?, Keys::default());
        let is_shown = |key: &[u8]| self.spec.emit == EmitMode::OnClose && as_group_key(key).is_some();
        due.iter().filter(|(_, key)| is_shown(key)).for_each(|(shard, key)| groups.push(shard, &[key]));
        let (mut part, mut values) = (Keys::default(), Values::default());
        for start in (0..groups.len()).step_by(OUTPUT_ROWS) {
            part.clear();
            let places = start..groups.len().min(start + OUTPUT_ROWS);
            for (shard, key) in places.map(|place| groups.get(place)) {
                part.push(shard, &[key]);
            }
            state.get(&part, &mut values)?;
            // The stored values were computed when the group last changed.
            let kept = (0..part.len()).map(|place| Ok(self.parse(values.get(place))?.emitted.unwrap_or_default()));
            let kept: Vec<Vec<u8>> = kept.collect::<Result<_, EngineError>>()?;
            let mut columns = self.changes.keys.decode(part.iter().filter_map(|(_, key)| as_group_key(key)))?;
            columns.extend(self.output.decode(kept.iter().map(Vec::as_slice))?);
            out.push(ChangeBatch::inserts(batch(&self.spec.output_schema, columns, kept.len())?));
        }
        let mut writes = Writes::default();
        due.iter().for_each(|(shard, key)| writes.delete(shard, &[key]));
        state.put(&mut writes)
    }

    /// Reads the groups of a chunk.
    fn read(&self, chunk: &mut Chunk, state: &KeyedState<'_>) -> Result<(), EngineError> {
        let (mut keys, mut values) = (Keys::default(), Values::default());
        for (shard, key) in chunk.shards.iter().zip(&chunk.keys) {
            keys.push(*shard, &[&group_key(key)]);
        }
        state.get(&keys, &mut values)?;
        chunk.groups = (0..keys.len()).map(|place| self.parse(values.get(place))).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Decodes a group; `None` gives an empty group.
    fn parse(&self, value: Option<&[u8]>) -> Result<Group, EngineError> {
        let Some(mut bytes) = value else {
            return Ok(Group { linear: vec![Linear::default(); self.calls.linear()], ..Group::default() });
        };
        let mut parse = || {
            take_bytes::<8>(&mut bytes)?;
            let rows = i64::from_le_bytes(take_bytes(&mut bytes)?);
            let linear = self.calls.read_linear(&mut bytes)?;
            // A group is stored only with its values.
            Some(Group { rows, linear, emitted: Some(bytes.to_vec()) })
        };
        parse().ok_or_else(|| EngineError::CutOff("a kept group"))
    }

    fn write(&self, group: &Group, close_ms: i64) -> Vec<u8> {
        let mut bytes = close_ms.to_le_bytes().to_vec();
        bytes.extend_from_slice(&group.rows.to_le_bytes());
        self.calls.write_linear(&group.linear, &mut bytes);
        bytes.extend_from_slice(group.emitted.as_deref().unwrap_or_default());
        bytes
    }
}

impl Stateful for RetractingAggregate {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        let mut rows = rows;
        if let Some(close) = self.spec.close {
            let times = close_times(close, rows.batch.columns())?;
            // A group without a time never closes: it is emitted at once or never.
            let untimed = if self.spec.emit == EmitMode::OnClose { Untimed::Dropped } else { Untimed::Kept };
            rows = late.drop_late(0, rows, &times, untimed)?;
        }
        if rows.num_rows() > 0 {
            self.input.push(rows);
        }
        Ok(())
    }

    /// Expires groups without a change for the TTL, with their arguments.
    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        let mut groups = Keys::default();
        for (shard, key) in due.iter() {
            if let Some(group) = as_group_key(key) {
                groups.push(shard, &[&tagged(1, group)]);
            }
        }
        let values = values_of(&groups, state)?;
        state.forget(due)?;
        state.forget(&values)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&changes, state, out)?;
        }
        self.begin_total(state, out)?;
        self.close_untouched(state, out)
    }
}

/// Returns the state keys of all arguments with these prefixes.
fn values_of(groups: &Keys, state: &KeyedState<'_>) -> Result<Keys, EngineError> {
    let scans: Vec<Scan<'_>> = groups.iter().map(|(shard, prefix)| Scan::prefix(shard, prefix)).collect();
    let mut keys = Keys::default();
    state.scan(&scans, &mut |place, key, _| {
        keys.push(scans[place].shard, &[key]);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(keys)
}

fn group_key(key: &[u8]) -> Vec<u8> {
    tagged(0, key)
}

/// Returns a tag, the length of `key`, and `key`.
fn tagged(tag: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + key.len());
    bytes.push(tag);
    bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Returns the group of a state key; `None` if the key belongs to an argument.
fn as_group_key(bytes: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = bytes.split_first()?;
    (*tag == 0).then(|| rest.get(4..)).flatten()
}
