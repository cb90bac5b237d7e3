//! Functional dependencies: which columns of a relation follow from others.
//!
//! Owns: the closure of a set of columns. Does not own: what it proves (`unique`).
//! Invariant: a column follows from others only if they determine its value among all rows that ever exist
//! ([`Holds::Always`]), or among the rows that exist at one commit ([`Holds::AtCommits`]). If that is not certain, it
//! does not follow.

use super::as_of::TemporalJoin;
use super::lineage::{one_to_one, part_of, position};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Volatility};
use highwater_functions::windows::hop::Overlapping;
use highwater_functions::windows::session::Session;
use highwater_functions::windows::tumble::{Part, Shape, Tumble, Window};
use std::collections::BTreeSet;

/// Indexes of columns in the output of a relation.
pub type Columns = BTreeSet<usize>;

/// The rows among which a dependency holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// All rows that ever exist, also deleted ones.
    Always,
    /// Rows that exist at the commit of one batch. Among them, no two sessions of a key have the same start, for example.
    AtCommits,
}

/// Returns all columns of `plan` that follow from `known`, including `known`.
pub fn closure(plan: &LogicalPlan, known: &Columns, holds: Holds) -> Columns {
    match plan {
        LogicalPlan::Projection(node) => of_exprs(&node.expr, &node.input, known, holds),
        LogicalPlan::SubqueryAlias(node) => closure(&node.input, known, holds),
        LogicalPlan::Filter(node) => closure(&node.input, known, holds),
        LogicalPlan::Sort(node) => closure(&node.input, known, holds),
        LogicalPlan::Aggregate(node) if has_plain_groups(node) => of_exprs(&node.group_expr, &node.input, known, holds),
        LogicalPlan::Window(node) => within(&node.input, 0, known, Holds::Always),
        LogicalPlan::Unnest(node) => {
            let below = |column: &usize| unnested_from(node, *column);
            let all = closure(&node.input, &known.iter().filter_map(below).collect(), Holds::Always);
            let follows = |column: &usize| below(column).is_some_and(|below| all.contains(&below));
            known.iter().copied().chain((0..plan.schema().fields().len()).filter(follows)).collect()
        }
        LogicalPlan::Join(node) => {
            let left = node.left.schema().fields().len();
            match node.join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    within(&node.right, 0, known, Holds::Always)
                }
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                    within(&node.left, 0, known, Holds::Always)
                }
                // An outer join sets the other side's columns to NULL in rows without a match, so none of them follow.
                JoinType::Left => windows(plan, &within(&node.left, 0, known, Holds::Always)),
                JoinType::Right => windows(plan, &within(&node.right, left, known, Holds::Always)),
                JoinType::Full => windows(plan, known),
                JoinType::Inner => {
                    let known = within(&node.left, 0, known, Holds::Always);
                    within(&node.right, left, &known, Holds::Always)
                }
            }
        }
        LogicalPlan::Extension(_) => match TemporalJoin::of(plan) {
            Some(node) => within(&node.left, 0, known, Holds::Always),
            None => known.clone(),
        },
        // Branches may compute a column in different ways.
        LogicalPlan::Union(_) => windows(plan, known),
        _ => known.clone(),
    }
}

/// True without grouping sets, which set keys to NULL that had values.
pub fn has_plain_groups(node: &Aggregate) -> bool {
    !matches!(node.group_expr.first(), Some(Expr::GroupingSet(_)))
}

/// Returns the closure of `known` within one input of a node, whose columns begin at place `first` of the node's output.
fn within(plan: &LogicalPlan, first: usize, known: &Columns, holds: Holds) -> Columns {
    let width = plan.schema().fields().len();
    let mine = known.range(first..first + width).map(|column| column - first).collect();
    known.iter().copied().chain(closure(plan, &mine, holds).into_iter().map(|column| column + first)).collect()
}

/// Returns the closure of `known` through expressions over `input`: from output columns to the input columns that they show
/// one to one, and back to all expressions that follow from those.
fn of_exprs(exprs: &[Expr], input: &LogicalPlan, known: &Columns, holds: Holds) -> Columns {
    let shown = |index: &usize| position(input, one_to_one(exprs.get(*index)?, input)?);
    let below = closure(input, &known.iter().filter_map(shown).collect(), holds);
    let mut all = known.clone();
    all.extend((0..exprs.len()).filter(|index| follows(&exprs[*index], input, &below)));
    let rows = holds == Holds::AtCommits && is_of_sessions(input, &below);
    let more: Vec<usize> = (0..exprs.len())
        .filter(|index| !all.contains(index))
        .filter(|index| all.iter().any(|from| times_follow(exprs.get(*from), exprs.get(*index), input, rows)))
        .collect();
    all.extend(more);
    all
}

fn times_follow(from: Option<&Expr>, to: Option<&Expr>, input: &LogicalPlan, one_session: bool) -> bool {
    let (Some(from), Some(to)) = (from, to) else { return false };
    times(from, to, input).is_some_and(|times| times.follows(one_session))
}

/// True if an expression has the same value in all rows with the same values in the columns `known` of `input`.
pub fn follows(expr: &Expr, input: &LogicalPlan, known: &Columns) -> bool {
    let mut certain = true;
    // The closure never fails, so neither does the walk.
    let _ = expr.apply(|node| {
        certain &= match node {
            Expr::Column(column) => position(input, column).is_some_and(|index| known.contains(&index)),
            Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Immutable,
            Expr::Alias(_) | Expr::Literal(..) | Expr::BinaryExpr(_) | Expr::Not(_) | Expr::Negative(_) => true,
            Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::IsTrue(_) | Expr::IsFalse(_) => true,
            Expr::Like(_) | Expr::SimilarTo(_) | Expr::Between(_) | Expr::Case(_) | Expr::InList(_) => true,
            Expr::Cast(_) | Expr::TryCast(_) => true,
            _ => false,
        };
        Ok(if certain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    // A bare column may have any type. In other expressions 0.0 and −0.0 give two values, although they are one key.
    certain && (matches!(bare(expr), Expr::Column(_)) || !mentions_float(expr, input))
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}

fn mentions_float(expr: &Expr, input: &LogicalPlan) -> bool {
    let columns = expr.column_refs();
    let found = columns.iter().map(|column| position(input, column).map(|index| input.schema().field(index)));
    found.into_iter().any(|field| field.is_none_or(|field| has_float(field.data_type())))
}

fn has_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().any(|field| has_float(field.data_type())),
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => has_float(item.data_type()),
        DataType::FixedSizeList(item, _) => has_float(item.data_type()),
        other => other.is_floating(),
    }
}

/// Adds to `known` the window times that follow from it, for nodes of which no other dependency is certain.
fn windows(plan: &LogicalPlan, known: &Columns) -> Columns {
    let is_time = |column: &usize| matches!(plan.schema().field(*column).data_type(), DataType::Timestamp(_, _));
    let mut all = known.clone();
    let from: Vec<usize> = known.iter().copied().filter(is_time).collect();
    let to = (0..plan.schema().fields().len()).filter(is_time).filter(|column| !known.contains(column));
    all.extend(
        to.filter(|to| {
            from.iter().any(|from| output_times(plan, *from, *to).is_some_and(|times| times.follows(false)))
        }),
    );
    all
}

/// Two times of the same window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub from: Part,
    pub to: Part,
    pub window: Window,
}

impl Times {
    /// True if `to` follows from `from`. `one_session` is true if the rows are sessions of one key, which never touch.
    fn follows(self, one_session: bool) -> bool {
        let ends = [Part::End, Part::Time];
        let both_ends = ends.contains(&self.from) && ends.contains(&self.to);
        self.from == self.to
            || match self.window.shape {
                Shape::Tumble | Shape::Hop { .. } => true,
                // Cumulating windows of one series share their start, which determines no end. An end has one series.
                Shape::Cumulate { .. } => both_ends || self.to == Part::Start,
                Shape::Session => both_ends || one_session,
            }
    }
}

/// Returns the window if two expressions over `input` are times of the same one; `None` otherwise.
fn times(from: &Expr, to: &Expr, input: &LogicalPlan) -> Option<Times> {
    let (from, to) = (bare(from), bare(to));
    if let (Expr::Column(from), Expr::Column(to)) = (from, to) {
        return output_times(input, position(input, from)?, position(input, to)?);
    }
    if let (Some((one, time, window)), Some((two, other, same))) = (Tumble::recognize(from), Tumble::recognize(to)) {
        return (window == same && time == other && is_steady(time)).then_some(Times { from: one, to: two, window });
    }
    let ((windows, one), (same, two)) = (part_of(from)?, part_of(to)?);
    let Expr::Column(column) = windows else { return None };
    let window = output_windows(input, position(input, column)?)?;
    (windows == same).then_some(Times { from: one, to: two, window })
}

/// True if the value for a row is the same each time it is computed; `now()` is, since it is the batch's time.
fn is_steady(time: &Expr) -> bool {
    match bare(time) {
        Expr::ScalarFunction(call) if call.func.name() == "now" => true,
        other => !other.is_volatile(),
    }
}

/// Returns the window if two output columns of `plan` are times of the same one; `None` otherwise. Both may be NULL at once.
pub fn output_times(plan: &LogicalPlan, from: usize, to: usize) -> Option<Times> {
    match plan {
        LogicalPlan::Projection(node) => times(node.expr.get(from)?, node.expr.get(to)?, &node.input),
        LogicalPlan::Aggregate(node) if has_plain_groups(node) => {
            times(node.group_expr.get(from)?, node.group_expr.get(to)?, &node.input)
        }
        LogicalPlan::SubqueryAlias(node) => output_times(&node.input, from, to),
        LogicalPlan::Filter(node) => output_times(&node.input, from, to),
        LogicalPlan::Sort(node) => output_times(&node.input, from, to),
        LogicalPlan::Limit(node) => output_times(&node.input, from, to),
        LogicalPlan::Window(node) => beside(&node.input, 0, from, to),
        LogicalPlan::Unnest(node) => output_times(&node.input, unnested_from(node, from)?, unnested_from(node, to)?),
        LogicalPlan::Join(node) => {
            let left = node.left.schema().fields().len();
            match node.join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => beside(&node.right, 0, from, to),
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => beside(&node.left, 0, from, to),
                _ => beside(&node.left, 0, from, to).or_else(|| beside(&node.right, left, from, to)),
            }
        }
        LogicalPlan::Extension(_) => beside(&TemporalJoin::of(plan)?.left, 0, from, to),
        LogicalPlan::Union(node) => {
            let mut all = node.inputs.iter().map(|input| output_times(input, from, to));
            let first = all.next()??;
            all.all(|times| times == Some(first)).then_some(first)
        }
        _ => None,
    }
}

/// Does the same for one input of a node, whose columns begin at place `first` of the node's output.
fn beside(plan: &LogicalPlan, first: usize, from: usize, to: usize) -> Option<Times> {
    let width = plan.schema().fields().len();
    let place = |column: usize| column.checked_sub(first).filter(|column| *column < width);
    output_times(plan, place(from)?, place(to)?)
}

/// Returns the windows of which an output column of `plan` holds one as a struct; `None` for other columns.
fn output_windows(plan: &LogicalPlan, column: usize) -> Option<Window> {
    match plan {
        LogicalPlan::Projection(node) => {
            let expr = bare(node.expr.get(column)?);
            match (expr, Overlapping::recognize(expr)) {
                (Expr::Column(column), _) => output_windows(&node.input, position(&node.input, column)?),
                (_, Some((time, window))) => is_steady(time).then_some(window),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(node) => output_windows(&node.input, column),
        LogicalPlan::Filter(node) => output_windows(&node.input, column),
        LogicalPlan::Unnest(node) => output_windows(&node.input, *node.dependency_indices.get(column)?),
        LogicalPlan::Window(node) => {
            let width = node.input.schema().fields().len();
            match column.checked_sub(width) {
                Some(function) => Some(Session::recognize(node.window_expr.get(function)?)?.2),
                None => output_windows(&node.input, column),
            }
        }
        _ => None,
    }
}

/// True if the rows of `input` are sessions whose key follows from `known`. Sessions of a key at one commit never touch.
fn is_of_sessions(input: &LogicalPlan, known: &Columns) -> bool {
    let LogicalPlan::Window(node) = input else { return false };
    let [one] = node.window_expr.as_slice() else { return false };
    let Some((call, _, _)) = Session::recognize(one) else { return false };
    call.params.partition_by.iter().all(|key| follows(key, &node.input, known))
}

/// Returns the input column that an output column of UNNEST repeats in each of its rows; `None` for elements of lists.
fn unnested_from(node: &datafusion::logical_expr::Unnest, column: usize) -> Option<usize> {
    let below = *node.dependency_indices.get(column)?;
    let is_taken_apart =
        node.list_type_columns.iter().any(|(list, _)| *list == below) || node.struct_type_columns.contains(&below);
    (!is_taken_apart).then_some(below)
}
