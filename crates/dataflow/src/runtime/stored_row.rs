//! How rows are kept in ordered state: what stands in the value beside the close time.
//!
//! Owns: the layout `close time (i64) | weight (i64) | count (i64)`, little-endian.

use crate::error::EngineError;

/// A kept row's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// When the row may be forgotten, milliseconds; `NEVER` = never.
    pub close_ms: i64,
    /// How often it is there.
    pub weight: i64,
    /// The operator's own: a join keeps how many rows of the other side match.
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

    /// The row that a value says is there, if there is a value.
    pub fn read(value: Option<&[u8]>) -> Result<Option<Self>, EngineError> {
        value.map(Self::decode).transpose()
    }

    /// How often the row is there that a value says; without one it is not.
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
