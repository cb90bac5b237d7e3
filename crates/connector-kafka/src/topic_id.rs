//! A topic's id, which changes when the topic is deleted and recreated.
//!
//! Owns: the DescribeTopics call, which rdkafka does not wrap, and its unsafe code.

#![allow(unsafe_code)]

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::time::Duration;

/// The all-zero UUID, which brokers without topic ids send.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Calls its function when it is dropped, so that librdkafka's objects are freed in reverse order of creation.
struct Defer<F: FnMut()>(F);

impl<F: FnMut()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Returns the id of a topic; `None` if the brokers are too old to have ids. Blocks up to `timeout`.
pub fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<String>, RDKafkaErrorCode> {
    let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let rk = client.native_ptr();
    // SAFETY: the client outlives the call; every object is freed exactly once by its guard, after the last use of its
    // parts; null pointers are checked.
    unsafe {
        if is_mock(rk, millis) {
            return Ok(None);
        }
        let queue = sys::rd_kafka_queue_new(rk);
        let _queue = Defer(|| sys::rd_kafka_queue_destroy(queue));
        let options = sys::rd_kafka_AdminOptions_new(rk, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let _options = Defer(|| sys::rd_kafka_AdminOptions_destroy(options));
        sys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let _topics = Defer(|| sys::rd_kafka_TopicCollection_destroy(topics));
        sys::rd_kafka_DescribeTopics(rk, topics, options, queue);
        let event = NonNull::new(sys::rd_kafka_queue_poll(queue, millis.saturating_add(1000)))
            .ok_or(RDKafkaErrorCode::OperationTimedOut)?
            .as_ptr();
        let _event = Defer(|| sys::rd_kafka_event_destroy(event));
        told(RDKafkaErrorCode::from(sys::rd_kafka_event_error(event)))?;
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Ok(None);
        }
        let mut count = 0;
        let found = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if found.is_null() || count == 0 {
            return Ok(None);
        }
        let description = *found;
        let error = sys::rd_kafka_TopicDescription_error(description);
        if !error.is_null() {
            told(RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)))?;
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(description);
        let text = if id.is_null() { ptr::null() } else { sys::rd_kafka_Uuid_base64str(id) };
        if text.is_null() {
            return Ok(None);
        }
        let text = CStr::from_ptr(text).to_string_lossy();
        Ok((text != NO_ID).then(|| text.into_owned()))
    }
}

/// Returns whether the brokers are librdkafka's mock cluster, which the demo uses and which never answers
/// DescribeTopics.
///
/// # Safety
/// `rk` is a live client.
unsafe fn is_mock(rk: *mut sys::rd_kafka_t, millis: i32) -> bool {
    // SAFETY: the client is alive; the returned text is owned here, ends with a zero byte and is freed once, after use.
    unsafe {
        let id = sys::rd_kafka_clusterid(rk, millis);
        if id.is_null() {
            return false;
        }
        let _id = Defer(|| sys::rd_kafka_mem_free(rk, id.cast()));
        CStr::from_ptr(id).to_bytes().starts_with(b"mockCluster")
    }
}

/// Turns an error code into a result. Brokers that do not know the request are not an error: the id is then unknown.
fn told(code: RDKafkaErrorCode) -> Result<(), RDKafkaErrorCode> {
    match code {
        RDKafkaErrorCode::NoError | RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion => {
            Ok(())
        }
        code => Err(code),
    }
}
