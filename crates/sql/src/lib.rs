//! The first half of the SQL frontend: the text of a script becomes checked statements.
//!
//! Owns: grammar, names, types, options, refusals that need only syntax. Does not own: planning (crate `planner`).
//! Invariant: an error names line, column, cause and remedy.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod array_subqueries;
pub mod compatibility;
pub mod connectors;
pub mod ddl;
pub mod derived;
pub mod dialect;
pub mod error;
pub mod format_options;
pub mod formats;
pub mod functions;
pub mod group_windows;
pub mod identifier;
pub mod limits;
pub mod metadata_columns;
pub mod name_walk;
pub mod names;
pub mod options;
pub mod patterns;
pub mod random;
pub mod reading_options;
pub mod record_columns;
pub mod record_copies;
pub mod redact;
pub mod references;
pub mod refuse;
pub mod rewrite;
pub mod script;
pub mod spark_windows;
pub mod spelling;
pub mod suggest;
pub mod syntax;
pub mod table_def;
pub mod tables;
pub mod tuples;
pub mod types;
pub mod unnest;
pub mod values;
pub mod versions;
pub mod window_call;

pub use error::SqlError;
pub use options::QueryOptions;
