//! A hidden sink for records that do not decode or on which an expression fails, in the stage that reads them.
//!
//! Owns: that sink. Does not own: its columns (`sql::record_copies`), making the rows (crate `connector-api`). Invariant:
//! the same task of the same batch writes a dead letter and the rows of the records around it.

use highwater_dataflow::{Dataflow, StageInput};
use highwater_protocol::ids::SinkId;
use highwater_protocol::options::{OnBadRecord, OutputMode};
use highwater_sql::record_copies::schema;
use highwater_sql::tables::{SinkTable, SourceTable};

/// Adds a sink for every source with `on_bad_record = 'dead_letter'`.
pub fn connect(dataflow: &mut Dataflow, sources: &mut [SourceTable], sinks: &mut Vec<SinkTable>) {
    for source in sources {
        let OnBadRecord::DeadLetter { topic } = &source.options.on_bad_record else { continue };
        let id = SinkId(sinks.len() as u32);
        let read = source.connector.place().unwrap_or_default();
        let topic = topic.clone().unwrap_or_else(|| format!("{read}-dead-letters"));
        let Some(connector) = source.connector.beside(&topic) else { continue };
        sinks.push(SinkTable {
            id,
            name: format!("{} (dead letters)", source.name),
            schema: schema(),
            primary_key: Vec::new(),
            mode: OutputMode::Append,
            connector,
        });
        source.dead_letters = Some(id);
        for stage in dataflow.stages.iter_mut().filter(|stage| stage.input == StageInput::Source(source.id)) {
            stage.sinks.push(id);
        }
    }
}
