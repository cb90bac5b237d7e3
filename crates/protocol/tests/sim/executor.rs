//! A simulated executor process: its session, and one worker around the real participant.
//!
//! Owns: what the executor does with commands and effects. Decisions about attempts are the participant's; the work of
//! tasks is in `tasks`.

use crate::driver::{executor_id, executor_of};
use crate::publish::Slot;
use crate::tasks::{Overlay, Running};
use crate::types::{Answer, Down, Ev, Fault, Rec, RunTasks, Up};
use crate::world::World;
use highwater_protocol::ids::{AttemptId, BatchId, ShardId, TaskId};
use highwater_protocol::offsets::SourcePartition;
use highwater_protocol::participant::{Command, Effect, Participant, RunCommand};
use highwater_protocol::plan::{TaskPlan, TaskWork, WriterPlan};
use highwater_protocol::state_delta::DeltaReader;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Executor {
    pub alive: bool,
    pub hangs_until_ms: i64,
    /// Its session with a driver.
    pub link: Option<usize>,
    /// Number of its worker. Answers to requests of an earlier worker are ignored.
    pub life: u64,
    /// Highest epoch whose commands it has accepted.
    epoch: u64,
    pub worker: Option<Worker>,
    /// Rows from source tasks, by attempt and receiving task, then by sending task.
    pub inbox: BTreeMap<(AttemptId, TaskId), BTreeMap<TaskId, Vec<Rec>>>,
}

/// The query on this executor.
#[derive(Default)]
pub struct Worker {
    pub participant: Participant,
    pub state: BTreeMap<ShardId, Answer>,
    pub overlays: BTreeMap<AttemptId, Vec<Overlay>>,
    /// Overlays of aborted attempts, kept only under `Fault::WrongOverlay`.
    stale: BTreeMap<BatchId, Vec<Overlay>>,
    pub slots: BTreeMap<WriterPlan, Slot>,
    pub running: Option<Running>,
    positions: BTreeMap<SourcePartition, i64>,
    told: BTreeMap<SourcePartition, i64>,
    polling: bool,
}

/// The tasks of a plan that run here.
pub fn tasks_here(run: &RunTasks, executor: usize) -> Vec<&TaskPlan> {
    let me = executor_id(executor);
    run.plan.tasks.iter().filter(|task| run.placement.get(&task.id) == Some(&me)).collect()
}

fn command_of(run: &RunTasks, executor: usize) -> Command {
    let tasks = tasks_here(run, executor);
    let shards = tasks.iter().filter_map(|task| match task.work {
        TaskWork::Shards { first, end } => Some((first.0..end.0).map(ShardId)),
        TaskWork::Source { .. } => None,
    });
    Command::Run(RunCommand {
        attempt: run.attempt,
        batch: run.plan.batch,
        base: run.base,
        tasks: tasks.iter().map(|task| task.id).collect(),
        shards: shards.flatten().collect(),
    })
}

impl World {
    pub fn new_executor(&mut self) {
        self.executors.push(Executor { alive: true, ..Executor::default() });
        let executor = self.executors.len() - 1;
        self.soon(5, Ev::Join { executor });
    }

    /// Connects to a driver: mostly the newest, sometimes one that was replaced and does not know it.
    pub fn join(&mut self, executor: usize) {
        let node = &self.executors[executor];
        if !node.alive || node.link.is_some() {
            return;
        }
        let epoch = node.epoch;
        let answers = |driver: &usize| {
            let node = &self.drivers[*driver];
            node.alive && node.hangs_until_ms <= self.now && node.epoch.0 >= epoch
        };
        let found: Vec<usize> = (0..self.drivers.len()).filter(answers).collect();
        let Some(newest) = found.last().copied() else {
            return self.at(self.now + 15, Ev::Join { executor });
        };
        let driver = if self.chance(0.15) { found[self.rng.random_range(0..found.len())] } else { newest };
        if self.current_driver() != Some(driver) {
            self.coverage.hit("executor joined a replaced driver");
        }
        let link = self.connect(executor, driver);
        let node = &mut self.executors[executor];
        node.link = Some(link);
        node.epoch = self.drivers[driver].epoch.0;
    }

    /// The session is over, and the worker ends with it.
    pub fn executor_loses(&mut self, link: usize) {
        let executor = self.links[link].executor;
        if !self.executors[executor].alive || self.executors[executor].link != Some(link) {
            return;
        }
        self.executors[executor].link = None;
        self.executors[executor].inbox.clear();
        self.close_worker(executor);
        self.soon(25, Ev::Join { executor });
    }

    /// Ends the worker, and aborts its open transactions.
    fn close_worker(&mut self, executor: usize) {
        let node = &mut self.executors[executor];
        node.life += 1;
        if let Some(current) = node.worker.as_ref().and_then(|worker| worker.participant.current()) {
            node.inbox.retain(|(attempt, _), _| *attempt > current);
        }
        let Some(worker) = self.executors[executor].worker.take() else { return };
        for txn in worker.slots.values().filter_map(|slot| slot.txn) {
            self.soon(8, Ev::BrokerAbort { txn });
        }
    }

    pub fn kill_executor(&mut self, executor: usize) {
        let node = &mut self.executors[executor];
        node.alive = false;
        node.life += 1;
        node.worker = None;
        if let Some(link) = node.link.take() {
            self.break_link(link);
        }
    }

    pub fn up(&mut self, executor: usize, msg: Up) {
        if let Some(link) = self.executors[executor].link {
            self.send_up(link, msg);
        }
    }

    pub fn executor_obeys(&mut self, link: usize, msg: Down) {
        let executor = self.links[link].executor;
        if !self.executors[executor].alive || self.executors[executor].link != Some(link) {
            return;
        }
        if matches!(msg, Down::Open) {
            self.close_worker(executor);
            self.executors[executor].worker = Some(Worker::default());
            return;
        }
        let Some(worker) = self.executors[executor].worker.as_mut() else { return };
        let (command, run) = match msg {
            Down::Open => return,
            Down::Assign(partitions) => {
                let kept = |(partition, start, _): &(SourcePartition, i64, Option<i64>)| {
                    let position = worker.positions.get(partition).map_or(*start, |position| *start.max(position));
                    (partition.clone(), position)
                };
                worker.positions = partitions.iter().map(kept).collect();
                worker.told.clear();
                return self.poll_soon(executor);
            }
            Down::Run(run) => (command_of(&run, executor), Some(run)),
            Down::Abort(attempt) => (Command::Abort { attempt }, None),
            Down::Publish(attempt, writers) => (Command::Publish { attempt, writers }, None),
            Down::Committed(attempt) => (Command::Committed { attempt }, None),
        };
        let effects = worker.participant.command(command);
        self.carry_out(executor, effects, run);
    }

    fn carry_out(&mut self, executor: usize, effects: Vec<Effect>, mut run: Option<Box<RunTasks>>) {
        for effect in effects {
            self.note(|_| format!("executor {executor}: {effect:?}"));
            let life = self.executors[executor].life;
            let Some(worker) = self.executors[executor].worker.as_mut() else { return };
            match effect {
                Effect::Cancel { attempt } => self.cancel(executor, attempt),
                Effect::DropState => {
                    worker.state.clear();
                    self.coverage.hit("state dropped");
                }
                Effect::Restore { shards, .. } => {
                    let Some(run) = run.take() else { continue };
                    self.soon(8, Ev::Restored { executor, life, run, shards });
                }
                Effect::Start { .. } => {
                    if let Some(run) = run.take() {
                        self.start_tasks(executor, *run);
                    }
                }
                Effect::Publish { attempt, writers } => {
                    for writer in writers {
                        self.begin_publish(executor, attempt, writer);
                    }
                }
                Effect::AnswerUnknown { attempt, writers } => {
                    self.coverage.hit("publish answered with unknown");
                    for writer in writers {
                        self.up(executor, Up::Published(attempt, writer, false));
                    }
                }
                Effect::Promote { attempt, keep } => self.promote(executor, attempt, &keep),
            }
        }
    }

    fn cancel(&mut self, executor: usize, attempt: AttemptId) {
        self.executors[executor].inbox.retain(|(other, _), _| *other > attempt);
        let keep_stale = self.fault == Some(Fault::WrongOverlay);
        let Some(worker) = self.executors[executor].worker.as_mut() else { return };
        let running = worker.running.take_if(|running| running.run.attempt == attempt);
        let overlays = worker.overlays.remove(&attempt);
        if let (true, Some(running), Some(overlays)) = (keep_stale, running, overlays) {
            worker.stale.insert(running.run.plan.batch, overlays);
        }
        let of_attempt = worker.slots.values_mut().filter(|slot| slot.flushed == Some(attempt));
        let txns: Vec<usize> = of_attempt
            .filter_map(|slot| {
                slot.flushed = None;
                slot.txn.take()
            })
            .collect();
        txns.into_iter().for_each(|txn| self.soon(8, Ev::BrokerAbort { txn }));
    }

    /// Shards have arrived from the checkpoint.
    pub fn restored(&mut self, executor: usize, life: u64, run: Box<RunTasks>, shards: &BTreeSet<ShardId>) {
        if self.executors[executor].life != life {
            return;
        }
        if self.chance(self.knobs.task_fails) {
            self.coverage.hit("restore failed");
            for task in tasks_here(&run, executor) {
                self.up(executor, Up::TaskFailed(run.attempt, task.id, "state could not be fetched".into(), None));
            }
            return;
        }
        let delta = run.base.map(|base| self.store.state(base, shards));
        let Some(worker) = self.executors[executor].worker.as_mut() else { return };
        if !worker.participant.restored(run.attempt) {
            self.coverage.hit("restore came too late");
            return;
        }
        worker.state.retain(|shard, _| !shards.contains(shard));
        for entry in delta.iter().flat_map(|delta| DeltaReader::new(delta).unwrap()) {
            let entry = entry.unwrap();
            let number = |at: usize| i64::from_le_bytes(entry.value.unwrap()[at..at + 8].try_into().unwrap());
            worker.state.entry(entry.shard).or_default().insert(entry.key[0], (number(0), number(8)));
        }
        self.coverage.hit("state restored");
        self.start_tasks(executor, *run);
    }

    fn promote(&mut self, executor: usize, attempt: AttemptId, keep: &BTreeSet<ShardId>) {
        let Some(worker) = self.executors[executor].worker.as_mut() else { return };
        let mut overlays = worker.overlays.remove(&attempt).unwrap_or_default();
        let Some(running) = worker.running.take_if(|running| running.run.attempt == attempt) else {
            return self.violate(format!("executor {executor} promotes {attempt}, which does not run there"));
        };
        let batch = running.run.plan.batch;
        if let Some(stale) = worker.stale.remove(&batch) {
            overlays = stale;
        }
        for ((shard, key), agg) in overlays.into_iter().flatten() {
            let answer = worker.state.entry(shard).or_default();
            if agg == (0, 0) {
                answer.remove(&key);
            } else {
                answer.insert(key, agg);
            }
        }
        worker.state.retain(|shard, _| keep.contains(shard));
        let checked = self.checker.promoted(batch, keep, &worker.state);
        self.coverage.hit("state promoted");
        self.check(checked);
    }

    fn poll_soon(&mut self, executor: usize) {
        let life = self.executors[executor].life;
        let Some(worker) = self.executors[executor].worker.as_mut() else { return };
        if !std::mem::replace(&mut worker.polling, true) {
            self.soon(6, Ev::Poll { executor, life });
        }
    }

    pub fn poll_all(&mut self) {
        (0..self.executors.len()).for_each(|executor| self.poll_soon(executor));
    }

    /// Consumers read on, mostly to the end, and report it.
    pub fn poll(&mut self, executor: usize, life: u64) {
        let node = &mut self.executors[executor];
        let Some(worker) = node.worker.as_mut().filter(|_| node.life == life) else { return };
        worker.polling = false;
        let mut news = Vec::new();
        let mut behind = false;
        for (partition, position) in &mut worker.positions {
            let end = self.broker.source[partition.tp.partition as usize].len() as i64;
            let reach =
                if self.rng.random_bool(0.7) { end } else { self.rng.random_range(*position..=end.max(*position)) };
            *position = reach.max(*position);
            behind |= *position < end;
            if worker.told.insert(partition.clone(), *position) != Some(*position) {
                news.push((partition.clone(), *position, *position == end));
            }
        }
        if !news.is_empty() {
            self.up(executor, Up::Available(news));
        }
        if behind {
            self.poll_soon(executor);
        }
    }

    /// The executor on which a task of a running attempt is placed.
    pub fn place_of(run: &RunTasks, task: TaskId) -> usize {
        executor_of(run.placement[&task])
    }
}
