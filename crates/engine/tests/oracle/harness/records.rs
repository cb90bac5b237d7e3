//! Records of topics: for every table and partition the decoded rows, in order.
//!
//! Owns: their layout as a source's schema asks for it, metadata columns filled in.
//! Does not own: where a batch ends (`cluster`). Invariant: a record's offset is its place in its partition.

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{Field, SchemaRef};
use highwater_engine::SourceTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows by table and partition. A table that is not named has one empty partition.
#[derive(Clone, Debug, Default)]
pub struct Records {
    tables: BTreeMap<String, BTreeMap<i32, Vec<RecordBatch>>>,
}

impl Records {
    /// Appends rows to a partition; columns by name, those that are missing are NULL.
    pub fn append(&mut self, table: &str, partition: i32, rows: RecordBatch) {
        self.tables.entry(table.to_string()).or_default().entry(partition).or_default().push(rows);
    }

    /// Makes sure that the table has so many partitions.
    pub fn partitions(&mut self, table: &str, count: i32) {
        let partitions = self.tables.entry(table.to_string()).or_default();
        for partition in 0..count {
            partitions.entry(partition).or_default();
        }
    }

    /// Each partition of a source, laid out as its schema.
    pub fn of(&self, source: &SourceTable) -> BTreeMap<i32, RecordBatch> {
        let one = BTreeMap::from([(0, Vec::new())]);
        let partitions = self.tables.get(&source.name).unwrap_or(&one);
        partitions.iter().map(|(partition, parts)| (*partition, log(source, *partition, parts))).collect()
    }
}

/// One partition's rows as one batch.
fn log(source: &SourceTable, partition: i32, parts: &[RecordBatch]) -> RecordBatch {
    let mut first = 0;
    let batches: Vec<RecordBatch> = parts
        .iter()
        .map(|rows| {
            let offset = first;
            first += rows.num_rows() as i64;
            laid_out(&source.schema, rows, |field| metadata(field, &source.name, partition, offset, rows.num_rows()))
        })
        .collect();
    concat_batches(&source.schema, &batches).unwrap()
}

/// Columns by name, cast to their declared types; `missing` may know those that are not there, else they are NULL.
fn laid_out(schema: &SchemaRef, rows: &RecordBatch, missing: impl Fn(&Field) -> Option<ArrayRef>) -> RecordBatch {
    let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => column.clone(),
        Some(column) => cast(column, field.data_type()).unwrap(),
        None => missing(field).unwrap_or_else(|| new_null_array(field.data_type(), rows.num_rows())),
    };
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).unwrap()
}

fn metadata(field: &Field, topic: &str, partition: i32, first: i64, rows: usize) -> Option<ArrayRef> {
    let column: ArrayRef = match field.name().as_str() {
        "_topic" => Arc::new(StringArray::from(vec![topic; rows])),
        "_partition" => Arc::new(Int32Array::from(vec![partition; rows])),
        "_offset" => Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
        _ => return None,
    };
    Some(column)
}
