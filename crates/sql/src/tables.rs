//! Tables as a compiled script uses them: those it reads, writes and looks up, and the options of their connectors.
//!
//! Owns: their shape. Does not own: making them (the planner), reading and writing them (crate `connectors`).
//! Invariant: references to secrets in option values stay unresolved.

use crate::formats::{Format, RAW};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use highwater_connector_spec::{ConnectorSpec, LookupKind, OptionValues, Use};
use highwater_protocol::ids::{SinkId, SourceId};
use highwater_protocol::options::{OutputMode, SourceOptions};
use std::sync::Arc;

/// A table that an INSERT reads.
#[derive(Clone, Debug)]
pub struct SourceTable {
    pub id: SourceId,
    /// The table's name in the script.
    pub name: String,
    /// Declared physical columns, then the metadata columns (`_key`, …) the query uses.
    pub schema: SchemaRef,
    pub connector: ConnectorOptions,
    pub options: SourceOptions,
    /// Expression over `schema` that evaluates to `Timestamp(Millisecond)`; `None` = there is none, or it is not needed.
    pub watermark: Option<Arc<dyn PhysicalExpr>>,
    /// The column of WATERMARK FOR, if the query needs it.
    pub event_time: Option<usize>,
    /// Columns of `schema` the query needs, ascending: see [`SourceTable::layout`].
    pub columns_used: Vec<usize>,
    /// How records replace one another, for a table with PRIMARY KEY; `None` = they do not.
    pub upsert: Option<UpsertKey>,
    /// The hidden sink of records that do not decode, or on which an expression fails.
    pub dead_letters: Option<SinkId>,
}

/// The key by which records replace one another: the last record of a key counts, and one without value deletes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpsertKey {
    /// Columns of the table's schema in the order of its PRIMARY KEY; all are among those used.
    pub columns: Vec<usize>,
    /// The column of `WATERMARK FOR`, if it is used. For a record without value it holds Kafka's timestamp.
    pub time: Option<usize>,
}

/// The hidden last column of tables with PRIMARY KEY: true if the record deletes its key.
pub const DELETED_COLUMN: &str = "__deleted";

impl SourceTable {
    /// Returns the schema of decoded batches: the columns used, then [`DELETED_COLUMN`] if the table has a PRIMARY KEY.
    pub fn layout(&self) -> SchemaRef {
        let mut fields: Vec<Field> =
            self.columns_used.iter().map(|column| self.schema.field(*column).clone()).collect();
        if self.upsert.is_some() {
            fields.push(Field::new(DELETED_COLUMN, DataType::Boolean, false));
        }
        Arc::new(Schema::new(fields))
    }

    /// Returns the place of a column of `schema` in [`layout`](Self::layout); `None` if it is not used.
    pub fn place(&self, column: usize) -> Option<usize> {
        self.columns_used.binary_search(&column).ok()
    }
}

/// A table that an INSERT writes.
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

/// A lookup table that the driver reads whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTable {
    /// The table's name in the script.
    pub name: String,
    pub schema: SchemaRef,
    pub connector: ConnectorOptions,
    /// True if the query keeps the version that it started with.
    pub pinned: bool,
}

impl SnapshotTable {
    /// Returns the pause between two checks for a new version, in milliseconds; `None` = the table is read once per run.
    pub fn refresh_ms(&self) -> Option<u64> {
        match self.connector.spec().lookup.as_ref()? {
            LookupKind::Snapshot { refresh } => self.connector.values.number(refresh),
        }
    }
}

/// A table's connector and its options. References to secrets stay unresolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorOptions {
    pub values: OptionValues,
    /// Format of record values, or of files.
    pub format: Format,
    pub key: KeyOptions,
}

impl ConnectorOptions {
    pub fn spec(&self) -> &'static ConnectorSpec {
        self.values.spec()
    }

    /// Returns the connector's name, the value of `'connector'`.
    pub fn name(&self) -> &'static str {
        self.spec().name
    }

    /// True if the connector's tables can be used as `wanted`.
    pub fn is(&self, wanted: Use) -> bool {
        self.spec().is(wanted)
    }

    /// Returns the table's place in the connector, such as a topic; `None` if rows name it, or if there is only one place.
    pub fn place(&self) -> Option<&str> {
        self.values.text(self.spec().place.as_ref()?.option)
    }

    /// Returns the options of a table of raw records at another place in the connector; `None` if there is only one place.
    pub fn beside(&self, place: &str) -> Option<Self> {
        let option = self.spec().place.as_ref()?.option;
        let (format, key) = (Format::of(&RAW), KeyOptions::default());
        Some(Self { values: self.values.clone().with(option, place), format, key })
    }

    /// Describes the table for people, without secrets.
    pub fn describe(&self) -> String {
        (self.spec().describe)(&self.values)
    }

    /// Returns the format of record keys, if columns make them.
    pub fn key_format(&self) -> &Format {
        self.key.format.as_ref().unwrap_or(&self.format)
    }
}

/// How record keys are encoded, and their columns if there is no PRIMARY KEY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// `None` = the format of values.
    pub format: Option<Format>,
    /// `key.fields`: the columns of the key, in their order.
    pub fields: Vec<String>,
    /// True if the value leaves out the key's columns.
    pub apart: bool,
}
