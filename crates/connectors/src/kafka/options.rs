//! The Kafka options of a table.
//!
//! Owns: getting at them, and at the topic of a source. Does not own: what scripts may say (engine).

use crate::error::ConnectorError;
use highwater_engine::query::{ConnectorOptions, KafkaOptions, SinkTable, SourceTable};
use std::sync::Arc;

/// Those of a source, and its topic.
pub fn source_options(table: &SourceTable) -> Result<(&KafkaOptions, Arc<str>), ConnectorError> {
    let options = of(&table.name, &table.connector)?;
    match options.topic.as_deref() {
        Some(topic) => Ok((options, Arc::from(topic))),
        None => Err(ConnectorError::Config(format!("table '{}': a Kafka source needs a 'topic'", table.name))),
    }
}

/// Those of a sink.
pub fn sink_options(table: &SinkTable) -> Result<&KafkaOptions, ConnectorError> {
    of(&table.name, &table.connector)
}

fn of<'a>(table: &str, connector: &'a ConnectorOptions) -> Result<&'a KafkaOptions, ConnectorError> {
    match connector {
        ConnectorOptions::Kafka(options) => Ok(options),
        _ => {
            Err(ConnectorError::Config(format!("table '{table}' has no options of Kafka; write 'connector' = 'kafka'")))
        }
    }
}
