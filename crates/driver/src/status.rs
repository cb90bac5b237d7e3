//! A query's status for the user, built from its spec and its newest run.

use crate::limits::limits_of;
use crate::queries::{Entry, Queries};
use crate::run::QueryView;
use highwater_proto::v1::{self, QueryState};
use highwater_protocol::ids::ExecutorId;
use highwater_protocol::options::DesiredState;
use highwater_protocol::query::{End, ExecutorInfo, RunState};
use std::collections::HashMap;

/// Builds everything that `status` and `ls` show.
pub(crate) async fn status_of(queries: &Queries, entry: &Entry) -> v1::QueryStatus {
    let Some(run) = &entry.run else { return idle_status(queries, entry).await };
    let view = run.view.borrow().clone();
    let (state, message) = match &view.state {
        RunState::Starting => (QueryState::Starting, String::new()),
        RunState::Running => (QueryState::Running, String::new()),
        RunState::Waiting(reason) => (QueryState::Waiting, reason.clone()),
        RunState::Ended(End::Stopped) => (QueryState::Stopped, "stopped by a user".to_string()),
        RunState::Ended(End::Finished) => (QueryState::Finished, "all sources are read to their ends".to_string()),
        RunState::Ended(End::Failed(message)) => (QueryState::Failed, message.clone()),
        RunState::Ended(End::Fenced) => (QueryState::Failed, "another driver has taken over".to_string()),
    };
    let live = queries.cluster().watch().borrow().clone();
    let ended = matches!(view.state, RunState::Ended(_));
    let mut warnings = warnings_of(entry);
    warnings.extend(view.warnings.iter().cloned());
    if let RunState::Waiting(reason) = &view.state {
        warnings.push(reason.clone());
    }
    v1::QueryStatus {
        name: entry.spec.name.clone(),
        state: state.into(),
        run_id: run.run_id.to_string(),
        batch_id: view.last_batch.map(|batch| batch.0),
        message,
        warnings,
        executors: if ended { Vec::new() } else { live.iter().map(|info| executor_status(info, &view)).collect() },
        query_id: entry.spec.id.to_string(),
        limits: entry.compiled.as_ref().map(|compiled| limits_of(compiled)).unwrap_or_default(),
    }
}

/// The status of a query that has had no run since this driver started.
async fn idle_status(queries: &Queries, entry: &Entry) -> v1::QueryStatus {
    let (store, id) = (queries.store(), entry.spec.id);
    let head = tokio::task::spawn_blocking(move || store.latest(id)).await;
    let batch_id = match head {
        Ok(Ok(Some(head))) if head.committed => Some(head.record.batch().0),
        Ok(Ok(Some(head))) => head.record.batch().0.checked_sub(1),
        _ => None,
    };
    let state = match entry.spec.desired {
        _ if entry.compiled.is_err() => QueryState::Failed,
        DesiredState::Running => QueryState::Starting,
        DesiredState::Stopped => QueryState::Stopped,
        DesiredState::Finished => QueryState::Finished,
        DesiredState::Failed => QueryState::Failed,
    };
    let message = match entry.compiled() {
        Ok(_) => entry.spec.message.clone().unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    v1::QueryStatus {
        name: entry.spec.name.clone(),
        state: state.into(),
        batch_id,
        message,
        warnings: warnings_of(entry),
        query_id: id.to_string(),
        limits: entry.compiled.as_ref().map(|compiled| limits_of(compiled)).unwrap_or_default(),
        ..v1::QueryStatus::default()
    }
}

fn warnings_of(entry: &Entry) -> Vec<String> {
    entry.compiled.as_ref().map(|compiled| compiled.warnings.clone()).unwrap_or_default()
}

fn executor_status(info: &ExecutorInfo, view: &QueryView) -> v1::ExecutorStatus {
    let of = |id: &ExecutorId| view.partitions.get(id).map_or(&[][..], Vec::as_slice);
    let mut partitions: HashMap<String, v1::PartitionList> = HashMap::new();
    for partition in of(&info.id) {
        let list = partitions.entry(partition.tp.topic.to_string()).or_default();
        if !list.partitions.contains(&partition.tp.partition) {
            list.partitions.push(partition.tp.partition);
        }
    }
    v1::ExecutorStatus {
        id: info.id.to_string(),
        address: info.address.trim_start_matches("https://").to_string(),
        slots: info.slots,
        partitions,
        shards: view.shards.get(&info.id).copied().unwrap_or(0),
        input_rows: view.input_rows.get(&info.id).copied().unwrap_or(0),
    }
}
