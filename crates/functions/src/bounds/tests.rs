//! Calls whose results are too large, and calls whose results are just below the limits.

use super::*;
use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
use datafusion::arrow::datatypes::Field;
use datafusion::common::config::ConfigOptions;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::lit;

/// Calls a function with size checks, over columns of so many rows.
fn call(name: &str, args: Vec<ColumnarValue>, rows: usize) -> Result<ColumnarValue> {
    let spark = datafusion_spark::all_default_scalar_functions();
    let functions = SessionStateDefaults::default_scalar_functions().into_iter().chain(spark);
    let function = functions.into_iter().find(|function| function.name() == name).unwrap();
    let call = Expr::ScalarFunction(ScalarFunction::new_udf(function, Vec::new()));
    let Expr::ScalarFunction(bounded) = bounded(call).unwrap().data else { panic!("{name}") };
    assert!(bounded.func.inner().is::<Bounded>(), "{name} has no bounds");
    let fields: Vec<FieldRef> = args.iter().map(|arg| Arc::new(Field::new("a", arg.data_type(), true))).collect();
    let scalars: Vec<Option<ScalarValue>> = args
        .iter()
        .map(|arg| match arg {
            ColumnarValue::Scalar(value) => Some(value.clone()),
            ColumnarValue::Array(_) => None,
        })
        .collect();
    let scalar_arguments: Vec<Option<&ScalarValue>> = scalars.iter().map(Option::as_ref).collect();
    let return_field = bounded
        .func
        .return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalar_arguments })?;
    let config_options = Arc::new(ConfigOptions::new());
    bounded.func.invoke_with_args(ScalarFunctionArgs {
        args,
        arg_fields: fields,
        number_rows: rows,
        return_field,
        config_options,
    })
}

fn text(text: &str) -> ColumnarValue {
    ColumnarValue::Scalar(ScalarValue::Utf8(Some(text.into())))
}

fn number(number: i64) -> ColumnarValue {
    ColumnarValue::Scalar(ScalarValue::Int64(Some(number)))
}

fn texts(values: &[&str]) -> ColumnarValue {
    ColumnarValue::Array(Arc::new(StringArray::from(values.to_vec())) as ArrayRef)
}

fn numbers(values: &[i64]) -> ColumnarValue {
    ColumnarValue::Array(Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)
}

fn refusal(name: &str, args: Vec<ColumnarValue>, rows: usize) -> String {
    let error = call(name, args, rows).expect_err(name);
    TooLarge::find(&error).unwrap_or_else(|| panic!("{name}: {error}")).to_string()
}

#[test]
fn what_multiplies_is_refused_before_it_is_made() {
    const HUGE: i64 = 2_000_000_000;
    let one = || texts(&["a"]);
    let calls = [
        ("repeat", vec![one(), number(HUGE)]),
        ("repeat", vec![one(), numbers(&[HUGE])]),
        ("lpad", vec![one(), number(HUGE)]),
        ("rpad", vec![one(), number(HUGE), text("ä")]),
        ("lpad", vec![texts(&[]), number(HUGE)]),
        ("replace", vec![texts(&["aaaaaaaaaa".repeat(400).as_str()]), text("a"), text(&"b".repeat(10_000))]),
        ("regexp_replace", vec![texts(&["a".repeat(40_000).as_str()]), text("a"), text(&"b".repeat(1_000)), text("g")]),
        ("format_string", vec![text("%2000000000d"), numbers(&[1])]),
        ("array_repeat", vec![numbers(&[1]), number(HUGE)]),
        ("range", vec![numbers(&[HUGE])]),
        ("range", vec![number(0), numbers(&[i64::MAX]), number(1)]),
        ("generate_series", vec![number(HUGE), numbers(&[-HUGE]), number(-1)]),
        (
            "space",
            vec![ColumnarValue::Array(Arc::new(datafusion::arrow::array::Int32Array::from(vec![2_000_000_000])))],
        ),
        ("to_char", vec![numbers(&[0]), text(&"%Y".repeat(2_000_000))]),
    ];
    for (name, args) in calls {
        let error = refusal(name, args, 1);
        assert!(error.starts_with(&format!("{name} makes a value of ")) && error.contains("16777216"), "{error}");
    }
}

#[test]
fn constants_are_bounded_more_tightly() {
    let error = refusal("repeat", vec![text("a"), number(70_000)], 0);
    assert_eq!(error, "repeat makes a constant of 70000 bytes, but the maximum is 65536: give it smaller arguments");
    assert!(call("repeat", vec![text("a"), number(60_000)], 1).is_ok());
    assert!(bounded(lit("x".repeat(70_000))).is_err());
    assert!(bounded(lit("x".repeat(60_000))).is_ok());
}

#[test]
fn many_values_together_are_refused() {
    let rows = 8192;
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"; rows]));
    let error = refusal("repeat", vec![ColumnarValue::Array(texts), number(100_000)], rows);
    assert!(error.contains("8192 rows"), "{error}");
}

#[test]
fn what_is_small_is_made() {
    // Few matches in a long text, though there might be many.
    let long = format!("{}b", "a".repeat(1_000_000));
    let made = call("replace", vec![texts(&[long.as_str()]), text("b"), text(&"c".repeat(60_000))], 1);
    assert!(made.is_ok(), "{made:?}");
    let made = call("regexp_replace", vec![texts(&[long.as_str()]), text("(b)"), text("$1$1$1")], 1);
    assert!(made.is_ok(), "{made:?}");
    assert!(call("lpad", vec![texts(&["a"]), number(1_000_000)], 1).is_ok());
    assert!(call("range", vec![numbers(&[1_000_000])], 1).is_ok());
    assert!(call("range", vec![number(i64::MAX), numbers(&[0]), number(1)], 1).is_ok());
}

#[test]
fn a_value_that_doubles_is_refused_at_last() {
    let long = "a".repeat(9 << 20);
    let error = refusal("concat", vec![texts(&[&long]), texts(&[&long])], 1);
    assert!(error.contains("18874368 bytes"), "{error}");
    let error = refusal("hex", vec![texts(&[&long])], 1);
    assert!(error.starts_with("hex makes a value"), "{error}");
}
