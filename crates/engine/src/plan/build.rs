//! A logical plan becomes pipelines in stages.
//!
//! Owns: which operator goes into which stage, and the exchanges between. Does not own: sinks (`sinks`),
//! the inside of aggregates (`aggregate`). Invariants: an aggregate's input never retracts; stages come out
//! in an order in which edges lead forward; whatever is not named here is refused.

use super::aggregate;
use crate::dataflow::{Dataflow, Edge, EmitMode, OpSpec, OperatorInfo, Pipeline, PipelineInput, PipelineOutput, Stage, StageInput};
use crate::query::SourceTable;
use crate::sql::error::{Result, SqlError};
use super::catalog::Stream;
use super::physical;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_core::ids::{EdgeId, OperatorId, StageId};
use highwater_core::options::OutputMode;
use std::sync::Arc;

/// Rows on their way, not yet led anywhere.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Index of the stage they are in.
    pub stage: usize,
    pub input: PipelineInput,
    pub ops: Vec<OpSpec>,
    pub schema: SchemaRef,
    /// Rows may be taken back (weight −1).
    pub retracts: bool,
}

/// The INSERT that is being built: what its sink takes, for refusals and emit modes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub sink: &'a str,
    pub keyed: bool,
    pub mode: OutputMode,
    pub at: Location,
}

/// Builds one dataflow out of many plans.
#[derive(Debug)]
pub struct Builder<'a> {
    pub sources: &'a [SourceTable],
    pub dataflow: Dataflow,
    pub warnings: Vec<String>,
}

impl<'a> Builder<'a> {
    /// Starts with one stage for each source.
    pub fn new(sources: &'a [SourceTable]) -> Self {
        let mut builder = Self { sources, dataflow: Dataflow::default(), warnings: Vec::new() };
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
        let id = EdgeId(self.dataflow.edges.len() as u32);
        self.dataflow.edges.push(Edge { id, schema, key, weighted });
        (self.add_stage(StageInput::Shards), id)
    }

    pub fn add_operator(&mut self, info: impl FnOnce(OperatorId) -> OperatorInfo) -> OperatorId {
        let id = OperatorId(self.dataflow.operators.len() as u32);
        self.dataflow.operators.push(info(id));
        id
    }

    /// Ends a flow as a pipeline of its stage.
    pub fn lead(&mut self, flow: Flow, output: PipelineOutput) {
        let pipeline = Pipeline { input: flow.input, ops: flow.ops, output };
        self.dataflow.stages[flow.stage].pipelines.push(pipeline);
    }

    /// The flows that together are the output of `plan`.
    pub fn build(&mut self, plan: &LogicalPlan, target: Target<'_>) -> Result<Vec<Flow>> {
        let refused = |what: &str| SqlError::at(target.at, format!("{what} is not supported in streaming yet"));
        Err(match plan {
            LogicalPlan::TableScan(scan) => return self.scan(scan, target),
            LogicalPlan::SubqueryAlias(alias) => return self.build(&alias.input, target),
            LogicalPlan::Projection(projection) => {
                let mut flows = self.build(&projection.input, target)?;
                let schema = Arc::new(projection.schema.as_arrow().clone());
                let mut exprs = Vec::with_capacity(projection.expr.len());
                for expr in &projection.expr {
                    exprs.push(physical::expr(expr, projection.input.schema(), target.at)?);
                }
                flows.iter_mut().for_each(|flow| project(flow, &exprs, &schema));
                return Ok(flows);
            }
            LogicalPlan::Filter(filter) => {
                let mut flows = self.build(&filter.input, target)?;
                if !matches!(filter.predicate, Expr::Literal(ScalarValue::Boolean(Some(true)), _)) {
                    let predicate = physical::expr(&filter.predicate, filter.input.schema(), target.at)?;
                    flows.iter_mut().for_each(|flow| flow.ops.push(OpSpec::Filter(predicate.clone())));
                }
                return Ok(flows);
            }
            LogicalPlan::Union(union) => {
                let mut flows = Vec::new();
                for input in &union.inputs {
                    flows.extend(self.build(input, target)?);
                }
                return Ok(flows);
            }
            LogicalPlan::Aggregate(aggregate) => return self.aggregate(aggregate, target),
            LogicalPlan::Distinct(Distinct::On(_)) => refused("DISTINCT ON"),
            LogicalPlan::Distinct(_) => refused("this DISTINCT"),
            LogicalPlan::Join(_) => refused("JOIN"),
            LogicalPlan::Sort(_) => refused("ORDER BY"),
            LogicalPlan::Limit(_) => refused("LIMIT"),
            LogicalPlan::Window(_) => refused("OVER"),
            LogicalPlan::Unnest(_) => refused("UNNEST"),
            LogicalPlan::Subquery(_) => refused("a subquery in an expression"),
            LogicalPlan::RecursiveQuery(_) => refused("WITH RECURSIVE"),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                SqlError::at(target.at, "this query has no stream to read").hint("read a table: SELECT … FROM <table>")
            }
            other => refused(&other.display().to_string()),
        })
    }

    fn scan(&mut self, scan: &TableScan, target: Target<'_>) -> Result<Vec<Flow>> {
        let table = scan.source.downcast_ref::<Stream>().map(|stream| &stream.table);
        let found = table.and_then(|table| self.sources.iter().position(|source| source.name == table.def.name.text));
        let Some(index) = found else {
            return Err(SqlError::at(target.at, format!("table '{}' cannot be read", scan.table_name)));
        };
        let source = &self.sources[index];
        let wanted: Vec<usize> = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..source.schema.fields().len()).collect(),
        };
        let decoded: Vec<_> = source.columns_used.iter().map(|column| source.schema.field(*column).clone()).collect();
        let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(decoded));
        let mut flow = Flow { stage: index, input: PipelineInput::Source, ops: Vec::new(), schema, retracts: false };
        let exprs: Vec<Arc<dyn PhysicalExpr>> = wanted
            .iter()
            .filter_map(|column| source.columns_used.binary_search(column).ok())
            .map(|position| Arc::new(Column::new(flow.schema.field(position).name(), position)) as Arc<dyn PhysicalExpr>)
            .collect();
        project(&mut flow, &exprs, &Arc::new(scan.projected_schema.as_arrow().clone()));
        Ok(vec![flow])
    }

    fn aggregate(&mut self, node: &Aggregate, target: Target<'_>) -> Result<Vec<Flow>> {
        let mut flows = self.build(&node.input, target)?;
        if flows.iter().any(|flow| matches!(flow.input, PipelineInput::Edge(_))) {
            return Err(SqlError::at(target.at, "an aggregate over an aggregate is not supported in streaming yet")
                .hint("write the inner one to a topic with INSERT INTO, and read that in a second query"));
        }
        let spec = Arc::new(aggregate::compile(node, self.sources, target.at)?);
        let emit = emit_mode(node, spec.close.is_some(), target)?;
        let keys = spec.group.len();
        let description = aggregate::describe(node);
        let bounded_by = match (spec.close, keys) {
            (Some(close), _) => Some(bound_text(&spec.output_schema, close.group_index, &spec.sources, self.sources)),
            (None, 0) => Some("a single group".to_string()),
            (None, _) => None,
        };
        if bounded_by.is_none() {
            self.warnings.push(format!(
                "nothing bounds the state of operator {} ({description}): it keeps every group ever seen; \
                 group by a TUMBLE window over a table with WATERMARK to bound it",
                self.dataflow.operators.len(),
            ));
        }
        let name = if node.aggr_expr.is_empty() { "distinct" } else { "aggregate" };
        let sources = spec.sources.clone();
        let op = self.add_operator(|id| OperatorInfo { id, name: name.into(), description, sources, bounded_by });
        let (stage, edge) = self.add_exchange(spec.state_schema.clone(), (0..keys).collect(), false);
        for mut flow in flows.drain(..) {
            flow.ops.push(OpSpec::PartialAggregate(spec.clone()));
            self.lead(flow, PipelineOutput::Exchange(edge));
        }
        let retracts = emit == EmitMode::Updates && !node.aggr_expr.is_empty();
        let schema = spec.output_schema.clone();
        let ops = vec![OpSpec::FinalAggregate { op, spec, emit }];
        Ok(vec![Flow { stage, input: PipelineInput::Edge(edge), ops, schema, retracts }])
    }
}

/// Appends a projection, unless it changes nothing but names.
fn project(flow: &mut Flow, exprs: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) {
    let is_same = exprs.len() == flow.schema.fields().len()
        && exprs.iter().enumerate().all(|(index, expr)| expr.downcast_ref::<Column>().is_some_and(|column| column.index() == index));
    if !is_same {
        flow.ops.push(OpSpec::Project { exprs: exprs.to_vec(), schema: schema.clone() });
    }
    flow.schema = schema.clone();
}

/// Gives the flow exactly the names and nullability of `schema`; the types are the same already.
pub fn rename(flow: &mut Flow, schema: &SchemaRef) {
    if let Some(OpSpec::Project { schema: last, .. }) = flow.ops.last_mut() {
        *last = schema.clone();
    } else if flow.schema.fields() != schema.fields() || !flow.ops.is_empty() {
        let column = |(index, field): (usize, &Arc<datafusion::arrow::datatypes::Field>)| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>;
        let exprs = flow.schema.fields().iter().enumerate().map(column).collect();
        flow.ops.push(OpSpec::Project { exprs, schema: schema.clone() });
    }
    flow.schema = schema.clone();
}

fn bound_text(schema: &SchemaRef, group_index: usize, closing: &[highwater_core::ids::SourceId], sources: &[SourceTable]) -> String {
    let names: Vec<&str> = sources.iter().filter(|source| closing.contains(&source.id)).map(|source| source.name.as_str()).collect();
    format!("{}, by the watermark of {}", schema.field(group_index).name(), names.join(" and "))
}

/// When the aggregate puts out rows, or why it cannot.
fn emit_mode(node: &Aggregate, closes: bool, target: Target<'_>) -> Result<EmitMode> {
    // A DISTINCT row never changes: it is final when it first appears.
    if node.aggr_expr.is_empty() {
        return Ok(EmitMode::Updates);
    }
    match (target.mode, closes) {
        (OutputMode::Update, _) if target.keyed => Ok(EmitMode::Updates),
        (OutputMode::Append, true) => Ok(EmitMode::OnClose),
        (OutputMode::Update, _) => Err(SqlError::at(
            target.at,
            format!("output_mode 'update' rewrites rows of '{}', which has no PRIMARY KEY to find them by", target.sink),
        )
        .hint("add PRIMARY KEY (…) NOT ENFORCED to it, or use output_mode 'append' over a TUMBLE window")),
        (OutputMode::Append, false) => Err(refuse_append(node, target)),
    }
}

fn refuse_append(node: &Aggregate, target: Target<'_>) -> SqlError {
    let is_windowed = node.group_expr.iter().any(|key| mentions_window(key, &node.input));
    let why = if is_windowed {
        "no watermark ever closes its windows"
    } else {
        "every new record may change a row written before"
    };
    let out = if is_windowed {
        "declare WATERMARK FOR the window's time column on the table it comes from"
    } else {
        "group by window_start of a TUMBLE over a table with WATERMARK"
    };
    let first = match target.keyed {
        true => "use output_mode 'update'",
        false => "add PRIMARY KEY (…) NOT ENFORCED to the sink",
    };
    SqlError::at(target.at, format!("'{}' takes appended, final rows, and this GROUP BY has none: {why}", target.sink)).hint(format!("{first}; or {out}"))
}

/// Whether an expression is a window's time, traced by name alone (its column may lack a watermark).
fn mentions_window(expr: &Expr, input: &LogicalPlan) -> bool {
    if super::tumble::Tumble::recognize(expr).is_some() {
        return true;
    }
    match (expr, input) {
        (Expr::Alias(alias), _) => mentions_window(&alias.expr, input),
        (Expr::Column(column), LogicalPlan::Projection(projection)) => {
            let found = projection.schema.maybe_index_of_column(column).and_then(|index| projection.expr.get(index));
            found.is_some_and(|inner| mentions_window(inner, &projection.input))
        }
        (Expr::Column(column), LogicalPlan::SubqueryAlias(alias)) => {
            let found = alias.schema.maybe_index_of_column(column);
            found.is_some_and(|index| mentions_window(&Expr::from(alias.input.schema().qualified_field(index)), &alias.input))
        }
        (Expr::Column(_), LogicalPlan::Filter(filter)) => mentions_window(expr, &filter.input),
        _ => false,
    }
}
