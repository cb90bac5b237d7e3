//! Casts to FLOAT that fail where the number does not fit.
//!
//! Owns: DOUBLE, DECIMAL and texts to FLOAT; all other casts are DataFusion's, which fail. Infinity and NaN are numbers of
//! both types.

use crate::arithmetic::overflow;
use datafusion::arrow::array::{ArrayRef, AsArray, Float32Array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

/// The cast, if it is one of these as a function.
pub fn narrowed(cast: Cast, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if *cast.field.data_type() != DataType::Float32 {
        return Ok(Transformed::no(Expr::Cast(cast)));
    }
    let from = cast.expr.get_type(schema)?;
    let narrows = from.is_string() || from.is_decimal() || from == DataType::Float64;
    if !narrows {
        return Ok(Transformed::no(Expr::Cast(cast)));
    }
    let function = ToFloat { signature: Signature::any(1, Volatility::Immutable) };
    Ok(Transformed::yes(ScalarUDF::from(function).call(vec![*cast.expr])))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToFloat {
    signature: Signature,
}

impl ScalarUDFImpl for ToFloat {
    fn name(&self) -> &str {
        "to_float"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("CAST({} AS FLOAT)", args.first().map(Expr::to_string).unwrap_or_default()))
    }

    /// Named like its argument, as a CAST is.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(|expr| expr.schema_name().to_string()).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float32)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let strict = CastOptions { safe: false, ..Default::default() };
        let wide = cast_with_options(&columns[0], &DataType::Float64, &strict)?;
        let narrow: Float32Array = wide.as_primitive::<Float64Type>().try_unary(|value| {
            let narrow = value as f32;
            let fits = narrow.is_finite() || !value.is_finite();
            if fits { Ok(narrow) } else { Err(overflow(&DataType::Float32)) }
        })?;
        let narrow: ArrayRef = Arc::new(narrow);
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&narrow, 0)?)),
            false => Ok(ColumnarValue::Array(narrow)),
        }
    }
}
