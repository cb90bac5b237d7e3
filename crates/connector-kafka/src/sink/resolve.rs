//! Finds out which batches a sink's writers have published, after a crash or a commit with unknown outcome.
//!
//! Owns: the order of steps, which makes the answer safe. First, every writer's transactional id is initialised, which
//! fences earlier producers and commits or aborts their transactions. Second, the end of the progress topic is read as
//! `read_uncommitted`. Third, the topic is read as `read_committed` at least up to that end. Only then is it evaluated.

use super::producer::fence;
use super::progress_topic::{Progress, ProgressKey, ProgressReader, progress_topic};
use super::token::ProgressPosition;
use crate::options::sink_options;
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::ids::{BatchId, QueryId, WriterId};
use highwater_protocol::options::IsolationLevel;
use highwater_protocol::query::Resolution;
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Time for the broker to end fenced transactions; if it takes longer, the topic's other writers are fenced, too.
const SETTLE: Duration = Duration::from_millis(500);
/// Longest wait until no transaction below the end is open.
const STABLE_TIMEOUT: Duration = Duration::from_secs(30);
const STABLE_PAUSE: Duration = Duration::from_millis(10);

/// See [`highwater_connector_api::sink::Held::resolve`].
pub fn resolve_writers(
    table: &SinkTable,
    query: QueryId,
    batch: Option<BatchId>,
    writers: &[&WriterReport],
    whole: bool,
) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError> {
    let mut asked: BTreeMap<WriterId, Option<u128>> =
        writers.iter().map(|writer| (writer.plan.writer, Some(writer.digest))).collect();
    let unpublished = |asked: &BTreeMap<WriterId, Option<u128>>| {
        asked.keys().map(|writer| (*writer, Resolution::NotPublished)).collect()
    };
    let options = &sink_options(table)?;
    let ids: BTreeSet<WriterId> = asked.keys().copied().collect();
    fence(table, options, query, &ids)?;
    if batch.is_none() && !whole {
        return Ok(unpublished(&asked));
    }
    let topic = progress_topic(query, table.id);
    let all = ProgressReader::open(options, IsolationLevel::ReadUncommitted)?;
    let end = match all.end(&topic)? {
        Some(0) => return Ok(unpublished(&asked)),
        Some(end) => end,
        None => return Err(gone(table, &topic, batch)),
    };
    let fence_others = || {
        let others = all.read(&[(topic.clone(), None)].into())?;
        let others = others.into_keys().map(|key| WriterId(key.writer)).filter(|writer| !ids.contains(writer));
        fence(table, options, query, &others.collect())
    };
    if whole {
        fence_others()?;
    }
    let committed = ProgressReader::open(options, IsolationLevel::ReadCommitted)?;
    wait_until_stable(&committed, &topic, end, fence_others)?;
    let from = if whole { None } else { start(writers) };
    let found = committed.read(&[(topic, from)].into())?;
    let mine = |key: &ProgressKey| key.query == query.to_string() && key.sink == table.id.0;
    let held: BTreeMap<WriterId, &Progress> =
        found.iter().filter(|(key, _)| mine(key)).map(|(key, held)| (WriterId(key.writer), held)).collect();
    if whole {
        for writer in held.keys() {
            asked.entry(*writer).or_insert(None);
        }
    }
    let resolve = |(writer, digest): (WriterId, Option<u128>)| {
        (writer, held.get(&writer).map_or(Resolution::NotPublished, |held| resolution(held, batch, digest)))
    };
    Ok(asked.into_iter().map(resolve).collect())
}

/// Compares a writer's progress with a batch whose rows have this digest. `digest` is `None` for writers that were
/// found only in the topic.
fn resolution(held: &Progress, batch: Option<BatchId>, digest: Option<u128>) -> Resolution {
    let found = BatchId(held.batch);
    if Some(found) < batch {
        return Resolution::NotPublished;
    }
    if Some(found) == batch && digest.is_some_and(|digest| format!("{digest:032x}") == held.digest) {
        return Resolution::Published;
    }
    Resolution::Ahead { batch: found }
}

/// Returns the error of a missing progress topic. Before the first batch (`None`) the brokers may not list it yet.
fn gone(table: &SinkTable, topic: &str, batch: Option<BatchId>) -> ConnectorError {
    match batch {
        None => ConnectorError::Unavailable {
            context: format!("sink '{}'", table.name),
            message: format!("topic '{topic}' does not exist; if it was deleted, drop the query and submit it again"),
        },
        Some(_) => ConnectorError::Fatal(format!(
            "topic '{topic}' was deleted, so it is unknown what sink '{}' has published; restore the topic, or drop \
             the query and submit it again with --new-output",
            table.name
        )),
    }
}

/// Waits until no transaction below `end` is open. One that stays open belongs to a writer that is not being resolved:
/// to a dropped attempt of an executor that died. It is fenced, too, since all writers of the topic belong to this
/// query.
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
                message: "an open transaction hides the topic's end".into(),
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

/// Returns the offset to read from: the lowest position in the writers' tokens. `None` (the beginning) if one is
/// unknown.
fn start(writers: &[&WriterReport]) -> Option<i64> {
    let place = |writer: &&WriterReport| Some(ProgressPosition::of(writer.token.as_ref()?)?.offset);
    let places: Option<Vec<i64>> = writers.iter().map(place).collect();
    places?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_batch_counts_as_published() {
        let held = Progress {
            batch: 5,
            digest: format!("{:032x}", 77),
            rows: 1,
            name: "q".into(),
            table: "t".into(),
            topic: None,
            epoch: 1,
        };
        let ahead = Resolution::Ahead { batch: BatchId(5) };
        for (batch, digest, expected) in [
            (Some(5), Some(77), Resolution::Published),
            (Some(5), Some(78), ahead),
            (Some(5), None, ahead),
            (Some(6), Some(77), Resolution::NotPublished),
            (Some(6), None, Resolution::NotPublished),
            (Some(4), Some(77), ahead),
            (None, None, ahead),
        ] {
            assert_eq!(resolution(&held, batch.map(BatchId), digest), expected, "{batch:?} {digest:?}");
        }
    }
}
