//! Random tables and their records.
//!
//! Owns: column types, the few values of each (so that keys meet), NULLs, event times that are never late.
//! Does not own: queries over them (`relation`).

use super::tape::Tape;
use crate::harness::Records;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partitions of each table.
pub const PARTITIONS: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bigint,
    Int,
    Double,
    Decimal,
    String,
    Boolean,
    Date,
    Timestamp,
    /// `ARRAY<BIGINT>`
    List,
    /// `STRUCT<a BIGINT, b STRING>`
    Struct,
}

impl Type {
    pub const ALL: [Self; 10] = [
        Self::Bigint,
        Self::String,
        Self::Int,
        Self::Double,
        Self::Decimal,
        Self::Boolean,
        Self::Date,
        Self::Timestamp,
        Self::List,
        Self::Struct,
    ];

    pub fn sql(self) -> &'static str {
        match self {
            Self::Bigint => "BIGINT",
            Self::Int => "INT",
            Self::Double => "DOUBLE",
            Self::Decimal => "DECIMAL(10, 2)",
            Self::String => "STRING",
            Self::Boolean => "BOOLEAN",
            Self::Date => "DATE",
            Self::Timestamp => "TIMESTAMP(3)",
            Self::List => "ARRAY<BIGINT>",
            Self::Struct => "STRUCT<a BIGINT, b STRING>",
        }
    }

    fn arrow(self) -> DataType {
        match self {
            Self::Bigint => DataType::Int64,
            Self::Int => DataType::Int32,
            Self::Double => DataType::Float64,
            Self::Decimal => DataType::Decimal128(10, 2),
            Self::String => DataType::Utf8,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::List => DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true))),
            Self::Struct => DataType::Struct(
                vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)].into(),
            ),
        }
    }

    /// True for numbers that can be summed.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Bigint | Self::Int | Self::Double | Self::Decimal)
    }

    /// True unless it is a list or a struct.
    pub fn is_plain(self) -> bool {
        !matches!(self, Self::List | Self::Struct)
    }

    /// Returns one of few values as JSON. Floats are quarters, since their sums are exact in any order.
    fn value(self, choice: u16) -> Value {
        let which = usize::from(choice / 8 % 5);
        if choice.is_multiple_of(8) {
            return Value::Null;
        }
        match self {
            Self::Bigint => json!([1, 0, 2, 7, -3][which]),
            Self::Int => json!([1, 2, 0, -3, 5][which]),
            Self::Double => json!([2.0, 0.25, 0.0, -1.5, 10.75][which]),
            Self::Decimal => json!(["2.00", "0.25", "0.00", "-1.50", "10.75"][which]),
            Self::String => json!(["a", "b", "B", "", "ab"][which]),
            Self::Boolean => json!(which % 2 == 0),
            Self::Date => json!(["2026-01-01", "2026-01-02", "2025-12-31", "2024-02-29", "1969-12-31"][which]),
            Self::Timestamp => json!(
                [
                    "2026-01-01T00:00:00",
                    "2026-01-01T00:00:01.500",
                    "2026-01-01T10:00:00",
                    "1969-12-31T23:59:59.999",
                    "2025-06-01T00:00:00"
                ][which]
            ),
            Self::List => [json!([1]), json!([1, 2]), json!([]), json!([null]), json!([3, 1, 1])][which].clone(),
            Self::Struct => {
                let (a, b) =
                    [(json!(1), json!("a")), (json!(2), json!("b")), (Value::Null, json!("a"))][which % 3].clone();
                json!({"a": a, "b": b})
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<(String, Type)>,
    /// True if it has a column `ts` with a WATERMARK for which no record is late.
    pub timed: bool,
}

/// Returns two or three random tables.
pub fn tables(tape: &mut Tape) -> Vec<Table> {
    let count = 2 + tape.pick(2);
    let table = |index: usize| {
        let width = 2 + tape.pick(4);
        let mut columns: Vec<(String, Type)> =
            (0..width).map(|column| (format!("c{column}"), *tape.one(&Type::ALL))).collect();
        let timed = tape.pick(2) == 1;
        if timed {
            columns.push(("ts".into(), Type::Timestamp));
        }
        Table { name: format!("t{index}"), columns, timed }
    };
    (0..count).map(table).collect()
}

impl Table {
    pub fn create(&self) -> String {
        let mut columns: Vec<String> =
            self.columns.iter().map(|(name, data_type)| format!("{name} {}", data_type.sql())).collect();
        if self.timed {
            columns.push("WATERMARK FOR ts AS ts - INTERVAL '5' SECOND".into());
        }
        create(&self.name, &columns)
    }

    pub fn schema(&self) -> SchemaRef {
        let field = |(name, data_type): &(String, Type)| Field::new(name, data_type.arrow(), true);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}

/// Returns the CREATE TABLE of a topic of the table's name.
pub fn create(name: &str, columns: &[String]) -> String {
    format!(
        "CREATE TABLE {name} ({}) WITH ('connector'='kafka', 'topic'='{name}', 'bootstrap.servers'='localhost:1', \
         'format'='json');\n",
        columns.join(", ")
    )
}

/// A record: table, partition, and the choices for its values.
pub type RowSpec = (u16, u16, [u16; 6]);

/// Rows by table and partition, in the form that the cluster reads.
pub type Logs = BTreeMap<(String, i32), RecordBatch>;

pub fn logs(tables: &[Table], rows: &[RowSpec]) -> (Logs, Records) {
    let mut lines: BTreeMap<(usize, i32), String> = BTreeMap::new();
    for (at, (table, partition, choices)) in rows.iter().enumerate() {
        let table = usize::from(*table) % tables.len();
        let value = |(index, (name, data_type)): (usize, &(String, Type))| {
            let value = match name.as_str() {
                // Up to three seconds after those that come later: the watermark waits for five.
                "ts" => json!(1_767_225_600_000_i64 + at as i64 * 1_000 + i64::from(choices[index] % 4) * 1_000),
                _ => data_type.value(choices[index]),
            };
            (name.clone(), value)
        };
        let record: serde_json::Map<String, Value> = tables[table].columns.iter().enumerate().map(value).collect();
        let line = lines.entry((table, i32::from(*partition) % PARTITIONS)).or_default();
        line.push_str(&Value::Object(record).to_string());
        line.push('\n');
    }
    let mut records = Records::default();
    tables.iter().for_each(|table| records.partitions(&table.name, PARTITIONS));
    let mut logs = Logs::new();
    for ((table, partition), lines) in lines {
        let rows = decode(&tables[table].schema(), &lines);
        records.append(&tables[table].name, partition, rows.clone());
        logs.insert((tables[table].name.clone(), partition), rows);
    }
    (logs, records)
}

fn decode(schema: &SchemaRef, lines: &str) -> RecordBatch {
    let mut decoder = arrow_json::ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
    decoder.decode(lines.as_bytes()).unwrap();
    decoder.flush().unwrap().unwrap()
}
