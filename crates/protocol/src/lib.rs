//! Highwater's pure core: ids, offsets, plans, and the state machines that decide.
//!
//! Owns: every decision of driver and executor. Does not own: any I/O. There is no clock, no randomness,
//! no async runtime, no Kafka and no storage here; time is an argument and effects are returned as
//! actions, so that a seeded simulation can run thousands of crash schedules a second.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod align;
pub mod assign;
pub mod clock;
pub mod error;
pub mod files;
pub mod identity;
pub mod ids;
pub mod key_conflicts;
pub mod metrics;
pub mod names;
pub mod offsets;
pub mod options;
pub mod parallel;
pub mod participant;
pub mod plan;
pub mod prepare_record;
pub mod query;
pub mod query_progress;
pub mod ranges;
pub mod rate;
pub mod report;
pub mod state_delta;
pub mod watermark;
