//! `to_char(timestamp, pattern)` with PostgreSQL's patterns, and with chrono's where there is a `%`.
//!
//! Owns: PostgreSQL's template patterns for dates and times.
//! <https://www.postgresql.org/docs/current/functions-formatting.html>
//! Does not own: Java's patterns (`dates`). Times are UTC. Invariant: a letter that is no pattern is an error, not text;
//! text stands in double quotes.

use super::dates::{time, times};
use super::{Columns, Last, at, texts};
use chrono::format::{Item, StrftimeItems};
use chrono::{Datelike, NaiveDateTime, Timelike};
use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use std::fmt::Write;
use std::sync::Arc;

pub fn all() -> Vec<Columns> {
    vec![Columns::new("to_char(timestamp, pattern)", (2, 2), DataType::Utf8, to_char)]
}

/// A pattern, ready to use.
enum Pattern {
    Chrono(Vec<Item<'static>>),
    Postgres(Vec<Piece>),
}

fn to_char(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    if columns[0].data_type().is_numeric() {
        return exec_err!("to_char takes a date or time; for a number, CAST(x AS STRING)");
    }
    let (column, patterns) = (times(&columns[0])?, texts(&columns[1])?);
    let mut last: Last<Pattern> = Last(None);
    let mut found: Vec<Option<String>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let Some(pattern) = at(&patterns, row) else {
            found.push(None);
            continue;
        };
        // A wrong pattern is an error beside any time, so that a constant one is found before there are rows.
        let pattern = last.get(pattern, parse)?;
        found.push(time(&column, row).map(|time| match pattern {
            Pattern::Chrono(items) => time.format_with_items(items.iter()).to_string(),
            Pattern::Postgres(pieces) => pieces.iter().map(|piece| piece.of(time)).collect(),
        }));
    }
    Ok(Arc::new(StringArray::from(found)))
}

fn parse(pattern: &str) -> Result<Pattern> {
    if !pattern.contains('%') {
        return pieces(pattern).map(Pattern::Postgres);
    }
    match StrftimeItems::new(pattern).parse_to_owned() {
        Ok(items) => Ok(Pattern::Chrono(items)),
        Err(error) => exec_err!("to_char: '{pattern}': {error}"),
    }
}

/// A part of a pattern.
enum Piece {
    Text(String),
    /// A template pattern, by its place in [`TEMPLATES`].
    Template {
        name: &'static str,
        case: Case,
        fills: bool,
    },
}

/// How a name is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Upper,
    Title,
    Lower,
}

/// Template patterns in upper case, longer ones before those they begin with.
const TEMPLATES: [&str; 31] = [
    "YYYY", "YYY", "YY", "Y", "MONTH", "MON", "MM", "MI", "MS", "US", "DDD", "DD", "DAY", "DY", "D", "HH24", "HH12",
    "HH", "SSSSS", "SSSS", "SS", "IYYY", "IDDD", "IW", "ID", "WW", "W", "Q", "CC", "AM", "PM",
];

fn pieces(pattern: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    let mut fills = true;
    while let Some(letter) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some((text, after)) = quoted.split_once('"') else {
                return exec_err!("to_char: a double quote in '{pattern}' is not closed");
            };
            pieces.push(Piece::Text(text.into()));
            rest = after;
            continue;
        }
        if !letter.is_ascii_alphabetic() {
            pieces.push(Piece::Text(letter.into()));
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        if let Some(after) = rest.strip_prefix("FM").or(rest.strip_prefix("fm")) {
            (rest, fills) = (after, false);
            continue;
        }
        let begins = |name: &&&str| rest.get(..name.len()).is_some_and(|text| text.eq_ignore_ascii_case(name));
        let Some(name) = TEMPLATES.iter().find(begins) else {
            return exec_err!(
                "to_char: '{letter}' in '{pattern}' is not a pattern; text stands in double quotes, patterns are those of \
                 PostgreSQL: YYYY MM DD HH24 HH12 MI SS MS US AM Month Mon Day Dy DDD D IW WW Q"
            );
        };
        pieces.push(Piece::Template { name, case: case(&rest[..name.len()]), fills });
        (rest, fills) = (&rest[name.len()..], true);
    }
    Ok(pieces)
}

fn case(text: &str) -> Case {
    let mut letters = text.chars().map(|letter| letter.is_ascii_uppercase());
    match (letters.next(), letters.next()) {
        (Some(true), Some(true)) => Case::Upper,
        (Some(true), _) => Case::Title,
        _ => Case::Lower,
    }
}

impl Piece {
    fn of(&self, time: NaiveDateTime) -> String {
        let (name, case, fills) = match self {
            Self::Text(text) => return text.clone(),
            Self::Template { name, case, fills } => (*name, *case, *fills),
        };
        let number = |value: i64, width: usize| if fills { format!("{value:0width$}") } else { value.to_string() };
        let (year, week) = (i64::from(time.year()), time.iso_week());
        // PostgreSQL pads names to the longest one.
        let named = |text: String| {
            let text = match case {
                Case::Upper => text.to_uppercase(),
                Case::Title => text,
                Case::Lower => text.to_lowercase(),
            };
            if fills && matches!(name, "MONTH" | "DAY") { format!("{text:9}") } else { text }
        };
        let formatted = |pattern: &str| {
            let mut text = String::new();
            // Writing to a text never fails.
            let _ = write!(text, "{}", time.format(pattern));
            text
        };
        match name {
            "YYYY" => number(year, 4),
            "YYY" => number(year.rem_euclid(1000), 3),
            "YY" => number(year.rem_euclid(100), 2),
            "Y" => number(year.rem_euclid(10), 1),
            "MONTH" => named(formatted("%B")),
            "MON" => named(formatted("%b")),
            "MM" => number(time.month().into(), 2),
            "DAY" => named(formatted("%A")),
            "DY" => named(formatted("%a")),
            "DDD" => number(time.ordinal().into(), 3),
            "DD" => number(time.day().into(), 2),
            "D" => number(i64::from(time.weekday().num_days_from_sunday()) + 1, 1),
            "HH24" => number(time.hour().into(), 2),
            "HH12" | "HH" => number(time.hour12().1.into(), 2),
            "MI" => number(time.minute().into(), 2),
            "SS" => number(time.second().into(), 2),
            "SSSSS" | "SSSS" => number(time.num_seconds_from_midnight().into(), 1),
            "MS" => number(i64::from(time.nanosecond() / 1_000_000), 3),
            "US" => number(i64::from(time.nanosecond() / 1_000), 6),
            "IYYY" => number(week.year().into(), 4),
            "IW" => number(week.week().into(), 2),
            "ID" => number(time.weekday().number_from_monday().into(), 1),
            "IDDD" => number(i64::from(week.week0()) * 7 + i64::from(time.weekday().number_from_monday()), 3),
            "WW" => number(i64::from(time.ordinal0() / 7) + 1, 2),
            "W" => number(i64::from((time.day() - 1) / 7) + 1, 1),
            "Q" => number(i64::from((time.month() - 1) / 3) + 1, 1),
            "CC" => number((year + 99).div_euclid(100), 2),
            _ => {
                let half = if time.hour() < 12 { "AM" } else { "PM" };
                if case == Case::Lower { half.to_lowercase() } else { half.into() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pattern: &str) -> String {
        let time: ArrayRef = Arc::new(StringArray::from(vec!["2026-03-07T15:04:05.678"]));
        let pattern: ArrayRef = Arc::new(StringArray::from(vec![pattern]));
        match to_char(&[time, pattern], 1) {
            Ok(found) => at(&texts(&found).unwrap(), 0).unwrap_or("NULL").into(),
            Err(error) => error.strip_backtrace(),
        }
    }

    /// Expected: PostgreSQL 17's answers.
    #[test]
    fn postgres_patterns() {
        for (pattern, expected) in [
            ("YYYY-MM-DD HH24:MI:SS.MS", "2026-03-07 15:04:05.678"),
            ("yyyy/mm/dd HH12:mi:ss am US", "2026/03/07 03:04:05 pm 678000"),
            ("Day, DD. FMMonth YYYY", "Saturday , 07. March 2026"),
            ("Dy DY dy Mon MON mon FMDD FMMM", "Sat SAT sat Mar MAR mar 7 3"),
            ("DDD D ID IW IYYY WW W Q CC", "066 7 6 10 2026 10 1 1 21"),
            ("\"year\" YY SSSSS", "year 26 54245"),
            ("%Y!", "2026!"),
        ] {
            assert_eq!(of(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert!(of("YYYY-XX").contains("'X' in 'YYYY-XX' is not a pattern"));
        assert!(of("\"year").contains("is not closed"));
    }
}
