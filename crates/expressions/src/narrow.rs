//! Casts to FLOAT and DOUBLE that fail where the number does not fit.
//!
//! Owns: DOUBLE, DECIMAL and texts to FLOAT, and texts to DOUBLE; all other casts are DataFusion's, which fail. Infinity and
//! NaN are numbers of both types.

use crate::types::overflow;
use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Float32Type};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

/// The cast, if it is one of these as a function.
pub fn narrowed(cast: Cast, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let from = cast.expr.get_type(schema)?;
    let is_single = match cast.field.data_type() {
        DataType::Float32 if from.is_string() || from.is_decimal() || from == DataType::Float64 => true,
        DataType::Float64 if from.is_string() => false,
        _ => return Ok(Transformed::no(Expr::Cast(cast))),
    };
    let function = ToFloat { is_single, signature: Signature::any(1, Volatility::Immutable) };
    Ok(Transformed::yes(ScalarUDF::from(function).call(vec![*cast.expr])))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToFloat {
    /// FLOAT, or else DOUBLE.
    is_single: bool,
    signature: Signature,
}

impl ScalarUDFImpl for ToFloat {
    fn name(&self) -> &str {
        if self.is_single { "to_float" } else { "to_double" }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let data_type = if self.is_single { "FLOAT" } else { "DOUBLE" };
        Ok(format!("CAST({} AS {data_type})", args.first().map(Expr::to_string).unwrap_or_default()))
    }

    /// Named like its argument, as a CAST is.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(|expr| expr.schema_name().to_string()).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.is_single { DataType::Float32 } else { DataType::Float64 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let strict = CastOptions { safe: false, ..Default::default() };
        let wide = cast_with_options(&columns[0], &DataType::Float64, &strict)?;
        let wide: &Float64Array = wide.as_primitive();
        let is_text = columns[0].data_type().is_string();
        if is_text && wide.iter().flatten().any(f64::is_infinite) {
            finite(&columns[0], wide)?;
        }
        let narrow: ArrayRef = match self.is_single {
            false => Arc::new(wide.clone()),
            true => Arc::new(wide.try_unary::<_, Float32Type, _>(|value| {
                let narrow = value as f32;
                let fits = narrow.is_finite() || !value.is_finite();
                if fits { Ok(narrow) } else { Err(overflow(&DataType::Float32)) }
            })?),
        };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&narrow, 0)?)),
            false => Ok(ColumnarValue::Array(narrow)),
        }
    }
}

/// Fails where an infinite number comes from a text that does not say so.
fn finite(texts: &ArrayRef, numbers: &Float64Array) -> Result<()> {
    let texts = cast(texts, &DataType::Utf8)?;
    let both = texts.as_string::<i32>().iter().zip(numbers);
    let is_too_large = |(text, number): (Option<&str>, Option<f64>)| {
        number.is_some_and(f64::is_infinite) && text.is_some_and(|text| !text.to_ascii_lowercase().contains("inf"))
    };
    if both.into_iter().any(is_too_large) { Err(overflow(&DataType::Float64).into()) } else { Ok(()) }
}
