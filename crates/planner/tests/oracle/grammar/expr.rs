//! Random expressions of a type over the columns of a relation.
//!
//! Invariant: no expression fails on any row, or depends on the order in which floats are added.

use super::tables::Type;
use super::tape::Tape;

/// A column in scope: its SQL and its type.
pub type Column = (String, Type);

/// Returns the columns of this type.
pub fn of_type(columns: &[Column], wanted: Type) -> Vec<&str> {
    columns.iter().filter(|(_, data_type)| *data_type == wanted).map(|(name, _)| name.as_str()).collect()
}

/// Returns a random expression of this type.
pub fn scalar(wanted: Type, columns: &[Column], depth: usize, tape: &mut Tape) -> String {
    let known = of_type(columns, wanted);
    if !known.is_empty() && (depth == 0 || tape.pick(3) < 2) {
        return tape.one(&known).to_string();
    }
    if depth == 0 {
        return literal(wanted, tape).to_string();
    }
    let mut of = |wanted: Type| scalar(wanted, columns, depth - 1, tape);
    let (one, other) = (of(wanted), of(wanted));
    match tape.pick(4) {
        0 => special(wanted, &one, &other, columns, depth, tape),
        1 => format!("coalesce({one}, {other})"),
        2 => format!("CASE WHEN {} THEN {one} ELSE {other} END", predicate(columns, depth - 1, tape)),
        _ => one,
    }
}

/// Returns a random expression with operations that only this type has.
fn special(wanted: Type, one: &str, other: &str, columns: &[Column], depth: usize, tape: &mut Tape) -> String {
    let mut of = |wanted: Type| scalar(wanted, columns, depth - 1, tape);
    match wanted {
        Type::Bigint => match of(Type::String) {
            text if text.len() % 2 == 0 => format!("CAST(char_length({text}) AS BIGINT)"),
            _ => format!("({one} - {other})"),
        },
        Type::Int => format!("abs({one})"),
        Type::Double => format!("({one} * 0.5 + CAST({} AS DOUBLE))", of(Type::Int)),
        Type::Decimal => format!("CAST({one} + {other} AS DECIMAL(10, 2))"),
        Type::String => match of(Type::Bigint) {
            number if number.len() % 2 == 0 => format!("concat({one}, CAST({number} AS VARCHAR))"),
            _ => format!("upper({one})"),
        },
        Type::Boolean => format!("({one} AND NOT {other})"),
        Type::Date => format!("CAST({} AS DATE)", of(Type::Timestamp)),
        Type::Timestamp => format!("({one} + INTERVAL '1' SECOND)"),
        Type::List => format!("make_array({}, {})", of(Type::Bigint), of(Type::Bigint)),
        Type::Struct => one.to_string(),
    }
}

pub fn literal(wanted: Type, tape: &mut Tape) -> &'static str {
    let of: [&'static str; 3] = match wanted {
        Type::Bigint => ["CAST(1 AS BIGINT)", "CAST(NULL AS BIGINT)", "CAST(2 AS BIGINT)"],
        Type::Int => ["CAST(1 AS INT)", "CAST(NULL AS INT)", "CAST(2 AS INT)"],
        Type::Double => ["CAST(0.25 AS DOUBLE)", "CAST(NULL AS DOUBLE)", "CAST(2 AS DOUBLE)"],
        Type::Decimal => ["CAST(2 AS DECIMAL(10, 2))", "CAST(NULL AS DECIMAL(10, 2))", "CAST(0.25 AS DECIMAL(10, 2))"],
        Type::String => ["'a'", "CAST(NULL AS VARCHAR)", "'b'"],
        Type::Boolean => ["TRUE", "CAST(NULL AS BOOLEAN)", "FALSE"],
        Type::Date => ["DATE '2026-01-01'", "CAST(NULL AS DATE)", "DATE '2026-01-02'"],
        Type::Timestamp => [
            "CAST('2026-01-01 00:00:00' AS TIMESTAMP(3))",
            "CAST(NULL AS TIMESTAMP(3))",
            "CAST('2026-01-01 00:00:03' AS TIMESTAMP(3))",
        ],
        Type::List => ["make_array(1, 2)", "make_array(CAST(NULL AS BIGINT))", "make_array(3)"],
        Type::Struct => {
            ["named_struct('a', 1, 'b', 'a')", "named_struct('a', 2, 'b', 'b')", "named_struct('a', 1, 'b', 'b')"]
        }
    };
    of[tape.pick(3)]
}

pub fn predicate(columns: &[Column], depth: usize, tape: &mut Tape) -> String {
    let (name, data_type) = tape.one(columns).clone();
    let other = scalar(data_type, columns, 0, tape);
    match tape.pick(if depth == 0 { 5 } else { 8 }) {
        0 if data_type.is_plain() => format!("{name} > {}", literal(data_type, tape)),
        1 if data_type.is_plain() => format!("{name} IN ({}, {})", literal(data_type, tape), literal(data_type, tape)),
        2 if data_type.is_plain() => format!("{name} <> {other}"),
        3 if data_type.is_plain() => format!("{name} IS DISTINCT FROM {other}"),
        5 => format!("({} AND {})", predicate(columns, depth - 1, tape), predicate(columns, depth - 1, tape)),
        6 => format!("({} OR {})", predicate(columns, depth - 1, tape), predicate(columns, depth - 1, tape)),
        7 => format!("NOT ({})", predicate(columns, depth - 1, tape)),
        _ => format!("{name} IS NOT NULL"),
    }
}

/// Returns a random aggregate and its type. It is ordered by all columns, so that equal rows do not matter.
pub fn aggregate(columns: &[Column], tape: &mut Tape) -> (String, Type) {
    let (name, data_type) = tape.one(columns).clone();
    let filter =
        if tape.rarely(4) { format!(" FILTER (WHERE {})", predicate(columns, 0, tape)) } else { String::new() };
    let distinct = if data_type.is_plain() && tape.rarely(4) { "DISTINCT " } else { "" };
    let order = order_within(columns, tape);
    match tape.pick(8) {
        0 => (format!("count(*){filter}"), Type::Bigint),
        1 if data_type.is_number() => sum(&name, data_type, distinct, &filter),
        2 if data_type.is_number() => average(&name, data_type, distinct, &filter),
        3 if data_type.is_plain() => (format!("min({name}){filter}"), data_type),
        4 if data_type.is_plain() => (format!("max({name}){filter}"), data_type),
        5 => (format!("first_value({name} ORDER BY {order}){filter}"), data_type),
        6 => match data_type {
            Type::Boolean => (format!("bool_or({name}){filter}"), Type::Boolean),
            Type::String => (format!("string_agg({distinct}{name}, ',' ORDER BY {name}){filter}"), Type::String),
            Type::Bigint => (format!("array_agg({name} ORDER BY {name}){filter}"), Type::List),
            _ => (format!("last_value({name} ORDER BY {order}){filter}"), data_type),
        },
        7 if data_type.is_plain() => (format!("mode({name}){filter}"), data_type),
        _ => (format!("count({distinct}{name}){filter}"), Type::Bigint),
    }
}

fn sum(name: &str, data_type: Type, distinct: &str, filter: &str) -> (String, Type) {
    match data_type {
        Type::Decimal => (format!("CAST(sum({distinct}{name}){filter} AS DECIMAL(10, 2))"), Type::Decimal),
        Type::Double => (format!("sum({distinct}{name}){filter}"), Type::Double),
        _ => (format!("sum({distinct}{name}){filter}"), Type::Bigint),
    }
}

/// Returns an average, rounded: floats to quarters.
fn average(name: &str, data_type: Type, distinct: &str, filter: &str) -> (String, Type) {
    match data_type {
        Type::Decimal => (format!("CAST(avg({distinct}{name}){filter} AS DECIMAL(10, 2))"), Type::Decimal),
        _ => (format!("(round(avg({distinct}{name}){filter} * 4) / 4 + 0.0)"), Type::Double),
    }
}

/// Returns an order by all columns that can be ordered, in a random direction, with a random one first.
pub fn order_by(columns: &[Column], tape: &mut Tape) -> String {
    terms(columns, false, tape)
}

/// Returns the same for an aggregate, with structs field by field: DataFusion's `first_value` orders NULLs in structs in
/// another way than its ORDER BY, which Highwater follows.
pub fn order_within(columns: &[Column], tape: &mut Tape) -> String {
    terms(columns, true, tape)
}

fn terms(columns: &[Column], by_field: bool, tape: &mut Tape) -> String {
    let first = tape.pick(columns.len());
    let direction = *tape.one(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
    let parts = |(name, data_type): &Column| match data_type {
        Type::Struct if by_field => vec![format!("{name}['a']"), format!("{name}['b']"), format!("{name} IS NULL")],
        _ => vec![name.clone()],
    };
    let mut terms = parts(&columns[first]);
    terms[0] += direction;
    let others = columns.iter().enumerate().filter(|(index, _)| *index != first);
    terms.extend(others.flat_map(|(_, column)| parts(column)));
    terms.join(", ")
}
