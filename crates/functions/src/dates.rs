//! Times: `DATE_FORMAT`, `HOUR`, `MINUTE` and the like, `TIMESTAMPDIFF`, `TIMESTAMPADD`, `UNIX_TIMESTAMP`.
//!
//! Patterns are Java's, as Spark and Flink have them; all times are UTC.

use super::{Columns, Last, at, texts};
use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, TimeDelta};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use datafusion::arrow::compute::{DatePart, cast, date_part};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{Result, exec_err};
use std::sync::Arc;

const MICROS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

pub fn all() -> Vec<Columns> {
    let utc = DataType::Timestamp(TimeUnit::Millisecond, Some(crate::UTC.into()));
    vec![
        Columns::new("date_format(timestamp, pattern)", (2, 2), DataType::Utf8, date_format),
        Columns::new("year(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Year)),
        Columns::new("quarter(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Quarter)),
        Columns::new("month(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Month)),
        Columns::new("week(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Week)).alias("weekofyear"),
        Columns::new("dayofyear(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::DayOfYear)),
        Columns::new("dayofmonth(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Day)).alias("day"),
        // Sunday is 1, as in Spark and Flink.
        Columns::new("dayofweek(timestamp)", (1, 1), DataType::Int64, |c, _| {
            let from_zero = part(c, DatePart::DayOfWeekSunday0)?;
            Ok(Arc::new(from_zero.as_primitive::<Int64Type>().unary::<_, Int64Type>(|day| day + 1)))
        }),
        Columns::new("hour(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Hour)),
        Columns::new("minute(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Minute)),
        Columns::new("second(timestamp)", (1, 1), DataType::Int64, |c, _| part(c, DatePart::Second)),
        Columns::new("unix_timestamp(timestamp)", (1, 1), DataType::Int64, unix_timestamp),
        Columns::new("to_timestamp_ltz(number, precision)", (2, 2), utc, to_timestamp_ltz),
        Columns::new("timestampdiff(unit, from, to)", (3, 3), DataType::Int64, timestampdiff),
        // The functions of datafusion-spark take only INT, but a literal is a BIGINT.
        Columns::new("date_add(date, days)", (2, 2), DataType::Date32, |c, _| add_days(c, 1)).alias("dateadd"),
        Columns::new("date_sub(date, days)", (2, 2), DataType::Date32, |c, _| add_days(c, -1)),
        Columns::new("timestampadd(unit, count, timestamp)", (3, 3), MICROS, timestampadd),
        Columns::new("make_timestamp(year, month, day, hour, minute, second)", (6, 6), MICROS, make_timestamp),
    ]
}

fn part(columns: &[ArrayRef], part: DatePart) -> Result<ArrayRef> {
    Ok(cast(&date_part(&times(&columns[0])?, part)?, &DataType::Int64)?)
}

/// Adds days to a date, or subtracts them if `sign` is −1; NULL if there is no such date.
fn add_days(columns: &[ArrayRef], sign: i64) -> Result<ArrayRef> {
    let dates = cast(&columns[0], &DataType::Date32)?;
    let days = cast(&columns[1], &DataType::Int64)?;
    let (dates, days) = (dates.as_primitive::<Date32Type>(), days.as_primitive::<Int64Type>());
    let sum = |(date, days): (Option<i32>, Option<i64>)| {
        i32::try_from(i64::from(date?).checked_add(days?.checked_mul(sign)?)?).ok()
    };
    Ok(Arc::new(dates.iter().zip(days).map(sum).collect::<Date32Array>()))
}

/// Returns a column as timestamps; NULL for a text that is not a time.
pub(crate) fn times(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(column, &MICROS)?)
}

pub(crate) fn time(times: &ArrayRef, row: usize) -> Option<NaiveDateTime> {
    let times = times.as_primitive::<TimestampMicrosecondType>();
    times.is_valid(row).then(|| DateTime::from_timestamp_micros(times.value(row)).map(|time| time.naive_utc()))?
}

fn date_format(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (column, patterns) = (times(&columns[0])?, texts(&columns[1])?);
    let mut last: Last<Vec<Item<'static>>> = Last(None);
    let mut found: Vec<Option<String>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let Some(pattern) = at(&patterns, row) else {
            found.push(None);
            continue;
        };
        // A wrong pattern is an error beside any time, so that a constant one is found before there are rows.
        let items = last.get(pattern, items)?;
        found.push(time(&column, row).map(|time| time.format_with_items(items.iter()).to_string()));
    }
    Ok(Arc::new(StringArray::from(found)))
}

fn items(pattern: &str) -> Result<Vec<Item<'static>>> {
    match StrftimeItems::new(&chrono_pattern(pattern)?).parse_to_owned() {
        Ok(items) => Ok(items),
        Err(error) => exec_err!("date_format: '{pattern}': {error}"),
    }
}

/// Translates a Java pattern (`java.time.format.DateTimeFormatter`) to chrono's.
pub fn chrono_pattern(pattern: &str) -> Result<String> {
    let mut format = String::new();
    let mut rest = pattern.chars().peekable();
    while let Some(letter) = rest.next() {
        if letter == '\'' {
            let text: String = rest.by_ref().take_while(|letter| *letter != '\'').collect();
            format.push_str(&if text.is_empty() { "'".into() } else { text.replace('%', "%%") });
            continue;
        }
        let mut count = 1;
        while rest.next_if_eq(&letter).is_some() {
            count += 1;
        }
        let specifier = match (letter, count) {
            ('y' | 'u', 2) => "%y",
            ('y' | 'u', _) => "%Y",
            ('M' | 'L', 1) => "%-m",
            ('M' | 'L', 2) => "%m",
            ('M' | 'L', 3) => "%b",
            ('M' | 'L', _) => "%B",
            ('d', 1) => "%-d",
            ('d', _) => "%d",
            ('D', 1) => "%-j",
            ('D', _) => "%j",
            ('E', 1..=3) => "%a",
            ('E', _) => "%A",
            ('H', 1) => "%-H",
            ('H', _) => "%H",
            ('h', 1) => "%-I",
            ('h', _) => "%I",
            ('m', 1) => "%-M",
            ('m', _) => "%M",
            ('s', 1) => "%-S",
            ('s', _) => "%S",
            ('S', 3) => "%3f",
            ('S', 6) => "%6f",
            ('S', 9) => "%9f",
            ('a', _) => "%p",
            (letter, _) if letter.is_ascii_alphabetic() => {
                let letters: String = std::iter::repeat_n(letter, count).collect();
                return exec_err!(
                    "date_format: '{letters}' in '{pattern}' is not known; known are y M d D E H h m s SSS a, and 'text'"
                );
            }
            ('%', _) => "%%",
            (letter, _) => {
                format.extend(std::iter::repeat_n(letter, count));
                continue;
            }
        };
        format.push_str(specifier);
    }
    Ok(format)
}

fn unix_timestamp(columns: &[ArrayRef], _: usize) -> Result<ArrayRef> {
    let micros = times(&columns[0])?;
    let seconds = |micros: i64| micros.div_euclid(1_000_000);
    Ok(Arc::new(micros.as_primitive::<TimestampMicrosecondType>().unary::<_, Int64Type>(seconds)))
}

/// Returns the time of a number of seconds (precision 0) or milliseconds (3) since the Unix epoch.
fn to_timestamp_ltz(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (numbers, precision) = (cast(&columns[0], &DataType::Int64)?, cast(&columns[1], &DataType::Int64)?);
    let (numbers, precision) = (numbers.as_primitive::<Int64Type>(), precision.as_primitive::<Int64Type>());
    let mut found: Vec<Option<i64>> = Vec::with_capacity(rows);
    for row in 0..rows {
        found.push(match (numbers.is_valid(row), precision.is_valid(row).then(|| precision.value(row))) {
            (true, Some(0)) => numbers.value(row).checked_mul(1_000),
            (true, Some(3)) => Some(numbers.value(row)),
            (_, Some(other)) if other != 0 && other != 3 => {
                return exec_err!("to_timestamp_ltz: the precision is 0 (seconds) or 3 (milliseconds), not {other}");
            }
            _ => None,
        });
    }
    Ok(Arc::new(TimestampMillisecondArray::from(found).with_timezone(crate::UTC)))
}

/// Returns the time of these parts; the second may have a fraction, of which microseconds are kept.
/// <https://www.postgresql.org/docs/current/functions-datetime.html>
///
/// # Errors
/// If there is no such time, as in PostgreSQL and DuckDB.
fn make_timestamp(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let whole = columns[..5].iter().map(|column| Ok(cast(column, &DataType::Int64)?)).collect::<Result<Vec<_>>>()?;
    // In whole microseconds, exactly: a DOUBLE would round.
    let seconds = cast(&columns[5], &DataType::Decimal128(20, 6))?;
    let seconds = seconds.as_primitive::<Decimal128Type>();
    let mut found: Vec<Option<i64>> = Vec::with_capacity(rows);
    for row in 0..rows {
        if seconds.is_null(row) || whole.iter().any(|column| column.is_null(row)) {
            found.push(None);
            continue;
        }
        let parts: Vec<i64> = whole.iter().map(|column| column.as_primitive::<Int64Type>().value(row)).collect();
        match micros_of(&parts, seconds.value(row)) {
            Some(micros) => found.push(Some(micros)),
            None => {
                let [year, month, day, hour, minute] = parts[..] else { return exec_err!("make_timestamp") };
                let second = seconds.value_as_string(row);
                return exec_err!("make_timestamp: there is no time {year}-{month}-{day} {hour}:{minute}:{second}");
            }
        }
    }
    Ok(Arc::new(TimestampMicrosecondArray::from(found)))
}

/// Returns microseconds since the Unix epoch; `None` if there is no such time.
fn micros_of(parts: &[i64], micros: i128) -> Option<i64> {
    let [year, month, day, hour, minute] = parts else { return None };
    let part = |part: &i64| u32::try_from(*part).ok();
    let date = NaiveDate::from_ymd_opt(i32::try_from(*year).ok()?, part(month)?, part(day)?)?;
    let (second, fraction) = (u32::try_from(micros.div_euclid(1_000_000)).ok()?, micros.rem_euclid(1_000_000));
    let time = date.and_hms_micro_opt(part(hour)?, part(minute)?, second, u32::try_from(fraction).ok()?)?;
    Some(time.and_utc().timestamp_micros())
}

/// A unit of time.
#[derive(Clone, Copy)]
enum Unit {
    Micros(i64),
    Months(i64),
}

fn unit(name: &str) -> Result<Unit> {
    let name = name.to_ascii_lowercase();
    Ok(match name.strip_suffix('s').unwrap_or(&name) {
        "microsecond" => Unit::Micros(1),
        "millisecond" => Unit::Micros(1_000),
        "second" => Unit::Micros(1_000_000),
        "minute" => Unit::Micros(60_000_000),
        "hour" => Unit::Micros(3_600_000_000),
        "day" => Unit::Micros(86_400_000_000),
        "week" => Unit::Micros(604_800_000_000),
        "month" => Unit::Months(1),
        "quarter" => Unit::Months(3),
        "year" => Unit::Months(12),
        _ => return exec_err!("'{name}' is not a unit of time: SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, QUARTER, YEAR"),
    })
}

/// Returns the whole units from one time to another.
fn timestampdiff(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (units, from, to) = (texts(&columns[0])?, times(&columns[1])?, times(&columns[2])?);
    let mut last = Last(None);
    let mut found: Vec<Option<i64>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let (Some(name), Some(from), Some(to)) = (at(&units, row), time(&from, row), time(&to, row)) else {
            found.push(None);
            continue;
        };
        found.push(match last.get(name, unit)? {
            Unit::Micros(size) => (to - from).num_microseconds().map(|micros| micros / size),
            Unit::Months(size) => Some(months_between(from, to) / size),
        });
    }
    Ok(Arc::new(Int64Array::from(found)))
}

/// Returns the whole months from one time to another, rounded towards zero.
fn months_between(from: NaiveDateTime, to: NaiveDateTime) -> i64 {
    if to < from {
        return -months_between(to, from);
    }
    let months = i64::from(to.year() - from.year()) * 12 + i64::from(to.month()) - i64::from(from.month());
    let begun = (to.day(), to.time()) < (from.day(), from.time());
    months - i64::from(begun)
}

fn timestampadd(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (units, column) = (texts(&columns[0])?, times(&columns[2])?);
    let counts = cast(&columns[1], &DataType::Int64)?;
    let counts = counts.as_primitive::<Int64Type>();
    let mut last = Last(None);
    let mut found: Vec<Option<i64>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let (Some(name), true, Some(time)) = (at(&units, row), counts.is_valid(row), time(&column, row)) else {
            found.push(None);
            continue;
        };
        let moved = add(time, counts.value(row), *last.get(name, unit)?);
        found.push(moved.map(|time| time.and_utc().timestamp_micros()));
    }
    Ok(Arc::new(TimestampMicrosecondArray::from(found)))
}

fn add(time: NaiveDateTime, count: i64, unit: Unit) -> Option<NaiveDateTime> {
    const DAY: i64 = 86_400_000_000;
    match unit {
        Unit::Micros(size) if size % DAY == 0 => {
            let days = Days::new(count.unsigned_abs().checked_mul((size / DAY) as u64)?);
            if count < 0 { time.checked_sub_days(days) } else { time.checked_add_days(days) }
        }
        Unit::Micros(size) => time.checked_add_signed(TimeDelta::microseconds(count.checked_mul(size)?)),
        Unit::Months(size) => {
            let months = Months::new(u32::try_from(count.unsigned_abs().checked_mul(size as u64)?).ok()?);
            if count < 0 { time.checked_sub_months(months) } else { time.checked_add_months(months) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::Float64Array;

    fn text(value: &str) -> ArrayRef {
        Arc::new(StringArray::from(vec![value]))
    }

    fn number(value: i64) -> ArrayRef {
        Arc::new(Int64Array::from(vec![value]))
    }

    fn of(function: &str, columns: &[ArrayRef]) -> String {
        let function = all().into_iter().find(|known| known.name == function).unwrap();
        let found = (function.run)(columns, 1).unwrap();
        assert_eq!(*found.data_type(), function.returns);
        at(&texts(&found).unwrap(), 0).unwrap_or("NULL").into()
    }

    #[test]
    fn javas_patterns() {
        let format = |pattern: &str| of("date_format", &[text("2026-03-07T15:04:05.678"), text(pattern)]);
        assert_eq!(format("yyyy-MM-dd HH:mm:ss.SSS"), "2026-03-07 15:04:05.678");
        assert_eq!(format("yy/M/d h:m:s a"), "26/3/7 3:4:5 PM");
        assert_eq!(format("EEEE, d. MMMM 'of year' yyyy '' 100%"), "Saturday, 7. March of year 2026 ' 100%");
        assert!(items("yyyy-QQ").unwrap_err().to_string().contains("'QQ'"));
    }

    #[test]
    fn parts() {
        let time = [text("2026-03-08T15:04:05.678")];
        let parts =
            ["year", "quarter", "month", "week", "dayofyear", "dayofmonth", "dayofweek", "hour", "minute", "second"];
        let found: Vec<String> = parts.iter().map(|part| of(part, &time)).collect();
        assert_eq!(found, ["2026", "1", "3", "10", "67", "8", "1", "15", "4", "5"]);
        assert_eq!(of("unix_timestamp", &[text("1969-12-31T23:59:59.500")]), "-1");
        assert_eq!(of("to_timestamp_ltz", &[number(1_500), number(3)]), "1970-01-01T00:00:01.500Z");
        assert_eq!(of("to_timestamp_ltz", &[number(1), number(0)]), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn times_of_their_parts() {
        let make = |parts: [i64; 5], second: f64| {
            let columns: Vec<ArrayRef> = parts.into_iter().map(number).collect();
            let second: ArrayRef = Arc::new(Float64Array::from(vec![second]));
            make_timestamp(&[columns, vec![second]].concat(), 1)
                .map(|found| at(&texts(&found).unwrap(), 0).map(str::to_string))
        };
        assert_eq!(make([2024, 2, 29, 6, 30,], 45.887).unwrap().as_deref(), Some("2024-02-29T06:30:45.887"));
        assert_eq!(make([1, 1, 1, 0, 0], 0.000_001).unwrap().as_deref(), Some("0001-01-01T00:00:00.000001"));
        for (parts, second) in [
            ([2023, 2, 29, 0, 0], 0.0),
            ([2024, 13, 1, 0, 0], 0.0),
            ([2024, 1, 1, 24, 0], 0.0),
            ([2024, 1, 1, 0, 60], 0.0),
            ([2024, 1, 1, 0, 0], 60.0),
            ([2024, 1, 1, 0, 0], -1.0),
            ([2024, -1, 1, 0, 0], 0.0),
        ] {
            let error = make(parts, second).unwrap_err().to_string();
            assert!(error.contains(&format!("there is no time {}-{}-{}", parts[0], parts[1], parts[2])), "{error}");
        }
        let null: ArrayRef = Arc::new(Int64Array::from(vec![None::<i64>]));
        let parts: Vec<ArrayRef> = [2024, 1, 1, 0, 0].map(number).into_iter().chain([null]).collect();
        assert!(make_timestamp(&parts, 1).unwrap().is_null(0));
    }

    #[test]
    fn differences_and_sums() {
        let diff = |unit: &str, from: &str, to: &str| of("timestampdiff", &[text(unit), text(from), text(to)]);
        assert_eq!(diff("HOUR", "2026-01-01T00:00:00", "2026-01-02T00:59:00"), "24");
        assert_eq!(diff("month", "2026-01-31T00:00:00", "2026-02-28T00:00:00"), "0");
        assert_eq!(diff("MONTHS", "2026-03-01T00:00:00", "2025-01-01T00:00:00"), "-14");
        let add = |unit: &str, count, time: &str| of("timestampadd", &[text(unit), number(count), text(time)]);
        assert_eq!(add("MONTH", 1, "2026-01-31T00:00:00"), "2026-02-28T00:00:00");
        assert_eq!(add("WEEK", -1, "2026-01-08T00:00:00"), "2026-01-01T00:00:00");
        assert_eq!(add("SECOND", 90, "2026-01-01T00:00:00"), "2026-01-01T00:01:30");
    }
}
