//! The driver's calls to the sinks of a query.
//!
//! Owns: calling each sink's connector, and how the answers combine for the whole query. Does not own: the connectors.

use super::sink_of;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::{Committer, EarlierOutput, Staged};
use highwater_protocol::ids::{AttemptId, BatchId, QueryId, WriterId};
use highwater_protocol::query::Resolution;
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use std::collections::BTreeMap;

/// Timeout of calls between executors.
const EXCHANGE_TIMEOUT_MS: i64 = 600_000;

/// Checks a sink's options and creates what it needs, such as topics or folders.
///
/// # Errors
/// The options are wrong, or the external system refuses or is not available.
pub fn prepare(table: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
    sink_of(table)?.prepare(table, query)
}

/// Returns the guarantee of a sink that is not exactly-once, as a sentence for people; `None` if it is exactly-once.
///
/// # Errors
/// The table cannot be written.
pub fn guarantee(table: &SinkTable) -> Result<Option<String>, ConnectorError> {
    Ok(match sink_of(table)?.committer() {
        Committer::Held(_) | Committer::Staged(_) => None,
        Committer::None { guarantee } => {
            Some(format!("sink '{}' is outside the exactly-once promise: {guarantee}", table.name))
        }
    })
}

/// Resolves a batch after a crash or an unknown outcome, and returns what each writer of the sink has published: see
/// [`highwater_connector_api::sink::Held::resolve`]. For a sink with `Committer::None`, that is nothing.
///
/// # Errors
/// The external system does not answer.
pub fn resolve_writers(
    table: &SinkTable,
    query: (QueryId, &str),
    batch: Option<BatchId>,
    writers: &[&WriterReport],
    whole: bool,
) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError> {
    match sink_of(table)?.committer() {
        Committer::Held(held) => held.resolve(table, query.0, batch, writers, whole),
        Committer::Staged(staged) => resolve_staged(staged, table, query, (batch, whole), writers),
        Committer::None { .. } => {
            Ok(writers.iter().map(|writer| (writer.plan.writer, Resolution::NotPublished)).collect())
        }
    }
}

/// Commits the staged rows of the batch, unless the sink is ahead of it.
fn resolve_staged(
    staged: &dyn Staged,
    table: &SinkTable,
    query: (QueryId, &str),
    (batch, whole): (Option<BatchId>, bool),
    writers: &[&WriterReport],
) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError> {
    // Without a batch and without `whole`, writers would only be fenced, and staged rows need no fencing.
    let newest = if whole || batch.is_some() { staged.newest(table, query.0)? } else { None };
    let holding = holding(writers);
    // The same batch number counts as ahead if the checkpoint's batch has no rows for this sink.
    let is_ahead = |newest: &BatchId| Some(*newest) > batch || Some(*newest) == batch && holding.is_empty();
    if let Some(batch) = newest.filter(is_ahead) {
        return Ok(BTreeMap::from([(WriterId(0), Resolution::Ahead { batch })]));
    }
    if let Some(batch) = batch.filter(|_| !holding.is_empty()) {
        staged.commit(table, query, batch, &holding)?;
    }
    let resolution = |writer: &WriterReport| match batch.is_some() && writer.rows > 0 {
        true => Resolution::Published,
        false => Resolution::NotPublished,
    };
    Ok(writers.iter().map(|writer| (writer.plan.writer, resolution(writer))).collect())
}

/// Returns the writers with rows.
fn holding<'a>(writers: &[&'a WriterReport]) -> Vec<&'a WriterReport> {
    writers.iter().filter(|writer| writer.rows > 0).copied().collect()
}

/// Deletes the staged rows of an attempt that no prepare record names. Does nothing for sinks that do not stage rows.
///
/// # Errors
/// The external system refuses or is not available.
pub fn discard_staged(
    table: &SinkTable,
    query: QueryId,
    batch: BatchId,
    attempt: AttemptId,
) -> Result<(), ConnectorError> {
    match sink_of(table)?.committer() {
        Committer::Staged(staged) => staged.discard(table, query, batch, attempt),
        Committer::Held(_) | Committer::None { .. } => Ok(()),
    }
}

/// Returns whether the driver commits the rows that the sink's writers have staged.
///
/// # Errors
/// The table cannot be written.
pub fn is_staged(table: &SinkTable) -> Result<bool, ConnectorError> {
    Ok(matches!(sink_of(table)?.committer(), Committer::Staged(_)))
}

/// Commits a batch of a sink that [`is_staged`]. `writers` are all writers of the sink in the prepare record.
///
/// # Errors
/// As [`Staged::commit`]; the sink is not staged.
pub fn commit_staged(
    table: &SinkTable,
    query: (QueryId, &str),
    batch: BatchId,
    writers: &[&WriterReport],
) -> Result<(), ConnectorError> {
    match sink_of(table)?.committer() {
        Committer::Staged(staged) => staged.commit(table, query, batch, &holding(writers)),
        Committer::Held(_) | Committer::None { .. } => {
            Err(ConnectorError::Fatal(format!("the driver cannot commit sink '{}'", table.name)))
        }
    }
}

/// Returns how long an attempt of a batch may take, in milliseconds, so that its transactions and calls are still open
/// when it is published.
///
/// # Errors
/// A table cannot be written.
pub fn max_attempt_ms(sinks: &[SinkTable]) -> Result<i64, ConnectorError> {
    let mut least = EXCHANGE_TIMEOUT_MS;
    for table in sinks {
        if let Committer::Held(held) = sink_of(table)?.committer() {
            least = least.min(held.max_open_ms(table)?);
        }
    }
    Ok(least / 5 * 4)
}

/// Deletes a sink's progress of a dropped query.
///
/// # Errors
/// The external system refuses or is not available.
pub fn delete_progress(table: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
    match sink_of(table)?.committer() {
        Committer::Held(held) => held.delete_progress(table, query),
        Committer::Staged(staged) => staged.delete_progress(table, query),
        Committer::None { .. } => Ok(()),
    }
}

/// Finds the output of earlier queries, by connector.
#[derive(Default)]
pub struct EarlierOutputs {
    by_connector: BTreeMap<&'static str, Box<dyn EarlierOutput>>,
}

impl EarlierOutputs {
    /// Returns the UUID of an earlier query of this name that wrote to the sink's table and place; `None` if there is
    /// none.
    ///
    /// # Errors
    /// The external system does not answer.
    pub fn find(&mut self, sink: &SinkTable, name: &str) -> Result<Option<String>, ConnectorError> {
        let made = match sink_of(sink)?.committer() {
            Committer::Held(held) => held.earlier_output(),
            Committer::Staged(staged) => staged.earlier_output(),
            Committer::None { .. } => return Ok(None),
        };
        self.by_connector.entry(sink.connector.name()).or_insert(made).find(sink, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_nothing_holds_says_so_and_never_counts_as_published() {
        let script = "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='x:1', 'format'='json');
             CREATE TABLE held (id BIGINT) WITH ('connector'='kafka', 'topic'='o', 'bootstrap.servers'='x:1', 'format'='json',
               'kafka.transaction.timeout.ms'='5000');
             CREATE TABLE printed (id BIGINT) WITH ('connector'='console');
             INSERT INTO held SELECT id FROM t; INSERT INTO printed SELECT id FROM t;";
        let sinks = highwater_planner::compile(script).unwrap().sinks;
        assert_eq!(guarantee(&sinks[0]).unwrap(), None);
        let told = guarantee(&sinks[1]).unwrap().unwrap();
        assert!(told.starts_with("sink 'printed' is outside the exactly-once promise: "), "{told}");
        assert_eq!(max_attempt_ms(&sinks).unwrap(), 4000);
        assert_eq!(max_attempt_ms(&sinks[1..]).unwrap(), 480_000);
        let plan = highwater_protocol::plan::WriterPlan { sink: sinks[1].id, writer: WriterId(4) };
        let report = WriterReport { plan, rows: 1, digest: 7, token: None };
        let found =
            resolve_writers(&sinks[1], (QueryId(uuid::Uuid::from_u128(1)), "q"), Some(BatchId(3)), &[&report], true)
                .unwrap();
        assert_eq!(found, BTreeMap::from([(WriterId(4), Resolution::NotPublished)]));
    }
}
