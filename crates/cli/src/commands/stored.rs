//! The data folder of a driver that does not run, as commands look into it.
//!
//! Owns: opening it, finding a query and a batch. Invariant: a folder that is not there is not created.

use crate::cli::CheckpointArgs;
use crate::context::Context;
use crate::failure::Failure;
use highwater_checkpoint::CheckpointStore;
use highwater_protocol::ids::{BatchId, QueryId};

/// Opens the folder, which must be there, and finds the query.
pub fn open(args: &CheckpointArgs, context: &Context) -> Result<(CheckpointStore, QueryId), Failure> {
    let dir = context.config.data_dir(args.data_dir.clone());
    if !dir.join("head").is_dir() {
        let message = format!("{} has no checkpoints; set the driver's folder with --data-dir", dir.display());
        return Err(Failure::failed(message));
    }
    let store = CheckpointStore::open(&dir)?;
    match store.query_by_name(&args.name)? {
        Some(spec) => Ok((store, spec.id)),
        None => {
            let names: Vec<String> = store.queries()?.into_iter().map(|spec| spec.name).collect();
            let known = if names.is_empty() { "none".to_string() } else { names.join(", ") };
            Err(Failure::failed(format!("there is no query '{}' in {}; it has: {known}", args.name, dir.display())))
        }
    }
}

/// The batch asked for, or the newest.
pub fn chosen(store: &CheckpointStore, query: QueryId, name: &str, batch: Option<u64>) -> Result<BatchId, Failure> {
    let found = batch.map(BatchId).or(store.latest_batch(query)?);
    found.ok_or_else(|| Failure::failed(format!("query '{name}' has no checkpoint yet")))
}
