//! Highwater from outside: real processes, a real Apache Kafka, the command line.

#![allow(clippy::unwrap_used)]

mod access;
mod bad_input;
mod brokers;
mod checkpoint_state;
mod cluster;
mod command_line;
mod compose;
mod crash_points;
mod data_loss;
mod exactly_once;
mod exchange;
mod fencing;
mod file_sink;
mod formats;
mod full_disk;
mod grpc;
mod http_sink;
mod keyed;
mod keyed_sink;
mod lag;
mod ledger;
mod limits;
mod logins;
mod lookup_files;
mod memory;
mod names;
mod nexmark;
mod nexmark_check;
mod progress_topics;
mod rescale;
mod security;
mod sources;
mod stored;
mod table;
mod truncation;
mod visible;
mod went_back;
mod windows;
