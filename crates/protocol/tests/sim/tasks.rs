//! The work of tasks: reading, exchanging, counting and summing, and writing into transactions.
//!
//! Owns: a toy computation shaped like the real one, in small steps between which anything may fail. Requests that are
//! under way to the brokers take effect even if their sender is gone.

use crate::broker::{digest, last_record};
use crate::check::{add, row_of, shard_of};
use crate::driver::executor_id;
use crate::executor::tasks_here;
use crate::publish::Slot;
use crate::types::{Agg, Answer, Ev, Fault, Rec, Row, RunTasks, TaskRef, Up};
use crate::world::World;
use highwater_protocol::ids::{OperatorId, ShardId, StageId, TaskId};
use highwater_protocol::offsets::Ranges;
use highwater_protocol::plan::{TaskPlan, TaskWork, WriterPlan};
use highwater_protocol::report::{OperatorMetrics, PartitionReport, StateDelta, TaskReport, WriterReport, WriterToken};
use highwater_protocol::state_delta::DeltaWriter;
use rand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Keys that an attempt changed.
pub type Overlay = BTreeMap<(ShardId, u8), Agg>;

/// The attempt whose tasks run.
pub struct Running {
    pub run: RunTasks,
    tasks: BTreeMap<TaskId, TaskRun>,
}

#[derive(Default)]
struct TaskRun {
    computing: bool,
    unacknowledged: usize,
    writes: VecDeque<(WriterPlan, Vec<Row>)>,
    report: TaskReport,
    overlay: Overlay,
}

impl World {
    pub fn start_tasks(&mut self, executor: usize, run: RunTasks) {
        let (life, attempt) = (self.executors[executor].life, run.attempt);
        let mine: Vec<TaskPlan> = tasks_here(&run, executor).into_iter().cloned().collect();
        let task_run = |task: &TaskPlan| {
            (task.id, TaskRun { report: TaskReport { task: task.id, ..TaskReport::default() }, ..TaskRun::default() })
        };
        let tasks = mine.iter().map(task_run).collect();
        let node = &mut self.executors[executor];
        node.inbox.retain(|(sent, _), _| *sent >= attempt);
        let Some(worker) = node.worker.as_mut() else { return };
        worker.running = Some(Running { run, tasks });
        for task in mine {
            let at = TaskRef { executor, life, attempt, task: task.id };
            match task.work {
                TaskWork::Source { .. } => self.soon(6, Ev::SourceStep(at)),
                TaskWork::Shards { .. } => self.compute_if_complete(executor, task.id),
            }
        }
    }

    /// Returns the task and its plan; `None` if its attempt no longer runs in that life of the worker.
    fn current(&mut self, at: TaskRef) -> Option<(&mut TaskRun, &RunTasks, &TaskPlan)> {
        let node = self.executors.get_mut(at.executor).filter(|node| node.life == at.life && node.alive)?;
        let running = node.worker.as_mut()?.running.as_mut().filter(|running| running.run.attempt == at.attempt)?;
        let plan = running.run.plan.tasks.get(at.task.0 as usize)?;
        Some((running.tasks.get_mut(&at.task)?, &running.run, plan))
    }

    fn slot(&mut self, at: TaskRef, writer: WriterPlan) -> Option<&mut Slot> {
        let node = self.executors.get_mut(at.executor).filter(|node| node.life == at.life && node.alive)?;
        Some(node.worker.as_mut()?.slots.entry(writer).or_default())
    }

    pub fn handle_task(&mut self, event: Ev) {
        match event {
            Ev::Poll { executor, life } => self.poll(executor, life),
            Ev::Restored { executor, life, run, shards } => self.restored(executor, life, run, &shards),
            Ev::SourceStep(at) => self.source_step(at),
            Ev::Exchange { from, to, task, rows } => self.exchange(from, to, task, rows),
            Ev::Exchanged { task, ok, unreachable } => self.exchanged(task, ok, unreachable),
            Ev::ShardStep(at) => self.shard_step(at),
            Ev::WriteStep(at) => self.write_step(at),
            Ev::BrokerInit { task, writer } => {
                let producer = self.reachable().then(|| self.broker.init(writer));
                self.soon(3, Ev::InitDone { task, writer, producer });
            }
            Ev::InitDone { task, writer, producer } => self.init_done(task, writer, producer),
            Ev::BrokerFlush { task, writer, producer, batch, rows } => {
                let txn = self.reachable().then(|| self.broker.flush(writer, producer, batch, &rows)).flatten();
                if txn.is_none() && self.reachable() {
                    self.coverage.hit("writer fenced while writing");
                }
                self.soon(3, Ev::FlushDone { task, writer, txn });
            }
            Ev::FlushDone { task, writer, txn } => self.flush_done(task, writer, txn),
            Ev::BrokerCommit { executor, life, attempt, writer, txn } => {
                self.broker_commit(executor, life, attempt, writer, txn);
            }
            Ev::CommitDone { executor, life, attempt, writer, known } => {
                self.commit_done(executor, life, attempt, writer, known);
            }
            Ev::BrokerAbort { txn } => self.broker.abort(txn),
            _ => {}
        }
    }

    fn fail(&mut self, at: TaskRef, why: &'static str) {
        self.fail_for(at, why, None);
    }

    fn fail_for(&mut self, at: TaskRef, why: &'static str, unreachable: Option<usize>) {
        if self.current(at).is_some() {
            self.coverage.hit(why);
            self.up(at.executor, Up::TaskFailed(at.attempt, at.task, why.into(), unreachable.map(executor_id)));
        }
    }

    pub fn reachable(&self) -> bool {
        self.broker.away_until_ms <= self.now
    }

    /// How long a request to the brokers is under way.
    pub fn request_ms(&mut self) -> i64 {
        if self.chance(self.knobs.slow_request) { self.rng.random_range(20..400) } else { self.delay(5) }
    }

    fn source_step(&mut self, at: TaskRef) {
        if self.chance(self.knobs.task_fails) {
            return self.fail(at, "task failed");
        }
        if self.chance(self.knobs.task_lost) {
            // Its thread hangs: it is never heard of again.
            return self.coverage.hit("task lost");
        }
        let shards = self.config.shards;
        let Some((_, run, plan)) = self.current(at) else { return };
        let TaskWork::Source { ranges, .. } = plan.work.clone() else { return };
        let (run, writers) = (run.clone(), plan.writers.clone());
        let (reports, appended, records) = self.read(&ranges);
        let receivers: Vec<(TaskId, ShardId, ShardId)> = run.plan.tasks_of(StageId(1)).filter_map(shard_task).collect();
        let Some((task, _, _)) = self.current(at) else { return };
        task.report.partitions = reports;
        task.unacknowledged = receivers.len();
        task.writes.extend(writers.into_iter().map(|writer| (writer, appended.clone())));
        for (to, first, end) in receivers {
            let mine = |rec: &&Rec| (first..end).contains(&shard_of(rec.key, shards));
            let rows = records.iter().filter(mine).copied().collect();
            self.soon(5, Ev::Exchange { from: at, to: Self::place_of(&run, to), task: to, rows });
        }
        self.soon(3, Ev::WriteStep(at));
    }

    fn read(
        &self,
        ranges: &Ranges,
    ) -> (BTreeMap<highwater_protocol::offsets::SourcePartition, PartitionReport>, Vec<Row>, Vec<Rec>) {
        let (mut reports, mut appended, mut all) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (partition, range) in ranges {
            let number = partition.tp.partition;
            let slice = &self.broker.source[number as usize][range.start as usize..range.end as usize];
            appended.extend((range.start..range.end).map(|offset| Row::Append(number, offset)));
            all.extend_from_slice(slice);
            let mut checksum = DefaultHasher::new();
            slice.hash(&mut checksum);
            let (records, checksum) = (slice.len() as u64, checksum.finish());
            let last_record = last_record(range.end).filter(|_| records > 0);
            let report = PartitionReport { records, checksum, last_record, ..PartitionReport::default() };
            reports.insert(partition.clone(), report);
        }
        (reports, appended, all)
    }

    /// Delivers rows to another task. A sender may be told to run before the receiver is: its stream then waits, and is
    /// dropped if the sender is cancelled.
    fn exchange(&mut self, from: TaskRef, to: usize, task: TaskId, rows: Vec<Rec>) {
        if self.is_cut(from.executor, to) {
            return self.at(self.now + 10, Ev::Exchanged { task: from, ok: false, unreachable: Some(to) });
        }
        let broken = self.chance(self.knobs.exchange_breaks);
        let node = &mut self.executors[to];
        let running = node.worker.as_ref().and_then(|worker| Some(worker.running.as_ref()?.run.attempt));
        if node.alive && !broken && running.is_none_or(|running| running < from.attempt) {
            if self.current(from).is_some() {
                self.at(self.now + 4, Ev::Exchange { from, to, task, rows });
            }
            return;
        }
        let ok = node.alive && !broken && running == Some(from.attempt);
        if ok {
            node.inbox.entry((from.attempt, task)).or_default().insert(from.task, rows);
            self.compute_if_complete(to, task);
        }
        let unreachable = (!self.executors[to].alive).then_some(to);
        self.soon(3, Ev::Exchanged { task: from, ok, unreachable });
    }

    /// True if these two can never reach one another.
    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.knobs.cut && one.min(other) == 0 && one.max(other) == 1
    }

    fn exchanged(&mut self, at: TaskRef, ok: bool, unreachable: Option<usize>) {
        let Some((task, _, _)) = self.current(at) else { return };
        if !ok {
            let why = if unreachable.is_some() { "executor could not be reached" } else { "exchange broke" };
            return self.fail_for(at, why, unreachable);
        }
        task.unacknowledged -= 1;
        self.soon(1, Ev::WriteStep(at));
    }

    /// Starts a shard task once every sender has sent all its rows.
    fn compute_if_complete(&mut self, executor: usize, task: TaskId) {
        let node = &mut self.executors[executor];
        let life = node.life;
        let Some(running) = node.worker.as_mut().and_then(|worker| worker.running.as_mut()) else { return };
        let attempt = running.run.attempt;
        let senders = running.run.plan.tasks_of(StageId(0)).count();
        let here = node.inbox.get(&(attempt, task)).map_or(0, BTreeMap::len);
        let Some(found) = running.tasks.get_mut(&task) else { return };
        if here == senders && !std::mem::replace(&mut found.computing, true) {
            self.soon(4, Ev::ShardStep(TaskRef { executor, life, attempt, task }));
        }
    }

    fn shard_step(&mut self, at: TaskRef) {
        let (shards, swapped) = (self.config.shards, self.fault == Some(Fault::TombstoneAfterUpsert));
        let Some((_, _, plan)) = self.current(at) else { return };
        let TaskWork::Shards { first, end } = plan.work else { return };
        let writers = plan.writers.clone();
        let repeated = self.fault == Some(Fault::OtherRowsWhenRepeated) && self.is_prepared(at);
        let node = &mut self.executors[at.executor];
        let input = node.inbox.remove(&(at.attempt, at.task)).unwrap_or_default();
        let Some(worker) = node.worker.as_mut() else { return };
        // In the order of senders, not of arrival.
        let mut now: BTreeMap<u8, Answer> = BTreeMap::new();
        for rec in input.values().flatten() {
            let before = || worker.state.get(&shard_of(rec.key, shards)).and_then(|shard| shard.get(&rec.key)).copied();
            let one = now.entry(rec.key).or_insert_with(|| before().map(|agg| (rec.key, agg)).into_iter().collect());
            add(one, rec.key, rec.weight, rec.value);
        }
        let mut delta = DeltaWriter::new(OperatorId(0));
        let (mut overlay, mut rows) = (Overlay::new(), Vec::new());
        for (key, one) in now {
            let shard = shard_of(key, shards);
            let (old, new) =
                (worker.state.get(&shard).and_then(|held| held.get(&key)).copied(), one.get(&key).copied());
            let bytes = new.map(|(count, sum)| [count.to_le_bytes(), sum.to_le_bytes()].concat());
            delta.push(shard, &[key], bytes.as_deref());
            overlay.insert((shard, key), new.unwrap_or_default());
            rows.extend(changelog(key, row_of(old), row_of(new), swapped));
        }
        if repeated {
            rows.push(Row::Keyed(0, Some((99, 99))));
        }
        let (keys, digest) = (delta.keys(), delta.digest());
        let state = StateDelta {
            operator: OperatorId(0),
            first_shard: first,
            end_shard: end,
            keys,
            digest,
            bytes: delta.finish(),
        };
        let Some((task, _, _)) = self.current(at) else { return };
        task.overlay = overlay;
        task.report.operators =
            vec![OperatorMetrics { operator: OperatorId(0), rows_updated: keys, ..OperatorMetrics::default() }];
        task.report.state = if keys > 0 { vec![state] } else { Vec::new() };
        task.writes.extend(writers.into_iter().map(|writer| (writer, rows.clone())));
        self.soon(3, Ev::WriteStep(at));
    }

    fn is_prepared(&mut self, at: TaskRef) -> bool {
        let batch = self.current(at).map(|(_, run, _)| run.plan.batch.0);
        batch.is_some_and(|batch| batch < self.store.records.len() as u64)
    }

    /// Takes the task's next step of writing; the task is done when everything is received and flushed.
    fn write_step(&mut self, at: TaskRef) {
        let Some((task, run, _)) = self.current(at) else { return };
        let Some((writer, rows)) = task.writes.front() else {
            let written = task.report.writers.len() == run.plan.tasks[at.task.0 as usize].writers.len();
            if task.unacknowledged == 0 && written {
                self.task_done(at);
            }
            return;
        };
        let (writer, batch, rows) = (*writer, run.plan.batch, rows.clone());
        if rows.is_empty() || run.published.contains(&writer) {
            let report = WriterReport { plan: writer, rows: rows.len() as u64, digest: digest(&rows), token: None };
            task.report.writers.push(report);
            task.writes.pop_front();
            return self.soon(1, Ev::WriteStep(at));
        }
        let Some(slot) = self.slot(at, writer) else { return };
        if slot.busy {
            // Tries again after the request under way is answered.
            return self.soon(6, Ev::WriteStep(at));
        }
        slot.busy = true;
        slot.flushed = None;
        let (old, producer) = (slot.txn.take(), slot.producer);
        if let Some(txn) = old {
            self.broker.abort(txn);
        }
        let arrives = self.now + self.request_ms();
        self.at(
            arrives,
            match producer {
                Some(producer) => Ev::BrokerFlush { task: at, writer, producer, batch, rows },
                None => Ev::BrokerInit { task: at, writer },
            },
        );
    }

    fn init_done(&mut self, at: TaskRef, writer: WriterPlan, producer: Option<u64>) {
        let Some(slot) = self.slot(at, writer) else { return };
        slot.busy = false;
        slot.producer = producer;
        match producer {
            Some(_) => self.write_step(at),
            None => self.fail(at, "brokers did not answer"),
        }
    }

    fn flush_done(&mut self, at: TaskRef, writer: WriterPlan, txn: Option<usize>) {
        let Some(slot) = self.slot(at, writer) else {
            // The worker has ended meanwhile; it waits for its writers and then aborts.
            if let Some(txn) = txn.filter(|_| self.executors[at.executor].alive) {
                self.soon(3, Ev::BrokerAbort { txn });
            }
            return;
        };
        slot.busy = false;
        slot.txn = txn;
        if txn.is_none() {
            slot.producer = None;
            return self.fail(at, "flush failed");
        }
        let Some((task, _, _)) = self.current(at) else {
            // The attempt was dropped meanwhile.
            return self.soon(3, Ev::BrokerAbort { txn: txn.unwrap_or_default() });
        };
        let Some((_, rows)) = task.writes.pop_front() else { return };
        let token = txn.map(|txn| WriterToken((txn as i64).to_le_bytes().to_vec()));
        let report = WriterReport { plan: writer, rows: rows.len() as u64, digest: digest(&rows), token };
        task.report.writers.push(report);
        if let Some(slot) = self.slot(at, writer) {
            slot.flushed = Some(at.attempt);
        }
        self.write_step(at);
    }

    fn task_done(&mut self, at: TaskRef) {
        self.moment(None, Some(at.executor));
        let Some((task, _, _)) = self.current(at) else { return };
        let (report, overlay) = (task.report.clone(), std::mem::take(&mut task.overlay));
        // A second step finds nothing left to do.
        task.unacknowledged = usize::MAX;
        let Some(worker) = self.executors[at.executor].worker.as_mut() else { return };
        worker.overlays.entry(at.attempt).or_default().push(overlay);
        worker.participant.finished(at.attempt, at.task);
        self.up(at.executor, Up::TaskDone(at.attempt, Box::new(report)));
    }
}

fn shard_task(task: &TaskPlan) -> Option<(TaskId, ShardId, ShardId)> {
    match task.work {
        TaskWork::Shards { first, end } => Some((task.id, first, end)),
        TaskWork::Source { .. } => None,
    }
}

/// The rows that a keyed sink gets for a key. Some changes are written as a tombstone and an upsert, whose order
/// matters; with `swapped` the order is wrong.
fn changelog(key: u8, old: Option<Agg>, new: Option<Agg>, swapped: bool) -> Vec<Row> {
    if old == new {
        return Vec::new();
    }
    match (old, new) {
        (Some(_), Some(_)) if swapped => vec![Row::Keyed(key, new), Row::Keyed(key, None)],
        (Some(_), Some(_)) if key.is_multiple_of(2) => vec![Row::Keyed(key, None), Row::Keyed(key, new)],
        _ => vec![Row::Keyed(key, new)],
    }
}
