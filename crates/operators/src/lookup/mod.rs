//! Lookup joins with the rows of a file or of VALUES.
//!
//! Owns: their plan. Does not own: running it (`run`), loading the rows (crate `planner`).

mod run;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_dataflow::JoinOutput;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{Give, RowOperator, RowSpec, StartContext, identify_schema};
use highwater_dataflow::runtime::late::Late;
use highwater_protocol::files::FileVersions;
use run::{LookupJoin, LookupTable};
use std::fmt::{self, Debug, Write};
use std::sync::{Arc, RwLock};

/// The rows that a join looks up: of one or several files, or of VALUES.
pub trait LookupRows: Debug + Send + Sync {
    /// Returns the source of the rows in one line.
    fn describe(&self) -> String;

    /// Writes everything that determines the rows, except the content of files.
    fn identify(&self, out: &mut dyn Write) -> fmt::Result;

    /// Returns the rows of these versions of the files, which the executor loads before a batch's tasks.
    ///
    /// # Errors
    /// The versions are not loaded.
    fn rows(&self, versions: &FileVersions) -> Result<Arc<RecordBatch>, EngineError>;
}

/// A join with the rows of files or of VALUES.
#[derive(Debug)]
pub struct LookupSpec {
    pub lookup: Arc<dyn LookupRows>,
    /// Key expressions over the stream's rows.
    pub stream_key: Vec<Arc<dyn PhysicalExpr>>,
    /// Key expressions over the looked-up rows, of the same types.
    pub lookup_key: Vec<Arc<dyn PhysicalExpr>>,
    pub null_equal: bool,
    /// Condition on pairs besides equal keys, over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether the stream's columns come first.
    pub stream_first: bool,
    pub pair_schema: SchemaRef,
    pub output: JoinOutput,
    pub output_schema: SchemaRef,
    /// The looked-up rows by key; `None` before they are first used.
    pub table: RwLock<Option<Arc<LookupTable>>>,
}

/// Looks up each row.
#[derive(Clone, Debug)]
pub struct LookupOperator(pub Arc<LookupSpec>);

impl LookupSpec {
    /// Returns keys, condition and looked-up rows as text.
    pub fn text(&self) -> String {
        let exprs =
            |exprs: &[Arc<dyn PhysicalExpr>]| exprs.iter().map(|e| e.to_string()).collect::<Vec<_>>().join(", ");
        let filter = self.filter.as_ref().map_or(String::new(), |filter| format!(" if {filter}"));
        let nulls = if self.null_equal { " with NULLs" } else { "" };
        let (mine, theirs) = (exprs(&self.stream_key), exprs(&self.lookup_key));
        let plan = self.lookup.describe();
        format!("({mine}) as ({theirs}){nulls}{filter}, {:?}, in {plan}", self.output)
    }
}

impl RowSpec for LookupOperator {
    fn describe(&self) -> String {
        format!("look up {}", self.0.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        self.0.lookup.identify(out)?;
        identify_schema(&self.0.output_schema, out)
    }

    fn output(&self, _: &SchemaRef) -> Result<SchemaRef, EngineError> {
        Ok(self.0.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Box<dyn RowOperator>, EngineError> {
        Ok(Box::new(LookupJoin::new(self.0.clone(), &context.batch.files)?))
    }
}

impl RowOperator for LookupJoin {
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError> {
        give(self.join(rows)?)
    }

    fn grows(&self) -> Option<&'static str> {
        Some("looking up")
    }

    fn late(&mut self) -> Option<&mut Late> {
        None
    }
}
