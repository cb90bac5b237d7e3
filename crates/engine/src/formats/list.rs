//! The formats there are.
//!
//! Owns: one declaration each. Does not own: reading and writing them (`formats` in crate `connectors`).

use super::{FileReader, FormatSpec, OptionKind, OptionScope, OptionSpec};
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
static CSV: FormatSpec = FormatSpec {
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
    ],
    reads: false,
    writes: false,
    keys: false,
    files: Some(FileReader::Csv),
    single: false,
    holds: |data_type| !data_type.is_nested(),
    types: "every type but ARRAY, MAP and ROW",
    conflict: |_| None,
};

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
