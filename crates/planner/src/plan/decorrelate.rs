//! Scalar subqueries that become joins here and not in DataFusion.
//!
//! Owns: correlated subqueries that DataFusion does not decorrelate (any comparison under an aggregate, LIMIT, OVER,
//! UNION, joins inside), and subqueries whose value may fail to compute. Does not own: `IN` and `EXISTS` ([`super::subqueries`]),
//! subqueries that DataFusion's rules turn into joins with the same answer.
//!
//! A correlated subquery is joined with its *domain*: the distinct values of the outer columns that it names. Its plan then
//! computes the answer for each of them, and the outer rows look theirs up (Neumann and Kemper, Unnesting Arbitrary
//! Queries, BTW 2015). An expression on top of the subquery that may fail is computed by the rows that ask for it, so that
//! an error in a value that no row uses does not stop the query.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result, ScalarValue, TableReference, not_impl_err};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, ExprFunctionExt, FetchType, Limit, LogicalPlan, LogicalPlanBuilder,
    Operator, Projection, SkipType, SubqueryAlias, ident, lit,
};
use highwater_expressions::can_fail;

/// Joins the scalar subqueries in `exprs` that are planned here to `input`, and puts columns of theirs in their place.
/// `names` is the number of subqueries joined so far. The columns of `input` stay, before new ones.
pub fn joined(input: LogicalPlan, exprs: Vec<Expr>, names: &mut usize) -> Result<(LogicalPlan, Vec<Expr>)> {
    let mut plan = input;
    let mut replaced = Vec::with_capacity(exprs.len());
    for expr in exprs {
        let expr = expr.transform_down(|expr| match expr {
            Expr::ScalarSubquery(subquery) if is_ours(&subquery.subquery) => {
                *names += 1;
                let (joined, value) = join(plan.clone(), &subquery.subquery, *names)?;
                plan = joined;
                Ok(Transformed::new(value, true, TreeNodeRecursion::Jump))
            }
            other => Ok(Transformed::no(other)),
        })?;
        replaced.push(expr.data);
    }
    Ok((plan, replaced))
}

/// True for subqueries that DataFusion does not decorrelate, or whose value it would compute even if no row uses it.
fn is_ours(plan: &LogicalPlan) -> bool {
    top(plan).1.iter().any(|(expr, schema)| can_fail(expr, schema))
        || !(is_uncorrelated(plan) || is_simple(plan, false))
}

fn is_uncorrelated(plan: &LogicalPlan) -> bool {
    plan.all_out_ref_exprs().is_empty()
}

/// True if all correlation is by conditions that DataFusion pulls up: below an aggregate, equality with a column.
fn is_simple(plan: &LogicalPlan, below_aggregate: bool) -> bool {
    if is_uncorrelated(plan) {
        return true;
    }
    match plan {
        LogicalPlan::Filter(filter) => {
            let parts = split_conjunction(&filter.predicate);
            let mut correlated = parts.into_iter().filter(|part| part.contains_outer());
            correlated.all(|part| !below_aggregate || is_equality(part)) && is_simple(&filter.input, below_aggregate)
        }
        LogicalPlan::Projection(projection) => {
            !projection.expr.iter().any(Expr::contains_outer) && is_simple(&projection.input, below_aggregate)
        }
        LogicalPlan::SubqueryAlias(alias) => is_simple(&alias.input, below_aggregate),
        LogicalPlan::Aggregate(aggregate) => {
            !below_aggregate
                && !aggregate.group_expr.iter().chain(&aggregate.aggr_expr).any(Expr::contains_outer)
                && is_simple(&aggregate.input, true)
        }
        _ => false,
    }
}

fn is_equality(part: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part else { return false };
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(_));
    is_column(left) && !right.any_column_refs() || is_column(right) && !left.any_column_refs()
}

/// An expression with the schema it is over.
type Over<'a> = (&'a Expr, &'a datafusion::common::DFSchemaRef);

/// The subquery below the projections on its top, and their expressions, the upper first.
fn top(plan: &LogicalPlan) -> (&LogicalPlan, Vec<Over<'_>>) {
    match plan {
        LogicalPlan::Projection(projection) if projection.expr.len() == 1 => {
            let (below, mut exprs) = top(&projection.input);
            exprs.insert(0, (&projection.expr[0], projection.input.schema()));
            (below, exprs)
        }
        LogicalPlan::SubqueryAlias(alias) if matches!(alias.input.as_ref(), LogicalPlan::Projection(_)) => {
            top(&alias.input)
        }
        other => (other, Vec::new()),
    }
}

/// The outer rows with the columns of one subquery beside them, and its value over those.
fn join(outer: LogicalPlan, subquery: &LogicalPlan, number: usize) -> Result<(LogicalPlan, Expr)> {
    let (below, value) = below(subquery)?;
    let domain = Domain::of(&outer, &below, number)?;
    let rows = match &domain {
        Some(domain) => domain.over(&below)?,
        None => below.clone(),
    };
    let name = TableReference::bare(format!("__hw_scalar_{number}"));
    let mut columns = Vec::new();
    let parts = parts(&below, &outer);
    for (index, column) in rows.schema().iter().map(Expr::from).enumerate() {
        let key = || format!("__hw_key_{}", index - parts.len());
        columns.push(column.alias_qualified(Some(name.clone()), parts.get(index).cloned().unwrap_or_else(key)));
    }
    let rows = LogicalPlanBuilder::from(rows).project(columns)?.build()?;
    let on = domain.iter().flat_map(|domain| &domain.columns).enumerate().map(|(index, (outer, _))| {
        let key = Expr::Column(Column::new(Some(name.clone()), format!("__hw_key_{index}")));
        is_same(Expr::Column(outer.clone()), key)
    });
    let on = conjunction(on).unwrap_or(lit(true));
    let joined = LogicalPlanBuilder::from(outer).join_on(rows, JoinType::Left, [on])?.build()?;
    let below_schema = below.schema().clone();
    let value = value.transform_up(|expr| match expr {
        Expr::Column(column) => {
            let index = below_schema.index_of_column(&column)?;
            Ok(Transformed::yes(Expr::Column(Column::new(Some(name.clone()), &parts[index]))))
        }
        // The subquery's outer row is the row itself.
        Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
        other => Ok(Transformed::no(other)),
    })?;
    Ok((joined, counted(value.data, &below, &name, &parts)?))
}

/// Names of the subquery's columns, since errors show them; told apart from each other and from those of the outer rows.
fn parts(below: &LogicalPlan, outer: &LogicalPlan) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for field in below.schema().fields() {
        let is_outer = !outer.schema().fields_with_unqualified_name(field.name()).is_empty();
        let is_taken = is_outer || parts.contains(field.name());
        parts.push(if is_taken { format!("{}:{}", field.name(), parts.len() + 1) } else { field.name().clone() });
    }
    parts
}

/// The subquery without its projections, and its value over what is below them.
fn below(subquery: &LogicalPlan) -> Result<(LogicalPlan, Expr)> {
    let (below, exprs) = top(subquery);
    let first = Expr::from(below.schema().qualified_field(0));
    let mut value = match exprs.last() {
        Some(_) => None,
        None => Some(first),
    };
    // From the lowest projection up, each names the one column of that below it.
    for (expr, _) in exprs.iter().rev() {
        let expr = (*expr).clone().unalias();
        value = Some(match value {
            None => expr,
            Some(inner) => {
                expr.transform_up(|expr| match expr {
                    Expr::Column(_) => Ok(Transformed::yes(inner.clone())),
                    other => Ok(Transformed::no(other)),
                })?
                .data
            }
        });
    }
    match value {
        Some(value) => Ok((below.clone(), value)),
        None => not_impl_err!("a subquery needs a column"),
    }
}

/// An aggregate over no rows has a value: 0 if it counts. A correlated one has no row there.
fn counted(value: Expr, below: &LogicalPlan, name: &TableReference, parts: &[String]) -> Result<Expr> {
    let LogicalPlan::Aggregate(aggregate) = below else { return Ok(value) };
    let defaults = defaults(aggregate)?;
    let filled = value.transform_up(|expr| match &expr {
        Expr::Column(column) if column.relation.as_ref() == Some(name) => {
            let index = parts.iter().position(|part| *part == column.name);
            match index.and_then(|index| defaults.get(index)) {
                Some(default) if !default.is_null() => {
                    Ok(Transformed::yes(coalesce(vec![expr.clone(), lit(default.clone())])))
                }
                _ => Ok(Transformed::no(expr)),
            }
        }
        _ => Ok(Transformed::no(expr)),
    })?;
    Ok(filled.data)
}

/// Of each call, its value over no rows; for an aggregate without groups.
fn defaults(aggregate: &Aggregate) -> Result<Vec<ScalarValue>> {
    if !aggregate.group_expr.is_empty() {
        return Ok(Vec::new());
    }
    let calls = aggregate.aggr_expr.iter().zip(aggregate.schema.fields());
    let default = |(call, field): (&Expr, &datafusion::arrow::datatypes::FieldRef)| match call.clone().unalias() {
        Expr::AggregateFunction(call) => call.func.default_value(field.data_type()),
        _ => ScalarValue::try_from(field.data_type()),
    };
    calls.map(default).collect()
}

/// Equal, or both NULL.
fn is_same(left: Expr, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::IsNotDistinctFrom, Box::new(right)))
}

/// The distinct values of the outer columns that a subquery names.
struct Domain {
    plan: LogicalPlan,
    /// Each outer column, with that of the domain.
    columns: Vec<(Column, Column)>,
}

impl Domain {
    /// `None` for a subquery that names no column of these outer rows.
    fn of(outer: &LogicalPlan, subquery: &LogicalPlan, number: usize) -> Result<Option<Self>> {
        let name = TableReference::bare(format!("__hw_domain_{number}"));
        let mut columns: Vec<(Column, Column)> = Vec::new();
        let mut exprs = Vec::new();
        for reference in subquery.all_out_ref_exprs() {
            let Expr::OuterReferenceColumn(_, column) = reference else { continue };
            // One that is not here is of a query further out.
            if !outer.schema().has_column(&column) || columns.iter().any(|(known, _)| *known == column) {
                continue;
            }
            let own = Column::new(Some(name.clone()), format!("key_{}", columns.len()));
            exprs.push(Expr::Column(column.clone()).alias_qualified(Some(name.clone()), own.name.clone()));
            columns.push((column, own));
        }
        if columns.is_empty() {
            return Ok(None);
        }
        let plan = LogicalPlanBuilder::from(outer.clone()).project(exprs)?.distinct()?.build()?;
        Ok(Some(Self { plan, columns }))
    }

    /// The domain's columns as expressions.
    fn keys(&self) -> impl Iterator<Item = Expr> + '_ {
        self.columns.iter().map(|(_, own)| Expr::Column(own.clone()))
    }

    /// An expression of the subquery with the domain's columns for the outer ones.
    fn inside(&self, expr: Expr) -> Result<Expr> {
        let replaced = expr.transform_up(|expr| match &expr {
            Expr::OuterReferenceColumn(_, column) => match self.columns.iter().find(|(outer, _)| outer == column) {
                Some((_, own)) => Ok(Transformed::yes(Expr::Column(own.clone()))),
                None => Ok(Transformed::no(expr)),
            },
            _ => Ok(Transformed::no(expr)),
        })?;
        Ok(replaced.data)
    }

    /// Expressions of a node, whose columns keep their names, and the domain's columns behind them.
    fn columns_of(&self, exprs: &[Expr], plan: &LogicalPlan) -> Result<Vec<Expr>> {
        let mut columns = Vec::with_capacity(exprs.len() + self.columns.len());
        for (expr, (qualifier, field)) in exprs.iter().zip(plan.schema().iter()) {
            columns.push(self.inside(expr.clone())?.unalias().alias_qualified(qualifier.cloned(), field.name()));
        }
        columns.extend(self.keys());
        Ok(columns)
    }

    /// The plan for every row of the domain: its columns, then those of the domain.
    fn over(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        if is_uncorrelated(plan) {
            return LogicalPlanBuilder::from(plan.clone()).cross_join(self.plan.clone())?.build();
        }
        match plan {
            LogicalPlan::Filter(filter) => {
                let input = LogicalPlanBuilder::from(self.over(&filter.input)?);
                input.filter(self.inside(filter.predicate.clone())?)?.build()
            }
            LogicalPlan::Projection(Projection { expr, input, .. }) => {
                LogicalPlanBuilder::from(self.over(input)?).project(self.columns_of(expr, plan)?)?.build()
            }
            LogicalPlan::SubqueryAlias(SubqueryAlias { input, .. }) => {
                let columns: Vec<Expr> = input.schema().iter().map(Expr::from).collect();
                LogicalPlanBuilder::from(self.over(input)?).project(self.columns_of(&columns, plan)?)?.build()
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                LogicalPlanBuilder::from(self.over(input)?).distinct()?.build()
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => {
                let mut calls = Vec::with_capacity(window.window_expr.len());
                for call in &window.window_expr {
                    let name = call.schema_name().to_string();
                    let call = self.inside(call.clone())?.transform_up(|expr| match expr {
                        Expr::WindowFunction(mut call) => {
                            call.params.partition_by.extend(self.keys());
                            Ok(Transformed::yes(Expr::WindowFunction(call)))
                        }
                        other => Ok(Transformed::no(other)),
                    })?;
                    calls.push(call.data.alias_if_changed(name)?);
                }
                let columns: Vec<Expr> = plan.schema().iter().map(Expr::from).chain(self.keys()).collect();
                LogicalPlanBuilder::from(self.over(&window.input)?).window(calls)?.project(columns)?.build()
            }
            // Rows have no order; where it matters there is a LIMIT.
            LogicalPlan::Sort(sort) => self.over(&sort.input),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Union(union) => {
                let mut branches = union.inputs.iter().map(|input| self.over(input));
                let first = branches.next().unwrap_or_else(|| not_impl_err!("a UNION of nothing"))?;
                let all = branches.try_fold(LogicalPlanBuilder::from(first), |all, next| all.union(next?))?.build()?;
                // The columns of a union have no qualifiers, but the domain's have.
                let columns = all.schema().iter().map(Expr::from);
                let names = plan.schema().columns().into_iter().chain(self.columns.iter().map(|(_, own)| own.clone()));
                let columns = columns.zip(names).map(|(column, name)| column.alias_qualified(name.relation, name.name));
                let columns: Vec<Expr> = columns.collect();
                LogicalPlanBuilder::from(all).project(columns)?.build()
            }
            LogicalPlan::Join(join) => self.join(join, plan),
            _ => not_impl_err!(
                "a correlated subquery of this form is not supported in streaming yet: join its tables instead"
            ),
        }
    }

    /// Groups by the domain, too. A total has a row for each of the domain, whether there is a row in it or not.
    fn aggregate(&self, aggregate: &Aggregate) -> Result<LogicalPlan> {
        let input = self.over(&aggregate.input)?;
        let mut groups = Vec::new();
        for key in &aggregate.group_expr {
            if matches!(key, Expr::GroupingSet(_)) {
                return not_impl_err!("a correlated subquery with GROUPING SETS is not supported in streaming yet");
            }
            groups.push(self.inside(key.clone())?);
        }
        groups.extend(self.keys());
        let calls = aggregate.aggr_expr.iter().map(|call| self.inside(call.clone())).collect::<Result<Vec<_>>>()?;
        let width = aggregate.group_expr.len();
        let grouped = LogicalPlanBuilder::from(input).aggregate(groups, calls)?.build()?;
        let given: Vec<Expr> = grouped.schema().iter().map(Expr::from).collect();
        let keys = self.columns.len();
        // The node's own columns first: its groups, then its calls.
        let own = given[..width].iter().chain(&given[width + keys..]).cloned();
        let named = own.zip(aggregate.schema.iter());
        let named: Vec<Expr> =
            named.map(|(column, (table, field))| column.alias_qualified(table.cloned(), field.name())).collect();
        if width > 0 {
            let columns: Vec<Expr> = named.into_iter().chain(given[width..width + keys].iter().cloned()).collect();
            return LogicalPlanBuilder::from(grouped).project(columns)?.build();
        }
        let inner = |index: usize| format!("__hw_group_{index}");
        let renamed = given[..keys].iter().enumerate().map(|(index, key)| key.clone().alias(inner(index)));
        let columns: Vec<Expr> = named.into_iter().chain(renamed).collect();
        let grouped = LogicalPlanBuilder::from(grouped).project(columns)?.build()?;
        let on = self.keys().enumerate().map(|(index, key)| is_same(key, ident(inner(index))));
        let on = conjunction(on).unwrap_or(lit(true));
        let all = LogicalPlanBuilder::from(self.plan.clone()).join_on(grouped, JoinType::Left, [on])?;
        let defaults = defaults(aggregate)?;
        let filled = aggregate.schema.iter().zip(defaults).map(|((table, field), default)| {
            let column = Expr::from((table, field));
            let value = if default.is_null() { column } else { coalesce(vec![column, lit(default)]) };
            value.alias_qualified(table.cloned(), field.name())
        });
        let columns: Vec<Expr> = filled.chain(self.keys()).collect();
        all.project(columns)?.build()
    }

    /// The first rows for each of the domain.
    fn limit(&self, limit: &Limit) -> Result<LogicalPlan> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return not_impl_err!("LIMIT and OFFSET are constant numbers");
        };
        // The order may stand below a projection, which keeps the number of rows.
        let (input, order) = match limit.input.as_ref() {
            LogicalPlan::Sort(sort) => (&sort.input, sort.expr.as_slice()),
            LogicalPlan::Projection(Projection { expr, input, .. })
                if matches!(input.as_ref(), LogicalPlan::Sort(_)) =>
            {
                let below = self.limit(&Limit { input: input.clone(), ..limit.clone() })?;
                return LogicalPlanBuilder::from(below).project(self.columns_of(expr, &limit.input)?)?.build();
            }
            _ => (&limit.input, [].as_slice()),
        };
        let rows = self.over(input)?;
        let columns: Vec<Expr> = rows.schema().iter().map(Expr::from).collect();
        let mut sorted = Vec::with_capacity(order.len());
        for sort in order {
            sorted.push(self.inside(sort.expr.clone())?.sort(sort.asc, sort.nulls_first));
        }
        let rank = Expr::from(WindowFunction::new(row_number_udwf(), Vec::new()))
            .partition_by(self.keys().collect())
            .order_by(sorted)
            .build()?
            .alias("__hw_rank");
        let mut ranked = LogicalPlanBuilder::from(rows).window(vec![rank])?;
        if let Some(fetch) = fetch {
            ranked = ranked.filter(ident("__hw_rank").lt_eq(lit((skip + fetch) as u64)))?;
        }
        if skip > 0 {
            ranked = ranked.filter(ident("__hw_rank").gt(lit(skip as u64)))?;
        }
        ranked.project(columns)?.build()
    }

    /// Both sides for each of the domain, joined within it.
    fn join(&self, join: &datafusion::logical_expr::Join, plan: &LogicalPlan) -> Result<LogicalPlan> {
        if join.join_type == JoinType::Full || join.null_aware {
            return not_impl_err!("a correlated subquery with a FULL JOIN or NOT IN is not supported in streaming yet");
        }
        let left = self.over(&join.left)?;
        let right = self.over(&join.right)?;
        let other = |index: usize| format!("__hw_right_{index}");
        let width = join.right.schema().fields().len();
        let columns =
            right.schema().iter().map(Expr::from).enumerate().map(|(index, column)| match index.checked_sub(width) {
                Some(key) => column.alias(other(key)),
                None => column,
            });
        let columns: Vec<Expr> = columns.collect();
        let right = LogicalPlanBuilder::from(right).project(columns)?.build()?;
        let is_right = matches!(join.join_type, JoinType::Right | JoinType::RightSemi | JoinType::RightAnti);
        let mut on: Vec<Expr> = Vec::new();
        for (left, right) in &join.on {
            on.push(self.inside(left.clone())?.eq(self.inside(right.clone())?));
        }
        if let Some(filter) = &join.filter {
            on.push(self.inside(filter.clone())?);
        }
        on.extend(self.keys().enumerate().map(|(index, key)| is_same(key, ident(other(index)))));
        let joined = LogicalPlanBuilder::from(left).join_on(right, join.join_type, on)?;
        let mut columns: Vec<Expr> = plan.schema().iter().map(Expr::from).collect();
        for (index, key) in self.keys().enumerate() {
            let Expr::Column(own) = &key else { continue };
            let source = if is_right { ident(other(index)) } else { key.clone() };
            columns.push(source.alias_qualified(own.relation.clone(), own.name.clone()));
        }
        joined.project(columns)?.build()
    }
}

/// The plan with its subqueries on the right of a lateral join as a join with their domain; `None` for other plans.
pub fn lateral(plan: &LogicalPlan, names: &mut usize) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Join(join) = plan else { return Ok(None) };
    let (subquery, alias) = match join.right.as_ref() {
        LogicalPlan::Subquery(subquery) => (subquery, None),
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => match input.as_ref() {
            LogicalPlan::Subquery(subquery) => (subquery, Some(alias.clone())),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let keeps = matches!(join.join_type, JoinType::Inner | JoinType::Left);
    if !keeps || is_simple(&subquery.subquery, false) {
        return Ok(None);
    }
    *names += 1;
    let Some(domain) = Domain::of(&join.left, &subquery.subquery, *names)? else { return Ok(None) };
    let rows = domain.over(&subquery.subquery)?;
    let rows = match alias {
        Some(alias) => {
            let columns =
                subquery.subquery.schema().iter().map(|(table, field)| {
                    Expr::from((table, field)).alias_qualified(Some(alias.clone()), field.name())
                });
            let columns: Vec<Expr> = columns.chain(domain.keys()).collect();
            LogicalPlanBuilder::from(rows).project(columns)?.build()?
        }
        None => rows,
    };
    let mut on: Vec<Expr> = domain
        .columns
        .iter()
        .map(|(outer, own)| is_same(Expr::Column(outer.clone()), Expr::Column(own.clone())))
        .collect();
    on.extend(join.on.iter().map(|(left, right)| left.clone().eq(right.clone())));
    on.extend(join.filter.clone());
    let columns: Vec<Expr> = join.schema.iter().map(Expr::from).collect();
    let joined = LogicalPlanBuilder::from(join.left.as_ref().clone()).join_on(rows, join.join_type, on)?;
    joined.project(columns)?.build().map(Some)
}
