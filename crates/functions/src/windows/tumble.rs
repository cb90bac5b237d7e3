//! Tumbling windows: functions that return the window of a time.
//!
//! Owns: the arithmetic of `TUMBLE`, and the types of windows. Does not own: the `TUMBLE(…)` table function
//! (`planner::plan::windows`), overlapping windows (`hop`), closing windows (`dataflow`). Invariants: windows are half-open
//! and aligned to the Unix epoch plus the offset, also before the epoch; a NULL time is in no window.

use datafusion::arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use datafusion::arrow::datatypes::{
    ArrowTimestampType, DataType, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use highwater_protocol::query::ClockWindow;
use std::sync::Arc;

/// One of the times of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// First instant of the window.
    Start,
    /// First instant after the window.
    End,
    /// Last millisecond of the window, which is the event time of its results.
    Time,
}

impl Part {
    /// All parts, in the order of their columns.
    pub const ALL: [Self; 3] = [Self::Start, Self::End, Self::Time];

    /// Returns the column that a window table function adds for the part.
    pub fn column(self) -> &'static str {
        match self {
            Self::Start => "window_start",
            Self::End => "window_end",
            Self::Time => "window_time",
        }
    }

    /// Returns the part with this column; `None` for other names.
    pub fn of_column(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.column() == name)
    }
}

/// `hw_tumble_start(ts, size_ms, offset_ms)`, `hw_tumble_end`, `hw_tumble_time`; they keep the type of `ts`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Tumble {
    part: Part,
    signature: Signature,
}

/// The parameters of a window function's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    pub shape: Shape,
    /// Size in milliseconds; for sessions, the gap that ends them.
    pub size_ms: i64,
    pub offset_ms: i64,
}

/// How windows follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// Each begins where the one before ends.
    Tumble,
    /// One begins every `slide_ms` milliseconds.
    Hop { slide_ms: i64 },
    /// Those of a series begin together, and end after one, two, … steps of `step_ms` milliseconds, up to the size.
    Cumulate { step_ms: i64 },
    /// Each lasts until no row comes for the gap.
    Session,
}

impl Window {
    pub fn tumble(size_ms: i64, offset_ms: i64) -> Self {
        Self { shape: Shape::Tumble, size_ms, offset_ms }
    }

    /// Returns the length of the longest window, in milliseconds; `None` for sessions, which have no greatest length.
    pub fn longest_ms(self) -> Option<i64> {
        (self.shape != Shape::Session).then_some(self.size_ms)
    }

    /// Returns the windows as windows over the batch clock; `None` for sessions, whose ends depend on rows.
    pub fn by_clock(self) -> Option<ClockWindow> {
        let Self { shape, size_ms, offset_ms } = self;
        let (begin_every_ms, end_every_ms) = match shape {
            Shape::Tumble => (size_ms, size_ms),
            Shape::Hop { slide_ms } => (slide_ms, slide_ms),
            Shape::Cumulate { step_ms } => (size_ms, step_ms),
            Shape::Session => return None,
        };
        Some(ClockWindow { size_ms, begin_every_ms, end_every_ms, offset_ms })
    }
}

impl Tumble {
    pub fn new(part: Part) -> Self {
        Self { part, signature: Signature::any(3, Volatility::Immutable) }
    }

    pub fn all() -> Vec<Self> {
        [Part::Start, Part::End, Part::Time].into_iter().map(Self::new).collect()
    }

    /// Recognizes a call of one of these functions: returns its part, its time and its window. `None` for other expressions.
    pub fn recognize(expr: &Expr) -> Option<(Part, &Expr, Window)> {
        let Expr::ScalarFunction(call) = expr else { return None };
        let part = match call.func.name() {
            "hw_tumble_start" => Part::Start,
            "hw_tumble_end" => Part::End,
            "hw_tumble_time" => Part::Time,
            _ => return None,
        };
        let [
            time,
            Expr::Literal(ScalarValue::Int64(Some(size_ms)), _),
            Expr::Literal(ScalarValue::Int64(Some(offset_ms)), _),
        ] = call.args.as_slice()
        else {
            return None;
        };
        Some((part, time, Window::tumble(*size_ms, *offset_ms)))
    }
}

impl ScalarUDFImpl for Tumble {
    fn name(&self) -> &str {
        match self.part {
            Part::Start => "hw_tumble_start",
            Part::End => "hw_tumble_end",
            Part::Time => "hw_tumble_time",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args.first() {
            Some(timestamp @ DataType::Timestamp(_, _)) => Ok(timestamp.clone()),
            other => plan_err!("TUMBLE needs a TIMESTAMP column, got {other:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(size_ms), Some(offset_ms)) = (constant(&args.args[1]), constant(&args.args[2])) else {
            return exec_err!("size and offset of a window are constants");
        };
        let window = Window::tumble(size_ms, offset_ms);
        let is_scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let times = args.args[0].to_array(if is_scalar { 1 } else { args.number_rows })?;
        let result = match times.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => map::<TimestampSecondType>(&times, self.part, window),
            DataType::Timestamp(TimeUnit::Millisecond, _) => map::<TimestampMillisecondType>(&times, self.part, window),
            DataType::Timestamp(TimeUnit::Microsecond, _) => map::<TimestampMicrosecondType>(&times, self.part, window),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => map::<TimestampNanosecondType>(&times, self.part, window),
            other => return exec_err!("TUMBLE needs a TIMESTAMP column, got {other}"),
        };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

/// Returns a constant argument; `None` if it is NULL or not a BIGINT.
pub fn constant(value: &ColumnarValue) -> Option<i64> {
    match value {
        ColumnarValue::Scalar(ScalarValue::Int64(number)) => *number,
        ColumnarValue::Array(array) => {
            let numbers = array.as_primitive_opt::<Int64Type>()?;
            (!numbers.is_empty()).then(|| numbers.value(0))
        }
        ColumnarValue::Scalar(_) => None,
    }
}

/// Returns how many of a unit make a second.
pub fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn map<T: ArrowTimestampType>(times: &ArrayRef, part: Part, window: Window) -> ArrayRef {
    let scale = |ms: i64| (ms as i128 * per_second(T::UNIT) as i128 / 1_000) as i64;
    let (size, offset) = (scale(window.size_ms).max(1), scale(window.offset_ms));
    let add = match part {
        Part::Start => 0,
        Part::End => size,
        Part::Time => size - scale(1),
    };
    let array: &PrimitiveArray<T> = times.as_primitive();
    // Wraps only within one window of the limits of the type.
    let mapped: PrimitiveArray<T> = array.unary(|time| {
        let start = time.wrapping_sub(time.wrapping_sub(offset).rem_euclid(size));
        start.wrapping_add(add)
    });
    Arc::new(mapped.with_data_type(times.data_type().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::TimestampMillisecondArray;

    fn starts(times: Vec<Option<i64>>, part: Part, size_ms: i64, offset_ms: i64) -> Vec<Option<i64>> {
        let array: ArrayRef = Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"));
        let mapped = map::<TimestampMillisecondType>(&array, part, Window::tumble(size_ms, offset_ms));
        assert_eq!(mapped.data_type(), array.data_type());
        mapped.as_primitive::<TimestampMillisecondType>().iter().collect()
    }

    #[test]
    fn windows_are_half_open_and_aligned() {
        let times = vec![Some(0), Some(9_999), Some(10_000), None];
        assert_eq!(starts(times.clone(), Part::Start, 10_000, 0), [Some(0), Some(0), Some(10_000), None]);
        assert_eq!(starts(times.clone(), Part::End, 10_000, 0), [Some(10_000), Some(10_000), Some(20_000), None]);
        assert_eq!(starts(times, Part::Time, 10_000, 0), [Some(9_999), Some(9_999), Some(19_999), None]);
    }

    #[test]
    fn before_the_epoch_and_with_offset() {
        assert_eq!(
            starts(vec![Some(-1), Some(-10_000), Some(-10_001)], Part::Start, 10_000, 0),
            [Some(-10_000), Some(-10_000), Some(-20_000)]
        );
        assert_eq!(
            starts(vec![Some(0), Some(2_999), Some(3_000)], Part::Start, 10_000, 3_000),
            [Some(-7_000), Some(-7_000), Some(3_000)]
        );
        assert_eq!(starts(vec![Some(0)], Part::Start, 10_000, -3_000), [Some(-3_000)]);
    }

    #[test]
    fn other_units() {
        let array: ArrayRef = Arc::new(PrimitiveArray::<TimestampNanosecondType>::from(vec![10_000_000_001]));
        let mapped = map::<TimestampNanosecondType>(&array, Part::Time, Window::tumble(10_000, 0));
        assert_eq!(mapped.as_primitive::<TimestampNanosecondType>().value(0), 19_999_000_000);
    }
}
