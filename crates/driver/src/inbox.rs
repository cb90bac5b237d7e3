//! The inbox of one query's run: updates, of which the newest replaces older ones, and facts, which all count.
//!
//! Owns: the queue of one run. Does not own: who sends (streams, effects, monitors), what an event means (`protocol`).
//!
//! Invariants:
//! - adding never waits: a run that is behind does not delay an executor's stream, which carries other queries'
//!   messages too;
//! - updates that executors send repeatedly (how far they have read, trouble, running tasks) wait once per executor,
//!   the newest replacing older ones;
//! - facts that count by themselves (a task is done, a writer has published) are never dropped. An attempt has one of
//!   them per task and writer; an executor that sends beyond [`MOST_FACTS`] loses its session, and its attempt with it.

use crate::run_event::RunnerEvent;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{ExecutorId, SourceId};
use highwater_protocol::offsets::SourcePartition;
use highwater_protocol::query::{Event, TopicLook};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Number of facts of executors that may wait.
const MOST_FACTS: usize = 65_536;

/// Cheap to clone; all clones add to one inbox.
#[derive(Clone)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
}

/// The only reader. The inbox is closed when it is dropped.
pub(crate) struct InboxReader {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    closed: CancellationToken,
}

/// In order of arrival. An update keeps the place of the oldest one it replaces.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<Place>,
    news: BTreeMap<Subject, RunnerEvent>,
}

enum Place {
    Fact(Box<RunnerEvent>),
    News(Subject),
}

/// The subject of an update: a newer update with the same subject replaces the older, or is merged into it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Available(ExecutorId),
    Trouble(Option<ExecutorId>),
    Heartbeat(ExecutorId),
    OutOfRange(SourcePartition),
    Topic(SourceId),
    SnapshotWarnings,
    Latest(SourceId),
}

/// Creates an inbox and its reader.
pub(crate) fn inbox() -> (Inbox, InboxReader) {
    let shared = Arc::new(Shared::default());
    (Inbox { shared: shared.clone() }, InboxReader { shared })
}

impl Inbox {
    /// Adds an event. After the end of the run it is dropped.
    pub fn push(&self, event: RunnerEvent) {
        if self.is_closed() {
            return;
        }
        self.shared.waiting.lock().add(event);
        self.shared.arrived.notify_one();
    }

    /// Like [`Inbox::push`], for events from executors. Returns false if too many events wait: the session must end.
    #[must_use]
    pub fn offer(&self, event: RunnerEvent) -> bool {
        if self.shared.waiting.lock().queue.len() >= MOST_FACTS {
            return false;
        }
        self.push(event);
        true
    }

    /// True if the run is over.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits for the end of the run.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }
}

impl InboxReader {
    /// Waits for the next event.
    pub async fn next(&mut self) -> RunnerEvent {
        loop {
            // `Notify` keeps one permit for an event that arrives in between.
            if let Some(event) = self.shared.waiting.lock().take() {
                return event;
            }
            self.shared.arrived.notified().await;
        }
    }
}

impl Drop for InboxReader {
    fn drop(&mut self) {
        self.shared.closed.cancel();
        *self.shared.waiting.lock() = Waiting::default();
    }
}

impl Waiting {
    fn add(&mut self, event: RunnerEvent) {
        let Some(subject) = subject(&event) else {
            self.queue.push_back(Place::Fact(Box::new(event)));
            return;
        };
        match self.news.get_mut(&subject) {
            Some(older) => merge(older, event),
            None => {
                self.news.insert(subject.clone(), event);
                self.queue.push_back(Place::News(subject));
            }
        }
    }

    fn take(&mut self) -> Option<RunnerEvent> {
        loop {
            match self.queue.pop_front()? {
                Place::Fact(event) => return Some(*event),
                Place::News(subject) => {
                    if let Some(event) = self.news.remove(&subject) {
                        return Some(event);
                    }
                }
            }
        }
    }
}

/// The subject of an update; `None` for a fact.
fn subject(event: &RunnerEvent) -> Option<Subject> {
    match event {
        RunnerEvent::Machine(Event::Available { executor, .. }) => Some(Subject::Available(*executor)),
        RunnerEvent::Machine(Event::Trouble { executor, kind: ErrorKind::Retry | ErrorKind::Fenced, .. }) => {
            Some(Subject::Trouble(*executor))
        }
        RunnerEvent::Machine(Event::OutOfRange(found)) => Some(Subject::OutOfRange(found.partition.clone())),
        RunnerEvent::Machine(Event::Topic(TopicLook { source, .. }) | Event::TopicMissing { source, .. }) => {
            Some(Subject::Topic(*source))
        }
        RunnerEvent::Machine(Event::Heartbeat { executor, .. }) => Some(Subject::Heartbeat(*executor)),
        RunnerEvent::SnapshotWarnings(_) => Some(Subject::SnapshotWarnings),
        RunnerEvent::Latest { source, .. } => Some(Subject::Latest(*source)),
        RunnerEvent::Machine(_) | RunnerEvent::StateDelta { .. } => None,
    }
}

/// Merges availability: the newest position of a partition counts; marks are reported only once, so all are kept.
fn merge(older: &mut RunnerEvent, newer: RunnerEvent) {
    match (older, newer) {
        (
            RunnerEvent::Machine(Event::Available { partitions, marks, .. }),
            RunnerEvent::Machine(Event::Available { partitions: newer, marks: more, .. }),
        ) => {
            partitions.retain(|old| !newer.iter().any(|new| new.0 == old.0));
            partitions.extend(newer);
            for (partition, mut more) in more {
                marks.entry(partition).or_default().append(&mut more);
            }
        }
        (older, newer) => *older = newer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_protocol::align::Mark;
    use highwater_protocol::ids::{AttemptId, AttemptNumber, Epoch, TaskId};
    use highwater_protocol::offsets::TopicPartition;

    fn executor(number: u128) -> ExecutorId {
        ExecutorId(uuid::Uuid::from_u128(number))
    }

    fn partition(number: i32) -> SourcePartition {
        SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", number) }
    }

    fn available(from: u128, number: i32, position: i64) -> RunnerEvent {
        let mark = Mark { position, watermark_ms: Some(position) };
        RunnerEvent::Machine(Event::Available {
            executor: executor(from),
            partitions: vec![(partition(number), position, false)],
            marks: [(partition(number), vec![mark])].into(),
        })
    }

    fn failed(number: u64) -> RunnerEvent {
        RunnerEvent::Machine(Event::TaskFailed {
            attempt: AttemptId { epoch: Epoch(1), number: AttemptNumber(number) },
            task: TaskId(0),
            kind: ErrorKind::Retry,
            message: String::new(),
            unreachable: None,
        })
    }

    #[tokio::test]
    async fn a_run_that_is_behind_has_one_update_per_executor_and_every_fact_waiting() {
        let (inbox, mut reader) = inbox();
        for position in 0..100_000 {
            assert!(inbox.offer(available(1, 0, position)), "no sender waits, and no session must end");
            assert!(inbox.offer(available(1, 1, position)));
            assert!(inbox.offer(available(2, 2, position)));
        }
        assert!(inbox.offer(failed(1)));
        assert!(inbox.offer(failed(2)));
        let RunnerEvent::Machine(Event::Available { partitions, marks, .. }) = reader.next().await else { panic!() };
        let mut reached: Vec<_> = partitions.into_iter().map(|report| (report.0.tp.partition, report.1)).collect();
        reached.sort_unstable();
        assert_eq!(reached, [(0, 99_999), (1, 99_999)], "the newest of each partition");
        assert_eq!(marks[&partition(0)].len(), 100_000, "marks are told only once, and none is lost");
        assert!(
            matches!(reader.next().await, RunnerEvent::Machine(Event::Available { .. })),
            "the update of the other executor"
        );
        for number in [1, 2] {
            let RunnerEvent::Machine(Event::TaskFailed { attempt, .. }) = reader.next().await else { panic!() };
            assert_eq!(attempt.number.0, number);
        }
        assert!(reader.shared.waiting.lock().take().is_none());
    }

    #[tokio::test]
    async fn an_executor_that_sends_too_many_facts_loses_its_session() {
        let (inbox, reader) = inbox();
        let sent = (0..).take_while(|number| inbox.offer(failed(*number))).count();
        assert_eq!(sent, MOST_FACTS);
        inbox.push(failed(0));
        drop(reader);
        assert!(inbox.is_closed());
        inbox.closed().await;
        inbox.push(failed(0));
        assert_eq!(inbox.shared.waiting.lock().queue.len(), 0, "after the end nothing is kept");
    }

    #[tokio::test]
    async fn the_ends_of_one_source_do_not_replace_those_of_another() {
        let (inbox, mut reader) = inbox();
        let latest = |source, end| RunnerEvent::Latest {
            source: SourceId(source),
            ends: [(partition(source as i32), end)].into(),
            warnings: Vec::new(),
        };
        for event in [latest(0, 1), latest(1, 5), latest(0, 2)] {
            inbox.push(event);
        }
        for expected in [(SourceId(0), 2), (SourceId(1), 5)] {
            let RunnerEvent::Latest { source, ends, .. } = reader.next().await else { panic!() };
            assert_eq!((source, ends.into_values().next().unwrap()), expected);
        }
    }

    #[tokio::test]
    async fn trouble_that_ends_before_it_is_read_is_reported_as_ended() {
        let (inbox, mut reader) = inbox();
        let trouble = |message: &str| {
            let (executor, kind) = (Some(executor(1)), ErrorKind::Retry);
            RunnerEvent::Machine(Event::Trouble { executor, kind, message: message.into() })
        };
        inbox.push(trouble("broker away"));
        inbox.push(trouble(""));
        let RunnerEvent::Machine(Event::Trouble { message, .. }) = reader.next().await else { panic!() };
        assert_eq!(message, "");
    }
}
