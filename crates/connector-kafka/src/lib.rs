//! The Kafka connector: reading and writing topics.
//!
//! Owns: all communication with Kafka. Does not own: the connector traits and formats of records (`connector-api`),
//! when to publish (protocol). Invariant: no other crate uses librdkafka.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod client;
mod error;
mod monitor;
pub mod options;
pub mod sink;
mod source;
mod topic_id;
mod topics;

use highwater_connector_api::api::Connector;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::lookup::Lookup;
use highwater_connector_api::sink::{Committer, EarlierOutput, Held, SinkConnector, Writer, WriterConfig};
use highwater_connector_api::source::{SourceConnector, SourceEvent, SourceMonitor, SourceReader, SourceReaderConfig};
use highwater_connector_spec::ConnectorSpec;
use highwater_protocol::ids::{BatchId, QueryId, WriterId};
use highwater_protocol::query::Resolution;
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::{SinkTable, SourceTable};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// The Kafka connector.
pub struct Kafka;

impl Connector for Kafka {
    fn spec(&self) -> &'static ConnectorSpec {
        &highwater_connector_spec::kafka::KAFKA
    }

    fn source(&self) -> Option<&dyn SourceConnector> {
        Some(self)
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        Some(self)
    }

    fn lookup(&self) -> Option<Lookup<'_>> {
        None
    }
}

impl SourceConnector for Kafka {
    fn monitor(&self, table: &SourceTable) -> Result<Box<dyn SourceMonitor>, ConnectorError> {
        Ok(Box::new(monitor::TopicMonitor::open(table)?))
    }

    fn reader(
        &self,
        config: SourceReaderConfig,
        events: UnboundedSender<SourceEvent>,
    ) -> Result<Arc<dyn SourceReader>, ConnectorError> {
        Ok(Arc::new(source::KafkaReader::start(config, events)?))
    }
}

impl SinkConnector for Kafka {
    fn prepare(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
        admin::ensure_topics(table, query)
    }

    fn open(&self, config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError> {
        Ok(Box::new(sink::KafkaWriter::open(config)?))
    }

    fn committer(&self) -> Committer<'_> {
        Committer::Held(self)
    }
}

impl Held for Kafka {
    fn resolve(
        &self,
        table: &SinkTable,
        query: QueryId,
        batch: Option<BatchId>,
        writers: &[&WriterReport],
        whole: bool,
    ) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError> {
        sink::resolve_writers(table, query, batch, writers, whole)
    }

    fn max_open_ms(&self, table: &SinkTable) -> Result<i64, ConnectorError> {
        Ok(options::transaction_timeout_ms(&options::sink_options(table)?))
    }

    fn earlier_output(&self) -> Box<dyn EarlierOutput> {
        Box::new(admin::EarlierTopics::default())
    }

    fn delete_progress(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
        admin::delete_progress(table, query)
    }
}
