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
    /// The column of WATERMARK FOR, if the query needs it.
    pub event_time: Option<usize>,
    /// Columns of `schema` the query needs, ascending: see [`SourceTable::layout`].
    pub columns_used: Vec<usize>,
    /// Of a table with PRIMARY KEY: how its records replace one another.
    pub upsert: Option<UpsertKey>,
    /// The hidden sink of records that do not decode.
    pub dead_letters: Option<SinkId>,
}

/// The last record of a key replaces those before; one without value deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpsertKey {
    /// Columns of the table's schema in the order of its PRIMARY KEY; all are among those used.
    pub columns: Vec<usize>,
    /// The column of `WATERMARK FOR`, where it is used: of a record without value it holds Kafka's timestamp.
    pub time: Option<usize>,
}

/// The hidden last column of tables with PRIMARY KEY: the record deletes its key.
pub const DELETED_COLUMN: &str = "__deleted";

impl SourceTable {
    /// The columns of decoded batches: those used, and of a table with PRIMARY KEY whether the record deletes its key.
    pub fn layout(&self) -> SchemaRef {
        let mut fields: Vec<Field> =
            self.columns_used.iter().map(|column| self.schema.field(*column).clone()).collect();
        if self.upsert.is_some() {
            fields.push(Field::new(DELETED_COLUMN, DataType::Boolean, false));
        }
        Arc::new(Schema::new(fields))
    }

    /// Where a column of `schema` is among those used.
    pub fn place(&self, column: usize) -> Option<usize> {
        self.columns_used.binary_search(&column).ok()
    }
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

/// A table that rows look things up in, in versions of the whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTable {
    /// The table's name in the script.
    pub name: String,
    pub schema: SchemaRef,
    pub connector: ConnectorOptions,
    /// Rows look up the version with which the query began.
    pub pinned: bool,
}

impl SnapshotTable {
    /// How often the driver looks whether there is a new version, milliseconds; `None`: once in every run.
    pub fn refresh_ms(&self) -> Option<u64> {
        match self.connector.spec().lookup.as_ref()? {
            LookupKind::Snapshot { refresh } => self.connector.values.number(refresh),
        }
    }
}

/// A table's connector, as its WITH options chose it. References to secrets stay unresolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorOptions {
    pub values: OptionValues,
    /// Of record values, or of files.
    pub format: Format,
    pub key: KeyOptions,
}

impl ConnectorOptions {
    pub fn spec(&self) -> &'static ConnectorSpec {
        self.values.spec()
    }

    /// As `'connector' = '…'` says it.
    pub fn name(&self) -> &'static str {
        self.spec().name
    }

    /// Whether its tables can be used so.
    pub fn is(&self, wanted: Use) -> bool {
        self.spec().is(wanted)
    }

    /// Where in the connector the table is, such as a topic; `None`: rows say it themselves, or there is only one place.
    pub fn place(&self) -> Option<&str> {
        self.values.text(self.spec().place.as_ref()?.option)
    }

    /// The options of another table in the same connector, which holds bytes; `None` if there is only one place.
    pub fn beside(&self, place: &str) -> Option<Self> {
        let option = self.spec().place.as_ref()?.option;
        let (format, key) = (Format::of(&RAW), KeyOptions::default());
        Some(Self { values: self.values.clone().with(option, place), format, key })
    }

    /// The table for people, without secrets.
    pub fn describe(&self) -> String {
        (self.spec().describe)(&self.values)
    }

    /// How record keys are encoded that are made of columns.
    pub fn key_format(&self) -> &Format {
        self.key.format.as_ref().unwrap_or(&self.format)
    }
}

/// What record keys are made of, besides the PRIMARY KEY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// `None`: the value's.
    pub format: Option<Format>,
    /// `key.fields`: the columns of the key, in their order.
    pub fields: Vec<String>,
    /// The columns of the key are not in the value.
    pub apart: bool,
}
