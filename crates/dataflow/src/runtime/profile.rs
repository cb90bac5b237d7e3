//! Counters of rows and time of each step of a pipeline.
//!
//! Owns: counting, and assigning time to steps. Does not own: the clock (the executor passes it in), showing the counters.
//! No row depends on either.

use crate::changelog::ChangeBatch;
use highwater_protocol::metrics::StepMetrics;
use std::fmt;
use std::time::Duration;

/// A clock that never goes back; its zero is arbitrary. The default stands still, so that runs are repeatable.
#[derive(Clone, Copy)]
pub struct Clock(pub fn() -> Duration);

impl Default for Clock {
    fn default() -> Self {
        Self(|| Duration::ZERO)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Counters of one pipeline: a step per operator, and one for its exchange or sink.
pub(super) struct Profile {
    clock: Clock,
    steps: Vec<StepMetrics>,
    /// Time of each step, exact, since single calls may take far less than a microsecond.
    times: Vec<Duration>,
    /// The step that is running; `None` = none of this pipeline is.
    current: Option<usize>,
    /// Time at which `current` changed last.
    since: Duration,
}

impl Profile {
    pub fn new(clock: Clock, operators: usize) -> Self {
        let steps = vec![StepMetrics::default(); operators + 1];
        let times = vec![Duration::ZERO; steps.len()];
        Self { clock, steps, times, current: None, since: Duration::ZERO }
    }

    /// Returns the step of the exchange or sink.
    pub fn output(&self) -> usize {
        self.steps.len() - 1
    }

    /// Counts time for this step from now on. Returns the step before, for [`Profile::leave`].
    pub fn enter(&mut self, step: usize) -> Option<usize> {
        self.switch(Some(step))
    }

    /// Counts time for the step `before` again.
    pub fn leave(&mut self, before: Option<usize>) {
        self.switch(before);
    }

    fn switch(&mut self, to: Option<usize>) -> Option<usize> {
        let now = (self.clock.0)();
        if let Some(time) = self.current.and_then(|step| self.times.get_mut(step)) {
            *time += now.saturating_sub(self.since);
        }
        self.since = now;
        std::mem::replace(&mut self.current, to)
    }

    /// Counts input rows of a step.
    pub fn takes(&mut self, step: usize, rows: &ChangeBatch) {
        if let Some(step) = self.steps.get_mut(step) {
            step.input_rows += rows.num_rows() as u64;
        }
    }

    /// Counts output rows of a step.
    pub fn emits(&mut self, step: usize, rows: &ChangeBatch) {
        if let Some(step) = self.steps.get_mut(step) {
            step.output_rows += rows.num_rows() as u64;
            step.retracted_rows += rows.retractions() as u64;
        }
    }

    /// Returns the rows counted so far, for [`Profile::recount`].
    pub fn counted(&self) -> Vec<StepMetrics> {
        self.steps.clone()
    }

    /// Forgets the rows counted since `counted`, but not the time.
    pub fn recount(&mut self, counted: Vec<StepMetrics>) {
        self.steps = counted;
    }

    /// Returns the counters of every step.
    pub fn steps(&self) -> Vec<StepMetrics> {
        let us = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let steps = self.steps.iter().zip(&self.times);
        steps.map(|(step, time)| StepMetrics { time_us: us(time), ..*step }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions};
    use arrow::datatypes::Schema;
    use std::cell::Cell;
    use std::sync::Arc;

    thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });

    fn pass(us: u64) {
        NOW.set(NOW.get() + us);
    }

    #[test]
    fn time_is_that_of_the_innermost_step_and_rows_are_counted_at_both_ends() {
        let mut profile = Profile::new(Clock(|| Duration::from_micros(NOW.get())), 2);
        assert_eq!(profile.output(), 2);
        pass(1000);
        let outer = profile.enter(0);
        pass(10);
        let inner = profile.enter(1);
        pass(200);
        profile.leave(inner);
        pass(5);
        profile.leave(outer);
        pass(1000);
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
        let rows = ChangeBatch { batch, weights: Some(Int64Array::from(vec![-1, 2, -3])) };
        profile.takes(0, &rows);
        profile.emits(0, &rows);
        let step = |rows, retracted_rows, time_us| StepMetrics {
            input_rows: rows,
            output_rows: rows,
            retracted_rows,
            time_us,
        };
        assert_eq!(profile.steps(), [step(3, 2, 15), step(0, 0, 200), step(0, 0, 0)]);
    }
}
