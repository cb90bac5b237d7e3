//! Checks that formats hold the columns of tables that are read or written.
//!
//! Owns: that check, by the format's declaration. Does not own: the declarations (`sql::formats`), which columns are in
//! which part of a record ([`RecordColumns`]). Invariant: codecs can open every table that passes.

use super::table::Table;
use datafusion::arrow::datatypes::Schema;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_connector_spec::Encoding;
use highwater_sql::error::{Result, SqlError};
use highwater_sql::format_options::format_entry;
use highwater_sql::formats::{FORMATS, Format, FormatSpec};
use highwater_sql::record_columns::RecordColumns;
use highwater_sql::tables::ConnectorOptions;
use highwater_sql::types::type_name;

/// One part of the records of a table.
struct Part<'a> {
    table: &'a Table,
    schema: &'a Schema,
    columns: &'a [usize],
    format: &'a Format,
    is_key: bool,
}

/// Checks the formats of a table that is read.
pub fn check_read(table: &Table, primary_key: &[usize], connector: &ConnectorOptions) -> Result<()> {
    let columns = RecordColumns::read(&table.schema, primary_key, connector);
    check(table, &table.schema, &columns, |spec| spec.reads, "read")
}

/// Checks the formats of a table that is written.
pub fn check_written(table: &Table, schema: &Schema, primary_key: &[usize]) -> Result<()> {
    let columns = RecordColumns::written(schema, primary_key, &table.options.connector);
    check(table, schema, &columns, |spec| spec.writes, "written")?;
    let own_key = table.def.written().into_iter().find(|column| column.name.text == "_key");
    match own_key {
        Some(column) if !table.options.connector.key.fields.is_empty() => {
            Err(SqlError::at(column.name.at, "'_key' and 'key.fields' both set the record's key")
                .hint("drop one of them"))
        }
        _ => Ok(()),
    }
}

fn check(
    table: &Table,
    schema: &Schema,
    columns: &RecordColumns,
    does: impl Fn(&FormatSpec) -> bool,
    what: &str,
) -> Result<()> {
    let connector = &table.options.connector;
    if connector.spec().encoding == Encoding::Json {
        return Ok(());
    }
    let value = Part { table, schema, columns: &columns.value, format: &connector.format, is_key: false };
    let key = Part { table, schema, columns: &columns.key, format: connector.key_format(), is_key: true };
    for part in [value, key] {
        if part.is_key && part.columns.is_empty() {
            continue;
        }
        let spec = part.format.spec();
        if !does(spec) {
            return Err(SqlError::at(part.at(), format!("records of format '{}' cannot be {what}", spec.name))
                .hint(part.instead(|spec| does(spec) && (spec.keys || !part.is_key))));
        }
        part.check()?;
    }
    Ok(())
}

impl Part<'_> {
    fn check(&self) -> Result<()> {
        let spec = self.format.spec();
        if self.is_key && !spec.keys {
            return Err(SqlError::at(self.at(), format!("keys of records cannot be of format '{}'", spec.name))
                .hint(self.instead(|spec| spec.keys)));
        }
        let Some(first) = self.columns.first() else {
            let message = format!("table '{}' has no column for the values of its records", self.table.def.name.text);
            return Err(SqlError::at(self.table.def.name.at, message).hint("declare one beside those of the key"));
        };
        if let Some(second) = self.columns.get(1).filter(|_| spec.single) {
            let part = if self.is_key { "key" } else { "value" };
            let message = format!(
                "a {part} of format '{}' is one column, '{}', and '{}' is another",
                spec.name,
                self.schema.field(*first).name(),
                self.schema.field(*second).name()
            );
            return Err(SqlError::at(self.column_at(*second), message).hint(self.instead(|other| !other.single)));
        }
        for column in self.columns {
            let field = self.schema.field(*column);
            if !(spec.holds)(field.data_type()) {
                let message = format!(
                    "column '{}' is {}, which format '{}' does not hold",
                    field.name(),
                    type_name(field.data_type()),
                    spec.name
                );
                let hint =
                    format!("it holds {}; or {}", spec.types, self.instead(|other| (other.holds)(field.data_type())));
                return Err(SqlError::at(self.column_at(*column), message).hint(hint));
            }
        }
        Ok(())
    }

    /// Returns the remedy: an option with a format for which `does` is true.
    fn instead(&self, does: impl Fn(&FormatSpec) -> bool) -> String {
        let name = FORMATS.iter().find(|spec| does(spec) && spec.reads && spec.writes).map_or("json", |spec| spec.name);
        format!("write '{}' = '{name}'", if self.is_key { "key.format" } else { "format" })
    }

    /// Returns the place of the option that sets the format, or else of the table.
    fn at(&self) -> Location {
        let entry = format_entry(&self.table.def, self.is_key);
        entry.map_or(self.table.def.name.at, |entry| entry.value_at)
    }

    fn column_at(&self, column: usize) -> Location {
        let name = self.schema.field(column).name();
        let declared = self.table.def.columns.iter().find(|declared| declared.name.text == *name);
        declared.map_or(self.table.def.name.at, |declared| declared.name.at)
    }
}
