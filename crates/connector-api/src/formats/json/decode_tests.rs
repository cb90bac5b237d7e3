//! Tests of reading JSON: the rules of the docs, and values that are read back unchanged.

use super::*;
use arrow::array::*;
use arrow::datatypes::{DataType, TimeUnit};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn fields(list: &[(&str, DataType)]) -> Fields {
    list.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
}

/// Decodes one record into one column `c`.
fn one(data_type: DataType, payload: &str) -> Result<ArrayRef, String> {
    let mut decoder = JsonDecoder::new(&fields(&[("c", data_type)]), &[]).unwrap();
    decoder.append(Input::Bytes(payload.as_bytes())).map_err(|fault| fault.to_string())?;
    Ok(decoder.finish().unwrap().remove(0))
}

fn ints(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

#[test]
fn members_are_matched_in_any_order() {
    let mut decoder = JsonDecoder::new(&fields(&[("a", DataType::Int64), ("b", DataType::Utf8)]), &[]).unwrap();
    let records = [
        r#"{"a":1,"b":"x"}"#,
        r#" { "b" : "y" , "z" : {"a":[1,"}"]} , "a" : 2 } "#,
        r#"{"b":null}"#,
        r#"{"c":5,"b ":"no"}"#,
        r#"{}"#,
        r#"{"a":1,"a":7,"\u0062":"escaped name"}"#,
    ];
    for record in records {
        decoder.append(Input::Bytes(record.as_bytes())).unwrap();
    }
    let columns = decoder.finish().unwrap();
    let a = columns[0].as_primitive::<arrow::datatypes::Int64Type>();
    let b = columns[1].as_string::<i32>();
    assert_eq!(a.iter().collect::<Vec<_>>(), [Some(1), Some(2), None, None, None, Some(7)]);
    assert_eq!(b.iter().collect::<Vec<_>>(), [Some("x"), Some("y"), None, None, None, Some("escaped name")]);
}

#[test]
fn a_member_in_another_case_counts_where_it_is_the_only_one() {
    let inner = DataType::Struct(fields(&[("homeCity", DataType::Utf8)]));
    let all = fields(&[("userId", DataType::Int64), ("Größe", DataType::Int64), ("r", inner)]);
    let mut decoder = JsonDecoder::new(&all, &[]).unwrap();
    let mut read = |record: &str| {
        let result = decoder.append(Input::Bytes(record.as_bytes())).map_err(|fault| fault.to_string());
        let columns = decoder.finish().unwrap();
        let number = |column: usize| {
            let column = columns[column].as_primitive::<arrow::datatypes::Int64Type>();
            column.is_valid(0).then(|| column.value(0))
        };
        let city = columns[2].as_struct().column(0).as_string::<i32>();
        let city = city.is_valid(0).then(|| city.value(0).to_string());
        result.map(|()| (number(0), number(1), city))
    };
    for (record, expected) in [
        (r#"{"USERID":7,"R":{"HOMECITY":"Oslo"},"GRÖSSE":1}"#, (Some(7), None, Some("Oslo".to_string()))),
        (r#"{"userid":8,"gRÖßE":2}"#, (Some(8), Some(2), None)),
        // Exact names count more, wherever they stand, and of a repeated name the last counts.
        (r#"{"userid":1,"userId":9,"USERID":2}"#, (Some(9), None, None)),
        (r#"{"userid":1,"userid":10}"#, (Some(10), None, None)),
        (r#"{"userId":null,"userid":1}"#, (None, None, None)),
        (r#"{"\u0075SERID":11}"#, (Some(11), None, None)),
    ] {
        assert_eq!(read(record).as_ref(), Ok(&expected), "{record}");
    }
    let error = "column 'userId': the record has 'userid' and 'USERID', and neither is exactly the name of the column";
    assert_eq!(read(r#"{"x":1,"userid":1,"USERID":2}"#), Err(error.to_string()));
    let error =
        "column 'r.homeCity': the record has 'homecity' and 'HomeCity', and neither is exactly the name of the column";
    assert_eq!(read(r#"{"r":{"homecity":"a","HomeCity":"b"}}"#), Err(error.to_string()));
    assert_eq!(read(r#"{"userid":12}"#), Ok((Some(12), None, None)));
}

#[test]
fn columns_that_differ_in_case_take_members_of_exactly_their_names() {
    let mut decoder = JsonDecoder::new(&fields(&[("id", DataType::Int64), ("ID", DataType::Int64)]), &[]).unwrap();
    for record in [r#"{"id":1,"ID":2}"#, r#"{"Id":3}"#] {
        decoder.append(Input::Bytes(record.as_bytes())).unwrap();
    }
    let columns = decoder.finish().unwrap();
    let values = columns.iter().map(|column| column.as_primitive::<arrow::datatypes::Int64Type>().iter().collect());
    assert_eq!(values.collect::<Vec<Vec<_>>>(), [[Some(1), None], [Some(2), None]]);
}

#[test]
fn columns_without_a_member_are_told() {
    let mut decoder = JsonDecoder::new(&fields(&[("a", DataType::Int64), ("b", DataType::Int64)]), &[]).unwrap();
    let mut absent = |records: &[Input<'_>]| crate::formats::RowDecoder::decode(&mut decoder, records).unwrap().absent;
    assert_eq!(absent(&[Input::Bytes(b"{}"), Input::Bytes(br#"{"A":null}"#)]), Some(vec![false, true]));
    assert_eq!(absent(&[Input::Bytes(br#"{"b":"bad"}"#)]), Some(vec![true, false]));
    assert_eq!(absent(&[Input::Skip, Input::Null, Input::Bytes(b"no object")]), None);
}

#[test]
fn a_text_takes_the_json_of_any_value() {
    for (value, text) in [
        (r#""a\u00e9\n""#, "aé\n"),
        ("42", "42"),
        ("-1.50e+3", "-1.50e+3"),
        ("true", "true"),
        ("{ \"n\" : [1, 2.50],\t\"s x\": \"a \\\" b \\\\\" }", r#"{"n":[1,2.50],"s x":"a \" b \\"}"#),
        ("[ ]", "[]"),
        (r#"{"é":1}"#, r#"{"é":1}"#),
    ] {
        let column = one(DataType::Utf8, &format!(r#"{{"c":{value}}}"#)).unwrap();
        assert_eq!(column.as_string::<i32>().value(0), text, "{value}");
    }
    let list = one(ints(DataType::Utf8), r#"{"c":[1, "x", {"a": 1}, null]}"#).unwrap();
    let items = list.as_list::<i32>().value(0);
    let expected = [Some("1"), Some("x"), Some(r#"{"a":1}"#), None];
    assert_eq!(items.as_string::<i32>().iter().collect::<Vec<_>>(), expected);
}

#[test]
fn wrong_types_are_refused_with_the_column() {
    let cases = [
        (DataType::Int32, r#"{"c":"1"}"#, "column 'c': expected INT, found string \"1\""),
        (DataType::Int32, r#"{"c":1.5}"#, "column 'c': expected INT, found number 1.5"),
        (DataType::Int32, r#"{"c":2147483648}"#, "column 'c': 2147483648 is out of range for INT"),
        (DataType::Int64, r#"{"c":true}"#, "column 'c': expected BIGINT, found boolean true"),
        (DataType::Boolean, r#"{"c":"true"}"#, "column 'c': expected true or false, found string"),
        (DataType::Float64, r#"{"c":"1.0"}"#, "column 'c': expected DOUBLE, found string"),
        (DataType::Float64, r#"{"c":1e999}"#, "column 'c': 1e999 is out of range for DOUBLE"),
        (DataType::Float32, r#"{"c":1e39}"#, "column 'c': 1e39 is out of range for FLOAT"),
        (DataType::Binary, r#"{"c":"not base64!"}"#, "column 'c': expected a base64 string"),
        (DataType::Date32, r#"{"c":12}"#, "column 'c': expected a date"),
        (ints(DataType::Int32), r#"{"c":[1,"x"]}"#, "column 'c[1]': expected INT, found string"),
        (ints(DataType::Int32), r#"{"c":{"0":1}}"#, "column 'c': expected an array, found object"),
        (
            DataType::Struct(fields(&[("d", DataType::Int32)])),
            r#"{"c":{"d":"x"}}"#,
            "column 'c.d': expected INT, found string",
        ),
        (
            DataType::Struct(fields(&[("d", DataType::Int32)])),
            r#"{"c":[1]}"#,
            "column 'c': expected an object, found array",
        ),
    ];
    for (data_type, payload, reason) in cases {
        let error = one(data_type, payload).unwrap_err();
        assert!(error.starts_with(reason), "{payload}: {error}");
    }
}

#[test]
fn broken_records_are_refused_with_the_reason() {
    let cases = [
        (r#"{"c":1"#, "found the end of the record"),
        (r#"{"c":1}}"#, "text follows the value"),
        (r#"{"c":1}{"c":2}"#, "text follows the value"),
        ("12", "expected an object, found number 12"),
        ("[1]", "expected an object, found array"),
        ("nope", "malformed JSON"),
        ("", "the value is empty"),
        (" \n", "the value is empty"),
        (r#"{"x":tru,"c":1}"#, "malformed JSON: expected true"),
        (r#"{"x":01,"c":1}"#, "malformed JSON"),
        (r#"{"c":"#, "malformed JSON: expected a value"),
    ];
    for (payload, reason) in cases {
        let error = one(DataType::Int64, payload).unwrap_err();
        assert!(error.contains(reason), "{payload}: {error}");
    }
    let mut decoder = JsonDecoder::new(&fields(&[("c", DataType::Int64)]), &[]).unwrap();
    assert_eq!(decoder.append(Input::Null), Ok(()));
    assert!(decoder.append(Input::Bytes(b"{\"c\":\"\xff\"}")).unwrap_err().to_string().contains("not UTF-8 at byte 6"));
    assert_eq!(decoder.append(Input::Skip), Ok(()));
    assert_eq!(decoder.finish().unwrap()[0].null_count(), 3);
}

#[test]
fn not_null_is_enforced_and_keeps_columns_equally_long() {
    let inner = Fields::from(vec![Field::new("d", DataType::Int32, false), Field::new("e", DataType::Utf8, true)]);
    let all = Fields::from(vec![
        Field::new("a", DataType::Int64, false),
        Field::new("s", DataType::Struct(inner), true),
        Field::new("l", ints(DataType::Int64), false),
    ]);
    let mut decoder = JsonDecoder::new(&all, &[]).unwrap();
    let faults: Vec<String> = [
        r#"{"a":1,"s":{"d":1},"l":[]}"#,
        r#"{"s":null,"l":[1,null]}"#,
        r#"{"a":1,"s":{"e":"x"},"l":[1]}"#,
        r#"{"a":1,"l":null}"#,
        r#"{"a":1,"s":{"d":2,"e":"y"},"l":[1,"x",3]}"#,
        r#"{"a":1,"#,
    ]
    .iter()
    .map(|record| {
        decoder.append(Input::Bytes(record.as_bytes())).err().map(|fault| fault.to_string()).unwrap_or_default()
    })
    .collect();
    assert_eq!(faults[0], "");
    assert_eq!(faults[1], "column 'a': null or absent, but declared NOT NULL");
    assert_eq!(faults[2], "column 's.d': null or absent, but declared NOT NULL");
    assert_eq!(faults[3], "column 'l': null or absent, but declared NOT NULL");
    assert!(faults[4].starts_with("column 'l[1]'"), "{}", faults[4]);
    assert!(faults[5].contains("malformed"));
    let nothing = decoder.append(Input::Null).unwrap_err().to_string();
    assert_eq!(nothing, "column 'a': null or absent, but declared NOT NULL");
    assert_eq!(decoder.append(Input::Skip), Ok(()), "nobody looks at it");
    let columns = decoder.finish().unwrap();
    assert!(columns.iter().all(|column| column.len() == 8));
    assert_eq!(columns[0].null_count(), 0);
    assert_eq!(columns[2].null_count(), 0);
}

#[test]
fn decimals_bytes_times_and_nested_values() {
    let decimal = one(DataType::Decimal128(10, 2), r#"{"c":"12.345"}"#).unwrap();
    assert_eq!(decimal.as_primitive::<arrow::datatypes::Decimal128Type>().value(0), 1235);
    let decimal = one(DataType::Decimal128(10, 2), r#"{"c":-7}"#).unwrap();
    assert_eq!(decimal.as_primitive::<arrow::datatypes::Decimal128Type>().value(0), -700);
    let bytes = one(DataType::Binary, r#"{"c":"AP8="}"#).unwrap();
    assert_eq!(bytes.as_binary::<i32>().value(0), [0, 255]);
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let time = one(zoned.clone(), r#"{"c":"2026-01-01T01:00:00.5+01:00"}"#).unwrap();
    assert_eq!(time.data_type(), &zoned);
    assert_eq!(time.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0), 1_767_225_600_500_000);
    let time = one(DataType::Time32(TimeUnit::Millisecond), r#"{"c":"00:00:01.25"}"#).unwrap();
    assert_eq!(time.as_primitive::<arrow::datatypes::Time32MillisecondType>().value(0), 1250);
    let nested = DataType::Struct(fields(&[("d", ints(DataType::Struct(fields(&[("e", DataType::Utf8)]))))]));
    let nested = one(nested, r#"{"c":{"d":[{"e":"x"},null,{"f":1}]}}"#).unwrap();
    let list = nested.as_struct().column(0).as_list::<i32>().value(0);
    assert_eq!(list.len(), 3);
    assert_eq!(list.as_struct().column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("x"), None, None]);
    assert!(list.is_null(1) && !list.is_null(2));
}

#[test]
fn a_type_json_cannot_hold_is_named() {
    let error = JsonDecoder::new(&fields(&[("c", DataType::Duration(TimeUnit::Second))]), &[]).err().unwrap();
    assert!(error.to_string().contains("column 'c'"), "{error}");
}

#[test]
fn no_columns_still_check_the_syntax() {
    let mut decoder = JsonDecoder::new(&Fields::empty(), &[]).unwrap();
    decoder.append(Input::Bytes(br#"{"a":[1,2,{"b":"c"}]}"#)).unwrap();
    assert!(decoder.append(Input::Bytes(b"{]")).is_err());
    assert!(decoder.finish().unwrap().is_empty());
}

/// The content of a record of the property test.
type Row = (Option<i64>, Option<f64>, Option<String>, Option<bool>, Option<Vec<Option<i32>>>);

fn row() -> impl Strategy<Value = Row> {
    (
        proptest::option::of(any::<i64>()),
        proptest::option::of(any::<f64>().prop_filter("finite", |value| value.is_finite())),
        proptest::option::of(any::<String>()),
        proptest::option::of(any::<bool>()),
        proptest::option::of(proptest::collection::vec(proptest::option::of(any::<i32>()), 0..4)),
    )
}

fn record((i, f, s, b, l): &Row, order: usize, junk: &Value) -> String {
    let mut members: Vec<(&str, Value)> = vec![
        ("i", json!(i)),
        ("f", json!(f)),
        ("s", json!(s)),
        ("b", json!(b)),
        ("l", json!(l)),
        ("junk", junk.clone()),
    ];
    members.rotate_left(order % 6);
    let object: serde_json::Map<String, Value> =
        members.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    Value::Object(object).to_string()
}

fn junk() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Values written by serde_json are read back equal, whichever other members the record has.
    #[test]
    fn reads_what_was_written(rows in proptest::collection::vec((row(), any::<usize>(), junk()), 0..20)) {
        let all = fields(&[
            ("i", DataType::Int64), ("f", DataType::Float64), ("s", DataType::Utf8), ("b", DataType::Boolean), ("l", ints(DataType::Int32)),
        ]);
        let mut decoder = JsonDecoder::new(&all, &[]).unwrap();
        for (row, order, junk) in &rows {
            decoder.append(Input::Bytes(record(row, *order, junk).as_bytes())).unwrap();
        }
        let columns = decoder.finish().unwrap();
        for (index, ((i, f, s, b, l), _, _)) in rows.iter().enumerate() {
            let is = |column: usize| columns[column].is_valid(index);
            prop_assert_eq!(is(0).then(|| columns[0].as_primitive::<arrow::datatypes::Int64Type>().value(index)), *i);
            prop_assert_eq!(is(1).then(|| columns[1].as_primitive::<arrow::datatypes::Float64Type>().value(index)), *f);
            prop_assert_eq!(is(2).then(|| columns[2].as_string::<i32>().value(index).to_string()), s.clone());
            prop_assert_eq!(is(3).then(|| columns[3].as_boolean().value(index)), *b);
            let list = is(4).then(|| columns[4].as_list::<i32>().value(index));
            let list = list.map(|list| list.as_primitive::<arrow::datatypes::Int32Type>().iter().collect::<Vec<_>>());
            prop_assert_eq!(list, l.clone());
        }
    }

    /// Decoding never panics, always appends exactly one row, and accepts only texts that serde_json accepts.
    #[test]
    fn arbitrary_bytes_are_refused_or_rows(payload in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        "[{}\\[\\]\",:0-9a-z\\\\ .-]{0,40}".prop_map(String::into_bytes),
        (any::<Vec<u8>>(), 0usize..60).prop_map(|(_, cut)| br#"{"i":12,"s":"a\u00e9b","l":[1,null],"j":{"k":[{}]}}"#.iter().copied().take(cut).collect()),
    ]) {
        let all = fields(&[("i", DataType::Int64), ("s", DataType::Utf8), ("l", ints(DataType::Int32))]);
        let mut decoder = JsonDecoder::new(&all, &[]).unwrap();
        if decoder.append(Input::Bytes(&payload)).is_ok() {
            // Control characters in strings are the one thing taken more freely than by serde_json.
            let control = payload.iter().any(|byte| *byte < 0x20);
            prop_assert!(control || serde_json::from_slice::<serde::de::IgnoredAny>(&payload).is_ok());
        }
        prop_assert!(decoder.finish().unwrap().iter().all(|column| column.len() == 1));
    }
}
