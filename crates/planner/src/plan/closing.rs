//! Which tables' watermarks a query waits for.
//!
//! Owns: looking through a whole plan. Does not own: what each kind of operator closes by (its own file).

use super::as_of::TemporalJoin;
use super::table::Table;
use super::{aggregate, join, over, session_windows, temporal};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use std::sync::Arc;

/// Tables whose watermark some operator of this plan closes by.
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
