//! Tests of the query machine.
