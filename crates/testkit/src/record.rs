//! Records that tests write and read.

use serde_json::Value;

/// A record to produce.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    pub timestamp_ms: Option<i64>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Message {
    /// A record with this payload, no key, and any partition.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    /// A record whose value is this JSON.
    pub fn json(value: &Value) -> Self {
        Self::new(value.to_string())
    }

    /// A record without a value.
    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}

/// A record as read from a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The value as JSON; panics if it is not JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let payload = self.payload.as_deref().unwrap_or_else(|| panic!("a tombstone has no value: {self:?}"));
        serde_json::from_slice(payload)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", String::from_utf8_lossy(payload)))
    }

    /// The key as text; `None` if there is none.
    pub fn key_text(&self) -> Option<String> {
        self.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned())
    }

    /// The value as text; `None` for a tombstone.
    pub fn text(&self) -> Option<String> {
        self.payload.as_deref().map(|payload| String::from_utf8_lossy(payload).into_owned())
    }
}
