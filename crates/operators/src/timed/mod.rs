//! Rows that have a time, on their way into windows.
//!
//! Owns: dropping the others, which are in no window, and counting them. Does not own: late rows, whose windows are closed
//! (the operators that close windows). Invariant: a row is dropped if and only if its time is NULL.

use arrow::array::{Array, Int64Array};
use arrow::compute::is_not_null;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use highwater_dataflow::Upstream;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::operator::{Give, OperatorSpec, RowOperator, Running, StartContext, StateSpec, only};
use highwater_dataflow::runtime::evaluate;
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_protocol::ids::{OperatorId, SourceId};
use std::fmt::{self, Write};
use std::sync::Arc;

/// Drops rows that have no time, and counts them as late: of their own operator.
#[derive(Clone, Debug)]
pub struct TimedSpec {
    pub op: OperatorId,
    pub time: Arc<dyn PhysicalExpr>,
    /// The time, for people: `ts`.
    pub name: String,
    /// Sources of the rows.
    pub sources: Vec<SourceId>,
}

impl OperatorSpec for TimedSpec {
    fn describe(&self) -> String {
        format!("rows with a time {}: {}", self.op, self.time)
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{}", self.time)
    }

    fn state(&self) -> Option<StateSpec> {
        None
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        Ok(None)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        None
    }

    fn drops_late(&self) -> bool {
        true
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let input = only(inputs)?;
        match self.time.data_type(input)? {
            DataType::Timestamp(_, _) => Ok(input.clone()),
            found => Err(Fault::Type { what: "a row's time", found }.into()),
        }
    }

    fn start(&self, _: &StartContext<'_>) -> Result<Running, EngineError> {
        Ok(Running::Rows(Box::new(Timed { time: self.time.clone(), late: Late::new(self.op, None) })))
    }
}

struct Timed {
    time: Arc<dyn PhysicalExpr>,
    late: Late,
}

impl RowOperator for Timed {
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError> {
        let times = evaluate(&self.time, &rows.batch)?;
        if times.null_count() == 0 {
            return give(rows);
        }
        let never = Int64Array::new_null(rows.num_rows());
        let timed = self.late.drop_from(0, rows, &is_not_null(&times)?, &never)?;
        give(timed)
    }

    fn grows(&self) -> Option<&'static str> {
        None
    }

    fn late(&mut self) -> Option<&mut Late> {
        Some(&mut self.late)
    }
}
