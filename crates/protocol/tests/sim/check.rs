//! The invariants: what must hold after every durable change, whatever has crashed.
//!
//! Owns: the exact answer over every prepared prefix, and comparing everything durable with it. It looks only at facts
//! (records, transactions, promoted state), never at what the machines believe.

use crate::broker::{Broker, Txn, last_record};
use crate::types::{Agg, Answer};
use highwater_protocol::ids::{BatchId, ShardId, SourceId};
use highwater_protocol::offsets::{Positions, SourcePartition, TopicPartition};
use highwater_protocol::plan::{TaskWork, WriterPlan};
use highwater_protocol::prepare_record::PrepareRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Number of the keyed sink; `APPEND` is that of the appending one.
pub const KEYED: u32 = 0;
pub const APPEND: u32 = 1;

pub fn partition(number: i32) -> SourcePartition {
    SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", number) }
}

pub fn shard_of(key: u8, shards: u16) -> ShardId {
    ShardId((u16::from(key) * 7 + 3) % shards)
}

/// The row of a key; `None` if its count is zero.
pub fn row_of(agg: Option<Agg>) -> Option<Agg> {
    agg.filter(|(count, _)| *count != 0)
}

/// Adds a record's weight and value to the aggregate of its key.
pub fn add(answer: &mut Answer, key: u8, weight: i64, value: i64) {
    let agg = answer.entry(key).or_default();
    *agg = (agg.0 + weight, agg.1 + value);
    if *agg == (0, 0) {
        answer.remove(&key);
    }
}

/// One prepared batch.
struct Batch {
    record: Arc<PrepareRecord>,
    answer: Answer,
    committed: BTreeSet<WriterPlan>,
}

impl Batch {
    fn complete(&self) -> bool {
        self.record.writers.iter().all(|writer| writer.rows == 0 || self.committed.contains(&writer.plan))
    }
}

pub struct Checker {
    shards: u16,
    batches: Vec<Batch>,
    /// What readers of the sinks must see now.
    keyed: Answer,
    appended: BTreeSet<(i32, i64)>,
}

type Checked = Result<(), String>;

impl Checker {
    pub fn new(shards: u16) -> Self {
        Self { shards, batches: Vec::new(), keyed: Answer::new(), appended: BTreeSet::new() }
    }

    /// Positions after the last prepared batch.
    fn positions(&self) -> Positions {
        self.batches.last().map(|batch| batch.record.positions.clone()).unwrap_or_default()
    }

    /// Checks a prepare record that has become durable.
    pub fn prepared(&mut self, record: &Arc<PrepareRecord>, broker: &Broker) -> Checked {
        let batch = record.batch();
        if batch.0 != self.batches.len() as u64 {
            return Err(format!("batch {batch} was prepared where {} belongs", self.batches.len()));
        }
        if self.batches.last().is_some_and(|before| !before.complete()) {
            return Err(format!("batch {batch} was prepared before all writers of the one before were committed"));
        }
        let before = self.positions();
        for (partition, position) in &before {
            if record.positions.get(partition).is_none_or(|now| now < position) {
                return Err(format!("batch {batch}: the position of {} went back", partition.tp));
            }
        }
        let mut answer = self.batches.last().map(|batch| batch.answer.clone()).unwrap_or_default();
        for (partition, position) in &record.positions {
            let start = before.get(partition).copied().unwrap_or(0);
            let range = record.plan.ranges.get(partition);
            if range.map_or((start, start), |range| (range.start, range.end)) != (start, *position) {
                return Err(format!(
                    "batch {batch}: {range:?} of {} does not go from {start} to {position}",
                    partition.tp
                ));
            }
            let (last, expected) = (record.last_records.get(partition).copied(), last_record(*position));
            if last != expected {
                return Err(format!(
                    "batch {batch}: {last:?} for {expected:?} before the position of {}",
                    partition.tp
                ));
            }
            let log = &broker.source[partition.tp.partition as usize];
            for rec in &log[start as usize..*position as usize] {
                add(&mut answer, rec.key, rec.weight, rec.value);
            }
        }
        self.batches.push(Batch { record: record.clone(), answer, committed: BTreeSet::new() });
        Ok(())
    }

    /// Checks a transaction that a broker has committed.
    pub fn published(&mut self, txn: &Txn, broker: &Broker) -> Checked {
        let (batch, writer) = (txn.batch, txn.writer);
        if batch.0 >= self.batches.len() as u64 {
            return Err(format!("{writer:?} published batch {batch} before its record was durable"));
        }
        if batch.0 + 1 != self.batches.len() as u64 {
            return Err(format!("{writer:?} published batch {batch} after a later one was prepared"));
        }
        let now = &mut self.batches[batch.0 as usize];
        let Some(report) = now.record.writers.iter().find(|report| report.plan == writer) else {
            return Err(format!("{writer:?} is no writer of batch {batch}"));
        };
        if (report.rows, report.digest) != (txn.rows, txn.digest) {
            return Err(format!("{writer:?} published different rows of batch {batch} than were prepared"));
        }
        if !now.committed.insert(writer) {
            return Err(format!("{writer:?} published batch {batch} twice"));
        }
        self.expect(batch, writer);
        self.visible(broker, &format!("after {writer:?} published batch {batch}"))
    }

    /// From now on, readers must see this writer's part of the batch.
    fn expect(&mut self, batch: BatchId, writer: WriterPlan) {
        let now = &self.batches[batch.0 as usize];
        let Some(task) = now.record.plan.tasks.iter().find(|task| task.writers.contains(&writer)) else { return };
        if writer.sink.0 == APPEND {
            if let TaskWork::Source { ranges, .. } = &task.work {
                for (partition, range) in ranges {
                    self.appended.extend((range.start..range.end).map(|offset| (partition.tp.partition, offset)));
                }
            }
            return;
        }
        let TaskWork::Shards { first, end } = &task.work else { return };
        let mine = |key: &u8| (*first..*end).contains(&shard_of(*key, self.shards));
        self.keyed.retain(|key, _| !mine(key));
        let rows = now.answer.iter().filter(|(key, _)| mine(key));
        self.keyed.extend(rows.filter_map(|(key, agg)| Some((*key, row_of(Some(*agg))?))));
    }

    fn visible(&self, broker: &Broker, when: &str) -> Checked {
        let (keyed, appended) = broker.visible()?;
        if keyed != self.keyed {
            return Err(format!("{when}: the keyed sink holds {keyed:?}, not {:?}", self.keyed));
        }
        if appended != self.appended {
            let wrong: Vec<_> = appended.symmetric_difference(&self.appended).collect();
            return Err(format!("{when}: the appending sink is wrong about {wrong:?}"));
        }
        Ok(())
    }

    /// Checks a batch that a driver reports as committed.
    pub fn committed(&self, record: &PrepareRecord, broker: &Broker) -> Checked {
        let batch = record.batch();
        let Some(known) = self.batches.get(batch.0 as usize) else {
            return Err(format!("batch {batch} was called committed before it was prepared"));
        };
        if known.record.positions != record.positions {
            return Err(format!("batch {batch} was called committed with other positions than were prepared"));
        }
        if !known.complete() {
            return Err(format!("batch {batch} was called committed while some writers do not hold it"));
        }
        if batch.0 + 1 == self.batches.len() as u64 {
            let rows = known.answer.iter().filter_map(|(key, agg)| Some((*key, row_of(Some(*agg))?)));
            if rows.collect::<Answer>() != self.keyed {
                return Err(format!("batch {batch} is committed and the sink is not the answer over its prefix"));
            }
        }
        self.visible(broker, &format!("when batch {batch} was committed"))
    }

    /// Checks an overlay that an executor has promoted to the state of these shards.
    pub fn promoted(&self, batch: BatchId, shards: &BTreeSet<ShardId>, state: &BTreeMap<ShardId, Answer>) -> Checked {
        let Some(known) = self.batches.get(batch.0 as usize) else {
            return Err(format!("state of batch {batch} was promoted before it was prepared"));
        };
        let mut expected: BTreeMap<ShardId, Answer> = BTreeMap::new();
        for (key, agg) in &known.answer {
            expected.entry(shard_of(*key, self.shards)).or_default().insert(*key, *agg);
        }
        for shard in shards {
            let held = state.get(shard).filter(|held| !held.is_empty());
            if held != expected.get(shard) {
                let wanted = expected.get(shard);
                return Err(format!("state of shard {shard} after batch {batch} is {held:?}, not {wanted:?}"));
            }
        }
        Ok(())
    }

    /// Checks the end: everything produced is committed, and the sinks hold the answer over all of it.
    pub fn at_the_end(&self, broker: &Broker) -> Checked {
        let mut answer = Answer::new();
        for rec in broker.source.iter().flatten() {
            add(&mut answer, rec.key, rec.weight, rec.value);
        }
        answer.retain(|_, agg| agg.0 != 0);
        if answer != self.keyed
            || self.appended.len() != broker.source.iter().map(Vec::len).sum::<usize>() * self.appends()
        {
            return Err("caught up, and the sinks are not the answer over all records".into());
        }
        self.visible(broker, "at the end")
    }

    /// Returns 1 if the query has the appending sink, else 0.
    fn appends(&self) -> usize {
        let has = |batch: &Batch| batch.record.writers.iter().any(|writer| writer.plan.sink.0 == APPEND);
        usize::from(self.batches.iter().any(has))
    }

    pub fn batches(&self) -> usize {
        self.batches.len()
    }
}
