//! Counters of a batch's stages and steps, named as `explain` names them.
//!
//! Owns: joining counters with names, and their metrics. Does not own: counting (executors), adding up (`protocol`).

use highwater_planner::{CompiledQuery, StepText};
use highwater_protocol::ids::{OperatorId, StageId};
use highwater_protocol::metrics::{StageMetrics, StepMetrics};
use highwater_protocol::query::CommittedBatch;
use highwater_protocol::query_progress::{StageProgress, StateOperatorProgress, StepProgress};
use std::collections::BTreeMap;

/// Names of all steps of a run's dataflow: by stage, pipeline and step.
pub(crate) type StepNames = BTreeMap<StageId, Vec<Vec<StepText>>>;

/// Names the steps of a dataflow, once for a run.
pub(crate) fn step_names(compiled: &CompiledQuery) -> StepNames {
    compiled.dataflow.stages.iter().map(|stage| (stage.id, compiled.steps(stage))).collect()
}

/// The stages of a batch; empty for one that was adopted from an earlier run.
pub(crate) fn stages(names: &StepNames, batch: &CommittedBatch) -> Vec<StageProgress> {
    batch.stages.iter().filter_map(|metrics| stage(names, metrics)).collect()
}

fn stage(names: &StepNames, metrics: &StageMetrics) -> Option<StageProgress> {
    let steps = names.get(&metrics.stage)?.iter().zip(&metrics.sum.steps).enumerate();
    Some(StageProgress {
        stage_id: metrics.stage.0,
        num_tasks: metrics.tasks,
        time_ms: ms(metrics.sum.busy_us()),
        slowest_task_ms: ms(metrics.slowest_us),
        wait_ms: ms(metrics.sum.wait_us),
        output_ms: ms(metrics.sum.output_us),
        steps: steps.flat_map(|(pipeline, (names, steps))| pipeline_steps(pipeline, names, steps)).collect(),
    })
}

fn pipeline_steps<'a>(
    pipeline: usize,
    names: &'a [StepText],
    steps: &'a [StepMetrics],
) -> impl Iterator<Item = StepProgress> + use<'a> {
    names.iter().zip(steps).map(move |(name, step)| StepProgress {
        pipeline,
        description: name.description.clone(),
        operator_id: name.operator.map(|operator| operator.0),
        num_input_rows: step.input_rows,
        num_output_rows: step.output_rows,
        num_retracted_rows: step.retracted_rows,
        time_ms: ms(step.time_us),
    })
}

/// Time of a stateful operator in all tasks of a batch, milliseconds.
pub(crate) fn operator_ms(stages: &[StageProgress], operator: OperatorId) -> u64 {
    let steps = stages.iter().flat_map(|stage| &stage.steps);
    let mine = steps.filter(|step| step.operator_id == Some(operator.0));
    // Times are never negative, and far below 2^52 ms.
    mine.map(|step| step.time_ms).sum::<f64>().round() as u64
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// Publishes a batch's counters at `/metrics`: work of each stage, state of each operator.
pub(crate) fn record(query: &str, batch: &CommittedBatch, operators: &[StateOperatorProgress]) {
    let labels = |kind: &'static str, id: String| [("query", query.to_string()), (kind, id)];
    for stage in &batch.stages {
        let labels = labels("stage", stage.stage.to_string());
        let rows = |of: fn(&StepMetrics) -> u64, steps: Option<&StepMetrics>| steps.map_or(0, of);
        let (mut input, mut output, mut retracted) = (0, 0, 0);
        for steps in &stage.sum.steps {
            input += rows(|step| step.input_rows, steps.first());
            output += rows(|step| step.output_rows, steps.last());
            retracted += rows(|step| step.retracted_rows, steps.last());
        }
        metrics::counter!("highwater_stage_input_rows_total", &labels).increment(input);
        metrics::counter!("highwater_stage_output_rows_total", &labels).increment(output);
        metrics::counter!("highwater_stage_retracted_rows_total", &labels).increment(retracted);
        metrics::counter!("highwater_stage_busy_microseconds_total", &labels).increment(stage.sum.busy_us());
    }
    for operator in operators {
        let labels = labels("operator", operator.operator_id.to_string());
        metrics::gauge!("highwater_key_conflicts", &labels).set(operator.num_key_conflicts as f64);
    }
    for operator in &batch.operators {
        let labels = labels("operator", operator.operator.to_string());
        metrics::counter!("highwater_key_conflicts_total", &labels).increment(operator.key_conflicts.begun);
    }
    // An adopted batch has no counters.
    for operator in operators.iter().filter(|_| !batch.operators.is_empty()) {
        let labels = labels("operator", operator.operator_id.to_string());
        metrics::gauge!("highwater_state_rows", &labels).set(operator.num_rows_total as f64);
        metrics::gauge!("highwater_state_bytes", &labels).set(operator.memory_used_bytes as f64);
        metrics::counter!("highwater_late_rows_total", &labels).increment(operator.num_rows_dropped_by_watermark);
    }
}

/// Sets the gauges of a query to nothing when its run ends: it keeps no state in executors any more.
pub(crate) fn clear(query: &str, compiled: &CompiledQuery) {
    for info in &compiled.dataflow.operators {
        let labels = [("query", query.to_string()), ("operator", info.id.to_string())];
        metrics::gauge!("highwater_state_rows", &labels).set(0.0);
        metrics::gauge!("highwater_state_bytes", &labels).set(0.0);
        metrics::gauge!("highwater_key_conflicts", &labels).set(0.0);
    }
}
