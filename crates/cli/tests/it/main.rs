//! Highwater from outside: real processes, a real Apache Kafka, the command line.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod command_line;
mod crash_points;
mod exactly_once;
mod sources;
mod table;
mod windows;
