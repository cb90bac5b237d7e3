//! Progress of a query's batches, in Spark's shape: keeps the last ones and broadcasts new ones.
//!
//! Owns: the history ring and its subscribers. Does not own: the counters (they come with each commit).

use crate::stage_progress::{self, StepNames};
use highwater_dataflow::runtime::BatchContext;
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{RunId, SourceId};
use highwater_protocol::offsets::{Positions, to_topic_json};
use highwater_protocol::options::QuerySpec;
use highwater_protocol::query::CommittedBatch;
use highwater_protocol::query_progress::{
    EventTime, SinkProgress, SourceProgress, StageProgress, StateOperatorProgress, StreamingQueryProgress,
};
use highwater_protocol::report::EventTimes;
use highwater_sql::values::iso_ms;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::broadcast;

/// Number of batches remembered per query.
const HISTORY: usize = 200;

/// Cheap to clone. Lives as long as the driver, across all runs of a query.
#[derive(Clone)]
pub(crate) struct ProgressLog {
    history: Arc<Mutex<VecDeque<Arc<StreamingQueryProgress>>>>,
    live: broadcast::Sender<Arc<StreamingQueryProgress>>,
}

impl ProgressLog {
    pub fn new() -> Self {
        Self { history: Arc::default(), live: broadcast::channel(HISTORY).0 }
    }

    pub fn push(&self, progress: StreamingQueryProgress) {
        let progress = Arc::new(progress);
        let mut history = self.history.lock();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(progress.clone());
        // There may be no subscriber.
        let _ = self.live.send(progress);
    }

    /// Returns the last `count` batches, oldest first, and a subscription that continues after them without a gap.
    pub fn tail(
        &self,
        count: usize,
    ) -> (Vec<Arc<StreamingQueryProgress>>, broadcast::Receiver<Arc<StreamingQueryProgress>>) {
        let history = self.history.lock();
        let skip = history.len().saturating_sub(count);
        (history.iter().skip(skip).cloned().collect(), self.live.subscribe())
    }
}

/// Describes one committed batch.
pub(crate) fn progress_of(
    spec: &QuerySpec,
    run: RunId,
    (compiled, names): (&CompiledQuery, &StepNames),
    batch: &CommittedBatch,
    latest: &Positions,
) -> StreamingQueryProgress {
    let record = &batch.record;
    let timings = &batch.timings;
    // A batch adopted at the start of a run was planned by an earlier run.
    let planned = timings.planned_at_ms > 0;
    let duration_ms = if planned { (timings.committed_at_ms - timings.planned_at_ms).max(0) } else { 0 };
    let rows: u64 = record.partitions.values().map(|partition| partition.records).sum();
    let per_second = |rows: u64| (duration_ms > 0).then(|| rows as f64 * 1000.0 / duration_ms as f64);
    let times = EventTimes::all(record.partitions.values().map(|partition| partition.event_time));
    let mut phases = BTreeMap::new();
    if planned {
        phases.insert("addBatch".to_string(), (timings.executed_at_ms - timings.planned_at_ms).max(0));
        phases.insert("walCommit".to_string(), (timings.prepared_at_ms - timings.executed_at_ms).max(0));
        phases.insert("commitOffsets".to_string(), (timings.committed_at_ms - timings.prepared_at_ms).max(0));
        phases.insert("triggerExecution".to_string(), duration_ms);
    }
    let stages = stage_progress::stages(names, batch);
    StreamingQueryProgress {
        id: spec.id.to_string(),
        run_id: run.to_string(),
        name: spec.name.clone(),
        timestamp: iso_ms(record.plan.timestamp_ms),
        batch_id: record.batch().0,
        batch_duration: duration_ms,
        num_input_rows: rows,
        input_rows_per_second: per_second(rows),
        processed_rows_per_second: per_second(rows),
        duration_ms: phases,
        event_time: EventTime {
            watermark: record.watermarks.values().filter_map(|w| w.current_ms).min().map(iso_ms),
            max: times.map(|times| iso_ms(times.max_ms)),
            min: times.map(|times| iso_ms(times.min_ms)),
            avg: times.map(|times| iso_ms(times.avg_ms)),
        },
        state_operators: state_operators(compiled, batch, &stages),
        stages,
        sources: compiled
            .sources
            .iter()
            .map(|source| source_progress(source.id, &source.name, batch, latest))
            .collect(),
        sink: SinkProgress {
            description: compiled.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>().join(", "),
            num_output_rows: Some(record.writers.iter().map(|writer| writer.rows as i64).sum()),
        },
        num_bad_records: record.partitions.values().map(|partition| partition.bad_records).sum(),
        num_lost_offsets: record.totals.lost_offsets,
    }
}

fn source_progress(id: SourceId, name: &str, batch: &CommittedBatch, latest: &Positions) -> SourceProgress {
    let of_source = |positions: &Positions| {
        let mine: Positions =
            positions.iter().filter(|(p, _)| p.source == id).map(|(p, offset)| (p.clone(), *offset)).collect();
        (!mine.is_empty()).then(|| to_topic_json(&mine))
    };
    let mut start = batch.previous.clone();
    for (partition, range) in &batch.record.plan.ranges {
        start.insert(partition.clone(), range.start);
    }
    let rows =
        batch.record.partitions.iter().filter(|(p, _)| p.source == id).map(|(_, report)| report.records).sum::<u64>();
    SourceProgress {
        description: format!("Kafka[{name}]"),
        watermark: batch.record.watermarks.get(&id).and_then(|watermark| watermark.current_ms).map(iso_ms),
        start_offset: of_source(&start),
        end_offset: of_source(&batch.record.positions),
        latest_offset: of_source(latest),
        num_input_rows: rows,
        ..SourceProgress::default()
    }
}

fn state_operators(
    compiled: &CompiledQuery,
    batch: &CommittedBatch,
    stages: &[StageProgress],
) -> Vec<StateOperatorProgress> {
    let plan = &batch.record.plan;
    let watermarks = BatchContext::of(plan, &compiled.dataflow, compiled.options.shards).watermarks(&compiled.dataflow);
    let stateful = compiled.dataflow.operators.iter();
    stateful
        .map(|info| {
            let [late_before, close_before] = watermarks.get(&info.id).copied().unwrap_or_default();
            let mut progress = StateOperatorProgress {
                operator_id: info.id.0,
                operator_name: info.name.clone(),
                description: info.description.clone(),
                late_before: late_before.map(iso_ms),
                close_before: close_before.map(iso_ms),
                num_key_conflicts: batch.record.totals.key_conflicts.get(&info.id).map_or(0, |one| one.keys),
                all_updates_time_ms: stage_progress::operator_ms(stages, info.id),
                ..Default::default()
            };
            for metrics in batch.operators.iter().filter(|metrics| metrics.operator == info.id) {
                progress.num_rows_total += metrics.state_rows;
                progress.num_rows_updated += metrics.rows_updated;
                progress.num_rows_removed += metrics.rows_removed;
                progress.num_rows_dropped_by_watermark += metrics.late_rows;
                progress.num_rows_expired += metrics.expired_rows;
                progress.num_rows_ignored += metrics.ignored_rows;
                progress.memory_used_bytes += metrics.state_bytes;
            }
            progress
        })
        .collect()
}
