//! What waits for one query's run: news that replaces older news, and facts that each count.
//!
//! Owns: the queue of one run. Does not own: who sends (streams, effects, monitors) or what a fact means (protocol).
//!
//! Invariants:
//! - putting something in never waits: a run that is behind holds up no executor's stream, which carries other queries'
//!   messages too;
//! - what an executor says again and again (how far it has read, that it is in trouble, that its tasks run) waits once
//!   per executor, the newest for the older;
//! - what counts by itself (a task is done, a writer has published) is never dropped. An attempt has one of them per task
//!   and writer; an executor that sends beyond [`MOST_FACTS`] is to lose its session, and its attempt with it.

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

/// Facts of executors that may wait.
const MOST_FACTS: usize = 65_536;

/// Cheap to clone; all clones fill one inbox.
#[derive(Clone)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
}

/// The one reader. When it goes, the inbox is closed.
pub(crate) struct InboxReader {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    closed: CancellationToken,
}

/// In order of arrival; news stands where its oldest part came.
#[derive(Default)]
struct Waiting {
    queue: VecDeque<Place>,
    news: BTreeMap<Subject, RunnerEvent>,
}

enum Place {
    Fact(Box<RunnerEvent>),
    News(Subject),
}

/// What news is about: newer news about the same replaces older, or is added to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Available(ExecutorId),
    Trouble(Option<ExecutorId>),
    Heartbeat(ExecutorId),
    OutOfRange(SourcePartition),
    Topic(SourceId),
    FileWarnings,
    Latest(SourceId),
}

/// An inbox and its reader.
pub(crate) fn inbox() -> (Inbox, InboxReader) {
    let shared = Arc::new(Shared::default());
    (Inbox { shared: shared.clone() }, InboxReader { shared })
}

impl Inbox {
    /// Puts something in. After the run's end it is dropped.
    pub fn push(&self, event: RunnerEvent) {
        if self.is_closed() {
            return;
        }
        self.shared.waiting.lock().add(event);
        self.shared.arrived.notify_one();
    }

    /// As [`Inbox::push`], for what an executor says. False: too much waits, its session has to end.
    #[must_use]
    pub fn offer(&self, event: RunnerEvent) -> bool {
        if self.shared.waiting.lock().queue.len() >= MOST_FACTS {
            return false;
        }
        self.push(event);
        true
    }

    /// The run is over.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits for the end of the run.
    pub async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }
}

impl InboxReader {
    /// Waits for what is next.
    pub async fn next(&mut self) -> RunnerEvent {
        loop {
            // One permit is kept for an arrival in between.
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

/// `None`: it counts by itself.
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
        RunnerEvent::FileWarnings(_) => Some(Subject::FileWarnings),
        RunnerEvent::Latest { source, .. } => Some(Subject::Latest(*source)),
        RunnerEvent::Machine(_) | RunnerEvent::StateDelta { .. } => None,
    }
}

/// The newest report of a partition counts; marks are told once each, so that all are kept.
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
    async fn a_run_that_is_behind_has_one_report_per_executor_and_every_fact_waiting() {
        let (inbox, mut reader) = inbox();
        for position in 0..100_000 {
            assert!(inbox.offer(available(1, 0, position)), "nobody is held up, and nobody has to go");
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
        assert!(matches!(reader.next().await, RunnerEvent::Machine(Event::Available { .. })), "of the other executor");
        for number in [1, 2] {
            let RunnerEvent::Machine(Event::TaskFailed { attempt, .. }) = reader.next().await else { panic!() };
            assert_eq!(attempt.number.0, number);
        }
        assert!(reader.shared.waiting.lock().take().is_none());
    }

    #[tokio::test]
    async fn an_executor_that_sends_without_end_is_to_lose_its_session() {
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
    async fn trouble_that_is_over_before_anyone_looked_is_over() {
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
