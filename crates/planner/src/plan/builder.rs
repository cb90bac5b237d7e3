//! A dataflow while it is built: its stages, exchanges and operators so far.
//!
//! Owns: adding to it, and rows on their way ([`Flow`]). Does not own: which operator a node of the plan becomes (`lower`),
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
use highwater_protocol::options::OutputMode;
use highwater_sql::error::{Result, SqlError};
use highwater_sql::options::QueryOptions;
use highwater_sql::tables::SourceTable;
use highwater_sql::values::duration_text;
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
    lower: Lower,
}

/// Turns a logical plan into the flows that are its output. Planning of an operator asks for those of its inputs, so that
/// the function that knows all operators comes from above.
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
        (self.lower)(self, plan, target)
    }

    /// The source a table is, and its records as they are decoded.
    pub fn records(&self, scan: &TableScan, target: Target<'_>) -> Result<(&'a SourceTable, Flow)> {
        let table = scan.source.downcast_ref::<Stream>().map(|stream| &stream.table);
        let found = table.and_then(|table| self.sources.iter().position(|source| source.name == table.def.name.text));
        let Some(index) = found else {
            return Err(SqlError::at(
                target.at,
                format!("table '{}' is looked up, and no stream to read", scan.table_name),
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
