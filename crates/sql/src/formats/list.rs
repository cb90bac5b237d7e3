//! The list of all formats.
//!
//! Owns: the declarations. Does not own: reading and writing records (`formats` in crate `connector-api`).

use super::{FileReader, Format, FormatSpec, OptionKind, OptionScope, OptionSpec};
use datafusion::arrow::datatypes::DataType;

/// All formats, the most common first.
pub static FORMATS: &[&FormatSpec] = &[&JSON, &CSV, &RAW];

/// One JSON object per record.
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

/// One line per record, columns by position.
pub static CSV: FormatSpec = FormatSpec {
    name: "csv",
    options: &[
        OptionSpec {
            name: "csv.delimiter",
            kind: OptionKind::Character,
            default: ",",
            scope: OptionScope::Everywhere,
            about: "the character between two fields",
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
            about: "the character around a field that contains a delimiter, a quote (written twice) or an end of line",
        },
        OptionSpec {
            name: "csv.null",
            kind: OptionKind::Text,
            default: "",
            scope: OptionScope::Records,
            about: "the text that stands for NULL when it is not quoted",
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
        return Some(("csv.delimiter", "the delimiter and the quote are the same character"));
    }
    let is_syntax = format.text("csv.null").bytes().any(|byte| syntax.contains(&byte));
    is_syntax.then_some(("csv.null", "the text of NULL would have to be quoted, but a quoted field is never NULL"))
}

/// The bytes of one column, unchanged.
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
