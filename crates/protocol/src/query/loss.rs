//! What happens to a position that is no longer in the log: `on_data_loss`, per partition.
//!
//! Owns: the decision ([`verdict`]) and its effect on the machine. Does not own: topics that were recreated (`topics`).
//! Invariant: a skip is counted, and durable with the next batch's record, before the query can finish.

use super::machine::{Execution, Phase, QueryMachine};
use super::{Action, OutOfRange};
use crate::offsets::SourcePartition;
use crate::options::OnDataLoss;
use std::collections::BTreeSet;

/// What to do about one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The log is unchanged below the committed position: reading continues there.
    ReadAgain,
    /// Reading continues at `to`; `lost` offsets that were never read are skipped.
    Continue {
        to: i64,
        lost: i64,
    },
    Stop,
}

/// | the committed position is | `fail` | `earliest` | `latest` |
/// |---|---|---|---|
/// | below the earliest offset left | stop | the earliest left | the end |
/// | inside the log | read on | read on | read on |
/// | beyond the end, or in the rewritten part | stop | the first offset not read before | the end |
fn verdict(committed: i64, found: &OutOfRange, policy: OnDataLoss) -> Verdict {
    let same_until = found.same_until();
    if (found.earliest..=same_until).contains(&committed) {
        return Verdict::ReadAgain;
    }
    let first_unread = if committed < found.earliest { found.earliest } else { same_until.max(found.earliest) };
    match policy {
        OnDataLoss::Fail => Verdict::Stop,
        OnDataLoss::Earliest => Verdict::Continue { to: first_unread, lost: (first_unread - committed).max(0) },
        OnDataLoss::Latest => {
            Verdict::Continue { to: found.latest, lost: (found.latest - committed.min(first_unread)).max(0) }
        }
    }
}

impl OutOfRange {
    /// Position up to which the log still holds the records that were read.
    fn same_until(&self) -> i64 {
        self.diverged.unwrap_or(self.latest).min(self.latest)
    }
}

impl QueryMachine {
    /// Applies `on_data_loss` to one partition.
    pub(super) fn on_out_of_range(&mut self, found: OutOfRange, out: &mut Vec<Action>) {
        let Some(committed) = self.positions.get(&found.partition).copied() else { return };
        match &self.phase {
            Phase::Executing(Execution { finish: None, .. }) | Phase::Ready { finish: None } => {}
            Phase::Executing(Execution { finish: Some(prepared), .. }) | Phase::Ready { finish: Some(prepared) } => {
                match prepared.record.plan.ranges.get(&found.partition) {
                    None => self.deferred_out_of_range.push(found),
                    Some(range) if range.start < found.earliest || range.end > found.same_until() => {
                        self.fail(needed(&found, range.start), out);
                    }
                    // Its task fails, and the next attempt reads from the range's start.
                    Some(_) => {}
                }
                return;
            }
            _ => {
                self.deferred_out_of_range.push(found);
                return;
            }
        }
        let policy = self.source(found.partition.source).map(|source| source.options.on_data_loss).unwrap_or_default();
        match verdict(committed, &found, policy) {
            Verdict::Stop => self.fail(stopped(&found, committed), out),
            Verdict::ReadAgain => self.read_again(&found, out),
            Verdict::Continue { to, lost } => self.continue_at(&found, committed, to, lost, out),
        }
    }

    /// The log is shorter than what consumers have read: what they hold beyond its end must not be planned.
    fn read_again(&mut self, found: &OutOfRange, out: &mut Vec<Action>) {
        let partition = &found.partition;
        let beyond = |end: i64| end > found.same_until();
        if let Phase::Executing(execution) = &self.phase
            && execution.plan.ranges.get(partition).is_some_and(|range| beyond(range.end))
        {
            self.abort_execution(&BTreeSet::new(), 0, out);
        }
        if self.available.get(partition).is_some_and(|reach| beyond(reach.position)) {
            self.forget_reach(partition);
        }
        self.clamp_end(found, found.latest);
        self.stale_assignment = true;
        self.troubles.remove(&None);
    }

    fn continue_at(&mut self, found: &OutOfRange, committed: i64, to: i64, lost: i64, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Executing(_)) {
            self.abort_execution(&BTreeSet::new(), 0, out);
        }
        if committed > found.same_until() {
            self.totals.resets += 1;
            self.reset.insert(found.partition.clone());
            self.clamp_end(found, found.latest.max(to));
        }
        self.totals.lost_offsets += u64::try_from(lost).unwrap_or(0);
        self.positions.insert(found.partition.clone(), to);
        // The records before the new position were not read, or are gone.
        self.last_records.remove(&found.partition);
        self.forget_reach(&found.partition);
        self.unrecorded = true;
        self.stale_assignment = true;
        self.troubles.remove(&None);
    }

    /// Lowers a fixed end that is beyond the end of a truncated log; it would never be reached.
    fn clamp_end(&mut self, found: &OutOfRange, most: i64) {
        if found.position > found.latest
            && let Some(end) = self.config.end_positions.get_mut(&found.partition)
        {
            *end = most.min(*end);
        }
    }

    /// Forgets how far consumers have read the partition.
    pub(super) fn forget_reach(&mut self, partition: &SourcePartition) {
        self.available.remove(partition);
        self.marks.remove(partition);
        if let Some(idle) = self.idle.get_mut(&partition.source) {
            idle.forget(partition);
        }
    }
}

fn stopped(found: &OutOfRange, committed: i64) -> String {
    let topic = &found.partition.tp;
    if committed < found.earliest {
        return format!(
            "offset {committed} out of range for {topic}: earliest available is {}; records were deleted by retention \
             before they were read. Set on_data_loss = 'earliest' or 'latest' to continue without them, or raise the \
             topic's retention.ms",
            found.earliest
        );
    }
    let ways_out = "Set on_data_loss = 'earliest' to continue with the records written since, or 'latest' to continue \
                    at the end, or drop the query and submit it again";
    match found.diverged {
        Some(at) => format!(
            "the log of {topic} was truncated at offset {at} and rewritten, although records up to offset {committed} \
             were read before (an unclean leader election). {ways_out}"
        ),
        None => format!(
            "offset {committed} out of range for {topic}: the log ends at {}. It was truncated (an unclean leader \
             election). {ways_out}",
            found.latest
        ),
    }
}

fn needed(found: &OutOfRange, start: i64) -> String {
    let (topic, earliest, latest) = (&found.partition.tp, found.earliest, found.latest);
    format!(
        "offset {start} out of range for {topic}: earliest available is {earliest}, the end is {latest}; the prepared \
         batch needs these records. Drop the query and submit it again with --new-output"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SourceId;
    use crate::offsets::TopicPartition;

    fn log(earliest: i64, latest: i64, diverged: Option<i64>) -> OutOfRange {
        let partition = SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", 0) };
        OutOfRange { partition, position: 0, earliest, latest, diverged }
    }

    #[test]
    fn every_place_of_the_committed_position_under_every_policy() {
        use OnDataLoss::{Earliest, Fail, Latest};
        use Verdict::{Continue, ReadAgain, Stop};
        let on = |to, lost| Continue { to, lost };
        let table = [
            ("before what is left", 3, log(5, 9, None), [Stop, on(5, 2), on(9, 6)]),
            ("at its beginning", 5, log(5, 9, None), [ReadAgain; 3]),
            ("inside", 7, log(5, 9, None), [ReadAgain; 3]),
            ("at its end", 9, log(5, 9, None), [ReadAgain; 3]),
            ("after it", 12, log(5, 9, None), [Stop, on(9, 0), on(9, 0)]),
            ("below what was rewritten", 6, log(5, 9, Some(7)), [ReadAgain; 3]),
            ("within what was rewritten", 8, log(5, 9, Some(7)), [Stop, on(7, 0), on(9, 2)]),
            ("after it, and rewritten", 12, log(5, 9, Some(7)), [Stop, on(7, 0), on(9, 2)]),
            ("rewritten, then deleted", 8, log(7, 9, Some(6)), [Stop, on(7, 0), on(9, 2)]),
            ("before what is left of what was rewritten", 3, log(5, 9, Some(2)), [Stop, on(5, 2), on(9, 6)]),
            ("of which nothing is left", 3, log(9, 9, None), [Stop, on(9, 6), on(9, 6)]),
        ];
        for (place, committed, found, expected) in table {
            let got = [Fail, Earliest, Latest].map(|policy| verdict(committed, &found, policy));
            assert_eq!(got, expected, "{place}");
        }
    }
}
