//! Texts: `REGEXP_EXTRACT`, `SPLIT_INDEX`, `LOCATE`.
//!
//! Sources: Flink's string functions, and Spark's where the two agree.

use super::{Columns, Last, at, texts};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{Result, exec_err};
use regex::Regex;
use std::sync::Arc;

pub fn all() -> Vec<Columns> {
    vec![
        Columns::new("regexp_extract(text, pattern [, group])", (2, 3), DataType::Utf8, regexp_extract),
        Columns::new("split_index(text, delimiter, index)", (3, 3), DataType::Utf8, split_index),
        Columns::new("locate(part, text [, from])", (2, 3), DataType::Int64, locate),
    ]
}

/// Returns a whole number per row; `default` if the argument is left out.
fn numbers(columns: &[ArrayRef], place: usize, default: i64, rows: usize) -> Result<Int64Array> {
    match columns.get(place) {
        Some(column) => Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
        None => Ok(Int64Array::from(vec![default; rows])),
    }
}

/// Returns a group of the first match; NULL without a match. Group 0 is the whole match. The default is 1, or 0 if
/// the pattern has no group.
fn regexp_extract(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (text, pattern) = (texts(&columns[0])?, texts(&columns[1])?);
    let groups = numbers(columns, 2, -1, rows)?;
    let mut last = Last(None);
    let mut found: Vec<Option<String>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let (Some(text), Some(pattern), true) = (at(&text, row), at(&pattern, row), groups.is_valid(row)) else {
            found.push(None);
            continue;
        };
        let regex = last.get(pattern, |pattern| match Regex::new(pattern) {
            Ok(regex) => Ok(regex),
            Err(error) => exec_err!("regexp_extract: {error}"),
        })?;
        let count = regex.captures_len();
        let group = match groups.value(row) {
            -1 => count.min(2) - 1,
            group if group < 0 || group as usize >= count => {
                return exec_err!("regexp_extract: '{pattern}' has {} groups, there is no group {group}", count - 1);
            }
            group => group as usize,
        };
        let captured = regex.captures(text).and_then(|captures| captures.get(group).map(|group| group.as_str().into()));
        found.push(captured);
    }
    Ok(Arc::new(StringArray::from(found)))
}

/// Returns the part at an index, from 0, of a text split at a delimiter; NULL if there is no such part.
fn split_index(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (text, delimiter) = (texts(&columns[0])?, texts(&columns[1])?);
    let indexes = numbers(columns, 2, 0, rows)?;
    let part = |row: usize| {
        let (text, delimiter) = (at(&text, row)?, at(&delimiter, row)?);
        let index = usize::try_from(indexes.is_valid(row).then(|| indexes.value(row))?).ok()?;
        match delimiter.is_empty() {
            true => None,
            false => text.split(delimiter).nth(index),
        }
    };
    Ok(Arc::new((0..rows).map(part).collect::<StringArray>()))
}

/// Returns the place of a part in a text, in characters from 1; 0 if the text does not contain it.
fn locate(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let (part, text) = (texts(&columns[0])?, texts(&columns[1])?);
    let from = numbers(columns, 2, 1, rows)?;
    let place = |row: usize| {
        let (part, text) = (at(&part, row)?, at(&text, row)?);
        let skipped = usize::try_from(from.is_valid(row).then(|| from.value(row))?.checked_sub(1)?).ok();
        let Some(skipped) = skipped else { return Some(0) };
        let start = text.char_indices().nth(skipped).map_or(text.len(), |(start, _)| start);
        let found = text[start..].find(part);
        Some(found.map_or(0, |found| (text[..start + found].chars().count() + 1) as i64))
    };
    Ok(Arc::new((0..rows).map(place).collect::<Int64Array>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn ints(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn one(result: Result<ArrayRef>) -> Option<String> {
        let array = result.unwrap();
        let text = texts(&array).unwrap();
        at(&text, 0).map(str::to_string)
    }

    #[test]
    fn groups_of_patterns() {
        let url = strings(&["https://x/?channel_id=abc&y"]);
        let pattern = strings(&["(&|\\?)channel_id=([^&]*)"]);
        assert_eq!(one(regexp_extract(&[url.clone(), pattern.clone(), ints(&[2])], 1)).as_deref(), Some("abc"));
        assert_eq!(one(regexp_extract(&[url.clone(), pattern.clone()], 1)).as_deref(), Some("?"));
        assert_eq!(one(regexp_extract(&[strings(&["x"]), pattern.clone(), ints(&[2])], 1)), None);
        assert_eq!(one(regexp_extract(&[url.clone(), strings(&["abc"])], 1)).as_deref(), Some("abc"));
        let error = regexp_extract(&[url.clone(), pattern, ints(&[3])], 1).unwrap_err().to_string();
        assert!(error.contains("there is no group 3"), "{error}");
        assert!(regexp_extract(&[url, strings(&["("])], 1).is_err());
    }

    #[test]
    fn parts_and_places() {
        let url = strings(&["https://www.a.b/c/d"]);
        let part = |index| one(split_index(&[url.clone(), strings(&["/"]), ints(&[index])], 1));
        assert_eq!((part(3).as_deref(), part(1).as_deref()), (Some("c"), Some("")));
        assert_eq!((part(9), part(-1)), (None, None));
        let place = |part: &str, from| one(locate(&[strings(&[part]), strings(&["añb añb"]), ints(&[from])], 1));
        assert_eq!((place("b", 1).as_deref(), place("b", 4).as_deref()), (Some("3"), Some("7")));
        assert_eq!((place("z", 1).as_deref(), place("a", 0).as_deref()), (Some("0"), Some("0")));
    }
}
