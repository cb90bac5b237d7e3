//! What all operators with state have in common.

use super::late::Late;
use super::ttl::Ttl;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::state::TaskState;
use highwater_protocol::ids::OperatorId;

/// An operator that takes a batch's rows first and gives its own once the input is complete.
pub trait Stateful: Send {
    /// Whose state it is; `None`: it keeps none from batch to batch.
    fn operator(&self) -> Option<OperatorId>;

    /// Its operator's state is another's to count: it only pre-aggregates.
    fn is_partial(&self) -> bool {
        false
    }

    /// Takes rows of one of its inputs.
    fn push(&mut self, port: usize, rows: ChangeBatch) -> Result<(), EngineError>;

    /// The input is complete.
    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError>;

    /// It counts the rows it gives itself, while it makes them.
    fn counts_output(&self) -> bool {
        false
    }

    /// Rows it dropped because their time was over; `None`: it never does.
    fn late(&mut self) -> Option<&mut Late> {
        None
    }

    /// How many those were.
    fn late_rows(&self) -> u64 {
        0
    }

    /// What it forgets by time; `None`: nothing.
    fn ttl(&self) -> Option<&Ttl> {
        None
    }
}
