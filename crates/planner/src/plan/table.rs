//! A table of the script, for planning.
//!
//! Owns: its declaration, options and columns together. Does not own: names (`catalog`), derived columns (`derived`).

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::TableSource;
use highwater_connector_spec::LookupKind;
use highwater_sql::derived::DerivedFrom;
use highwater_sql::options::TableOptions;
use highwater_sql::table_def::TableDef;
use std::sync::Arc;

/// A table of the script with its typed options.
#[derive(Debug)]
pub struct Table {
    pub def: TableDef,
    pub options: TableOptions,
    /// Stored columns, then the metadata columns the script uses.
    pub schema: SchemaRef,
    /// Metadata columns that are not declared: hidden from `*`.
    pub hidden: Vec<&'static str>,
}

impl Table {
    /// True if it is a lookup table that the driver reads whole, not a stream.
    pub fn is_snapshot(&self) -> bool {
        match &self.options.connector.spec().lookup {
            Some(LookupKind::Snapshot { .. }) => true,
            None => false,
        }
    }

    /// Returns the stored or metadata column of `WATERMARK FOR`; `None` if there is no watermark, or its column is computed.
    pub fn time_column(&self) -> Option<usize> {
        let name = self.def.watermark.as_ref()?.column.text.as_str();
        let stored = match self.def.derived.iter().find(|derived| derived.name.text == name).map(|one| &one.from) {
            None => name,
            Some(DerivedFrom::Metadata { key, .. }) => key,
            Some(DerivedFrom::Expr(_)) => return None,
        };
        self.schema.index_of(stored).ok()
    }
}

/// A table as a source of DataFusion's plans.
#[derive(Debug)]
pub struct Stream {
    pub table: Arc<Table>,
}

impl TableSource for Stream {
    fn schema(&self) -> SchemaRef {
        self.table.schema.clone()
    }
}
