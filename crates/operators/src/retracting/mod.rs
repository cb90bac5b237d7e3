//! GROUP BY over input with retracts, or with functions that need all their values (DISTINCT, ORDER BY).
//!
//! Owns: the operator's plan. Does not own: running it (`run`).

mod run;

pub(crate) use run::ExactSum;
pub use run::linear::{Linear, LinearKind, Terms, is_wide};

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema, only,
};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{CLOCK, CloseKey, EmitMode, Upstream, words};
use highwater_protocol::ids::OperatorId;
use run::RetractingAggregate;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A GROUP BY over input with retracts.
#[derive(Clone, Debug)]
pub struct RetractingSpec {
    /// Group columns, then arguments, orderings and FILTERs.
    pub input_schema: SchemaRef,
    pub group_width: usize,
    pub calls: Vec<CallSpec>,
    /// Group columns, then the functions' values.
    pub output_schema: SchemaRef,
    pub close: Option<CloseKey>,
    pub emit: EmitMode,
    /// The group of all rows, which exists even without rows; `None` if there is no such group.
    pub total: Option<Total>,
    pub watermark: Vec<Upstream>,
}

/// The group of all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    pub key: Vec<ScalarValue>,
    /// Whether it exists from the first batch on; otherwise from its first row on.
    pub at_once: bool,
}

/// One function; columns are indexes into the input schema.
#[derive(Clone, Debug)]
pub struct CallSpec {
    pub function: Arc<AggregateFunctionExpr>,
    pub arguments: Vec<usize>,
    pub order: Vec<(usize, SortOptions)>,
    /// The boolean column of its FILTER.
    pub filter: Option<usize>,
    pub distinct: bool,
    /// How it is computed from a running value, of all rows or of distinct ones; `None` if it is not.
    pub linear: Option<LinearKind>,
    pub keeps: Keeps,
}

/// Which arguments a function keeps in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// All arguments, to find the least one after a retract.
    Least,
    /// All arguments, to find the greatest one after a retract.
    Greatest,
    /// All arguments, since the function is computed again from them.
    All,
    /// Each distinct argument with its weight, to know which are new.
    Distinct,
}

/// Merges rows, including retracts, into state, and emits `output_schema` rows.
#[derive(Clone, Debug)]
pub struct RetractingAggregateSpec {
    pub op: OperatorId,
    pub spec: Arc<RetractingSpec>,
}

impl RetractingSpec {
    /// Returns a function with its arguments as text.
    fn call_text(&self, call: &CallSpec) -> String {
        let distinct = if call.distinct { "DISTINCT " } else { "" };
        let order = match call.order.is_empty() {
            true => String::new(),
            false => format!(" ORDER BY {}", words::order(&self.input_schema, &call.order)),
        };
        let filter = call
            .filter
            .map_or(String::new(), |column| format!(" FILTER {}", words::names(&self.input_schema, &[column])));
        let nulls = if call.function.ignore_nulls() { " IGNORE NULLS" } else { "" };
        let arguments = words::names(&self.input_schema, &call.arguments);
        format!("{}({distinct}{arguments}{order}){nulls}{filter}", call.function.fun().name())
    }

    fn text(&self) -> String {
        let call = |call: &CallSpec| {
            let keeps = match call.keeps {
                Keeps::Nothing => "",
                Keeps::Distinct => " keeping distinct values",
                Keeps::Least | Keeps::Greatest | Keeps::All => " keeping all values",
            };
            format!("{}{keeps}", self.call_text(call))
        };
        let calls: Vec<String> = self.calls.iter().map(call).collect();
        let calls = if calls.is_empty() { "distinct".to_string() } else { calls.join(", ") };
        let keys: Vec<usize> = (0..self.group_width).collect();
        let when = words::when(self.emit);
        match keys.is_empty() {
            true => format!("{calls} over all rows, gives its row at {when}"),
            false => format!("{calls} by {}, gives a group {when}", words::names(&self.input_schema, &keys)),
        }
    }
}

impl OperatorSpec for RetractingAggregateSpec {
    fn describe(&self) -> String {
        format!("aggregate {}: {}", self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        let spec = &self.spec;
        writeln!(out, "{} {:?} {:?} {:?} {:?}", spec.group_width, spec.close, spec.watermark, spec.emit, spec.total)?;
        for call in &spec.calls {
            let (name, nulls) = (call.function.fun().name(), call.function.ignore_nulls());
            writeln!(out, "{name} {nulls} {:?} {:?} {:?}", call.arguments, call.order, call.filter)?;
            writeln!(out, "{} {:?} {:?}", call.distinct, call.linear, call.keeps)?;
        }
        identify_schema(&spec.input_schema, out)?;
        identify_schema(&spec.output_schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        let keeps = if self.spec.calls.is_empty() { "distinct rows" } else { "groups" };
        Some(StateSpec { operator: self.op, kind: "retracting aggregate", version: 1, layout: Layout::Ordered, keeps })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        run::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        self.spec.close.map(|_| (self.op, self.spec.watermark.as_slice()))
    }

    fn drops_late(&self) -> bool {
        self.spec.close.is_some() && self.spec.watermark.iter().all(|one| one.source != CLOCK)
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        expect_types("an aggregate", only(inputs)?, &self.spec.input_schema)?;
        Ok(self.spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let logic = RetractingAggregate::new(self.spec.clone())?;
        Ok(Running::stateful(self.op, self.spec.close.map(|_| self.spec.watermark.as_slice()), context, logic))
    }
}
