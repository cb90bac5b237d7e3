//! The simulated world: one clock, one queue of events, one random generator; everything is determined by the seed.
//!
//! Owns: the event loop, links between hosts, the verdict. Does not own: what hosts do (`driver`, `executor`, `tasks`),
//! faults (`chaos`), the invariants (`check`).

use crate::broker::Broker;
use crate::chaos::Knobs;
use crate::check::{Checker, partition};
use crate::driver::Driver;
use crate::executor::Executor;
use crate::store::HeadStore;
use crate::types::{Coverage, Down, Ev, Fault, Up};
use highwater_protocol::query::QueryConfig;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An executor whose lease was not renewed for this long is dead to its driver, milliseconds.
pub const LEASE_MS: i64 = 150;
/// Time within which every schedule catches up once faults are over.
const MAX_MS: i64 = 120_000;
const MAX_EVENTS: u64 = 60_000;

/// A connection between one executor and one driver: ordered, and broken in both directions at once. Messages under way
/// may or may not arrive, and each end notices at its own time.
pub struct Link {
    pub driver: usize,
    pub executor: usize,
    pub broken: bool,
    /// Messages that arrive later than this are lost: at the driver, at the executor.
    cut: [i64; 2],
    last: [i64; 2],
}

pub struct World {
    pub now: i64,
    /// How far the wall clock is ahead.
    pub skew_ms: i64,
    pub rng: ChaCha8Rng,
    pub fault: Option<Fault>,
    pub knobs: Knobs,
    pub config: QueryConfig,
    pub broker: Broker,
    pub store: HeadStore,
    pub drivers: Vec<Driver>,
    pub executors: Vec<Executor>,
    pub links: Vec<Link>,
    pub checker: Checker,
    pub coverage: Coverage,
    pub calm: bool,
    pub violation: Option<String>,
    pub unproduced: usize,
    seq: u64,
    queue: BinaryHeap<Reverse<(i64, u64)>>,
    events: BTreeMap<u64, Ev>,
    pub trace: Option<Vec<String>>,
}

/// The result of one schedule.
pub struct Outcome {
    pub violation: Option<String>,
    pub coverage: Coverage,
    pub trace: Vec<String>,
}

/// Runs the schedule of one seed to its end, or to the first violation.
pub fn run(seed: u64, fault: Option<Fault>, traced: bool) -> Outcome {
    let mut world = World::new(seed, fault, traced);
    // A panic counts as a violation, so that its seed and trace are reported.
    if catch_unwind(AssertUnwindSafe(|| world.run())).is_err() {
        world.violate("panicked".into());
    }
    let mut coverage = world.coverage;
    *coverage.0.entry("batches prepared").or_default() += world.checker.batches() as u64;
    Outcome { violation: world.violation, coverage, trace: world.trace.unwrap_or_default() }
}

impl World {
    fn new(seed: u64, fault: Option<Fault>, traced: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (knobs, config) = (Knobs::draw(&mut rng), crate::chaos::draw_config(&mut rng));
        let mut world = Self {
            now: 1_000,
            skew_ms: 0,
            fault,
            checker: Checker::new(config.shards),
            broker: Broker::new(fault),
            store: HeadStore { fault, ..HeadStore::default() },
            knobs,
            config,
            rng,
            drivers: Vec::new(),
            executors: Vec::new(),
            links: Vec::new(),
            coverage: Coverage::default(),
            calm: false,
            violation: None,
            unproduced: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            trace: traced.then(Vec::new),
        };
        world.draw_schedule();
        world
    }

    /// Puts an event into the queue.
    pub fn at(&mut self, time: i64, event: Ev) {
        self.seq += 1;
        self.queue.push(Reverse((time.max(self.now), self.seq)));
        self.events.insert(self.seq, event);
    }

    /// Puts an event into the queue after a random delay of up to `most` milliseconds; short delays are more likely.
    pub fn soon(&mut self, most: i64, event: Ev) {
        let delay = self.delay(most);
        self.at(self.now + delay, event);
    }

    pub fn delay(&mut self, most: i64) -> i64 {
        let most = if self.rng.random_bool(0.1) { most * 5 } else { most };
        self.rng.random_range(0..=most)
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        !self.calm && probability > 0.0 && self.rng.random_bool(probability)
    }

    pub fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>6} {}", self.now, text(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    pub fn check(&mut self, checked: Result<(), String>) {
        if let Err(message) = checked {
            self.violate(message);
        }
    }

    pub fn violate(&mut self, message: String) {
        self.note(|_| format!("VIOLATION {message}"));
        self.violation.get_or_insert(message);
    }

    fn run(&mut self) {
        let mut count = 0;
        while self.violation.is_none() && !self.caught_up() {
            let Some(Reverse((time, seq))) = self.queue.pop() else {
                return self.violate("nothing is left to happen, and records are left unread".into());
            };
            let Some(event) = self.events.remove(&seq) else { continue };
            self.now = time;
            count += 1;
            if time > MAX_MS || count > MAX_EVENTS {
                return self.violate(format!("not caught up after {count} events, {time} ms"));
            }
            if let Some(later) = self.sleeps_until(&event) {
                // Keeps its old number, so that messages from one host to another stay in order.
                self.queue.push(Reverse((later, seq)));
                self.events.insert(seq, event);
                continue;
            }
            self.note(|_| format!("{event:?}"));
            self.handle(event);
        }
        if self.violation.is_none() {
            let checked = self.checker.at_the_end(&self.broker);
            self.check(checked);
            self.check_open_transactions();
        }
    }

    /// An open transaction hides later records from the sink's readers. A driver that lives throughout has ended all of
    /// them; it cannot know of one that an unprepared attempt of a lost driver left on a lost executor.
    fn check_open_transactions(&mut self) {
        if self.fault.is_some() || !self.broker.has_open() {
            return;
        }
        let driver_lost = ["driver crashed", "driver replaced while alive", "query stopped and started"];
        if driver_lost.iter().any(|what| self.coverage.0.contains_key(what)) {
            self.coverage.hit("transaction left open by a lost driver's attempt");
        } else {
            self.violate("a transaction of a dropped attempt was left open".into());
        }
    }

    /// True if faults are over and the newest driver has committed everything there is.
    fn caught_up(&self) -> bool {
        if !self.calm || self.unproduced > 0 {
            return false;
        }
        let Some(machine) = self.current_driver().and_then(|driver| self.drivers[driver].machine.as_ref()) else {
            return false;
        };
        let ends = self.broker.source.iter().enumerate();
        let mut ends = ends.map(|(number, log)| (partition(number as i32), log.len() as i64));
        ends.all(|(partition, end)| end == 0 || machine.positions().get(&partition) == Some(&end))
    }

    /// The driver with the newest epoch; `None` if it is dead.
    pub fn current_driver(&self) -> Option<usize> {
        self.drivers.len().checked_sub(1).filter(|driver| self.drivers[*driver].alive)
    }

    /// When the host of this event resumes; `None` if it does not hang.
    fn sleeps_until(&self, event: &Ev) -> Option<i64> {
        let executor = |executor: usize| self.executors[executor].hangs_until_ms;
        let driver = |driver: usize| self.drivers[driver].hangs_until_ms;
        let until = match event {
            Ev::ToDriver { link, .. } | Ev::DriverLost { link } | Ev::Registered { link } => {
                driver(self.links[*link].driver)
            }
            Ev::RunStart { driver: d }
            | Ev::Wake { driver: d, .. }
            | Ev::Persist { driver: d, .. }
            | Ev::Reserve { driver: d, .. }
            | Ev::Tell { driver: d, .. } => driver(*d),
            Ev::ToExecutor { link, .. } | Ev::ExecutorLost { link } => executor(self.links[*link].executor),
            Ev::Join { executor: e }
            | Ev::Poll { executor: e, .. }
            | Ev::Restored { executor: e, .. }
            | Ev::CommitDone { executor: e, .. }
            | Ev::Exchange { to: e, .. } => executor(*e),
            Ev::SourceStep(task) | Ev::ShardStep(task) | Ev::WriteStep(task) | Ev::Exchanged { task, .. } => {
                executor(task.executor)
            }
            Ev::InitDone { task, .. } | Ev::FlushDone { task, .. } => executor(task.executor),
            _ => return None,
        };
        (until > self.now).then_some(until)
    }

    fn handle(&mut self, event: Ev) {
        match event {
            Ev::Produce(number, records) => self.produce(number, records),
            Ev::Chaos => self.strike(),
            Ev::Calm => self.calm_down(),
            Ev::ToDriver { link, at, msg } => {
                if at <= self.links[link].cut[0] {
                    self.driver_hears(link, msg);
                }
            }
            Ev::ToExecutor { link, at, msg } => {
                if at <= self.links[link].cut[1] {
                    self.executor_obeys(link, msg);
                }
            }
            Ev::DriverLost { link } | Ev::LeaseLapsed { link } => self.driver_loses(link, &event),
            Ev::ExecutorLost { link } => self.executor_loses(link),
            Ev::Registered { link } => self.register(link),
            Ev::Join { executor } => self.join(executor),
            Ev::NewExecutor => self.new_executor(),
            Ev::DriverStart => self.start_driver(),
            Ev::RunStart { driver } => self.start_run(driver),
            Ev::Wake { driver, run } => self.wake(driver, run),
            Ev::Persist { driver, run, record } => self.persist(driver, run, record),
            Ev::Reserve { driver, run, counts } => self.reserve(driver, run, counts),
            Ev::Fence { driver, run, question } => self.fence(driver, run, question),
            Ev::FenceLate { writers } => writers.iter().for_each(|writer| {
                self.broker.init(writer.plan);
            }),
            Ev::ReadProgress { driver, run, question } => self.read_progress(driver, run, question),
            Ev::Tell { driver, run, event } => self.tell(driver, run, *event),
            task_event => self.handle_task(task_event),
        }
    }

    fn produce(&mut self, number: i32, records: Vec<crate::types::Rec>) {
        self.unproduced -= records.len();
        let log = &mut self.broker.source[number as usize];
        log.extend(records);
        self.poll_all();
    }

    /// Connects an executor to a driver; the executor's end is open at once.
    pub fn connect(&mut self, executor: usize, driver: usize) -> usize {
        let open = [i64::MAX; 2];
        self.links.push(Link { driver, executor, broken: false, cut: open, last: [self.now; 2] });
        let link = self.links.len() - 1;
        self.soon(5, Ev::Registered { link });
        link
    }

    /// Breaks a link; messages under way in either direction may be lost.
    pub fn break_link(&mut self, link: usize) {
        if self.links[link].broken {
            return;
        }
        self.coverage.hit("link broken");
        let (up, down) = (self.now + self.delay(8), self.now + self.delay(8));
        self.links[link].broken = true;
        self.links[link].cut = [up, down];
        let (seen_up, seen_down) = (up + self.delay(10), down + self.delay(10));
        self.at(seen_up, Ev::DriverLost { link });
        self.at(seen_down, Ev::ExecutorLost { link });
    }

    pub fn send_up(&mut self, link: usize, msg: Up) {
        let at = self.arrival(link, 0);
        self.at(at, Ev::ToDriver { link, at, msg });
    }

    pub fn send_down(&mut self, link: usize, msg: Down) {
        let at = self.arrival(link, 1);
        self.at(at, Ev::ToExecutor { link, at, msg });
    }

    /// Arrival time of a message; messages of one link and direction arrive in order.
    fn arrival(&mut self, link: usize, direction: usize) -> i64 {
        let mut at = self.now + self.delay(4);
        if self.chance(self.knobs.slow_message) {
            self.coverage.hit("message held up");
            at += self.rng.random_range(30..400);
        }
        let last = &mut self.links[link].last[direction];
        *last = at.max(*last);
        *last
    }
}
