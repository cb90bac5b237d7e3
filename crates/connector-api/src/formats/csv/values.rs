//! Parsing fields to values.
//!
//! Owns: which texts are values of which type: the same as in JSON, without quotes. Does not own: NULL. Invariant:
//! exactly one entry is added to the column, even if the text is not a value.

use crate::formats::Fault;
use crate::formats::json::shorten;
use crate::formats::json::{Column, nanos_per, put, scalar};
use arrow::datatypes::TimeUnit;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Appends a value that is not NULL.
pub fn append(column: &mut Column, text: &str, scratch: &mut String) -> Result<(), Fault> {
    let value = text.trim_ascii();
    match column {
        Column::Utf8(b) => {
            b.append_value(text);
            Ok(())
        }
        Column::Boolean(b) => put(boolean(value), |v| b.append_value(v)),
        Column::Int8(b) => put(integer(value, "TINYINT"), |v| b.append_value(v)),
        Column::Int16(b) => put(integer(value, "SMALLINT"), |v| b.append_value(v)),
        Column::Int32(b) => put(integer(value, "INT"), |v| b.append_value(v)),
        Column::Int64(b) => put(integer(value, "BIGINT"), |v| b.append_value(v)),
        Column::UInt8(b) => put(integer(value, "TINYINT UNSIGNED"), |v| b.append_value(v)),
        Column::UInt16(b) => put(integer(value, "SMALLINT UNSIGNED"), |v| b.append_value(v)),
        Column::UInt32(b) => put(integer(value, "INT UNSIGNED"), |v| b.append_value(v)),
        Column::UInt64(b) => put(integer(value, "BIGINT UNSIGNED"), |v| b.append_value(v)),
        Column::Float32(b) => put(float(value, "FLOAT", f32::is_finite), |v| b.append_value(v)),
        Column::Float64(b) => put(float(value, "DOUBLE", f64::is_finite), |v| b.append_value(v)),
        Column::Decimal(b, precision, scale) => {
            let what = format_args!("DECIMAL({precision}, {scale})").to_string();
            let number = number(value, &what).and_then(|value| scalar::decimal(value, *precision, *scale, scratch));
            put(number, |v| b.append_value(v))
        }
        Column::Binary(b) => put(binary(value), |v| b.append_value(v)),
        Column::Timestamp(b, unit, _) => put(timestamp(value, *unit, scratch), |v| b.append_value(v)),
        Column::Date(b) => {
            let days = scalar::days(value).ok_or_else(|| expected("a date such as 2026-01-31", value));
            put(days, |v| b.append_value(v))
        }
        Column::Time(b, unit) => {
            let nanos = scalar::nanos(value).ok_or_else(|| expected("a time such as 23:59:59", value));
            put(nanos.map(|nanos| nanos / nanos_per(*unit)), |v| b.append_value(v))
        }
        Column::Struct(..) | Column::List(..) | Column::Map(_) => {
            column.append_absent(true);
            Err(Fault::new("a field cannot hold a nested value"))
        }
    }
}

fn expected(what: &str, found: &str) -> Fault {
    Fault::new(format!("expected {what}, found '{}'", shorten(found)))
}

fn boolean(value: &str) -> Result<bool, Fault> {
    match value {
        _ if value.eq_ignore_ascii_case("true") => Ok(true),
        _ if value.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(expected("true or false", value)),
    }
}

/// Returns the text if it can be a number.
fn number<'a>(value: &'a str, what: &str) -> Result<&'a str, Fault> {
    let is_number = scalar::is_number(value)
        && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    if is_number { Ok(value) } else { Err(expected(what, value)) }
}

fn integer<T: TryFrom<i128>>(value: &str, what: &str) -> Result<T, Fault> {
    number(value, what).and_then(|value| scalar::narrow(value, what))
}

fn float<T: std::str::FromStr + Copy>(value: &str, what: &str, is_finite: impl Fn(T) -> bool) -> Result<T, Fault> {
    let parsed: T = number(value, what)?.parse().map_err(|_| expected(what, value))?;
    if is_finite(parsed) {
        Ok(parsed)
    } else {
        Err(Fault::new(format!("{} is out of range for {what}", shorten(value))))
    }
}

fn binary(value: &str) -> Result<Vec<u8>, Fault> {
    STANDARD.decode(value).map_err(|error| Fault::new(format!("{}: {error}", expected("base64", value))))
}

/// Parses a timestamp; a text of digits only is milliseconds since the epoch.
fn timestamp(value: &str, unit: TimeUnit, scratch: &mut String) -> Result<i64, Fault> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return scalar::timestamp(value, unit, scratch);
    }
    let what = "a timestamp such as 2026-01-01T00:00:00, or epoch milliseconds";
    let time = scalar::time(value).ok_or_else(|| expected(what, value))?;
    scalar::in_unit(time, unit).ok_or_else(|| Fault::new(format!("{} is out of range for TIMESTAMP", shorten(value))))
}
