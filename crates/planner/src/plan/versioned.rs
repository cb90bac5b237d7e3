//! Relations with versions: a keyed table with WATERMARK, and a view of the last row of each key by event time.
//!
//! Owns: recognizing them in a plan. Does not own: keeping versions (`operators::temporal`).
//! Invariant: filters and projections above the versions are kept separately, since a version that a filter drops
//! still ends the one before.

use super::lineage::{Kind, trace};
use super::over::rank_limit;
use super::table::{Stream, Table};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, Result, ScalarValue};
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunctionParams};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, TableScan, Window, lit};
use highwater_functions::windows::tumble::Part;
use highwater_operators::over::{Rank, RankLimit};
use std::sync::Arc;

/// A relation with versions.
pub struct Versioned<'a> {
    pub base: Base<'a>,
    /// Its columns, as expressions over the base.
    pub columns: Vec<Expr>,
    /// Filters over the base that a version must pass, in this order.
    pub conditions: Vec<Expr>,
}

/// The source of versions.
pub enum Base<'a> {
    /// The records of a keyed table.
    Keyed { scan: &'a TableScan, table: &'a Arc<Table> },
    /// The last row of each partition.
    Last { input: &'a LogicalPlan, partition: &'a [Expr], order: &'a [SortExpr] },
}

impl Base<'_> {
    pub fn schema(&self) -> &DFSchemaRef {
        match self {
            Self::Keyed { scan, .. } => &scan.projected_schema,
            Self::Last { input, .. } => input.schema(),
        }
    }

    /// Returns the key of the versions, over the base.
    pub fn key(&self) -> Vec<Expr> {
        match self {
            Self::Keyed { scan, table } => {
                let columns = table.def.primary_key.iter().flat_map(|key| &key.columns);
                let field = |name: &str| scan.projected_schema.index_of_column_by_name(None, name);
                columns
                    .map(|column| match field(&column.text) {
                        Some(index) => Expr::from(scan.projected_schema.qualified_field(index)),
                        None => datafusion::logical_expr::ident(&column.text),
                    })
                    .collect()
            }
            Self::Last { partition, .. } => partition.to_vec(),
        }
    }

    /// Returns the tables whose watermarks determine which versions are final.
    pub fn tables(&self) -> Vec<Arc<Table>> {
        match self {
            Self::Keyed { table, .. } => vec![(*table).clone()],
            Self::Last { input, order, .. } => {
                let origin = order.first().and_then(|first| trace(&first.expr, input));
                origin.map(|origin| origin.tables).unwrap_or_default()
            }
        }
    }
}

/// Returns the versions that this plan reads; `None` if it has none.
pub fn recognize(plan: &LogicalPlan) -> Result<Option<Versioned<'_>>> {
    Ok(match plan {
        LogicalPlan::SubqueryAlias(alias) => recognize(&alias.input)?,
        LogicalPlan::Projection(projection) => match recognize(&projection.input)? {
            Some(mut below) => {
                let over = |expr: &Expr| over(expr, projection.input.schema(), &below.columns);
                below.columns = projection.expr.iter().map(over).collect::<Result<_>>()?;
                Some(below)
            }
            None => None,
        },
        LogicalPlan::Filter(filter) => match filter.input.as_ref() {
            LogicalPlan::Window(window) => last_row(filter, window)?,
            input => match recognize(input)? {
                Some(mut below) => {
                    below.conditions.push(over(&filter.predicate, input.schema(), &below.columns)?);
                    Some(below)
                }
                None => None,
            },
        },
        LogicalPlan::TableScan(scan) => scan.source.downcast_ref::<Stream>().and_then(|stream| {
            let table = &stream.table;
            let has_versions = table.def.primary_key.is_some() && table.time_column().is_some();
            let columns = scan.projected_schema.iter().map(Expr::from).collect();
            has_versions.then(|| Versioned { base: Base::Keyed { scan, table }, columns, conditions: Vec::new() })
        }),
        _ => None,
    })
}

/// Recognizes `ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts DESC) … = 1`.
fn last_row<'a>(filter: &Filter, window: &'a Window) -> Result<Option<Versioned<'a>>> {
    let is_last = matches!(rank_limit(filter, window), Some(RankLimit { rank: Rank::RowNumber, most: 1, skip: 0 }));
    let [function] = window.window_expr.as_slice() else { return Ok(None) };
    let Some(WindowFunctionParams { partition_by, order_by, .. }) = params(function) else { return Ok(None) };
    let input = window.input.as_ref();
    // DISTINCT ON (k) orders by k first, which is the same in all rows of a partition.
    let own = order_by.iter().take_while(|sort| partition_by.contains(&sort.expr)).count();
    let order_by = &order_by[own..];
    let newest_first = order_by.first().is_some_and(|first| !first.asc && is_event_time(&first.expr, input));
    if !is_last || !newest_first || partition_by.is_empty() {
        return Ok(None);
    }
    // ROW_NUMBER() of a last row is always 1.
    let number = window.schema.field(input.schema().fields().len()).data_type();
    let one = ScalarValue::Int64(Some(1)).cast_to(number)?;
    let columns: Vec<Expr> = input.schema().iter().map(Expr::from).chain([lit(one)]).collect();
    let conditions = vec![over(&filter.predicate, &window.schema, &columns)?];
    let base = Base::Last { input, partition: partition_by, order: order_by };
    Ok(Some(Versioned { base, columns, conditions }))
}

fn params(expr: &Expr) -> Option<&WindowFunctionParams> {
    match expr {
        Expr::Alias(alias) => params(&alias.expr),
        Expr::WindowFunction(function) => Some(&function.params),
        _ => None,
    }
}

/// True for a column that is an event time, or the time of a window over one.
pub fn is_event_time(expr: &Expr, input: &LogicalPlan) -> bool {
    let is_column = matches!(expr, Expr::Column(_));
    is_column && trace(expr, input).is_some_and(|o| matches!(o.kind, Kind::EventTime | Kind::Window(Part::Time, _)))
}

/// Replaces columns in an expression with the expressions that compute them.
pub fn over(expr: &Expr, schema: &DFSchema, columns: &[Expr]) -> Result<Expr> {
    let column = |expr| match &expr {
        Expr::Column(column) => match schema.maybe_index_of_column(column).and_then(|index| columns.get(index)) {
            Some(found) => Ok(Transformed::yes(found.clone().unalias())),
            None => Ok(Transformed::no(expr)),
        },
        _ => Ok(Transformed::no(expr)),
    };
    expr.clone().unalias().transform_up(column).map(|expr| expr.data)
}
