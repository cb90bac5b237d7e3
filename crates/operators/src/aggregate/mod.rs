//! GROUP BY over append-only input: partial aggregation where records are read, merged where the group's state is.
//!
//! Owns: the plan of both halves. Does not own: running them (`partial`, `merge`), input with retracts (`retracting`).

mod groups;
mod merge;
mod partial;
mod view;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema, only,
};
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{CLOCK, CloseKey, EmitMode, Upstream, words};
use highwater_protocol::ids::OperatorId;
use merge::FinalAggregate;
use partial::PartialAggregate;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A GROUP BY: groups, functions, and the schemas of its two halves.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// Group expressions, over the partial half's input.
    pub group: Vec<Arc<dyn PhysicalExpr>>,
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
    /// FILTER clauses, one entry per aggregate; `None` if it has none.
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// The group columns.
    pub group_schema: SchemaRef,
    /// Group columns, then the state fields of every aggregate in order.
    pub partial_schema: SchemaRef,
    /// Group columns, then the aggregates' values.
    pub output_schema: SchemaRef,
    /// The group column by which windows close; `None` if they do not close.
    pub close: Option<CloseKey>,
    /// Whether rows with NULL in that column form groups, which never close; otherwise they are dropped.
    pub keeps_untimed: bool,
    pub watermark: Vec<Upstream>,
}

/// Aggregates the rows that one task reads, and emits `partial_schema` rows. Drops and counts late rows.
#[derive(Clone, Debug)]
pub struct PartialAggregateSpec {
    pub op: OperatorId,
    pub spec: Arc<AggregateSpec>,
}

/// Merges partial rows into state, and emits `output_schema` rows.
#[derive(Clone, Debug)]
pub struct FinalAggregateSpec {
    pub op: OperatorId,
    pub spec: Arc<AggregateSpec>,
    pub emit: EmitMode,
}

impl AggregateSpec {
    /// Returns the codec of groups in state keys.
    fn key_codec(&self) -> Result<Codec, EngineError> {
        Codec::of(&self.group_schema)
    }

    /// Returns the codec of the states of all accumulators of a group.
    fn state_codec(&self) -> Result<Codec, EngineError> {
        let states = self.partial_schema.fields().iter().skip(self.group_schema.fields().len());
        Codec::new(states.map(|field| field.data_type()))
    }

    /// Returns a function with its arguments as text.
    fn call(&self, at: usize) -> String {
        let (call, filter) = (&self.aggregates[at], &self.filters[at]);
        let args: Vec<String> = call.expressions().iter().map(|expr| expr.to_string()).collect();
        let distinct = if call.is_distinct() { "DISTINCT " } else { "" };
        let nulls = if call.ignore_nulls() { " IGNORE NULLS" } else { "" };
        let filter = filter.as_ref().map_or(String::new(), |filter| format!(" FILTER {filter}"));
        format!("{}({distinct}{}){nulls}{filter}", call.fun().name(), args.join(", "))
    }

    fn calls(&self) -> String {
        let calls: Vec<String> = (0..self.aggregates.len()).map(|at| self.call(at)).collect();
        let calls = if calls.is_empty() { "distinct".to_string() } else { calls.join(", ") };
        match self.group.is_empty() {
            true => format!("{calls} over all rows"),
            false => format!("{calls} by {}", words::named(&self.group, &self.group_schema)),
        }
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{} {:?} {} {:?}", self.calls(), self.close, self.keeps_untimed, self.watermark)?;
        identify_schema(&self.partial_schema, out)?;
        identify_schema(&self.output_schema, out)
    }
}

impl OperatorSpec for PartialAggregateSpec {
    fn describe(&self) -> String {
        format!("partial aggregate {}: {}", self.op, self.spec.calls())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        self.spec.identify(out)
    }

    fn state(&self) -> Option<StateSpec> {
        None
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        Ok(None)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        // The final half reports it.
        None
    }

    fn drops_late(&self) -> bool {
        self.spec.close.is_some() && self.spec.watermark.iter().all(|one| one.source != CLOCK)
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let input = only(inputs)?;
        let fields = self.spec.group.iter().map(|expr| Ok(Field::new("", expr.data_type(input)?, true)));
        let given = Schema::new(fields.collect::<Result<Vec<_>, EngineError>>()?);
        expect_types("the keys of an aggregate", &given, &self.spec.group_schema)?;
        match self.spec.filters.len() == self.spec.aggregates.len() {
            true => Ok(self.spec.partial_schema.clone()),
            false => Err(Fault::Lacks { what: "an aggregate", lacks: "FILTER entry for every function" }.into()),
        }
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let logic = PartialAggregate::new(self.spec.clone())?;
        Ok(Running::stateful(self.op, Some(&self.spec.watermark), context, logic))
    }
}

impl OperatorSpec for FinalAggregateSpec {
    fn describe(&self) -> String {
        let (op, when) = (self.op, words::when(self.emit));
        let keys: Vec<&str> = self.spec.group_schema.fields().iter().map(|field| field.name().as_str()).collect();
        match keys.is_empty() {
            true => format!("final aggregate {op}: gives its row at {when}"),
            false => format!("final aggregate {op}: by {}, gives a group {when}", keys.join(", ")),
        }
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{:?}", self.emit)?;
        self.spec.identify(out)
    }

    fn state(&self) -> Option<StateSpec> {
        let keeps = if self.spec.aggregates.is_empty() { "distinct rows" } else { "groups" };
        Some(StateSpec { operator: self.op, kind: "aggregate", version: 1, layout: Layout::Hashed, keeps })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        view::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        self.spec.close.map(|_| (self.op, self.spec.watermark.as_slice()))
    }

    fn drops_late(&self) -> bool {
        false
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let spec = &self.spec;
        expect_types("an aggregate", only(inputs)?, &spec.partial_schema)?;
        let keys = spec.group_schema.fields().iter().cloned();
        let values = spec.aggregates.iter().map(|call| call.field());
        let given = Schema::new(keys.chain(values).collect::<Vec<_>>());
        expect_types("the result of an aggregate", &given, &spec.output_schema)?;
        Ok(spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let logic = FinalAggregate::new(self.spec.clone(), self.emit)?;
        Ok(Running::stateful(self.op, self.spec.close.map(|_| self.spec.watermark.as_slice()), context, logic))
    }
}
