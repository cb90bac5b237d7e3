//! The faults of a schedule, and when they happen.
//!
//! Owns: drawing a schedule from the seed, and the faults of hosts and links. Faults happen at random times and, more
//! often, at critical moments: around prepare, publish and commit.

use crate::check::{APPEND, KEYED, partition};
use crate::types::{Ev, Rec};
use crate::world::{LEASE_MS, World};
use highwater_protocol::ids::{Epoch, OperatorId, QueryId, SinkId, SourceId, StageId};
use highwater_protocol::options::{SourceOptions, SourceSpec, Trigger};
use highwater_protocol::query::{ClockWindow, Event, QueryConfig, StageInput, StageTopology};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

const HOUR_MS: i64 = 3_600_000;

/// Kinds and frequency of faults in this schedule. All probabilities are per occasion.
pub struct Knobs {
    /// Number of faults left for critical moments.
    pub strikes: u32,
    pub strike: f64,
    pub task_fails: f64,
    /// A task hangs and is never heard of again.
    pub task_lost: f64,
    /// The first two executors cannot reach one another.
    pub cut: bool,
    pub exchange_breaks: f64,
    /// A commit succeeds but its answer is lost.
    pub answer_lost: f64,
    /// A commit never reaches the brokers.
    pub commit_lost: f64,
    /// A request takes so long that others act before it arrives.
    pub slow_request: f64,
    pub resolve_fails: f64,
    /// A message delays its link for longer than a retry takes.
    pub slow_message: f64,
}

impl Knobs {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let mut often = |most: f64| if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 };
        Self {
            task_fails: often(0.1),
            task_lost: often(0.06),
            exchange_breaks: often(0.1),
            answer_lost: often(0.3),
            commit_lost: often(0.2),
            slow_request: often(0.3),
            resolve_fails: often(0.3),
            slow_message: often(0.1),
            strike: often(0.4),
            strikes: rng.random_range(0..5),
            cut: rng.random_bool(0.15),
        }
    }
}

/// A query with one source stage, an exchange and one shard stage, of random size.
pub fn draw_config(rng: &mut ChaCha8Rng) -> QueryConfig {
    let appends = rng.random_bool(0.5);
    let options = SourceOptions { max_offsets_per_trigger: Some(rng.random_range(6..25)), ..SourceOptions::default() };
    let partitions = rng.random_range(1..5);
    let source_sinks = if appends { vec![SinkId(APPEND)] } else { Vec::new() };
    let trigger = if rng.random_bool(0.2) { Trigger::Every { interval_ms: 40 } } else { Trigger::Asap };
    QueryConfig {
        query: QueryId(Uuid::nil()),
        epoch: Epoch(0),
        first_attempt: 0,
        trigger,
        shards: rng.random_range(1..7),
        sources: vec![SourceSpec {
            id: SourceId(0),
            table: "t".into(),
            topic: "t".into(),
            options,
            has_watermark: false,
        }],
        stages: vec![
            StageTopology { id: StageId(0), input: StageInput::Source(SourceId(0)), sinks: source_sinks },
            StageTopology { id: StageId(1), input: StageInput::Shards, sinks: vec![SinkId(KEYED)] },
        ],
        windowed: false,
        // Short enough to end even while executors and drivers die.
        clock_windows: match rng.random_bool(0.3) {
            true => {
                let end_every_ms = [20, 60][rng.random_range(0..2)];
                let begin_every_ms = [end_every_ms, 60][rng.random_range(0..2)];
                let window = ClockWindow { size_ms: 60, begin_every_ms, end_every_ms, offset_ms: 7 };
                vec![(OperatorId(0), window)]
            }
            false => Vec::new(),
        },
        max_drift_ms: None,
        start_positions: (0..partitions).map(|number| (partition(number), 0)).collect(),
        end_positions: Default::default(),
        topic_ids: [(SourceId(0), crate::driver::TOPIC_ID.to_string())].into(),
        end_topic_ids: Default::default(),
        reserved_writers: Default::default(),
        max_attempt_ms: 60_000,
        looks_up_files: false,
    }
}

impl World {
    /// Draws which executors are there at first, what is produced when, and when faults strike.
    pub fn draw_schedule(&mut self) {
        let known = self.config.start_positions.len();
        let late_partition = self.rng.random_bool(0.2);
        self.broker.source = vec![Vec::new(); known + usize::from(late_partition)];
        self.at(self.now, Ev::DriverStart);
        for _ in 0..self.rng.random_range(1..5) {
            let joins = self.now + self.rng.random_range(0..60);
            self.at(joins, Ev::NewExecutor);
        }
        let total = self.rng.random_range(20..60);
        let keys = self.rng.random_range(2..9);
        let mut counts = [0i64; 16];
        while self.unproduced < total {
            let number = self.rng.random_range(0..self.broker.source.len()) as i32;
            let records: Vec<Rec> = (0..self.rng.random_range(1..9)).map(|_| self.record(keys, &mut counts)).collect();
            self.unproduced += records.len();
            let time = self.now + self.rng.random_range(0..500);
            self.at(time, Ev::Produce(number, records));
        }
        for _ in 0..self.rng.random_range(0..5) {
            let time = self.now + self.rng.random_range(20..700);
            self.at(time, Ev::Chaos);
        }
        self.at(self.now + 900, Ev::Calm);
    }

    fn record(&mut self, keys: u8, counts: &mut [i64; 16]) -> Rec {
        let key = self.rng.random_range(0..keys);
        let count = &mut counts[usize::from(key)];
        let weight = if *count > 0 && self.rng.random_bool(0.4) { -1 } else { 1 };
        *count += weight;
        Rec { key, weight, value: weight * self.rng.random_range(0..5) }
    }

    /// At a critical moment: may let a fault strike this driver or executor.
    pub fn moment(&mut self, driver: Option<usize>, executor: Option<usize>) {
        if self.knobs.strikes == 0 || !self.chance(self.knobs.strike) {
            return;
        }
        self.knobs.strikes -= 1;
        match (driver, executor) {
            (Some(driver), _) if self.rng.random_bool(0.6) => self.crash_driver(driver),
            (Some(driver), _) => self.fail_over(driver),
            (_, Some(executor)) => self.hurt_executor(executor),
            _ => {}
        }
    }

    /// Lets a random fault strike a random host.
    pub fn strike(&mut self) {
        let alive: Vec<usize> = (0..self.executors.len()).filter(|executor| self.executors[*executor].alive).collect();
        let Some(driver) = self.current_driver() else { return };
        match self.rng.random_range(0..14) {
            0 | 1 => self.crash_driver(driver),
            2 => self.fail_over(driver),
            3 if alive.len() < 4 => self.at(self.now, Ev::NewExecutor),
            4 => self.stop(driver),
            5 => {
                self.coverage.hit("brokers away");
                self.broker.away_until_ms = self.now + self.rng.random_range(10..200);
            }
            6 | 7 => self.set_wall_clock(),
            _ if !alive.is_empty() => {
                let executor = alive[self.rng.random_range(0..alive.len())];
                self.hurt_executor(executor);
            }
            _ => {}
        }
    }

    /// Sets the wall clock wrong, by an hour at most, or right again.
    fn set_wall_clock(&mut self) {
        self.coverage.hit("wall clock set");
        self.skew_ms = if self.rng.random_bool(0.3) { 0 } else { self.rng.random_range(-HOUR_MS..=HOUR_MS) };
    }

    fn hurt_executor(&mut self, executor: usize) {
        match self.rng.random_range(0..3) {
            0 => self.crash_executor(executor),
            1 => {
                if let Some(link) = self.executors[executor].link {
                    self.break_link(link);
                }
            }
            _ => {
                let hang_ms = self.rng.random_range(5..LEASE_MS * 4);
                self.hang_executor(executor, hang_ms);
            }
        }
    }

    fn hang_executor(&mut self, executor: usize, hang_ms: i64) {
        self.note(|_| format!("executor {executor} hangs for {hang_ms} ms"));
        let until = self.now + hang_ms;
        self.executors[executor].hangs_until_ms = until.max(self.executors[executor].hangs_until_ms);
        self.coverage.hit("executor hung");
        if hang_ms > LEASE_MS {
            self.coverage.hit("executor hung beyond its lease");
            if let Some(link) = self.executors[executor].link {
                self.at(self.now + LEASE_MS, Ev::LeaseLapsed { link });
            }
        }
    }

    fn crash_executor(&mut self, executor: usize) {
        self.note(|_| format!("executor {executor} crashes"));
        self.coverage.hit("executor crashed");
        self.kill_executor(executor);
        let others = self.executors.iter().any(|executor| executor.alive);
        if !others || self.rng.random_bool(0.5) {
            let joins = self.now + self.rng.random_range(5..150);
            self.at(joins, Ev::NewExecutor);
        }
    }

    fn crash_driver(&mut self, driver: usize) {
        self.note(|_| format!("driver {driver} crashes"));
        self.coverage.hit("driver crashed");
        if self.store.crash() {
            self.coverage.hit("commit note lost");
        }
        self.kill_driver(driver);
        if self.current_driver().is_none() {
            let starts = self.now + self.rng.random_range(1..120);
            self.at(starts, Ev::DriverStart);
        }
    }

    /// A new driver takes over while the old one is alive: hanging, or not yet aware of it.
    fn fail_over(&mut self, driver: usize) {
        self.note(|_| format!("driver {driver} is replaced while it lives"));
        self.coverage.hit("driver replaced while alive");
        if self.rng.random_bool(0.6) {
            self.drivers[driver].hangs_until_ms = self.now + self.rng.random_range(10..400);
        }
        for link in 0..self.links.len() {
            if self.links[link].driver == driver && self.rng.random_bool(0.6) {
                self.break_link(link);
            }
        }
        let starts = self.now + self.rng.random_range(1..60);
        self.at(starts, Ev::DriverStart);
    }

    /// A user stops the query, and starts it again after it has stopped.
    fn stop(&mut self, driver: usize) {
        self.coverage.hit("query stopped and started");
        let run = self.drivers[driver].run;
        self.at(self.now, Ev::Tell { driver, run, event: Box::new(Event::Stop) });
    }

    /// Faults are over: hanging hosts resume, some executor is alive, and only the newest driver keeps its links.
    pub fn calm_down(&mut self) {
        self.calm = true;
        self.broker.away_until_ms = 0;
        if self.current_driver().is_none() {
            self.at(self.now, Ev::DriverStart);
        }
        if !self.executors.iter().any(|executor| executor.alive) {
            self.at(self.now, Ev::NewExecutor);
        }
        if let Some(newest) = self.current_driver() {
            self.break_links_except(newest);
        }
    }

    /// Executors connected to a replaced driver notice that.
    pub fn break_links_except(&mut self, driver: usize) {
        for link in 0..self.links.len() {
            if self.links[link].driver != driver {
                self.break_link(link);
            }
        }
    }
}
