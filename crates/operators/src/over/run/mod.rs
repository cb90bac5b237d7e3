//! Running `OVER (PARTITION BY … ORDER BY …)`, and the first rows of partitions: Top-N, deduplication, LIMIT.
//!
//! Owns: the rows of partitions in this task's shards, in order. A row's key in state: length of the partition (`u32`),
//! partition, order columns, row; its count is the length of the order columns. With a TTL, a partition's deadline has
//! its own key: the length with its highest bit set, then the partition.
//! Invariants: a batch emits the difference between the new and the old rows of a partition; ties of the order are
//! broken by the rows themselves, so that every process has the same order; of append-only input, rows behind the limit
//! are removed. With a TTL, a partition expires as a whole once none of its rows has changed for that long: if single
//! rows expired, the ranks of the others would shift without being emitted. Memory is reserved before a partition's
//! rows are decoded and computed. Partitions are read and written together, in portions that fit in memory.

mod close;
mod emit;
mod merge;
mod partition;
mod view;

use crate::over::OverSpec;
use arrow::array::{Array, ArrayRef, Int64Array};
use emit::Rows;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, Encoded};
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Keys, NEVER, Scan, Values, Writes};
use highwater_protocol::ids::ShardId;
use merge::{Merge, Merged};
use partition::{Entry, deadline_key, limited, prefix_of};
use std::collections::BTreeSet;
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
    /// Close time of each row; `None` if rows never close.
    closes: Option<Int64Array>,
}

/// A partition that a batch changes.
struct Partition {
    shard: ShardId,
    prefix: Vec<u8>,
    /// Its range of the batch's changes.
    run: Range<usize>,
    /// The changed rows after the batch, in the order of their keys.
    changed: Vec<Entry>,
}

/// Partitions in state that close now: shard and key prefix.
type Closed = BTreeSet<(ShardId, Vec<u8>)>;

/// Rows that will be emitted together, and the bytes reserved for them.
#[derive(Default)]
struct Emitting {
    old: Rows,
    new: Rows,
    bytes: usize,
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

    /// Applies the changes of a batch, some partitions at a time, and adds those that close now to `closed`.
    fn update(
        &self,
        rows: &RowChanges,
        state: &mut KeyedState<'_>,
        closed: &mut Closed,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let mut emitting = Emitting::default();
        let mut runs = rows.changes.runs().peekable();
        while runs.peek().is_some() {
            let (mut partitions, mut changes) = (Vec::new(), 0);
            while let Some(run) = runs.next_if(|_| changes < OUTPUT_ROWS) {
                changes += run.len();
                let key = rows.changes.key(run.start);
                let (shard, prefix) = (state.shard_of(key), prefix_of(key));
                partitions.push(Partition { shard, prefix, run, changed: Vec::new() });
            }
            self.look_up(rows, &mut partitions, state)?;
            let mut portions = Portions::of(partitions.len());
            while let Some(asked) = portions.next() {
                let merged = self.merge(&partitions[asked.clone()], state)?;
                let partitions = &partitions[asked.start..asked.start + merged.len()];
                portions.done(merged.len());
                self.write(partitions, &merged, state, closed)?;
                merged.into_iter().try_for_each(|merged| self.give(merged, &mut emitting, state, out))?;
            }
        }
        self.emit(&emitting.old, &emitting.new, state, out)?;
        state.take_back(emitting.bytes);
        Ok(())
    }

    /// Looks up the weight of each changed row after the batch.
    fn look_up(
        &self,
        RowChanges { changes, orders, closes }: &RowChanges,
        partitions: &mut [Partition],
        state: &mut KeyedState<'_>,
    ) -> Result<(), EngineError> {
        let (mut keys, mut values) = (Keys::default(), Values::default());
        let order = |change: usize| orders.row(changes.index(change) as usize);
        for Partition { shard, prefix, run, .. } in partitions.iter() {
            run.clone().for_each(|change| keys.push(*shard, &[prefix, order(change), changes.row(change)]));
        }
        state.get(&keys, &mut values)?;
        let mut place = 0;
        for Partition { prefix, run, changed, .. } in partitions {
            for change in run.clone() {
                let row = changes.index(change) as usize;
                let before = StoredRow::weight_of(values.get(place))?;
                let weight = state.weight("over", before + changes.weight(change))?;
                let close_ms = closes.as_ref().filter(|c| c.is_valid(row)).map_or(NEVER, |c| c.value(row));
                let kept = StoredRow { close_ms, weight, count: order(change).len() as i64 };
                changed.push(Entry::new(keys.get(place).1, prefix.len(), kept)?);
                place += 1;
            }
            changed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        Ok(())
    }

    /// Reads a portion of these partitions, from the first, and merges them with their changes.
    fn merge(&self, partitions: &[Partition], state: &KeyedState<'_>) -> Result<Vec<Merged>, EngineError> {
        let prunes = !self.spec.input_retracts && self.spec.limit.is_some();
        let scans: Vec<Scan<'_>> = partitions.iter().map(|one| Scan::prefix(one.shard, &one.prefix)).collect();
        let merges = partitions.iter().map(|one| Merge::new(&one.changed, self.spec.limit, prunes));
        let mut merges: Vec<Merge<'_>> = merges.collect();
        let complete = state.scan_portion(&scans, &mut |place, key, value| {
            let entry = Entry::new(key, partitions[place].prefix.len(), StoredRow::decode(value)?)?;
            Ok(merges[place].take(&entry))
        })?;
        Ok(merges.into_iter().take(complete).map(Merge::finish).collect())
    }

    /// Writes the changes of these partitions.
    fn write(
        &self,
        partitions: &[Partition],
        merged: &[Merged],
        state: &mut KeyedState<'_>,
        closed: &mut Closed,
    ) -> Result<(), EngineError> {
        let mut writes = Writes::default();
        for (Partition { shard, prefix, changed, .. }, merged) in partitions.iter().zip(merged) {
            for entry in changed {
                let kept = entry.stored().encode();
                writes.set(*shard, &[&entry.key], (entry.weight > 0).then_some(&kept));
            }
            merged.pruned.iter().for_each(|key| writes.delete(*shard, &[key]));
            if state.expires() {
                let deadline = StoredRow { close_ms: state.deadline(), weight: 0, count: 0 }.encode();
                let lives = merged.first_close.is_some();
                writes.set(*shard, &[&deadline_key(prefix)], lives.then_some(&deadline));
            }
            if merged.first_close.is_some_and(|close_ms| state.closes(close_ms)) {
                closed.insert((*shard, prefix.clone()));
            }
        }
        state.put(&mut writes)
    }

    /// Collects the difference of a partition in `emitting`, which is emitted once it is large enough.
    fn give(
        &self,
        Merged { before, after, .. }: Merged,
        emitting: &mut Emitting,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        emitting.bytes += self.reserve(&before, state)?;
        emitting.bytes += self.reserve(&after, state)?;
        let Emitting { old, new, bytes } = emitting;
        if !self.spec.on_close && before != after {
            old.add(&limited(before, self.spec.limit));
            new.add(&limited(after, self.spec.limit));
        }
        if new.len() + old.len() > OUTPUT_ROWS {
            self.emit(&std::mem::take(old), &std::mem::take(new), state, out)?;
        }
        if new.len() + old.len() == 0 {
            state.take_back(std::mem::take(bytes));
        }
        Ok(())
    }
}

impl Stateful for Over {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Itself
    }

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        let rows = match &self.spec.expiry {
            Some(expiry) => {
                let over_at = expiry.times(&rows.batch)?;
                // A partition without a time never closes: it is there at once, or never.
                let untimed = if self.spec.on_close { Untimed::Dropped } else { Untimed::Kept };
                late.drop_late(0, rows, &over_at, untimed)?
            }
            None => rows,
        };
        if rows.num_rows() > 0 {
            self.input.push(rows);
        }
        Ok(())
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        close::expire(due, state)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let mut closed = Closed::new();
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&self.row_changes(changes)?, state, &mut closed, out)?;
        }
        self.close(closed, state, out)
    }
}
