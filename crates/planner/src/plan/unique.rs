//! Proofs about the rows of a keyed sink: that no two share a key, and when the rows of a key are final.
//!
//! Owns: both proofs. Does not own: functional dependencies (`dependencies`), the state without a proof (`sinks`).
//! Invariants: of a key that is proven unique, at most one row exists at a commit; a row that settles at a time of its
//! window changes in no batch after the one whose watermark passes that time.

use super::aggregate::closing;
use super::dependencies::{Columns, Holds, Times, closure, follows, has_plain_groups, output_times};
use super::lineage::{one_to_one, position, trace};
use super::over::{self, rank_limit, ranks};
use super::table::Stream;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Window};
use highwater_dataflow::CloseKind;
use highwater_functions::windows::tumble::{Part, Shape};
use highwater_operators::over::Rank;

/// Proves that no two rows of `plan` share a key in these columns; `None` if they might. [`Holds::Always`]: all changes of a
/// key come from one shard. [`Holds::AtCommits`]: changes of one batch may come from several shards.
pub fn proof(plan: &LogicalPlan, key: &[usize]) -> Option<Holds> {
    let key: Columns = key.iter().copied().collect();
    [Holds::Always, Holds::AtCommits].into_iter().find(|holds| is_key(plan, &key, *holds))
}

/// True if a unique key of the rows (the groups of an aggregate, the PRIMARY KEY of a table, or partition and place in it)
/// follows from `key`. Rows are exchanged by that key, so if it holds always, all changes of `key` come from one shard.
fn is_key(plan: &LogicalPlan, key: &Columns, holds: Holds) -> bool {
    let known = closure(plan, key, holds);
    match plan {
        LogicalPlan::Projection(node) => {
            let shown = |index: &usize| position(&node.input, one_to_one(node.expr.get(*index)?, &node.input)?);
            is_key(&node.input, &known.iter().filter_map(shown).collect(), holds)
        }
        LogicalPlan::SubqueryAlias(node) => is_key(&node.input, &known, holds),
        LogicalPlan::Sort(node) => is_key(&node.input, &known, holds),
        LogicalPlan::Filter(node) => match node.input.as_ref() {
            LogicalPlan::Window(window) => {
                let limit = rank_limit(node, window).filter(|limit| limit.rank == Rank::RowNumber);
                limit.is_some_and(|limit| limit.most <= 1) && has_partition(window, &known)
                    || is_key(&node.input, &known, holds)
            }
            input => is_key(input, &known, holds),
        },
        LogicalPlan::Window(node) => {
            let width = node.input.schema().fields().len();
            let mut numbers = ranks(node).into_iter().zip(width..).filter(|(rank, _)| *rank == Some(Rank::RowNumber));
            numbers.any(|(_, column)| known.contains(&column)) && has_partition(node, &known)
        }
        LogicalPlan::Aggregate(node) => {
            has_plain_groups(node) && (0..node.group_expr.len()).all(|group| known.contains(&group))
        }
        LogicalPlan::TableScan(scan) => {
            let key = scan.source.downcast_ref::<Stream>().and_then(|stream| stream.table.def.primary_key.as_ref());
            let place = |name: &str| plan.schema().fields().iter().position(|field| field.name() == name);
            let is_known = |name: &str| place(name).is_some_and(|place| known.contains(&place));
            key.is_some_and(|key| key.columns.iter().all(|column| is_known(&column.text)))
        }
        _ => false,
    }
}

/// True if all functions have the same partition keys, and those follow from these columns.
fn has_partition(node: &Window, known: &Columns) -> bool {
    over::partition(node).is_some_and(|keys| keys.iter().all(|key| follows(key, &node.input, known)))
}

/// Returns how column `index` of `plan` shows when its rows are final; `None` unless it is a time of a window that an
/// operator below closes.
pub fn settles(plan: &LogicalPlan, index: usize) -> Option<CloseKind> {
    match plan {
        LogicalPlan::Projection(node) => {
            settles(&node.input, position(&node.input, one_to_one(node.expr.get(index)?, &node.input)?)?)
        }
        LogicalPlan::SubqueryAlias(node) => settles(&node.input, index),
        LogicalPlan::Filter(node) => settles(&node.input, index),
        LogicalPlan::Sort(node) => settles(&node.input, index),
        LogicalPlan::Union(node) => {
            let mut kinds = node.inputs.iter().map(|input| settles(input, index));
            let first = kinds.next()??;
            kinds.all(|kind| kind == Some(first)).then_some(first)
        }
        LogicalPlan::Aggregate(node) if has_plain_groups(node) => group_settles(plan, node, index),
        LogicalPlan::Window(node) => {
            let column = |key: &Expr| match key {
                Expr::Column(column) => position(&node.input, column),
                _ => None,
            };
            let keys: Option<Vec<usize>> = over::partition(node)?.iter().map(column).collect();
            let closes = keys?.into_iter().find(|key| over::expiry(&node.input, *key).is_some())?;
            let kind = over::expiry(&node.input, index)?.kind;
            is_no_earlier(&node.input, index, closes).then_some(kind)
        }
        _ => None,
    }
}

fn group_settles(plan: &LogicalPlan, node: &Aggregate, index: usize) -> Option<CloseKind> {
    let (close, _) = closing(node)?;
    let kind = trace(node.group_expr.get(index)?, &node.input)?.kind;
    is_no_earlier(plan, index, close.group_index).then(|| kind.close())?
}

/// True if both columns are times of one window, and `index` determines its end, or a later time.
fn is_no_earlier(plan: &LogicalPlan, index: usize, closing: usize) -> bool {
    let is_told = |times: Times| match times.window.shape {
        Shape::Tumble | Shape::Hop { .. } => true,
        // The start determines the end of the longest window.
        Shape::Cumulate { .. } => times.from == Part::Start,
        Shape::Session => false,
    };
    index == closing || output_times(plan, index, closing).is_some_and(is_told)
}
