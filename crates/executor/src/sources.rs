//! The consumers of one query on this executor, and what they report to the driver.
//!
//! Owns: one reader per source, and the tasks that report availability and trouble. Does not own: reading
//! (`connectors`), which ranges are read (plans).

use crate::outbox::Outbox;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::{DEFAULT_PREFETCH_BYTES, Place, SourceEvent, SourceReader, SourceReaderConfig};
use highwater_connectors::registry;
use highwater_proto::v1::{self, PartitionStart};
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::SourceId;
use highwater_protocol::offsets::{LastRecord, SourcePartition, TopicPartition};
use highwater_protocol::plan::{TaskPlan, TaskWork};
use highwater_sql::tables::SourceTable;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub struct Sources {
    tables: Vec<SourceTable>,
    query: String,
    slots: usize,
    /// True if no partition may run far ahead of the slowest.
    aligned: bool,
    outbox: Outbox,
    readers: Mutex<BTreeMap<SourceId, Source>>,
}

/// A reader, and the tasks that report on it, which end when it is dropped.
struct Source {
    reader: Arc<dyn SourceReader>,
    _watchers: JoinSet<()>,
}

impl Sources {
    /// Starts the readers; nothing is read before [`Sources::assign`].
    pub fn open(
        tables: &[SourceTable],
        query: &str,
        slots: usize,
        aligned: bool,
        outbox: &Outbox,
    ) -> Result<Self, ConnectorError> {
        let (tables, query, outbox) = (tables.to_vec(), query.to_string(), outbox.clone());
        let sources = Self { tables, query, slots, aligned, outbox, readers: Mutex::default() };
        for table in &sources.tables {
            let source = sources.start(table)?;
            sources.readers.lock().insert(table.id, source);
        }
        Ok(sources)
    }

    fn start(&self, table: &SourceTable) -> Result<Source, ConnectorError> {
        let mut watchers = JoinSet::new();
        let (sender, events) = mpsc::unbounded_channel();
        let config = SourceReaderConfig {
            query: self.query.clone(),
            table: table.clone(),
            readers: self.slots.clamp(1, 2),
            prefetch_bytes: DEFAULT_PREFETCH_BYTES,
            aligned: self.aligned && table.watermark.is_some(),
        };
        let reader = registry::reader(config, sender)?;
        watchers.spawn(report_availability(table.id, reader.clone(), self.outbox.clone()));
        watchers.spawn(report_events(table.id, events, self.outbox.clone()));
        Ok(Source { reader, _watchers: watchers })
    }

    /// Sets the partitions to read. A source whose topic was recreated gets a new reader, since a consumer keeps to the
    /// topic that it knows.
    pub async fn assign(&self, partitions: &[PartitionStart]) {
        for table in &self.tables {
            let mine: Vec<&PartitionStart> = partitions.iter().filter(|start| start.source_id == table.id.0).collect();
            let Some(mut reader) = self.reader(table.id) else { continue };
            if let Some(first) = mine.first()
                && !reader.bind(first.topic_id.as_deref())
            {
                reader = match self.start(table) {
                    Ok(source) => {
                        let reader = source.reader.clone();
                        reader.bind(first.topic_id.as_deref());
                        self.outbox.trouble(ErrorKind::Retry, String::new()).await;
                        self.readers.lock().insert(table.id, source);
                        reader
                    }
                    Err(error) => {
                        self.outbox.trouble(error.kind(), error.to_string()).await;
                        continue;
                    }
                };
            }
            let place = |start: &&PartitionStart| {
                let last = start
                    .last_record
                    .as_ref()
                    .map(|last| LastRecord { offset: last.offset, leader_epoch: last.leader_epoch });
                let place = Place { start: start.position, limit: start.end, last };
                (TopicPartition::new(start.topic.as_str(), start.partition), place)
            };
            reader.assign(&mine.iter().map(place).collect());
        }
    }

    pub fn reader(&self, source: SourceId) -> Option<Arc<dyn SourceReader>> {
        self.readers.lock().get(&source).map(|source| source.reader.clone())
    }

    /// Releases the records of a committed batch.
    pub fn release<'a>(&self, tasks: impl Iterator<Item = &'a TaskPlan>) {
        for task in tasks {
            let TaskWork::Source { source, ranges } = &task.work else { continue };
            let Some(reader) = self.reader(*source) else { continue };
            for (SourcePartition { tp, .. }, range) in ranges {
                reader.release(tp, range.end);
            }
        }
    }
}

async fn report_availability(source: SourceId, reader: Arc<dyn SourceReader>, outbox: Outbox) {
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
            SourceEvent::OffsetOutOfRange { tp, position, earliest, latest, diverged } => {
                let range = v1::OffsetOutOfRange {
                    source_id: source.0,
                    topic: tp.topic.to_string(),
                    partition: tp.partition,
                    position,
                    earliest,
                    latest,
                    diverged,
                };
                outbox.out_of_range(range).await;
            }
            SourceEvent::TopicChanged { found } => outbox.topic_changed(source, found).await,
            SourceEvent::Trouble { message } => outbox.trouble(ErrorKind::Retry, message).await,
            SourceEvent::TroubleOver => outbox.trouble(ErrorKind::Retry, String::new()).await,
            SourceEvent::Refused { message } => outbox.trouble(ErrorKind::Fix, message).await,
        }
    }
}
