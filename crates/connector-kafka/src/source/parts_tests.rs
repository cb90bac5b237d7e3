//! Every format of values with every format of keys, in every form of table: a source reads the rows that a sink wrote.

use super::super::chunk::ChunkDecoder;
use super::super::raw::RawRecords;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use highwater_connector_api::sink::records::RecordEncoder;
use highwater_connector_spec::OptionValues;
use highwater_connector_spec::kafka::KAFKA;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{SinkId, SourceId};
use highwater_protocol::offsets::TopicPartition;
use highwater_protocol::options::{OnBadRecord, OutputMode, SourceOptions};
use highwater_sql::formats::{FORMATS, Format, FormatSpec};
use highwater_sql::tables::{ConnectorOptions, KeyOptions, SinkTable, SourceTable, UpsertKey};
use std::sync::Arc;

/// How the columns `k` and `v` are distributed over key and value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// Only `v`, no key.
    Append,
    /// `k` is the PRIMARY KEY.
    Keyed,
    KeyedApart,
    KeyFields,
    KeyFieldsApart,
}

const FORMS: [Form; 5] = [Form::Append, Form::Keyed, Form::KeyedApart, Form::KeyFields, Form::KeyFieldsApart];

impl Form {
    fn is_keyed(self) -> bool {
        matches!(self, Self::Keyed | Self::KeyedApart)
    }

    fn schema(self) -> Arc<Schema> {
        let names: &[&str] = if self == Self::Append { &["v"] } else { &["k", "v"] };
        Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>()))
    }

    fn connector(self, value: &'static FormatSpec, key: &'static FormatSpec) -> ConnectorOptions {
        let fields = if matches!(self, Self::KeyFields | Self::KeyFieldsApart) { vec!["k".into()] } else { vec![] };
        ConnectorOptions {
            values: OptionValues::of(&KAFKA),
            format: Format::of(value),
            key: KeyOptions {
                format: Some(Format::of(key)),
                fields,
                apart: matches!(self, Self::KeyedApart | Self::KeyFieldsApart),
            },
        }
    }
}

/// A row of `k` and `v`, and whether it is an insert or a retract.
type Row = (Option<&'static str>, Option<&'static str>, i64);

type Parts = (Option<Vec<u8>>, Option<Vec<u8>>);

fn written(form: Form, connector: &ConnectorOptions, rows: &[Row]) -> Result<Vec<Parts>, String> {
    let schema = form.schema();
    let table = SinkTable {
        id: SinkId(0),
        name: "o".into(),
        schema: schema.clone(),
        primary_key: if form.is_keyed() { vec![0] } else { vec![] },
        mode: OutputMode::Append,
        connector: connector.clone(),
    };
    let texts =
        |get: fn(&Row) -> Option<&'static str>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<StringArray>()) };
    let columns = [texts(|row| row.0), texts(|row| row.1)];
    let columns = columns[2 - schema.fields().len()..].to_vec();
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let rows = ChangeBatch { batch, weights: Some(Int64Array::from_iter_values(rows.iter().map(|row| row.2))) };
    let mut records = Vec::new();
    let encoder = RecordEncoder::new(&table, "t").map_err(|error| error.to_string())?;
    let all = encoder.encode(&rows, |record| {
        records.push((record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec)));
        Ok(())
    });
    all.map(|()| records).map_err(|error| error.to_string())
}

/// Decoded rows, and the reasons of bad records.
fn read(form: Form, connector: &ConnectorOptions, records: &[Parts]) -> (RecordBatch, Vec<String>) {
    let schema = form.schema();
    let table = SourceTable {
        id: SourceId(0),
        name: "t".into(),
        columns_used: (0..schema.fields().len()).collect(),
        schema,
        connector: connector.clone(),
        options: SourceOptions { on_bad_record: OnBadRecord::Skip, ..SourceOptions::default() },
        watermark: None,
        event_time: None,
        upsert: form.is_keyed().then(|| UpsertKey { columns: vec![0], time: None }),
        dead_letters: None,
    };
    let mut decoder = ChunkDecoder::new(&table).unwrap();
    let mut raw = RawRecords::default();
    for (offset, (key, value)) in records.iter().enumerate() {
        let key = key.as_deref().filter(|_| decoder.keep.keys);
        raw.push_parts(offset as i64, Some(5000), key, value.as_deref(), None);
    }
    let chunk = decoder.decode(&TopicPartition::new("t", 0), &raw).unwrap().slice(0, 100).unwrap();
    (chunk.batch, chunk.bad.into_iter().map(|bad| bad.reason).collect())
}

fn pairs() -> Vec<(Form, &'static FormatSpec, &'static FormatSpec)> {
    let values: Vec<&FormatSpec> = FORMATS.iter().copied().filter(|spec| spec.reads && spec.writes).collect();
    let keys: Vec<&FormatSpec> = values.iter().copied().filter(|spec| spec.keys).collect();
    let mut all = Vec::new();
    for form in FORMS {
        for value in &values {
            all.extend(keys.iter().map(|key| (form, *value, *key)));
        }
    }
    all
}

#[test]
fn what_a_sink_writes_a_source_reads_as_it_was() {
    for (form, value, key) in pairs() {
        let connector = form.connector(value, key);
        let mut rows: Vec<Row> =
            vec![(Some("a,b"), Some("\"x\"\n"), 1), (Some(""), Some(""), 1), (Some("c"), Some("y"), 1)];
        match form.is_keyed() {
            true => rows.push((Some("gone"), None, -1)),
            false => rows.extend([(None, Some("z"), 1), (Some("d"), None, 1)]),
        }
        let records = written(form, &connector, &rows).unwrap();
        let (batch, bad) = read(form, &connector, &records);
        let context = format!("{form:?}, values {}, keys {}", value.name, key.name);
        assert!(bad.is_empty(), "{context}: {bad:?}");
        let texts =
            |name: &str| batch.column_by_name(name).map(|column| column.as_string::<i32>().iter().collect::<Vec<_>>());
        let values: Vec<_> = rows.iter().map(|row| row.1).collect();
        assert_eq!(texts("v"), Some(values), "{context}");
        if form != Form::Append {
            assert_eq!(texts("k"), Some(rows.iter().map(|row| row.0).collect()), "{context}");
        }
        if form.is_keyed() {
            assert!(records[3].1.is_none(), "{context}");
            let deleted = batch.column(2).as_boolean();
            assert_eq!((deleted.true_count(), deleted.value(3), deleted.null_count()), (1, true, 0), "{context}");
        }
    }
}

#[test]
fn a_record_without_value_is_null_where_that_is_a_value_and_bad_elsewhere() {
    for (form, value, key) in pairs().into_iter().filter(|(form, ..)| !form.is_keyed()) {
        let connector = form.connector(value, key);
        let (batch, bad) = read(form, &connector, &[(None, None)]);
        match value.single {
            true => assert!(bad.is_empty() && batch.column(0).is_null(0), "{}: {bad:?}", value.name),
            false => assert!(bad[0].contains("(a tombstone)") && batch.num_rows() == 0, "{}: {bad:?}", value.name),
        }
    }
}

#[test]
fn a_keyed_row_that_would_be_no_record_is_an_error() {
    for (form, value, key) in pairs().into_iter().filter(|(form, ..)| form.is_keyed()) {
        let connector = form.connector(value, key);
        let refused = |row: Row| written(form, &connector, &[row]).err();
        let no_key = refused((None, Some("x"), 1));
        assert_eq!(no_key.as_deref().is_some_and(|error| error.contains("NULL as the whole key")), key.single);
        let no_value = refused((Some("a"), None, 1));
        assert_eq!(no_value.as_deref().is_some_and(|error| error.contains("NULL as the whole value")), value.single);
        assert_eq!(refused((Some("a"), None, -1)), None, "a deletion has no value");
    }
}
