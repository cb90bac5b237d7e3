//! Rows without a time, which are in no window: they leave where windows begin, and are counted there.
//!
//! Owns: the condition that keeps them out of windows, and the operator it becomes. Does not own: running it
//! (`operators::timed`). Invariants: wherever the optimizer moves the condition, it means that the time is not NULL; the
//! operators are numbered after all others, so that those with state have the same numbers as without them.

use super::builder::Flow;
use super::derived::EventTime;
use super::physical;
use super::push_down::by_safety;
use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::compute::is_not_null;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, Result as DataFusionResult};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_dataflow::{Dataflow, OperatorInfo};
use highwater_functions::windows::hop::Overlapping;
use highwater_functions::windows::tumble::Tumble;
use highwater_operators::timed::TimedSpec;
use highwater_protocol::ids::OperatorId;
use highwater_sql::error::Result;
use std::sync::Arc;

/// `hw_has_time(ts)`: whether a row can be in a window.
#[derive(Debug, PartialEq, Eq, Hash)]
struct HasTime {
    signature: Signature,
}

impl ScalarUDFImpl for HasTime {
    fn name(&self) -> &str {
        "hw_has_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let there: BooleanArray = is_not_null(&times)?;
        Ok(ColumnarValue::Array(Arc::new(there)))
    }
}

/// The condition on the rows of a window.
pub fn has_time(time: Expr) -> Expr {
    ScalarUDF::from(HasTime { signature: Signature::any(1, Volatility::Immutable) }).call(vec![time])
}

/// The time that rows must have, if `expr` is such a condition.
fn recognize(expr: &Expr) -> Option<&Expr> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let inner: &dyn std::any::Any = call.func.inner().as_ref();
    inner.downcast_ref::<HasTime>().and(call.args.first())
}

/// A condition in the order in which its parts are evaluated.
pub struct Conditions {
    /// On any row: what these drop is not counted. `None`: there are none.
    pub before: Option<Expr>,
    /// The times that rows must have.
    pub times: Vec<Expr>,
    /// On the windows, which only rows with a time belong to, and those that may fail, which see only rows that pass all
    /// others. `None`: there are none.
    pub after: Option<Expr>,
}

/// Splits a condition on rows of `schema`.
pub fn split(predicate: &Expr, schema: &DFSchema) -> DataFusionResult<Conditions> {
    let is_window = |expr: &Expr| Ok(Tumble::recognize(expr).is_some() || Overlapping::recognize(expr).is_some());
    let (safe, may_fail) = by_safety(predicate, schema);
    let (mut before, mut times, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for part in safe.into_iter().chain(may_fail.iter().filter(|part| recognize(part).is_some()).cloned()) {
        match recognize(&part) {
            Some(time) => times.push(time.clone()),
            None if part.exists(is_window)? => after.push(part),
            None => before.push(part),
        }
    }
    after.extend(may_fail.into_iter().filter(|part| recognize(part).is_none()));
    if times.is_empty() {
        before.append(&mut after);
    }
    Ok(Conditions { before: conjunction(before), times, after: conjunction(after) })
}

/// Drops and counts rows of a flow that do not have this time.
pub fn keep(flow: &mut Flow, time: &Expr, schema: &DFSchema, at: Location) -> Result<()> {
    let spec = TimedSpec {
        op: OperatorId(u32::MAX),
        time: physical::expr(time, schema, at)?,
        name: name(time),
        sources: flow.upstream.iter().map(|one| one.source).collect(),
    };
    flow.ops.push(Arc::new(spec));
    Ok(())
}

fn name(time: &Expr) -> String {
    let declared = EventTime::recognize(time).and_then(|table| table.def.watermark.as_ref());
    match (declared, time) {
        (Some(watermark), _) => watermark.column.text.clone(),
        (None, Expr::Column(column)) => column.name.clone(),
        (None, other) => other.to_string(),
    }
}

/// Gives these operators of a complete dataflow their numbers.
pub fn number(dataflow: &mut Dataflow) {
    let Dataflow { stages, operators, .. } = dataflow;
    let ops = stages.iter_mut().flat_map(|stage| &mut stage.pipelines).flat_map(|pipeline| &mut pipeline.ops);
    for op in ops {
        let Some(spec) = op.downcast_ref::<TimedSpec>() else { continue };
        let id = OperatorId(operators.len() as u32);
        operators.push(OperatorInfo {
            id,
            name: "event time".into(),
            description: format!("rows without {}", spec.name),
            sources: spec.sources.clone(),
            bounded_by: Some("its batch: it keeps no rows".into()),
            closes_windows: false,
            clock_window: None,
            ttl_ms: None,
        });
        *op = Arc::new(TimedSpec { op: id, ..spec.clone() });
    }
}
