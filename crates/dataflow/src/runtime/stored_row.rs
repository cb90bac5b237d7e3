//! The value of a row in ordered state.
//!
//! Owns: the layout `close time (i64) | weight (i64) | count (i64)`, little-endian.

use crate::error::EngineError;

/// The numbers of a stored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Close time of the row, in milliseconds; `NEVER` = never.
    pub close_ms: i64,
    /// Its weight: how often the row exists.
    pub weight: i64,
    /// A number of the operator; for a join, how many rows of the other side match.
    pub count: i64,
}

impl StoredRow {
    pub fn encode(self) -> [u8; 24] {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.close_ms.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.weight.to_le_bytes());
        bytes[16..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    /// Decodes the row of a value; `None` without a value.
    pub fn read(value: Option<&[u8]>) -> Result<Option<Self>, EngineError> {
        value.map(Self::decode).transpose()
    }

    /// Returns the weight of a value's row; 0 without a value.
    pub fn weight_of(value: Option<&[u8]>) -> Result<i64, EngineError> {
        Ok(Self::read(value)?.map_or(0, |row| row.weight))
    }

    pub fn decode(value: &[u8]) -> Result<Self, EngineError> {
        let number =
            |at: usize| value.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|b| i64::from_le_bytes(*b));
        match (number(0), number(8), number(16)) {
            (Some(close_ms), Some(weight), Some(count)) => Ok(Self { close_ms, weight, count }),
            _ => Err(EngineError::CutOff("a kept row")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_protocol::error::ErrorKind;

    #[test]
    fn a_value_that_is_cut_off_is_damaged_state() {
        let row = StoredRow { close_ms: 7, weight: -2, count: i64::MAX };
        assert_eq!(StoredRow::decode(&row.encode()).unwrap(), row);
        let error = StoredRow::decode(&row.encode()[..23]).unwrap_err();
        assert!(matches!(error, EngineError::CutOff(_)), "{error}");
        assert_eq!(error.kind(), ErrorKind::Fatal);
    }
}
