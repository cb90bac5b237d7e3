//! Compiles the text of a script to a query.
//!
//! Owns: the order of the steps: statements, options, tables, views, INSERTs, sources, dataflow.
//! Does not own: any of the steps. Invariant: compiling is pure and deterministic; it opens no file and no connection.

use crate::plan::builder::{Builder, Target};
use crate::plan::catalog::Catalog;
use crate::plan::lower::lower;
use crate::plan::{dead_letters, insert, late_rows, optimize, sinks, sources, timed};
use crate::query::CompiledQuery;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_functions::clock::BatchClock;
use highwater_protocol::ids::SinkId;
use highwater_protocol::options::OutputMode;
use highwater_sql::array_subqueries::aggregate_arrays;
use highwater_sql::connectors::written_secrets;
use highwater_sql::derived::DerivedFrom;
use highwater_sql::error::{Result, SqlError};
use highwater_sql::functions::Functions;
use highwater_sql::group_windows::rewrite_group_windows;
use highwater_sql::identifier::{Name, key_of};
use highwater_sql::limits;
use highwater_sql::metadata_columns::{METADATA, collect_metadata, hide_metadata};
use highwater_sql::names::use_standard_names;
use highwater_sql::options::{QueryOptions, query_options, table_options};
use highwater_sql::patterns::use_patterns;
use highwater_sql::random::{collect_position, derive_random};
use highwater_sql::refuse::refuse_unsupported;
use highwater_sql::rewrite::{
    name_branches, name_fields, name_subqueries, order_by_places, tell_columns_apart, use_grouping_sets, use_limits,
};
use highwater_sql::script::{InsertDef, Statement, ViewDef, parse_script};
use highwater_sql::spark_windows::rewrite_spark_windows;
use highwater_sql::spelling::Spellings;
use highwater_sql::table_def::{Column, OptionEntry, TableDef};
use highwater_sql::tables::SinkTable;
use highwater_sql::tuples::compare_rows;
use highwater_sql::unnest::{join_lateral_views, make_lateral};
use highwater_sql::versions::rewrite_versions;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Compiles a script. The error names the place, the cause and the remedy.
pub fn compile(sql: &str) -> Result<CompiledQuery> {
    limits::on_large_stack(|| compile_script(sql))
}

fn compile_script(sql: &str) -> Result<CompiledQuery> {
    let mut script = Script::parse(sql)?;
    let (options, defaults) = query_options(&script.settings)?;
    let clock = BatchClock::default();
    let catalog = catalog(&mut script, &defaults, &clock, xxhash_rust::xxh3::xxh3_64(sql.as_bytes()))?;
    if script.inserts.is_empty() {
        return Err(SqlError::at(Location::empty(), "the script has no INSERT INTO, so nothing would run")
            .hint("add INSERT INTO <table> SELECT … FROM <table>"));
    }
    let (mut sinks, planned) = plan_inserts(&script, &catalog, &options)?;
    let plans: Vec<&LogicalPlan> = planned.iter().map(|insert| &insert.plan).collect();
    let mut sources = sources::collect(&plans, &catalog, &defaults, options.max_drift_ms.is_some())?;
    let mut builder = Builder::new(&sources, &options, lower);
    for sink in &sinks {
        let mut parts = Vec::new();
        for insert in planned.iter().filter(|insert| insert.sink == sink.id) {
            let target = target(sink, &options, insert.at);
            parts.push(sinks::Part { flows: builder.build(&insert.plan, target)?, plan: &insert.plan, target });
        }
        sinks::connect(&mut builder, parts, sink)?;
        if let Some(table) = catalog.table(&sink.name) {
            builder.warnings.extend(sinks::idle_parts(table));
        }
    }
    let Builder { mut dataflow, lookups, mut warnings, .. } = builder;
    warnings.extend(sources::never_idle(&sources, &options));
    warnings.extend(written_secrets(&sources, &sinks));
    dead_letters::connect(&mut dataflow, &mut sources, &mut sinks);
    timed::number(&mut dataflow);
    late_rows::connect(&mut dataflow, &sources, &mut sinks, &mut warnings);
    let mut said = BTreeSet::new();
    warnings.retain(|warning| said.insert(warning.clone()));
    let query = CompiledQuery { options, sources, sinks, dataflow, lookups, warnings, clock };
    query.check_schemas().map_err(|error| {
        SqlError::at(Location::empty(), error.to_string())
            .hint("this is a fault of Highwater, not of the script: please report it with the script")
    })?;
    Ok(query)
}

/// Returns the schemas of a script's tables (declared columns) and views, by name. INSERTs are not planned.
///
/// # Errors
/// If a statement cannot be parsed, an option is unknown, or a view cannot be planned.
pub fn describe(sql: &str) -> Result<BTreeMap<String, SchemaRef>> {
    limits::on_large_stack(|| describe_script(sql))
}

fn describe_script(sql: &str) -> Result<BTreeMap<String, SchemaRef>> {
    let mut script = Script::parse(sql)?;
    let (_, defaults) = query_options(&script.settings)?;
    let catalog = catalog(&mut script, &defaults, &BatchClock::default(), 0)?;
    let mut schemas = BTreeMap::new();
    for table in &script.tables {
        let declared = |column: &Column| Field::new(&column.name.text, column.data_type.clone(), column.nullable);
        let fields: Vec<Field> = table.columns.iter().map(declared).collect();
        schemas.insert(table.name.text.clone(), Arc::new(Schema::new(fields)));
    }
    for view in &script.views {
        let plan = optimize::analyze(plan_query(&view.query, &catalog, view.name.at)?, catalog.config(), view.name.at)?;
        let schema = name_columns(plan, view, &catalog)?.schema().as_arrow().clone();
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
                Statement::Table(table) if table.if_new && script.knows(&table.name) => {}
                Statement::View(view) if view.if_new && script.knows(&view.name) => {}
                Statement::Table(table) => script.tables.push(table),
                Statement::View(view) => script.views.push(view),
                Statement::Insert(insert) => script.inserts.push(insert),
            }
        }
        script.check()?;
        Ok(script)
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        self.tables.iter().map(|table| &table.name).chain(self.views.iter().map(|view| &view.name))
    }

    fn knows(&self, name: &Name) -> bool {
        self.names().any(|known| key_of(&known.text) == key_of(&name.text))
    }

    fn check(&self) -> Result<()> {
        let names: Vec<&Name> = self.names().collect();
        let last = names.last().map_or(Location::empty(), |name| name.at);
        limits::check_count("tables and views", names.len(), limits::MAX_TABLES, last)?;
        let last = self.inserts.last().map_or(Location::empty(), |insert| insert.at);
        limits::check_count("INSERTs", self.inserts.len(), limits::MAX_INSERTS, last)?;
        for table in &self.tables {
            limits::check_count("columns in one table", table.columns.len(), limits::MAX_COLUMNS, table.name.at)?;
        }
        refuse_twice(&names, |name| format!("'{name}' is created twice"), "tables and views share one set of names")?;
        Ok(())
    }

    /// Returns the keys of the tables that INSERTs write.
    fn written(&self) -> BTreeSet<String> {
        self.inserts.iter().map(|insert| key_of(&insert.table.text)).collect()
    }

    /// Brings the names of all queries to the spelling that the script declares.
    fn use_spellings(&mut self) -> Result<Spellings> {
        let written = self.written();
        let read = self.tables.iter().filter(|table| !written.contains(&key_of(&table.name.text)));
        let views = self.views.iter().map(|view| (view.name.clone(), view.columns.clone())).collect::<Vec<_>>();
        let views = views.iter().map(|(name, columns)| (name, columns.as_slice()));
        let mut queries: Vec<&mut Query> = self.views.iter_mut().map(|view| &mut view.query).collect();
        queries.extend(self.inserts.iter_mut().map(|insert| &mut insert.query));
        let spellings = Spellings::of_script(read, views, queries.iter_mut().map(|query| &mut **query))?;
        queries.into_iter().try_for_each(|query| spellings.apply(query))?;
        Ok(spellings)
    }

    /// Returns the metadata columns that the script uses anywhere.
    fn metadata(&self) -> BTreeSet<&'static str> {
        let mut used = BTreeSet::new();
        for query in self.views.iter().map(|view| &view.query).chain(self.inserts.iter().map(|insert| &insert.query)) {
            collect_metadata(query, &mut used);
            collect_position(query, &mut used);
        }
        for table in &self.tables {
            used.extend(table.metadata());
            for derived in &table.derived {
                if let DerivedFrom::Expr(expr) = &derived.from {
                    collect_metadata(expr.as_ref(), &mut used);
                }
            }
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
        if let Some(first) = names[..index].iter().find(|other| key_of(&other.text) == key_of(&name.text)) {
            // `names` lists tables before views, so the second one is the one that comes later in the script.
            let second =
                if (first.at.line, first.at.column) > (name.at.line, name.at.column) { first.at } else { name.at };
            return Err(SqlError::at(second, message(&name.text)).hint(hint));
        }
    }
    Ok(())
}

fn catalog(script: &mut Script, defaults: &[OptionEntry], clock: &BatchClock, seed: u64) -> Result<Catalog> {
    let spellings = script.use_spellings()?;
    let mut catalog = Catalog::new(Functions::new(clock), script.written(), spellings, seed);
    let metadata = script.metadata();
    for table in &script.tables {
        let options = table_options(table, defaults)?;
        catalog.add_table(table.clone(), options, &metadata)?;
    }
    for view in &script.views {
        let plan = plan_query(&view.query, &catalog, view.name.at)?;
        let plan = name_columns(plan, view, &catalog)?;
        let size = limits::check_plan(&plan, view.name.at)?;
        catalog.add_view(&view.name.text, plan, size);
    }
    Ok(catalog)
}

fn plan_query(query: &Query, catalog: &Catalog, at: Location) -> Result<LogicalPlan> {
    limits::check_query(query, &|name| catalog.view_size(name), at)?;
    let mut query = query.clone();
    hide_metadata(&mut query, &|name| catalog.hidden(name));
    aggregate_arrays(&mut query)?;
    use_patterns(&mut query)?;
    join_lateral_views(&mut query);
    use_standard_names(&mut query);
    name_branches(&mut query);
    name_subqueries(&mut query);
    use_limits(&mut query);
    order_by_places(&mut query);
    use_grouping_sets(&mut query);
    compare_rows(&mut query);
    derive_random(&mut query, catalog.seed(), &|name| catalog.is_stream(name))?;
    rewrite_spark_windows(&mut query);
    rewrite_group_windows(&mut query)?;
    refuse_unsupported(&query, catalog.functions())?;
    rewrite_versions(&mut query, &|name| catalog.is_snapshot(name))?;
    name_fields(&mut query);
    make_lateral(&mut query, &|query| {
        let plan = catalog.plan_query(query, at).ok()?;
        let spellings = catalog.spellings();
        Some(plan.schema().fields().iter().map(|field| spellings.planned_type(field.data_type())).collect())
    });
    let plan = catalog.plan_query(query, at)?;
    limits::check_plan(&plan, at)?;
    Ok(plan)
}

/// Renames the columns of a view as `CREATE VIEW v (a, b) AS …` says.
fn name_columns(plan: LogicalPlan, view: &ViewDef, catalog: &Catalog) -> Result<LogicalPlan> {
    if view.columns.is_empty() {
        return Ok(plan);
    }
    let (given, wanted) = (plan.schema().fields().len(), view.columns.len());
    if given != wanted {
        let message = format!("view '{}' names {wanted} columns, but its SELECT has {given}", view.name.text);
        return Err(SqlError::at(view.name.at, message).hint("name each column, or none"));
    }
    let named = |(expr, name): (Expr, &Name)| expr.alias(catalog.spellings().planned(&name.text));
    let exprs: Vec<Expr> = plan.schema().iter().map(Expr::from).zip(&view.columns).map(named).collect();
    let located = |error| crate::plan::errors::sql_error(error, view.name.at);
    LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build).map_err(located)
}

/// A planned INSERT.
struct PlannedInsert {
    plan: LogicalPlan,
    sink: SinkId,
    at: Location,
}

/// Plans all INSERTs. Returns the tables they write, each once, and the plans: several INSERTs into one table work like a
/// UNION ALL.
fn plan_inserts(
    script: &Script,
    catalog: &Catalog,
    options: &QueryOptions,
) -> Result<(Vec<SinkTable>, Vec<PlannedInsert>)> {
    let mut sinks: Vec<SinkTable> = Vec::new();
    let mut planned = Vec::with_capacity(script.inserts.len());
    for statement in &script.inserts {
        let table = insert::sink_of(statement, catalog)?;
        let known = sinks.iter().position(|sink| sink.name == table.def.name.text);
        let place = known.unwrap_or(sinks.len());
        if known.is_none() {
            sinks.push(sinks::sink_table(SinkId(place as u32), table, options)?);
        }
        let sink = &sinks[place];
        let mut query = statement.query.clone();
        tell_columns_apart(&mut query);
        let plan = plan_query(&query, catalog, statement.at)?;
        let plan = optimize::analyze(plan, catalog.config(), statement.at)?;
        let plan = insert::assign(plan, statement, table, &sink.schema)?;
        let plan = optimize::optimize(plan, catalog.config(), statement.at)?;
        planned.push(PlannedInsert { plan, sink: sink.id, at: statement.at });
    }
    Ok((sinks, planned))
}

/// Returns the target of an INSERT's rows.
fn target<'a>(sink: &'a SinkTable, options: &QueryOptions, at: Location) -> Target<'a> {
    let keyed = !sink.primary_key.is_empty();
    // The mode from the script, not the sink's, so that 'update' into a sink without key is refused where rows would change.
    let mode = options.output_mode.unwrap_or(sink.mode);
    // Output mode 'complete' collects the result from all of its changes, as a keyed sink would.
    let is_complete = sink.mode == OutputMode::Complete;
    let (keyed, mode) = if is_complete { (true, OutputMode::Update) } else { (keyed, mode) };
    Target { sink: &sink.name, keyed, mode, at, is_last: !is_complete }
}
