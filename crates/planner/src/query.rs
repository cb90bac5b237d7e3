//! A compiled script: its dataflow, its sources and its sinks.
//!
//! Owns: the shape of a compiled query and its tables. Does not own: making them (the SQL frontend), reading
//! and writing Kafka (crate `connectors`). Invariant: references to secrets in option values stay unresolved.

use crate::plan::lookup_rows::Lookup;
use crate::snapshots::SnapshotRows;
use arrow::datatypes::SchemaRef;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{expect_types, only};
use highwater_dataflow::{Dataflow, PipelineInput, PipelineOutput, StageInput};
use highwater_functions::clock::BatchClock;
use highwater_protocol::files::FileVersions;
use highwater_protocol::options::SourceSpec;
use highwater_sql::options::QueryOptions;
use highwater_sql::tables::{SinkTable, SnapshotTable, SourceTable};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A compiled script. The same build compiles the same script to the same query.
#[derive(Clone, Debug)]
pub struct CompiledQuery {
    pub options: QueryOptions,
    /// By [`SourceId`](highwater_protocol::ids::SourceId).
    pub sources: Vec<SourceTable>,
    /// By [`SinkId`](highwater_protocol::ids::SinkId).
    pub sinks: Vec<SinkTable>,
    pub dataflow: Dataflow,
    /// Lookups whose tables must be loaded before a batch's tasks run: see [`CompiledQuery::load_snapshots`].
    pub lookups: Vec<Arc<Lookup>>,
    /// Warnings for people before the query runs, each a sentence.
    pub warnings: Vec<String>,
    /// The clock of `now()`: set it to a batch's timestamp before its tasks run. Clones of a query share it, so batches that
    /// run at once need a compiled query each.
    pub clock: BatchClock,
}

impl CompiledQuery {
    /// Returns the sources in the form the driver plans batches with, by [`SourceId`](highwater_protocol::ids::SourceId).
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

    /// Returns the lookup tables that the driver reads whole, each once.
    pub fn snapshot_tables(&self) -> Vec<SnapshotTable> {
        let mut tables: BTreeMap<&str, SnapshotTable> = BTreeMap::new();
        for table in self.lookups.iter().flat_map(|lookup| lookup.tables()) {
            tables.entry(&table.name).or_insert_with(|| table.clone()).pinned |= table.pinned;
        }
        tables.into_values().collect()
    }

    /// Loads the lookup tables of a batch that is planned with these versions, into at most `limit_bytes` of memory.
    /// Returns true if anything had to be loaded.
    ///
    /// # Errors
    /// If a table's content is not available or does not fit its declaration, or all tables are too large together.
    pub async fn load_snapshots<R: SnapshotRows>(
        &self,
        versions: &FileVersions,
        snapshots: &R,
        limit_bytes: u64,
    ) -> Result<bool, R::Error> {
        let (mut loaded, mut bytes) = (false, 0);
        for lookup in &self.lookups {
            loaded |= lookup.load(versions, snapshots).await?;
            bytes += lookup.size_bytes();
            if bytes > limit_bytes {
                return Err(EngineError::LookupsTooLarge { bytes, limit_bytes }.into());
            }
        }
        Ok(loaded)
    }

    /// Checks that the schemas of operators, exchanges and sinks fit together.
    ///
    /// # Errors
    /// If they do not, which is a fault of the planner. The message names the operator.
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
}
