//! JSON in texts: `JSON_VALUE`, `JSON_QUERY`, `JSON_EXISTS`, `GET_JSON_OBJECT`.
//!
//! Paths are JSONPath (RFC 9535), with or without SQL's `lax` before them. The result is NULL if the text is not JSON.

use super::{Columns, Last, at, texts};
use datafusion::arrow::array::{ArrayRef, BooleanArray, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use serde_json::Value;
use serde_json_path::JsonPath;
use std::sync::Arc;

pub fn all() -> Vec<Columns> {
    vec![
        Columns::new("json_value(json, path)", (2, 2), DataType::Utf8, |columns, rows| strings(columns, rows, scalar)),
        Columns::new("json_query(json, path)", (2, 2), DataType::Utf8, |columns, rows| strings(columns, rows, nested)),
        Columns::new("get_json_object(json, path)", (2, 2), DataType::Utf8, |columns, rows| {
            strings(columns, rows, |value| scalar(value).or_else(|| nested(value)))
        }),
        Columns::new("json_exists(json, path)", (2, 2), DataType::Boolean, exists),
    ]
}

/// Returns a text, number or boolean as text; `None` for others.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns an object or list as JSON; `None` for others.
fn nested(value: &Value) -> Option<String> {
    matches!(value, Value::Array(_) | Value::Object(_)).then(|| value.to_string())
}

/// Applies `found` in every row to the first value that the path finds. `None`: an argument is NULL, or the text no JSON.
fn each<T>(columns: &[ArrayRef], rows: usize, found: impl Fn(Option<&Value>) -> Option<T>) -> Result<Vec<Option<T>>> {
    let (json, paths) = (texts(&columns[0])?, texts(&columns[1])?);
    let mut last = Last(None);
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        let (Some(json), Some(path)) = (at(&json, row), at(&paths, row)) else {
            values.push(None);
            continue;
        };
        let path = last.get(path, parse)?;
        let value: Option<Value> = serde_json::from_str(json).ok();
        values.push(value.as_ref().and_then(|value| found(path.query(value).first())));
    }
    Ok(values)
}

fn parse(path: &str) -> Result<JsonPath> {
    let plain = path.trim().strip_prefix("lax ").unwrap_or(path).trim();
    match JsonPath::parse(plain) {
        Ok(path) => Ok(path),
        Err(error) => exec_err!("'{path}' is not a JSON path: {error}; write '$.name' or '$.list[0].name'"),
    }
}

fn strings(columns: &[ArrayRef], rows: usize, of: fn(&Value) -> Option<String>) -> Result<ArrayRef> {
    Ok(Arc::new(StringArray::from(each(columns, rows, |value| value.and_then(of))?)))
}

fn exists(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    Ok(Arc::new(BooleanArray::from(each(columns, rows, |value| Some(value.is_some()))?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(function: &str, json: &str, path: &str) -> Result<Option<String>> {
        let column = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        let function = all().into_iter().find(|known| known.name == function).unwrap();
        let found = (function.run)(&[column(json), column(path)], 1)?;
        Ok(at(&texts(&found)?, 0).map(str::to_string))
    }

    #[test]
    fn what_a_path_finds() {
        let json = r#"{"a": {"b": [1, "two", {"c": true}]}, "n": null}"#;
        let value = |path| of("json_value", json, path).unwrap();
        assert_eq!(value("$.a.b[1]").as_deref(), Some("two"));
        assert_eq!(value("lax $.a.b[0]").as_deref(), Some("1"));
        assert_eq!((value("$.a"), value("$.n"), value("$.x")), (None, None, None));
        assert_eq!(of("json_query", json, "$.a.b[2]").unwrap().as_deref(), Some(r#"{"c":true}"#));
        assert_eq!(of("get_json_object", json, "$.a.b[2].c").unwrap().as_deref(), Some("true"));
        assert_eq!(of("json_exists", json, "$.n").unwrap().as_deref(), Some("true"));
        assert_eq!(of("json_exists", json, "$.x").unwrap().as_deref(), Some("false"));
        assert_eq!(of("json_exists", "no json", "$.x").unwrap(), None);
        assert!(of("json_value", json, "a b").unwrap_err().to_string().contains("is not a JSON path"));
    }
}
