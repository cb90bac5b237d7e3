//! Turning rows of a sink table into records: topic, key, value, headers, timestamp.
//!
//! Owns: which column becomes which part, and a record's digest. Does not own: sending, formats.
//! With a PRIMARY KEY, the record's key consists of its columns, and a deleted row has no value. Without one, the key
//! consists of the columns of `key.fields`, or is `_key`, or is missing. Metadata columns are not part of the value.
//! Invariant: in a keyed topic every record has a key, and only the record of a deleted row has no value.

use crate::error::ConnectorError;
use crate::formats::{RowEncoder, encoder};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_sql::tables::SinkTable;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// One record to write.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    pub topic: &'a str,
    /// `None` if the key decides.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    /// `None` for a record that deletes its key.
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
}

impl Record<'_> {
    /// Returns a hash (xxh3, 128 bits) of all parts. The digests of a batch's records are summed, so their order has no
    /// effect.
    pub fn digest(&self) -> u128 {
        let mut hash = Xxh3::new();
        let mut part = |bytes: Option<&[u8]>| {
            hash.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        part(Some(self.topic.as_bytes()));
        part(self.key);
        part(self.value);
        for (name, value) in &self.headers {
            part(Some(name.as_bytes()));
            part(*value);
        }
        part(self.timestamp_ms.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        hash.digest128()
    }
}

/// Encodes the rows of one table as records.
#[derive(Clone, Debug)]
pub struct RecordEncoder {
    table: String,
    topic: String,
    value: Arc<dyn RowEncoder>,
    /// Encoder of the columns of the PRIMARY KEY or of `key.fields`; `None` if there are none.
    key: Option<Arc<dyn RowEncoder>>,
    /// Whether the table has a PRIMARY KEY.
    is_keyed: bool,
    topic_column: Option<usize>,
    key_column: Option<usize>,
    headers_column: Option<usize>,
    timestamp_column: Option<usize>,
}

impl RecordEncoder {
    /// `topic` is the topic of rows if the table has no column `_topic`.
    pub fn new(table: &SinkTable, topic: &str) -> Result<Self, ConnectorError> {
        let has_metadata = table.connector.spec().metadata;
        let column = |name: &str| table.schema.index_of(name).ok().filter(|_| has_metadata);
        let columns = table.record_columns();
        let connector = &table.connector;
        let has_key = !columns.key.is_empty();
        Ok(Self {
            table: table.name.clone(),
            topic: topic.to_string(),
            value: encoder(&connector.format, columns.value)?,
            key: has_key.then(|| encoder(connector.key_format(), columns.key)).transpose()?,
            is_keyed: !table.primary_key.is_empty(),
            topic_column: column("_topic"),
            key_column: column("_key"),
            headers_column: column("_headers"),
            timestamp_column: column("_timestamp"),
        })
    }

    /// Returns the first line of a file of values, without the end of line; `None` if files begin with the first row.
    pub fn file_header(&self, table: &SinkTable) -> Option<Vec<u8>> {
        self.value.header(&table.schema)
    }

    /// Encodes every row, and passes its record to `each`.
    pub fn encode(
        &self,
        rows: &ChangeBatch,
        mut each: impl FnMut(Record<'_>) -> Result<(), ConnectorError>,
    ) -> Result<(), ConnectorError> {
        let batch = &rows.batch;
        let values = self.value.encode(batch)?;
        let made_keys = self.key.as_ref().map(|key| key.encode(batch)).transpose()?;
        let column =
            |index: Option<usize>, to: DataType| index.map(|index| self.cast(batch.column(index), &to)).transpose();
        let topics = column(self.topic_column, DataType::Utf8)?;
        let keys = column(self.key_column, DataType::Binary)?;
        let timestamps = match column(self.timestamp_column, DataType::Timestamp(TimeUnit::Millisecond, None))? {
            Some(timestamps) => Some(self.cast(&timestamps, &DataType::Int64)?),
            None => None,
        };
        for row in 0..batch.num_rows() {
            let topic = match &topics {
                None => self.topic.as_str(),
                Some(topics) if topics.is_valid(row) => topics.as_string::<i32>().value(row),
                Some(_) => return Err(self.no_topic()),
            };
            let key = match (&made_keys, &keys) {
                (Some(made), _) => made.is_valid(row).then(|| made.value(row)),
                (None, Some(keys)) => keys.is_valid(row).then(|| keys.as_binary::<i32>().value(row)),
                (None, None) => None,
            };
            let is_deleted = self.is_keyed && rows.weight(row) < 0;
            let value = (!is_deleted && values.is_valid(row)).then(|| values.value(row));
            if self.is_keyed && (key.is_none() || value.is_none() && !is_deleted) {
                return Err(self.null_record(if key.is_none() { "key" } else { "value" }));
            }
            let timestamp_ms = timestamps
                .as_ref()
                .filter(|timestamps| timestamps.is_valid(row))
                .map(|timestamps| timestamps.as_primitive::<Int64Type>().value(row));
            let headers = self.headers_column.map(|column| headers(batch.column(column), row)).unwrap_or_default();
            each(Record { topic, partition: None, key, value, headers, timestamp_ms })?;
        }
        Ok(())
    }

    fn cast(&self, column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ConnectorError> {
        cast(column, to).map_err(|error| ConnectorError::Config(format!("sink '{}': {error}", self.table)))
    }

    fn null_record(&self, part: &str) -> ConnectorError {
        let why = match part {
            "key" => "the record would have no key",
            _ => "a record without value deletes its key",
        };
        ConnectorError::Config(format!(
            "sink '{}': a row of a table with PRIMARY KEY has NULL as the whole {part} of its record, and {why}; filter \
             such rows out (WHERE … IS NOT NULL), or give the {part} a format that has NULLs, such as 'json'",
            self.table
        ))
    }

    fn no_topic(&self) -> ConnectorError {
        ConnectorError::Config(format!(
            "sink '{}': a row has NULL in _topic, so its topic is unknown; filter such rows out \
             (WHERE … IS NOT NULL) or give them a topic (COALESCE)",
            self.table
        ))
    }
}

/// Reads the headers of a row from a `List<Struct<key, value>>`; empty if the list is NULL.
fn headers(column: &ArrayRef, row: usize) -> Vec<(&str, Option<&[u8]>)> {
    let Some(list) = column.as_list_opt::<i32>().filter(|list| list.is_valid(row)) else { return Vec::new() };
    let Some(items) = list.values().as_struct_opt().filter(|items| items.num_columns() == 2) else { return Vec::new() };
    let (Some(names), values) = (items.column(0).as_string_opt::<i32>(), items.column(1)) else { return Vec::new() };
    let offsets = list.value_offsets();
    let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
    let value =
        |item: usize| match (values.is_valid(item), values.as_binary_opt::<i32>(), values.as_string_opt::<i32>()) {
            (true, Some(bytes), _) => Some(bytes.value(item)),
            (true, _, Some(text)) => Some(text.value(item).as_bytes()),
            _ => None,
        };
    (start..end).filter(|item| names.is_valid(*item)).map(|item| (names.value(item), value(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{Field, Schema};
    use highwater_connector_spec::OptionValues;
    use highwater_protocol::ids::SinkId;
    use highwater_protocol::options::OutputMode;
    use highwater_sql::formats::{Format, JSON};
    use highwater_sql::tables::{ConnectorOptions, KeyOptions};
    use std::sync::Arc;

    fn table(fields: Vec<Field>, primary_key: Vec<usize>) -> SinkTable {
        table_in("kafka", fields, primary_key)
    }

    fn table_in(connector: &str, fields: Vec<Field>, primary_key: Vec<usize>) -> SinkTable {
        SinkTable {
            id: SinkId(0),
            name: "o".into(),
            schema: Arc::new(Schema::new(fields)),
            primary_key,
            mode: OutputMode::Append,
            connector: ConnectorOptions {
                values: OptionValues::of(highwater_connector_spec::find(connector).unwrap()),
                format: Format::of(&JSON),
                key: KeyOptions::default(),
            },
        }
    }

    type Owned = (String, Option<String>, Option<String>);

    fn encode(
        table: &SinkTable,
        columns: Vec<ArrayRef>,
        weights: Option<Vec<i64>>,
    ) -> Result<Vec<Owned>, ConnectorError> {
        let batch = RecordBatch::try_new(table.schema.clone(), columns).unwrap();
        let rows = ChangeBatch { batch, weights: weights.map(Int64Array::from) };
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut all = Vec::new();
        RecordEncoder::new(table, "t")?.encode(&rows, |record| {
            all.push((record.topic.to_string(), text(record.key), text(record.value)));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn where_records_have_no_metadata_a_column_of_such_a_name_is_one_like_any_other() {
        let fields = || vec![Field::new("id", DataType::Int64, true), Field::new("_topic", DataType::Utf8, true)];
        let columns = || -> Vec<ArrayRef> {
            vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec![Some("x"), None]))]
        };
        for connector in ["console", "http"] {
            let records = encode(&table_in(connector, fields(), vec![]), columns(), None).unwrap();
            let values: Vec<&str> = records.iter().map(|(_, _, value)| value.as_deref().unwrap()).collect();
            assert_eq!(values, [r#"{"id":1,"_topic":"x"}"#, r#"{"id":2,"_topic":null}"#], "{connector}");
        }
        let nowhere = encode(&table(fields(), vec![]), columns(), None).unwrap_err().to_string();
        assert!(nowhere.contains("NULL in _topic"), "{nowhere}");
    }

    #[test]
    fn a_deleted_row_is_a_tombstone_of_its_key() {
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)];
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(Int64Array::from(vec![3, 4]))];
        let records = encode(&table(fields, vec![1, 0]), columns, Some(vec![1, -1])).unwrap();
        assert_eq!(records[0], ("t".into(), Some(r#"{"b":3,"a":1}"#.into()), Some(r#"{"a":1,"b":3}"#.into())));
        assert_eq!(records[1], ("t".into(), Some(r#"{"b":4,"a":2}"#.into()), None));
    }

    #[test]
    fn rows_say_their_topic_and_key() {
        let fields = vec![
            Field::new("_topic", DataType::Utf8, true),
            Field::new("_key", DataType::Binary, true),
            Field::new("a", DataType::Int64, true),
        ];
        let columns = |topic: Option<&str>| -> Vec<ArrayRef> {
            vec![
                Arc::new(StringArray::from(vec![topic])),
                Arc::new(BinaryArray::from_opt_vec(vec![Some(b"k")])),
                Arc::new(Int64Array::from(vec![1])),
            ]
        };
        let table = table(fields, vec![]);
        let records = encode(&table, columns(Some("elsewhere")), None).unwrap();
        assert_eq!(records, [("elsewhere".into(), Some("k".into()), Some(r#"{"a":1}"#.into()))]);
        let error = encode(&table, columns(None), None).unwrap_err().to_string();
        assert!(error.contains("_topic"), "{error}");
    }

    #[test]
    fn a_digest_tells_every_part_apart() {
        let digests = [
            Record { topic: "t", key: Some(b"k"), value: Some(b"v"), ..Record::default() },
            Record { topic: "t", key: Some(b"kv"), value: Some(b""), ..Record::default() },
            Record { topic: "t", key: Some(b"k"), value: None, ..Record::default() },
            Record { topic: "t", key: None, value: Some(b"v"), ..Record::default() },
            Record { topic: "tk", key: None, value: Some(b"v"), ..Record::default() },
            Record { topic: "t", key: Some(b"k"), value: Some(b"v"), timestamp_ms: Some(1), ..Record::default() },
            Record { topic: "t", key: Some(b"k"), value: Some(b"v"), headers: vec![("h", None)], ..Record::default() },
        ]
        .map(|record| record.digest());
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{index}");
        }
    }
}
