//! Expressions whose answers are SQL's where DataFusion's are not: exact or an error, never a wrong number.
//!
//! Owns: arithmetic that does not wrap ([`arithmetic`], [`decimal`]), durations and intervals by their length ([`duration`]),
//! casts that do not lose ([`narrow`]), conditions that guard ([`guard`]), errors that name their expression ([`error`]).
//! Does not own: functions by name (`functions`), aggregates (`operators`). Where it comes in: [`Exact`] while names are
//! resolved, [`exact`] once types are known, [`guarded`] when expressions are about to run.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod arithmetic;
mod can_fail;
pub mod decimal;
pub mod duration;
mod error;
mod guard;
mod named;
mod narrow;
mod operators;
mod rewrite;
#[cfg(test)]
mod tests;
mod types;

pub use can_fail::can_fail;
pub use error::{Cause, ExpressionError};
pub use guard::{any_fails, guarded};
pub use operators::Exact;
pub use rewrite::{exact, order_by_length};
pub use types::{overflow, type_name};
