//! The Kafka options of a table.
//!
//! Owns: reading them from a table's options. Does not own: which options scripts may set (crate `connector-spec`).

use highwater_connector_api::error::ConnectorError;
use highwater_sql::tables::{ConnectorOptions, SinkTable, SourceTable};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The Kafka options of one table. References such as `${env:X}` and `${file:X}` are unresolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `None` only in a sink whose rows name their topics in a column `_topic`.
    pub topic: Option<String>,
    pub bootstrap_servers: String,
    /// The `kafka.*` options, without the prefix.
    pub properties: BTreeMap<String, String>,
}

/// Returns the options of a source, and its topic.
pub fn source_options(table: &SourceTable) -> Result<(KafkaOptions, Arc<str>), ConnectorError> {
    let options = of(&table.name, &table.connector)?;
    match options.topic.as_deref() {
        Some(topic) => {
            let topic = Arc::from(topic);
            Ok((options, topic))
        }
        None => Err(ConnectorError::Config(format!(
            "table '{}' lacks the option 'topic'; add 'topic' = '<topic>'",
            table.name
        ))),
    }
}

/// Returns the options of a sink.
pub fn sink_options(table: &SinkTable) -> Result<KafkaOptions, ConnectorError> {
    of(&table.name, &table.connector)
}

fn of(table: &str, connector: &ConnectorOptions) -> Result<KafkaOptions, ConnectorError> {
    let values = &connector.values;
    let servers = values.text("bootstrap.servers").ok_or_else(|| {
        let message = "lacks the option 'bootstrap.servers'; add 'bootstrap.servers' = 'host:9092'";
        ConnectorError::Config(format!("table '{table}' {message}"))
    })?;
    Ok(KafkaOptions {
        topic: values.text("topic").map(str::to_string),
        bootstrap_servers: servers.to_string(),
        properties: values.properties().clone(),
    })
}

/// Default of `transaction.timeout.ms` for sinks; brokers allow at most 15 minutes by default.
pub const TRANSACTION_TIMEOUT_MS: i64 = 600_000;
pub const TRANSACTION_TIMEOUT: &str = "transaction.timeout.ms";

/// Returns the sink's `transaction.timeout.ms`: how long brokers keep its transactions open, in milliseconds.
pub fn transaction_timeout_ms(options: &KafkaOptions) -> i64 {
    let set = options.properties.get(TRANSACTION_TIMEOUT).and_then(|value| value.parse().ok());
    set.unwrap_or(TRANSACTION_TIMEOUT_MS)
}
