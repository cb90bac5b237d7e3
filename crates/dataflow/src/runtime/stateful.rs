//! What an operator with state is, inside [`Keyed`](super::keyed::Keyed), which does what all of them have in common.

use super::keyed_state::KeyedState;
use super::late::Late;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::state::Keys;

/// Where what an operator knows is kept from batch to batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Under its own keys.
    State,
    /// It only pre-aggregates: its operator's state is another's to count.
    Partial,
    /// It keeps nothing.
    Nothing,
}

/// Who counts the memory of the rows an operator gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The operator, while it makes them.
    Itself,
    /// Whoever takes them, once they are made.
    Taker,
}

/// The logic of an operator that takes a batch's rows first and gives its own once the input is complete.
pub trait Stateful: Send {
    fn keeps(&self) -> Keeps;

    fn counts(&self) -> Counts;

    /// Takes rows of one of its inputs, and drops those that are late.
    fn push(&mut self, port: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError>;

    /// Forgets these keys, whose `state_ttl` is over, with all that hangs on them. Called before `finish`, so that what is
    /// due is gone even if a row of this batch would touch it.
    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError>;

    /// The input is complete.
    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError>;
}
