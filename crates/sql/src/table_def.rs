//! A table as a script declares it.
//!
//! Owns: its parts, and which of its columns are written. Does not own: their grammar (`ddl`, `derived`), what options mean
//! (`options`).

use super::derived::{Derived, DerivedFrom};
use super::error::Result;
use super::identifier::Name;
use super::metadata_columns::METADATA;
use super::types::type_name;
use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::tokenizer::Location;

/// A table as declared.
#[derive(Clone, Debug)]
pub struct TableDef {
    pub name: Name,
    /// `IF NOT EXISTS`.
    pub if_new: bool,
    /// Columns that records store.
    pub columns: Vec<Column>,
    /// Columns that are computed, or taken from metadata.
    pub derived: Vec<Derived>,
    pub watermark: Option<Watermark>,
    pub primary_key: Option<PrimaryKey>,
    pub options: Vec<OptionEntry>,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: Name,
    pub data_type: DataType,
    pub nullable: bool,
}

/// `WATERMARK FOR column AS expr`.
#[derive(Clone, Debug)]
pub struct Watermark {
    pub column: Name,
    pub expr: Expr,
    pub at: Location,
}

/// `PRIMARY KEY (columns) NOT ENFORCED`.
#[derive(Clone, Debug)]
pub struct PrimaryKey {
    pub columns: Vec<Name>,
    pub at: Location,
}

/// One `key = value` of `WITH (…)` or `SET`.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionEntry {
    pub key: String,
    pub key_at: Location,
    pub value: String,
    pub value_at: Location,
}

impl TableDef {
    /// Returns the columns that an INSERT fills, in declared order: stored ones, and writable metadata as `_timestamp`, ….
    pub fn written(&self) -> Vec<Column> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for place in 0..=self.columns.len() {
            for derived in self.derived.iter().filter(|derived| derived.after == place) {
                if let DerivedFrom::Metadata { key, data_type, is_virtual: false } = &derived.from {
                    let name = Name { text: key.to_string(), at: derived.name.at };
                    columns.push(Column { name, data_type: data_type.clone(), nullable: true });
                }
            }
            columns.extend(self.columns.get(place).cloned());
        }
        columns
    }

    /// Returns the declared name of the column that a name of an INSERT's list means; the name itself if there is none.
    ///
    /// # Errors
    /// It matches several, none of them exactly.
    pub fn name_of<'a>(&'a self, name: &'a Name) -> Result<&'a str> {
        let stored = self.columns.iter().map(|column| &column.name);
        let all = stored.chain(self.derived.iter().map(|derived| &derived.name));
        Ok(name.find(all.map(|name| name.text.as_str()))?.unwrap_or(&name.text))
    }

    /// Returns the name that the column `name` of an INSERT has in the sink: writable metadata is `_timestamp`, ….
    pub fn written_name<'a>(&self, name: &'a str) -> &'a str {
        let derived = self.derived.iter().find(|derived| derived.name.text == name);
        match derived.map(|derived| &derived.from) {
            Some(DerivedFrom::Metadata { key, is_virtual: false, .. }) => key,
            _ => name,
        }
    }

    /// Returns why an INSERT cannot fill a column; `None` if it can.
    pub fn read_only(&self, name: &str) -> Option<String> {
        let derived = self.derived.iter().find(|derived| derived.name.text == name)?;
        match &derived.from {
            DerivedFrom::Expr(expr) => Some(format!("column '{name}' is computed, as {expr}, and not stored")),
            DerivedFrom::Metadata { key, data_type, is_virtual: true } => {
                Some(format!("column '{name}' is VIRTUAL metadata ({key}, {}), and only read", type_name(data_type)))
            }
            DerivedFrom::Metadata { .. } => None,
        }
    }

    /// Returns the metadata columns that derived columns are taken from.
    pub fn metadata(&self) -> impl Iterator<Item = &'static str> {
        self.derived.iter().filter_map(|derived| match &derived.from {
            DerivedFrom::Metadata { key, .. } => METADATA.into_iter().find(|name| name == key),
            DerivedFrom::Expr(_) => None,
        })
    }
}
