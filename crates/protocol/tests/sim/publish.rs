//! Writers on a simulated executor, and the commit of what they have flushed.
//!
//! Owns: publishing, with everything that makes its outcome unknown: requests that are lost, late or refused, and
//! answers that never come. Does not own: what is written (`tasks`), what a commit does (`broker`).

use crate::types::{Ev, Up};
use crate::world::World;
use highwater_protocol::ids::AttemptId;
use highwater_protocol::plan::WriterPlan;

/// The state of a writer on an executor.
#[derive(Default)]
pub struct Slot {
    pub producer: Option<u64>,
    pub txn: Option<usize>,
    pub flushed: Option<AttemptId>,
    /// A request to the brokers is under way.
    pub busy: bool,
}

impl World {
    pub fn begin_publish(&mut self, executor: usize, attempt: AttemptId, writer: WriterPlan) {
        self.moment(None, Some(executor));
        let life = self.executors[executor].life;
        let Some(worker) = self.executors[executor].worker.as_mut() else { return };
        let slot = worker.slots.entry(writer).or_default();
        let flushed = slot.flushed.take_if(|flushed| *flushed == attempt).is_some();
        let Some(txn) = slot.txn.filter(|_| flushed) else {
            return self.up(executor, Up::Published(attempt, writer, false));
        };
        slot.busy = true;
        let arrives = self.now + self.request_ms();
        self.at(arrives, Ev::BrokerCommit { executor, life, attempt, writer, txn });
    }

    pub fn broker_commit(&mut self, executor: usize, life: u64, attempt: AttemptId, writer: WriterPlan, txn: usize) {
        if !self.executors[executor].alive || self.executors[executor].life != life {
            self.coverage.hit("commit arrived after its sender was gone");
        }
        let mut known = false;
        if self.reachable() && !self.chance(self.knobs.commit_lost) {
            known = self.broker.commit(txn);
            if known {
                self.coverage.hit("transaction committed");
                let checked = self.checker.published(&self.broker.txns[txn], &self.broker);
                self.check(checked);
            } else {
                self.coverage.hit("commit refused: fenced");
            }
        } else {
            self.coverage.hit("commit lost");
        }
        if known && self.chance(self.knobs.answer_lost) {
            self.coverage.hit("commit's answer lost");
            known = false;
        }
        self.soon(4, Ev::CommitDone { executor, life, attempt, writer, known });
        self.moment(None, Some(executor));
    }

    pub fn commit_done(&mut self, executor: usize, life: u64, attempt: AttemptId, writer: WriterPlan, known: bool) {
        let node = &mut self.executors[executor];
        let Some(worker) = node.worker.as_mut().filter(|_| node.life == life) else { return };
        let slot = worker.slots.entry(writer).or_default();
        slot.busy = false;
        slot.txn = None;
        if !known {
            // A producer whose transaction failed is not used again.
            slot.producer = None;
        }
        self.up(executor, Up::Published(attempt, writer, known));
    }
}
