//! A simulated driver process: the real query machine, its members, and the effects of its actions.
//!
//! Owns: what the driver does around the machine. Decisions are the machine's alone.

use crate::broker::last_record;
use crate::check::partition;
use crate::store::Refused;
use crate::types::{Down, Ev, Fault, Question, Rec, RunTasks, Up};
use crate::world::World;
use highwater_protocol::clock::Now;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId, Epoch, ExecutorId, SinkId, SourceId};
use highwater_protocol::offsets::{LastRecords, LogEnds, SourcePartition};
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::query::{
    Action, CommittedBatch, End, Event, ExecutorInfo, PublishOutcome, QueryConfig, QueryMachine, Resolution, TopicLook,
};
use highwater_protocol::report::WriterReport;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// Id of the source topic, which is never recreated here.
pub const TOPIC_ID: &str = "topic";

pub struct Driver {
    pub epoch: Epoch,
    pub alive: bool,
    pub hangs_until_ms: i64,
    /// Number of the query's run in this driver process.
    pub run: u64,
    pub machine: Option<QueryMachine>,
    /// Live executors and their links.
    members: BTreeMap<usize, usize>,
    /// The earliest wake-up that is scheduled.
    wake_at_ms: Option<i64>,
    /// The first resolution of a run is answered wrongly under `Fault::SkippedReplay`.
    resolved: bool,
    committed: Option<BatchId>,
    /// The last batch planned in this run: when it was planned, and its batch time.
    planned: Option<(i64, i64)>,
}

pub fn executor_id(executor: usize) -> ExecutorId {
    ExecutorId(Uuid::from_u128(executor as u128 + 1))
}

pub fn executor_of(id: ExecutorId) -> usize {
    id.0.as_u128() as usize - 1
}

impl World {
    pub fn start_driver(&mut self) {
        let epoch = self.store.claim();
        self.drivers.push(Driver {
            epoch,
            alive: true,
            hangs_until_ms: 0,
            run: 0,
            machine: None,
            members: BTreeMap::new(),
            wake_at_ms: None,
            resolved: false,
            committed: None,
            planned: None,
        });
        let driver = self.drivers.len() - 1;
        if self.calm {
            self.break_links_except(driver);
        }
        self.start_run(driver);
    }

    /// Starts the query from its checkpoint.
    pub fn start_run(&mut self, driver: usize) {
        if !self.drivers[driver].alive || self.drivers[driver].machine.is_some() {
            return;
        }
        if self.fault == Some(Fault::HeadGoesBack) {
            self.lose_newest_records();
        }
        let mut head = self.store.latest();
        if head.is_some() {
            self.coverage.hit("recovered from a prepared batch");
        }
        if self.fault == Some(Fault::OffsetRegress)
            && let Some(head) = &mut head
            && let Some(position) = head.positions.values_mut().find(|position| **position > 0)
        {
            *position -= 1;
        }
        let node = &mut self.drivers[driver];
        node.run += 1;
        (node.wake_at_ms, node.resolved, node.committed) = (None, false, None);
        let reserved_writers = match self.fault {
            Some(Fault::ForgottenWriters) => BTreeMap::new(),
            _ => self.store.reserved.clone(),
        };
        let first_attempt = node.run << 32;
        let config = QueryConfig { epoch: node.epoch, first_attempt, reserved_writers, ..self.config.clone() };
        node.planned = None;
        let now = Now { ms: self.now, wall_ms: self.now + self.skew_ms };
        let (machine, actions) = QueryMachine::recover(config, head, now);
        node.machine = Some(machine);
        self.act(driver, actions);
        let members = self.members(driver);
        self.step(driver, Event::Executors(members));
        // Partitions are looked up repeatedly; some are found late.
        self.look_soon(driver, 60);
        // An executor that hears of another topic id from a broker that lags.
        if self.chance(0.2) {
            let changed = Event::TopicChanged { source: SourceId(0), found: "another".into() };
            let (run, wait) = (self.drivers[driver].run, self.delay(200));
            self.at(self.now + wait, Ev::Tell { driver, run, event: Box::new(changed) });
        }
    }

    /// Asks the brokers about the source's topic; the answer may be stale when it arrives.
    fn look_soon(&mut self, driver: usize, most: i64) {
        let ends = |log: &Vec<Rec>| LogEnds { earliest: 0, latest: log.len() as i64, log_end: log.len() as i64 };
        let logs = self.broker.source.iter().enumerate();
        let ends = logs.map(|(number, log)| (partition(number as i32), ends(log))).collect();
        let look = TopicLook { source: SourceId(0), id: Some(TOPIC_ID.into()), ends };
        let (run, wait) = (self.drivers[driver].run, self.delay(most));
        self.at(self.now + wait, Ev::Tell { driver, run, event: Box::new(Event::Topic(look)) });
    }

    pub fn kill_driver(&mut self, driver: usize) {
        self.drivers[driver].alive = false;
        self.drivers[driver].machine = None;
        self.drivers[driver].members.clear();
        for link in 0..self.links.len() {
            if self.links[link].driver == driver {
                self.break_link(link);
            }
        }
    }

    fn members(&self, driver: usize) -> Vec<ExecutorInfo> {
        let info = |(executor, link): (&usize, &usize)| ExecutorInfo {
            id: executor_id(*executor),
            address: String::new(),
            slots: 1,
            session: *link as u64,
        };
        self.drivers[driver].members.iter().map(info).collect()
    }

    pub fn register(&mut self, link: usize) {
        let (driver, executor) = (self.links[link].driver, self.links[link].executor);
        if !self.drivers[driver].alive || self.links[link].broken {
            return;
        }
        if self.drivers[driver].members.insert(executor, link).is_some() {
            self.coverage.hit("executor came back before it was missed");
        }
        let members = self.members(driver);
        self.step(driver, Event::Executors(members));
    }

    /// Handles a link that is broken or whose lease has lapsed.
    pub fn driver_loses(&mut self, link: usize, why: &Ev) {
        let (driver, executor) = (self.links[link].driver, self.links[link].executor);
        if matches!(why, Ev::LeaseLapsed { .. }) {
            if self.executors[executor].hangs_until_ms <= self.now {
                return;
            }
            self.break_link(link);
        }
        if self.drivers[driver].members.get(&executor) != Some(&link) {
            return;
        }
        self.drivers[driver].members.remove(&executor);
        let members = self.members(driver);
        self.step(driver, Event::Executors(members));
    }

    pub fn driver_hears(&mut self, link: usize, msg: Up) {
        let executor = executor_id(self.links[link].executor);
        let event = match msg {
            Up::Available(partitions) => Event::Available { executor, partitions, marks: Default::default() },
            Up::TaskDone(attempt, report) => Event::TaskDone { attempt, executor, report },
            Up::TaskFailed(attempt, task, message, unreachable) => {
                Event::TaskFailed { attempt, task, kind: ErrorKind::Retry, message, unreachable }
            }
            Up::Published(attempt, writer, known) => {
                let outcome = if known { PublishOutcome::Published } else { PublishOutcome::Unknown };
                Event::Published { attempt, writer, outcome }
            }
        };
        self.step(self.links[link].driver, event);
    }

    pub fn tell(&mut self, driver: usize, run: u64, event: Event) {
        if self.drivers[driver].run == run {
            self.step(driver, event);
        }
    }

    pub fn wake(&mut self, driver: usize, run: u64) {
        if self.drivers[driver].run == run && self.drivers[driver].wake_at_ms == Some(self.now) {
            self.drivers[driver].wake_at_ms = None;
            self.step(driver, Event::Tick);
        }
    }

    fn step(&mut self, driver: usize, event: Event) {
        let now = Now { ms: self.now, wall_ms: self.now + self.skew_ms };
        let Some(machine) = self.drivers[driver].machine.as_mut() else { return };
        let before = machine.positions().clone();
        let actions = machine.step(event, now);
        let regressed = before.iter().any(|(partition, old)| machine.positions().get(partition) < Some(old));
        let wake = machine.next_wake_ms();
        if regressed {
            self.violate("a driver's positions went back".into());
        }
        self.act(driver, actions);
        let node = &mut self.drivers[driver];
        if let Some(at) = wake.filter(|at| node.machine.is_some() && node.wake_at_ms.is_none_or(|before| *at < before))
        {
            node.wake_at_ms = Some(at);
            let run = node.run;
            self.at(at, Ev::Wake { driver, run });
        }
    }

    fn act(&mut self, driver: usize, actions: Vec<Action>) {
        for action in actions {
            if !self.drivers[driver].alive {
                return;
            }
            self.note(|_| format!("driver {driver}: {}", brief(&action)));
            match action {
                Action::Open { executor } => self.tell_executor(driver, executor, Down::Open),
                Action::LookAtTopic { .. } => {
                    self.coverage.hit("topic doubted");
                    self.look_soon(driver, 30);
                }
                Action::Assign { executor, partitions, last_records, .. } => {
                    self.check_last_records(&partitions, &last_records);
                    self.tell_executor(driver, executor, Down::Assign(partitions));
                }
                Action::Run { attempt, plan, placement, base, published } => {
                    self.coverage.hit("attempt");
                    if plan.ranges.is_empty() {
                        self.coverage.hit("windows closed without records");
                    }
                    self.check_time(driver, plan.timestamp_ms);
                    let run = RunTasks { attempt, plan, placement, base, published };
                    for executor in run.placement.values().copied().collect::<BTreeSet<_>>() {
                        self.tell_executor(driver, executor, Down::Run(Box::new(run.clone())));
                    }
                }
                Action::Abort { attempt, executors, .. } => {
                    self.coverage.hit("attempt aborted");
                    executors.into_iter().for_each(|id| self.tell_executor(driver, id, Down::Abort(attempt)));
                }
                Action::Persist { record } => self.begin_persist(driver, record),
                Action::Publish { attempt, executor, writers, .. } => self.publish(driver, attempt, executor, writers),
                Action::ReserveWriters { counts } => {
                    let run = self.drivers[driver].run;
                    self.soon(6, Ev::Reserve { driver, run, counts });
                }
                Action::Resolve { number, batch, writers, whole } => {
                    self.coverage.hit("writers resolved");
                    let run = self.drivers[driver].run;
                    self.soon(6, Ev::Fence { driver, run, question: Question { number, batch, writers, whole } });
                }
                // Rows of the simulation look up no files.
                Action::ReleaseFiles { .. } => {}
                Action::Committed(batch) => self.commit(driver, &batch),
                Action::Ended(end) => self.end(driver, end),
            }
        }
    }

    /// Checks that an executor gets either no last record or the right one.
    fn check_last_records(&mut self, partitions: &[(SourcePartition, i64, Option<i64>)], last_records: &LastRecords) {
        for (partition, start, _) in partitions {
            if let Some(last) = last_records.get(partition)
                && last_record(*start) != Some(*last)
            {
                self.violate(format!("{last:?} is not the last record before {start} of {}", partition.tp));
            }
        }
    }

    /// Checks that the time of batches neither stands still nor leaps, whatever the wall clock does. A batch that is
    /// finished for another driver keeps its time.
    fn check_time(&mut self, driver: usize, timestamp_ms: i64) {
        if self.fault == Some(Fault::HeadGoesBack) {
            return; // A lost record could have shown that this batch is finished for another driver.
        }
        let node = &mut self.drivers[driver];
        if self.store.records.iter().any(|record| record.plan.timestamp_ms == timestamp_ms) {
            return;
        }
        let Some((at_ms, before_ms)) = node.planned.replace((self.now, timestamp_ms)) else { return };
        let (passed, advanced) = (self.now - at_ms, timestamp_ms - before_ms);
        if advanced < passed / 2 - 1 || advanced > passed * 2 + 1 {
            self.violate(format!("the time of batches advanced by {advanced} ms in {passed} ms"));
        }
    }

    fn tell_executor(&mut self, driver: usize, executor: ExecutorId, msg: Down) {
        if let Some(link) = self.drivers[driver].members.get(&executor_of(executor)).copied() {
            self.send_down(link, msg);
        }
    }

    /// All writers are flushed by now, so that fencing by a later owner reaches every one of them. It remains to check
    /// that there is no later owner yet: a repeated batch is published without another write to the head store, which
    /// would have been refused.
    fn publish(&mut self, driver: usize, attempt: AttemptId, executor: ExecutorId, writers: Vec<WriterPlan>) {
        if self.drivers[driver].epoch.0 != self.store.epoch && self.fault != Some(Fault::NoEpochCheck) {
            self.coverage.hit("stale driver held back from publishing");
            return self.kill_driver(driver);
        }
        self.tell_executor(driver, executor, Down::Publish(attempt, writers));
        self.moment(Some(driver), None);
    }

    fn begin_persist(&mut self, driver: usize, record: Arc<PrepareRecord>) {
        let run = self.drivers[driver].run;
        self.moment(Some(driver), None);
        if self.fault == Some(Fault::CommitBeforePrepare) {
            let event = Box::new(Event::Persisted { batch: record.batch() });
            self.soon(2, Ev::Tell { driver, run, event });
            self.at(self.now + 60, Ev::Persist { driver, run, record });
            return;
        }
        self.soon(6, Ev::Persist { driver, run, record });
    }

    pub fn persist(&mut self, driver: usize, run: u64, mut record: Arc<PrepareRecord>) {
        if !self.drivers[driver].alive {
            return;
        }
        let batch = record.batch();
        if self.fault == Some(Fault::LostStateDelta) && self.rng.random_bool(0.3) {
            let mut torn = (*record).clone();
            torn.state.pop();
            record = Arc::new(torn);
        }
        let event = match self.store.prepare(self.drivers[driver].epoch, record.clone()) {
            Ok(()) => {
                let checked = self.checker.prepared(&record, &self.broker);
                self.check(checked);
                Event::Persisted { batch }
            }
            Err(Refused { kind, message }) => {
                self.coverage.hit(if kind == ErrorKind::Fenced { "stale driver refused" } else { "prepare refused" });
                Event::PersistFailed { batch, kind, message }
            }
        };
        self.moment(Some(driver), None);
        self.soon(3, Ev::Tell { driver, run, event: Box::new(event) });
    }

    /// Makes the numbers of writers durable, or fails for now.
    pub fn reserve(&mut self, driver: usize, run: u64, counts: BTreeMap<SinkId, u32>) {
        if !self.drivers[driver].alive {
            return;
        }
        let event = if self.chance(self.knobs.resolve_fails) {
            self.coverage.hit("writers could not be reserved at first");
            Event::ReserveFailed { kind: ErrorKind::Retry, message: "no space".into() }
        } else {
            match self.store.reserve(self.drivers[driver].epoch, counts.clone()) {
                Ok(()) => Event::WritersReserved(counts),
                Err(Refused { kind, message }) => Event::ReserveFailed { kind, message },
            }
        };
        self.moment(Some(driver), None);
        self.soon(3, Ev::Tell { driver, run, event: Box::new(event) });
    }

    /// The head store loses some of its newest records, of which a sink holds rows.
    fn lose_newest_records(&mut self) {
        let keep = self.store.records.len().saturating_sub(self.rng.random_range(1..3));
        let published = self.broker.writers().into_iter().filter_map(|writer| self.broker.progress(writer, 0));
        if published.map(|(batch, _)| batch.0).max().is_some_and(|newest| newest >= keep as u64) {
            self.store.records.truncate(keep);
            self.coverage.hit("head went back");
            if self.rng.random_bool(0.5) {
                self.store.reserved.clear();
            }
        }
    }

    /// The first half of a resolution: every writer is fenced.
    pub fn fence(&mut self, driver: usize, run: u64, question: Question) {
        let away = self.broker.away_until_ms > self.now;
        if away || self.chance(self.knobs.resolve_fails) {
            self.coverage.hit("resolution failed at first");
            let (kind, message) = (ErrorKind::Retry, "brokers are away".to_string());
            self.soon(2, Ev::Tell { driver, run, event: Box::new(Event::Trouble { executor: None, kind, message }) });
            let again = self.now + 20 + self.delay(10);
            return self.at(again, Ev::Fence { driver, run, question });
        }
        if self.fault == Some(Fault::ProgressBeforeFencing) {
            self.at(self.now + 8, Ev::FenceLate { writers: question.writers.clone() });
            return self.read_progress(driver, run, question);
        }
        let whole = question.whole;
        let mut fenced: BTreeSet<WriterPlan> = question.writers.iter().map(|writer| writer.plan).collect();
        if whole {
            fenced.extend(self.broker.writers());
        }
        for writer in fenced {
            self.broker.init(writer);
        }
        let checks_fencing = matches!(self.fault, None | Some(Fault::ForgottenWriters));
        let newest = self.drivers[driver].epoch.0 == self.store.epoch;
        if whole && checks_fencing && newest && self.broker.has_open() {
            self.violate("a run began while a transaction of an earlier one was open".into());
        }
        self.soon(6, Ev::ReadProgress { driver, run, question });
    }

    /// The second half of a resolution: what the writers hold.
    pub fn read_progress(&mut self, driver: usize, run: u64, question: Question) {
        let Question { number, batch, writers, whole } = question;
        let place =
            |writer: &WriterReport| Some(i64::from_le_bytes(writer.token.as_ref()?.0.as_slice().try_into().ok()?));
        let places: Option<Vec<i64>> = writers.iter().map(place).collect();
        let from = places.filter(|_| !whole).and_then(|places| places.into_iter().min()).unwrap_or(0);
        let skip = self.fault == Some(Fault::SkippedReplay) && !self.drivers[driver].resolved;
        self.drivers[driver].resolved = true;
        let mut found: BTreeMap<WriterPlan, Resolution> = BTreeMap::new();
        let mut asked: BTreeMap<WriterPlan, Option<u128>> =
            writers.iter().map(|writer| (writer.plan, Some(writer.digest))).collect();
        if whole {
            for writer in self.broker.writers() {
                asked.entry(writer).or_insert(None);
            }
        }
        for (plan, digest) in asked {
            let held = self.broker.progress(plan, from).filter(|_| whole || batch.is_some());
            let resolution = match held {
                _ if skip && digest.is_some_and(|digest| digest != 0) => Resolution::Published,
                Some((held, found)) if Some(held) == batch && digest == Some(found) => Resolution::Published,
                Some((held, _)) if Some(held) >= batch => Resolution::Ahead { batch: held },
                _ => Resolution::NotPublished,
            };
            self.coverage.hit(match resolution {
                Resolution::Published => "writer found published",
                Resolution::NotPublished => "writer found unpublished",
                Resolution::Ahead { .. } => "writer found ahead",
            });
            found.insert(plan, resolution);
        }
        let told = self.now + 9 + self.delay(4);
        self.at(told, Ev::Tell { driver, run, event: Box::new(Event::Resolved { number, found }) });
    }

    fn commit(&mut self, driver: usize, batch: &CommittedBatch) {
        let id = batch.record.batch();
        let before = self.drivers[driver].committed.replace(id);
        if before.is_some_and(|before| before.next() != id) {
            self.violate(format!("a driver committed batch {id} after {before:?}"));
        }
        let checked = self.checker.committed(&batch.record, &self.broker);
        self.check(checked);
        self.moment(Some(driver), None);
        if !self.drivers[driver].alive {
            return;
        }
        for executor in &batch.executors {
            self.tell_executor(driver, *executor, Down::Committed(batch.attempt));
        }
        self.store.note_committed(self.drivers[driver].epoch, id);
    }

    fn end(&mut self, driver: usize, end: End) {
        self.drivers[driver].machine = None;
        match end {
            End::Stopped => {
                let again = self.now + self.delay(20);
                self.at(again, Ev::RunStart { driver });
            }
            End::Fenced => {
                self.coverage.hit("stale driver gave up");
                self.kill_driver(driver);
            }
            // A driver that was replaced finds what its successor wrote; it may stop in any way.
            End::Failed(_) if self.drivers[driver].epoch.0 != self.store.epoch => self.kill_driver(driver),
            End::Failed(message) => self.violate(format!("the query failed: {message}")),
            End::Finished => self.violate("the query finished, though it has no end".into()),
        }
    }
}

/// The action without its long parts.
fn brief(action: &Action) -> String {
    match action {
        Action::Run { attempt, plan, placement, published, .. } => {
            let ranges: Vec<_> =
                plan.ranges.iter().map(|(p, range)| (p.tp.partition, range.start, range.end)).collect();
            let placement: Vec<_> = placement.iter().map(|(task, id)| (task.0, executor_of(*id))).collect();
            format!("run {attempt} of batch {} {ranges:?} on {placement:?}, published {published:?}", plan.batch)
        }
        Action::Persist { record } => format!("persist batch {}", record.batch()),
        Action::Committed(batch) => format!("committed batch {} by {}", batch.record.batch(), batch.attempt),
        Action::Resolve { batch, writers, whole, .. } => {
            let writers: Vec<_> = writers.iter().map(|w| (w.plan.sink.0, w.plan.writer.0)).collect();
            format!("resolve {batch:?} {writers:?}{}", if *whole { " and all others" } else { "" })
        }
        other => format!("{other:?}"),
    }
}
