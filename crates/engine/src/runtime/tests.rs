//! Filled below by the oracle.
