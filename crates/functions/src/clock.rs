//! `now()` and its synonyms: the time of the micro-batch, not of the machine.
//!
//! Owns: the clock, which is set before a batch's tasks run, and the functions that read it.
//! Does not own: the batch's timestamp (it is in the plan). Invariant: every call in one batch, in any
//! attempt, returns the same time. The functions are volatile to the optimiser, so it never folds them.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const DAY_MS: i64 = 86_400_000;

/// The time of the batch that a compiled query is processing, in milliseconds since the Unix epoch.
/// Clones share it. It must be set before a task starts.
#[derive(Clone, Debug, Default)]
pub struct BatchClock(Arc<AtomicI64>);

impl BatchClock {
    pub fn set_ms(&self, now_ms: i64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    pub fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for BatchClock {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for BatchClock {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Timestamp,
    Date,
    Time,
}

/// `now()`, `current_date`, `current_time`.
#[derive(Debug, PartialEq, Eq)]
pub struct ClockFunction {
    part: Part,
    clock: BatchClock,
    signature: Signature,
    aliases: Vec<String>,
}

impl Hash for ClockFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.part.hash(state);
    }
}

impl ClockFunction {
    /// Returns all of these functions, reading `clock`.
    pub fn all(clock: &BatchClock) -> Vec<Self> {
        let make = |part, aliases: &[&str]| Self {
            part,
            clock: clock.clone(),
            signature: Signature::nullary(Volatility::Volatile),
            aliases: aliases.iter().map(|alias| alias.to_string()).collect(),
        };
        vec![
            make(Part::Timestamp, &["current_timestamp", "localtimestamp", "current_row_timestamp", "proctime"]),
            make(Part::Date, &["today", "curdate"]),
            make(Part::Time, &["localtime"]),
        ]
    }
}

/// True if a function of this name reads the batch's clock.
pub fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "now"
            | "proctime"
            | "current_timestamp"
            | "localtimestamp"
            | "current_row_timestamp"
            | "current_date"
            | "today"
            | "curdate"
            | "current_time"
            | "localtime"
    )
}

impl ScalarUDFImpl for ClockFunction {
    fn name(&self) -> &str {
        match self.part {
            Part::Timestamp => "now",
            Part::Date => "current_date",
            Part::Time => "current_time",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.part {
            Part::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some(crate::UTC.into())),
            Part::Date => DataType::Date32,
            Part::Time => DataType::Time32(TimeUnit::Millisecond),
        })
    }

    // Never NULL, so that DataFusion removes checks for NULL.
    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, false)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let now = self.clock.now_ms();
        Ok(ColumnarValue::Scalar(match self.part {
            Part::Timestamp => ScalarValue::TimestampMillisecond(Some(now), Some(crate::UTC.into())),
            Part::Date => ScalarValue::Date32(i32::try_from(now.div_euclid(DAY_MS)).ok()),
            Part::Time => ScalarValue::Time32Millisecond(i32::try_from(now.rem_euclid(DAY_MS)).ok()),
        }))
    }
}
