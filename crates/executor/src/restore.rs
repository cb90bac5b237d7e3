//! State over the wire: shards fetched from the driver, and large deltas sent to it.
//!
//! Owns: the two calls, and loading on several threads. Does not own: the content of deltas (`protocol`, `operators`).

use crate::channels::DriverClient;
use crate::error::TaskError;
use crate::steps::Steps;
use highwater_dataflow::state::QueryState;
use highwater_proto::v1::{FetchStateRequest, PutStateDeltaRequest};
use highwater_proto::{MAX_DELTA_BYTES, convert};
use highwater_protocol::ids::{AttemptId, BatchId, QueryId, RunId, ShardId, TaskId};
use highwater_protocol::report::StateDelta;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Deltas above this size are sent ahead of the report, in parts of this size, bytes.
const INLINE_MAX_BYTES: usize = 1024 * 1024;

/// Loads shards as of `base` from the checkpoint; before the first batch (`None`) they are empty. A load that has begun
/// is completed, since a partly loaded shard is useless.
pub async fn restore(
    client: &mut DriverClient,
    query: QueryId,
    epoch: u64,
    base: Option<BatchId>,
    shards: &BTreeSet<ShardId>,
    state: Arc<QueryState>,
    (cancel, steps): (&CancellationToken, &Steps),
) -> Result<(), TaskError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(TaskError::Cancelled),
        deltas = fetch(client, query, epoch, base, shards, steps) => load(shards, Arc::new(deltas?), state).await,
    }
}

async fn fetch(
    client: &mut DriverClient,
    query: QueryId,
    epoch: u64,
    base: Option<BatchId>,
    shards: &BTreeSet<ShardId>,
    steps: &Steps,
) -> Result<Vec<Vec<u8>>, TaskError> {
    let mut deltas: Vec<Vec<u8>> = Vec::new();
    if let Some(base) = base {
        let request = FetchStateRequest {
            query_id: query.to_string(),
            batch_id: base.0,
            shards: shards.iter().map(|shard| u32::from(shard.0)).collect(),
            epoch,
        };
        let mut parts = client.fetch_state(request).await.map_err(failed)?.into_inner();
        while let Some(part) = parts.message().await.map_err(failed)? {
            deltas.push(part.delta.into());
            steps.step();
        }
    }
    Ok(deltas)
}

/// Loads shards on several threads; each thread takes its shards from all deltas.
async fn load(shards: &BTreeSet<ShardId>, deltas: Arc<Vec<Vec<u8>>>, state: Arc<QueryState>) -> Result<(), TaskError> {
    let mut loading = tokio::task::JoinSet::new();
    for part in parts(shards, std::thread::available_parallelism().map_or(1, usize::from)) {
        let (state, deltas) = (state.clone(), deltas.clone());
        loading.spawn_blocking(move || runs(&part).into_iter().try_for_each(|run| state.load(run, &deltas)));
    }
    while let Some(loaded) = loading.join_next().await {
        loaded.map_err(|error| TaskError::State(error.to_string()))??;
    }
    Ok(())
}

/// Splits shards into at most `count` even parts of neighbouring shards.
fn parts(shards: &BTreeSet<ShardId>, count: usize) -> Vec<BTreeSet<ShardId>> {
    let all: Vec<ShardId> = shards.iter().copied().collect();
    let size = all.len().div_ceil(count.max(1)).max(1);
    all.chunks(size).map(|part| part.iter().copied().collect()).collect()
}

fn failed(status: tonic::Status) -> TaskError {
    match status.code() {
        Code::DataLoss => TaskError::DamagedState(status.message().to_string()),
        _ => TaskError::State(status.message().to_string()),
    }
}

/// Groups consecutive shards into ranges.
fn runs(shards: &BTreeSet<ShardId>) -> Vec<Range<u16>> {
    let mut runs: Vec<Range<u16>> = Vec::new();
    for shard in shards {
        match runs.last_mut() {
            Some(run) if run.end == shard.0 => run.end += 1,
            _ => runs.push(shard.0..shard.0 + 1),
        }
    }
    runs
}

/// Sends large deltas to the driver. Returns, for each delta, whether it was sent.
pub async fn upload(
    client: &mut DriverClient,
    (query, run): (QueryId, RunId),
    attempt: AttemptId,
    batch: BatchId,
    task: TaskId,
    deltas: &mut [StateDelta],
) -> Result<Vec<bool>, TaskError> {
    let mut uploaded = Vec::with_capacity(deltas.len());
    for (index, delta) in deltas.iter_mut().enumerate() {
        let is_large = delta.bytes.len() > INLINE_MAX_BYTES;
        uploaded.push(is_large);
        if !is_large {
            continue;
        }
        if delta.bytes.len() > MAX_DELTA_BYTES {
            return Err(TaskError::DeltaTooLarge { bytes: delta.bytes.len() });
        }
        let bytes = bytes::Bytes::from(std::mem::take(&mut delta.bytes));
        let starts: Vec<usize> = (0..bytes.len()).step_by(INLINE_MAX_BYTES).collect();
        let parts = starts.into_iter().map(move |start| PutStateDeltaRequest {
            query_id: query.to_string(),
            run_id: run.to_string(),
            attempt: Some(convert::attempt_to_proto(attempt, batch)),
            task_id: task.0,
            index: index as u32,
            chunk: bytes.slice(start..(start + INLINE_MAX_BYTES).min(bytes.len())),
        });
        client.put_state_delta(tokio_stream::iter(parts)).await.map_err(failed)?;
    }
    Ok(uploaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_dataflow::state::{Keys, Values};

    #[test]
    fn shards_are_split_evenly_and_each_once() {
        let shards: BTreeSet<ShardId> = (0..7).map(ShardId).collect();
        let shared = parts(&shards, 3);
        assert_eq!(shared.iter().map(BTreeSet::len).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(shared.into_iter().flatten().collect::<BTreeSet<_>>(), shards);
        assert_eq!(parts(&shards, 100).len(), 7);
        assert!(parts(&BTreeSet::new(), 4).is_empty());
    }

    #[tokio::test]
    async fn every_shard_is_loaded_with_its_own_keys() {
        let sql = "CREATE TABLE s (k STRING) WITH ('connector'='kafka','topic'='s','bootstrap.servers'='h:1','format'='json');
                   CREATE TABLE o (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector'='console');
                   INSERT INTO o SELECT k, count(*) FROM s GROUP BY k;";
        let dataflow = highwater_planner::compile(sql).unwrap().dataflow;
        let state = Arc::new(QueryState::new(&dataflow));
        let operator = highwater_protocol::ids::OperatorId(0);
        let mut delta = highwater_protocol::state_delta::DeltaWriter::new(operator);
        (0..10u16).for_each(|shard| delta.push(ShardId(shard), &shard.to_be_bytes(), Some(&[0; 8])));
        let shards: BTreeSet<ShardId> = (2..9).map(ShardId).collect();
        load(&shards, Arc::new(vec![delta.finish()]), state.clone()).await.unwrap();
        assert_eq!(state.owned(), shards);
        let stage = highwater_protocol::ids::StageId(1);
        let mut task = state.task(stage, 2..9).unwrap();
        let (mut keys, mut values) = (Keys::default(), Values::default());
        (2..9u16).for_each(|shard| keys.push(ShardId(shard), &[&shard.to_be_bytes()]));
        task.parts().0.get(operator, &keys, &mut values).unwrap();
        assert!((0..7).all(|shard| values.get(shard).is_some()), "{values:?}");
        assert_eq!(task.size(operator).rows, 7);
    }

    #[test]
    fn shards_become_ranges() {
        let shards: BTreeSet<ShardId> = [0, 1, 2, 5, 7, 8].into_iter().map(ShardId).collect();
        assert_eq!(runs(&shards), vec![0..3, 5..6, 7..9]);
        assert!(runs(&BTreeSet::new()).is_empty());
    }
}
