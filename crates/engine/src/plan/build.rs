//! A logical plan becomes pipelines in stages.
//!
//! Owns: which operator goes into which stage, and the exchanges between. Does not own: sinks (`sinks`),
//! the inside of aggregates (`aggregate`, `retracting`). Invariants: stages come out in an order in which edges go
//! forward; whatever is not named here is refused.

use super::aggregate;
use super::as_of::TemporalJoin;
use super::catalog::Stream;
use super::emit::emit_mode;
use super::physical;
use super::retracting::{self, RetractingPlan};
use super::{join, over, temporal, unnest, upsert};
use crate::dataflow::Op;
use crate::dataflow::{
    CloseKey, Dataflow, Edge, EmitMode, OperatorInfo, Pipeline, PipelineInput, PipelineOutput, Stage, StageInput,
    Upstream,
};
use crate::lookup::Lookup;
use crate::operators::aggregate::{FinalAggregateSpec, PartialAggregateSpec};
use crate::operators::retracting::RetractingAggregateSpec;
use crate::operators::rows::{self, Expand, Project};
use crate::query::SourceTable;
use crate::sql::error::{Result, SqlError};
use crate::sql::options::QueryOptions;
use crate::sql::values::duration_text;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan, Projection, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_protocol::ids::{EdgeId, OperatorId, SourceId, StageId};
use highwater_protocol::options::OutputMode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows on their way, not yet led anywhere.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Index of the stage they are in.
    pub stage: usize,
    pub inputs: Vec<PipelineInput>,
    pub ops: Vec<Op>,
    pub schema: SchemaRef,
    /// Rows may be taken back (weight −1).
    pub retracts: bool,
    /// Sources whose rows are among these, ascending, and how far behind their watermarks they may be.
    pub upstream: Vec<Upstream>,
}

/// The INSERT that is being built: what its sink takes, for refusals and emit modes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub sink: &'a str,
    pub keyed: bool,
    pub mode: OutputMode,
    pub at: Location,
    /// Nothing but projections and filters comes between here and the sink.
    pub is_last: bool,
}

impl Target<'_> {
    /// For what an operator with state reads.
    pub fn inner(self) -> Self {
        Self { is_last: false, ..self }
    }
}

/// Builds one dataflow out of many plans.
#[derive(Debug)]
pub struct Builder<'a> {
    pub sources: &'a [SourceTable],
    pub dataflow: Dataflow,
    /// How long windows stay open behind the watermark.
    lateness_ms: i64,
    /// How long state is kept that nothing bounds and that is not written.
    pub ttl_ms: Option<i64>,
    pub lookups: Vec<Arc<Lookup>>,
    pub warnings: Vec<String>,
}

impl<'a> Builder<'a> {
    /// Starts with one stage for each source.
    pub fn new(sources: &'a [SourceTable], options: &QueryOptions) -> Self {
        let whole = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let mut builder = Self {
            sources,
            dataflow: Dataflow::default(),
            lateness_ms: whole(options.allowed_lateness_ms),
            ttl_ms: options.state_ttl_ms.map(whole),
            lookups: Vec::new(),
            warnings: Vec::new(),
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

    /// A new shards stage and the edge that feeds it.
    pub fn add_exchange(&mut self, schema: SchemaRef, key: Vec<usize>, weighted: bool) -> (usize, EdgeId) {
        let edge = self.add_edge(schema, key, weighted);
        (self.add_shards(), edge)
    }

    pub fn add_edge(&mut self, schema: SchemaRef, key: Vec<usize>, weighted: bool) -> EdgeId {
        let id = EdgeId(self.dataflow.edges.len() as u32);
        self.dataflow.edges.push(Edge { id, schema, key, weighted });
        id
    }

    /// A new stage over shards.
    pub fn add_shards(&mut self) -> usize {
        self.add_stage(StageInput::Shards)
    }

    /// Adds an operator. What nothing bounds is bounded by `state_ttl`, or else worth a warning: `keeps` says what is
    /// kept, and how to bound it.
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
                "nothing bounds the state of operator {id} ({}): {keeps}; SET state_ttl forgets what is not written for \
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

    /// Adds an operator that `state_ttl` is not for: what it keeps is the table itself, and forgetting a row would make
    /// the table another one.
    pub fn add_table_operator(&mut self, info: impl FnOnce(OperatorId) -> OperatorInfo, keeps: &str) -> OperatorId {
        let id = OperatorId(self.dataflow.operators.len() as u32);
        let info = info(id);
        let (name, description) = (&info.name, &info.description);
        self.warnings.push(format!("nothing bounds the state of operator {id} ({name} {description}): {keeps}"));
        self.dataflow.operators.push(info);
        id
    }

    /// Ends a flow as a pipeline of its stage.
    pub fn route(&mut self, flow: Flow, output: PipelineOutput) {
        let stage = &mut self.dataflow.stages[flow.stage];
        if let PipelineOutput::Sink(sink) = output
            && !stage.sinks.contains(&sink)
        {
            stage.sinks.push(sink);
        }
        stage.pipelines.push(Pipeline { inputs: flow.inputs, late: Vec::new(), ops: flow.ops, output });
    }

    /// The flows that together are the output of `plan`.
    pub fn build(&mut self, plan: &LogicalPlan, target: Target<'_>) -> Result<Vec<Flow>> {
        let refused = |what: &str| SqlError::at(target.at, format!("{what} is not supported in streaming yet"));
        Err(match plan {
            LogicalPlan::TableScan(scan) => return self.scan(scan, target),
            LogicalPlan::SubqueryAlias(alias) => return self.build(&alias.input, target),
            LogicalPlan::Projection(projection) => return self.projection(projection, target),
            LogicalPlan::Filter(filter) => return self.filter(filter, target),
            LogicalPlan::Union(union) => {
                let mut flows = Vec::new();
                for input in &union.inputs {
                    flows.extend(self.build(input, target)?);
                }
                return Ok(flows);
            }
            LogicalPlan::Aggregate(aggregate) => return self.aggregate(aggregate, target),
            LogicalPlan::Join(node) => return join::build(self, node, target),
            LogicalPlan::Window(node) => return over::window(self, node, None, target),
            LogicalPlan::Limit(node) => return over::limit(self, node, target),
            // Rows have no order on their way; where it matters there is a LIMIT.
            LogicalPlan::Sort(sort) => return self.build(&sort.input, target),
            LogicalPlan::Distinct(_) => refused("this DISTINCT"),
            LogicalPlan::Unnest(node) => return unnest::build(self, node, target),
            LogicalPlan::Subquery(_) => refused("a LATERAL subquery of this kind").hint(
                "WHERE with equal columns and aggregates work; for the first rows of each: ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= n, joined",
            ),
            LogicalPlan::Extension(_) if let Some(node) = TemporalJoin::of(plan) => {
                return temporal::build(self, node, target);
            }
            LogicalPlan::RecursiveQuery(_) => refused("WITH RECURSIVE"),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                SqlError::at(target.at, "this query has no stream to read, or a part of it has none")
                    .hint("read a table: SELECT … FROM <table>; VALUES may be a side of a join with one")
            }
            other => refused(&other.display().to_string()),
        })
    }

    fn projection(&mut self, projection: &Projection, target: Target<'_>) -> Result<Vec<Flow>> {
        let mut flows = self.build(&projection.input, target)?;
        if flows.iter().any(|flow| flow.retracts) && projection.expr.iter().any(Expr::is_volatile) {
            return Err(SqlError::at(
                target.at,
                "now() over rows that later records correct is not supported in streaming yet",
            )
            .hint("a correction would take back another time than was written: drop now(), or append final rows"));
        }
        let schema = Arc::new(projection.schema.as_arrow().clone());
        let mut exprs = Vec::with_capacity(projection.expr.len());
        for expr in &projection.expr {
            exprs.push(physical::expr(expr, projection.input.schema(), target.at)?);
        }
        flows.iter_mut().for_each(|flow| project(flow, &exprs, &schema));
        Ok(flows)
    }

    fn filter(&mut self, filter: &Filter, target: Target<'_>) -> Result<Vec<Flow>> {
        let mut flows = match filter.input.as_ref() {
            LogicalPlan::Window(node) => over::window(self, node, over::rank_limit(filter, node), target)?,
            input => self.build(input, target)?,
        };
        refuse_clock(&filter.predicate, "a condition", target)?;
        if !matches!(filter.predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
            let predicate = physical::expr(&filter.predicate, filter.input.schema(), target.at)?;
            flows.iter_mut().for_each(|flow| flow.ops.push(Arc::new(rows::Filter(predicate.clone()))));
        }
        Ok(flows)
    }

    /// The source a table is, and its records as they are decoded.
    pub fn records(&self, scan: &TableScan, target: Target<'_>) -> Result<(&'a SourceTable, Flow)> {
        let table = scan.source.downcast_ref::<Stream>().map(|stream| &stream.table);
        let found = table.and_then(|table| self.sources.iter().position(|source| source.name == table.def.name.text));
        let Some(index) = found else {
            return Err(SqlError::at(
                target.at,
                format!("table '{}' is a file, and no stream to read", scan.table_name),
            )
            .hint("join a Kafka table with it: each record looks up its rows"));
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

    fn scan(&mut self, scan: &TableScan, target: Target<'_>) -> Result<Vec<Flow>> {
        let (source, mut flow) = self.records(scan, target)?;
        let wanted = wanted(scan, source);
        let schema = Arc::new(scan.projected_schema.as_arrow().clone());
        if let Some(key) = &source.upsert {
            return Ok(vec![upsert::fold(self, flow, source, key, &wanted, schema)]);
        }
        let exprs = columns(&flow.schema, &wanted);
        project(&mut flow, &exprs, &schema);
        Ok(vec![flow])
    }

    fn aggregate(&mut self, node: &Aggregate, target: Target<'_>) -> Result<Vec<Flow>> {
        let mut flows = self.build(&node.input, target.inner())?;
        let merged = merge_flows(&flows);
        // A row that never goes has the one time it came at.
        let timed = if merged.retracts { node.group_expr.as_slice() } else { &[] };
        for expr in timed.iter().chain(&node.aggr_expr) {
            refuse_clock(expr, "an aggregate", target)?;
        }
        let closes = aggregate::closing(node).is_some() || aggregate::clock_window(node).is_some();
        let emit = emit_mode(node, closes, target)?;
        // A subquery has its row before there are any; what is written begins with the first.
        let at_once = !target.is_last && node.group_expr.is_empty();
        if at_once || !retracting::is_plain(node, merged.retracts, target.at)? {
            return self.general_aggregate(node, flows, merged, emit, target);
        }
        let upstream = merged.upstream;
        let spec = Arc::new(aggregate::compile(node, emit, upstream.clone(), target.at)?);
        let op = self.add_aggregate_operator(node, spec.close, emit, &upstream);
        let (stage, edge) = self.add_exchange(spec.partial_schema.clone(), (0..spec.group.len()).collect(), false);
        for mut flow in flows.drain(..) {
            flow.ops.push(Arc::new(PartialAggregateSpec { op, spec: spec.clone() }));
            self.route(flow, PipelineOutput::Exchange(edge));
        }
        let schema = spec.output_schema.clone();
        let ops: Vec<Op> = vec![Arc::new(FinalAggregateSpec { op, spec, emit })];
        let retracts = emit == EmitMode::Updates;
        Ok(vec![Flow { stage, inputs: vec![PipelineInput::Edge(edge)], ops, schema, retracts, upstream }])
    }

    fn general_aggregate(
        &mut self,
        node: &Aggregate,
        flows: Vec<Flow>,
        merged: Merged,
        emit: EmitMode,
        target: Target<'_>,
    ) -> Result<Vec<Flow>> {
        // Over rows that go, a row of DISTINCT may go as well.
        let emit = if emit == EmitMode::OnFirst && merged.retracts { EmitMode::Updates } else { emit };
        let RetractingPlan { lists, spec } =
            retracting::compile(node, emit, merged.retracts, merged.upstream.clone(), !target.is_last, target.at)?;
        let op = self.add_aggregate_operator(node, spec.close, emit, &merged.upstream);
        let key = (0..spec.group_width).collect();
        let (stage, edge) = self.add_exchange(spec.input_schema.clone(), key, merged.retracts);
        for mut flow in flows {
            match lists.as_slice() {
                [exprs] => {
                    let (exprs, schema) = (exprs.clone(), spec.input_schema.clone());
                    flow.ops.push(Arc::new(Project { exprs, schema }));
                }
                _ => flow.ops.push(Arc::new(Expand { lists: lists.clone(), schema: spec.input_schema.clone() })),
            }
            flow.schema = spec.input_schema.clone();
            self.route(flow, PipelineOutput::Exchange(edge));
        }
        let (schema, retracts) = (spec.output_schema.clone(), emit == EmitMode::Updates);
        let ops: Vec<Op> = vec![Arc::new(RetractingAggregateSpec { op, spec: Arc::new(spec) })];
        let inputs = vec![PipelineInput::Edge(edge)];
        Ok(vec![Flow { stage, inputs, ops, schema, retracts, upstream: merged.upstream }])
    }

    fn add_aggregate_operator(
        &mut self,
        node: &Aggregate,
        close: Option<CloseKey>,
        emit: EmitMode,
        upstream: &[Upstream],
    ) -> OperatorId {
        let description = aggregate::describe(node);
        let sources: Vec<SourceId> = upstream.iter().map(|one| one.source).collect();
        let schema: SchemaRef = Arc::new(node.schema.as_arrow().clone());
        let by_event_time = aggregate::closing(node).is_some();
        let bounded_by = match (close, node.group_expr.len()) {
            (Some(close), _) if !by_event_time => {
                Some(format!("{}, by the time of batches", schema.field(close.group_index).name()))
            }
            (Some(close), _) => Some(bound_text(&schema, close.group_index, &sources, self.sources)),
            (None, 0) => Some("a single group".to_string()),
            (None, _) => None,
        };
        let name = if node.aggr_expr.is_empty() { "distinct" } else { "aggregate" };
        let info = |id| OperatorInfo {
            id,
            name: name.into(),
            description,
            sources,
            bounded_by,
            closes_windows: by_event_time,
            clock_window: aggregate::clock_window(node).filter(|_| emit == EmitMode::OnClose),
            ttl_ms: None,
        };
        let keeps = "it keeps every group ever seen; group by a window (TUMBLE, HOP, …) over a table with WATERMARK to \
                     bound it";
        self.add_operator(info, keeps)
    }
}

/// Where the columns of a scan are among those that are decoded.
pub fn wanted(scan: &TableScan, source: &SourceTable) -> Vec<usize> {
    let all = 0..source.schema.fields().len();
    let wanted = scan.projection.clone().unwrap_or_else(|| all.collect());
    wanted.into_iter().filter_map(|column| source.place(column)).collect()
}

/// These columns of a schema as expressions.
pub fn columns(schema: &Schema, places: &[usize]) -> Vec<Arc<dyn PhysicalExpr>> {
    let column = |place: &usize| Arc::new(Column::new(schema.field(*place).name(), *place)) as Arc<dyn PhysicalExpr>;
    places.iter().map(column).collect()
}

/// The clock of the batch may stamp rows, but not decide which there are: no later batch would look again.
pub fn refuse_clock(expr: &Expr, place: &str, target: Target<'_>) -> Result<()> {
    match expr.is_volatile() {
        true => Err(SqlError::at(target.at, format!("now() in {place} is not supported in streaming yet")).hint(
            "now() may be a column of the SELECT or a key of GROUP BY; to bound by time, use a window over a table with WATERMARK",
        )),
        false => Ok(()),
    }
}

/// What flows that come together have in common.
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

/// Each source once, ascending, as far behind as any of its rows.
pub fn merge_upstream(all: impl Iterator<Item = Upstream>) -> Vec<Upstream> {
    let mut delays: BTreeMap<SourceId, i64> = BTreeMap::new();
    for one in all {
        let delay = delays.entry(one.source).or_insert(one.delay_ms);
        *delay = (*delay).max(one.delay_ms);
    }
    delays.into_iter().map(|(source, delay_ms)| Upstream { source, delay_ms }).collect()
}

/// Appends a projection, unless it changes nothing but names. Rows without any column stay as wide as they
/// are: nobody above names a column of theirs, and a batch without columns would have to carry its row count.
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

/// Gives the flow exactly the names and nullability of `schema`; the types are the same already. Never left
/// out: names that `project` only noted are not in the batches yet.
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

fn bound_text(schema: &SchemaRef, group_index: usize, closing: &[SourceId], sources: &[SourceTable]) -> String {
    let names: Vec<&str> =
        sources.iter().filter(|source| closing.contains(&source.id)).map(|source| source.name.as_str()).collect();
    format!("{}, by the watermark of {}", schema.field(group_index).name(), names.join(" and "))
}
