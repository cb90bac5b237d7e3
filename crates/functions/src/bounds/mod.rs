//! Functions whose result is larger than their arguments: `repeat`, `lpad`, `range`, `replace`, `||` and their kind.
//!
//! Owns: which functions those are, and checking the size of each value and column that a call makes. Does not own:
//! estimates of sizes (`estimate`), limits of a query's state (`dataflow::state::budget`).
//! Invariants: no call returns more than the limits; where a result may be a multiple of its arguments, the call fails
//! before it computes; the same limits hold for constants that are folded when a script is compiled.

mod concat;
mod estimate;
mod limits;

pub use limits::{MAX_COLUMN_BYTES, TooLarge};

use concat::Concat;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use estimate::estimate_of;
use limits::{MAX_CENTROIDS, MAX_CONSTANT_BYTES, MAX_DELIMITER_BYTES};
use std::sync::Arc;

/// One of DataFusion's functions, with size checks.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    /// A function that simplifies to another is replaced, and the other one gets the checks. Functions with an estimate are
    /// never simplified, since their replacement might compute a constant without a check.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match estimate_of(self.name()) {
            Some(_) => Ok(ExprSimplifyResult::Original(args)),
            None => self.inner.simplify(args, info),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        if let Some(estimate) = estimate_of(self.name()) {
            limits::check(self.name(), constant, rows, estimate.sizes(&args.args, rows)?)?;
        }
        let made = self.inner.invoke_with_args(args)?;
        limits::check_made(self.name(), &made, constant)?;
        Ok(made)
    }
}

/// Adds size checks to a node of an expression, if it is a call of such a function. Refuses constants and types that are too
/// large.
pub fn bounded(expr: Expr) -> Result<Transformed<Expr>> {
    match expr {
        Expr::ScalarFunction(call) => bounded_call(call),
        Expr::BinaryExpr(binary) if binary.op == Operator::StringConcat => {
            let parts = [*binary.left, *binary.right].into_iter().flat_map(parts_of).collect();
            let function = Arc::new(ScalarUDF::from(Concat::default()));
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, parts))))
        }
        Expr::Literal(value, metadata) => {
            check_constant(&value)?;
            Ok(Transformed::no(Expr::Literal(value, metadata)))
        }
        Expr::Cast(cast) => {
            limits::check_type(cast.field.data_type())?;
            Ok(Transformed::no(Expr::Cast(cast)))
        }
        Expr::TryCast(cast) => {
            limits::check_type(cast.field.data_type())?;
            Ok(Transformed::no(Expr::TryCast(cast)))
        }
        Expr::AggregateFunction(call) => {
            check_aggregate(call.func.name(), &call.params.args)?;
            Ok(Transformed::no(Expr::AggregateFunction(call)))
        }
        Expr::WindowFunction(call) => {
            check_aggregate(call.fun.name(), &call.params.args)?;
            Ok(Transformed::no(Expr::WindowFunction(call)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Refuses too large constants for an aggregate's delimiter or its number of centroids.
fn check_aggregate(name: &str, args: &[Expr]) -> Result<()> {
    let place = match name {
        "string_agg" => 1,
        "approx_percentile_cont" => 2,
        "approx_percentile_cont_with_weight" => 3,
        _ => return Ok(()),
    };
    let Some(Expr::Literal(value, _)) = args.get(place) else { return Ok(()) };
    let count = value.cast_to(&DataType::Int64).ok().and_then(|value| match value {
        ScalarValue::Int64(count) => count,
        _ => None,
    });
    match (value.try_as_str().flatten(), count) {
        (Some(delimiter), _) if place == 1 && delimiter.len() > MAX_DELIMITER_BYTES => {
            Err(TooLarge::Delimiter { bytes: delimiter.len() as u64 }.into())
        }
        (_, Some(count)) if place > 1 && count > MAX_CENTROIDS => Err(TooLarge::Centroids { count }.into()),
        _ => Ok(()),
    }
}

/// Does the same for all nodes of an expression.
pub fn all_bounded(expr: Expr) -> Result<Expr> {
    Ok(expr.transform_up(bounded)?.data)
}

fn bounded_call(call: ScalarFunction) -> Result<Transformed<Expr>> {
    if let ("arrow_cast" | "arrow_try_cast", Some(Expr::Literal(value, _))) = (call.func.name(), call.args.get(1))
        && let Some(Ok(data_type)) = value.try_as_str().flatten().map(str::parse::<DataType>)
    {
        limits::check_type(&data_type)?;
    }
    check_literals(&call)?;
    if !grows(call.func.name()) || call.func.inner().is::<Bounded>() {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    }
    let function = Arc::new(ScalarUDF::from(Bounded { inner: call.func }));
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, call.args))))
}

/// Refuses a call of constants with too large a result, even in a branch that no row may reach.
fn check_literals(call: &ScalarFunction) -> Result<()> {
    let Some(estimate) = estimate_of(call.func.name()) else { return Ok(()) };
    let literal = |arg: &Expr| match arg {
        Expr::Literal(value, _) => Some(ColumnarValue::Scalar(value.clone())),
        _ => None,
    };
    match call.args.iter().map(literal).collect::<Option<Vec<_>>>() {
        Some(args) if !args.is_empty() => limits::check(call.func.name(), true, 1, estimate.sizes(&args, 1)?),
        _ => Ok(()),
    }
}

/// Returns the operands of a chain of `||`, or else the expression itself.
fn parts_of(expr: Expr) -> Vec<Expr> {
    match expr {
        Expr::ScalarFunction(call) if call.func.inner().is::<Concat>() => call.args,
        other => vec![other],
    }
}

/// True if a function's result may be larger than its arguments.
fn grows(name: &str) -> bool {
    estimate_of(name).is_some() || WIDENS.contains(&name)
}

/// Functions whose result may be a few times as large as their arguments. One call is harmless, but nested calls may double
/// a value many times.
const WIDENS: [&str; 24] = [
    "array_insert",
    "array_intersect",
    "array_union",
    "arrays_zip",
    "base64",
    "bin",
    "encode",
    "hex",
    "initcap",
    "json_query",
    "json_value",
    "lower",
    "make_valid_utf8",
    "map_entries",
    "parse_url",
    "quote",
    "regexp_match",
    "split",
    "str_to_map",
    "string_to_array",
    "to_hex",
    "translate",
    "upper",
    "url_encode",
];

fn check_constant(value: &ScalarValue) -> Result<()> {
    match value.size() {
        size if size > MAX_CONSTANT_BYTES as usize + size_of::<ScalarValue>() => {
            Err(TooLarge::Literal { bytes: size as u64 }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
