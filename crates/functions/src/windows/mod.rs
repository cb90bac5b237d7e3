//! Windows as functions: which windows a time lies in.
//!
//! Owns: the arithmetic of `TUMBLE`, `HOP`, `CUMULATE` and `SESSION`. Does not own: those words in SQL, closing windows.

pub mod hop;
pub mod session;
pub mod tumble;
