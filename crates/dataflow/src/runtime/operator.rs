//! What every operator of a plan says of itself.
//!
//! Owns: the trait, and the two kinds of running operators. Does not own: any operator (`operators`).
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

/// One operator of a pipeline. Expressions are over the rows that the operator before gives.
pub type Op = Arc<dyn OperatorSpec>;

/// An operator as planned: immutable, shared by all tasks that run it.
pub trait OperatorSpec: Any + Debug + Send + Sync {
    /// What it does to its rows, in one line of `explain`.
    fn describe(&self) -> String;

    /// Writes all that decides what it gives and keeps: expressions, schemas, times, modes. Two operators of one kind that
    /// write the same must do the same, in every process. Words for people are no part of it.
    fn identify(&self, out: &mut dyn Write) -> fmt::Result;

    /// What it keeps from batch to batch; `None`: nothing.
    fn state(&self) -> Option<StateSpec>;

    /// Shows people what it keeps; `None`: it keeps nothing.
    ///
    /// # Errors
    /// A type of its plan cannot be encoded: it does not start either.
    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError>;

    /// The operator that goes by a watermark, and the sources whose least it is; `None`: it goes by none.
    fn watermark(&self) -> Option<(OperatorId, &[Upstream])>;

    /// Whether it may drop rows because a watermark has passed them.
    fn drops_late(&self) -> bool;

    /// The schema of its rows, given those of its inputs.
    ///
    /// # Errors
    /// The inputs are not what it was planned for.
    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError>;

    /// Makes it ready for one task of a batch.
    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError>;
}

/// An operator without state, watermark and late rows: it gives rows for the rows it takes.
pub trait RowSpec: Any + Debug + Send + Sync {
    /// As [`OperatorSpec::describe`].
    fn describe(&self) -> String;

    /// As [`OperatorSpec::identify`].
    fn identify(&self, out: &mut dyn Write) -> fmt::Result;

    /// As [`OperatorSpec::output`], for its one input.
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

/// What an operator keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSpec {
    pub operator: OperatorId,
    /// What kind of operator it is: `join`.
    pub kind: &'static str,
    /// Version of the layout of its keys and values: raised when a build reads or writes them in another way.
    pub version: u32,
    /// How keys are looked up.
    pub layout: Layout,
    /// For `explain`: `groups`.
    pub keeps: &'static str,
}

/// What an operator may know when it starts.
#[derive(Clone, Copy, Debug)]
pub struct StartContext<'a> {
    pub batch: &'a BatchContext,
    /// Name of the sink that the pipeline ends in, for messages; empty if it ends in an exchange.
    pub sink: &'a str,
}

/// An operator in one task.
pub enum Running {
    /// Gives rows for the rows it takes.
    Rows(Box<dyn RowOperator>),
    /// Gives rows when its input is complete.
    Stateful(Box<Keyed>),
}

impl Running {
    /// An operator with state. `watermark`: the sources by whose watermarks rows are late and keys close; `None`: by none.
    pub fn stateful(
        operator: OperatorId,
        watermark: Option<&[Upstream]>,
        context: &StartContext<'_>,
        logic: impl Stateful + 'static,
    ) -> Self {
        Self::Stateful(Box::new(Keyed::new(operator, watermark, context.batch, logic)))
    }
}

/// Takes rows that an operator gives.
pub type Give<'a> = dyn FnMut(ChangeBatch) -> Result<(), EngineError> + 'a;

/// An operator whose rows depend on the rows of one batch of its input alone.
pub trait RowOperator: Send {
    /// Gives what the rows become, in as many pieces as keep each of them small.
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError>;

    /// What people call it, if it makes several rows of one; `None`: it makes one at most.
    fn grows(&self) -> Option<&'static str>;

    /// The rows it drops for lack of a time; `None`: it drops none.
    fn late(&mut self) -> Option<&mut Late>;
}

impl dyn OperatorSpec {
    /// The operator as what it is, if it is a `T`.
    pub fn downcast_ref<T: OperatorSpec>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// Checks that rows of this schema have these types.
pub fn expect_types(what: &str, found: &Schema, expected: &Schema) -> Result<(), EngineError> {
    let types = |schema: &Schema| -> Vec<DataType> { schema.fields().iter().map(|f| f.data_type().clone()).collect() };
    let (found, expected) = (types(found), types(expected));
    match found == expected {
        true => Ok(()),
        false => Err(Fault::Rows { what: what.to_string(), expected, found }.into()),
    }
}

/// The input of an operator that has one.
pub fn only(inputs: &[SchemaRef]) -> Result<&SchemaRef, EngineError> {
    match inputs {
        [input] => Ok(input),
        _ => Err(Fault::Inputs { what: "an operator with one input", expected: 1, found: inputs.len() }.into()),
    }
}

/// Writes names, types and nullability; metadata is a map without order, and ours are empty.
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
