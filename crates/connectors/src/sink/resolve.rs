//! What a sink's writers hold, found out safely after a crash or an unknown commit.
//!
//! Owns: the order, which is all that matters: first every writer's transactional id is initialised, which fences
//! whoever had it and ends its transaction one way or the other; then the end of the progress topic is taken; then it
//! is read to that end as a `read_committed` reader; only then is anything concluded.

use super::kafka::transactional_producer;
use super::progress::{PROGRESS_TOPIC, ProgressKey, ProgressReader};
use crate::error::ConnectorError;
use highwater_core::ids::{BatchId, QueryId, WriterId};
use highwater_core::query::Resolution;
use highwater_core::report::ProgressPosition;
use highwater_engine::query::{ConnectorOptions, KafkaOptions, SinkTable};
use std::collections::BTreeMap;

/// A writer, the batch asked about (`None`: only fence it), and where its progress record lies if it was flushed.
pub type Asked = (WriterId, Option<BatchId>, Option<ProgressPosition>);

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
    fence(table, options, query, writers)?;
    if writers.iter().all(|(_, batch, _)| batch.is_none()) {
        return Ok(writers.iter().map(|(writer, ..)| (*writer, Resolution::NotPublished)).collect());
    }
    let reader = ProgressReader::open(options)?;
    let ends = reader.high_watermarks(options)?;
    if ends.is_empty() {
        return Err(ConnectorError::Fatal(format!(
            "topic '{PROGRESS_TOPIC}' is gone, so that nobody can tell what sink '{}' holds; restore it, or drop the \
             query and submit it again with --new-output",
            table.name
        )));
    }
    let found = reader.read(&starts(writers, &ends), &ends)?;
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

/// Initialises every writer's transactional id, all at the same time.
fn fence(table: &SinkTable, options: &KafkaOptions, query: QueryId, writers: &[Asked]) -> Result<(), ConnectorError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = writers
            .iter()
            .map(|(writer, ..)| scope.spawn(|| transactional_producer(table, options, query, *writer).map(drop)))
            .collect();
        for thread in threads {
            let fenced = thread.join().map_err(|_| ConnectorError::Fatal("internal: a fencing thread panicked".into()))?;
            fenced?;
        }
        Ok(())
    })
}

/// Where to begin in each partition: at the first flushed record, if all of it is known, else at the beginning.
fn starts(writers: &[Asked], ends: &BTreeMap<i32, i64>) -> BTreeMap<i32, i64> {
    let places: Vec<_> = writers.iter().filter(|(_, batch, _)| batch.is_some()).map(|(_, _, place)| place).collect();
    if places.iter().any(|place| place.is_none()) {
        return BTreeMap::new();
    }
    let mut starts: BTreeMap<i32, i64> = ends.clone();
    for place in places.into_iter().flatten() {
        let start = starts.entry(place.partition).or_insert(place.offset);
        *start = (*start).min(place.offset);
    }
    starts
}
