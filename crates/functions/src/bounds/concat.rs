//! `a || b` as a function with size checks.
//!
//! Owns: its form as one call for a whole chain, so that long chains are not deep. Does not own: the result (DataFusion's
//! operator).

use super::estimate::SUM;
use super::limits;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};
use std::sync::Arc;

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    signature: Signature,
}

impl Default for Concat {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Concat {
    fn name(&self) -> &str {
        "||"
    }

    /// Returns the operator's name for the schema, so that the rewriting does not rename columns.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![self.return_type(arguments)?; arguments.len()])
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let Some((first, rest)) = arguments.split_first() else { return plan_err!("write a || b") };
        let both = |left: DataType, right: &DataType| {
            BinaryTypeCoercer::new(&left, &Operator::StringConcat, right).get_result_type()
        };
        rest.iter().try_fold(first.clone(), both)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        limits::check(self.name(), constant, rows, SUM.sizes(&args.args, rows)?)?;
        let columns = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let made = columns.into_iter().map(Ok).reduce(|left, right| joined(left?, right?));
        let made = ColumnarValue::Array(made.transpose()?.unwrap_or_else(|| new_null_array(&DataType::Utf8, rows)));
        limits::check_made(self.name(), &made, constant)?;
        match (constant, &made) {
            (true, ColumnarValue::Array(array)) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(array, 0)?)),
            _ => Ok(made),
        }
    }
}

/// Computes `left || right` with DataFusion's operator.
fn joined(left: ArrayRef, right: ArrayRef) -> Result<ArrayRef> {
    let rows = left.len();
    let field = |name: &str, column: &ArrayRef| Field::new(name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field("left", &left), field("right", &right)]));
    let operator =
        BinaryExpr::new(Arc::new(Column::new("left", 0)), Operator::StringConcat, Arc::new(Column::new("right", 1)));
    operator.evaluate(&RecordBatch::try_new(schema, vec![left, right])?)?.into_array(rows)
}
