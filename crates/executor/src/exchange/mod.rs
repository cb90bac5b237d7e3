//! Rows between tasks: every receiving task has an inbox, which tasks on this or other executors fill.
//!
//! Owns: inboxes of the current attempt of every query. Does not own: the network (`service`, `sender`, `call`).
//! Invariants: a batch of another attempt never gets into an inbox; an inbox is complete only when every sender has
//! ended and as many rows have arrived as each one announced; rows are taken in (edge, sender, sequence) order. The
//! content of an inbox counts as the query's memory on this executor, from the arrival of a batch until the task has
//! computed it: a query that exceeds its memory stops.

mod call;
pub mod sender;
pub mod service;

use crate::error::TaskError;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::state::{Growth, Taker};
use highwater_protocol::ids::{AttemptId, EdgeId, QueryId, TaskId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// One sender's stream into one task: the edge and the sending task.
pub type Stream = (EdgeId, TaskId);

/// All inboxes of this executor. Cheap to clone; all clones share them.
#[derive(Clone, Default)]
pub struct Exchange {
    attempts: Arc<Mutex<HashMap<QueryId, Arc<AttemptInboxes>>>>,
    changed: Arc<Notify>,
}

/// The inboxes of one attempt.
pub struct AttemptInboxes {
    attempt: AttemptId,
    inboxes: BTreeMap<TaskId, Inbox>,
}

struct Inbox {
    content: Mutex<Content>,
    complete: watch::Sender<bool>,
}

struct Content {
    waiting_for: BTreeSet<Stream>,
    streams: BTreeMap<Stream, StreamContent>,
    /// The memory counted for `streams`.
    held: Growth,
}

#[derive(Default)]
struct StreamContent {
    batches: Vec<ChangeBatch>,
    rows: u64,
}

/// Whether a sender's attempt is the one that runs here.
pub enum Admission {
    Current(Arc<AttemptInboxes>),
    /// A newer attempt runs here, or none at all.
    Stale,
}

impl Exchange {
    /// Opens the inboxes of an attempt, with the streams that each expects, in place of those of the attempt before.
    /// `memory` is the query's.
    pub fn open(
        &self,
        query: QueryId,
        attempt: AttemptId,
        tasks: BTreeMap<TaskId, BTreeSet<Stream>>,
        memory: &Growth,
    ) -> Arc<AttemptInboxes> {
        let inbox = |streams: BTreeSet<Stream>| Inbox {
            complete: watch::channel(streams.is_empty()).0,
            content: Mutex::new(Content { waiting_for: streams, streams: BTreeMap::new(), held: memory.part() }),
        };
        let inboxes = tasks.into_iter().map(|(task, streams)| (task, inbox(streams))).collect();
        let opened = Arc::new(AttemptInboxes { attempt, inboxes });
        self.attempts.lock().insert(query, opened.clone());
        self.changed.notify_waiters();
        opened
    }

    /// Drops the inboxes of a query if they are of this attempt or an earlier one.
    pub fn close(&self, query: QueryId, attempt: AttemptId) {
        let mut attempts = self.attempts.lock();
        if attempts.get(&query).is_some_and(|inboxes| inboxes.attempt <= attempt) {
            attempts.remove(&query);
        }
    }

    /// Drops all inboxes, because the session is over.
    pub fn clear(&self) {
        self.attempts.lock().clear();
    }

    /// Waits until this attempt, or a newer one, is open here: a sender may be told to run before this executor is.
    pub async fn admit(&self, query: QueryId, attempt: AttemptId) -> Admission {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the check, so that an attempt opened in between is not missed.
            changed.as_mut().enable();
            let found = self.attempts.lock().get(&query).cloned();
            match found {
                Some(inboxes) if inboxes.attempt == attempt => return Admission::Current(inboxes),
                Some(inboxes) if inboxes.attempt > attempt => return Admission::Stale,
                _ => changed.await,
            }
        }
    }
}

impl AttemptInboxes {
    fn inbox(&self, task: TaskId) -> Result<&Inbox, TaskError> {
        self.inboxes.get(&task).ok_or_else(|| TaskError::Exchange(format!("task {task} does not run here")))
    }

    /// Adds the next batch of a stream; fails if the query's memory is exhausted.
    pub fn push(&self, to: TaskId, stream: Stream, rows: ChangeBatch) -> Result<(), TaskError> {
        let bytes = rows.size_bytes() as u64;
        let mut content = self.inbox(to)?.content.lock();
        if !content.waiting_for.contains(&stream) {
            return Err(unexpected(to, stream));
        }
        content.held.charge(Taker::Edge(stream.0), bytes)?;
        let entry = content.streams.entry(stream).or_default();
        entry.rows += rows.num_rows() as u64;
        entry.batches.push(rows);
        Ok(())
    }

    /// Ends a stream that must have had `rows` rows.
    pub fn end(&self, to: TaskId, stream: Stream, rows: u64) -> Result<(), TaskError> {
        let inbox = self.inbox(to)?;
        let mut content = inbox.content.lock();
        let got = content.streams.get(&stream).map_or(0, |found| found.rows);
        if got != rows {
            return Err(TaskError::Exchange(format!(
                "task {} sent {rows} rows to task {to}, but {got} arrived",
                stream.1
            )));
        }
        if !content.waiting_for.remove(&stream) {
            return Err(unexpected(to, stream));
        }
        if content.waiting_for.is_empty() {
            inbox.complete.send_replace(true);
        }
        Ok(())
    }

    /// Waits for the end of every stream, then takes all batches in (edge, sender, sequence) order, with the memory
    /// counted for them.
    pub async fn take(&self, task: TaskId) -> Result<(Vec<(EdgeId, ChangeBatch)>, Growth), TaskError> {
        let inbox = self.inbox(task)?;
        let mut complete = inbox.complete.subscribe();
        if complete.wait_for(|complete| *complete).await.is_err() {
            return Err(TaskError::Cancelled);
        }
        let (streams, held) = {
            let mut content = inbox.content.lock();
            let nothing = content.held.part();
            (std::mem::take(&mut content.streams), std::mem::replace(&mut content.held, nothing))
        };
        let batches =
            |((edge, _), content): (Stream, StreamContent)| content.batches.into_iter().map(move |batch| (edge, batch));
        Ok((streams.into_iter().flat_map(batches).collect(), held))
    }
}

fn unexpected(to: TaskId, (edge, from): Stream) -> TaskError {
    TaskError::Exchange(format!("task {from} does not send to task {to} over edge {edge}, or has ended already"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use highwater_protocol::ids::{AttemptNumber, Epoch};

    fn rows(values: &[i64]) -> ChangeBatch {
        let column: arrow::array::ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        ChangeBatch::inserts(RecordBatch::try_from_iter([("v", column)]).unwrap())
    }

    fn attempt(number: u64) -> AttemptId {
        AttemptId { epoch: Epoch(1), number: AttemptNumber(number) }
    }

    const QUERY: QueryId = QueryId(uuid::Uuid::nil());
    const A: Stream = (EdgeId(0), TaskId(0));
    const B: Stream = (EdgeId(0), TaskId(1));
    const TO: TaskId = TaskId(9);

    #[tokio::test]
    async fn batches_are_taken_in_sender_order_whatever_arrives_first() {
        let exchange = Exchange::default();
        let inboxes = exchange.open(QUERY, attempt(1), [(TO, [A, B].into())].into(), &Growth::unlimited());
        inboxes.push(TO, B, rows(&[3])).unwrap();
        inboxes.push(TO, A, rows(&[1])).unwrap();
        inboxes.end(TO, B, 1).unwrap();
        inboxes.push(TO, A, rows(&[2])).unwrap();
        inboxes.end(TO, A, 2).unwrap();
        let (taken, _) = inboxes.take(TO).await.unwrap();
        let values: Vec<i64> = taken
            .iter()
            .map(|(_, rows)| rows.batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0))
            .collect();
        assert_eq!(values, vec![1, 2, 3]);
    }

    #[tokio::test]
    async fn a_wrong_row_count_or_a_second_end_is_refused() {
        let inboxes = Exchange::default().open(QUERY, attempt(1), [(TO, [A].into())].into(), &Growth::unlimited());
        inboxes.push(TO, A, rows(&[1])).unwrap();
        assert!(inboxes.end(TO, A, 2).is_err());
        inboxes.end(TO, A, 1).unwrap();
        assert!(inboxes.end(TO, A, 1).is_err());
        assert!(inboxes.push(TO, A, rows(&[1])).is_err());
        assert!(inboxes.push(TaskId(1), A, rows(&[1])).is_err());
    }

    #[tokio::test]
    async fn waiting_rows_count_as_memory_of_their_query_until_they_are_computed() {
        // given memory for two batches
        let limit = 2 * rows(&[1, 2]).size_bytes() as u64;
        let memory = Growth::limited(limit);
        let exchange = Exchange::default();
        let inboxes = exchange.open(QUERY, attempt(1), [(TO, [A].into()), (TaskId(8), [B].into())].into(), &memory);
        inboxes.push(TO, A, rows(&[1, 2])).unwrap();
        inboxes.push(TaskId(8), B, rows(&[3, 4])).unwrap();
        // when one more arrives, then it is refused, and the error names its edge
        let error = inboxes.push(TaskId(8), B, rows(&[5, 6])).unwrap_err();
        assert_eq!(error.kind(), highwater_protocol::error::ErrorKind::Fix);
        assert!(
            error.to_string().contains("the rows of edge 0") && error.to_string().contains("--query-memory"),
            "{error}"
        );
        // and rows that were taken still count until they are dropped
        inboxes.end(TO, A, 2).unwrap();
        let (_, held) = inboxes.take(TO).await.unwrap();
        assert!(memory.part().charge(Taker::Part("more"), 1).is_err());
        drop(held);
        exchange.close(QUERY, attempt(1));
        drop(inboxes);
        assert!(memory.part().charge(Taker::Part("all"), limit).is_ok());
    }

    #[tokio::test]
    async fn a_sender_waits_for_its_attempt_and_a_stale_one_is_refused() {
        let exchange = Exchange::default();
        let early = tokio::spawn({
            let exchange = exchange.clone();
            async move { matches!(exchange.admit(QUERY, attempt(2)).await, Admission::Current(_)) }
        });
        exchange.open(QUERY, attempt(1), BTreeMap::new(), &Growth::unlimited());
        exchange.open(QUERY, attempt(2), BTreeMap::new(), &Growth::unlimited());
        assert!(early.await.unwrap());
        assert!(matches!(exchange.admit(QUERY, attempt(1)).await, Admission::Stale));
    }
}
