//! `JOIN … USING (k)` and `NATURAL JOIN`: one column for each name, of the side that has a value.
//!
//! Owns: the merged columns, and what `*` and a bare name mean beside them. Does not own: joining. The merged column is
//! the left one of an inner or left join, the right one of a right join, and `coalesce(left, right)` of a full join (SQL:2016,
//! 7.10). `l.k` and `r.k` keep their own values.
//!
//! DataFusion resolves bare names and `*` by the columns of joins with USING. So while a query is planned, the join stands
//! below a projection that adds the merged columns, and that below a mark: a join with USING of all columns of such a name.
//! [`without_marks`] removes the marks.

use super::errors::external;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, JoinConstraint, JoinType, NullEquality, Result, TableReference};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::expr_rewriter::normalize_col_with_schemas_and_ambiguity_check;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{EmptyRelation, Expr, Join, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    self, Ident, JoinOperator, ObjectName, Query, Select, Spanned, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use highwater_sql::error::SqlError;
use highwater_sql::metadata_columns::METADATA;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Begins the qualifier of merged columns. It sorts before every name, so that `*` shows these and not their sides.
const MERGED: &str = "(";

/// Puts all relations of a FROM with USING or NATURAL in brackets, WHERE as their last condition, so that [`UsingPlanner`]
/// gets them. DataFusion's planner takes a bare name in WHERE for ambiguous.
pub fn bracket(query: &mut Query) {
    struct Brackets;
    impl VisitorMut for Brackets {
        type Break = ();
        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            let merges_any = |from: &TableWithJoins| from.joins.iter().any(|join| merges(&join.join_operator));
            if select.from.iter().any(merges_any) {
                bracket_from(select);
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Brackets);
}

fn bracket_from(select: &mut Select) {
    let mut all: Option<TableFactor> = None;
    for from in select.from.drain(..) {
        let relation = match from.joins.is_empty() {
            true => from.relation,
            false => nested(from.relation, from.joins),
        };
        all = Some(match all {
            None => relation,
            Some(before) => nested(before, vec![cross(relation, ast::JoinConstraint::None)]),
        });
    }
    let Some(mut all) = all else { return };
    if let Some(condition) = select.selection.take() {
        all = nested(all, vec![cross(nothing(), ast::JoinConstraint::On(condition))]);
    }
    select.from = vec![TableWithJoins { relation: all, joins: Vec::new() }];
}

fn nested(relation: TableFactor, joins: Vec<ast::Join>) -> TableFactor {
    TableFactor::NestedJoin { table_with_joins: Box::new(TableWithJoins { relation, joins }), alias: None }
}

fn cross(relation: TableFactor, constraint: ast::JoinConstraint) -> ast::Join {
    ast::Join { relation, global: false, join_operator: JoinOperator::CrossJoin(constraint) }
}

/// No relation: beside it stands a condition.
fn nothing() -> TableFactor {
    TableFactor::Table {
        name: ObjectName(Vec::new()),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// Plans joins with USING and NATURAL inside DataFusion's planner.
#[derive(Debug)]
pub struct UsingPlanner;

impl RelationPlanner for UsingPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::NestedJoin { mut table_with_joins, alias } = relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let last = match table_with_joins.joins.pop() {
            Some(ast::Join { join_operator: JoinOperator::CrossJoin(ast::JoinConstraint::On(condition)), .. }) => {
                let input = context.plan(table_with_joins.relation)?;
                let condition = context.sql_to_expr(condition, input.schema())?;
                let plan = LogicalPlanBuilder::from(input).filter(condition)?.build()?;
                return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
            }
            Some(last) if merges(&last.join_operator) => last,
            Some(last) if is_plain(&last) && table_with_joins.joins.iter().any(|join| merges(&join.join_operator)) => {
                last
            }
            other => {
                table_with_joins.joins.extend(other);
                if let Some(last) = table_with_joins.joins.iter().rposition(|join| merges(&join.join_operator)) {
                    let joins = table_with_joins.joins.drain(..=last).collect();
                    let relation = std::mem::replace(&mut table_with_joins.relation, nothing());
                    table_with_joins.relation = nested(relation, joins);
                }
                let same = TableFactor::NestedJoin { table_with_joins, alias };
                return Ok(RelationPlanning::Original(Box::new(same)));
            }
        };
        let left = context.plan(match table_with_joins.joins.is_empty() {
            true => table_with_joins.relation,
            false => TableFactor::NestedJoin { table_with_joins, alias: None },
        })?;
        let (join_type, constraint) = of(last.join_operator)?;
        let at = last.relation.span();
        let right = context.plan(last.relation)?;
        let names = match constraint {
            ast::JoinConstraint::On(condition) => {
                let both = left.schema().join(right.schema())?;
                let condition = context.sql_to_expr(condition, &both)?;
                let mut same = left.using_columns()?;
                same.extend(right.using_columns()?);
                let schemas: &[&[&DFSchema]] = &[&[left.schema(), right.schema()]];
                let condition = normalize_col_with_schemas_and_ambiguity_check(condition, schemas, &same)?;
                let plan = LogicalPlanBuilder::from(left).join_on(right, join_type, Some(condition))?.build()?;
                return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
            }
            ast::JoinConstraint::Using(names) => {
                let names = names.into_iter().map(|name| {
                    let ident = name.0.into_iter().next().and_then(|part| part.as_ident().cloned());
                    let ident = ident.unwrap_or_else(|| Ident::new(""));
                    let place = ident.span;
                    (context.normalize_ident(ident), place)
                });
                names.collect()
            }
            _ => common(&left, &right).into_iter().map(|name| (name, at)).collect(),
        };
        let plan = joined(left, right, join_type, names)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// True for joins ON a condition with a relation that depends on no other.
fn is_plain(join: &ast::Join) -> bool {
    let is_lateral = match &join.relation {
        TableFactor::Derived { lateral, .. } | TableFactor::Function { lateral, .. } => *lateral,
        TableFactor::UNNEST { .. } => true,
        _ => false,
    };
    let is_on = |constraint| matches!(constraint, ast::JoinConstraint::On(_));
    !is_lateral && of(join.join_operator.clone()).is_ok_and(|(_, constraint)| is_on(constraint))
}

/// True for joins with USING or NATURAL.
fn merges(join: &JoinOperator) -> bool {
    of(join.clone())
        .is_ok_and(|(_, constraint)| matches!(constraint, ast::JoinConstraint::Using(_) | ast::JoinConstraint::Natural))
}

fn of(join: JoinOperator) -> Result<(JoinType, ast::JoinConstraint)> {
    Ok(match join {
        JoinOperator::Inner(constraint) | JoinOperator::Join(constraint) => (JoinType::Inner, constraint),
        JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => (JoinType::Left, constraint),
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => (JoinType::Right, constraint),
        JoinOperator::FullOuter(constraint) => (JoinType::Full, constraint),
        JoinOperator::LeftSemi(constraint) | JoinOperator::Semi(constraint) => (JoinType::LeftSemi, constraint),
        JoinOperator::RightSemi(constraint) => (JoinType::RightSemi, constraint),
        JoinOperator::LeftAnti(constraint) | JoinOperator::Anti(constraint) => (JoinType::LeftAnti, constraint),
        JoinOperator::RightAnti(constraint) => (JoinType::RightAnti, constraint),
        other => return datafusion::common::not_impl_err!("{other:?}"),
    })
}

/// Names that both sides show, in the order of the left one.
fn common(left: &LogicalPlan, right: &LogicalPlan) -> Vec<String> {
    let shown = |plan: &LogicalPlan| -> Vec<String> {
        let names = plan.schema().fields().iter().map(|field| field.name().clone());
        names.filter(|name| !METADATA.contains(&name.as_str())).collect()
    };
    let right: BTreeSet<String> = shown(right).into_iter().collect();
    let mut seen = BTreeSet::new();
    shown(left).into_iter().filter(|name| right.contains(name) && seen.insert(name.clone())).collect()
}

fn joined(
    left: LogicalPlan,
    right: LogicalPlan,
    join_type: JoinType,
    names: Vec<(String, Span)>,
) -> Result<LogicalPlan> {
    let mut on = Vec::with_capacity(names.len());
    for (name, at) in &names {
        on.push((column(&left, name, "left", at.start)?, column(&right, name, "right", at.start)?));
    }
    let condition = on.iter().map(|(left, right)| Expr::from(left.clone()).eq(Expr::from(right.clone())));
    let condition = conjunction(condition);
    let (left_schema, right_schema) = (left.schema().clone(), right.schema().clone());
    let join = LogicalPlanBuilder::from(left).join_on(right, join_type, condition)?.build()?;
    let keeps_both = matches!(join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
    if !keeps_both || names.is_empty() {
        return Ok(join);
    }
    let qualifier = qualifier([&left_schema, &right_schema]);
    let mut columns = Vec::new();
    for (left, right) in &on {
        let name = left.name.clone();
        let (left, right) = (Expr::from(left.clone()), Expr::from(right.clone()));
        let merged = match join_type {
            JoinType::Right => right,
            JoinType::Full => coalesce(vec![left, right]),
            _ => left,
        };
        columns.push(merged.alias_qualified(Some(qualifier.clone()), name));
    }
    columns.extend(join.schema().iter().map(Expr::from));
    let plan = LogicalPlanBuilder::from(join).project(columns)?.build()?;
    mark(plan, &qualifier, &names)
}

/// The column of a name: the merged one, where there is one.
fn column(side: &LogicalPlan, name: &str, which: &str, at: Location) -> Result<Column> {
    let all = side.schema().columns_with_unqualified_name(name);
    let located = |message: String| external(SqlError::at(at, message));
    match all.as_slice() {
        [] => Err(located(format!("USING ({name}): the {which} side of the join has no column '{name}'"))),
        [one] => Ok(one.clone()),
        several => {
            let merged = several.iter().filter(|column| is_merged(column)).min();
            merged.cloned().ok_or_else(|| {
                located(format!("USING ({name}): the {which} side of the join has several columns '{name}'"))
            })
        }
    }
}

fn is_merged(column: &Column) -> bool {
    column.relation.as_ref().is_some_and(|relation| relation.table().starts_with(MERGED))
}

/// The qualifier of a join's merged columns. Those of an outer join sort before those of the joins in it.
fn qualifier(schemas: [&DFSchema; 2]) -> TableReference {
    let mut names = BTreeSet::new();
    let mut depth = 1;
    for (relation, _) in schemas.iter().flat_map(|schema| schema.iter()) {
        let Some(relation) = relation else { continue };
        let table = relation.table();
        let inner = table.chars().take_while(|letter| *letter == '(').count();
        depth = depth.max(inner + 1);
        if inner == 0 {
            names.insert(table.to_string());
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    TableReference::bare(format!("{}{})", MERGED.repeat(depth), names.join(", ")))
}

/// The projection under a join that says: all columns of such a name are one.
fn mark(plan: LogicalPlan, qualifier: &TableReference, names: &[(String, Span)]) -> Result<LogicalPlan> {
    let schema = plan.schema().clone();
    let mut on = Vec::new();
    for (name, _) in names {
        let merged = Expr::from(Column::new(Some(qualifier.clone()), name));
        for column in schema.columns_with_unqualified_name(name) {
            on.push((merged.clone(), Expr::from(column)));
        }
    }
    Ok(LogicalPlan::Join(Join {
        left: Arc::new(plan),
        right: Arc::new(unit()),
        on,
        filter: None,
        join_type: JoinType::Inner,
        join_constraint: JoinConstraint::Using,
        schema,
        null_equality: NullEquality::NullEqualsNothing,
        null_aware: false,
    }))
}

/// One row without columns.
fn unit() -> LogicalPlan {
    let schema = Arc::new(DFSchema::empty());
    LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, schema })
}

/// Takes the marks out of a query's plan.
pub fn without_marks(plan: LogicalPlan) -> Result<LogicalPlan> {
    let unmarked = plan.transform_down_with_subqueries(|plan| match plan {
        LogicalPlan::Join(join) if is_mark(&join) => Ok(Transformed::yes(Arc::unwrap_or_clone(join.left))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(unmarked.data)
}

fn is_mark(join: &Join) -> bool {
    let is_unit = matches!(join.right.as_ref(), LogicalPlan::EmptyRelation(empty) if empty.produce_one_row);
    is_unit && join.join_constraint == JoinConstraint::Using
}
