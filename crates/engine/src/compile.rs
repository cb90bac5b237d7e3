//! From a script's text to a query that can run.
//!
//! Owns: the order of the steps: statements, options, tables, views, INSERTs, sources, dataflow.
//! Does not own: any of the steps. Invariants: pure and deterministic; nothing is opened or asked.

use crate::plan::build::{Builder, Target};
use crate::plan::catalog::Catalog;
use crate::plan::clock::BatchClock;
use crate::plan::{dead_letters, insert, optimize, sinks, sources};
use crate::query::{CompiledQuery, SinkTable};
use crate::sql::ddl::{Column, OptionEntry, TableDef};
use crate::sql::error::{Result, SqlError};
use crate::sql::functions::Functions;
use crate::sql::group_windows::rewrite_group_windows;
use crate::sql::options::{QueryOptions, query_options, table_options};
use crate::sql::refuse::refuse_unsupported;
use crate::sql::rewrite::{make_unnest_lateral, name_fields, tell_columns_apart, use_standard_names};
use crate::sql::script::{InsertDef, Name, Statement, ViewDef, parse_script};
use crate::sql::star::{METADATA, collect_metadata, hide_metadata};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_core::ids::SinkId;
use highwater_core::options::OutputMode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Compiles a script. The error names the place, the cause and the remedy.
pub fn compile(sql: &str) -> Result<CompiledQuery> {
    let script = Script::parse(sql)?;
    let (options, defaults) = query_options(&script.settings)?;
    let clock = BatchClock::default();
    let catalog = catalog(&script, &defaults, &clock)?;
    if script.inserts.is_empty() {
        return Err(SqlError::at(Location::empty(), "the script has no INSERT INTO: nothing would run")
            .hint("add INSERT INTO <table> SELECT … FROM <table>"));
    }
    let mut planned = Vec::with_capacity(script.inserts.len());
    for (index, statement) in script.inserts.iter().enumerate() {
        planned.push(plan_insert(SinkId(index as u32), statement, &catalog, &options)?);
    }
    let plans: Vec<&LogicalPlan> = planned.iter().map(|(plan, _)| plan).collect();
    let mut sources = sources::collect(&plans, &catalog, &defaults)?;
    let mut builder = Builder::new(&sources, options.allowed_lateness_ms);
    for ((plan, sink), statement) in planned.iter().zip(&script.inserts) {
        let keyed = !sink.primary_key.is_empty();
        // What was asked for, so that 'update' into a sink without key is refused where it would rewrite rows.
        let mode = options.output_mode.unwrap_or(sink.mode);
        // The whole result is gathered from every change of it.
        let is_complete = sink.mode == OutputMode::Complete;
        let (keyed, mode) = if is_complete { (true, OutputMode::Update) } else { (keyed, mode) };
        let target = Target { sink: &sink.name, keyed, mode, at: statement.at, is_last: !is_complete };
        let flows = builder.build(plan, target)?;
        sinks::connect(&mut builder, plan, flows, sink, target)?;
        if let Some(table) = catalog.table(&sink.name) {
            builder.warnings.extend(sinks::idle_parts(table));
        }
    }
    let Builder { mut dataflow, lookups, warnings, .. } = builder;
    let mut sinks = planned.into_iter().map(|(_, sink)| sink).collect();
    dead_letters::connect(&mut dataflow, &mut sources, &mut sinks);
    Ok(CompiledQuery { options, sources, sinks, dataflow, lookups, warnings, clock })
}

/// The declared columns of a script's tables, and those its views give, by name. Its INSERTs are not looked at.
///
/// # Errors
/// A statement that cannot be read, an option nobody knows, a view that cannot be planned.
pub fn describe(sql: &str) -> Result<BTreeMap<String, SchemaRef>> {
    let script = Script::parse(sql)?;
    let (_, defaults) = query_options(&script.settings)?;
    let catalog = catalog(&script, &defaults, &BatchClock::default())?;
    let mut schemas = BTreeMap::new();
    for table in &script.tables {
        let declared = |column: &Column| Field::new(&column.name.text, column.data_type.clone(), column.nullable);
        let fields: Vec<Field> = table.columns.iter().map(declared).collect();
        schemas.insert(table.name.text.clone(), Arc::new(Schema::new(fields)));
    }
    for view in &script.views {
        let plan = optimize::analyze(plan_query(&view.query, &catalog, view.name.at)?, catalog.config(), view.name.at)?;
        let schema = name_columns(plan, view)?.schema().as_arrow().clone();
        schemas.insert(view.name.text.clone(), Arc::new(schema));
    }
    Ok(schemas)
}

/// The statements by kind, each kind in the script's order.
struct Script {
    settings: Vec<OptionEntry>,
    tables: Vec<TableDef>,
    views: Vec<ViewDef>,
    inserts: Vec<InsertDef>,
}

impl Script {
    fn parse(sql: &str) -> Result<Self> {
        let mut script = Self { settings: Vec::new(), tables: Vec::new(), views: Vec::new(), inserts: Vec::new() };
        for statement in parse_script(sql)? {
            match statement {
                Statement::Set(entry) => script.settings.push(entry),
                Statement::Table(table) => script.tables.push(table),
                Statement::View(view) => script.views.push(view),
                Statement::Insert(insert) => script.inserts.push(insert),
            }
        }
        script.check()?;
        Ok(script)
    }

    fn check(&self) -> Result<()> {
        let names: Vec<&Name> = self.tables.iter().map(|t| &t.name).chain(self.views.iter().map(|v| &v.name)).collect();
        refuse_twice(&names, |name| format!("'{name}' is created twice"), "tables and views share one set of names")?;
        let written: Vec<&Name> = self.inserts.iter().map(|insert| &insert.table).collect();
        let message = |name: &str| format!("a second INSERT INTO '{name}' is not supported in streaming yet");
        refuse_twice(&written, message, "join the two with UNION ALL: INSERT INTO t SELECT … UNION ALL SELECT …")?;
        Ok(())
    }

    /// Metadata columns that the script names anywhere.
    fn metadata(&self) -> BTreeSet<&'static str> {
        let mut used = BTreeSet::new();
        for query in self.views.iter().map(|view| &view.query).chain(self.inserts.iter().map(|insert| &insert.query)) {
            collect_metadata(query, &mut used);
        }
        for watermark in self.tables.iter().filter_map(|table| table.watermark.as_ref()) {
            collect_metadata(&watermark.expr, &mut used);
            used.extend(METADATA.into_iter().find(|name| *name == watermark.column.text));
        }
        used
    }
}

fn refuse_twice(names: &[&Name], message: impl Fn(&str) -> String, hint: &str) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        if let Some(first) = names[..index].iter().find(|other| other.text == name.text) {
            // Tables come before views here, whatever the script's order: the later place is the second one.
            let second =
                if (first.at.line, first.at.column) > (name.at.line, name.at.column) { first.at } else { name.at };
            return Err(SqlError::at(second, message(&name.text)).hint(hint));
        }
    }
    Ok(())
}

fn catalog(script: &Script, defaults: &[OptionEntry], clock: &BatchClock) -> Result<Catalog> {
    let written = script.inserts.iter().map(|insert| insert.table.text.clone()).collect();
    let mut catalog = Catalog::new(Functions::new(clock), written);
    let metadata = script.metadata();
    for table in &script.tables {
        let options = table_options(table, defaults)?;
        catalog.add_table(table.clone(), options, &metadata);
    }
    for view in &script.views {
        let plan = plan_query(&view.query, &catalog, view.name.at)?;
        catalog.add_view(view.name.text.clone(), name_columns(plan, view)?);
    }
    Ok(catalog)
}

fn plan_query(query: &Query, catalog: &Catalog, at: Location) -> Result<LogicalPlan> {
    let mut query = query.clone();
    hide_metadata(&mut query, &|name| catalog.hidden(name));
    use_standard_names(&mut query);
    rewrite_group_windows(&mut query)?;
    catalog.check_versions(&query)?;
    refuse_unsupported(&query, catalog.functions())?;
    make_unnest_lateral(&mut query);
    name_fields(&mut query);
    catalog.plan_query(query, at)
}

/// `CREATE VIEW v (a, b) AS …`: the columns get these names.
fn name_columns(plan: LogicalPlan, view: &ViewDef) -> Result<LogicalPlan> {
    if view.columns.is_empty() {
        return Ok(plan);
    }
    let (given, wanted) = (plan.schema().fields().len(), view.columns.len());
    if given != wanted {
        let message = format!("view '{}' names {wanted} columns, and its SELECT gives {given}", view.name.text);
        return Err(SqlError::at(view.name.at, message).hint("name each column, or none"));
    }
    let exprs: Vec<Expr> =
        plan.schema().iter().map(Expr::from).zip(&view.columns).map(|(expr, name)| expr.alias(&name.text)).collect();
    let located = |error| crate::plan::errors::sql_error(error, view.name.at);
    LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build).map_err(located)
}

fn plan_insert(
    id: SinkId,
    statement: &InsertDef,
    catalog: &Catalog,
    options: &QueryOptions,
) -> Result<(LogicalPlan, SinkTable)> {
    let table = insert::sink_of(statement, catalog)?;
    let sink = sinks::sink_table(id, table, options)?;
    let mut query = statement.query.clone();
    tell_columns_apart(&mut query);
    let plan = plan_query(&query, catalog, statement.at)?;
    let plan = optimize::analyze(plan, catalog.config(), statement.at)?;
    let plan = insert::assign(plan, statement, table, &sink.schema)?;
    Ok((optimize::optimize(plan, catalog.config(), statement.at)?, sink))
}
