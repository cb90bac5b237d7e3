//! Finds the tables whose watermarks close a query's state.
//!
//! Owns: walking a whole plan. Does not own: what closes the state of one operator (the operator's file).

use super::as_of::TemporalJoin;
use super::table::Table;
use super::{aggregate, join, over, session_windows, temporal};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use std::sync::Arc;

/// Returns the tables whose watermarks close state of an operator in this plan.
pub fn closing_tables(plan: &LogicalPlan) -> Vec<Arc<Table>> {
    let mut tables = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = plan.apply(|node| {
        match node {
            LogicalPlan::Aggregate(aggregate) => {
                tables.extend(aggregate::closing(aggregate).into_iter().flat_map(|(_, origin)| origin.tables));
            }
            LogicalPlan::Join(join) => tables.extend(join::closing_tables(join)),
            LogicalPlan::Extension(_) => {
                tables.extend(TemporalJoin::of(node).into_iter().flat_map(temporal::closing_tables));
            }
            LogicalPlan::Window(window) => {
                tables.extend(over::closing_tables(window));
                tables.extend(session_windows::closing_tables(window));
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    tables
}
