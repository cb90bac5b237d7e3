//! Formats of a table's records: their options, which part of a record a column is in, and what is refused where.

use super::*;
use highwater_sql::record_columns::RecordColumns;

/// Compiles a script whose first two lines declare the source `s` with these columns and options.
fn reads(columns: &str, options: &str) -> Result<CompiledQuery, highwater_sql::SqlError> {
    compile(&format!(
        "CREATE TABLE s ({columns})\nWITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', {options});
         CREATE TABLE t (n BIGINT, PRIMARY KEY (n)) WITH ('connector' = 'console'); INSERT INTO t SELECT count(*) FROM s;"
    ))
}

/// Compiles a script that writes a table with these columns and options.
fn writes(columns: &str, options: &str, select: &str) -> Result<CompiledQuery, highwater_sql::SqlError> {
    let tables = format!(
        "CREATE TABLE s ({columns})\nWITH ('connector' = 'kafka', 'topic' = 's', 'bootstrap.servers' = 'h:1', {options});"
    );
    compile(&format!("{tables} INSERT INTO s {select};{TABLES}"))
}

#[track_caller]
fn refused(result: Result<CompiledQuery, highwater_sql::SqlError>, expected: &str) {
    match result {
        Ok(_) => panic!("compiles: {expected}"),
        Err(error) => assert!(error.to_string().starts_with(expected), "{error}\nand not\n{expected}"),
    }
}

fn parts(columns: &str, options: &str) -> RecordColumns {
    reads(columns, options).unwrap_or_else(|error| panic!("{options}: {error}")).sources[0].record_columns()
}

#[test]
fn columns_are_in_the_value_and_those_of_the_key_in_the_key_too() {
    let columns = "a STRING, _offset BIGINT, b STRING, c STRING";
    let of = |key: &[usize], value: &[usize], by_key| RecordColumns { key: key.into(), value: value.into(), by_key };
    assert_eq!(parts(columns, "'format'='json'"), of(&[], &[0, 2, 3], false));
    assert_eq!(parts(columns, "'value.format'='json', 'key.fields'='c; A'"), of(&[3, 0], &[0, 2, 3], true));
    let keyed = format!("{columns}, PRIMARY KEY (c, a)");
    assert_eq!(parts(&keyed, "'format'='json'"), of(&[3, 0], &[0, 2, 3], false));
    assert_eq!(parts(&keyed, "'format'='json', 'key.fields'='c,a'"), of(&[3, 0], &[0, 2, 3], true));
    for name in ["value.fields-include", "value.fields_include", "valueFieldsInclude"] {
        let options =
            format!("'format'='json', 'key.format'='json', '{}'='EXCEPT_KEY'", name.replace("valueF", "value.f"));
        assert_eq!(parts(&keyed, &options), of(&[3, 0], &[2], true), "{options}");
    }
}

#[test]
fn options_that_say_nothing_or_the_same_twice_are_refused_where_they_stand() {
    for (options, expected) in [
        (
            "'format'='jsn'",
            "line 2, column 83: format 'jsn' is not supported in streaming yet\n  hint: did you mean 'json'?",
        ),
        ("'topic_'='x'", "line 2, column 74: unknown option 'topic_'\n  hint: did you mean 'topic'?"),
        ("'format'='json', 'value.format'='json'", "line 2, column 91: 'format' and 'value.format' are one option"),
        ("'format'='json', 'key.format'='json'", "line 2, column 91: 'key.format' does nothing: table 's' has neither"),
        (
            "'format'='json', 'keyformat'='json'",
            "line 2, column 91: unknown option 'keyformat'\n  hint: did you mean 'key.format'?",
        ),
        ("'format'='json', 'key.fields'='a,x'", "line 2, column 104: 'key.fields': table 's' stores no column 'x'"),
        ("'format'='json', 'key.fields'='a, A'", "line 2, column 104: 'key.fields' names 'A' twice"),
        ("'format'='json', 'key.fields'='_key'", "line 2, column 104: 'key.fields': table 's' stores no column '_key'"),
        ("'format'='json', 'csv.delimiter'=';'", "line 2, column 91: 'csv.delimiter' goes with 'format' = 'csv'"),
        ("'format'='json', 'csv.header'='true'", "line 2, column 91: 'csv.header' is an option of files"),
        (
            "'format'='json', 'key.fields'='a', 'value.fields-include'='except_key'",
            "line 1, column 14: table 's' has no column for the values",
        ),
        ("'topic_x'='json'", "line 2, column 74: unknown option 'topic_x'"),
    ] {
        refused(reads("a STRING", options), expected);
    }
    refused(
        reads("a STRING, b STRING, PRIMARY KEY (a)", "'format'='json', 'key.fields'='b'"),
        "line 2, column 104: 'key.fields' is not the PRIMARY KEY",
    );
    refused(
        writes("_key BYTES, a STRING", "'format'='json', 'key.fields'='a'", "SELECT _key, card FROM plain"),
        "line 1, column 17: '_key' and 'key.fields' both set",
    );
    assert!(bad("SET 'key.format' = 'json';").contains("'key.format' belongs to one table"));
    refused(
        compile("CREATE TABLE c (a INT) WITH ('connector' = 'console', 'format' = 'csv');"),
        "line 1, column 66: rows for the console are always JSON",
    );
}

#[test]
fn dead_letters_and_late_rows_are_bytes_whatever_the_table_is() {
    let options = "'format'='json', 'key.fields'='a', 'on_bad_record'='dead_letter'";
    let query = reads("a STRING", options).unwrap();
    let connector = &query.sinks[1].connector;
    assert_eq!((connector.format.name(), connector.key.fields.len()), ("raw", 0));
    let columns = query.sinks[1].record_columns();
    assert_eq!((columns.key.len(), columns.value), (0, vec![0]));
}

#[test]
fn a_sinks_format_is_no_idle_option() {
    let query = writes("a STRING", "'format'='json', 'key.fields'='a'", "SELECT card FROM plain").unwrap();
    assert_eq!(query.warnings, Vec::<String>::new());
}

#[test]
fn raw_is_one_column_beside_the_key() {
    let raw = "'format'='raw'";
    assert_eq!(parts("a STRING, _key BYTES", raw).value, [0]);
    let columns = parts("a STRING, b BYTES, PRIMARY KEY (b)", raw);
    assert_eq!((columns.key, columns.value, columns.by_key), (vec![1], vec![0], true));
    parts("a BIGINT, b BYTES, PRIMARY KEY (a)", "'format'='raw', 'key.format'='json'");
    writes("a STRING", raw, "SELECT card FROM plain").unwrap();
    for (columns, options, expected) in [
        (
            "a STRING, b STRING",
            raw,
            "line 1, column 27: a value of format 'raw' is one column, 'a', and 'b' is another\n  hint: write 'format' = 'json'",
        ),
        (
            "a INT",
            raw,
            "line 1, column 17: column 'a' is INT, which format 'raw' does not hold\n  hint: it holds one column of type STRING or BYTES; or write 'format' = 'json'",
        ),
        (
            "a STRING, b STRING, PRIMARY KEY (a, b)",
            "'format'='json', 'key.format'='raw'",
            "line 1, column 27: a key of format 'raw' is one column",
        ),
        (
            "a INT, b STRING, PRIMARY KEY (a)",
            raw,
            "line 1, column 17: column 'a' is INT, which format 'raw' does not hold",
        ),
        ("a STRING, PRIMARY KEY (a)", raw, "line 1, column 14: table 's' has no column for the values"),
        ("_key BYTES", raw, "line 1, column 14: table 's' has no column for the values"),
    ] {
        refused(reads(columns, options), expected);
    }
    let select = "SELECT card, id FROM plain";
    refused(writes("a STRING, b BIGINT", raw, select), "line 1, column 27: a value of format 'raw' is one column");
}

#[test]
fn csv_holds_what_is_not_nested() {
    parts("a STRING, b DECIMAL(10, 2), PRIMARY KEY (a)", "'format'='csv', 'csv.delimiter'='\\t', 'csv.null'=''");
    let columns = "a STRING,\n b ARRAY<INT>";
    let expected = "line 2, column 2: column 'b' is ARRAY<INT>, which format 'csv' does not hold\n  hint: it holds every type but ARRAY, MAP and ROW; or write 'format' = 'json'";
    refused(reads(columns, "'format'='csv'"), expected);
    refused(writes(columns, "'format'='csv'", "SELECT card, NULL FROM plain"), expected);
    let key = "a ROW<x INT>, b INT, PRIMARY KEY (a)";
    refused(
        reads(key, "'format'='json', 'key.format'='csv'"),
        "line 1, column 17: column 'a' is ROW<x INT>, which format 'csv'",
    );
}

#[test]
fn options_of_formats_are_for_key_and_value_or_for_one() {
    let chosen = |options: &str| {
        let query =
            reads("a STRING, b STRING, PRIMARY KEY (a)", options).unwrap_or_else(|error| panic!("{options}: {error}"));
        let connector = &query.sources[0].connector;
        [&connector.format, connector.key_format()].map(|format| format.text("csv.delimiter").to_string())
    };
    assert_eq!(chosen("'format'='csv'"), [",", ","]);
    assert_eq!(chosen("'format'='csv', 'csv.delimiter'=';'"), [";", ";"]);
    assert_eq!(chosen("'key.csv.delimiter'='|', 'format'='csv', 'csv.delimiter'=';'"), [";", "|"]);
    assert_eq!(chosen("'format'='csv', 'value.csv.delimiter'='|', 'csv.delimiter'=';'"), ["|", ";"]);
    assert_eq!(chosen("'format'='csv', 'key.format'='json', 'csv.delimiter'=';'"), [";", ""]);
    for (options, expected) in [
        (
            "'format'='csv', 'csv.delimter'=';'",
            "line 2, column 90: unknown option 'csv.delimter'\n  hint: did you mean 'csv.delimiter'?",
        ),
        (
            "'format'='csv', 'csv.delimiter'=';;'",
            "line 2, column 106: ';;' is not a value of 'csv.delimiter'\n  hint: write one character",
        ),
        ("'format'='csv', 'csv.delimiter'='é'", "line 2, column 106: 'é' is not a value of 'csv.delimiter'"),
        ("'format'='csv', 'csv.delimiter'='${env:X}'", "line 2, column 106: 'csv.delimiter' takes no reference"),
        (
            "'format'='csv', 'csv.delimiter'='\"'",
            "line 2, column 106: the delimiter and the quote are the same character",
        ),
        ("'format'='csv', 'csv.null'='a,b'", "line 2, column 101: the text of NULL would have to be quoted"),
        ("'format'='csv', 'csv.header'='true'", "line 2, column 90: 'csv.header' is an option of files"),
        (
            "'format'='csv', 'key.format'='json', 'key.csv.delimiter'=';'",
            "line 2, column 111: 'key.csv.delimiter' goes with 'key.format' = 'csv'",
        ),
    ] {
        refused(reads("a STRING, b STRING, PRIMARY KEY (a)", options), expected);
    }
    for (options, expected) in [
        ("'format'='csv', 'key.csv.delimiter'=';'", "a file has no option 'key.csv.delimiter'"),
        ("'value.format'='csv', 'format'='csv'", "a file has no option 'value.format'"),
        ("'format'='csv', 'csv.null'='x'", "'csv.null' is an option of records"),
        (
            "'format'='raw'",
            "format 'raw' cannot be used for 'format' here\n  hint: use 'format' = 'json' or 'format' = 'csv'",
        ),
    ] {
        let error = bad(&format!("CREATE TABLE s (a INT) WITH ('connector'='filesystem', 'path'='/x', {options});"));
        assert!(error.contains(expected), "{options}: {error}");
    }
}
