//! Overlapping windows: functions that list all windows of a time.
//!
//! Owns: the arithmetic of `HOP` and `CUMULATE`. Does not own: the table functions (`planner::plan::windows`), which unnest
//! the lists. Invariants: windows come in ascending order; a NULL time, or a time in a gap between hops, has no window;
//! the end of a hop is its start plus its size, for every time.

use super::tumble::{Part, Shape, Window, constant, per_second};
use datafusion::arrow::array::{ArrayRef, AsArray, ListArray, PrimitiveArray, StructArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{
    ArrowTimestampType, DataType, Field, FieldRef, Fields, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use std::sync::Arc;

/// `hw_hop(ts, slide_ms, size_ms, offset_ms)` and `hw_cumulate(ts, step_ms, size_ms, offset_ms)`: a list of
/// `{window_start, window_end, window_time}`, of the type of `ts`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Overlapping {
    cumulate: bool,
    signature: Signature,
}

impl Overlapping {
    pub fn new(cumulate: bool) -> Self {
        Self { cumulate, signature: Signature::any(4, Volatility::Immutable) }
    }

    pub fn all() -> Vec<Self> {
        vec![Self::new(false), Self::new(true)]
    }

    /// Recognizes a call of one of these functions: returns its time and its windows. `None` for other expressions.
    pub fn recognize(expr: &Expr) -> Option<(&Expr, Window)> {
        let Expr::ScalarFunction(call) = expr else { return None };
        let cumulate = match call.func.name() {
            "hw_hop" => false,
            "hw_cumulate" => true,
            _ => return None,
        };
        let [
            time,
            Expr::Literal(ScalarValue::Int64(Some(step_ms)), _),
            Expr::Literal(ScalarValue::Int64(Some(size_ms)), _),
            Expr::Literal(ScalarValue::Int64(Some(offset_ms)), _),
        ] = call.args.as_slice()
        else {
            return None;
        };
        Some((time, windows(cumulate, *step_ms, *size_ms, *offset_ms)))
    }
}

fn windows(cumulate: bool, step_ms: i64, size_ms: i64, offset_ms: i64) -> Window {
    let shape = if cumulate { Shape::Cumulate { step_ms } } else { Shape::Hop { slide_ms: step_ms } };
    Window { shape, size_ms, offset_ms }
}

/// Returns the fields of a window's three times, of the type `time`.
pub fn fields(time: &DataType) -> Fields {
    Part::ALL.iter().map(|part| Field::new(part.column(), time.clone(), true)).collect()
}

fn item(time: &DataType) -> FieldRef {
    Arc::new(Field::new("item", DataType::Struct(fields(time)), true))
}

impl ScalarUDFImpl for Overlapping {
    fn name(&self) -> &str {
        if self.cumulate { "hw_cumulate" } else { "hw_hop" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args.first() {
            Some(time @ DataType::Timestamp(_, _)) => Ok(DataType::List(item(time))),
            other => plan_err!("windows need a TIMESTAMP column, got {other:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let numbers: Option<Vec<i64>> = args.args[1..].iter().map(constant).collect();
        let Some([step_ms, size_ms, offset_ms]) = numbers.as_deref() else {
            return exec_err!("step, size and offset of windows are constants");
        };
        let window = windows(self.cumulate, *step_ms, *size_ms, *offset_ms);
        let times = args.args[0].to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(match times.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => list::<TimestampSecondType>(&times, window)?,
            DataType::Timestamp(TimeUnit::Millisecond, _) => list::<TimestampMillisecondType>(&times, window)?,
            DataType::Timestamp(TimeUnit::Microsecond, _) => list::<TimestampMicrosecondType>(&times, window)?,
            DataType::Timestamp(TimeUnit::Nanosecond, _) => list::<TimestampNanosecondType>(&times, window)?,
            other => return exec_err!("windows need a TIMESTAMP column, got {other}"),
        }))
    }
}

fn list<T: ArrowTimestampType>(times: &ArrayRef, window: Window) -> Result<ArrayRef> {
    let scale = |ms: i64| (ms as i128 * per_second(T::UNIT) as i128 / 1_000) as i64;
    let (size, offset) = (scale(window.size_ms).max(1), scale(window.offset_ms));
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(times.len());
    for time in times.as_primitive::<T>() {
        let before = starts.len();
        match (time, window.shape) {
            (Some(time), Shape::Hop { slide_ms }) => {
                let slide = scale(slide_ms).max(1);
                let last = align(time, slide, offset);
                // Number of slides back to the earliest start after `time - size`.
                let before = (size - 1 - time.wrapping_sub(last)).div_euclid(slide);
                for steps in (0..=before).rev() {
                    let start = last.wrapping_sub(steps * slide);
                    starts.push(start);
                    ends.push(start.wrapping_add(size));
                }
            }
            (Some(time), Shape::Cumulate { step_ms }) => {
                let step = scale(step_ms).max(1);
                let start = align(time, size, offset);
                for steps in time.wrapping_sub(start).div_euclid(step) + 1..=size / step {
                    starts.push(start);
                    ends.push(start.wrapping_add(steps * step));
                }
            }
            _ => {}
        }
        lengths.push(starts.len() - before);
    }
    let data_type = times.data_type();
    let column = |values: Vec<i64>| -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::from_iter_values(values).with_data_type(data_type.clone()))
    };
    let lasts: Vec<i64> = ends.iter().map(|end| end.wrapping_sub(scale(1))).collect();
    let columns = vec![column(starts), column(ends), column(lasts)];
    let values = StructArray::try_new(fields(data_type), columns, None)?;
    let lists = ListArray::try_new(item(data_type), OffsetBuffer::from_lengths(lengths), Arc::new(values), None)?;
    Ok(Arc::new(lists))
}

/// Returns the greatest multiple of `size`, plus the offset, that is not after `time`.
fn align(time: i64, size: i64, offset: i64) -> i64 {
    // Wraps only within one window of the limits of the type.
    time.wrapping_sub(time.wrapping_sub(offset).rem_euclid(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Array, TimestampMillisecondArray};

    fn of_any(time: i64, window: Window) -> Vec<(i64, i64)> {
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![time]));
        let lists = list::<TimestampMillisecondType>(&times, window).unwrap();
        let rows = lists.as_list::<i32>().value(0);
        let part = |index: usize| rows.as_struct().column(index).as_primitive::<TimestampMillisecondType>().clone();
        (0..rows.len()).map(|row| (part(0).value(row), part(1).value(row))).collect()
    }

    /// `(start, end)` of the windows of one time.
    fn of(time: Option<i64>, window: Window) -> Vec<(i64, i64)> {
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![time]));
        let lists = list::<TimestampMillisecondType>(&times, window).unwrap();
        let rows = lists.as_list::<i32>().value(0);
        let part = |index: usize| rows.as_struct().column(index).as_primitive::<TimestampMillisecondType>().clone();
        let (starts, ends, lasts) = (part(0), part(1), part(2));
        assert!((0..rows.len()).all(|row| lasts.value(row) == ends.value(row) - 1));
        (0..rows.len()).map(|row| (starts.value(row), ends.value(row))).collect()
    }

    #[test]
    fn hops() {
        let hop = windows(false, 2, 10, 0);
        assert_eq!(of(Some(9), hop), [(0, 10), (2, 12), (4, 14), (6, 16), (8, 18)]);
        assert_eq!(of(Some(10), hop), [(2, 12), (4, 14), (6, 16), (8, 18), (10, 20)]);
        assert_eq!(of(Some(-1), windows(false, 5, 10, 0)), [(-10, 0), (-5, 5)]);
        assert_eq!(of(Some(1), windows(false, 5, 10, 3)), [(-7, 3), (-2, 8)]);
        assert_eq!(of(None, hop), []);
    }

    #[test]
    fn hops_that_do_not_divide_the_size_or_leave_gaps() {
        assert_eq!(of(Some(9), windows(false, 4, 10, 0)), [(0, 10), (4, 14), (8, 18)]);
        assert_eq!(of(Some(11), windows(false, 4, 10, 0)), [(4, 14), (8, 18)]);
        assert_eq!(of(Some(3), windows(false, 10, 4, 0)), [(0, 4)]);
        assert_eq!(of(Some(4), windows(false, 10, 4, 0)), []);
    }

    #[test]
    fn cumulating() {
        let cumulate = windows(true, 2, 6, 0);
        assert_eq!(of(Some(0), cumulate), [(0, 2), (0, 4), (0, 6)]);
        assert_eq!(of(Some(5), cumulate), [(0, 6)]);
        assert_eq!(of(Some(-1), cumulate), [(-6, 0)]);
        assert_eq!(of(Some(8), windows(true, 2, 6, 1)), [(7, 9), (7, 11), (7, 13)]);
    }

    #[test]
    fn times_at_the_ends_of_their_range_are_in_as_many_windows_as_any_other() {
        for time in [i64::MIN, i64::MIN + 3, i64::MAX - 3, i64::MAX] {
            let hops = of_any(time, windows(false, 2, 10, 0));
            assert_eq!(hops.len(), 5, "{time}");
            assert!(hops.iter().all(|(start, end)| end.wrapping_sub(*start) == 10), "{time}: {hops:?}");
            let cumulated = of_any(time, windows(true, 2, 6, 0));
            assert!((1..=3).contains(&cumulated.len()), "{time}: {cumulated:?}");
        }
    }
}
