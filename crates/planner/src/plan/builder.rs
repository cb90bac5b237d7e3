//! A dataflow under construction: its stages, exchanges and operators so far.
//!
//! Owns: adding to it, and pipelines without output ([`Flow`]). Does not own: the operators for nodes of the plan (`lower`),
//! sinks (`sinks`). Invariant: stages come out in an order in which edges go forward.

use super::lookup_rows::Lookup;
use super::table::Stream;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_dataflow::Op;
use highwater_dataflow::{
    Dataflow, Edge, OperatorInfo, Pipeline, PipelineInput, PipelineOutput, Stage, StageInput, Upstream,
};
use highwater_operators::rows::Project;
use highwater_protocol::ids::{EdgeId, OperatorId, SourceId, StageId};
use highwater_protocol::options::{OnKeyConflict, OutputMode};
use highwater_sql::error::{Result, SqlError};
use highwater_sql::options::QueryOptions;
use highwater_sql::tables::SourceTable;
use highwater_sql::values::duration_text;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A pipeline that has no output yet.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Index of its stage.
    pub stage: usize,
    pub inputs: Vec<PipelineInput>,
    pub ops: Vec<Op>,
    pub schema: SchemaRef,
    /// True if rows may be retracted (weight −1).
    pub retracts: bool,
    /// Sources of the rows, ascending, and how far behind each source's watermark rows may be.
    pub upstream: Vec<Upstream>,
}

/// The INSERT being planned, and its sink, for refusals and emit modes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub sink: &'a str,
    pub keyed: bool,
    pub mode: OutputMode,
    pub at: Location,
    /// True if only projections and filters come between here and the sink.
    pub is_last: bool,
}

impl Target<'_> {
    /// Returns the target for the inputs of an operator with state.
    pub fn inner(self) -> Self {
        Self { is_last: false, ..self }
    }
}

/// Builds one dataflow out of many plans.
#[derive(Debug)]
pub struct Builder<'a> {
    pub sources: &'a [SourceTable],
    pub dataflow: Dataflow,
    /// How long windows stay open after the watermark has passed their end.
    lateness_ms: i64,
    /// Time after its last write at which state that nothing else bounds expires; `None` = never.
    pub ttl_ms: Option<i64>,
    /// What the script says of two live rows under one key of a sink.
    pub on_key_conflict: Option<OnKeyConflict>,
    pub lookups: Vec<Arc<Lookup>>,
    pub warnings: Vec<String>,
    lower: Lower,
}

/// Plans a logical plan; returns the flows whose union is its output. [`Builder`] holds this function, since modules of
/// single operators need it for their inputs and must not import `lower`.
pub type Lower = for<'a> fn(&mut Builder<'a>, &LogicalPlan, Target<'_>) -> Result<Vec<Flow>>;

impl<'a> Builder<'a> {
    /// Starts with one stage for each source.
    pub fn new(sources: &'a [SourceTable], options: &QueryOptions, lower: Lower) -> Self {
        let whole = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let mut builder = Self {
            sources,
            dataflow: Dataflow::default(),
            lateness_ms: whole(options.allowed_lateness_ms),
            ttl_ms: options.state_ttl_ms.map(whole),
            on_key_conflict: options.on_key_conflict,
            lookups: Vec::new(),
            warnings: Vec::new(),
            lower,
        };
        for source in sources {
            builder.add_stage(StageInput::Source(source.id));
        }
        builder
    }

    fn add_stage(&mut self, input: StageInput) -> usize {
        let index = self.dataflow.stages.len();
        self.dataflow.stages.push(Stage { id: StageId(index as u32), input, pipelines: Vec::new(), sinks: Vec::new() });
        index
    }

    /// Adds a stage over shards, and the edge that feeds it.
    pub fn add_exchange(&mut self, schema: SchemaRef, key: Vec<usize>, weighted: bool) -> (usize, EdgeId) {
        let edge = self.add_edge(schema, key, weighted);
        (self.add_shards(), edge)
    }

    pub fn add_edge(&mut self, schema: SchemaRef, key: Vec<usize>, weighted: bool) -> EdgeId {
        let id = EdgeId(self.dataflow.edges.len() as u32);
        self.dataflow.edges.push(Edge { id, schema, key, weighted });
        id
    }

    /// Adds a stage over shards.
    pub fn add_shards(&mut self) -> usize {
        self.add_stage(StageInput::Shards)
    }

    /// Adds an operator. State without a bound is bounded by `state_ttl`; without `state_ttl` there is a warning, in which
    /// `keeps` says what the state is and how to bound it.
    pub fn add_operator(&mut self, info: impl FnOnce(OperatorId) -> OperatorInfo, keeps: &str) -> OperatorId {
        let id = OperatorId(self.dataflow.operators.len() as u32);
        let mut info = info(id);
        match (&info.bounded_by, self.ttl_ms) {
            (Some(_), _) => {}
            (None, Some(ttl_ms)) => {
                info.ttl_ms = Some(ttl_ms);
                info.bounded_by = Some(format!("state_ttl {}", duration_text(ttl_ms.unsigned_abs())));
            }
            (None, None) => self.warnings.push(format!(
                "nothing bounds the state of operator {id} ({}): {keeps}; SET state_ttl drops state that is not written for \
                 that long",
                match info.name.as_str() {
                    "aggregate" | "distinct" | "keyed sink" => info.description.clone(),
                    name => format!("{name} {}", info.description),
                },
            )),
        }
        self.dataflow.operators.push(info);
        id
    }

    /// Adds an operator that `state_ttl` does not apply to, since its state is the content of a table: an expired row would
    /// be missing from the table.
    pub fn add_table_operator(&mut self, info: impl FnOnce(OperatorId) -> OperatorInfo, keeps: &str) -> OperatorId {
        let id = OperatorId(self.dataflow.operators.len() as u32);
        let info = info(id);
        let (name, description) = (&info.name, &info.description);
        self.warnings.push(format!("nothing bounds the state of operator {id} ({name} {description}): {keeps}"));
        self.dataflow.operators.push(info);
        id
    }

    /// Adds a flow with its output as a pipeline of its stage.
    pub fn route(&mut self, flow: Flow, output: PipelineOutput) {
        let stage = &mut self.dataflow.stages[flow.stage];
        if let PipelineOutput::Sink(sink) = output
            && !stage.sinks.contains(&sink)
        {
            stage.sinks.push(sink);
        }
        stage.pipelines.push(Pipeline { inputs: flow.inputs, late: Vec::new(), ops: flow.ops, output });
    }

    /// Plans `plan`; returns the flows whose union is its output.
    pub fn build(&mut self, plan: &LogicalPlan, target: Target<'_>) -> Result<Vec<Flow>> {
        (self.lower)(self, plan, target)
    }

    /// Returns the source of a scan, and the flow of its decoded records.
    pub fn records(&self, scan: &TableScan, target: Target<'_>) -> Result<(&'a SourceTable, Flow)> {
        let table = scan.source.downcast_ref::<Stream>().map(|stream| &stream.table);
        let found = table.and_then(|table| self.sources.iter().position(|source| source.name == table.def.name.text));
        let Some(index) = found else {
            return Err(SqlError::at(
                target.at,
                format!("table '{}' is a lookup table, not a stream to read", scan.table_name),
            )
            .hint("join a Kafka table with it, whose records look up its rows"));
        };
        let source = &self.sources[index];
        let flow = Flow {
            stage: index,
            inputs: vec![PipelineInput::Source],
            ops: Vec::new(),
            schema: source.layout(),
            retracts: false,
            upstream: vec![Upstream { source: source.id, delay_ms: self.lateness_ms }],
        };
        Ok((source, flow))
    }
}

/// Returns the places of a scan's columns among the decoded ones.
pub fn wanted(scan: &TableScan, source: &SourceTable) -> Vec<usize> {
    let all = 0..source.schema.fields().len();
    let wanted = scan.projection.clone().unwrap_or_else(|| all.collect());
    wanted.into_iter().filter_map(|column| source.place(column)).collect()
}

/// Returns these columns of a schema as expressions.
pub fn columns(schema: &Schema, places: &[usize]) -> Vec<Arc<dyn PhysicalExpr>> {
    let column = |place: &usize| Arc::new(Column::new(schema.field(*place).name(), *place)) as Arc<dyn PhysicalExpr>;
    places.iter().map(column).collect()
}

/// Refuses `now()` in `expr`: the row would have to be checked again as time passes.
pub fn refuse_clock(expr: &Expr, place: &str, target: Target<'_>) -> Result<()> {
    match expr.is_volatile() {
        true => Err(SqlError::at(target.at, format!("now() in {place} is not supported in streaming yet")).hint(
            "select now() as a column, or use it as a key of GROUP BY; to filter by time, use a window over a table with WATERMARK",
        )),
        false => Ok(()),
    }
}

/// Properties of the union of several flows.
#[derive(Clone, Debug)]
pub struct Merged {
    pub retracts: bool,
    pub upstream: Vec<Upstream>,
}

pub fn merge_flows(flows: &[Flow]) -> Merged {
    Merged {
        retracts: flows.iter().any(|flow| flow.retracts),
        upstream: merge_upstream(flows.iter().flat_map(|flow| flow.upstream.iter().copied())),
    }
}

/// Returns each source once, ascending, with its greatest delay.
pub fn merge_upstream(all: impl Iterator<Item = Upstream>) -> Vec<Upstream> {
    let mut delays: BTreeMap<SourceId, i64> = BTreeMap::new();
    for one in all {
        let delay = delays.entry(one.source).or_insert(one.delay_ms);
        *delay = (*delay).max(one.delay_ms);
    }
    delays.into_iter().map(|(source, delay_ms)| Upstream { source, delay_ms }).collect()
}

/// Appends a projection, unless it only changes names. A projection to no columns is left out: no operator uses the columns,
/// and a batch without columns would have no row count.
pub fn project(flow: &mut Flow, exprs: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) {
    if exprs.is_empty() {
        return;
    }
    let is_same = exprs.len() == flow.schema.fields().len()
        && exprs
            .iter()
            .enumerate()
            .all(|(index, expr)| expr.downcast_ref::<Column>().is_some_and(|column| column.index() == index));
    if !is_same {
        flow.ops.push(Arc::new(Project { exprs: exprs.to_vec(), schema: schema.clone() }));
    }
    flow.schema = schema.clone();
}

/// Gives the flow exactly the names and nullability of `schema`; the types are the same already. Always adds a projection,
/// since `project` may have changed names only in `flow.schema`, not in batches.
pub fn rename(flow: &mut Flow, schema: &SchemaRef) {
    let projects = flow.ops.last().and_then(|last| last.downcast_ref::<Project>()).map(|last| last.exprs.clone());
    if let Some(exprs) = projects {
        flow.ops.pop();
        flow.ops.push(Arc::new(Project { exprs, schema: schema.clone() }));
    } else {
        let column =
            |(index, field): (usize, &FieldRef)| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>;
        let exprs = flow.schema.fields().iter().enumerate().map(column).collect();
        flow.ops.push(Arc::new(Project { exprs, schema: schema.clone() }));
    }
    flow.schema = schema.clone();
}
