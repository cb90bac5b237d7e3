//! The rows of lookup tables, in the versions that the plan of a batch names, and of VALUES.
//!
//! Owns: the rows in memory, and the versions of their tables. Does not own: reading a table (`snapshots`), which version a
//! batch looks up (its plan), looking up (crate `operators`).
//! Invariant: rows are returned only for the versions that they were loaded from.

use crate::plan::table::Stream;
use crate::snapshots::SnapshotRows;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use highwater_dataflow::error::EngineError;
use highwater_operators::lookup::LookupRows;
use highwater_protocol::files::FileVersions;
use highwater_sql::tables::SnapshotTable;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Arc, PoisonError, RwLock};

/// The side of a join that rows look up.
#[derive(Debug)]
pub struct Lookup {
    plan: LogicalPlan,
    /// Lookup tables by name.
    tables: BTreeMap<String, SnapshotTable>,
    loaded: RwLock<Option<Loaded>>,
    loading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Loaded {
    rows: Arc<RecordBatch>,
    /// Versions of the tables.
    versions: FileVersions,
}

impl Lookup {
    /// Returns the lookup of `plan`, which reads only lookup tables. `pinned` is true if rows that look it up may be
    /// retracted later, so that the query must keep the versions of its tables.
    pub fn new(plan: LogicalPlan, pinned: bool) -> Self {
        let mut tables = BTreeMap::new();
        // The closure never fails, so neither does the walk.
        let _ = plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(stream) = scan.source.downcast_ref::<Stream>()
                && stream.table.is_snapshot()
            {
                let connector = stream.table.options.connector.clone();
                let name = stream.table.def.name.text.clone();
                let schema = stream.table.schema.clone();
                tables.insert(name.clone(), SnapshotTable { name, schema, connector, pinned });
            }
            Ok(TreeNodeRecursion::Continue)
        });
        Self { plan, tables, loaded: RwLock::new(None), loading: tokio::sync::Mutex::new(()) }
    }

    /// Returns the lookup tables.
    pub fn tables(&self) -> impl Iterator<Item = &SnapshotTable> {
        self.tables.values()
    }

    /// Returns the size of the rows in memory, in bytes; 0 before they are loaded.
    pub fn size_bytes(&self) -> u64 {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref().map_or(0, |loaded| loaded.rows.get_array_memory_size() as u64)
    }

    fn loaded_for(&self, versions: &FileVersions) -> Option<Arc<RecordBatch>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.as_ref()?;
        let same = self.tables.keys().all(|table| loaded.versions.get(table) == versions.get(table));
        same.then(|| loaded.rows.clone())
    }

    /// Loads the rows of these versions, unless they are loaded already. Returns true if it did.
    ///
    /// # Errors
    /// If a table's content is not available, or does not fit its declaration; the message names the table.
    pub async fn load<R: SnapshotRows>(&self, versions: &FileVersions, snapshots: &R) -> Result<bool, R::Error> {
        if self.loaded_for(versions).is_some() {
            return Ok(false);
        }
        let _guard = self.loading.lock().await;
        if self.loaded_for(versions).is_some() {
            return Ok(false);
        }
        let mut read = BTreeMap::new();
        for (name, table) in &self.tables {
            let version = versions
                .get(name)
                .ok_or_else(|| EngineError::Internal(format!("the plan has no version of table '{name}'")))?;
            read.insert(name.as_str(), snapshots.rows(table, version).await?);
        }
        let rows = Arc::new(self.compute(read).await?);
        let mine = versions.iter().filter(|(table, _)| self.tables.contains_key(*table));
        let versions = mine.map(|(table, version)| (table.clone(), version.clone())).collect();
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(Loaded { rows, versions });
        Ok(true)
    }

    /// Runs the plan over the rows of its tables.
    async fn compute(&self, mut read: BTreeMap<&str, Vec<RecordBatch>>) -> Result<RecordBatch, EngineError> {
        // One partition, so that rows have the same order on every machine.
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let mut tables = BTreeMap::new();
        for (name, table) in &self.tables {
            let batches = read.remove(name.as_str()).unwrap_or_default();
            tables.insert(name, Arc::new(MemTable::try_new(table.schema.clone(), vec![batches])?));
        }
        let plan = self.plan.clone().transform(|node| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let name = scan.source.downcast_ref::<Stream>().map(|stream| stream.table.def.name.text.clone());
            if let Some(table) = name.and_then(|name| tables.get(&name)) {
                scan.source = provider_as_source(table.clone());
            }
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        let frame = context.execute_logical_plan(plan.data).await?;
        let schema: SchemaRef = Arc::new(self.plan.schema().as_arrow().clone());
        let batches = frame.collect().await?;
        // Without columns, only the row count is left of a batch.
        let batches = batches.into_iter().map(|batch| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let asked = batch.columns().iter().take(schema.fields().len()).cloned().collect();
            RecordBatch::try_new_with_options(schema.clone(), asked, &options)
        });
        Ok(concat_batches(&schema, &batches.collect::<Result<Vec<_>, _>>()?)?)
    }
}

impl LookupRows for Lookup {
    fn describe(&self) -> String {
        self.plan.display_indent().to_string().replace("\n", ";")
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        self.tables().try_for_each(|table| writeln!(out, "{table:?}"))
    }

    fn rows(&self, versions: &FileVersions) -> Result<Arc<RecordBatch>, EngineError> {
        self.loaded_for(versions)
            .ok_or_else(|| EngineError::Internal("a table is looked up before it is loaded".into()))
    }
}
