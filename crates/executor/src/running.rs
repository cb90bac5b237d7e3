//! The attempt that runs on this executor: its tasks, and the progress of each that is reported to the driver.
//!
//! Owns: which tasks are neither done nor failed. Does not own: running them (`worker`, `task`).
//! Invariant: a task is listed from the moment its attempt is accepted until its result is reported. A worker that
//! hangs reports nothing.

use crate::attempt::Attempt;
use crate::outbox::Outbox;
use crate::steps::Steps;
use highwater_protocol::ids::TaskId;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

pub struct Running {
    pub attempt: Attempt,
    pub cancel: CancellationToken,
    /// Progress of loading the state that all tasks wait for.
    pub loading: Steps,
    tasks: BTreeMap<TaskId, Steps>,
}

impl Running {
    pub fn new(attempt: Attempt) -> Self {
        let tasks = attempt.mine().map(|task| (task.id, Steps::default())).collect();
        Self { attempt, cancel: CancellationToken::new(), loading: Steps::default(), tasks }
    }

    /// Returns the step counter of a task.
    pub fn steps(&self, task: TaskId) -> Steps {
        self.tasks.get(&task).cloned().unwrap_or_default()
    }

    /// Removes a task whose result is about to be reported.
    pub fn ended(&mut self, task: TaskId) {
        self.tasks.remove(&task);
    }

    /// Reports to the driver which tasks still run. Does nothing if none does.
    pub async fn tell(&self, outbox: &Outbox) {
        if !self.tasks.is_empty() {
            let loaded = self.loading.count();
            let tasks = self.tasks.iter().map(|(task, steps)| (*task, loaded + steps.count()));
            outbox.heartbeat(self.attempt.id, self.attempt.plan.batch, tasks).await;
        }
    }
}
