//! Parsing single JSON values to Arrow's native values.
//!
//! Owns: which texts are numbers, decimals, times. Does not own: arrays, objects.
//! Faults say what was expected and what was found; the caller adds the column.

use super::scan::{shorten, unescape};
use crate::formats::Fault;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::TimeUnit;
use chrono::{DateTime, NaiveDate, NaiveTime, Timelike, Utc};

/// Returns the fault of a value that is not `what`.
pub fn expected(what: &str, value: &str) -> Fault {
    let found = match value.as_bytes().first() {
        Some(b'"') => "string",
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    };
    Fault::new(format!("expected {what}, found {found} {}", shorten(value)))
}

/// Returns whether a value begins like a number.
pub fn is_number(value: &str) -> bool {
    matches!(value.as_bytes().first(), Some(b'-' | b'0'..=b'9'))
}

/// Returns the content of a string value; if it has escapes, they are resolved into `scratch`.
pub fn string<'a>(value: &'a str, scratch: &'a mut String) -> Result<&'a str, Fault> {
    let inside =
        value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(|| expected("a string", value))?;
    if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
        return Ok(inside);
    }
    unescape(inside, scratch)?;
    Ok(scratch)
}

/// Any value as a text: the inside of a string, and the JSON of everything else, as written but for white space.
pub fn text<'a>(value: &'a str, scratch: &'a mut String) -> Result<&'a str, Fault> {
    match value.as_bytes().first() {
        Some(b'"') => string(value, scratch),
        Some(b'{' | b'[') => Ok(compact(value, scratch)),
        _ => Ok(value),
    }
}

/// The text of an object or array without white space outside of strings.
fn compact<'a>(value: &'a str, scratch: &'a mut String) -> &'a str {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    if !value.as_bytes().iter().any(is_space) {
        return value;
    }
    scratch.clear();
    let (mut in_string, mut is_escaped) = (false, false);
    for character in value.chars() {
        if !in_string && matches!(character, ' ' | '\n' | '\r' | '\t') {
            continue;
        }
        in_string ^= character == '"' && !is_escaped;
        is_escaped = in_string && character == '\\' && !is_escaped;
        scratch.push(character);
    }
    scratch
}

pub fn boolean(value: &str) -> Result<bool, Fault> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(expected("true or false", other)),
    }
}

/// Parses an integer, which may be written as `1.0` or `1e3` if nothing is lost. `what` names the SQL type.
pub fn integer(value: &str, what: &str) -> Result<i128, Fault> {
    if !is_number(value) {
        return Err(expected(what, value));
    }
    if let Ok(number) = value.parse::<i64>() {
        return Ok(i128::from(number));
    }
    // 38 digits cover every integer type. A remaining fraction is an error and never rounded.
    match scaled(value, 0)? {
        Some((number, true)) => Ok(number),
        Some((_, false)) => Err(expected(what, value)),
        None => Err(Fault::new(format!("{} is out of range for {what}", shorten(value)))),
    }
}

/// Parses an integer of the type `T`. `what` names the SQL type.
pub fn narrow<T: TryFrom<i128>>(value: &str, what: &str) -> Result<T, Fault> {
    T::try_from(integer(value, what)?).map_err(|_| Fault::new(format!("{} is out of range for {what}", shorten(value))))
}

pub fn double(value: &str) -> Result<f64, Fault> {
    if !is_number(value) {
        return Err(expected("DOUBLE", value));
    }
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(Fault::new(format!("{} is out of range for DOUBLE", shorten(value)))),
    }
}

pub fn float(value: &str) -> Result<f32, Fault> {
    if !is_number(value) {
        return Err(expected("FLOAT", value));
    }
    match value.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(Fault::new(format!("{} is out of range for FLOAT", shorten(value)))),
    }
}

/// Parses a decimal from a number, or from a string that contains one. Digits beyond the scale are rounded half away
/// from zero.
pub fn decimal(value: &str, precision: u8, scale: i8, scratch: &mut String) -> Result<i128, Fault> {
    let text = if is_number(value) { value } else { string(value, scratch).map_err(|_| expected("DECIMAL", value))? };
    let out_of_range = || Fault::new(format!("{} is out of range for DECIMAL({precision}, {scale})", shorten(value)));
    let (number, _) = scaled(text, i32::from(scale))
        .map_err(|_| expected(&format!("DECIMAL({precision}, {scale})"), value))?
        .ok_or_else(out_of_range)?;
    let limit = 10i128.checked_pow(u32::from(precision)).ok_or_else(out_of_range)?;
    if number.abs() >= limit { Err(out_of_range()) } else { Ok(number) }
}

/// Returns a decimal number times 10^`scale`, and whether the result is exact; `None` if it does not fit into 128 bits.
fn scaled(text: &str, scale: i32) -> Result<Option<(i128, bool)>, Fault> {
    let malformed = || Fault::new(format!("{} is not a number", shorten(text)));
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().map_err(|_| malformed())?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if whole.len() + fraction.len() == 0 || !all().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    // Number of digits to keep: those before the point, after shifting it by exponent and scale.
    let keep = i64::try_from(whole.len())
        .unwrap_or(i64::MAX)
        .saturating_add(i64::from(exponent))
        .saturating_add(i64::from(scale));
    let mut number: i128 = 0;
    let mut exact = true;
    for (index, byte) in (0i64..).zip(all()) {
        let digit = i128::from(byte - b'0');
        if index < keep {
            match number.checked_mul(10).and_then(|number| number.checked_add(digit)) {
                Some(next) => number = next,
                None => return Ok(None),
            }
        } else {
            exact &= digit == 0;
            if index == keep && digit >= 5 {
                number += 1;
            }
        }
    }
    let count = i64::try_from(whole.len() + fraction.len()).unwrap_or(i64::MAX);
    if number != 0 {
        for _ in count..keep {
            match number.checked_mul(10) {
                Some(next) => number = next,
                None => return Ok(None),
            }
        }
    }
    Ok(Some((if negative { -number } else { number }, exact)))
}

/// Parses a timestamp in `unit` since the epoch. A number is always milliseconds, a string is ISO-8601 or SQL text, in
/// UTC unless it has a zone. Digits finer than the unit are cut.
pub fn timestamp(value: &str, unit: TimeUnit, scratch: &mut String) -> Result<i64, Fault> {
    let out_of_range = || Fault::new(format!("{} is out of range for TIMESTAMP", shorten(value)));
    if is_number(value) {
        let millis: i64 = narrow(value, "a timestamp (epoch milliseconds or text)")?;
        // A time outside the calendar's range could not be written again.
        DateTime::from_timestamp_millis(millis).ok_or_else(out_of_range)?;
        return match unit {
            TimeUnit::Second => Ok(millis.div_euclid(1000)),
            TimeUnit::Millisecond => Ok(millis),
            TimeUnit::Microsecond => millis.checked_mul(1000).ok_or_else(out_of_range),
            TimeUnit::Nanosecond => millis.checked_mul(1_000_000).ok_or_else(out_of_range),
        };
    }
    let what = "a timestamp (epoch milliseconds or text such as '2026-01-01T00:00:00Z')";
    let text = string(value, scratch).map_err(|_| expected(what, value))?;
    let time = time(text).ok_or_else(|| expected(what, value))?;
    in_unit(time, unit).ok_or_else(out_of_range)
}

/// Parses an ISO-8601 or SQL text, in UTC unless it has a zone; `None` if it is not a time.
pub fn time(text: &str) -> Option<DateTime<Utc>> {
    string_to_datetime(&Utc, text.trim()).ok()
}

/// Returns a time in `unit` since the epoch, finer digits cut; `None` if it does not fit into 64 bits.
pub fn in_unit(time: DateTime<Utc>, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => Some(time.timestamp()),
        TimeUnit::Millisecond => Some(time.timestamp_millis()),
        TimeUnit::Microsecond => Some(time.timestamp_micros()),
        TimeUnit::Nanosecond => time.timestamp_nanos_opt(),
    }
}

/// Returns days since the epoch, from a JSON string `YYYY-MM-DD`.
pub fn date(value: &str, scratch: &mut String) -> Result<i32, Fault> {
    let what = "a date such as '2026-01-31'";
    let text = string(value, scratch).map_err(|_| expected(what, value))?;
    days(text).ok_or_else(|| expected(what, value))
}

/// Returns days since the epoch, from the text `YYYY-MM-DD`; `None` if it is not a date.
pub fn days(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from((date - NaiveDate::default()).num_days()).ok()
}

/// Returns nanoseconds since midnight, from a JSON string `HH:MM[:SS[.fff]]`.
pub fn time_nanos(value: &str, scratch: &mut String) -> Result<i64, Fault> {
    let what = "a time such as '23:59:59'";
    let text = string(value, scratch).map_err(|_| expected(what, value))?;
    nanos(text).ok_or_else(|| expected(what, value))
}

/// Returns nanoseconds since midnight, from the text `HH:MM[:SS[.fff]]`; `None` if it is not a time.
pub fn nanos(text: &str) -> Option<i64> {
    let time = NaiveTime::parse_from_str(text, "%H:%M:%S%.f").or_else(|_| NaiveTime::parse_from_str(text, "%H:%M"));
    let time = time.ok()?;
    Some(i64::from(time.num_seconds_from_midnight()) * 1_000_000_000 + i64::from(time.nanosecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_lose_nothing() {
        let cases = [("1", Some(1)), ("-7", Some(-7)), ("1.0", Some(1)), ("1e3", Some(1000)), ("120e-1", Some(12))];
        for (text, want) in cases {
            assert_eq!(integer(text, "INT").ok(), want, "{text}");
        }
        for text in ["1.5", "\"1\"", "true", "1e-1", "1e99", "{}"] {
            assert!(integer(text, "INT").is_err(), "{text}");
        }
        assert_eq!(narrow::<i64>("9223372036854775807", "BIGINT"), Ok(i64::MAX));
        assert!(
            narrow::<i64>("9223372036854775808", "BIGINT").unwrap_err().to_string().contains("out of range for BIGINT")
        );
        assert!(narrow::<i8>("128", "TINYINT").unwrap_err().to_string().contains("out of range for TINYINT"));
    }

    #[test]
    fn decimals_round_and_refuse_overflow() {
        let mut scratch = String::new();
        let mut decimal = |text: &str| decimal(text, 5, 2, &mut scratch);
        assert_eq!(decimal("1.5"), Ok(150));
        assert_eq!(decimal("\"-1.005\""), Ok(-101));
        assert_eq!(decimal("1e2"), Ok(10000));
        assert_eq!(decimal("0.0049"), Ok(0));
        assert_eq!(decimal("999.99"), Ok(99999));
        assert!(decimal("999.995").unwrap_err().to_string().contains("out of range for DECIMAL(5, 2)"));
        assert!(decimal("\"abc\"").unwrap_err().to_string().contains("expected DECIMAL"));
        assert!(decimal("1e2000000000").is_err());
        assert_eq!(decimal("0e2000000000"), Ok(0));
    }

    #[test]
    fn timestamps_in_every_spelling() {
        let mut scratch = String::new();
        let day = 1_767_225_600_000;
        let cases = [
            ("\"2026-01-01T00:00:00Z\"", day),
            ("\"2026-01-01 00:00:00\"", day),
            ("\"2026-01-01T00:00:00.123456\"", day + 123),
            ("\"2026-01-01T02:00:00+02:00\"", day),
            ("\"2026-01-01\"", day),
            ("1767225600000", day),
            ("-1", -1),
        ];
        for (text, want) in cases {
            assert_eq!(timestamp(text, TimeUnit::Millisecond, &mut scratch), Ok(want), "{text}");
        }
        assert_eq!(timestamp("5", TimeUnit::Microsecond, &mut scratch), Ok(5000));
        assert_eq!(timestamp("5", TimeUnit::Nanosecond, &mut scratch), Ok(5_000_000));
        for text in ["\"yesterday\"", "1.5", "true", "\"\""] {
            assert!(timestamp(text, TimeUnit::Millisecond, &mut scratch).is_err(), "{text}");
        }
        assert!(timestamp("9223372036854775807", TimeUnit::Nanosecond, &mut scratch).is_err());
        assert!(timestamp("17671767261600123", TimeUnit::Millisecond, &mut scratch).is_err());
        assert_eq!(timestamp("253402300800000", TimeUnit::Millisecond, &mut scratch), Ok(253_402_300_800_000));
    }

    #[test]
    fn dates_and_times() {
        let mut scratch = String::new();
        assert_eq!(date("\"1970-01-02\"", &mut scratch), Ok(1));
        assert!(date("\"1970-13-02\"", &mut scratch).is_err());
        assert_eq!(time_nanos("\"00:00:01.5\"", &mut scratch), Ok(1_500_000_000));
        assert!(time_nanos("\"25:00:00\"", &mut scratch).is_err());
    }
}
