//! A consumer's queue, polled through librdkafka's event interface.
//!
//! Owns: the only unsafe code of the sources. Does not own: assignments, threads.
//! `BaseConsumer::poll` is not used: it drops the offset of an end-of-partition event (which may lie beyond the last
//! record: transaction markers, compaction) and the partition of an error, it cannot be woken from another thread, and
//! it allocates per record.
//! Invariant: data of an event is reachable only inside the callback of `poll`.

#![allow(unsafe_code)]

use super::incarnation::noted_change;
use crate::client::{Callbacks, Lookup, Native};
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::offsets::LastRecord;
use rdkafka::bindings as sys;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// Longest wait for the client to accept a seek, for which it contacts no broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// An event of the consumer.
pub enum Polled<'a> {
    Record(Record<'a>),
    /// The consumer reached the end of a partition; `offset` is the position there.
    EndOfPartition {
        partition: i32,
        offset: i64,
    },
    Failed {
        partition: Option<i32>,
        code: RDKafkaErrorCode,
        message: String,
        fatal: bool,
    },
    /// The client learned the topic's id, for the first time or a new one. Later events belong to the topic with this
    /// id.
    TopicId {
        topic: String,
        id: String,
    },
    /// Any other event; it can be ignored.
    Other,
}

/// A record in librdkafka's memory.
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    /// Leader epoch in which the record was written; -1 if unknown.
    pub leader_epoch: i32,
    pub key: Option<&'a [u8]>,
    /// `None` for a tombstone.
    pub payload: Option<&'a [u8]>,
    native: &'a sys::rd_kafka_message_t,
}

/// Name and value of a header.
pub type Header = (String, Option<Vec<u8>>);

impl Record<'_> {
    /// Returns the record's offset and leader epoch, by which the log is validated later; `None` if the epoch is
    /// unknown.
    pub fn as_last(&self) -> Option<LastRecord> {
        (self.leader_epoch >= 0).then_some(LastRecord { offset: self.offset, leader_epoch: self.leader_epoch })
    }

    pub fn headers(&self) -> Vec<Header> {
        let mut found = Vec::new();
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive for the lifetime of `self`; the headers belong to it.
        let code = unsafe { sys::rd_kafka_message_headers(self.native, &mut headers) };
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        loop {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above; librdkafka fills the three variables if it returns no error, and the name ends with a
            // zero byte.
            let header = unsafe {
                let code = sys::rd_kafka_header_get_all(headers, found.len(), &mut name, &mut value, &mut size);
                if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return found;
                }
                (text(name), bytes(value, size).map(<[u8]>::to_vec))
            };
            found.push(header);
        }
    }
}

/// A consumer and its queue. Polled by one thread, woken by any.
pub struct ConsumerQueue {
    // Declared before `consumer`, since the queue must be released before its client is destroyed.
    queue: QueueHandle,
    consumer: Lookup,
}

struct QueueHandle(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues have their own locks; the handle is freed only once, in `drop`.
unsafe impl Send for QueueHandle {}
// SAFETY: as above.
unsafe impl Sync for QueueHandle {}

impl Drop for QueueHandle {
    fn drop(&mut self) {
        // SAFETY: the reference was taken by `rd_kafka_queue_get_consumer` and is released once.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// Frees an event at the end of its poll.
struct Event(NonNull<sys::rd_kafka_event_t>);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event came from `rd_kafka_queue_poll` and nothing outlives this guard.
        unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
    }
}

impl ConsumerQueue {
    /// Takes a consumer, which must have a `group.id`: then librdkafka puts all events into one queue.
    pub fn new(consumer: Lookup) -> Result<Self, ConnectorError> {
        // SAFETY: the client is alive; the reference returned is owned by `QueueHandle`.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        let queue = NonNull::new(queue).ok_or_else(|| ConnectorError::Config("the consumer has no group.id".into()))?;
        Ok(Self { queue: QueueHandle(queue), consumer })
    }

    pub fn consumer(&self) -> &Lookup {
        &self.consumer
    }

    /// Makes the current poll, or else the next one, return at once.
    pub fn wake(&self) {
        // SAFETY: the queue is alive as long as `self`.
        unsafe { sys::rd_kafka_queue_yield(self.queue.0.as_ptr()) }
    }

    /// Seeks an assigned partition to the offset after `last`. The client first asks the leader whether the log still
    /// holds a record of this leader epoch there, and fetches nothing before the answer; records fetched earlier are
    /// discarded. Returns false if the client has not started the partition yet; the call must then be repeated.
    pub fn seek_behind(&self, topic: &str, partition: i32, last: LastRecord) -> Result<bool, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(last.offset + 1))?;
        // SAFETY: the list is alive and has one element, the first.
        unsafe { sys::rd_kafka_topic_partition_set_leader_epoch((*list.ptr()).elems, last.leader_epoch) };
        let list = self.consumer.seek_partitions(list, SEEK_TIMEOUT)?;
        Ok(list.elements().iter().all(|one| one.error().is_ok()))
    }

    /// Waits up to `timeout` for one event and passes it to `handle`. Returns `None` after a timeout or a wake-up.
    pub fn poll<R>(&self, timeout: Duration, handle: impl FnOnce(Polled<'_>) -> R) -> Option<R> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let callbacks = self.consumer.callbacks();
        callbacks.keep_login(self.consumer.native());
        // SAFETY: the queue is alive; the guard owns the returned event.
        let event = Event(NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.queue.0.as_ptr(), millis) })?);
        Some(handle(read(&event, callbacks)))
    }
}

fn read<'a>(event: &'a Event, callbacks: &Callbacks) -> Polled<'a> {
    let native = event.0.as_ptr();
    // SAFETY (all blocks): `native` is a live event, and each accessor is called on its own type.
    match unsafe { sys::rd_kafka_event_type(native) } {
        sys::RD_KAFKA_EVENT_FETCH => match unsafe { sys::rd_kafka_event_message_next(native).as_ref() } {
            Some(message) => Polled::Record(record(message)),
            None => Polled::Other,
        },
        sys::RD_KAFKA_EVENT_ERROR => failed(native, callbacks),
        sys::RD_KAFKA_EVENT_LOG => {
            let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
            if unsafe { sys::rd_kafka_event_log(native, &mut facility, &mut line, &mut level) } != 0 {
                return Polled::Other;
            }
            let (facility, line) = unsafe { (text(facility), text(line)) };
            callbacks.log_line(level, &facility, &line);
            match noted_change(&line) {
                Some((topic, id)) => Polled::TopicId { topic: topic.to_string(), id: id.to_string() },
                None => Polled::Other,
            }
        }
        _ => Polled::Other,
    }
}

fn record(message: &sys::rd_kafka_message_t) -> Record<'_> {
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is alive, and its lengths match its buffers.
    let (timestamp, leader_epoch, key, payload) = unsafe {
        (
            sys::rd_kafka_message_timestamp(message, &mut kind),
            sys::rd_kafka_message_leader_epoch(message),
            bytes(message.key, message.key_len),
            bytes(message.payload, message.len),
        )
    };
    Record {
        partition: message.partition,
        offset: message.offset,
        timestamp_ms: (timestamp >= 0).then_some(timestamp),
        leader_epoch,
        key,
        payload,
        native: message,
    }
}

fn failed(native: *mut sys::rd_kafka_event_t, callbacks: &Callbacks) -> Polled<'static> {
    // SAFETY: `native` is a live error event; the returned partition is freed here, once.
    let (code, message, fatal, place) = unsafe {
        let place = NonNull::new(sys::rd_kafka_event_topic_partition(native)).map(|place| {
            let found = (place.as_ref().partition, place.as_ref().offset);
            sys::rd_kafka_topic_partition_destroy(place.as_ptr());
            found
        });
        (
            RDKafkaErrorCode::from(sys::rd_kafka_event_error(native)),
            callbacks.hide(&text(sys::rd_kafka_event_error_string(native))),
            sys::rd_kafka_event_error_is_fatal(native) != 0,
            place,
        )
    };
    match (code, place) {
        (RDKafkaErrorCode::PartitionEOF, Some((partition, offset))) => Polled::EndOfPartition { partition, offset },
        (RDKafkaErrorCode::NoError, _) => Polled::Other,
        _ => {
            callbacks.hear(code, &message);
            Polled::Failed { partition: place.map(|(partition, _)| partition), code, message, fatal }
        }
    }
}

/// # Safety
/// `data` is null or points to `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by this function's contract.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// # Safety
/// `text` is null or points to a string that ends with a zero byte.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_string()
}
