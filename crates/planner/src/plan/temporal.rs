//! Plans a temporal join as two exchanges by its key, and a stage that keeps the versions.
//!
//! Owns: the checks of its key and its times, and when its rows are emitted. Does not own: which relations have versions
//! (`versioned`), joining (`operators::temporal`). Invariants: both sides are exchanged by keys of the same types; the
//! condition compares the whole key of the versions, so that a row has at most one version.

use super::as_of::TemporalJoin;
use super::builder::{Builder, Flow, Target, columns, merge_flows, project, refuse_clock, wanted};
use super::computed::Computed;
use super::errors::sql_error;
use super::lineage::{injective, trace};
use super::physical;
use super::table::Table;
use super::versioned::{Base, Versioned, is_event_time, over, recognize};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::{DFSchema, DFSchemaRef, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_dataflow::Op;
use highwater_dataflow::{OperatorInfo, PipelineInput, PipelineOutput};
use highwater_operators::temporal::TemporalOperator;
use highwater_operators::temporal::{TemporalSpec, TimedSide, VersionSide};
use highwater_protocol::options::OutputMode;
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Plans a temporal join; returns the flow of the left side's rows, each with the version that was valid at its time.
pub fn build(builder: &mut Builder<'_>, node: &TemporalJoin, target: Target<'_>) -> Result<Vec<Flow>> {
    let place = place_of(&node.time, target);
    let located = |error| sql_error(error, place);
    let versioned = recognize(&node.right).map_err(located)?.ok_or_else(|| no_versions(place))?;
    check_time(node, place)?;
    let Condition { keys, rest } = Condition::of(node, &versioned, place)?;
    let asked = versioned.columns.iter().chain(&versioned.conditions).chain(&rest).chain(keys.iter().flatten());
    for expr in asked {
        refuse_clock(expr, "a temporal join", target)?;
    }
    let mut rows = builder.build(&node.left, target.inner())?;
    let [left_keys, right_keys] = [0, 1].map(|side| keys.iter().map(|pair| pair[side].clone()).collect::<Vec<_>>());
    let timed = rows_side(node, &left_keys, &mut rows, target)?;
    let (mut versions, side) = versions_side(builder, &versioned, &right_keys, target)?;
    check_types(&timed, &side.timed, place)?;
    let (merged_rows, merged_versions) = (merge_flows(&rows), merge_flows(&versions));
    let upstream = merge_flows(&[rows.clone(), versions.clone()].concat()).upstream;
    let left = builder.add_edge(timed.schema.clone(), timed.key.clone(), merged_rows.retracts);
    rows.drain(..).for_each(|flow| builder.route(flow, PipelineOutput::Exchange(left)));
    let right = builder.add_edge(side.timed.schema.clone(), side.timed.key.clone(), merged_versions.retracts);
    versions.drain(..).for_each(|flow| builder.route(flow, PipelineOutput::Exchange(right)));
    let pair = node.left.schema().join(node.right.schema()).map_err(located)?;
    let filter = match conjunction(rest) {
        Some(filter) => Some(physical::expr(&filter, &pair, target.at)?),
        None => None,
    };
    let on_close = target.mode == OutputMode::Append;
    let spec = TemporalSpec {
        rows: timed,
        versions: side,
        keeps_unmatched: node.keeps_unmatched,
        input_retracts: merged_rows.retracts,
        filter,
        pair_schema: plain(&pair),
        output_schema: plain(datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(node)),
        on_close,
        watermark: upstream.clone(),
    };
    let schema = spec.output_schema.clone();
    let op = add_operator(builder, &spec);
    let stage = builder.add_shards();
    let inputs = vec![PipelineInput::Edge(left), PipelineInput::Edge(right)];
    let ops: Vec<Op> = vec![Arc::new(TemporalOperator { op, spec: Arc::new(spec) })];
    Ok(vec![Flow { stage, inputs, ops, schema, retracts: !on_close, upstream }])
}

fn add_operator(builder: &mut Builder<'_>, spec: &TemporalSpec) -> highwater_protocol::ids::OperatorId {
    let description = spec.text();
    let sources = spec.watermark.iter().map(|one| one.source).collect();
    let info = |id| OperatorInfo {
        id,
        name: "temporal join".into(),
        description,
        sources,
        bounded_by: None,
        closes_windows: true,
        clock_window: None,
        ttl_ms: None,
    };
    let keeps = "the watermark frees rows and versions that newer ones follow, but the last version of every key is kept \
                 until a deletion ends it";
    builder.add_table_operator(info, keeps)
}

/// Returns the tables whose watermarks make rows and versions of this join final.
pub fn closing_tables(node: &TemporalJoin) -> Vec<Arc<Table>> {
    let rows = trace(&node.time, &node.left).map(|origin| origin.tables).unwrap_or_default();
    let versions = recognize(&node.right).ok().flatten().map(|versioned| versioned.base.tables()).unwrap_or_default();
    rows.into_iter().chain(versions).collect()
}

fn plain(schema: &DFSchema) -> SchemaRef {
    Arc::new(Schema::new(schema.as_arrow().fields().clone()))
}

fn place_of(time: &Expr, target: Target<'_>) -> Location {
    let span = time.column_refs().into_iter().find_map(|column| column.spans().first());
    span.map_or(target.at, |span| Location::new(span.start.line, span.start.column))
}

fn no_versions(place: Location) -> SqlError {
    SqlError::at(place, "FOR SYSTEM_TIME AS OF needs a right side that has versions").hint(
        "that is a table with PRIMARY KEY (…) NOT ENFORCED and WATERMARK FOR a stored column; or a view that keeps the last \
         row of each key: SELECT … FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts DESC) AS n FROM t) \
         WHERE n = 1, over a table with WATERMARK FOR ts",
    )
}

fn check_time(node: &TemporalJoin, place: Location) -> Result<()> {
    match is_event_time(&node.time, &node.left) {
        true => Ok(()),
        false => Err(SqlError::at(
            place,
            format!("FOR SYSTEM_TIME AS OF needs the event time of the left side, and '{}' is not", node.time),
        )
        .hint("name a column of the left side as its table declares it in WATERMARK FOR, not a computed one")),
    }
}

/// The condition of a temporal join.
struct Condition {
    /// For each column of the versions' key, the two sides of its equality: over the left side, and over the versions' base.
    keys: Vec<[Expr; 2]>,
    rest: Vec<Expr>,
}

impl Condition {
    fn of(node: &TemporalJoin, versioned: &Versioned<'_>, place: Location) -> Result<Self> {
        let (schema, wanted) = (versioned.base.schema(), versioned.base.key());
        let mut found: Vec<Option<[Expr; 2]>> = vec![None; wanted.len()];
        let mut rest = Vec::new();
        for conjunct in split_conjunction(&node.condition) {
            if matches!(conjunct, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
                continue;
            }
            if let Some([left, right]) = equality(conjunct, node.left.schema(), node.right.schema()) {
                let right = over(right, node.right.schema(), &versioned.columns).map_err(|e| sql_error(e, place))?;
                let key = wanted.iter().position(|key| is_key(&right, key, schema));
                if let Some(key) = key.filter(|key| found[*key].is_none()) {
                    found[key] = Some([left.clone(), right]);
                    continue;
                }
            }
            rest.push(conjunct.clone());
        }
        let missing = wanted.iter().zip(&found).filter(|(_, found)| found.is_none());
        let missing: Vec<String> = missing.map(|(key, _)| name_of(key)).collect();
        if !missing.is_empty() {
            return Err(SqlError::at(
                place,
                format!(
                    "a temporal join compares the whole key of its right side, and the condition leaves out {}",
                    missing.join(", ")
                ),
            )
            .hint(format!(
                "add an equality for each: ON … AND l.x = r.{}; further conditions may follow",
                missing[0]
            )));
        }
        Ok(Self { keys: found.into_iter().flatten().collect(), rest })
    }
}

fn name_of(key: &Expr) -> String {
    match key {
        Expr::Column(column) => column.name.clone(),
        other => other.to_string(),
    }
}

/// Returns both sides of an equality, the left input's first; `None` if the condition is not one between the two inputs.
fn equality<'a>(condition: &'a Expr, left: &DFSchema, right: &DFSchema) -> Option<[&'a Expr; 2]> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = condition else { return None };
    let of = |expr: &Expr, schema: &DFSchema| {
        expr.column_refs().into_iter().all(|column| schema.maybe_index_of_column(column).is_some())
    };
    [[a.as_ref(), b.as_ref()], [b.as_ref(), a.as_ref()]].into_iter().find(|[l, r]| of(l, left) && of(r, right))
}

/// True if the expression maps one to one to the key, so that both are equal for the same rows.
fn is_key(expr: &Expr, key: &Expr, schema: &DFSchemaRef) -> bool {
    match (expr, key) {
        (Expr::Column(expr), Expr::Column(key)) => {
            let place = schema.maybe_index_of_column(expr);
            place.is_some() && place == schema.maybe_index_of_column(key)
        }
        (expr, key) if expr == key => true,
        (Expr::Cast(cast), key) => {
            let from = datafusion::logical_expr::ExprSchemable::get_type(cast.expr.as_ref(), schema.as_ref());
            from.is_ok_and(|from| injective(&from, cast.field.data_type())) && is_key(&cast.expr, key, schema)
        }
        _ => false,
    }
}

fn rows_side(node: &TemporalJoin, keys: &[Expr], flows: &mut [Flow], target: Target<'_>) -> Result<TimedSide> {
    let schema = node.left.schema();
    let mut all = Computed::new(schema.as_arrow());
    let key = placed(&mut all, keys, schema, target)?;
    let time = all.place(physical::expr(&node.time, schema, target.at)?, "time", target)?;
    let with_keys: SchemaRef = Arc::new(Schema::new(all.fields));
    flows.iter_mut().for_each(|flow| project(flow, &all.exprs, &with_keys));
    Ok(TimedSide { schema: with_keys, key, time, width: schema.fields().len() })
}

fn placed(all: &mut Computed, exprs: &[Expr], schema: &DFSchema, target: Target<'_>) -> Result<Vec<usize>> {
    exprs
        .iter()
        .map(|expr| {
            all.place(physical::expr(expr, schema, target.at)?, &highwater_expressions::arithmetic::text(expr), target)
        })
        .collect()
}

/// Plans the versions; returns their flows, and the side's spec with their layout.
fn versions_side(
    builder: &mut Builder<'_>,
    versioned: &Versioned<'_>,
    keys: &[Expr],
    target: Target<'_>,
) -> Result<(Vec<Flow>, VersionSide)> {
    let schema = versioned.base.schema();
    let width = schema.fields().len();
    let (mut flows, mut all, time, deleted, order) = match &versioned.base {
        Base::Keyed { scan, table } => {
            let (source, mut flow) = builder.records(scan, target)?;
            let layout = flow.schema.clone();
            let time = source.upsert.as_ref().and_then(|key| source.place(key.time?));
            let time = time.ok_or_else(|| {
                SqlError::at(target.at, format!("the event time of '{}' is not read", table.def.name.text))
            })?;
            let mut sent = wanted(scan, source);
            sent.extend([time, layout.fields().len() - 1]);
            let fields: Vec<FieldRef> = sent.iter().map(|place| layout.fields()[*place].clone()).collect();
            let records: SchemaRef = Arc::new(Schema::new(fields));
            project(&mut flow, &columns(&layout, &sent), &records);
            (vec![flow], Computed::new(&records), width, Some(width + 1), Vec::new())
        }
        Base::Last { input, order, .. } => {
            let flows = builder.build(input, target.inner())?;
            let mut all = Computed::new(schema.as_arrow());
            let mut places = Vec::with_capacity(order.len());
            for sort in *order {
                let place = placed(&mut all, std::slice::from_ref(&sort.expr), schema, target)?[0];
                places.push((place, SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first }));
            }
            let (time, _) = places.remove(0);
            (flows, all, time, None, places)
        }
    };
    let key = placed(&mut all, keys, schema, target)?;
    let with_keys: SchemaRef = Arc::new(Schema::new(all.fields));
    flows.iter_mut().for_each(|flow| project(flow, &all.exprs, &with_keys));
    let compiled = |exprs: &[Expr]| -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        exprs.iter().map(|expr| physical::expr(expr, schema, target.at)).collect()
    };
    let side = VersionSide {
        timed: TimedSide { schema: with_keys, key, time, width },
        order,
        deleted,
        conditions: compiled(&versioned.conditions)?,
        columns: compiled(&versioned.columns)?,
    };
    Ok((flows, side))
}

/// Refuses keys of different types, which would never be equal.
fn check_types(rows: &TimedSide, versions: &TimedSide, place: Location) -> Result<()> {
    for (left, right) in rows.key.iter().zip(&versions.key) {
        let (left, right) = (rows.schema.field(*left), versions.schema.field(*right));
        if left.data_type() != right.data_type() {
            let message = format!("'{}' and '{}' are of different types", left.name(), right.name());
            return Err(SqlError::at(place, message).hint("cast one to the type of the other"));
        }
    }
    Ok(())
}
