//! A GROUP BY in retracting form: over retracting input, or with DISTINCT, ORDER BY or GROUPING SETS.
//!
//! Owns: which functions have running values, which keep their arguments; the layout of rows on the
//! exchange. Does not own: GROUP BY in plain form (`aggregate`), computing (`operators::retracting`).

use super::aggregate::freeing;
use super::errors::sql_error;
use super::physical;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::{enumerate_grouping_sets, grouping_set_to_exprlist};
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_dataflow::{EmitMode, Upstream};
use highwater_functions::aggregates;
use highwater_operators::retracting::LinearKind;
use highwater_operators::retracting::{CallSpec, Keeps, RetractingSpec, Total};
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Approximate functions, whose sketches cannot retract a value.
const SKETCHES: [&str; 5] = [
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "approx_top_k",
];

/// DataFusion's functions that need all values of a group, some of them in order, since no smaller state merges. Highwater's
/// own aggregates need all values, too.
const NEED_ALL: [&str; 5] = ["array_agg", "string_agg", "first_value", "last_value", "nth_value"];

/// What a GROUP BY in retracting form computes before and after the exchange.
pub struct RetractingPlan {
    /// Lists of expressions over the input, one for each grouping set.
    pub lists: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    pub spec: RetractingSpec,
}

/// True if the plain form suffices for this GROUP BY: its input has only inserts, and its functions merge.
pub fn is_plain(node: &Aggregate, retracts: bool, at: Location) -> Result<bool> {
    if retracts || node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Ok(false);
    }
    for call in &node.aggr_expr {
        let lowered = physical::aggregate(call, node.input.schema(), at)?;
        let name = lowered.aggregate.fun().name();
        if NEED_ALL.contains(&name)
            || aggregates::is_own(name)
            || !lowered.order_bys.is_empty()
            || lowered.aggregate.is_distinct() && !merges_distinct(name, &lowered.aggregate)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True for functions whose DISTINCT state DataFusion's own accumulators merge correctly.
fn merges_distinct(name: &str, call: &datafusion::physical_expr::aggregate::AggregateFunctionExpr) -> bool {
    match name {
        "count" => call.expressions().len() == 1,
        "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" => true,
        _ => false,
    }
}

/// Compiles a GROUP BY in retracting form. `retracts` is true if its input has weights; `at_once` is true if the group of
/// all rows exists even without input.
pub fn compile(
    node: &Aggregate,
    emit: EmitMode,
    retracts: bool,
    watermark: Vec<Upstream>,
    at_once: bool,
    at: Location,
) -> Result<RetractingPlan> {
    let input = node.input.schema();
    let output: SchemaRef = Arc::new(Schema::new(node.schema.as_arrow().fields().clone()));
    let Groups { lists: group_lists, width: group_width, total } = groups(node, &output, at)?;
    let mut columns = Columns { exprs: Vec::new(), fields: Vec::new(), input: input.as_arrow() };
    let mut calls = Vec::with_capacity(node.aggr_expr.len());
    for (index, call) in node.aggr_expr.iter().enumerate() {
        let lowered = physical::aggregate(call, input, at)?;
        let function = lowered.aggregate;
        let name = function.fun().name().to_string();
        if retracts && SKETCHES.contains(&name.as_str()) {
            return Err(SqlError::at(at, format!("{name}() over rows that later records correct cannot be exact"))
                .hint("its sketch cannot retract a value: use the exact function (count(DISTINCT …), median, percentile_cont)"));
        }
        let place = |at: usize| group_width + at;
        let mut arguments = Vec::new();
        for expr in function.expressions() {
            arguments.push(place(columns.add(expr, at)?));
        }
        let mut order = Vec::new();
        for sort in &lowered.order_bys {
            order.push((place(columns.add(sort.expr.clone(), at)?), sort.options));
        }
        let filter = match lowered.filter {
            Some(filter) => Some(place(columns.add(filter, at)?)),
            None => None,
        };
        let types: Vec<DataType> =
            arguments.iter().map(|column| columns.fields[column - group_width].data_type().clone()).collect();
        let data_type = output.field(group_width + index).data_type();
        let distinct = function.is_distinct();
        let linear = LinearKind::of(&name, &types, data_type).filter(|_| order.is_empty() || name == "count");
        if linear.is_none() {
            // Some functions refuse unsupported types only here; the script should fail now, not in a batch.
            function.create_accumulator().map_err(|error| sql_error(error, at))?;
        }
        let keeps = match (&linear, name.as_str()) {
            (Some(_), _) if distinct => Keeps::Distinct,
            (Some(_), _) => Keeps::Nothing,
            (None, "min") => Keeps::Least,
            (None, "max") => Keeps::Greatest,
            (None, _) => Keeps::All,
        };
        // Only functions that keep all values are fed in the declared order. Other states are ordered by value.
        let order: Vec<(usize, SortOptions)> = if keeps == Keeps::All { order } else { Vec::new() };
        calls.push(CallSpec { function, arguments, order, filter, distinct, linear, keeps });
    }
    let mut fields: Vec<Field> = output.fields().iter().take(group_width).map(|field| field.as_ref().clone()).collect();
    fields.extend(columns.fields);
    let lists = group_lists.into_iter().map(|group| group.into_iter().chain(columns.exprs.iter().cloned()).collect());
    let (close, watermark) = freeing(node, watermark);
    let spec = RetractingSpec {
        input_schema: Arc::new(Schema::new(fields)),
        group_width,
        calls,
        output_schema: output.clone(),
        close,
        emit,
        total: total.map(|key| Total { key, at_once }),
        watermark,
    };
    Ok(RetractingPlan { lists: lists.collect(), spec })
}

/// Columns on the exchange after those of the group.
struct Columns<'a> {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    fields: Vec<Field>,
    input: &'a Schema,
}

impl Columns<'_> {
    fn add(&mut self, expr: Arc<dyn PhysicalExpr>, at: Location) -> Result<usize> {
        if let Some(place) = self.exprs.iter().position(|known| known.as_ref() == expr.as_ref()) {
            return Ok(place);
        }
        let data_type = expr.data_type(self.input).map_err(|error| sql_error(error, at))?;
        self.fields.push(Field::new(expr.to_string(), data_type, true));
        self.exprs.push(expr);
        Ok(self.exprs.len() - 1)
    }
}

/// Lists of expressions over the input, one for each grouping set.
type Lists = Vec<Vec<Arc<dyn PhysicalExpr>>>;

/// The columns of the group.
struct Groups {
    /// Lists of expressions, one for each grouping set.
    lists: Lists,
    width: usize,
    /// Key of the group of all rows; `None` if there is no such group.
    total: Option<Vec<ScalarValue>>,
}

fn groups(node: &Aggregate, output: &SchemaRef, at: Location) -> Result<Groups> {
    let input = node.input.schema();
    let failed = |error| sql_error(error, at);
    let is_set = node.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_)));
    if !is_set {
        let mut list = Vec::with_capacity(node.group_expr.len());
        for key in &node.group_expr {
            list.push(physical::expr(key, input, at)?);
        }
        let width = list.len();
        return Ok(Groups { lists: vec![list], width, total: (width == 0).then(Vec::new) });
    }
    let exprs = enumerate_grouping_sets(node.group_expr.clone()).map_err(failed)?;
    let all: Vec<Expr> = grouping_set_to_exprlist(&exprs).map_err(failed)?.into_iter().cloned().collect();
    let width = all.len() + 1;
    let id_type = output.field(all.len()).data_type();
    let (mut seen, mut lists): (Vec<Vec<Expr>>, Lists) = Default::default();
    let mut total = None;
    for set in sets(&exprs, &all) {
        let mut list: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(width);
        let mut id = 0u64;
        for (index, key) in all.iter().enumerate() {
            let is_in = set.contains(key);
            // The bit of a column is 1 if it is not in the set; the first column has the highest bit (SQL's GROUPING()).
            id = id << 1 | u64::from(!is_in);
            list.push(match is_in {
                true => physical::expr(key, input, at)?,
                false => {
                    let null = ScalarValue::try_from(output.field(index).data_type()).map_err(failed)?;
                    Arc::new(Literal::new(null))
                }
            });
        }
        if seen.contains(&set) {
            return Err(SqlError::at(at, "the same grouping set twice is not supported in streaming yet")
                .hint("drop one of them"));
        }
        let id = ScalarValue::UInt64(Some(id)).cast_to(id_type).map_err(failed)?;
        if set.is_empty() {
            let types = output.fields().iter().take(all.len()).map(|field| ScalarValue::try_from(field.data_type()));
            let mut key = types.collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
            key.push(id.clone());
            total = Some(key);
        }
        list.push(Arc::new(Literal::new(id)));
        lists.push(list);
        seen.push(set);
    }
    Ok(Groups { lists, width, total })
}

/// Returns the columns of each grouping set.
fn sets(exprs: &[Expr], all: &[Expr]) -> Vec<Vec<Expr>> {
    match exprs.first() {
        Some(Expr::GroupingSet(GroupingSet::GroupingSets(sets))) => sets.clone(),
        Some(Expr::GroupingSet(GroupingSet::Rollup(columns))) => {
            (0..=columns.len()).rev().map(|count| columns[..count].to_vec()).collect()
        }
        Some(Expr::GroupingSet(GroupingSet::Cube(columns))) => (0..1usize << columns.len())
            .map(|mask| {
                columns.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 0).map(|(_, e)| e.clone()).collect()
            })
            .collect(),
        _ => vec![all.to_vec()],
    }
}
