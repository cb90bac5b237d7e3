//! GROUP BY over rows that may be taken back, and with functions that need all their values.
//!
//! Owns: the state of groups in this task's shards, in two kinds of keys. A group, `0 | length (u32) | group`: close
//! time, rows, the running values of linear functions, and the row last emitted. A value of a function that keeps
//! its arguments, `1 | length (u32) | group | function (u16) | arguments`: see `kept`.
//! Invariants: a group lives while it has rows (the one without group columns: for ever, once it has had any); what
//! is emitted is the difference to what was emitted before. With a TTL, a group expires with its values when it had no
//! change for that long; a deletion of what was forgotten takes away what it can, as in Flink.

mod exact;
pub mod linear;
mod values;

use crate::changelog::ChangeBatch;
use crate::dataflow::EmitMode;
use crate::dataflow::close_times;
use crate::error::EngineError;
use crate::operators::retracting::RetractingSpec;
use crate::runtime::BatchContext;
use crate::runtime::changes::{ChangeCodec, Changes};
use crate::runtime::exchange::pick;
use crate::runtime::keys::{Codec, shard_of};
use crate::runtime::late::Late;
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::ttl::Ttl;
use crate::state::{Direction, NEVER, TaskState};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::take;
pub use exact::ExactSum;
use exact::take as take_bytes;
use highwater_protocol::ids::{OperatorId, ShardId};
use linear::Linear;
use std::ops::ControlFlow;
use std::sync::Arc;
use values::{Calls, Values};

pub struct RetractingAggregate {
    operator: OperatorId,
    spec: Arc<RetractingSpec>,
    shards: u16,
    late_before_ms: Option<i64>,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    changes: ChangeCodec,
    output: Codec,
    calls: Calls,
    /// Encoded key of the group of all rows.
    total: Option<Vec<u8>>,
    input: Vec<ChangeBatch>,
    late: Late,
}

/// A group as it is kept.
#[derive(Debug, Default)]
struct Group {
    rows: i64,
    linear: Vec<Linear>,
    /// The values last emitted, encoded; `None` before the first time.
    emitted: Option<Vec<u8>>,
}

/// Groups whose values are emitted together.
#[derive(Default)]
struct Chunk {
    keys: Vec<Vec<u8>>,
    shards: Vec<ShardId>,
    closes: Vec<i64>,
    groups: Vec<Group>,
}

impl RetractingAggregate {
    pub fn new(operator: OperatorId, spec: Arc<RetractingSpec>, context: &BatchContext) -> Result<Self, EngineError> {
        let key: Vec<usize> = (0..spec.group_width).collect();
        let closes = spec.close.is_some();
        let changes = ChangeCodec::new(&spec.input_schema, &key)?;
        let values = spec.output_schema.fields().iter().skip(spec.group_width).map(|field| field.data_type());
        Ok(Self {
            operator,
            shards: context.shards,
            ttl: Ttl::of(operator, context),
            late_before_ms: BatchContext::least(&context.late_before, &spec.watermark).filter(|_| closes),
            close_before_ms: BatchContext::least(&context.close_before, &spec.watermark).filter(|_| closes),
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
            late: Late::default(),
            spec,
        })
    }

    fn closes(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<i64>, EngineError> {
        match self.spec.close {
            Some(close) => Ok(close_times(close, columns)?.iter().map(|time| time.unwrap_or(NEVER)).collect()),
            None => Ok(vec![NEVER; rows]),
        }
    }

    fn update(&self, changes: &Changes, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let columns = changes.batch.columns();
        let closes = self.closes(columns, changes.batch.num_rows())?;
        let values = Values::new(&self.calls, columns, changes.batch.num_rows())?;
        let mut chunk = Chunk::default();
        let mut at = 0;
        while at < changes.len() {
            let end = changes.key_end(at);
            let key = changes.key(at);
            let shard = shard_of(key, self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            let mut group = self.read(state, shard, key)?;
            for change in at..end {
                let (row, weight) = (changes.index(change) as usize, changes.weight(change));
                group.rows += weight;
                values.apply(
                    &self.calls,
                    self.operator,
                    key,
                    shard,
                    row,
                    weight,
                    closes[row],
                    &mut group.linear,
                    &self.ttl,
                    state,
                )?;
            }
            if group.rows < 0 {
                self.ttl.missing("aggregate", group.rows)?;
                group.rows = 0;
            }
            chunk.keys.push(key.to_vec());
            chunk.shards.push(shard);
            chunk.closes.push(match self.spec.close {
                Some(_) => closes[changes.index(at) as usize],
                None => self.deadline(key),
            });
            chunk.groups.push(group);
            at = end;
            if chunk.groups.len() == OUTPUT_ROWS {
                self.settle(std::mem::take(&mut chunk), state, out)?;
            }
        }
        self.settle(chunk, state, out)
    }

    /// When a group that no watermark closes is forgotten. The one of all rows never is.
    fn deadline(&self, key: &[u8]) -> i64 {
        if self.total.as_deref() == Some(key) { NEVER } else { self.ttl.deadline() }
    }

    /// Groups that had no change for the TTL, with their values.
    fn expire(&self, state: &mut TaskState) {
        for (shard, key) in self.ttl.due(state) {
            self.ttl.forget(state, shard, &key);
            if let Some(group) = as_group_key(&key) {
                let values = self.values_of(group, shard, state);
                values.iter().for_each(|key| self.ttl.forget(state, shard, key));
            }
        }
    }

    /// Keys of all values kept of a group.
    fn values_of(&self, group: &[u8], shard: ShardId, state: &TaskState) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        state.walk(self.operator, shard, &tagged(1, group), Direction::Forward, &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        });
        keys
    }

    /// The group of all rows, where it must be there and is not.
    fn begin_total(&self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let Some(key) = self.total.as_ref().filter(|_| self.spec.total.as_ref().is_some_and(|total| total.at_once))
        else {
            return Ok(());
        };
        let shard = shard_of(key, self.shards);
        if !state.owns(shard) || state.read(self.operator, shard, &group_key(key), &mut Vec::new()) {
            return Ok(());
        }
        let groups = vec![self.read(state, shard, key)?];
        let chunk = Chunk { keys: vec![key.clone()], shards: vec![shard], closes: vec![NEVER], groups };
        self.settle(chunk, state, out)
    }

    /// Writes groups and gives what is different.
    fn settle(&self, mut chunk: Chunk, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let rows = chunk.groups.len();
        if rows == 0 {
            return Ok(());
        }
        let mut keys = self.changes.keys.decode(chunk.keys.iter().map(Vec::as_slice))?;
        let values = self.values(&chunk, state)?;
        let encoded = self.output.encode(&values, rows)?;
        let (mut gone, mut come, mut old) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let group = &mut chunk.groups[row];
            let due = self.close_before_ms.is_some_and(|before| chunk.closes[row] <= before);
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
            let kept = lives && !due;
            let value = kept.then(|| self.write(group, chunk.closes[row]));
            state.put(self.operator, chunk.shards[row], &group_key(&chunk.keys[row]), value);
            if self.ttl.is_on() && !lives {
                // Deletions of forgotten rows may have used up the group before its values.
                for key in self.values_of(&chunk.keys[row], chunk.shards[row], state) {
                    state.put(self.operator, chunk.shards[row], &key, None);
                }
            }
        }
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

    fn values(&self, chunk: &Chunk, state: &TaskState) -> Result<Vec<ArrayRef>, EngineError> {
        let group = |row: usize| (chunk.keys[row].as_slice(), chunk.shards[row], chunk.groups[row].linear.as_slice());
        (0..self.calls.len())
            .map(|call| self.calls.evaluate(call, self.operator, chunk.keys.len(), &group, state))
            .collect()
    }

    /// Groups of the state that close although no row of this batch was theirs.
    fn close_untouched(&self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let Some(close_before) = self.close_before_ms else { return Ok(()) };
        let due = state.due(self.operator, close_before);
        let mut emitted: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (shard, key) in due {
            if let (EmitMode::OnClose, Some(group)) = (self.spec.emit, as_group_key(&key)) {
                let kept = self.read(state, shard, group)?;
                // What is kept was computed when the group was last touched.
                emitted.push((group.to_vec(), kept.emitted.unwrap_or_default()));
            }
            state.put(self.operator, shard, &key, None);
        }
        for emitted in emitted.chunks(OUTPUT_ROWS) {
            let mut columns = self.changes.keys.decode(emitted.iter().map(|(group, _)| group.as_slice()))?;
            columns.extend(self.output.decode(emitted.iter().map(|(_, values)| values.as_slice()))?);
            out.push(ChangeBatch::inserts(batch(&self.spec.output_schema, columns, emitted.len())?));
        }
        Ok(())
    }

    fn read(&self, state: &TaskState, shard: ShardId, key: &[u8]) -> Result<Group, EngineError> {
        let mut value = Vec::new();
        if !state.read(self.operator, shard, &group_key(key), &mut value) {
            return Ok(Group { linear: vec![Linear::default(); self.calls.linear()], ..Group::default() });
        }
        let mut bytes = value.as_slice();
        let mut parse = || {
            take_bytes::<8>(&mut bytes)?;
            let rows = i64::from_le_bytes(take_bytes(&mut bytes)?);
            let linear = self.calls.read_linear(&mut bytes)?;
            // Stored groups have been emitted.
            Some(Group { rows, linear, emitted: Some(bytes.to_vec()) })
        };
        parse().ok_or_else(|| EngineError::Internal("a kept group is cut off".into()))
    }

    fn write(&self, group: &Group, close_ms: i64) -> Box<[u8]> {
        let mut bytes = close_ms.to_le_bytes().to_vec();
        bytes.extend_from_slice(&group.rows.to_le_bytes());
        self.calls.write_linear(&group.linear, &mut bytes);
        bytes.extend_from_slice(group.emitted.as_deref().unwrap_or_default());
        bytes.into()
    }
}

impl Stateful for RetractingAggregate {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        let mut rows = rows;
        if let Some(close) = self.spec.close {
            let late_before = self.late_before_ms.unwrap_or(i64::MIN);
            let times = close_times(close, rows.batch.columns())?;
            // A group without a time never closes: it is there at once, or never.
            let untimed = self.spec.emit != EmitMode::OnClose;
            let keep: BooleanArray =
                times.iter().map(|time| Some(time.map_or(untimed, |time| time > late_before))).collect();
            rows = self.late.drop_from(0, rows, &keep, (self.operator, self.late_before_ms), &times)?;
        }
        if rows.num_rows() > 0 {
            self.input.push(rows);
        }
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.expire(state);
        let input = std::mem::take(&mut self.input);
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&changes, state, out)?;
        }
        self.begin_total(state, out)?;
        self.close_untouched(state, out)
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

fn group_key(key: &[u8]) -> Vec<u8> {
    tagged(0, key)
}

/// A tag, the length of `key`, and `key`.
fn tagged(tag: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + key.len());
    bytes.push(tag);
    bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// The group, if this is the key of one.
fn as_group_key(bytes: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = bytes.split_first()?;
    (*tag == 0).then(|| rest.get(4..)).flatten()
}
