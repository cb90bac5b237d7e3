//! A temporal join as a node of the logical plan.
//!
//! Owns: the marker call that syntax leaves in a join's condition, and the node it becomes. Does not own: planning the
//! operator (`temporal`). Invariant: no filter is pushed below the node on the side of the versions, since a version that a
//! filter drops still ends the one before.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchemaRef, JoinType, Result, exec_err};
use datafusion::logical_expr::logical_plan::builder::build_join_schema;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Extension, Join, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, UserDefinedLogicalNodeCore, Volatility, lit,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use highwater_sql::versions::AS_OF;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Returns the marker: a condition whose argument is the time of the right side's version.
pub fn mark() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Mark { signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mark {
    signature: Signature,
}

impl ScalarUDFImpl for Mark {
    fn name(&self) -> &str {
        AS_OF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("FOR SYSTEM_TIME AS OF belongs to a join")
    }
}

/// Joins each row of the left side with the version of the right side that was valid at the row's time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemporalJoin {
    pub left: LogicalPlan,
    pub right: LogicalPlan,
    /// The time of the version, over the left side.
    pub time: Expr,
    /// The join's condition, over both sides.
    pub condition: Expr,
    /// True if rows without a version are kept (LEFT JOIN).
    pub keeps_unmatched: bool,
    schema: DFSchemaRef,
}

impl TemporalJoin {
    fn try_new(
        left: LogicalPlan,
        right: LogicalPlan,
        time: Expr,
        condition: Expr,
        keeps_unmatched: bool,
    ) -> Result<Self> {
        let kind = if keeps_unmatched { JoinType::Left } else { JoinType::Inner };
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &kind)?);
        Ok(Self { left, right, time, condition, keeps_unmatched, schema })
    }

    /// Returns the temporal join that this node is; `None` for other nodes.
    pub fn of(plan: &LogicalPlan) -> Option<&Self> {
        let LogicalPlan::Extension(extension) = plan else { return None };
        extension.node.as_any().downcast_ref()
    }
}

/// Replaces joins with a marker by [`TemporalJoin`] nodes.
pub fn find_marks(plan: LogicalPlan) -> Result<LogicalPlan> {
    let marked = |plan: LogicalPlan| {
        let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
        match unmarked(join)? {
            Some(node) => Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) }))),
            None => Ok(Transformed::no(plan)),
        }
    };
    plan.transform_up_with_subqueries(marked).map(|plan| plan.data)
}

fn unmarked(join: &Join) -> Result<Option<TemporalJoin>> {
    let Some(filter) = &join.filter else { return Ok(None) };
    let mut time = None;
    let mut rest: Vec<Expr> = join.on.iter().map(|(left, right)| left.clone().eq(right.clone())).collect();
    for conjunct in split_conjunction_owned(filter.clone()) {
        match conjunct {
            Expr::ScalarFunction(mut call) if call.func.name() == AS_OF => time = call.args.pop(),
            other => rest.push(other),
        }
    }
    let Some(time) = time else { return Ok(None) };
    let condition = conjunction(rest).unwrap_or_else(|| lit(true));
    let (left, right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
    TemporalJoin::try_new(left, right, time, condition, join.join_type == JoinType::Left).map(Some)
}

/// Pushes filters that use only columns of the left side below a temporal join.
#[derive(Debug)]
pub struct FilterRowsFirst;

impl OptimizerRule for FilterRowsFirst {
    fn name(&self) -> &str {
        "filter_rows_first"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        let Some(node) = TemporalJoin::of(&filter.input) else { return Ok(Transformed::no(plan)) };
        let is_of_rows = |expr: &Expr| {
            let mut columns = expr.column_refs().into_iter();
            !expr.is_volatile() && columns.all(|column| node.left.schema().maybe_index_of_column(column).is_some())
        };
        let (rows, rest): (Vec<Expr>, Vec<Expr>) =
            split_conjunction_owned(filter.predicate.clone()).into_iter().partition(is_of_rows);
        let Some(rows) = conjunction(rows) else { return Ok(Transformed::no(plan)) };
        let left = LogicalPlanBuilder::from(node.left.clone()).filter(rows)?.build()?;
        let below = TemporalJoin { left, ..node.clone() };
        let below = LogicalPlanBuilder::from(LogicalPlan::Extension(Extension { node: Arc::new(below) }));
        let plan = match conjunction(rest) {
            Some(rest) => below.filter(rest)?.build()?,
            None => below.build()?,
        };
        Ok(Transformed::yes(plan))
    }
}

impl PartialOrd for TemporalJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for TemporalJoin {
    fn name(&self) -> &str {
        "TemporalJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.time.clone(), self.condition.clone()]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TemporalJoin: {} as of {}", self.condition, self.time)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Ok([time, condition]), Ok([left, right])) =
            (<[Expr; 2]>::try_from(exprs), <[LogicalPlan; 2]>::try_from(inputs))
        else {
            return exec_err!("a temporal join has two inputs and two expressions");
        };
        Self::try_new(left, right, time, condition, self.keeps_unmatched)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|column| **column < width);
        Some(vec![left, right.into_iter().map(|column| column - width).collect()])
    }
}
