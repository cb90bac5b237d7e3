//! Records of topics: the decoded rows of every table and partition, in order.
//!
//! Owns: laying them out in a source's schema, with metadata columns; which records of a keyed table delete
//! their key. Does not own: where a batch ends (`cluster`). Invariant: a record's offset is its place in its partition.

use super::fold::texts;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use highwater_sql::tables::DELETED_COLUMN;
use highwater_sql::tables::SourceTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows by table and partition. A table without entry has one empty partition.
#[derive(Clone, Debug, Default)]
pub struct Records {
    tables: BTreeMap<String, BTreeMap<i32, Vec<RecordBatch>>>,
}

impl Records {
    /// Appends rows to a partition. Columns are matched by name; missing ones are NULL. In a keyed table, `__deleted` marks
    /// a record without value, which has only a key and a time.
    pub fn append(&mut self, table: &str, partition: i32, rows: RecordBatch) {
        self.tables.entry(table.to_string()).or_default().entry(partition).or_default().push(rows);
    }

    /// Sets the number of the table's partitions, unless it has more.
    pub fn partitions(&mut self, table: &str, count: i32) {
        let partitions = self.tables.entry(table.to_string()).or_default();
        for partition in 0..count {
            partitions.entry(partition).or_default();
        }
    }

    /// Returns each partition of a source in its schema; a keyed table has `__deleted` as the last column.
    pub fn of(&self, source: &SourceTable) -> BTreeMap<i32, RecordBatch> {
        let one = BTreeMap::from([(0, Vec::new())]);
        let partitions = self.tables.get(&source.name).unwrap_or(&one);
        partitions.iter().map(|(partition, parts)| (*partition, log(source, *partition, parts))).collect()
    }
}

/// Returns the rows of a partition as one batch.
fn log(source: &SourceTable, partition: i32, parts: &[RecordBatch]) -> RecordBatch {
    let mut fields: Vec<Arc<Field>> = source.schema.fields().iter().cloned().collect();
    if source.upsert.is_some() {
        fields.push(Arc::new(Field::new(DELETED_COLUMN, DataType::Boolean, false)));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut first = 0;
    let batches: Vec<RecordBatch> = parts
        .iter()
        .map(|rows| {
            let offset = first;
            first += rows.num_rows() as i64;
            laid_out(&schema, rows, |field| supplied(field, &source.name, partition, offset, rows.num_rows()))
        })
        .collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Returns which rows are not deletions.
pub fn are_rows(log: &RecordBatch) -> BooleanArray {
    match log.column_by_name(DELETED_COLUMN) {
        Some(deleted) => arrow::compute::not(deleted.as_boolean()).unwrap(),
        None => BooleanArray::from(vec![true; log.num_rows()]),
    }
}

/// Returns columns by name, cast to their declared types. Missing ones come from `missing`, or are NULL.
fn laid_out(schema: &SchemaRef, rows: &RecordBatch, missing: impl Fn(&Field) -> Option<ArrayRef>) -> RecordBatch {
    let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => column.clone(),
        Some(column) => cast(column, field.data_type()).unwrap(),
        None => missing(field).unwrap_or_else(|| new_null_array(field.data_type(), rows.num_rows())),
    };
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).unwrap()
}

fn supplied(field: &Field, topic: &str, partition: i32, first: i64, rows: usize) -> Option<ArrayRef> {
    let column: ArrayRef = match field.name().as_str() {
        "_topic" => Arc::new(StringArray::from(vec![topic; rows])),
        "_partition" => Arc::new(Int32Array::from(vec![partition; rows])),
        DELETED_COLUMN => Arc::new(BooleanArray::from(vec![false; rows])),
        "_offset" => Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
        _ => return None,
    };
    Some(column)
}

/// Decodes a record from its JSON object.
pub fn decoded(schema: &SchemaRef, object: &str) -> Result<RecordBatch, String> {
    let mut decoder =
        arrow_json::ReaderBuilder::new(schema.clone()).build_decoder().map_err(|error| error.to_string())?;
    decoder.decode(object.as_bytes()).map_err(|error| error.to_string())?;
    decoder.flush().map_err(|error| error.to_string())?.ok_or_else(|| "no record".into())
}

pub fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Returns records without value for these keys.
pub fn deletions(keys: &RecordBatch) -> RecordBatch {
    let deleted = Arc::new(Field::new(DELETED_COLUMN, DataType::Boolean, false));
    let fields: Vec<_> = keys.schema().fields().iter().cloned().chain([deleted]).collect();
    let column: ArrayRef = Arc::new(BooleanArray::from(vec![true; keys.num_rows()]));
    let columns = keys.columns().iter().cloned().chain([column]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Returns one of three partitions, the same for all records of a key.
pub fn partition_of(row: &RecordBatch, key: &[String]) -> i32 {
    let texts = texts(row);
    let schema = row.schema();
    let place = |name: &String| schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name));
    let values = key.iter().map(|name| place(name).map_or("", |column| &texts[0][column]));
    (xxhash_rust::xxh3::xxh3_64(values.collect::<Vec<_>>().join("\n").as_bytes()) % 3) as i32
}
