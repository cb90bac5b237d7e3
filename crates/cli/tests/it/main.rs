//! Highwater from outside: real processes, a real Apache Kafka, the command line.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod brokers;
mod command_line;
mod compose;
mod crash_points;
mod exactly_once;
mod exchange;
mod grpc;
mod keyed;
mod keyed_sink;
mod lag;
mod ledger;
mod nexmark;
mod nexmark_check;
mod progress_topics;
mod rescale;
mod security;
mod sources;
mod table;
mod windows;
