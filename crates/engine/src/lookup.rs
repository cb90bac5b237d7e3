//! Files that rows look up: read by DataFusion when the first batch needs them, and again when they are old.
//!
//! Owns: the content of files in memory, and when it is read anew. Does not own: looking up (`runtime::lookup`).
//! Invariants: a batch sees one version of a file from its first to its last task of this process; a file without
//! `refresh` is read once.

use crate::error::EngineError;
use crate::plan::catalog::Stream;
use crate::query::{ConnectorOptions, FileFormat, FileOptions};
use crate::references;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, SessionContext};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What a query reads from files beside its streams.
#[derive(Debug)]
pub struct Lookup {
    plan: LogicalPlan,
    loaded: RwLock<Option<Loaded>>,
    loading: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Loaded {
    rows: Arc<RecordBatch>,
    /// Timestamp of the batch it was read for, milliseconds.
    at_ms: i64,
}

impl Lookup {
    /// `plan` reads nothing but file tables.
    pub fn new(plan: LogicalPlan) -> Self {
        Self { plan, loaded: RwLock::new(None), loading: tokio::sync::Mutex::new(()) }
    }

    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    /// The shortest of its files' `refresh`.
    pub fn refresh_ms(&self) -> Option<u64> {
        self.files().into_values().filter_map(|(file, _)| file.refresh_ms).min()
    }

    /// Its files by table name, with the tables' schemas.
    pub fn files(&self) -> BTreeMap<String, (FileOptions, SchemaRef)> {
        let mut files = BTreeMap::new();
        // The closure never fails, so neither does the walk.
        let _ = self.plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(stream) = scan.source.downcast_ref::<Stream>()
                && let ConnectorOptions::File(file) = &stream.table.options.connector
            {
                files.insert(stream.table.def.name.text.clone(), (file.clone(), stream.table.schema.clone()));
            }
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        });
        files
    }

    /// The rows as read last; shape: the columns of the plan.
    pub fn rows(&self) -> Result<Arc<RecordBatch>, EngineError> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let loaded =
            loaded.as_ref().ok_or_else(|| EngineError::Internal("a file is looked up before it is read".into()))?;
        Ok(loaded.rows.clone())
    }

    fn is_fresh(&self, now_ms: i64) -> bool {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let Some(loaded) = loaded.as_ref() else { return false };
        // Tasks of one batch come with one time, so they see one version.
        self.refresh_ms().is_none_or(|refresh| now_ms.saturating_sub(loaded.at_ms) < refresh as i64)
    }

    /// Reads the files, unless what is there is fresh enough for a batch of this timestamp.
    ///
    /// # Errors
    /// A file cannot be read, or its content is not what the table declares; the message names both.
    pub async fn load(&self, now_ms: i64) -> Result<(), EngineError> {
        if self.is_fresh(now_ms) {
            return Ok(());
        }
        let _guard = self.loading.lock().await;
        if self.is_fresh(now_ms) {
            return Ok(());
        }
        let rows = Arc::new(self.read().await?);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(Loaded { rows, at_ms: now_ms });
        Ok(())
    }

    async fn read(&self) -> Result<RecordBatch, EngineError> {
        let context = SessionContext::new();
        let mut tables = BTreeMap::new();
        for (name, (file, schema)) in self.files() {
            let batches = read_file(&context, &file, &schema).await.map_err(|error| EngineError::File {
                table: name.clone(),
                path: file.path.clone(),
                cause: error.to_string(),
            })?;
            tables.insert(name, Arc::new(MemTable::try_new(schema, vec![batches])?));
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
        // Where no column is asked for there are rows nevertheless.
        let batches = batches.into_iter().map(|batch| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let asked = batch.columns().iter().take(schema.fields().len()).cloned().collect();
            RecordBatch::try_new_with_options(schema.clone(), asked, &options)
        });
        Ok(concat_batches(&schema, &batches.collect::<Result<Vec<_>, _>>()?)?)
    }
}

async fn read_file(
    context: &SessionContext,
    file: &FileOptions,
    schema: &SchemaRef,
) -> datafusion::common::Result<Vec<RecordBatch>> {
    let mut hidden = Vec::new();
    let path = references::resolve(&file.path, &mut hidden).map_err(DataFusionError::Configuration)?;
    let read = read_path(context, &FileOptions { path, ..file.clone() }, schema).await;
    match read {
        // What a reference stands for is not shown.
        Err(error) if !hidden.is_empty() => {
            Err(DataFusionError::Execution(references::hide(&error.to_string(), &hidden)))
        }
        read => read,
    }
}

async fn read_path(
    context: &SessionContext,
    file: &FileOptions,
    schema: &SchemaRef,
) -> datafusion::common::Result<Vec<RecordBatch>> {
    // A path that is not there would be an empty table to DataFusion.
    std::fs::metadata(&file.path)?;
    let extension = std::path::Path::new(&file.path).extension().map(|ext| format!(".{}", ext.to_string_lossy()));
    let extension = extension.unwrap_or_default();
    let frame = match &file.format {
        FileFormat::Csv { header, delimiter } => {
            let options = CsvReadOptions::new().schema(schema).has_header(*header).delimiter(*delimiter);
            context.read_csv(file.path.as_str(), options.file_extension(&extension)).await?
        }
        FileFormat::Json => {
            let options = JsonReadOptions::default().schema(schema).file_extension(&extension);
            context.read_json(file.path.as_str(), options).await?
        }
    };
    frame.collect().await
}
