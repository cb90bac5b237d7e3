//! Which columns of a table are in a record's key, and which in its value.
//!
//! Owns: that rule. Does not own: what a format makes of them. Invariants: a column that is no metadata is in the key or in
//! the value or in both; both lists are in the order of the record.

use crate::metadata_columns::METADATA;
use crate::tables::{ConnectorOptions, SinkTable, SourceTable};
use datafusion::arrow::datatypes::Schema;

/// Columns of a table's schema by the part of the record that holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordColumns {
    /// In the order of the PRIMARY KEY, or of `key.fields`.
    pub key: Vec<usize>,
    pub value: Vec<usize>,
    /// A record's key columns are what its key says, even where the value says something, too.
    pub by_key: bool,
}

/// Metadata columns that say where a record is; the others say what it is, and can be written.
const PLACES: [&str; 2] = ["_partition", "_offset"];

impl RecordColumns {
    /// Of a table that is read.
    pub fn read(schema: &Schema, primary_key: &[usize], connector: &ConnectorOptions) -> Self {
        Self::of(schema, primary_key, connector, |name| METADATA.contains(&name))
    }

    /// Of a table that is written.
    pub fn written(schema: &Schema, primary_key: &[usize], connector: &ConnectorOptions) -> Self {
        // Where records have no metadata, a column of such a name is one like any other.
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
        // Where the value is one column, that is the one beside the key.
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
