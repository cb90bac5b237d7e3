//! Resolves names while a script is planned: its tables and views, and the functions.
//!
//! Owns: the context of DataFusion's SQL planner. Does not own: options (`sql::options`), the spelling of names
//! (`sql::spelling`), plans after planning. Invariant: only tables of the script exist; nothing here opens or reads anything.

use super::as_of::{find_marks, mark};
use super::errors::{external, sql_error};
use super::fields::FieldNames;
use super::table::{Stream, Table};
use super::using::{UsingPlanner, bracket, without_marks};
use super::windows::WindowPlanner;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, Result, TableReference};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{self, Query, Statement};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_connector_spec::Use;
use highwater_expressions::Exact;
use highwater_sql::error::SqlError;
use highwater_sql::functions::Functions;
use highwater_sql::identifier::key_of;
use highwater_sql::metadata_columns::metadata_field;
use highwater_sql::options::TableOptions;
use highwater_sql::spelling::Spellings;
use highwater_sql::suggest::did_you_mean;
use highwater_sql::table_def::TableDef;
use highwater_sql::types::to_arrow;
use highwater_sql::versions::AS_OF;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Tables, views and functions of one script. The keys of all maps are those of names (`identifier::key_of`).
#[derive(Debug)]
pub struct Catalog {
    tables: BTreeMap<String, Arc<Table>>,
    views: BTreeMap<String, Arc<View>>,
    sizes: BTreeMap<String, usize>,
    /// Plans that compute the derived columns, of tables that have any.
    derived: BTreeMap<String, Arc<View>>,
    /// Plans that rename columns to their spelling in queries, of tables that spell any differently.
    respelled: BTreeMap<String, Arc<View>>,
    spellings: Spellings,
    /// Tables that an INSERT writes; they cannot be read.
    written: BTreeSet<String>,
    functions: Functions,
    /// Seed of `random()` and `uuid()`.
    seed: u64,
    config: ConfigOptions,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    type_planner: Arc<dyn TypePlanner>,
}

impl Catalog {
    pub fn new(functions: Functions, written: BTreeSet<String>, spellings: Spellings, seed: u64) -> Self {
        let mut config = ConfigOptions::new();
        config.execution.time_zone = Some(highwater_sql::types::UTC.into());
        config.sql_parser.map_string_types_to_utf8view = false;
        config.sql_parser.collect_spans = true;
        // Scalar subqueries are planned as joins, since they are streams.
        config.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        let mut expr_planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(FieldNames), Arc::new(Exact)];
        expr_planners.extend(SessionStateDefaults::default_expr_planners());
        Self {
            tables: BTreeMap::new(),
            views: BTreeMap::new(),
            sizes: BTreeMap::new(),
            derived: BTreeMap::new(),
            respelled: BTreeMap::new(),
            spellings,
            written,
            functions,
            seed,
            config,
            expr_planners,
            relation_planners: vec![Arc::new(WindowPlanner), Arc::new(UsingPlanner)],
            type_planner: Arc::new(Types),
        }
    }

    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// True if `name` is a table whose records are read as a stream.
    pub fn is_stream(&self, name: &str) -> bool {
        self.table(name).is_some_and(|table| table.options.connector.is(Use::Source))
    }

    pub fn config(&self) -> &ConfigOptions {
        &self.config
    }

    pub fn spellings(&self) -> &Spellings {
        &self.spellings
    }

    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(&key_of(name))
    }

    pub fn is_view(&self, name: &str) -> bool {
        self.views.contains_key(&key_of(name))
    }

    /// Names of all tables and views, for suggestions.
    pub fn names(&self) -> Vec<&str> {
        let tables = self.tables.values().map(|table| table.def.name.text.as_str());
        tables.chain(self.views.keys().map(|key| self.spellings.planned(key))).collect()
    }

    pub fn add_table(
        &mut self,
        def: TableDef,
        options: TableOptions,
        metadata: &BTreeSet<&'static str>,
    ) -> Result<(), SqlError> {
        let declared = |name: &str| def.columns.iter().any(|column| column.name.text == name);
        let hidden: Vec<&'static str> = metadata.iter().copied().filter(|name| !declared(name)).collect();
        let mut fields: Vec<Field> = def
            .columns
            .iter()
            .map(|column| Field::new(&column.name.text, column.data_type.clone(), column.nullable))
            .collect();
        fields.extend(hidden.iter().filter_map(|name| metadata_field(name)));
        let schema = Arc::new(Schema::new(fields));
        let table = Arc::new(Table { def, options, schema, hidden });
        let key = key_of(&table.def.name.text);
        if let Some(plan) =
            super::derived::read(&table, &self.functions, &|expr, schema, at| self.plan_expr(expr, schema, at))?
        {
            self.derived.insert(key.clone(), Arc::new(View { plan }));
        }
        // Of what no query reads, columns are only written, under their own names.
        if !self.written.contains(&key) {
            let respelled = self.rows_of(&table).and_then(|rows| self.respelled(&table, rows));
            if let Some(plan) = respelled.map_err(|error| sql_error(error, table.def.name.at))? {
                self.respelled.insert(key.clone(), Arc::new(View { plan }));
            }
        }
        self.tables.insert(key, table);
        Ok(())
    }

    /// Returns the plan that reads a table, derived columns included, under the declared names.
    pub fn rows_of(&self, table: &Arc<Table>) -> Result<LogicalPlan> {
        match self.derived.get(&key_of(&table.def.name.text)) {
            Some(view) => Ok(view.plan.clone()),
            None => {
                let name = TableReference::bare(table.def.name.text.as_str());
                LogicalPlanBuilder::scan(name, Arc::new(Stream { table: table.clone() }), None)?.build()
            }
        }
    }

    /// Renames the columns of a table's rows to their spelling in queries; `None` if it is the declared one.
    fn respelled(&self, table: &Table, rows: LogicalPlan) -> Result<Option<LogicalPlan>> {
        if rows.schema().fields().iter().all(|field| self.spellings.planned(field.name()) == field.name()) {
            return Ok(None);
        }
        let name = TableReference::bare(table.def.name.text.as_str());
        let column = |(qualifier, field): (Option<&TableReference>, &FieldRef)| {
            Expr::from((qualifier, field)).alias_qualified(Some(name.clone()), self.spellings.planned(field.name()))
        };
        let columns: Vec<Expr> = rows.schema().iter().map(column).collect();
        LogicalPlanBuilder::from(rows).project(columns)?.build().map(Some)
    }

    /// Adds a view. `size` is its number of relations.
    pub fn add_view(&mut self, name: &str, plan: LogicalPlan, size: usize) {
        self.sizes.insert(key_of(name), size);
        self.views.insert(key_of(name), Arc::new(View { plan }));
    }

    /// Returns the number of relations of a view; `None` if there is no such view.
    pub fn view_size(&self, name: &str) -> Option<usize> {
        self.sizes.get(&key_of(name)).copied()
    }

    /// Returns the columns that `*` over this name leaves out.
    pub fn hidden(&self, name: &str) -> Vec<&'static str> {
        self.table(name).map(|table| table.hidden.clone()).unwrap_or_default()
    }

    /// True if `name` is a lookup table that the driver reads whole.
    pub fn is_snapshot(&self, name: &str) -> bool {
        self.table(name).is_some_and(|table| table.is_snapshot())
    }

    /// Plans a query of the script; `at` is the place of its statement.
    pub fn plan_query(&self, mut query: Query, at: Location) -> Result<LogicalPlan, SqlError> {
        bracket(&mut query);
        let plan = self.planner().sql_statement_to_plan(Statement::Query(Box::new(query)));
        plan.and_then(without_marks).and_then(find_marks).map_err(|error| sql_error(error, at))
    }

    /// Plans an expression over a table's columns.
    pub fn plan_expr(&self, expr: ast::Expr, schema: &DFSchema, at: Location) -> Result<Expr, SqlError> {
        self.planner().sql_to_expr(expr, schema, &mut PlannerContext::new()).map_err(|error| sql_error(error, at))
    }

    fn planner(&self) -> SqlToRel<'_, Self> {
        SqlToRel::new_with_options(self, ParserOptions::from(&self.config.sql_parser))
    }
}

#[derive(Debug)]
struct View {
    plan: LogicalPlan,
}

struct ViewSource(Arc<View>);

impl TableSource for ViewSource {
    fn schema(&self) -> SchemaRef {
        self.0.plan.schema().inner().clone()
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.0.plan))
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let nowhere = Location::empty();
        if name.schema().is_some() {
            return Err(external(
                SqlError::at(nowhere, format!("table '{name}' not found"))
                    .hint("names of tables and views have one part"),
            ));
        }
        let key = key_of(name.table());
        if let Some(view) = self.views.get(&key) {
            return Ok(Arc::new(ViewSource(view.clone())));
        }
        let Some(table) = self.tables.get(&key) else {
            let hint = did_you_mean(name.table(), self.names(), "tables and views");
            return Err(external(
                SqlError::at(nowhere, format!("table '{}' not found", name.table())).maybe_hint(hint),
            ));
        };
        if self.written.contains(&key) {
            return Err(external(
                SqlError::at(
                    nowhere,
                    format!("table '{}' is written by this script and cannot be read in it", table.def.name.text),
                )
                .hint("move its SELECT into a view and read that, or read its topic in a second query"),
            ));
        }
        if let Some(view) = self.respelled.get(&key).or_else(|| self.derived.get(&key)) {
            return Ok(Arc::new(ViewSource(view.clone())));
        }
        Ok(Arc::new(Stream { table: table.clone() }))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(self.type_planner.clone())
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        match name {
            AS_OF => Some(mark()),
            _ => self.functions.scalar(name),
        }
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions.aggregate(name)
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.functions.window(name)
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.config
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.scalar_names()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions.aggregate_names()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.functions.window_names()
    }
}

/// Maps types in expressions as those of columns; DataFusion maps all others.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        Ok(to_arrow(sql_type, Location::empty()).ok().map(|data_type| Arc::new(Field::new("", data_type, true))))
    }
}
