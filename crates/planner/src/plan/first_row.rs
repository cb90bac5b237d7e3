//! The first row of each key in order of arrival, which no later record changes.
//!
//! Owns: recognizing it, and its operator. Does not own: ranks in any other order (`over`).
//! Invariant: rows are ordered by the batch clock first, which never goes back; so the first row of a key stays the
//! first.

use super::builder::{Builder, Flow, Merged};
use super::lineage::is_clock;
use super::partitioning::Parts;
use highwater_dataflow::{Op, OperatorInfo, PipelineInput};
use highwater_operators::first_row::{FirstRowOperator, FirstRowSpec};
use highwater_operators::over::{Rank, RankLimit};
use highwater_protocol::ids::EdgeId;
use std::sync::Arc;

/// True if the limit keeps exactly the first row of each partition in order of arrival.
pub fn is_final(parts: &Parts<'_>, limit: Option<RankLimit>, retracts: bool) -> bool {
    let is_first = limit.is_some_and(|limit| (limit.rank, limit.most, limit.skip) == (Rank::RowNumber, 1, 0));
    // The partition's own columns are equal in all of its rows, so they order nothing.
    let by = parts.order.iter().find(|sort| !parts.partition.contains(&sort.expr));
    is_first && !retracts && by.is_some_and(|sort| sort.asc && is_clock(&sort.expr, parts.input))
}

/// Adds the operator that reads `edge`; returns its flow.
pub fn build(builder: &mut Builder<'_>, stage: usize, edge: EdgeId, spec: FirstRowSpec, merged: Merged) -> Flow {
    let (description, schema) = (spec.text(), spec.output_schema.clone());
    let bounded_by = spec.key.is_empty().then(|| "a single key".to_string());
    let info = |id| OperatorInfo {
        id,
        name: "first row".into(),
        description,
        sources: merged.upstream.iter().map(|one| one.source).collect(),
        bounded_by,
        closes_windows: false,
        clock_window: None,
        ttl_ms: None,
    };
    let op = builder.add_operator(info, "it keeps every key ever seen");
    let ops: Vec<Op> = vec![Arc::new(FirstRowOperator { op, spec: Arc::new(spec) })];
    let inputs = vec![PipelineInput::Edge(edge)];
    Flow { stage, inputs, ops, schema, retracts: false, upstream: merged.upstream }
}
