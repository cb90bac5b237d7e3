//! The logic of an operator with state, without the common parts, which are in [`Keyed`](super::keyed::Keyed).

use super::keyed_state::KeyedState;
use super::late::Late;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::state::Keys;

/// Where an operator's state is kept from batch to batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Under its own keys.
    State,
    /// Nowhere, since this part only pre-aggregates; the other part of its operator keeps and counts the state.
    Partial,
    /// Nowhere: it has no state.
    Nothing,
}

/// Who counts the memory of an operator's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The operator, while it makes them.
    Itself,
    /// [`Chain`](super::pipeline::Chain), once the rows are made.
    Taker,
}

/// The logic of an operator that collects a batch's rows, and emits its own once the input is complete.
pub trait Stateful: Send {
    fn keeps(&self) -> Keeps;

    fn counts(&self) -> Counts;

    /// Evaluates the expressions that [`Stateful::push`] evaluates over these rows, and changes nothing. Called before rows
    /// of a source are pushed, so that a row whose expressions fail leaves no trace.
    ///
    /// # Errors
    /// If an expression fails. After `Ok`, an error of `push` ends the attempt.
    fn check(&self, port: usize, rows: &ChangeBatch, late: &Late) -> Result<(), EngineError>;

    /// Takes rows of one of its inputs, and drops those that are late.
    fn push(&mut self, port: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError>;

    /// Deletes these expired keys, with all state that belongs to them. Called before `finish`, so that expired state is
    /// gone even if a row of this batch has its key.
    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError>;

    /// Completes the input: updates state, and appends the operator's rows to `out`.
    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError>;
}
