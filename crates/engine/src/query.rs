//! What the tables of a script are to the outside: sources to read, sinks to write.
//!
//! Owns: the shape of a compiled table. Does not own: making it (the SQL frontend), reading and
//! writing Kafka (crate `connectors`). Invariant: option values hold secrets only as references.

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_core::ids::{SinkId, SourceId};
use highwater_core::options::{OutputMode, SourceOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A table some INSERT reads.
#[derive(Clone, Debug)]
pub struct SourceTable {
    pub id: SourceId,
    /// The table's name in the script.
    pub name: String,
    /// Declared physical columns, then the metadata columns (`_key`, …) the query uses.
    pub schema: SchemaRef,
    pub connector: ConnectorOptions,
    pub options: SourceOptions,
    /// Over `schema`; evaluates to `Timestamp(Millisecond)`.
    pub watermark: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of `schema` the query needs, ascending: the layout of decoded batches.
    pub columns_used: Vec<usize>,
}

/// A table some INSERT writes.
#[derive(Clone, Debug)]
pub struct SinkTable {
    pub id: SinkId,
    /// The table's name in the script.
    pub name: String,
    pub schema: SchemaRef,
    /// Columns of the PRIMARY KEY, in its order; empty = none.
    pub primary_key: Vec<usize>,
    pub mode: OutputMode,
    pub connector: ConnectorOptions,
}

/// The WITH options a connector needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectorOptions {
    Kafka(KafkaOptions),
    Console,
}

/// Options of a Kafka table. Values keep `${env:X}` and `${file:X}` unresolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOptions {
    /// Absent only in a sink that routes by a `_topic` column.
    pub topic: Option<String>,
    pub bootstrap_servers: String,
    pub format: Format,
    /// The `kafka.*` options, without the prefix.
    pub properties: BTreeMap<String, String>,
}

/// How record values are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
}
