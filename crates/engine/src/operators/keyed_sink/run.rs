//! The changelog of a sink with a PRIMARY KEY: at most one change per key and batch.
//!
//! Owns: consolidation, and the live rows per key where the plan does not prove keys unique. A key's value then: its
//! close time (when it expires, if at all), and per distinct live row a count (`u32`), a length (`u32`) and the encoded row.
//! Invariants: a delete is emitted only if no row of the key remains; two live rows under one key are an error. With a TTL
//! what made the older of two rows may have been forgotten before it could take it back: then the newer one stays.
//! A key with a time of a window is forgotten with it: no change comes after the batch whose watermark passes its end.

use crate::changelog::ChangeBatch;
use crate::dataflow::close_times;
use crate::dataflow::{CloseKey, Upstream};
use crate::error::EngineError;
use crate::runtime::BatchContext;
use crate::runtime::exchange::pick;
use crate::runtime::keys::{Codec, normalize, shard_of};
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::ttl::Ttl;
use crate::state::TaskState;
use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use highwater_protocol::ids::OperatorId;
use std::collections::{BTreeMap, HashMap};

pub struct KeyedSink {
    /// Keeps rows per key; `None`: the plan proves keys unique.
    stateful: Option<OperatorId>,
    key: Vec<usize>,
    schema: SchemaRef,
    shards: u16,
    ttl: Ttl,
    /// The column of the key that frees it.
    close: Option<CloseKey>,
    close_before_ms: Option<i64>,
    sink: String,
    keys: Codec,
    rows: Codec,
    input: Vec<ChangeBatch>,
}

/// Net weights of the distinct rows of one key, by encoded row, each with one place where it stands.
type NetRows<'a> = BTreeMap<&'a [u8], (i64, usize)>;

impl KeyedSink {
    pub fn new(
        operator: OperatorId,
        stateful: Option<OperatorId>,
        key: &[usize],
        schema: &SchemaRef,
        context: &BatchContext,
        sink: &str,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            stateful,
            key: key.to_vec(),
            schema: schema.clone(),
            shards: context.shards,
            ttl: Ttl::of(operator, context),
            close: None,
            close_before_ms: None,
            sink: sink.to_string(),
            keys: Codec::new(key.iter().map(|column| schema.field(*column).data_type()))?,
            rows: Codec::of(schema)?,
            input: Vec::new(),
        })
    }

    /// Keys are forgotten once the watermark has passed this column of theirs.
    pub fn freed_by(self, close: Option<CloseKey>, watermark: &[Upstream], context: &BatchContext) -> Self {
        let close_before_ms = BatchContext::least(&context.close_before, watermark).filter(|_| close.is_some());
        Self { close, close_before_ms, ..self }
    }

    /// Keys of the state whose window is over although no row of this batch was theirs.
    fn free_untouched(&self, state: &mut TaskState) {
        let (Some(operator), Some(close_before)) = (self.stateful, self.close_before_ms) else { return };
        for (shard, key) in state.due(operator, close_before) {
            state.put(operator, shard, &key, None);
        }
    }

    /// Keys are unique upstream: the batch's own rows tell everything.
    fn unique(&self, net: &NetRows<'_>, all: &ChangeBatch, sample: usize) -> Result<Change, EngineError> {
        let live: i64 = net.values().map(|(weight, _)| (*weight).max(0)).sum();
        let up = net.values().find(|(weight, _)| *weight > 0);
        match (live, up) {
            (0, _) if net.is_empty() => Ok(Change::None),
            (0, _) | (_, None) => Ok(Change::Delete(sample)),
            (1, Some((_, row))) => Ok(Change::Upsert(*row)),
            _ => Err(self.duplicate(all, sample)),
        }
    }

    /// Applies the net changes to the rows kept under the key.
    fn kept(
        &self,
        operator: OperatorId,
        (key, closes_ms): (&[u8], i64),
        net: &NetRows<'_>,
        state: &mut TaskState,
        all: &ChangeBatch,
        sample: usize,
    ) -> Result<Change, EngineError> {
        if net.is_empty() {
            return Ok(Change::None);
        }
        let shard = shard_of(key, self.shards);
        if !state.owns(shard) {
            return Err(EngineError::MissingShard(shard));
        }
        let mut value = Vec::new();
        let existed = state.read(operator, shard, key, &mut value);
        let before = decode(&value)?;
        let mut after: BTreeMap<&[u8], i64> = before.iter().map(|(row, count)| (*row, i64::from(*count))).collect();
        for (row, (weight, _)) in net {
            *after.entry(row).or_default() += weight;
        }
        for count in after.values().filter(|count| **count < 0) {
            self.ttl.missing(&format!("sink {}", self.sink), *count)?;
        }
        after.retain(|_, count| *count > 0);
        if self.ttl.is_on() && after.values().sum::<i64>() > 1 {
            let new: BTreeMap<&[u8], i64> =
                net.iter().filter(|(_, (weight, _))| *weight > 0).map(|(row, (weight, _))| (*row, *weight)).collect();
            if !new.is_empty() {
                let stale = after.values().sum::<i64>() - new.values().sum::<i64>();
                self.ttl.count_expired(stale.unsigned_abs());
                after = new;
            }
        }
        if after.values().sum::<i64>() > 1 {
            return Err(self.duplicate(all, sample));
        }
        let is_over = self.close_before_ms.is_some_and(|before| closes_ms <= before);
        let kept = !after.is_empty() && !is_over;
        state.put(operator, shard, key, kept.then(|| encode(&after, closes_ms).into()));
        let now = after.keys().next().copied();
        let was = before.first().map(|(row, _)| *row);
        Ok(match now {
            _ if now == was => Change::None,
            None if existed => Change::Delete(sample),
            None => Change::None,
            Some(row) => match net.get(row) {
                Some((_, place)) => Change::Upsert(*place),
                None => Change::UpsertOld(row.to_vec()),
            },
        })
    }

    fn emit(
        &self,
        all: &ChangeBatch,
        rows: Vec<u32>,
        weight: i64,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        for rows in rows.chunks(OUTPUT_ROWS) {
            let weights = Some(Int64Array::from(vec![weight; rows.len()]));
            let ChangeBatch { batch, .. } = pick(all, rows.to_vec())?;
            out.push(ChangeBatch { batch, weights });
        }
        Ok(())
    }

    fn refuse_nulls(&self, columns: &[ArrayRef]) -> Result<(), EngineError> {
        let null = columns.iter().zip(&self.key).find(|(column, _)| column.null_count() > 0);
        match null {
            None => Ok(()),
            Some((_, column)) => {
                Err(EngineError::NullKey { sink: self.sink.clone(), column: self.schema.field(*column).name().clone() })
            }
        }
    }

    fn duplicate(&self, all: &ChangeBatch, row: usize) -> EngineError {
        let part = |column: &usize| {
            let text = array_value_to_string(all.batch.column(*column), row).unwrap_or_default();
            format!("{} = {text}", self.schema.field(*column).name())
        };
        let key: Vec<String> = self.key.iter().map(part).collect();
        EngineError::DuplicateKey { sink: self.sink.clone(), key: key.join(", ") }
    }
}

impl Stateful for KeyedSink {
    fn operator(&self) -> Option<OperatorId> {
        self.stateful
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.input.push(rows);
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.ttl.forget_due(state);
        let input = std::mem::take(&mut self.input);
        let Some(all) = ChangeBatch::concat(&self.schema, &input)? else {
            self.free_untouched(state);
            return Ok(());
        };
        let count = all.num_rows();
        let columns: Vec<ArrayRef> = self.key.iter().map(|c| normalize(all.batch.column(*c).clone())).collect();
        self.refuse_nulls(&columns)?;
        let closes = self.close.map(|close| close_times(close, &columns)).transpose()?;
        let closes_ms = |row: usize| closes.as_ref().map_or(self.ttl.deadline(), |times| times.value(row));
        let keys = self.keys.encode(&columns, count)?;
        let rows = self.rows.encode(all.batch.columns(), count)?;
        let mut order: Vec<&[u8]> = Vec::new();
        let mut net: HashMap<&[u8], NetRows<'_>> = HashMap::new();
        for row in 0..count {
            let of_key = net.entry(keys.row(row)).or_insert_with(|| {
                order.push(keys.row(row));
                NetRows::new()
            });
            of_key.entry(rows.row(row)).or_insert((0, row)).0 += all.weight(row);
        }
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        let mut old_rows: Vec<Vec<u8>> = Vec::new();
        for key in order {
            let Some(mut of_key) = net.remove(key) else { continue };
            let sample = of_key.values().next().map_or(0, |(_, row)| *row);
            of_key.retain(|_, (weight, _)| *weight != 0);
            let change = match self.stateful {
                None => self.unique(&of_key, &all, sample)?,
                Some(operator) => self.kept(operator, (key, closes_ms(sample)), &of_key, state, &all, sample)?,
            };
            match change {
                Change::None => {}
                Change::Upsert(row) => upserts.push(row as u32),
                Change::UpsertOld(bytes) => old_rows.push(bytes),
                Change::Delete(row) => deletes.push(row as u32),
            }
        }
        self.free_untouched(state);
        self.emit(&all, upserts, 1, out)?;
        self.emit(&all, deletes, -1, out)?;
        if !old_rows.is_empty() {
            let columns = self.rows.decode(old_rows.iter().map(Vec::as_slice))?;
            out.push(ChangeBatch::inserts(batch(&self.schema, columns, old_rows.len())?));
        }
        Ok(())
    }

    fn ttl(&self) -> Option<&Ttl> {
        Some(&self.ttl)
    }
}

/// What becomes of one key; numbers are rows of the input.
enum Change {
    None,
    Upsert(usize),
    /// A row that came in an earlier batch is the one that remains.
    UpsertOld(Vec<u8>),
    Delete(usize),
}

fn encode(rows: &BTreeMap<&[u8], i64>, close_ms: i64) -> Vec<u8> {
    let mut bytes = close_ms.to_le_bytes().to_vec();
    for (row, count) in rows {
        bytes.extend_from_slice(&(*count as u32).to_le_bytes());
        bytes.extend_from_slice(&(row.len() as u32).to_le_bytes());
        bytes.extend_from_slice(row);
    }
    bytes
}

fn decode(value: &[u8]) -> Result<Vec<(&[u8], u32)>, EngineError> {
    let damaged = || EngineError::Internal("a kept row is cut off".into());
    let mut rows = Vec::new();
    let mut rest = value.get(size_of::<i64>()..).unwrap_or_default();
    while !rest.is_empty() {
        let (count, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_le_bytes(*length) as usize;
        let row = after.get(..length).ok_or_else(damaged)?;
        rows.push((row, u32::from_le_bytes(*count)));
        rest = &after[length..];
    }
    Ok(rows)
}
