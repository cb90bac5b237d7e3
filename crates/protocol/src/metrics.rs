//! Counters of tasks and stages: rows, retractions and time of every step of a batch.
//!
//! Owns: their shape, and adding them up. Does not own: counting (the runtime), showing (the driver). They are for people:
//! no decision depends on them, and a repetition of a batch may report other times.

use crate::ids::StageId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One step of a pipeline: an operator, or (the last step) the pipeline's exchange or sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub input_rows: u64,
    /// Of an exchange or a sink: the rows handed to it.
    pub output_rows: u64,
    /// Those of `output_rows` that retract a row.
    pub retracted_rows: u64,
    /// Time on a thread of the executor, microseconds.
    pub time_us: u64,
}

impl StepMetrics {
    fn add(&mut self, more: &Self) {
        self.input_rows += more.input_rows;
        self.output_rows += more.output_rows;
        self.retracted_rows += more.retracted_rows;
        self.time_us += more.time_us;
    }
}

/// Adds the steps of pipelines, each pipeline and step by its index.
pub fn add_steps(sum: &mut Vec<Vec<StepMetrics>>, more: &[Vec<StepMetrics>]) {
    if sum.len() < more.len() {
        sum.resize(more.len(), Vec::new());
    }
    for (sum, more) in sum.iter_mut().zip(more) {
        if sum.len() < more.len() {
            sum.resize(more.len(), StepMetrics::default());
        }
        sum.iter_mut().zip(more).for_each(|(sum, more)| sum.add(more));
    }
}

/// What one task did in one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// By pipeline of the task's stage, then by step.
    pub steps: Vec<Vec<StepMetrics>>,
    /// Time a source task waited for records, microseconds.
    pub wait_us: u64,
    /// Time for sending rows to other tasks and for writing them to sinks, flushing included, microseconds.
    pub output_us: u64,
}

impl TaskMetrics {
    /// Time in all steps, and for its output, microseconds.
    pub fn busy_us(&self) -> u64 {
        self.steps.iter().flatten().map(|step| step.time_us).sum::<u64>() + self.output_us
    }
}

/// What the tasks of one stage did in one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageMetrics {
    pub stage: StageId,
    pub tasks: u64,
    /// Busy time of the task with the most, microseconds.
    pub slowest_us: u64,
    /// Sums over the tasks.
    pub sum: TaskMetrics,
}

impl StageMetrics {
    fn add(&mut self, task: &TaskMetrics) {
        self.tasks += 1;
        self.slowest_us = self.slowest_us.max(task.busy_us());
        add_steps(&mut self.sum.steps, &task.steps);
        self.sum.wait_us += task.wait_us;
        self.sum.output_us += task.output_us;
    }

    /// Sums over tasks, each given with its stage; ascending by stage.
    pub fn of<'a>(tasks: impl Iterator<Item = (StageId, &'a TaskMetrics)>) -> Vec<Self> {
        let mut stages: BTreeMap<StageId, Self> = BTreeMap::new();
        for (stage, metrics) in tasks {
            stages.entry(stage).or_insert_with(|| Self { stage, ..Self::default() }).add(metrics);
        }
        stages.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rows: u64, retracted: u64, time_us: u64) -> StepMetrics {
        StepMetrics { input_rows: rows, output_rows: rows, retracted_rows: retracted, time_us }
    }

    #[test]
    fn tasks_add_up_by_stage_pipeline_and_step() {
        let task = |steps, output_us| TaskMetrics { steps, wait_us: 5, output_us };
        let tasks = [
            (StageId(1), task(vec![vec![step(10, 1, 100)], vec![step(3, 0, 7), step(2, 2, 1)]], 50)),
            (StageId(1), task(vec![vec![step(5, 0, 300)]], 0)),
            (StageId(0), task(vec![vec![step(1, 0, 2)]], 0)),
        ];
        let sum = |steps, wait_us, output_us| TaskMetrics { steps, wait_us, output_us };
        assert_eq!(
            StageMetrics::of(tasks.iter().map(|(stage, task)| (*stage, task))),
            [
                StageMetrics { stage: StageId(0), tasks: 1, slowest_us: 2, sum: sum(vec![vec![step(1, 0, 2)]], 5, 0) },
                StageMetrics {
                    stage: StageId(1),
                    tasks: 2,
                    slowest_us: 300,
                    sum: sum(vec![vec![step(15, 1, 400)], vec![step(3, 0, 7), step(2, 2, 1)]], 10, 50)
                },
            ]
        );
    }
}
