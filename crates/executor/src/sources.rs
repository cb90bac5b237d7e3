//! The consumers of one query on this executor, and what they tell the driver.
//!
//! Owns: one reader per source, and the tasks that report availability and trouble. Does not own: reading
//! (connectors), which ranges are read (plans).

use crate::outbox::Outbox;
use highwater_connectors::error::ConnectorError;
use highwater_connectors::source::{DEFAULT_PREFETCH_BYTES, SourceEvent, SourceReader, SourceReaderConfig};
use highwater_core::error::ErrorKind;
use highwater_core::ids::SourceId;
use highwater_core::offsets::{SourcePartition, TopicPartition};
use highwater_core::plan::{TaskPlan, TaskWork};
use highwater_engine::SourceTable;
use highwater_proto::v1::PartitionStart;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub struct Sources {
    readers: BTreeMap<SourceId, SourceReader>,
    /// Ends with this.
    _watchers: JoinSet<()>,
}

impl Sources {
    /// Starts the readers; nothing is read before [`Sources::assign`].
    /// `aligned`: no partition may run far ahead of the slowest.
    pub fn open(
        tables: &[SourceTable],
        query: &str,
        slots: usize,
        aligned: bool,
        outbox: &Outbox,
    ) -> Result<Self, ConnectorError> {
        let mut readers = BTreeMap::new();
        let mut watchers = JoinSet::new();
        for table in tables {
            let (sender, events) = mpsc::unbounded_channel();
            let config = SourceReaderConfig {
                query: query.to_string(),
                table: table.clone(),
                readers: slots.clamp(1, 2),
                prefetch_bytes: DEFAULT_PREFETCH_BYTES,
                aligned: aligned && table.watermark.is_some(),
            };
            let reader = SourceReader::start(config, sender)?;
            readers.insert(table.id, reader.clone());
            watchers.spawn(report_availability(table.id, reader, outbox.clone()));
            watchers.spawn(report_events(table.id, events, outbox.clone()));
        }
        Ok(Self { readers, _watchers: watchers })
    }

    pub fn assign(&self, partitions: &[PartitionStart]) {
        for (source, reader) in &self.readers {
            let mine = partitions
                .iter()
                .filter(|start| start.source_id == source.0)
                .map(|start| (TopicPartition::new(start.topic.as_str(), start.partition), (start.position, start.end)))
                .collect();
            reader.assign(&mine);
        }
    }

    pub fn reader(&self, source: SourceId) -> Option<&SourceReader> {
        self.readers.get(&source)
    }

    /// The batch is committed: its records may be forgotten.
    pub fn release<'a>(&self, tasks: impl Iterator<Item = &'a TaskPlan>) {
        for task in tasks {
            let TaskWork::Source { source, ranges } = &task.work else { continue };
            let Some(reader) = self.readers.get(source) else { continue };
            for (SourcePartition { tp, .. }, range) in ranges {
                reader.release(tp, range.end);
            }
        }
    }
}

async fn report_availability(source: SourceId, reader: SourceReader, outbox: Outbox) {
    loop {
        reader.changed().await;
        let news = reader.availability();
        if !news.is_empty() {
            outbox.availability(source, news).await;
        }
    }
}

async fn report_events(source: SourceId, mut events: mpsc::UnboundedReceiver<SourceEvent>, outbox: Outbox) {
    while let Some(event) = events.recv().await {
        match event {
            SourceEvent::OffsetOutOfRange { tp, position, earliest, latest } => {
                outbox.out_of_range(source, tp, position, earliest, latest).await;
            }
            SourceEvent::Trouble { message } => outbox.trouble(ErrorKind::Retry, message).await,
            SourceEvent::TroubleOver => outbox.trouble(ErrorKind::Retry, String::new()).await,
            SourceEvent::Refused { message } => outbox.trouble(ErrorKind::Fix, message).await,
        }
    }
}
