//! Sums, averages and variances OVER a frame, exact in every order: rows come into the frame and leave it.
//!
//! Owns: the accumulator. Does not own: the running value ([`crate::retracting`]), which rows are in the frame (DataFusion).

use crate::retracting::{Linear, LinearKind, Terms};
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::Accumulator;
use highwater_dataflow::error::EngineError;

/// The running value of one call.
#[derive(Debug)]
pub struct FrameSum {
    kind: LinearKind,
    argument: DataType,
    output: DataType,
    value: Linear,
}

impl FrameSum {
    /// `None` if the function has no running value over such an argument.
    pub fn new(name: &str, argument: &DataType, output: &DataType) -> Option<Self> {
        let kind = LinearKind::of(name, std::slice::from_ref(argument), output)?;
        Some(Self { kind, argument: argument.clone(), output: output.clone(), value: Linear::default() })
    }

    fn add(&mut self, values: &[ArrayRef], times: i64) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        let terms = Terms::new(&self.kind, values, rows).map_err(external)?;
        (0..rows).try_for_each(|row| self.value.add(&self.kind, &terms, row, times)).map_err(external)
    }
}

fn external(error: EngineError) -> DataFusionError {
    match error {
        EngineError::Arrow(error) => error.into(),
        other => DataFusionError::External(Box::new(other)),
    }
}

impl Accumulator for FrameSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values, 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values, -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = self.value.value(&self.kind, Some(&self.argument), &self.output).map_err(external)?;
        value.cast_to(&self.output)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        exec_err!("frames have no state")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        exec_err!("frames are not merged")
    }
}
