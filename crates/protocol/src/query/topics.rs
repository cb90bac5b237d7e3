//! The topics of a query: whether they are still those that its positions belong to, and which partitions they have.
//!
//! Owns: what follows from a recreated, grown or missing topic. Does not own: single positions outside the log
//! (`loss`).
//! Invariants: positions of one topic are never read in another topic of its name; topics are compared by id, never by
//! length. Executors read nothing from a topic whose id differs from the one they were told; the machine plans nothing
//! until the brokers have confirmed the id.

use super::machine::{Execution, Phase, QueryMachine};
use super::{Action, OutOfRange, TopicLook};
use crate::ids::SourceId;
use crate::offsets::SourcePartition;
use crate::options::OnDataLoss;
use crate::prepare_record::PrepareRecord;
use std::collections::BTreeSet;

/// A topic that was missing for this long is taken for deleted, milliseconds.
const MISSING_MS: i64 = 30_000;

impl QueryMachine {
    /// Takes positions and topics from the newest record, as of the start of its batch, which may have to be finished.
    pub(super) fn restore_positions(&mut self, head: &PrepareRecord) {
        let start = |(partition, end): (&SourcePartition, &i64)| {
            let range = head.plan.ranges.get(partition);
            (partition.clone(), range.map_or(*end, |range| range.start))
        };
        self.positions = head.positions.iter().map(start).collect();
        // The last record before a range of the batch is not stored; if the range is read again, its checksum is
        // compared.
        self.last_records = head.last_records.clone();
        self.last_records.retain(|partition, _| !head.plan.ranges.contains_key(partition));
        for (source, id) in &head.topic_ids {
            let former = self.topic_ids.insert(*source, id.clone()).filter(|former| former != id);
            self.former_ids.extend(former.map(|former| (*source, former)));
        }
        self.new_ends = head.ends.clone();
        // Ends of the spec that belong to a topic that was recreated are replaced by those fixed when that was found.
        let replaced = |source: SourceId| {
            self.topic_ids
                .get(&source)
                .is_some_and(|id| self.config.end_topic_ids.get(&source).is_some_and(|of| of != id))
        };
        let sources: BTreeSet<SourceId> =
            self.new_ends.keys().map(|partition| partition.source).filter(|source| replaced(*source)).collect();
        self.new_ends.retain(|partition, _| sources.contains(&partition.source));
        self.config.end_positions.retain(|partition, _| !sources.contains(&partition.source));
        self.config.end_positions.extend(self.new_ends.clone());
    }

    /// Handles the brokers' answer about a topic.
    pub(super) fn on_topic(&mut self, look: TopicLook, now_ms: i64, out: &mut Vec<Action>) {
        self.missing.remove(&look.source);
        match (self.topic_ids.get(&look.source), &look.id) {
            // A broker that is behind reports an id that was replaced.
            (_, Some(found)) if self.former_ids.contains(&(look.source, found.clone())) => return,
            (Some(known), Some(found)) if known != found => {
                self.unconfirmed.insert(look.source, true);
                self.on_recreated(look, out);
                return;
            }
            (None, Some(found)) => {
                self.topic_ids.insert(look.source, found.clone());
                self.stale_assignment = true;
            }
            _ => {}
        }
        let bounded = self.config.end_positions.keys().any(|known| known.source == look.source);
        if bounded && look.ends.is_empty() && !self.planned {
            return; // Wait for the ends: without them the query could finish although the topic was recreated.
        }
        if self.unconfirmed.remove(&look.source) == Some(true) {
            // Consumers that were told another id have stopped reading.
            self.stale_assignment = true;
        }
        self.add_partitions(&look, bounded);
        if !self.planned {
            self.check_positions(&look, out);
        }
        for (partition, ends) in look.ends {
            if let Some(committed) = self.positions.get(&partition)
                && let Some(idle) = self.idle.get_mut(&partition.source)
            {
                idle.confirm(&partition, *committed, ends.log_end, now_ms);
            }
            self.log_ends.insert(partition, ends);
        }
    }

    /// Adds new partitions; all their records are new to the query.
    fn add_partitions(&mut self, look: &TopicLook, bounded: bool) {
        for partition in
            look.ends.keys().filter(|partition| !self.positions.contains_key(*partition)).cloned().collect::<Vec<_>>()
        {
            if !bounded || self.config.end_positions.contains_key(&partition) {
                self.positions.insert(partition, 0);
                self.stale_assignment = true;
            }
        }
    }

    /// Compares the positions that a run begins with to the logs, before any consumer does. Not done later in the run,
    /// when the answer of the brokers may be older than the positions.
    fn check_positions(&mut self, look: &TopicLook, out: &mut Vec<Action>) {
        for (partition, ends) in &look.ends {
            let Some(position) = self.positions.get(partition).copied() else { continue };
            let is_read = self.config.end_positions.get(partition).is_none_or(|end| position < *end);
            if position > ends.latest && is_read && self.last_records.contains_key(partition) {
                continue; // The consumer finds out from where on the log was rewritten, perhaps far below its end.
            }
            if !(ends.earliest..=ends.latest).contains(&position) {
                let (partition, earliest, latest) = (partition.clone(), ends.earliest, ends.latest);
                self.on_out_of_range(OutOfRange { partition, position, earliest, latest, diverged: None }, out);
            }
        }
    }

    /// A consumer has seen another topic id: nothing is planned until the brokers have been asked.
    pub(super) fn on_topic_changed(&mut self, source: SourceId, found: &str, out: &mut Vec<Action>) {
        if self.topic_ids.get(&source).is_some_and(|known| known != found) {
            self.unconfirmed.insert(source, true);
            out.push(Action::LookAtTopic { source });
        }
    }

    /// A topic may be deleted and created again, so a missing one is waited for, up to `MISSING_MS`.
    pub(super) fn on_topic_missing(&mut self, source: SourceId, message: String, now_ms: i64, out: &mut Vec<Action>) {
        let (since_ms, _) = *self.missing.entry(source).or_insert((now_ms, message.clone()));
        if now_ms.saturating_sub(since_ms) >= MISSING_MS {
            self.fail(format!("{message}; it was deleted although the query still needs it"), out);
        }
    }

    /// Applies `on_data_loss` to a topic that was deleted and created again.
    fn on_recreated(&mut self, look: TopicLook, out: &mut Vec<Action>) {
        let reads = |(partition, _): (&SourcePartition, &_)| partition.source == look.source;
        match &self.phase {
            Phase::Executing(Execution { finish: None, .. }) | Phase::Ready { finish: None } => {}
            Phase::Executing(Execution { finish: Some(prepared), .. }) | Phase::Ready { finish: Some(prepared) }
                if prepared.record.plan.ranges.iter().any(reads) =>
            {
                let needed = "the prepared batch needs records of the old topic; drop the query and submit it \
                              again with --new-output";
                self.fail(recreated(self, &look, needed), out);
                return;
            }
            // Handled after this batch, when the brokers are asked again.
            _ => return,
        }
        let policy = self.source(look.source).map(|source| source.options.on_data_loss).unwrap_or_default();
        match policy {
            OnDataLoss::Fail => {
                let ways_out = "the query's offsets are not valid in the new topic. Set on_data_loss = 'earliest' or \
                                'latest' to continue with the new topic, or drop the query and submit it again";
                self.fail(recreated(self, &look, ways_out), out);
            }
            // The ends of the new topic are not known yet.
            _ if look.ends.is_empty() => {}
            policy => self.begin_anew(look, policy, out),
        }
    }

    /// Replaces the positions of a source by those of its recreated topic.
    fn begin_anew(&mut self, look: TopicLook, policy: OnDataLoss, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Executing(_)) {
            self.abort_execution(&BTreeSet::new(), 0, out);
        }
        let source = look.source;
        for partition in self.partitions_of(source) {
            let committed = self.positions.remove(&partition).unwrap_or_default();
            self.last_records.remove(&partition);
            let read = self.available.get(&partition).map_or(committed, |reach| reach.position);
            let latest = self.log_ends.remove(&partition).map_or(committed, |ends| ends.latest);
            self.totals.lost_offsets += u64::try_from(read.max(latest) - committed).unwrap_or(0);
            self.forget_reach(&partition);
            self.reset.insert(partition);
        }
        let bounded = self.config.end_positions.keys().any(|known| known.source == source);
        self.config.end_positions.retain(|partition, _| partition.source != source);
        self.new_ends.retain(|partition, _| partition.source != source);
        for (partition, ends) in look.ends {
            let position = if policy == OnDataLoss::Latest { ends.latest } else { ends.earliest };
            self.totals.lost_offsets += u64::try_from(position).unwrap_or(0);
            if bounded {
                self.config.end_positions.insert(partition.clone(), ends.latest);
                self.new_ends.insert(partition.clone(), ends.latest);
            }
            self.log_ends.insert(partition.clone(), ends);
            self.reset.insert(partition.clone());
            self.positions.insert(partition, position);
        }
        self.deferred_out_of_range.retain(|found| found.partition.source != source);
        self.former_ids.extend(self.topic_ids.remove(&source).map(|former| (source, former)));
        self.topic_ids.extend(look.id.map(|id| (source, id)));
        self.unconfirmed.remove(&source);
        self.totals.resets += 1;
        self.unrecorded = true;
        self.stale_assignment = true;
        self.troubles.remove(&None);
    }
}

fn recreated(machine: &QueryMachine, look: &TopicLook, consequence: &str) -> String {
    let topic = machine.source(look.source).map_or("", |source| source.topic.as_str());
    let id = |id: Option<&String>| id.map_or("unknown", String::as_str).to_string();
    format!(
        "the topic '{topic}' was deleted and recreated under its name (its id was {} and is {} now): {consequence}",
        id(machine.topic_ids.get(&look.source)),
        id(look.id.as_ref())
    )
}
