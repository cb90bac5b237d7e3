//! What a sink's writers hold, found out safely after a crash or an unknown commit.
//!
//! Owns: the order, which is all that matters: first every writer's transactional id is initialised, which fences
//! whoever had it and ends its transaction one way or the other; then the end of the progress topic is taken as a
//! `read_uncommitted` reader; then it is read beyond that end as a `read_committed` one; only then is anything concluded.

use super::kafka;
use super::progress::{ProgressKey, ProgressReader, progress_topic};
use crate::error::ConnectorError;
use highwater_core::ids::{BatchId, QueryId, WriterId};
use highwater_core::options::IsolationLevel;
use highwater_core::query::Resolution;
use highwater_core::report::ProgressPosition;
use highwater_engine::query::{ConnectorOptions, KafkaOptions, SinkTable};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A writer, the batch asked about (`None`: only fence it), and where its progress record lies if it was flushed.
pub type Asked = (WriterId, Option<BatchId>, Option<ProgressPosition>);

/// How long the broker may take to end transactions that were fenced, before others are looked for.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest wait for the end to be stable.
const STABLE_TIMEOUT: Duration = Duration::from_secs(30);
const STABLE_PAUSE: Duration = Duration::from_millis(10);

/// Fences writers and says what each holds. Blocks.
pub fn resolve_writers(
    table: &SinkTable,
    query: QueryId,
    writers: &[Asked],
) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError> {
    let ConnectorOptions::Kafka(options) = &table.connector else {
        // A console keeps nothing that could be asked.
        return Ok(writers.iter().map(|(writer, ..)| (*writer, Resolution::NotPublished)).collect());
    };
    let ids: BTreeSet<WriterId> = writers.iter().map(|(writer, ..)| *writer).collect();
    fence(table, options, query, &ids)?;
    if writers.iter().all(|(_, batch, _)| batch.is_none()) {
        return Ok(writers.iter().map(|(writer, ..)| (*writer, Resolution::NotPublished)).collect());
    }
    let topic = progress_topic(query, table.id);
    let all = ProgressReader::open(options, IsolationLevel::ReadUncommitted)?;
    let Some(end) = all.end(&topic)? else {
        return Err(ConnectorError::Fatal(format!(
            "topic '{topic}' is gone, so that nobody can tell what sink '{}' holds; restore it, or drop the query and \
             submit it again with --new-output",
            table.name
        )));
    };
    let committed = ProgressReader::open(options, IsolationLevel::ReadCommitted)?;
    let fence_others = || {
        let others = all.read(&[(topic.clone(), None)].into())?;
        let others = others.into_keys().map(|key| WriterId(key.writer)).filter(|writer| !ids.contains(writer));
        fence(table, options, query, &others.collect())
    };
    wait_until_stable(&committed, &topic, end, fence_others)?;
    let found = committed.read(&[(topic, start(writers))].into())?;
    let resolve = |(writer, batch, _): &Asked| {
        let key = ProgressKey { query: query.to_string(), sink: table.id.0, writer: writer.0 };
        let held = found.get(&key).map(|progress| BatchId(progress.batch));
        let resolution = match (held, batch) {
            (Some(held), Some(batch)) if held == *batch => Resolution::Published,
            (Some(held), Some(batch)) if held > *batch => Resolution::Ahead { batch: held },
            _ => Resolution::NotPublished,
        };
        (*writer, resolution)
    };
    Ok(writers.iter().map(resolve).collect())
}

/// Waits until no open transaction lies below `end`. One that stays open is of a writer that was not asked about:
/// of an attempt that was dropped, by an executor that died with it. The query is ours, so it is fenced too.
fn wait_until_stable(
    committed: &ProgressReader,
    topic: &str,
    end: i64,
    fence_others: impl Fn() -> Result<(), ConnectorError>,
) -> Result<(), ConnectorError> {
    let begun = Instant::now();
    let mut fenced = false;
    while committed.end(topic)?.is_some_and(|stable| stable < end) {
        if begun.elapsed() > STABLE_TIMEOUT {
            return Err(ConnectorError::Unavailable {
                context: format!("reading topic '{topic}'"),
                message: "an open transaction hides its end".into(),
            });
        }
        if begun.elapsed() > SETTLE && !fenced {
            fence_others()?;
            fenced = true;
        }
        std::thread::sleep(STABLE_PAUSE);
    }
    Ok(())
}

/// Initialises every writer's transactional ids, all at the same time.
fn fence(
    table: &SinkTable,
    options: &KafkaOptions,
    query: QueryId,
    writers: &BTreeSet<WriterId>,
) -> Result<(), ConnectorError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter()
            .flat_map(|writer| kafka::Side::ALL.map(|side| (*writer, side)))
            .map(|(writer, side)| scope.spawn(move || kafka::fence(table, options, query, writer, side)))
            .collect();
        for thread in threads {
            let fenced =
                thread.join().map_err(|_| ConnectorError::Fatal("internal: a fencing thread panicked".into()))?;
            fenced?;
        }
        Ok(())
    })
}

/// Where to begin: at the first flushed record, if all of them are known, else at the beginning.
fn start(writers: &[Asked]) -> Option<i64> {
    let asked = writers.iter().filter(|(_, batch, _)| batch.is_some());
    let places: Option<Vec<i64>> = asked.map(|(_, _, place)| Some(place.as_ref()?.offset)).collect();
    places?.into_iter().min()
}
