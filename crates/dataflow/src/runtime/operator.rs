//! The interface of operators.
//!
//! Owns: the traits, and the two kinds of running operators. Does not own: any operator (`operators`).
//! Invariant: no method of [`OperatorSpec`] has a default, so that an operator that leaves one out does not compile.

use crate::Upstream;
use crate::changelog::ChangeBatch;
use crate::error::{EngineError, Fault};
use crate::runtime::late::Late;
use crate::runtime::state_reader::StateReader;
use crate::runtime::{BatchContext, Keyed, Stateful};
use crate::state::Layout;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use highwater_protocol::ids::OperatorId;
use std::any::Any;
use std::fmt::{self, Debug, Write};
use std::sync::Arc;

/// One operator of a pipeline. Its expressions are over the rows of the operator before it.
pub type Op = Arc<dyn OperatorSpec>;

/// An operator as planned: immutable, shared by all tasks that run it.
pub trait OperatorSpec: Any + Debug + Send + Sync {
    /// Describes what the operator does, in one line of `explain`.
    fn describe(&self) -> String;

    /// Writes everything that determines the operator's output and state: expressions, schemas, times, modes. Two operators
    /// of one kind that write the same must do the same, in every process. Descriptions are not written.
    fn identify(&self, out: &mut dyn Write) -> fmt::Result;

    /// Returns the operator's state from batch to batch; `None` = it has none.
    fn state(&self) -> Option<StateSpec>;

    /// Returns a reader that shows the state to people; `None` = it has none.
    ///
    /// # Errors
    /// If a type of its plan cannot be encoded. Such an operator does not start either.
    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError>;

    /// Returns the operator's id and the sources of its watermark, which is the lowest of theirs; `None` = it has none.
    fn watermark(&self) -> Option<(OperatorId, &[Upstream])>;

    /// True if it may drop rows as late.
    fn drops_late(&self) -> bool;

    /// Returns the schema of its output, given those of its inputs.
    ///
    /// # Errors
    /// If it was planned for other inputs.
    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError>;

    /// Starts the operator in one task of a batch.
    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError>;
}

/// An operator without state, watermark and late rows, which turns rows into rows.
pub trait RowSpec: Any + Debug + Send + Sync {
    /// As [`OperatorSpec::describe`].
    fn describe(&self) -> String;

    /// As [`OperatorSpec::identify`].
    fn identify(&self, out: &mut dyn Write) -> fmt::Result;

    /// As [`OperatorSpec::output`], for its only input.
    fn output(&self, input: &SchemaRef) -> Result<SchemaRef, EngineError>;

    /// As [`OperatorSpec::start`].
    fn start(&self, context: &StartContext<'_>) -> Result<Box<dyn RowOperator>, EngineError>;
}

impl<T: RowSpec> OperatorSpec for T {
    fn describe(&self) -> String {
        RowSpec::describe(self)
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        RowSpec::identify(self, out)
    }

    fn state(&self) -> Option<StateSpec> {
        None
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        Ok(None)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        None
    }

    fn drops_late(&self) -> bool {
        false
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        RowSpec::output(self, only(inputs)?)
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        Ok(Running::Rows(RowSpec::start(self, context)?))
    }
}

/// The state of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSpec {
    pub operator: OperatorId,
    /// Kind of the operator: `join`.
    pub kind: &'static str,
    /// Version of the encoding of keys and values; raised whenever a build changes it.
    pub version: u32,
    /// How keys are looked up.
    pub layout: Layout,
    /// The content, for `explain`: `groups`.
    pub keeps: &'static str,
}

/// The facts that an operator may use when it starts.
#[derive(Clone, Copy, Debug)]
pub struct StartContext<'a> {
    pub batch: &'a BatchContext,
    /// Name of the sink that the pipeline ends in, for messages; empty if it ends in an exchange.
    pub sink: &'a str,
}

/// An operator in one task.
pub enum Running {
    /// Turns each batch of rows into rows.
    Rows(Box<dyn RowOperator>),
    /// Emits rows when its input is complete.
    Stateful(Box<Keyed>),
}

impl Running {
    /// Returns an operator with state. By the watermarks of the sources in `watermark`, rows are late and keys close;
    /// `None` = never.
    pub fn stateful(
        operator: OperatorId,
        watermark: Option<&[Upstream]>,
        context: &StartContext<'_>,
        logic: impl Stateful + 'static,
    ) -> Self {
        Self::Stateful(Box::new(Keyed::new(operator, watermark, context.batch, logic)))
    }
}

/// Receives the rows that an operator emits.
pub type Give<'a> = dyn FnMut(ChangeBatch) -> Result<(), EngineError> + 'a;

/// An operator whose rows depend on the rows of one batch of its input alone.
pub trait RowOperator: Send {
    /// Calls `give` with the operator's output for these rows, in pieces that are each small.
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError>;

    /// Returns the operator's name for messages if it makes several rows of one; `None` = it makes at most one.
    fn grows(&self) -> Option<&'static str>;

    /// The rows it drops for lack of a time; `None`: it drops none.
    fn late(&mut self) -> Option<&mut Late>;
}

impl dyn OperatorSpec {
    /// Returns the operator as a `T`; `None` if it is another one.
    pub fn downcast_ref<T: OperatorSpec>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// Checks that the schema `found` has the types of `expected`. `what` names the rows, for the error.
pub fn expect_types(what: &str, found: &Schema, expected: &Schema) -> Result<(), EngineError> {
    let types = |schema: &Schema| -> Vec<DataType> { schema.fields().iter().map(|f| f.data_type().clone()).collect() };
    let (found, expected) = (types(found), types(expected));
    match found == expected {
        true => Ok(()),
        false => Err(Fault::Rows { what: what.to_string(), expected, found }.into()),
    }
}

/// Returns the only input of an operator.
pub fn only(inputs: &[SchemaRef]) -> Result<&SchemaRef, EngineError> {
    match inputs {
        [input] => Ok(input),
        _ => Err(Fault::Inputs { what: "an operator with one input", expected: 1, found: inputs.len() }.into()),
    }
}

/// Writes names, types and nullability of fields. Metadata is left out: it is unordered, and always empty.
pub fn identify_schema(schema: &Schema, out: &mut dyn Write) -> fmt::Result {
    for field in schema.fields() {
        write!(out, "{} {} {}, ", field.name(), field.data_type(), field.is_nullable())?;
    }
    writeln!(out)
}

/// As [`identify_schema`], but for ranks: builds before ranks were BIGINT wrote BIGINT UNSIGNED, and what is kept has none.
pub fn identify_ranked(schema: &Schema, is_rank: impl Fn(usize) -> bool, out: &mut dyn Write) -> fmt::Result {
    let field = |(column, field): (usize, &FieldRef)| match is_rank(column) {
        true => Arc::new(field.as_ref().clone().with_data_type(DataType::UInt64)),
        false => field.clone(),
    };
    identify_schema(&Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()), out)
}
