//! The SQL frontend's first half: a script's text becomes checked statements.
//!
//! Owns: grammar, names, types, options, refusals that syntax alone shows. Does not own: planning (`plan`).
//! Invariant: whatever is wrong is said with line, column, cause and remedy.

mod compatibility;
pub mod connectors;
pub mod ddl;
pub mod derived;
pub mod dialect;
pub mod error;
pub mod formats;
pub mod functions;
pub mod group_windows;
pub mod limits;
pub mod metadata_columns;
pub mod names;
pub mod options;
pub mod random;
pub mod redact;
pub mod refuse;
pub mod rewrite;
pub mod script;
pub mod spark_windows;
pub mod suggest;
pub mod syntax;
pub mod tuples;
pub mod types;
pub mod unnest;
pub mod values;
pub mod versions;
pub mod window_call;

pub use error::SqlError;
pub use options::QueryOptions;
