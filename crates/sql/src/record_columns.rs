//! Which columns of a table are in a record's key, and which in its value.
//!
//! Owns: that rule. Does not own: how a format encodes them. Invariants: a column other than metadata is in the key, in the
//! value or in both; both lists are in the order of the record.

use crate::metadata_columns::METADATA;
use crate::tables::{ConnectorOptions, SinkTable, SourceTable};
use datafusion::arrow::datatypes::Schema;

/// Indexes of a table's columns, by the part of the record that holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordColumns {
    /// In the order of the PRIMARY KEY, or of `key.fields`; empty = keys hold no columns.
    pub key: Vec<usize>,
    pub value: Vec<usize>,
    /// True if key columns are read from the record's key, even where the value holds them too.
    pub by_key: bool,
}

/// Metadata columns that give a record's position and cannot be written. The other metadata columns can.
const PLACES: [&str; 2] = ["_partition", "_offset"];

impl RecordColumns {
    /// Returns the columns of a table that is read.
    pub fn read(schema: &Schema, primary_key: &[usize], connector: &ConnectorOptions) -> Self {
        Self::of(schema, primary_key, connector, |name| METADATA.contains(&name))
    }

    /// Returns the columns of a table that is written.
    pub fn written(schema: &Schema, primary_key: &[usize], connector: &ConnectorOptions) -> Self {
        // In a connector without metadata, a column of such a name is an ordinary column.
        let has_metadata = connector.spec().metadata;
        let is_metadata = |name: &str| has_metadata && METADATA.contains(&name) && !PLACES.contains(&name);
        Self::of(schema, primary_key, connector, is_metadata)
    }

    fn of(
        schema: &Schema,
        primary_key: &[usize],
        connector: &ConnectorOptions,
        is_metadata: impl Fn(&str) -> bool,
    ) -> Self {
        let stored = (0..schema.fields().len()).filter(|column| !is_metadata(schema.field(*column).name()));
        let named = || connector.key.fields.iter().filter_map(|name| schema.index_of(name).ok());
        let key: Vec<usize> = if primary_key.is_empty() { named().collect() } else { primary_key.to_vec() };
        // A format whose value is a single column holds the column that is not in the key.
        let apart = connector.key.apart || connector.format.spec().single;
        let value = stored.filter(|column| !apart || !key.contains(column)).collect();
        Self { key, value, by_key: apart || !connector.key.fields.is_empty() }
    }
}

impl SourceTable {
    pub fn record_columns(&self) -> RecordColumns {
        let key = self.upsert.as_ref().map(|upsert| upsert.columns.as_slice()).unwrap_or_default();
        RecordColumns::read(&self.schema, key, &self.connector)
    }
}

impl SinkTable {
    pub fn record_columns(&self) -> RecordColumns {
        RecordColumns::written(&self.schema, &self.primary_key, &self.connector)
    }
}
