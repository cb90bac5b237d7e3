//! When the next batch is due: triggers, limits, rates, ends, and when to check again.

use super::machine::{Phase, QueryMachine};
use super::{Action, End};
use crate::align::{Waiting, align};
use crate::ids::SourceId;
use crate::offsets::{Positions, Ranges, SourcePartition};
use crate::options::Trigger;
use crate::ranges::plan_ranges;
use crate::watermark;
use std::collections::{BTreeMap, BTreeSet};

/// How long `min_offsets_per_trigger` may hold a batch back when `max_trigger_delay` is not set
/// (Spark's default), milliseconds.
const DEFAULT_MAX_TRIGGER_DELAY_MS: u64 = 15 * 60 * 1000;

impl QueryMachine {
    /// Takes every step that is due. Called after every event.
    pub(super) fn advance(&mut self, now_ms: i64, out: &mut Vec<Action>) {
        self.advanced_at_ms = now_ms;
        self.fence_orphans(out);
        if self.stop_if_due(now_ms, out) {
            return;
        }
        self.persist_again(now_ms, out);
        self.drop_if_too_long(now_ms, out);
        if matches!(self.phase, Phase::Ready { finish: None }) {
            for found in std::mem::take(&mut self.deferred_out_of_range) {
                self.on_out_of_range(found, out);
            }
        }
        self.end_lapsed(now_ms, out);
        self.stale_assignment |= self.cuts.readmit(now_ms);
        if matches!(self.phase, Phase::Reserving { .. }) {
            self.reserve_writers(now_ms, out);
        }
        let Phase::Ready { finish } = &self.phase else { return };
        let quarantined = self.deaths.waits_until_ms(now_ms).is_some();
        if self.executors.is_empty() || now_ms < self.not_before_ms || quarantined {
            return;
        }
        if let Some(prepared) = finish.clone() {
            self.run_again(prepared, now_ms, out);
            return;
        }
        if self.stale_assignment {
            self.reassign(out);
        }
        if self.reserve_writers(now_ms, out) || !self.unconfirmed.is_empty() || self.files.known().is_none() {
            return;
        }
        self.advance_watermarks(now_ms);
        if self.at_its_ends() && !self.unrecorded && !self.windows_due() {
            self.end(End::Finished, out);
            return;
        }
        if let Some(ranges) = self.due(now_ms) {
            self.run_new(ranges, now_ms, out);
        }
    }

    /// Returns when `Tick` is wanted next, milliseconds, possibly in the past; `None` if only events matter. Counted
    /// from the last step, since what fell due after it has not been handled.
    pub fn next_wake_ms(&self) -> Option<i64> {
        let now_ms = self.advanced_at_ms;
        let mut wakes: Vec<i64> =
            self.stop_by_ms.into_iter().chain(self.too_long_at_ms()).chain(self.lapses_at_ms()).collect();
        wakes.extend(self.cuts.readmits_at_ms());
        if let Phase::Preparing { again_at_ms, .. } | Phase::Reserving { again_at_ms, .. } = &self.phase {
            wakes.extend(again_at_ms);
        }
        if matches!(self.phase, Phase::Ready { .. }) {
            wakes.extend((self.not_before_ms > now_ms).then_some(self.not_before_ms));
            wakes.extend(self.deaths.waits_until_ms(now_ms));
            wakes.extend(self.limiters.iter().filter(|(id, _)| self.pending(**id)).map(|(_, l)| l.next_at_ms(now_ms)));
            wakes.extend(self.config.sources.iter().filter_map(|source| {
                source.options.min_offsets_per_trigger?;
                Some(self.waiting_since.get(&source.id)? + self.max_delay_ms(source.id))
            }));
            wakes.extend(self.next_clock_end_ms().map(|end| self.clock.reaches_at_ms(end)));
            if let Trigger::Every { interval_ms } = self.config.trigger {
                wakes.push(self.clock.reaches_at_ms(next_boundary(self.last_boundary_ms, interval_ms)));
            }
        }
        wakes.into_iter().filter(|wake| *wake > now_ms).min()
    }

    /// Advances watermarks where the passing of time, without records, allows it.
    fn advance_watermarks(&mut self, now_ms: i64) {
        for id in
            self.config.sources.iter().filter(|source| source.has_watermark).map(|source| source.id).collect::<Vec<_>>()
        {
            let idle = self.idle_partitions(id, &self.positions.clone(), now_ms);
            let partitions = self.partitions_of(id);
            watermark::advance(self.watermarks.entry(id).or_default(), [], &partitions, &idle);
        }
    }

    /// Partitions of a source that do not hold back its watermark: idle for the timeout, or read to their fixed end.
    pub(super) fn idle_partitions(
        &self,
        id: SourceId,
        positions: &Positions,
        now_ms: i64,
    ) -> BTreeSet<SourcePartition> {
        let mut idle = self.idle.get(&id).map(|idle| idle.idle(now_ms)).unwrap_or_default();
        let done = self.config.end_positions.iter().filter(|(partition, end)| {
            partition.source == id && positions.get(partition).is_some_and(|position| position >= end)
        });
        idle.extend(done.map(|(partition, _)| partition.clone()));
        idle
    }

    pub(super) fn partitions_of(&self, id: SourceId) -> BTreeSet<SourcePartition> {
        self.positions.keys().filter(|partition| partition.source == id).cloned().collect()
    }

    /// True if watermarks or the clock close windows that the last batch did not close.
    fn windows_due(&self) -> bool {
        let by_watermark = self.config.windowed
            && self
                .watermarks
                .iter()
                .any(|(id, w)| w.current_ms.is_some_and(|now| self.closed.get(id).is_none_or(|closed| now > *closed)));
        by_watermark || self.next_clock_end_ms().is_some_and(|end| self.clock.now_ms() >= end)
    }

    /// When the first window over the time of batches ends that may have rows and is not closed; `None` if there is
    /// none.
    fn next_clock_end_ms(&self) -> Option<i64> {
        let (last, rows) = (self.committed.as_ref()?.plan.timestamp_ms, self.last_rows_ms?);
        self.config.clock_windows.iter().filter_map(|(_, window)| window.next_end_ms(rows, last)).min()
    }

    fn at_its_ends(&self) -> bool {
        let reached = |(partition, position): (&SourcePartition, &i64)| {
            self.config.end_positions.get(partition).is_some_and(|end| position >= end)
        };
        !self.positions.is_empty() && self.positions.iter().all(reached)
    }

    /// Returns the ranges of a batch that is due now, empty if it only closes windows or records a skip; `None` if no
    /// batch is due.
    fn due(&mut self, now_ms: i64) -> Option<Ranges> {
        if let Trigger::Every { interval_ms } = self.config.trigger {
            if self.clock.now_ms() < next_boundary(self.last_boundary_ms, interval_ms) {
                return None;
            }
            self.last_boundary_ms = self.clock.now_ms();
        }
        if self.config.trigger == Trigger::Once {
            let ends: BTreeMap<_, _> = self.config.end_positions.iter().map(|(p, end)| (p.clone(), *end)).collect();
            // One batch, unless an attempt at it took too long.
            let limits =
                self.config.sources.iter().filter_map(|one| Some((one.id, self.pace.limit(one.id)?))).collect();
            let ranges = plan_ranges(&self.positions, &ends, &limits);
            return (!ranges.is_empty() || self.unrecorded || self.windows_due()).then_some(ranges);
        }
        let limits = self.limits(now_ms);
        let ready: BTreeSet<SourceId> =
            self.config.sources.iter().map(|source| source.id).filter(|id| self.enough(*id, now_ms)).collect();
        let aligned = self.aligned(now_ms);
        let reachable = self
            .available
            .iter()
            .filter(|(partition, _)| ready.contains(&partition.source))
            .map(|(partition, reach)| {
                let position = self.capped(partition, reach.position);
                (partition.clone(), aligned.get(partition).map_or(position, |end| position.min(*end)))
            })
            .collect();
        let ranges = plan_ranges(&self.positions, &reachable, &limits);
        (!ranges.is_empty() || self.unrecorded || self.windows_due()).then_some(ranges)
    }

    /// How far partitions with a watermark may be read, if none may run far ahead of the slowest; empty without a
    /// limit.
    fn aligned(&self, now_ms: i64) -> BTreeMap<SourcePartition, i64> {
        let Some(drift_ms) = self.config.max_drift_ms else { return BTreeMap::new() };
        let mut waiting = BTreeMap::new();
        for source in self.config.sources.iter().filter(|source| source.has_watermark) {
            let idle = self.idle_partitions(source.id, &self.positions, now_ms);
            let watermark = self.watermarks.get(&source.id);
            for (partition, position) in self.positions.iter().filter(|(partition, _)| partition.source == source.id) {
                let watermark_ms = watermark.and_then(|watermark| watermark.partitions.get(partition).copied());
                let reach = self.available.get(partition);
                let at_end = reach.is_some_and(|reach| reach.at_end && reach.position <= *position);
                let one = Waiting {
                    watermark_ms,
                    position: *position,
                    reach: reach.map_or(*position, |reach| self.capped(partition, reach.position)),
                    marks: self.marks.get(partition).map_or(&[][..], Vec::as_slice),
                    // An empty partition has no time, so the others need not wait for it.
                    holds: !idle.contains(partition) && (watermark_ms.is_some() || !at_end),
                };
                waiting.insert(partition.clone(), one);
            }
        }
        align(&waiting, drift_ms)
    }

    /// Returns `position`, limited to the partition's fixed end.
    fn capped(&self, partition: &SourcePartition, position: i64) -> i64 {
        self.config.end_positions.get(partition).map_or(position, |end| position.min(*end))
    }

    fn limits(&mut self, now_ms: i64) -> BTreeMap<SourceId, u64> {
        let mut limits = BTreeMap::new();
        for source in &self.config.sources {
            let rate = self.limiters.get_mut(&source.id).map(|limiter| limiter.available(now_ms));
            let limit = [source.options.max_offsets_per_trigger, rate, self.pace.limit(source.id)];
            let limit = limit.into_iter().flatten().min();
            limits.extend(limit.map(|limit| (source.id, limit)));
        }
        limits
    }

    fn pending_offsets(&self, id: SourceId) -> u64 {
        let of_source = self.available.iter().filter(|(partition, _)| partition.source == id);
        of_source
            .map(|(partition, reach)| {
                let start = self.positions.get(partition).copied().unwrap_or(i64::MAX);
                u64::try_from(self.capped(partition, reach.position).saturating_sub(start)).unwrap_or(0)
            })
            .sum()
    }

    fn pending(&self, id: SourceId) -> bool {
        self.pending_offsets(id) > 0
    }

    fn max_delay_ms(&self, id: SourceId) -> i64 {
        let delay = self.source(id).and_then(|source| source.options.max_trigger_delay_ms);
        i64::try_from(delay.unwrap_or(DEFAULT_MAX_TRIGGER_DELAY_MS)).unwrap_or(i64::MAX)
    }

    /// True if `min_offsets_per_trigger` is met or has held the batch back long enough, or no more offsets will come.
    fn enough(&self, id: SourceId, now_ms: i64) -> bool {
        let Some(min) = self.source(id).and_then(|source| source.options.min_offsets_per_trigger) else { return true };
        if self.pending_offsets(id) >= min {
            return true;
        }
        let all_there = self
            .config
            .end_positions
            .iter()
            .filter(|(partition, _)| partition.source == id)
            .all(|(partition, end)| self.available.get(partition).is_some_and(|reach| reach.position >= *end));
        let waited = self.waiting_since.get(&id).is_some_and(|since| now_ms - since >= self.max_delay_ms(id));
        waited || (!self.config.end_positions.is_empty() && all_there)
    }
}

/// Returns the first multiple of the interval after `last_ms`.
fn next_boundary(last_ms: i64, interval_ms: u64) -> i64 {
    let interval = i64::try_from(interval_ms.max(1)).unwrap_or(i64::MAX);
    (last_ms.div_euclid(interval) + 1).saturating_mul(interval)
}
