//! Windows as functions of a time.
//!
//! Owns: the arithmetic of `TUMBLE`, `HOP`, `CUMULATE` and `SESSION`. Does not own: their SQL syntax, closing windows.

pub mod hop;
pub mod session;
pub mod tumble;
