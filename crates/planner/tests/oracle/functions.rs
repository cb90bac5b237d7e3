//! Calls every function with arguments of every type, in every form: it is refused when the script is compiled, or it runs
//! and returns the same as in DataFusion.

use crate::harness::answer::{answer, assigned};
use crate::harness::fold::{Text, texts};
use crate::harness::scenario::Scenario;
use arrow::array::RecordBatch;
use highwater_functions::clock::{BatchClock, is_clock};
use highwater_sql::functions::Functions;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A type and three values of it.
const TYPES: [(&str, [&str; 3]); 11] = [
    ("BIGINT", ["3", "-1", "7"]),
    ("SMALLINT", ["3", "-1", "7"]),
    ("DOUBLE", ["0.5", "-1.25", "3.0"]),
    ("FLOAT", ["0.5", "-1.25", "3.0"]),
    ("DECIMAL(10, 2)", ["0.50", "-1.25", "3.00"]),
    ("STRING", ["'b'", "'a'", "''"]),
    ("BOOLEAN", ["true", "false", "true"]),
    (
        "TIMESTAMP(3)",
        ["TIMESTAMP '2026-01-01 00:00:01'", "TIMESTAMP '2026-01-01 00:00:03'", "TIMESTAMP '2025-01-01 00:00:00'"],
    ),
    ("DATE", ["DATE '2026-01-01'", "DATE '2026-01-03'", "DATE '2025-01-01'"]),
    ("BYTES", ["X'01'", "X''", "X'0203'"]),
    ("ARRAY<BIGINT>", ["make_array(1, 2)", "make_array(1)", "make_array(2)"]),
];

/// Argument lists.
const ARGUMENTS: [&str; 8] =
    ["x", "DISTINCT x", "x, y", "x, 0.5", "x, 2", "x, ','", "x ORDER BY id", "x, ',' ORDER BY id DESC"];

const FORMS: [&str; 7] = [
    "SELECT k, {f} AS a FROM t GROUP BY k",
    "SELECT {f} AS a, count(*) AS n FROM t",
    "SELECT k, {f} FILTER (WHERE id > 2) AS a FROM t GROUP BY ROLLUP (k)",
    "SELECT n, {f} AS a FROM (SELECT k, count(*) AS n, max(id) AS id, max(x) AS x, max(y) AS y FROM t GROUP BY k) g GROUP BY n",
    "SELECT id, {f} OVER (PARTITION BY k ORDER BY id) AS a FROM t",
    "SELECT id, {f} OVER (PARTITION BY k ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS a FROM t",
    "SELECT id, {f} OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND 2 FOLLOWING) AS a FROM t",
];

const SCALAR_ARGUMENTS: [&str; 12] =
    ["", "x", "x, x", "x, 2", "x, 'a'", "'a', x", "2, x", "x, y", "x, 'a', 'b'", "x, 1, 2", "x, NULL", "x, -1"];

fn values(of: &[&str; 3]) -> String {
    let [a, b, c] = of;
    format!(
        "(1, 'u', {a}, 1.5), (2, 'u', {b}, 2.5), (3, 'v', NULL, NULL), (4, 'u', {a}, -1.0), (5, 'v', {c}, 0.25), (6, 'w', {b}, 4.0)"
    )
}

const WINDOW_CALLS: [&str; 20] = [
    "row_number()",
    "rank()",
    "dense_rank()",
    "percent_rank()",
    "cume_dist()",
    "ntile(2)",
    "ntile(0)",
    "ntile(id)",
    "lag(x)",
    "lag(x, 2)",
    "lag(x, id)",
    "lag(x, 1, x)",
    "lag(x, 1, 0)",
    "lead(x)",
    "lead(x, 1, 'a')",
    "first_value(x)",
    "last_value(x)",
    "nth_value(x, 2)",
    "nth_value(x, 0)",
    "nth_value(x, id)",
];

/// Returns a SELECT for every form of a call.
fn selects(names: &[String]) -> Vec<String> {
    let aggregates = names.iter().flat_map(|name| ARGUMENTS.map(|arguments| format!("{name}({arguments})")));
    let everywhere = aggregates.flat_map(|call| FORMS.map(|form| form.replace("{f}", &call)));
    let over = FORMS.iter().filter(|form| form.contains("OVER"));
    let windows = over.flat_map(|form| WINDOW_CALLS.map(|call| form.replace("{f}", call)));
    everywhere.chain(windows).collect()
}

/// Runs all SELECTs that compile over a table of this type. Returns how many ran, and those that failed or gave another
/// result than DataFusion.
fn run_all(data_type: &str, literals: &[&str; 3], selects: &[String]) -> (usize, Vec<String>) {
    let mut scenario = Scenario::default();
    scenario.execute(&format!("CREATE TABLE t (id BIGINT, k STRING, x {data_type}, y DOUBLE)")).unwrap();
    scenario.execute(&format!("INSERT INTO t VALUES {}", values(literals))).unwrap();
    scenario.execute("COMMIT").unwrap();
    let [a, b, _] = literals;
    scenario.execute(&format!("INSERT INTO t VALUES (6, 'w', {b}, 4.0), (7, 'u', {a}, 4.5)")).unwrap();
    let table = run_one(&scenario, &scenario.script_of("SELECT id, k, x, y FROM t").unwrap()).unwrap();
    let names = ["id", "k", "x", "y"].into_iter().zip(table.columns().iter().cloned());
    let table = RecordBatch::try_from_iter_with_nullable(names.map(|(name, column)| (name, column, true))).unwrap();
    let scripts = selects.iter().filter_map(|select| Some((select, scenario.script_of(select).ok()?)));
    let (mut ran, mut wrong) = (0, Vec::new());
    for (select, script) in scripts {
        ran += 1;
        let checked = run_one(&scenario, &script).and_then(|found| {
            let Ok(expected) = answer(vec![("t".into(), table.clone())], select) else { return Ok(()) };
            let expected = assigned(&expected, &found.schema());
            match is_undefined(select) || about_equal(select, &expected, &texts(&found)) {
                true => Ok(()),
                false => Err(format!("{:?} instead of {expected:?}", texts(&found))),
            }
        });
        if let Err(error) = checked {
            wrong.push(format!("{data_type}: {select}\n  {}", error.lines().next().unwrap_or_default()));
        }
    }
    (ran, wrong)
}

fn run_one(scenario: &Scenario, script: &str) -> Result<RecordBatch, String> {
    let done = catch_unwind(AssertUnwindSafe(|| scenario.quickly(script)));
    done.unwrap_or_else(|_| Err("it panicked".into())).map(|outcome| outcome.sinks["answer"].clone())
}

/// True if the result depends on an undefined order, or has a pattern that DataFusion reads differently.
fn is_undefined(select: &str) -> bool {
    const OF_ORDER: [&str; 5] = ["array_agg(", "collect_list(", "string_agg(", "listagg(", "any_value("];
    let is_open = OF_ORDER.iter().any(|name| select.contains(name)) && !select.contains("ORDER BY id");
    is_open || select.contains("date_format(")
}

/// True if the rows are the same, up to the rounding of numbers. Where DataFusion is known to be wrong, `found` may be right:
/// it cuts averages of DECIMAL, and over frames its deviations of equal values are roots of what rounding leaves, even of
/// numbers below zero.
fn about_equal(select: &str, expected: &[Text], found: &[Text]) -> bool {
    let cuts = select.contains("avg(") || select.contains("mean(");
    let roots = select.contains("stddev") && select.contains(" OVER ");
    let sorted = |rows: &[Text]| {
        let mut rows = rows.to_vec();
        rows.sort();
        rows
    };
    let about = |(a, b): (&String, &String)| {
        let numbers = a.parse::<f64>().ok().zip(b.parse::<f64>().ok());
        let last_digit =
            |text: &String| text.split_once('.').map_or(1.0, |(_, digits)| 0.1f64.powi(digits.len() as i32));
        let is_near = |(one, other): (f64, f64)| {
            let most = if cuts { 1.5 * last_digit(a).max(last_digit(b)) } else { 0.0 };
            (one - other).abs() <= most.min(1e-5).max(1e-9 * one.abs().max(1.0))
                || roots && other == 0.0 && (one.is_nan() || one < 1e-6)
        };
        a == b || numbers.is_some_and(is_near)
    };
    let (expected, found) = (sorted(expected), sorted(found));
    expected.len() == found.len() && expected.iter().flatten().zip(found.iter().flatten()).all(about)
}

#[test]
fn every_aggregate_in_every_form_is_refused_or_runs() {
    let selects = selects(&Functions::new(&BatchClock::default()).aggregate_names());
    let all: Vec<(usize, Vec<String>)> =
        TYPES.iter().map(|(data_type, literals)| run_all(data_type, literals, &selects)).collect();
    let ran: usize = all.iter().map(|(ran, _)| ran).sum();
    let wrong: Vec<String> = all.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(ran > 5_000, "only {ran} ran");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Parts of errors that depend on values, not on types. All but one of these errors say how to guard against them.
const OF_VALUES: [&str; 2] = ["guard the expression", "array_resize: failed to convert size"];

#[test]
fn every_scalar_function_is_refused_or_runs() {
    let mut names = Functions::new(&BatchClock::default()).scalar_names();
    names.retain(|name| !name.starts_with("hw_") && !is_clock(name));
    let select = |name: &String| SCALAR_ARGUMENTS.map(|arguments| format!("SELECT {name}({arguments}) AS a FROM t"));
    let selects: Vec<String> = names.iter().flat_map(select).collect();
    let (mut all, mut wrong) = (0, Vec::new());
    for (data_type, literals) in TYPES.iter().step_by(2) {
        let (ran, failed) = run_all(data_type, literals, &selects);
        all += ran;
        let of_values = |error: &String| OF_VALUES.iter().any(|told| error.contains(told));
        wrong.extend(failed.into_iter().filter(|error| !of_values(error)));
    }
    assert!(all > 2_000, "only {all} ran");
    assert!(wrong.is_empty(), "{} of {all}:\n{}", wrong.len(), wrong.join("\n"));
}
