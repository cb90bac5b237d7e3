//! The JSON format: reading (`decode`) and writing (`encode`) objects.
//!
//! Owns: the rules of docs/connectors.md, section json. Does not own: Kafka.

mod decode;
pub(super) mod decode_scalar;
mod encode;
mod scan;

// Shared with other text formats.
pub(super) use decode::column::{Column, nanos_per, put};
pub(super) use decode_scalar as scalar;
pub use encode::{ObjectEncoder, encoder_options};
pub(super) use scan::shorten;

use super::{Codec, Decoded, Input, Layout, RowDecoder};
use crate::error::ConnectorError;
use arrow::datatypes::Fields;
use arrow::error::ArrowError;
use decode::JsonDecoder;
use highwater_sql::formats::JSON;
use std::sync::Arc;

pub const CODEC: Codec =
    Codec { spec: &JSON, decoder, encoder: |_, columns| Ok(Arc::new(ObjectEncoder::new(columns))) };

/// Opens a decoder of the wanted columns only, since members are found by name.
fn decoder(layout: &Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError> {
    let fields: Fields = layout.wanted.iter().map(|wanted| layout.fields[wanted.at].clone()).collect();
    let key: Vec<usize> = (0..fields.len()).filter(|column| layout.wanted[*column].is_key).collect();
    Ok(Box::new(JsonDecoder::new(&fields, &key)?))
}

impl RowDecoder for JsonDecoder {
    fn decode(&mut self, records: &[Input<'_>]) -> Result<Decoded, ArrowError> {
        let mut bad = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Err(fault) = self.append(*record) {
                bad.push((index, fault));
            }
        }
        let absent = self.take_absent();
        Ok(Decoded { columns: self.finish()?, bad, absent })
    }
}
