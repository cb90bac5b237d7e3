//! `checkpoint ls|show|export|verify`: inspects a data folder while no driver uses it.
//!
//! Owns: the format of the answers. Does not own: opening the folder (`stored`), reading checkpoints (crate `checkpoint`),
//! operators' state (`state`). Invariant: no checkpoint is changed, and a missing folder is not created.

use super::state;
use super::stored::{chosen, open};
use crate::cli::{CheckpointArgs, CheckpointCommand};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{maybe, number, table};
use comfy_table::Cell;
use highwater_checkpoint::{BatchSummary, CheckpointError, Verification};
use highwater_protocol::offsets::to_topic_json;
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_sql::values::iso_ms;
use serde_json::{Value, json};

pub fn checkpoint(command: CheckpointCommand, context: &Context) -> Result<(), Failure> {
    match command {
        CheckpointCommand::Ls(args) => {
            let (store, query) = open(&args, context)?;
            let batches = store.batches(query)?;
            context.show(|| json!(batches), || list(&batches))
        }
        CheckpointCommand::Show { at, batch } => show(&at, batch, context),
        CheckpointCommand::State(args) => state::state(&args, context),
        CheckpointCommand::Export { at, to } => {
            let (store, query) = open(&at, context)?;
            let done = store.export(query, &to)?;
            let text = format!(
                "wrote {} offsets, {} commits and {} state files to {}",
                done.offsets,
                done.commits,
                done.state_files,
                to.display()
            );
            context.show(|| json!(done), || text)
        }
        CheckpointCommand::Verify(args) => verify(&args, context),
    }
}

fn show(args: &CheckpointArgs, batch: Option<u64>, context: &Context) -> Result<(), Failure> {
    let (store, query) = open(args, context)?;
    let batch = chosen(&store, query, &args.name, batch)?;
    let record = store.record(query, batch)?.ok_or(CheckpointError::NoBatch { query, batch })?;
    let committed = store.committed_batch(query)? >= Some(batch);
    let document = document(&record, committed)?;
    context.show(|| document.clone(), || serde_json::to_string_pretty(&document).unwrap_or_default())
}

fn verify(args: &CheckpointArgs, context: &Context) -> Result<(), Failure> {
    let (store, query) = open(args, context)?;
    let found = store.verify(query)?;
    let text = format!(
        "{} batches, {} snapshots, {} looked-up files, {} sections, {} bytes read",
        found.batches, found.snapshots, found.files, found.sections, found.size_bytes
    );
    context.show(|| json!(found), || text)?;
    damages(&found)
}

fn damages(found: &Verification) -> Result<(), Failure> {
    if found.problems.is_empty() {
        return Ok(());
    }
    for problem in &found.problems {
        output::note(problem);
    }
    Err(Failure::failed(format!("the checkpoint is damaged in {} places", found.problems.len())))
}

fn list(batches: &[BatchSummary]) -> String {
    if batches.is_empty() {
        return "no checkpoints yet".to_string();
    }
    let mut table = table(&["batch", "state", "prepared at", "input rows", "bytes", "snapshot bytes"]);
    for batch in batches {
        table.add_row(vec![
            number(batch.batch_id),
            Cell::new(if batch.committed { "committed" } else { "prepared" }),
            Cell::new(iso_ms(batch.prepared_at_ms)),
            number(batch.num_input_rows),
            number(batch.size_bytes),
            batch.snapshot_bytes.map_or_else(|| Cell::new(""), |bytes| maybe(Some(bytes))),
        ]);
    }
    table.to_string()
}

/// The document of one checkpoint: offsets before and after, watermarks, writers, state, counters.
fn document(record: &PrepareRecord, committed: bool) -> Result<Value, Failure> {
    let failed = |error: serde_json::Error| Failure::failed(error.to_string());
    let starts = record.plan.ranges.iter().map(|(partition, range)| (partition.clone(), range.start)).collect();
    let ends = record.plan.ranges.iter().map(|(partition, range)| (partition.clone(), range.end)).collect();
    let states: Vec<Value> = record
        .state
        .iter()
        .map(|delta| {
            json!({
                "operator": delta.operator.0,
                "firstShard": delta.first_shard.0,
                "endShard": delta.end_shard.0,
                "digest": format!("{:032x}", delta.digest),
                "keys": delta.keys,
            })
        })
        .collect();
    let writers: Vec<Value> = record
        .writers
        .iter()
        .map(|writer| {
            json!({
                "sink": writer.plan.sink.0,
                "writer": writer.plan.writer.0,
                "rows": writer.rows,
                "digest": format!("{:032x}", writer.digest),
            })
        })
        .collect();
    Ok(json!({
        "batchId": record.batch().0,
        "committed": committed,
        "attempt": record.attempt.to_string(),
        "timestampMs": record.plan.timestamp_ms,
        "startOffset": to_topic_json(&starts),
        "endOffset": to_topic_json(&ends),
        "positions": to_topic_json(&record.positions),
        "watermarks": record.watermarks.iter().map(|(source, mark)| (source.to_string(), mark.current_ms)).collect::<std::collections::BTreeMap<_, _>>(),
        "writers": writers,
        "state": states,
        "totals": serde_json::to_value(&record.totals).map_err(failed)?,
    }))
}
