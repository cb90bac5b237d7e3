//! Loads state from the driver's checkpoint while the worker keeps obeying commands.
//!
//! Owns: running loads one after the other. Does not own: fetching (`restore`), what waits for the state (`worker`).
//! Invariant: an older load has ended before a newer one changes the state.

use crate::channels::DriverClient;
use crate::error::TaskError;
use crate::restore;
use crate::running::Running;
use highwater_dataflow::state::QueryState;
use highwater_protocol::ids::{AttemptId, BatchId, QueryId, ShardId};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// The outcome of loading the shards of an attempt.
pub struct Loaded {
    pub attempt: AttemptId,
    pub result: Result<(), TaskError>,
}

pub struct Loading {
    last: Option<JoinHandle<()>>,
    done: mpsc::UnboundedSender<Loaded>,
    results: mpsc::UnboundedReceiver<Loaded>,
}

impl Loading {
    pub fn new() -> Self {
        let (done, results) = mpsc::unbounded_channel();
        Self { last: None, done, results }
    }

    /// Begins to load shards as of `base` for an attempt. The load ends early if the attempt is cancelled.
    pub fn begin(
        &mut self,
        mut client: DriverClient,
        (query, epoch): (QueryId, u64),
        base: Option<BatchId>,
        shards: BTreeSet<ShardId>,
        state: Arc<QueryState>,
        running: &Running,
    ) {
        let (attempt, cancel, steps) = (running.attempt.id, running.cancel.clone(), running.loading.clone());
        let (done, before) = (self.done.clone(), self.last.take());
        let loading = async move {
            if let Some(before) = before {
                // It was cancelled. The result is ignored, since a load that panicked has ended, too.
                let _ = before.await;
            }
            let result = restore::restore(&mut client, query, epoch, base, &shards, state, (&cancel, &steps)).await;
            // Fails if the worker ended with its session: the state is not needed then.
            let _ = done.send(Loaded { attempt, result });
        };
        self.last = Some(tokio::spawn(loading.in_current_span()));
    }

    /// Waits until the next load has ended.
    pub async fn next(&mut self) -> Loaded {
        match self.results.recv().await {
            Some(loaded) => loaded,
            // Never happens, since `self` holds a sender.
            None => std::future::pending().await,
        }
    }
}
