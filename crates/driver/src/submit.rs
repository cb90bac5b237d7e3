//! Submits a query: validates it, inspects its topics, resolves its start positions, stores it, starts it.
//!
//! Owns: the order of these steps. Invariant: nothing is stored before everything has been checked.

use crate::ends::ends_of;
use crate::error::DriverError;
use crate::queries::Queries;
use crate::snapshots;
use highwater_connectors::registry::{self, EarlierOutputs};
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{QueryId, SourceId};
use highwater_protocol::offsets::Positions;
use highwater_protocol::options::{DesiredState, QuerySpec, Trigger};
use highwater_sql::limits::MAX_PARTITIONS;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a user submits.
pub(crate) struct Submission {
    pub name: String,
    pub sql: String,
    pub replace: bool,
    pub new_output: bool,
}

/// Submits a query. Returns its id and the warnings of its plan.
pub(crate) async fn submit(queries: &Queries, submission: Submission) -> Result<(QueryId, Vec<String>), DriverError> {
    check_name(&submission.name)?;
    let compiled = queries.compile(submission.sql.clone()).await?;
    snapshots::check(&compiled).await?;
    let _one = queries.changes.lock().await;
    let existing = queries.find(&submission.name);
    if existing.is_some() && !submission.replace {
        return Err(DriverError::Exists(submission.name));
    }
    let id = QueryId(Uuid::now_v7());
    let bounded = matches!(compiled.options.trigger, Trigger::AvailableNow | Trigger::Once);
    let looked_up = {
        let compiled = compiled.clone();
        let (name, new_output) = (submission.name.clone(), submission.new_output || submission.replace);
        tokio::task::spawn_blocking(move || look_up(&compiled, id, &name, bounded, new_output)).await??
    };
    let spec = QuerySpec {
        id,
        name: submission.name,
        sql: submission.sql,
        desired: DesiredState::Running,
        message: None,
        created_at_ms: queries.clock().now().wall_ms,
        start_positions: looked_up.starts,
        end_positions: looked_up.ends,
        topic_ids: looked_up.topic_ids,
        end_topic_ids: looked_up.source_topic_ids.clone(),
        source_topic_ids: looked_up.source_topic_ids,
        plan: Some(compiled.plan_identity()),
    };
    let mut warnings = compiled.warnings.clone();
    warnings.extend(looked_up.notes);
    match existing {
        Some(old) => queries.replace(old, spec, compiled).await?,
        None => {
            queries.put(spec.clone()).await?;
            queries.insert(spec, Ok(compiled));
        }
    }
    queries.start_run(id).await?;
    Ok((id, warnings))
}

fn check_name(name: &str) -> Result<(), DriverError> {
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 200 || !name.chars().all(legal) {
        return Err(DriverError::Invalid(format!(
            "`{name}` is not a legal query name: use 1 to 200 letters, digits, `_`, `-` or `.`"
        )));
    }
    Ok(())
}

/// Limits the number of partitions, since each has an entry in every plan, record and report of every batch.
fn check_partitions(partitions: usize) -> Result<(), DriverError> {
    match partitions > MAX_PARTITIONS {
        true => Err(DriverError::Invalid(format!(
            "the sources have {partitions} partitions together, but at most {MAX_PARTITIONS} are allowed: split the \
             query by source"
        ))),
        false => Ok(()),
    }
}

#[derive(Default)]
struct LookedUp {
    starts: Positions,
    ends: Positions,
    topic_ids: BTreeMap<String, String>,
    source_topic_ids: BTreeMap<SourceId, String>,
    /// Notes about the sinks, for the user.
    notes: Vec<String>,
}

/// Asks the brokers for everything a submission needs, and creates missing sink topics.
fn look_up(
    compiled: &CompiledQuery,
    id: QueryId,
    name: &str,
    bounded: bool,
    new_output: bool,
) -> Result<LookedUp, DriverError> {
    let mut found = LookedUp::default();
    for table in &compiled.sources {
        let mut monitor = registry::monitor(table)?;
        // The id is read before the positions, so that the run notices if the topic is recreated in between.
        monitor.partitions()?;
        if let Some((topic, id)) = monitor.identity()? {
            found.topic_ids.insert(topic, id.clone());
            found.source_topic_ids.insert(table.id, id);
        }
        found.starts.extend(monitor.resolve_start()?);
        found.ends.extend(ends_of(monitor.as_mut(), table.options.ending_offsets.as_ref(), bounded)?);
    }
    check_partitions(found.starts.len())?;
    let mut earlier = EarlierOutputs::default();
    for table in &compiled.sinks {
        if !new_output && let Some(other) = earlier.find(table, name)? {
            return Err(DriverError::Refused(format!(
                "the sink `{}` already holds output of an earlier query named `{name}` ({other}), up to a batch this \
                 query knows nothing of: running it would write its rows again. Submit with --new-output if that is \
                 meant, or write to another topic",
                table.name
            )));
        }
        registry::prepare(table, id)?;
        found.notes.extend(registry::guarantee(table)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_counted() {
        assert!(check_partitions(MAX_PARTITIONS).is_ok());
        let error = check_partitions(MAX_PARTITIONS + 1).expect_err("too many").to_string();
        assert!(error.contains("20001 partitions"), "{error}");
    }
}
