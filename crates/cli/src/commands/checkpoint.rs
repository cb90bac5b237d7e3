//! placeholder
use crate::cli::CheckpointCommand;
use crate::commands::Context;
use crate::failure::Failure;
pub fn checkpoint(_command: CheckpointCommand, _context: &Context) -> Result<(), Failure> { Ok(()) }
