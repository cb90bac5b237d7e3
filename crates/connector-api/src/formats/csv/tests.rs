//! Tests of CSV: the rules of fields, faults of bad records, and values that are read back unchanged.

use super::*;
use crate::formats::{RowEncoder, Wanted};
use arrow::array::*;
use arrow::datatypes::*;
use highwater_sql::formats::Format;
use proptest::prelude::*;

fn format(options: &[(&str, &str)]) -> Format {
    let mut format = Format::of(&CSV);
    for (name, value) in options {
        let option = CSV.options.iter().find(|option| option.name == *name).unwrap();
        format.set(option, value).unwrap();
    }
    format
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn read_as(format: &Format, fields: &Fields, wanted: &[usize], records: &[Input<'_>]) -> (Vec<ArrayRef>, Vec<String>) {
    let wanted = wanted.iter().map(|at| Wanted { at: *at, is_key: false }).collect();
    let mut decoder = CsvDecoder::new(&Layout { format, fields, wanted }).unwrap();
    let Decoded { columns, bad, .. } = decoder.decode(records).unwrap();
    assert!(columns.iter().all(|column| column.len() == records.len()), "a row for every record");
    (columns, bad.into_iter().map(|(index, fault)| format!("{index}: {fault}")).collect())
}

fn read(format: &Format, fields: &Fields, records: &[&str]) -> (Vec<ArrayRef>, Vec<String>) {
    let records: Vec<Input<'_>> = records.iter().map(|record| Input::Bytes(record.as_bytes())).collect();
    read_as(format, fields, &(0..fields.len()).collect::<Vec<_>>(), &records)
}

/// Reads one text of a column `c`, beside a column that keeps the record from being empty.
fn one(data_type: DataType, text: &str) -> Result<ArrayRef, String> {
    let fields = Fields::from(vec![field("c", data_type), field("d", DataType::Utf8)]);
    let (columns, bad) = read(&format(&[]), &fields, &[&format!("{text},x")]);
    match bad.first() {
        Some(reason) => Err(reason.trim_start_matches("0: ").to_string()),
        None => Ok(columns[0].clone()),
    }
}

fn texts(column: &ArrayRef) -> Vec<Option<&str>> {
    column.as_string::<i32>().iter().collect()
}

#[test]
fn fields_have_quotes_where_they_need_them_and_null_has_none() {
    let fields = Fields::from(vec![field("a", DataType::Utf8), field("b", DataType::Utf8)]);
    let records = ["x,y", "\"a,\"\"b\"\"\n\",", ",\"\"", " x , y ", "a\"b,\"\"\"\"", "x,y\r\n", "\"\",\"x\"\n"];
    let (columns, bad) = read(&format(&[]), &fields, &records);
    assert!(bad.is_empty(), "{bad:?}");
    let [a, b] = columns.as_slice() else { panic!("two columns") };
    assert_eq!(texts(a), [Some("x"), Some("a,\"b\"\n"), None, Some(" x "), Some("a\"b"), Some("x"), Some("")]);
    assert_eq!(texts(b), [Some("y"), None, Some(""), Some(" y "), Some("\""), Some("y"), Some("x")]);

    let other = format(&[("csv.delimiter", "\\t"), ("csv.quote", "'"), ("csv.null", "NULL")]);
    let (columns, bad) = read(&other, &fields, &["NULL\t'NULL'", "\t'a\t''b'"]);
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(texts(&columns[0]), [None, Some("")]);
    assert_eq!(texts(&columns[1]), [Some("NULL"), Some("a\t'b")]);
}

#[test]
fn records_that_are_none_are_bad_with_the_reason() {
    let fields = Fields::from(vec![field("a", DataType::Int32), Field::new("b", DataType::Utf8, false)]);
    let records = ["", "\n", "1", "1,2,3", "1,\"x", "1,\"x\"y", "1,x\n2,y", "1,", "x,y", "2,z"];
    let (columns, bad) = read(&format(&[]), &fields, &records);
    let expected = [
        "0: the record is empty",
        "1: the record is empty",
        "2: 1 field, but 2 columns are declared",
        "3: 3 fields, but 2 columns are declared",
        "4: the quotes of field 2 are not closed",
        "5: text follows the closing quotes of field 2",
        "6: more than one line: a field that contains an end of line must be quoted",
        "7: column 'b': NULL, but declared NOT NULL",
        "8: column 'a': expected INT, found 'x'",
    ];
    assert_eq!(bad, expected);
    assert_eq!(columns[0].as_primitive::<Int32Type>().value(9), 2);
    assert_eq!(columns[1].null_count(), 0);
    let (_, bad) = read_as(&format(&[]), &fields, &[0], &[Input::Bytes(b"1,\xff"), Input::Null, Input::Skip]);
    assert_eq!(bad, ["0: not UTF-8 at byte 2"]);
    let (_, bad) = read_as(&format(&[]), &fields, &[1], &[Input::Null, Input::Skip]);
    assert_eq!(bad, ["0: column 'b': NULL, but declared NOT NULL"]);
}

#[test]
fn only_the_columns_wanted_are_read_and_by_their_place() {
    let fields =
        Fields::from(vec![field("a", DataType::Int32), field("b", DataType::Utf8), field("c", DataType::Int64)]);
    let (columns, bad) = read_as(&format(&[]), &fields, &[2, 0], &[Input::Bytes(b"1,x,3")]);
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(columns[0].as_primitive::<Int64Type>().value(0), 3);
    assert_eq!(columns[1].as_primitive::<Int32Type>().value(0), 1);
    // A value nobody asks for may be anything.
    let (_, bad) = read_as(&format(&[]), &fields, &[0], &[Input::Bytes(b"1,x,y")]);
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn one_column_that_is_null_is_an_empty_record() {
    let fields = Fields::from(vec![field("a", DataType::Utf8)]);
    let (columns, bad) = read(&format(&[]), &fields, &["", "\"\"", "x"]);
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(texts(&columns[0]), [None, Some(""), Some("x")]);
    let (_, bad) = read(&format(&[("csv.null", "NULL")]), &fields, &[""]);
    assert_eq!(bad, ["0: the record is empty"]);
}

#[test]
fn values_are_read_as_json_reads_them_without_its_quotes() {
    let millis = DataType::Timestamp(TimeUnit::Millisecond, None);
    let time = |text: &str| one(millis.clone(), text).map(|c| c.as_primitive::<TimestampMillisecondType>().value(0));
    for text in
        ["2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "1767225600000", " 2026-01-01 ", "2026-01-01T01:00:00+01:00"]
    {
        assert_eq!(time(text), Ok(1_767_225_600_000), "{text}");
    }
    let decimal =
        |text: &str| one(DataType::Decimal128(38, 2), text).map(|c| c.as_primitive::<Decimal128Type>().value(0));
    assert_eq!(
        decimal("123456789012345678901234567890123456.78"),
        Ok(12_345_678_901_234_567_890_123_456_789_012_345_678)
    );
    assert_eq!(decimal(" -0.5"), Ok(-50));
    assert_eq!(one(DataType::Binary, "AP8=").unwrap().as_binary::<i32>().value(0), [0, 255]);
    assert!(one(DataType::Boolean, "TRUE").unwrap().as_boolean().value(0));
    for (data_type, text, reason) in [
        (DataType::Int8, "128", "128 is out of range for TINYINT"),
        (DataType::Int64, "1.5", "expected BIGINT, found number 1.5"),
        (DataType::Int64, "12x", "expected BIGINT, found '12x'"),
        (DataType::Float64, "1e999", "1e999 is out of range for DOUBLE"),
        (DataType::Float64, "1-2", "expected DOUBLE, found '1-2'"),
        (DataType::Float32, "NaN", "expected FLOAT, found 'NaN'"),
        (DataType::Decimal128(5, 2), "1000", "1000 is out of range for DECIMAL(5, 2)"),
        (DataType::Boolean, "1", "expected true or false, found '1'"),
        (DataType::Binary, "a", "expected base64, found 'a'"),
        (DataType::Date32, "2026-02-30", "expected a date"),
        (DataType::Time64(TimeUnit::Nanosecond), "25:00", "expected a time"),
        (millis.clone(), "yesterday", "expected a timestamp"),
    ] {
        let error = one(data_type.clone(), text).unwrap_err();
        assert!(error.starts_with(&format!("column 'c': {reason}")), "{text} as {data_type}: {error}");
    }
}

#[test]
fn values_are_written_as_json_writes_them_without_its_quotes() {
    let decimal = Decimal128Array::from(vec![Some(-1234), None]).with_precision_and_scale(10, 2).unwrap();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("i", Arc::new(Int64Array::from(vec![Some(i64::MAX), None])), true),
        ("f", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN)])), true),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None])), true),
        ("s", Arc::new(StringArray::from(vec![Some("a,\"\n"), Some("")])), true),
        ("y", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None])), true),
        ("d", Arc::new(decimal), true),
        ("t", Arc::new(TimestampMillisecondArray::from(vec![Some(1_767_225_600_500), None])), true),
        (
            "z",
            Arc::new(TimestampMillisecondArray::from(vec![Some(1_767_225_600_000), None]).with_timezone("UTC")),
            true,
        ),
        ("day", Arc::new(Date32Array::from(vec![Some(20_454), None])), true),
        ("u", Arc::new(StringArray::from(vec![None, Some("plain")])), true),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let lines = |format: &Format| {
        let written = CsvEncoder::new(format, (0..10).collect()).encode(&batch).unwrap();
        written.iter().map(|line| String::from_utf8(line.unwrap().to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(&format(&[])),
        [
            "9223372036854775807,0.1,true,\"a,\"\"\n\",AP8=,-12.34,2026-01-01T00:00:00.500,2026-01-01T00:00:00Z,2026-01-01,",
            ",,,\"\",,,,,,plain"
        ]
    );
    // A delimiter that is in values, too.
    let other = format(&[("csv.delimiter", ":"), ("csv.null", "NULL"), ("csv.quote", "'")]);
    assert_eq!(lines(&other)[1], "NULL:NULL:NULL::NULL:NULL:NULL:NULL:NULL:plain");
    assert!(lines(&other)[0].contains(":'2026-01-01T00:00:00.500':"), "{}", lines(&other)[0]);
}

/// A column of each type.
fn all_types() -> Fields {
    Fields::from(vec![
        field("b", DataType::Boolean),
        field("i8", DataType::Int8),
        field("i64", DataType::Int64),
        field("f32", DataType::Float32),
        field("f64", DataType::Float64),
        field("s", DataType::Utf8),
        field("y", DataType::Binary),
        field("m", DataType::Decimal128(38, 5)),
        field("ms", DataType::Timestamp(TimeUnit::Millisecond, None)),
        field("ns", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))),
        field("d", DataType::Date32),
        field("t3", DataType::Time32(TimeUnit::Millisecond)),
        field("t9", DataType::Time64(TimeUnit::Nanosecond)),
    ])
}

type Row = ((bool, i8, i64, f32, f64), (String, Vec<u8>, i128), (i64, i64, i32, i64), u16);

fn row() -> impl Strategy<Value = Row> {
    const DAY_NANOS: i64 = 86_400_000_000_000;
    // The years 1 to 9999.
    let millis = -62_135_596_800_000..253_402_300_800_000i64;
    let text = prop_oneof![any::<String>(), "[,;\t'\"\r\nNUL a]{0,6}"];
    (
        any::<(bool, i8, i64, f32, f64)>(),
        (text, any::<Vec<u8>>(), -(10i128.pow(38) - 1)..10i128.pow(38)),
        (millis, any::<i64>(), -719_162..2_932_896i32, 0..DAY_NANOS),
        any::<u16>(),
    )
}

/// Returns the rows as a batch. Bits of the last number make values NULL, and so does a value without CSV text.
fn batch(rows: &[Row]) -> RecordBatch {
    let here = |row: &Row, column: u32| row.3 >> column & 1 == 0;
    macro_rules! column {
        ($array:ty, $column:expr, $row:ident => $value:expr) => {
            rows.iter().map(|$row| here($row, $column).then(|| $value)).collect::<$array>()
        };
    }
    let decimals = column!(Decimal128Array, 7, row => row.1.2).with_precision_and_scale(38, 5).unwrap();
    let finite = |row: &Row| (row.0.3.is_finite(), row.0.4.is_finite());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(column!(BooleanArray, 0, row => row.0.0)),
        Arc::new(column!(Int8Array, 1, row => row.0.1)),
        Arc::new(column!(Int64Array, 2, row => row.0.2)),
        Arc::new(rows.iter().map(|row| (here(row, 3) && finite(row).0).then_some(row.0.3)).collect::<Float32Array>()),
        Arc::new(rows.iter().map(|row| (here(row, 4) && finite(row).1).then_some(row.0.4)).collect::<Float64Array>()),
        Arc::new(column!(StringArray, 5, row => row.1.0.as_str())),
        Arc::new(column!(BinaryArray, 6, row => row.1.1.as_slice())),
        Arc::new(decimals),
        Arc::new(column!(TimestampMillisecondArray, 8, row => row.2.0)),
        Arc::new(column!(TimestampNanosecondArray, 9, row => row.2.1).with_timezone("UTC")),
        Arc::new(column!(Date32Array, 10, row => row.2.2)),
        Arc::new(column!(Time32MillisecondArray, 11, row => i32::try_from(row.2.3 / 1_000_000).unwrap())),
        Arc::new(column!(Time64NanosecondArray, 12, row => row.2.3)),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(all_types())), columns).unwrap()
}

fn styles() -> impl Strategy<Value = Format> {
    prop_oneof![
        Just(format(&[])),
        Just(format(&[("csv.delimiter", ";"), ("csv.null", "NULL")])),
        Just(format(&[("csv.delimiter", "\\t"), ("csv.quote", "'"), ("csv.null", "N")])),
        Just(format(&[("csv.delimiter", ":")])),
    ]
}

proptest! {
    /// All columns in one record, and each in a record of its own, in every style.
    #[test]
    fn what_is_written_is_read_as_it_was(rows in proptest::collection::vec(row(), 0..12), format in styles()) {
        let batch = batch(&rows);
        let all: Vec<usize> = (0..batch.num_columns()).collect();
        for columns in std::iter::once(all.clone()).chain(all.into_iter().map(|column| vec![column])) {
            let written = CsvEncoder::new(&format, columns.clone()).encode(&batch).unwrap();
            let records: Vec<Input<'_>> = written.iter().map(|line| Input::Bytes(line.unwrap())).collect();
            let fields: Fields = columns.iter().map(|column| batch.schema().fields()[*column].clone()).collect();
            let wanted: Vec<usize> = (0..columns.len()).collect();
            let (again, bad) = read_as(&format, &fields, &wanted, &records);
            prop_assert!(bad.is_empty(), "{bad:?}");
            for (column, again) in columns.iter().zip(&again) {
                prop_assert_eq!(batch.column(*column), again, "{}", batch.schema().field(*column).name());
            }
        }
    }

    /// If both accept a record, the fields are the same as those of the crate `csv`.
    #[test]
    fn fields_are_those_that_others_read(record in prop_oneof![any::<String>(), "[,;'\"\r\na ]{0,12}"], format in styles()) {
        agrees(&record, &format)?;
    }
}

fn agrees(record: &str, format: &Format) -> Result<(), TestCaseError> {
    let style = Style::of(format);
    let mut cells = Vec::new();
    // Others skip empty lines, and read more than one.
    if split::split(record, &style, &mut cells).is_err() || record.is_empty() {
        return Ok(());
    }
    let mut scratch = String::new();
    let ours: Vec<String> = cells.iter().map(|cell| cell.text(record, style.quote, &mut scratch).to_string()).collect();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(style.delimiter)
        .quote(style.quote)
        .from_reader(record.as_bytes());
    let all: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
    prop_assert_eq!(all.len(), 1);
    prop_assert_eq!(all[0].iter().map(String::from).collect::<Vec<_>>(), ours);
    Ok(())
}

/// An accepted record is written and read back as the same values.
fn check(payload: &[u8]) {
    for options in [&[][..], &[("csv.delimiter", ";"), ("csv.null", "NULL")]] {
        let (format, fields) = (format(options), all_types());
        let all: Vec<usize> = (0..fields.len()).collect();
        let (columns, bad) = read_as(&format, &fields, &all, &[Input::Bytes(payload)]);
        if let Ok(text) = std::str::from_utf8(payload) {
            agrees(text, &format).unwrap();
        }
        if !bad.is_empty() {
            continue;
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.clone())), columns.clone()).unwrap();
        let written = CsvEncoder::new(&format, all.clone()).encode(&batch).unwrap();
        let line = written.value(0);
        let (again, bad) = read_as(&format, &fields, &all, &[Input::Bytes(line)]);
        // Years of more than four digits are written, and not read.
        if bad.first().is_some_and(|reason| reason.contains("a timestamp") || reason.contains("a date")) {
            continue;
        }
        assert_eq!((&columns, bad.len()), (&again, 0), "{bad:?}: {}", String::from_utf8_lossy(line));
    }
}

const RECORDS: [&str; 3] = [
    "true,-12,9223372036854775807,0.5,1e308,\"a,\"\"b\"\"\",aGVsbG8=,12.345,2026-01-01T10:00:00.123,1767261600123,2026-02-28,23:59:59.999,12:30",
    ",,,,,\"\",,,,,,,",
    "NULL;NULL;1;2;3;\"x;y\";NULL;-0.00001;2026-01-01;NULL;1970-01-01;00:00;00:00:00.000000001",
];

#[test]
fn fuzz_csv_of_any_bytes() {
    bolero::check!().for_each(check);
}

#[test]
fn fuzz_csv_that_is_nearly_right() {
    bolero::check!().with_type::<(u8, Vec<(u16, u8, u8)>)>().for_each(|(record, edits)| {
        const LIKELY: &[u8] = b",;\"'\n\r -+.:eTNUL019";
        let mut bytes = RECORDS[usize::from(*record) % RECORDS.len()].as_bytes().to_vec();
        for (place, what, byte) in edits {
            let place = usize::from(*place) % (bytes.len() + 1);
            let byte = LIKELY[usize::from(*byte) % LIKELY.len()];
            match what % 4 {
                0 => bytes.insert(place, byte),
                1 if place < bytes.len() => bytes[place] = byte,
                2 if place < bytes.len() => drop(bytes.remove(place)),
                _ => bytes.truncate(place.max(bytes.len() / 2)),
            }
        }
        check(&bytes);
    });
}

#[test]
fn the_records_fuzzing_begins_with_are_taken() {
    let fields = all_types();
    for (record, style) in [(0, &[][..]), (1, &[]), (2, &[("csv.delimiter", ";"), ("csv.null", "NULL")])] {
        let (_, bad) = read(&format(style), &fields, &[RECORDS[record]]);
        assert!(bad.is_empty(), "{bad:?}");
        check(RECORDS[record].as_bytes());
    }
}
