//! A join with a lookup table or with VALUES: every row of the stream looks up its matches.
//!
//! Owns: which side of a join reads no stream, and the checks. Does not own: loading the rows (`lookup_rows`), looking up
//! (`operators::lookup`). Invariant: an outer join never keeps unmatched rows of the side that is looked up.

use super::builder::{Builder, Flow, Target, refuse_clock};
use super::errors::sql_error;
use super::physical;
use super::sides::Sides;
use super::table::Stream;
use crate::plan::lookup_rows::Lookup;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::NullEquality;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Join, LogicalPlan};
use highwater_dataflow::JoinOutput;
use highwater_operators::lookup::LookupOperator;
use highwater_operators::lookup::LookupSpec;
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// True if the plan reads no stream, only lookup tables, VALUES and constants.
pub fn is_static(plan: &LogicalPlan) -> bool {
    let mut streams = 0;
    // The closure never fails, so neither does the walk.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let is_snapshot = scan.source.downcast_ref::<Stream>().is_some_and(|stream| stream.table.is_snapshot());
            streams += usize::from(!is_snapshot);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    streams == 0
}

/// Returns the flows of the stream, each row with its matches; `None` if both sides read a stream.
pub fn build(
    builder: &mut Builder<'_>,
    join: &Join,
    sides: &Sides<'_>,
    target: Target<'_>,
) -> Result<Option<Vec<Flow>>> {
    let [left, right] = sides.inputs.map(is_static);
    let stream = match (left, right) {
        (false, false) => return Ok(None),
        (true, true) => {
            return Err(SqlError::at(target.at, "this join has no stream to read").hint("join a Kafka table with it"));
        }
        (is_looked_up, _) => usize::from(is_looked_up),
    };
    let is_kept_side = stream == 0 || matches!(sides.output, JoinOutput::Pairs { .. });
    if sides.output.shows_unmatched(1 - stream) || !is_kept_side {
        return Err(SqlError::at(
            target.at,
            "a join that shows rows of a looked-up table or of VALUES without match is not supported in streaming yet",
        )
        .hint("no record triggers their output: put the stream on the side that is kept: stream LEFT JOIN table"));
    }
    for expr in join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter) {
        refuse_clock(expr, "the condition of a join", target)?;
    }
    let mut flows = builder.build(sides.inputs[stream], target)?;
    let corrected = flows.iter().any(|flow| flow.retracts);
    let lookup = Arc::new(Lookup::new(sides.inputs[1 - stream].clone(), corrected));
    if corrected && lookup.tables().any(|table| table.refresh_ms().is_some()) {
        return Err(SqlError::at(
            target.at,
            "looking up a table that is refreshed, for rows that later records correct, is not supported in streaming yet",
        )
        .hint("a correction would retract other rows than were written: drop 'refresh', or join before aggregating"));
    }
    let pair = sides.inputs[0].schema().join(sides.inputs[1].schema()).map_err(|error| sql_error(error, target.at))?;
    let filter = match &join.filter {
        Some(filter) => Some(physical::expr(filter, &pair, target.at)?),
        None => None,
    };
    let mut keys = [Vec::new(), Vec::new()];
    for pair in &sides.on {
        for (place, side) in [stream, 1 - stream].into_iter().enumerate() {
            keys[place].push(physical::expr(pair[side], sides.inputs[side].schema(), target.at)?);
        }
    }
    let [stream_key, lookup_key] = keys;
    let schema = Arc::new(Schema::new(join.schema.as_arrow().fields().clone()));
    let spec = Arc::new(LookupSpec {
        lookup: lookup.clone(),
        stream_key,
        lookup_key,
        null_equal: join.null_equality == NullEquality::NullEqualsNull,
        filter,
        stream_first: stream == 0,
        pair_schema: Arc::new(pair.as_arrow().clone()),
        output: sides.output,
        output_schema: schema.clone(),
        table: Default::default(),
    });
    builder.lookups.push(lookup);
    for flow in &mut flows {
        flow.ops.push(Arc::new(LookupOperator(spec.clone())));
        flow.schema = schema.clone();
    }
    Ok(Some(flows))
}
