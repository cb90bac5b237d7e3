//! DataFusion's batch answers over tables in memory.

use super::fold::{Text, texts};
use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::{SessionConfig, SessionContext};
use highwater_functions::aggregates;
use highwater_functions::clock::BatchClock;
use highwater_sql::functions::Functions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Returns the rows of a query over these tables. If one set of optimizer rules and operators fails, it tries the other.
pub fn answer(tables: Vec<(String, RecordBatch)>, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let first = ask(&SessionContext::new(), tables.clone(), sql);
    first.or_else(|error| second_answer(tables, sql).map_err(|_| error))
}

/// Does the same with other operators and without optional rules, since DataFusion's rules about keys, constant conditions,
/// equal expressions and existing orders have faults of their own.
pub fn second_answer(tables: Vec<(String, RecordBatch)>, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.max_passes = 1;
    optimizer.prefer_hash_join = false;
    optimizer.join_reordering = false;
    optimizer.enable_dynamic_filter_pushdown = false;
    optimizer.skip_failed_rules = true;
    let needed = ["OutputRequirements", "EnsureRequirements", "EnsureCooperative", "SanityCheckPlan"];
    let rules = PhysicalOptimizer::default().rules.into_iter().filter(|rule| needed.contains(&rule.name())).collect();
    let state = SessionStateBuilder::new().with_config(config).with_default_features();
    let context = SessionContext::new_with_state(state.with_physical_optimizer_rules(rules).build());
    for rule in [
        "push_down_filter",
        "push_down_limit",
        "optimize_projections",
        "common_sub_expression_eliminate",
        "extract_leaf_expressions",
        "push_down_leaf_projections",
        "eliminate_group_by_constant",
        "single_distinct_aggregation_to_group_by",
        "eliminate_outer_join",
        "filter_null_join_keys",
    ] {
        context.remove_optimizer_rule(rule);
    }
    ask(&context, tables, sql)
}

fn ask(context: &SessionContext, tables: Vec<(String, RecordBatch)>, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let functions = Functions::new(&BatchClock::default());
    // What those that only Highwater has say of a set of rows is told by example, in `aggregates.slt`.
    for own in aggregates::all().iter().filter_map(|own| functions.aggregate(own.name())) {
        context.register_udaf(own.as_ref().clone());
    }
    for (name, batch) in tables {
        let memory = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
        context.register_table(format!("\"{name}\""), Arc::new(memory)).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // It may panic as well.
    let batches = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { context.sql(sql).await?.collect().await }).map_err(|error| error.to_string())
    }));
    batches.unwrap_or_else(|_| Err("DataFusion panicked".into())).map_err(|error| format!("{error}\n{sql}"))
}

/// Returns the query whose rows a sink with this PRIMARY KEY shows of another's: of those that share a key, the greatest,
/// compared column by column, NULL being the least.
pub fn one_of_each_key(query: &str, columns: &[&str], key: &[&str]) -> String {
    let order: Vec<String> = columns.iter().map(|column| format!("{column} DESC NULLS LAST")).collect();
    let (columns, key, order) = (columns.join(", "), key.join(", "), order.join(", "));
    format!(
        "SELECT {columns} FROM (SELECT {columns}, row_number() OVER (PARTITION BY {key} ORDER BY {order}) AS nth_ \
         FROM ({query}) q) ranked WHERE nth_ = 1"
    )
}

/// Returns rows as text, in order, with columns cast as an INSERT into a sink of this schema casts them.
pub fn assigned(batches: &[RecordBatch], schema: &SchemaRef) -> Vec<Text> {
    batches.iter().flat_map(|batch| texts(&cast_to(batch, schema))).collect()
}

/// Casts the columns, by position.
pub fn cast_to(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns =
        batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()).unwrap());
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

/// Describes the rows that only one of the lists has, counting equal rows; `None` if the lists are equal.
pub fn difference(expected: &[Text], found: &[Text]) -> Option<String> {
    let (mut expected, mut found) = (expected.to_vec(), found.to_vec());
    expected.sort();
    found.sort();
    if expected == found {
        return None;
    }
    let without = |all: &[Text], other: &[Text]| {
        let mut other = other.to_vec();
        let is_new = |row: &&Text| match other.iter().position(|one| one == *row) {
            Some(at) => {
                other.swap_remove(at);
                false
            }
            None => true,
        };
        all.iter().filter(is_new).cloned().collect::<Vec<_>>()
    };
    let (missing, wrong) = (without(&expected, &found), without(&found, &expected));
    Some(format!("missing {missing:?}, wrong {wrong:?}, {} rows instead of {}", found.len(), expected.len()))
}
