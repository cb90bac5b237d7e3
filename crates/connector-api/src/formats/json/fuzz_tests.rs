//! Fuzzing of reading JSON: bytes of any kind, and documents that are nearly right.
//!
//! Nothing panics; if both accept a document, it is read as serde_json reads it; a written document is read back as the
//! same values.

use super::JsonDecoder;
use crate::formats::json::ObjectEncoder;
use crate::formats::{Input, RowEncoder};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Int64Type, Schema, TimeUnit, TimestampMillisecondType};
use serde_json::Value;
use std::sync::Arc;

const DOCUMENTS: [&str; 6] = [
    r#"{"i":-12,"s":"a\u00e9\"\\\ud83d\ude00","d":-0.25e-3,"b":true,"t":"2026-01-01T10:00:00.123Z","a":[1,null,3]}"#,
    r#"{"i":9223372036854775807,"n":-128,"m":"12345678.90","e":"2026-02-28","h":"23:59:59.999","y":"aGVsbG8="}"#,
    r#"{ "r" : { "x" : 1 , "z" : { "w" : [ "p" , "q" ] } } , "p" : { "k" : 1 , "l" : null } , "other" : [{}] }"#,
    r#"{"i":null,"s":null,"d":1e308,"b":false,"t":1767261600123,"a":[],"i":7,"\u0069":8}"#,
    r#"{"d":0.1,"m":1.5,"f":3.4e38,"s":"","r":null,"p":{},"a":[[1],{"b":"}"}]}"#,
    "{}",
];

/// The years 0 to 9999.
const YEARS_MS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

fn fields() -> Fields {
    let item = |data_type: DataType| Arc::new(Field::new("item", data_type, true));
    let inner = Fields::from(vec![Field::new("w", DataType::List(item(DataType::Utf8)), true)]);
    let row =
        Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("z", DataType::Struct(inner), true)]);
    let entries =
        Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int64, true)]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
    let list = [
        ("i", DataType::Int64),
        ("s", DataType::Utf8),
        ("d", DataType::Float64),
        ("b", DataType::Boolean),
        ("n", DataType::Int8),
        ("f", DataType::Float32),
        ("m", DataType::Decimal128(10, 2)),
        ("t", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("e", DataType::Date32),
        ("h", DataType::Time64(TimeUnit::Nanosecond)),
        ("y", DataType::Binary),
        ("a", DataType::List(item(DataType::Int64))),
        ("r", DataType::Struct(row)),
        ("p", DataType::Map(entries, false)),
    ];
    list.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect()
}

/// Decodes one record, or returns its fault.
fn read(payload: &[u8]) -> Option<Vec<ArrayRef>> {
    let mut decoder = JsonDecoder::new(&fields(), &[]).unwrap();
    let taken = decoder.append(Input::Bytes(payload)).is_ok();
    // A record that is refused has a row, too, which is filtered out later.
    let columns = decoder.finish().unwrap();
    assert!(columns.iter().all(|column| column.len() == 1));
    taken.then_some(columns)
}

fn check(payload: &[u8]) {
    let Some(columns) = read(payload) else { return };
    if let Ok(document) = serde_json::from_slice::<Value>(payload) {
        compare(&columns, &document);
    }
    // Years of more than four digits are written, and not read.
    let times = columns[7].as_primitive::<TimestampMillisecondType>();
    if times.is_valid(0) && !YEARS_MS.contains(&times.value(0)) {
        return;
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields())), columns.clone()).unwrap();
    let written = ObjectEncoder::new((0..columns.len()).collect()).encode(&batch).unwrap();
    let again = read(written.value(0)).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(written.value(0))));
    for ((column, again), field) in columns.iter().zip(&again).zip(&fields()) {
        assert_eq!(column, again, "{}: {}", field.name(), String::from_utf8_lossy(written.value(0)));
    }
}

fn compare(columns: &[ArrayRef], document: &Value) {
    assert!(document.is_object(), "{document} was taken for an object");
    let value = |name: &str| document.get(name).filter(|value| !value.is_null());
    let whole = columns[0].as_primitive::<Int64Type>();
    assert_eq!(whole.is_valid(0), value("i").is_some());
    if let Some(expected) = value("i").and_then(Value::as_i64) {
        assert_eq!(whole.value(0), expected);
    }
    let text = columns[1].as_string::<i32>();
    assert_eq!(text.is_valid(0).then(|| text.value(0)), value("s").and_then(Value::as_str));
    let double = columns[2].as_primitive::<Float64Type>();
    assert_eq!(double.is_valid(0), value("d").is_some());
    if let Some(expected) = value("d").and_then(Value::as_f64) {
        // serde_json rounds its last digit.
        let (found, allowed) = (double.value(0), expected.abs() * 1e-15 + f64::MIN_POSITIVE);
        assert!((found - expected).abs() <= allowed, "{found} is not {expected}");
    }
    let truth = columns[3].as_boolean();
    assert_eq!(truth.is_valid(0).then(|| truth.value(0)), value("b").and_then(Value::as_bool));
    let list = columns[11].as_list::<i32>();
    assert_eq!(
        list.is_valid(0).then(|| list.value_length(0) as usize),
        value("a").and_then(Value::as_array).map(Vec::len)
    );
}

/// A document with some of its bytes changed, left out or doubled.
fn edited(document: &[u8], edits: &[(u16, u8, u8)]) -> Vec<u8> {
    const LIKELY: &[u8] = br#"{}[]",:\u0019-+.eE tfn"#;
    let mut bytes = document.to_vec();
    for (place, what, byte) in edits {
        let place = usize::from(*place) % (bytes.len() + 1);
        let byte = if what & 0x10 == 0 { LIKELY[usize::from(*byte) % LIKELY.len()] } else { *byte };
        match what % 5 {
            0 => bytes.insert(place, byte),
            1 if place < bytes.len() => bytes[place] = byte,
            2 if place < bytes.len() => drop(bytes.remove(place)),
            3 => bytes.truncate(place),
            _ => {
                let part = bytes[place..].iter().copied().take(usize::from(*what)).collect::<Vec<_>>();
                bytes.splice(place..place, part);
            }
        }
    }
    bytes
}

#[test]
fn fuzz_json_of_any_bytes() {
    bolero::check!().for_each(check);
}

#[test]
fn fuzz_json_that_is_nearly_right() {
    bolero::check!().with_type::<(u8, Vec<(u16, u8, u8)>)>().for_each(|(document, edits)| {
        let document = DOCUMENTS[usize::from(*document) % DOCUMENTS.len()];
        check(&edited(document.as_bytes(), edits));
    });
}

#[test]
fn every_document_is_taken_or_refused_as_meant() {
    let taken: Vec<bool> = DOCUMENTS.iter().map(|document| read(document.as_bytes()).is_some()).collect();
    assert_eq!(taken, [true, true, true, true, false, true]);
    DOCUMENTS.iter().for_each(|document| check(document.as_bytes()));
    // As deep as text is long: refused, and no stack is used up.
    for deep in ["[", "{\"a\":", "{\"x\":[{\"y\":"] {
        check(deep.repeat(200_000).as_bytes());
    }
}
