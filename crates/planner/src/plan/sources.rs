//! The tables that a query reads: the columns used of each, and their watermarks.
//!
//! Owns: `SourceTable`s from the scans of all planned INSERTs. Does not own: reading.
//! Invariants: sources are numbered in the order in which INSERTs reach them; a column that no operator needs
//! is not decoded, except one column so that rows can be counted, and the PRIMARY KEY.

use super::catalog::Catalog;
use super::closing::closing_tables;
use super::formats;
use super::sinks::primary_key;
use super::table::{Stream, Table};
use super::watermark;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;
use highwater_connector_spec::{Reading, Use, reading};
use highwater_protocol::ids::SourceId;
use highwater_sql::connectors::{add_properties, usable};
use highwater_sql::error::{Result, SqlError};
use highwater_sql::metadata_columns::metadata_field;
use highwater_sql::options::QueryOptions;
use highwater_sql::table_def::OptionEntry;
use highwater_sql::tables::{ConnectorOptions, SourceTable, UpsertKey};
use highwater_sql::types::type_name;
use highwater_sql::values::canonical;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the plans need of one table.
struct Wanted {
    table: Arc<Table>,
    columns: BTreeSet<usize>,
    /// True if an operator closes its state by this table's watermark.
    closes: bool,
}

/// Returns the sources of these plans. `aligned` is true if watermarks are needed even if no operator closes by them.
pub fn collect(
    plans: &[&LogicalPlan],
    catalog: &Catalog,
    defaults: &[OptionEntry],
    aligned: bool,
) -> Result<Vec<SourceTable>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for plan in plans {
        visit(plan, &mut wanted);
    }
    let mut sources = Vec::with_capacity(wanted.len());
    for (index, want) in wanted.into_iter().enumerate() {
        let want = Wanted { closes: want.closes || aligned, ..want };
        sources.push(source_table(SourceId(index as u32), want, catalog, defaults)?);
    }
    Ok(sources)
}

/// Returns warnings for sources that would hold back all others while they have no new records.
pub fn never_idle(sources: &[SourceTable], options: &QueryOptions) -> Vec<String> {
    let waits = |source: &&SourceTable| source.watermark.is_some() && source.options.idle_timeout_ms.is_none();
    let text = |source: &SourceTable| {
        format!(
            "with max_watermark_drift, a partition of '{}' holds back the others as long as it has no new records, since its \
             idle_timeout is 'never'",
            source.name
        )
    };
    match options.max_drift_ms {
        Some(_) => sources.iter().filter(waits).map(text).collect(),
        None => Vec::new(),
    }
}

fn visit(plan: &LogicalPlan, wanted: &mut Vec<Wanted>) {
    // The closure never fails, so neither does the walk.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(stream) = scan.source.downcast_ref::<Stream>()
            && !stream.table.is_snapshot()
        {
            let want = want(&stream.table, wanted);
            match &scan.projection {
                Some(columns) => want.columns.extend(columns),
                None => want.columns.extend(0..stream.table.schema.fields().len()),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    for table in closing_tables(plan) {
        want(&table, wanted).closes = true;
    }
}

fn want<'a>(table: &Arc<Table>, wanted: &'a mut Vec<Wanted>) -> &'a mut Wanted {
    let name = &table.def.name.text;
    let index = wanted.iter().position(|want| want.table.def.name.text == *name).unwrap_or_else(|| {
        wanted.push(Wanted { table: table.clone(), columns: BTreeSet::new(), closes: false });
        wanted.len() - 1
    });
    &mut wanted[index]
}

fn source_table(id: SourceId, want: Wanted, catalog: &Catalog, defaults: &[OptionEntry]) -> Result<SourceTable> {
    let Wanted { table, mut columns, closes } = want;
    let connector = check_readable(&table, defaults)?;
    // If no operator closes by it, the watermark is only a metric, and not worth decoding another column.
    let watermark = watermark::compile(catalog, &table)?
        .filter(|watermark| closes || watermark.columns.iter().all(|column| columns.contains(column)));
    if let Some(watermark) = &watermark {
        columns.extend(&watermark.columns);
    }
    let upsert = upsert_key(&table, &mut columns, closes)?;
    let key = upsert.as_ref().map(|upsert| upsert.columns.as_slice()).unwrap_or_default();
    formats::check_read(&table, key, &connector)?;
    if columns.is_empty() {
        columns.insert(0);
    }
    let event_time = table.def.watermark.as_ref().filter(|_| watermark.is_some());
    let event_time = event_time.and_then(|declared| table.schema.index_of(&declared.column.text).ok());
    Ok(SourceTable {
        id,
        name: table.def.name.text.clone(),
        schema: table.schema.clone(),
        connector,
        options: table.options.source.clone(),
        event_time: event_time.filter(|column| columns.contains(column)),
        watermark: watermark.map(|watermark| watermark.expr),
        columns_used: columns.into_iter().collect(),
        upsert,
        dead_letters: None,
    })
}

/// Returns how records replace one another, and adds the key's columns to `used`; `None` without a PRIMARY KEY.
fn upsert_key(table: &Table, used: &mut BTreeSet<usize>, closes: bool) -> Result<Option<UpsertKey>> {
    if table.def.primary_key.is_none() {
        return Ok(None);
    }
    let columns = primary_key(table, &table.schema)?;
    used.extend(&columns);
    let time = table.time_column();
    // Operators that close by the watermark need the time of deletions, too.
    used.extend(time.filter(|_| closes));
    Ok(Some(UpsertKey { columns, time: time.filter(|time| used.contains(time)) }))
}

fn check_readable(table: &Table, defaults: &[OptionEntry]) -> Result<ConnectorOptions> {
    let def = &table.def;
    let name = &def.name.text;
    let mut connector = table.options.connector.clone();
    if !connector.is(Use::Source) {
        let message = format!("table '{name}' is read, and the {} connector only writes", connector.name());
        return Err(SqlError::at(def.name.at, message).hint(format!("use {}", usable(Use::Source))));
    }
    if let Some(place) = connector.spec().place.as_ref().filter(|_| connector.place().is_none()) {
        let option = place.option;
        return Err(SqlError::at(def.name.at, format!("table '{name}' lacks the option '{option}'"))
            .hint(format!("add '{option}' = '<{option}>'")));
    }
    let late = table.options.source.late_topic.as_deref();
    if late.is_some_and(|late| connector.place() == Some(late)) {
        let own = def.options.iter().find(|entry| reading(&canonical(&entry.key)) == Some(Reading::LateTopic));
        let at = own.map_or(def.name.at, |entry| entry.value_at);
        return Err(SqlError::at(at, format!("'late_topic' of table '{name}' is the topic it reads"))
            .hint("late rows would be read again, and be late again: name another topic"));
    }
    for column in &def.columns {
        let Some(metadata) = metadata_field(&column.name.text) else { continue };
        if *metadata.data_type() != column.data_type {
            return Err(SqlError::at(
                column.name.at,
                format!("'{}' is a metadata column and always {}", metadata.name(), type_name(metadata.data_type())),
            )
            .hint("drop it from the columns: every source has it, hidden from *"));
        }
    }
    add_properties(&mut connector.values, defaults)?;
    Ok(connector)
}
