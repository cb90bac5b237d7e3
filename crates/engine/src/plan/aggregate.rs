//! One GROUP BY: its functions, its state, and what closes its groups.
//!
//! Owns: `AggregateSpec`s. Does not own: stages and edges (`build`), keeping state (the runtime).
//! Invariant: a group closes only by a key that is a window over watermark columns of all its sources.

use super::catalog::Table;
use super::lineage::{Kind, Origin, trace};
use super::physical;
use super::tumble::Part;
use crate::dataflow::{AggregateSpec, CloseKey};
use crate::query::SourceTable;
use crate::sql::error::{Result, SqlError};
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_core::ids::SourceId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The group key that closes this aggregate's groups, and the tables whose watermarks do it.
pub fn closing(aggregate: &Aggregate) -> Option<(CloseKey, Origin)> {
    let candidates = aggregate.group_expr.iter().enumerate().filter_map(|(group_index, expr)| {
        let origin = trace(expr, &aggregate.input)?;
        let Kind::Window(part, window) = origin.kind else { return None };
        let (rank, add_ms) = match part {
            Part::End => (0, 0),
            Part::Start => (1, window.size_ms),
            Part::Time => (2, 1),
        };
        Some((rank, CloseKey { group_index, add_ms }, origin))
    });
    candidates.min_by_key(|(rank, close, _)| (*rank, close.group_index)).map(|(_, close, origin)| (close, origin))
}

/// Tables whose watermark some aggregate of this plan closes by.
pub fn closing_tables(plan: &LogicalPlan) -> Vec<Arc<Table>> {
    let mut tables = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node
            && let Some((_, origin)) = closing(aggregate)
        {
            tables.extend(origin.tables);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    tables
}

/// Compiles a GROUP BY.
pub fn compile(aggregate: &Aggregate, sources: &[SourceTable], at: Location) -> Result<AggregateSpec> {
    let input = aggregate.input.schema();
    let mut group = Vec::with_capacity(aggregate.group_expr.len());
    for key in &aggregate.group_expr {
        if let Expr::GroupingSet(_) = key {
            return Err(SqlError::at(at, "GROUPING SETS is not supported in streaming yet").hint("write one INSERT for each grouping"));
        }
        group.push(physical::expr(key, input, at)?);
    }
    let output = aggregate.schema.as_arrow();
    let mut state: Vec<Arc<Field>> = output.fields().iter().take(group.len()).cloned().collect();
    let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
    for call in &aggregate.aggr_expr {
        let lowered = physical::aggregate(call, input, at)?;
        if !lowered.order_bys.is_empty() {
            return Err(SqlError::at(at, format!("ORDER BY inside {call} is not supported in streaming yet")));
        }
        state.extend(lowered.aggregate.state_fields().map_err(|error| super::errors::sql_error(error, at))?);
        aggregates.push(lowered.aggregate);
        filters.push(lowered.filter);
    }
    let (close, origin) = closing(aggregate).unzip();
    let tables = origin.map(|origin| origin.tables).unwrap_or_default();
    Ok(AggregateSpec {
        group,
        aggregates,
        filters,
        state_schema: Arc::new(Schema::new(state)),
        output_schema: Arc::new(Schema::new(output.fields().clone())),
        close,
        sources: source_ids(&tables, sources),
    })
}

fn source_ids(tables: &[Arc<Table>], sources: &[SourceTable]) -> Vec<SourceId> {
    let names: BTreeSet<&str> = tables.iter().map(|table| table.def.name.text.as_str()).collect();
    sources.iter().filter(|source| names.contains(source.name.as_str())).map(|source| source.id).collect()
}

/// The grouping in words: `count(*), sum(amount) by user, window_start`.
pub fn describe(aggregate: &Aggregate) -> String {
    let names = aggregate.schema.fields();
    let keys: Vec<&str> = names.iter().take(aggregate.group_expr.len()).map(|field| field.name().as_str()).collect();
    let calls: Vec<&str> = names.iter().skip(aggregate.group_expr.len()).map(|field| field.name().as_str()).collect();
    match (calls.is_empty(), keys.is_empty()) {
        (true, _) => format!("distinct {}", keys.join(", ")),
        (false, true) => format!("{} over all rows", calls.join(", ")),
        (false, false) => format!("{} by {}", calls.join(", "), keys.join(", ")),
    }
}
