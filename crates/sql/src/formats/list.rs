//! The formats there are.
//!
//! Owns: one declaration each. Does not own: reading and writing them (`formats` in crate `connector-api`).

use super::{FileReader, Format, FormatSpec, OptionKind, OptionScope, OptionSpec};
use datafusion::arrow::datatypes::DataType;

/// All of them, the most usual first.
pub static FORMATS: &[&FormatSpec] = &[&JSON, &CSV, &RAW];

/// An object a record.
pub static JSON: FormatSpec = FormatSpec {
    name: "json",
    options: &[],
    reads: true,
    writes: true,
    keys: true,
    files: Some(FileReader::Json),
    single: false,
    holds: |_| true,
    types: "every type",
    conflict: |_| None,
};

/// A line a record, columns by position.
pub static CSV: FormatSpec = FormatSpec {
    name: "csv",
    options: &[
        OptionSpec {
            name: "csv.delimiter",
            kind: OptionKind::Character,
            default: ",",
            scope: OptionScope::Everywhere,
            about: "what stands between two fields",
        },
        OptionSpec {
            name: "csv.header",
            kind: OptionKind::Flag,
            default: "false",
            scope: OptionScope::Files,
            about: "whether the first line of a file names its columns",
        },
        OptionSpec {
            name: "csv.quote",
            kind: OptionKind::Character,
            default: "\"",
            scope: OptionScope::Everywhere,
            about: "what stands around a field that holds a delimiter, a quote (twice) or an end of line",
        },
        OptionSpec {
            name: "csv.null",
            kind: OptionKind::Text,
            default: "",
            scope: OptionScope::Records,
            about: "the text, without quotes, that is NULL",
        },
    ],
    reads: true,
    writes: true,
    keys: true,
    files: Some(FileReader::Csv),
    single: false,
    holds: |data_type| !data_type.is_nested(),
    types: "every type but ARRAY, MAP and ROW",
    conflict: csv_conflict,
};

fn csv_conflict(format: &Format) -> Option<(&'static str, &'static str)> {
    let syntax = [format.character("csv.delimiter"), format.character("csv.quote"), b'\n', b'\r'];
    if syntax[0] == syntax[1] {
        return Some(("csv.delimiter", "the delimiter and the quote are one character"));
    }
    let is_syntax = format.text("csv.null").bytes().any(|byte| syntax.contains(&byte));
    is_syntax.then_some(("csv.null", "the text of NULL would have to be quoted, and what is quoted is no NULL"))
}

/// The bytes of one column, as they are.
pub static RAW: FormatSpec = FormatSpec {
    name: "raw",
    options: &[],
    reads: true,
    writes: true,
    keys: true,
    files: None,
    single: true,
    holds: |data_type| matches!(data_type, DataType::Utf8 | DataType::Binary),
    types: "one column of type STRING or BYTES",
    conflict: |_| None,
};
