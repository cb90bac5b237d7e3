//! What a script is once compiled: its dataflow, its sources to read, its sinks to write.
//!
//! Owns: the shape of a compiled query and its tables. Does not own: making them (the SQL frontend), reading
//! and writing Kafka (crate `connectors`). Invariant: references to secrets in option values stay unresolved.

use crate::dataflow::operator::{expect_types, only};
use crate::dataflow::{Dataflow, PipelineInput, PipelineOutput, StageInput};
use crate::error::EngineError;
use crate::files::{FileContents, FileTable};
use crate::formats::{Format, RAW};
use crate::lookup::Lookup;
use crate::sql::options::QueryOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use highwater_connect::{ConnectorSpec, OptionValues, Use};
use highwater_functions::clock::BatchClock;
use highwater_protocol::files::FileVersions;
use highwater_protocol::identity::PlanIdentity;
use highwater_protocol::ids::{SinkId, SourceId};
use highwater_protocol::options::{OutputMode, SourceOptions, SourceSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A script, ready to run. Compiling the same script in the same build gives the same one.
#[derive(Clone, Debug)]
pub struct CompiledQuery {
    pub options: QueryOptions,
    /// By [`SourceId`].
    pub sources: Vec<SourceTable>,
    /// By [`SinkId`].
    pub sinks: Vec<SinkTable>,
    pub dataflow: Dataflow,
    /// Files to be read before a batch's tasks: see [`CompiledQuery::load_files`].
    pub lookups: Vec<Arc<Lookup>>,
    /// What people should know before it runs, each a sentence.
    pub warnings: Vec<String>,
    /// What `now()` reads: set it to a batch's timestamp before its tasks run. Clones share it, so batches with
    /// other timestamps need a query compiled of its own.
    pub clock: BatchClock,
}

impl CompiledQuery {
    /// The sources as the driver's planning sees them, by [`SourceId`].
    pub fn source_specs(&self) -> Vec<SourceSpec> {
        let spec = |source: &SourceTable| SourceSpec {
            id: source.id,
            table: source.name.clone(),
            topic: source.connector.place().unwrap_or_default().to_string(),
            options: source.options.clone(),
            has_watermark: source.watermark.is_some(),
        };
        self.sources.iter().map(spec).collect()
    }

    /// The tables of files that rows look up, each once.
    pub fn file_tables(&self) -> Vec<FileTable> {
        let mut tables: BTreeMap<&str, FileTable> = BTreeMap::new();
        for table in self.lookups.iter().flat_map(|lookup| lookup.tables()) {
            tables.entry(&table.name).or_insert_with(|| table.clone()).pinned |= table.pinned;
        }
        tables.into_values().collect()
    }

    /// Loads what rows look up in a batch that is planned with these versions, into at most `limit_bytes` of memory. Returns
    /// whether anything had to be loaded.
    ///
    /// # Errors
    /// The content of a file is not to be had, or is not what its table declares; or all of it together is too large.
    pub async fn load_files(
        &self,
        versions: &FileVersions,
        contents: &impl FileContents,
        limit_bytes: u64,
    ) -> Result<bool, EngineError> {
        let (mut loaded, mut bytes) = (false, 0);
        for lookup in &self.lookups {
            loaded |= lookup.load(versions, contents).await?;
            bytes += lookup.size_bytes();
            if bytes > limit_bytes {
                return Err(EngineError::LookupsTooLarge { bytes, limit_bytes });
            }
        }
        Ok(loaded)
    }

    /// Checks that every operator gets the rows it was planned for, and that every exchange and sink gets its own.
    ///
    /// # Errors
    /// It does not: the planner has a fault. The message names the operator.
    pub fn check_schemas(&self) -> Result<(), EngineError> {
        let internal = |what: String| EngineError::Internal(what);
        for stage in &self.dataflow.stages {
            for pipeline in &stage.pipelines {
                let schema_of = |input: &PipelineInput| match (input, stage.input) {
                    (PipelineInput::Edge(edge), _) => self.dataflow.edge(*edge).map(|edge| edge.schema.clone()),
                    (PipelineInput::Source, StageInput::Source(id)) => {
                        let source = self.sources.iter().find(|source| source.id == id);
                        Ok(source.ok_or_else(|| internal(format!("no source {id}")))?.layout())
                    }
                    (PipelineInput::Source, StageInput::Shards) => Err(internal("shards have no source".into())),
                };
                let mut rows = pipeline.inputs.iter().map(schema_of).collect::<Result<Vec<SchemaRef>, _>>()?;
                for op in &pipeline.ops {
                    rows = vec![op.output(&rows).map_err(|error| internal(format!("{}: {error}", op.describe())))?];
                }
                let rows = only(&rows)?;
                match pipeline.output {
                    PipelineOutput::Exchange(edge) => {
                        expect_types("an exchange", rows, &self.dataflow.edge(edge)?.schema)?
                    }
                    PipelineOutput::Sink(id) => {
                        let sink = self.sinks.iter().find(|sink| sink.id == id);
                        let sink = sink.ok_or_else(|| internal(format!("no sink {id}")))?;
                        if *rows != sink.schema {
                            let text = format!("sink {} has {:?} and gets {rows:?}", sink.name, sink.schema);
                            return Err(internal(text));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Identifies what the query keeps. Another build that gives the same identity reads the same state.
    pub fn plan_identity(&self) -> PlanIdentity {
        crate::plan::fingerprint::plan_of(self)
    }

    /// A hash of all that decides what the query does, as 32 hex digits: equal for two processes if and only
    /// if they would run the same plan.
    pub fn fingerprint(&self) -> String {
        crate::plan::fingerprint::of(self)
    }
}

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

/// Options of a file: a path, or a folder of files, that the driver can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    pub path: String,
    pub format: Format,
    /// How old its content in memory may get; `None` = it is read once.
    pub refresh_ms: Option<u64>,
}

impl FileOptions {
    /// Of a table that rows look up.
    pub fn of(connector: &ConnectorOptions) -> Self {
        let values = &connector.values;
        Self {
            path: values.text("path").unwrap_or_default().to_string(),
            format: connector.format.clone(),
            refresh_ms: values.number("refresh"),
        }
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
