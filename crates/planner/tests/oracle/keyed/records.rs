//! Records of two tables: each a row, or the deletion of a key.

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use std::sync::Arc;

pub const PARTITIONS: i32 = 3;

/// One record. Its place in the case is its order.
#[derive(Clone, Debug)]
pub struct Record {
    pub table: usize,
    /// The key, which determines the partition.
    pub id: i64,
    pub k: Option<u8>,
    pub b: Option<i64>,
    pub x: Option<i64>,
    pub ts_ms: Option<i64>,
    pub deleted: bool,
    jitter_ms: i64,
}

impl Record {
    /// Returns a record of key 1.
    pub fn of(table: usize, ts_ms: i64, x: i64, deleted: bool) -> Self {
        Self { table, id: 1, k: None, b: None, x: Some(x), ts_ms: Some(ts_ms), deleted, jitter_ms: 0 }
    }

    /// Returns the partition, the same for all records of a key.
    pub fn partition(&self) -> i32 {
        (self.id % i64::from(PARTITIONS)) as i32
    }

    pub fn key_text(&self) -> Option<String> {
        self.k.map(|k| format!("K{k}"))
    }
}

/// Returns random records of few keys, often deleted, with times out of order.
pub fn records() -> impl Strategy<Value = Vec<Record>> {
    let jitter = (-9i64..7, prop_oneof![Just(0i64), Just(-1), Just(1)]).prop_map(|(s, ms)| s * 1_000 + ms);
    let record = (
        0usize..2,
        0i64..5,
        prop::option::weighted(0.9, 0u8..3),
        prop::option::weighted(0.9, 0i64..3),
        prop::option::weighted(0.8, -50i64..50),
        (jitter, prop::bool::weighted(0.05)),
        prop::bool::weighted(0.2),
    );
    let record = record.prop_map(|(table, id, k, b, x, (jitter_ms, timeless), deleted)| {
        let ts_ms = (!timeless || deleted).then_some(0);
        Record { table, id, k, b, x, ts_ms, deleted, jitter_ms }
    });
    prop::collection::vec(record, 0..70).prop_map(|mut records| {
        for (place, record) in records.iter_mut().enumerate() {
            record.ts_ms = record.ts_ms.map(|_| 100_000 + place as i64 * 1_000 + record.jitter_ms);
        }
        records
    })
}

/// Returns all columns of a record.
pub fn record_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let fields = ["n", "id", "b", "x"].map(number).into_iter().chain([
        Field::new("k", DataType::Utf8, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("__deleted", DataType::Boolean, false),
    ]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Returns the records with these ids as a source decodes them: columns by name; deletions have only key and time.
pub fn batch_of(records: &[Record], ids: &[usize], layout: &SchemaRef) -> RecordBatch {
    let number = |get: &dyn Fn(&Record) -> Option<i64>, kept: bool| -> Int64Array {
        ids.iter().map(|id| &records[*id]).map(|r| get(r).filter(|_| kept || !r.deleted)).collect()
    };
    let column = |name: &str| -> ArrayRef {
        match name {
            // The place in the case tells rows of tables without key apart.
            "n" => Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| *id as i64))),
            "id" => Arc::new(number(&|record| Some(record.id), true)),
            "b" => Arc::new(number(&|record| record.b, false)),
            "x" => Arc::new(number(&|record| record.x, false)),
            "k" => {
                let texts = ids.iter().map(|id| &records[*id]).map(|r| r.key_text().filter(|_| !r.deleted));
                Arc::new(texts.collect::<StringArray>())
            }
            "ts" => Arc::new(ids.iter().map(|id| records[*id].ts_ms).collect::<TimestampMillisecondArray>()),
            "__deleted" => Arc::new(ids.iter().map(|id| Some(records[*id].deleted)).collect::<BooleanArray>()),
            other => panic!("no column {other}"),
        }
    };
    let columns = layout.fields().iter().map(|field| column(field.name())).collect();
    RecordBatch::try_new(layout.clone(), columns).unwrap()
}
