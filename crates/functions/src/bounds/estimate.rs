//! Estimates the size of a call's result from its arguments.
//!
//! Owns: a formula for each function whose arguments multiply, or that joins many of them. Invariant: no result is larger
//! than a small multiple of its estimate; large estimates are exact enough not to refuse small results.

use super::limits::{MAX_VALUE_BYTES, value_bytes};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeStringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::length::length;
use datafusion::arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;
use regex::Regex;

/// Returns the bytes of the result in a row.
#[derive(Clone, Copy)]
pub struct Estimate(fn(&[Arg], usize) -> u64);

/// The sum of all arguments.
pub const SUM: Estimate = Estimate(|args, row| args.iter().fold(0, |sum, arg| sum.saturating_add(arg.bytes(row))));

/// Returns the formula of a function; `None` if its result is not a multiple of its arguments.
pub fn estimate_of(name: &str) -> Option<Estimate> {
    Some(match name {
        "concat" | "make_array" | "array" | "array_append" | "array_prepend" | "array_concat" | "overlay" | "map"
        | "map_from_arrays" => SUM,
        "concat_ws" => Estimate(|args, row| {
            let parts = args.len().saturating_sub(1) as u64;
            args[1..]
                .iter()
                .fold(args[0].length(row).saturating_mul(parts), |sum, arg| sum.saturating_add(arg.bytes(row)))
        }),
        "repeat" => Estimate(|args, row| args[0].length(row).saturating_mul(args[1].count(row))),
        "space" => Estimate(|args, row| args[0].count(row)),
        "lpad" | "rpad" => Estimate(pad),
        "replace" => Estimate(replace),
        "regexp_replace" => Estimate(regexp_replace),
        "to_char" | "date_format" => Estimate(|args, row| args.get(1).map_or(0, |arg| arg.length(row) * 12)),
        "format_string" => Estimate(format_string),
        "array_repeat" => Estimate(|args, row| args[0].bytes(row).max(1).saturating_mul(args[1].count(row))),
        "array_resize" => Estimate(|args, row| {
            let item = args.get(2).map_or(0, |fill| fill.bytes(row)).max(args[0].width);
            args[0].bytes(row).saturating_add(item.saturating_mul(args[1].count(row)))
        }),
        "array_replace" => Estimate(|args, row| args[0].bytes(row).saturating_add(args[2].bytes(row))),
        "array_replace_n" => Estimate(|args, row| replaced(args, row, args[3].count(row))),
        "array_replace_all" => Estimate(|args, row| replaced(args, row, u64::MAX)),
        "array_to_string" => Estimate(|args, row| {
            let between = args[1..].iter().map(|arg| arg.length(row)).sum::<u64>();
            args[0].items(row).saturating_mul(between).saturating_add(args[0].bytes(row))
        }),
        "range" | "generate_series" => Estimate(|args, row| series(args, row).saturating_mul(8)),
        _ => return None,
    })
}

impl Estimate {
    /// Returns the result's bytes in every row. Without rows, it returns one size, from the constants alone.
    pub fn sizes(self, args: &[ColumnarValue], rows: usize) -> Result<impl Iterator<Item = u64>> {
        let args = args.iter().map(Arg::new).collect::<Result<Vec<_>>>()?;
        Ok((0..rows.max(1)).map(move |row| (self.0)(&args, row)))
    }
}

/// An argument, with its numbers and lengths.
struct Arg {
    array: ArrayRef,
    is_constant: bool,
    numbers: Option<Int64Array>,
    lengths: Option<Int64Array>,
    /// Bytes of each value, or of each element of a list, if its type has a fixed size; else 1.
    width: u64,
}

impl Arg {
    fn new(arg: &ColumnarValue) -> Result<Self> {
        let (array, is_constant) = match arg {
            ColumnarValue::Array(array) => (array.clone(), false),
            ColumnarValue::Scalar(value) => (value.to_array()?, true),
        };
        let array = match array.data_type() {
            DataType::Dictionary(_, values) => cast(&array, values)?,
            _ => array,
        };
        let whole =
            |array: &ArrayRef| Ok::<_, datafusion::common::DataFusionError>(as_i64(cast(array, &DataType::Int64)?));
        let numbers = if array.data_type().is_integer() { Some(whole(&array)?) } else { None };
        let lengths = match length(&array) {
            Ok(lengths) => Some(whole(&lengths)?),
            Err(_) => None,
        };
        let width = match array.data_type() {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                item.data_type().primitive_width().unwrap_or(1) as u64
            }
            other => other.primitive_width().unwrap_or(1) as u64,
        };
        Ok(Self { array, is_constant, numbers, lengths, width })
    }

    /// Returns the index of a row's value in the array; `None` if there are no rows.
    fn place(&self, row: usize) -> Option<usize> {
        let place = if self.is_constant { 0 } else { row };
        (place < self.array.len()).then_some(place)
    }

    fn is_valid(&self, row: usize) -> bool {
        self.place(row).is_some_and(|place| self.array.is_valid(place))
    }

    /// Returns the value of a row as an array of one.
    fn value(&self, row: usize) -> Option<ArrayRef> {
        self.place(row).map(|place| self.array.slice(place, 1))
    }

    fn number(&self, row: usize) -> Option<i64> {
        let (place, numbers) = (self.place(row)?, self.numbers.as_ref()?);
        match numbers.is_valid(place) {
            true => Some(numbers.value(place)),
            // The number is above the range of BIGINT.
            false => self.array.is_valid(place).then_some(i64::MAX),
        }
    }

    /// Returns a row's whole number as a count or length; 0 for NULL and negative numbers.
    fn count(&self, row: usize) -> u64 {
        self.number(row).and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
    }

    /// Returns the bytes of a text, or the elements of a list; 0 for NULL.
    fn length(&self, row: usize) -> u64 {
        let length = || {
            let (place, lengths) = (self.place(row)?, self.lengths.as_ref()?);
            lengths.is_valid(place).then(|| lengths.value(place))
        };
        length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
    }

    fn bytes(&self, row: usize) -> u64 {
        match self.array.data_type() {
            DataType::Null => 0,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary | DataType::LargeBinary => {
                self.length(row)
            }
            other => match other.primitive_width() {
                Some(width) => width as u64,
                None => self.place(row).map_or(0, |place| value_bytes(&self.array, place)),
            },
        }
    }

    /// Returns the number of elements of a list and of all lists in it.
    fn items(&self, row: usize) -> u64 {
        self.value(row).map_or(0, |value| items_of(&value))
    }

    fn text(&self, row: usize) -> Option<LargeStringArray> {
        let one = cast(&self.value(row)?, &DataType::LargeUtf8).ok()?;
        let text = one.as_string::<i64>().clone();
        text.is_valid(0).then_some(text)
    }
}

fn as_i64(array: ArrayRef) -> Int64Array {
    array.as_primitive::<Int64Type>().clone()
}

fn items_of(array: &ArrayRef) -> u64 {
    let of = |values: ArrayRef| values.len() as u64 + items_of(&values);
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
            of(list.values().slice(first as usize, (last - first) as usize))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (first, last) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
            of(list.values().slice(first as usize, (last - first) as usize))
        }
        DataType::FixedSizeList(_, _) => of(array.as_fixed_size_list().values().clone()),
        _ => 0,
    }
}

/// Estimates `lpad` and `rpad`. The fill may have characters of up to 4 bytes. A constant length counts even if the text is
/// NULL, since DataFusion allocates it in any case.
fn pad(args: &[Arg], row: usize) -> u64 {
    let fill = args.get(2).map_or(1, |fill| fill.length(row)).clamp(1, 4);
    let wanted = match args[1].is_constant || args[0].is_valid(row) {
        true => args[1].count(row),
        false => 0,
    };
    args[0].length(row).saturating_add(wanted.saturating_mul(fill))
}

/// Returns `bound` if it is small, else the result of `count`, which is exact but slower; `None` of it means `bound`.
fn refined(bound: u64, count: impl FnOnce() -> Option<u64>) -> u64 {
    if bound <= MAX_VALUE_BYTES / 64 { bound } else { count().unwrap_or(bound) }
}

fn replace(args: &[Arg], row: usize) -> u64 {
    let (text, from, to) = (args[0].length(row), args[1].length(row), args[2].length(row));
    let most = text / from.max(1) + 1;
    refined(text.saturating_add(most.saturating_mul(to)), || {
        let (text, from) = (args[0].text(row)?, args[1].text(row)?);
        let found = text.value(0).matches(from.value(0)).count() as u64;
        Some((text.value(0).len() as u64).saturating_add(found.saturating_mul(to)))
    })
}

/// Estimates `regexp_replace`. A reference to a group writes at most the whole text, since matches do not overlap.
fn regexp_replace(args: &[Arg], row: usize) -> u64 {
    let (text, to) = (args[0].length(row), args[2].length(row));
    refined(text.saturating_add(1).saturating_mul(to.saturating_add(1)), || {
        let (pattern, with) = (args[1].text(row)?, args[2].text(row)?);
        let flags = args.get(3).and_then(|flags| flags.text(row));
        let flags = flags.as_ref().map_or("", |flags| flags.value(0));
        let inline: String = flags.chars().filter(|flag| *flag != 'g').collect();
        let pattern =
            if inline.is_empty() { pattern.value(0).into() } else { format!("(?{inline}){}", pattern.value(0)) };
        let regex = Regex::new(&pattern).ok()?;
        let all = args[0].text(row)?;
        let most = if flags.contains('g') { usize::MAX } else { 1 };
        let found = regex.find_iter(all.value(0)).take(most).count() as u64;
        let references = with.value(0).matches(['$', '\\']).count() as u64;
        Some(text.saturating_mul(references.saturating_add(1)).saturating_add(found.saturating_mul(to)))
    })
}

/// Estimates `format_string`. Every `%` may write the longest argument, and as many characters as its width and precision.
fn format_string(args: &[Arg], row: usize) -> u64 {
    let Some(format) = args[0].text(row) else { return 0 };
    let longest = args[1..].iter().map(|arg| arg.bytes(row)).max().unwrap_or(0).max(400);
    let mut size = format.value(0).len() as u64;
    for after in format.value(0).split('%').skip(1) {
        let end = after.find(|c: char| c.is_alphabetic()).unwrap_or(after.len());
        let numbers = after[..end].split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let asked = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
        size = size.saturating_add(longest).saturating_add(asked);
    }
    size
}

fn replaced(args: &[Arg], row: usize, most: u64) -> u64 {
    let times = args[0].length(row).min(most);
    args[0].bytes(row).saturating_add(times.saturating_mul(args[2].bytes(row)))
}

/// Returns the number of elements of a series of numbers, dates or times.
fn series(args: &[Arg], row: usize) -> u64 {
    let Some((start, stop, step)) = series_of(args, row) else { return 0 };
    match (step > 0 && start <= stop) || (step < 0 && start >= stop) {
        true => start.abs_diff(stop) / step.unsigned_abs() + 1,
        false => 0,
    }
}

fn series_of(args: &[Arg], row: usize) -> Option<(i64, i64, i64)> {
    if let [stop] = args {
        return Some((0, stop.number(row)?, 1));
    }
    let (start, stop) = (args.first()?, args.get(1)?);
    let Some(step) = args.get(2) else { return Some((start.number(row)?, stop.number(row)?, 1)) };
    if let (Some(start), Some(stop), Some(step)) = (start.number(row), stop.number(row), step.number(row)) {
        return Some((start, stop, step));
    }
    let is_date = matches!(start.array.data_type(), DataType::Date32 | DataType::Date64);
    let unit = if is_date { DataType::Date32 } else { DataType::Timestamp(TimeUnit::Nanosecond, None) };
    let time = |arg: &Arg| {
        let one = cast(&arg.value(row)?, &unit).ok()?;
        let number = as_i64(cast(&cast(&one, &number_of(is_date)).ok()?, &DataType::Int64).ok()?);
        number.is_valid(0).then(|| number.value(0))
    };
    let interval = cast(&step.value(row)?, &DataType::Interval(IntervalUnit::MonthDayNano)).ok()?;
    let interval = interval.as_primitive_opt::<IntervalMonthDayNanoType>()?;
    let (months, days, nanos) = interval.is_valid(0).then(|| IntervalMonthDayNanoType::to_parts(interval.value(0)))?;
    let least = least_step(i64::from(months), i64::from(days), nanos, is_date);
    Some((time(start)?, time(stop)?, least))
}

fn number_of(is_date: bool) -> DataType {
    if is_date { DataType::Int32 } else { DataType::Int64 }
}

/// Returns the shortest possible length of an interval: in days if `is_date`, else in nanoseconds. It is 1 or −1 if the
/// interval's parts have different signs.
fn least_step(months: i64, days: i64, nanos: i64, is_date: bool) -> i64 {
    const DAY_NANOS: i64 = 86_400_000_000_000;
    let parts = [months, days, nanos];
    let sign = if parts.iter().any(|part| *part < 0) { -1 } else { 1 };
    if parts.iter().any(|part| part.signum() == -sign) {
        return sign;
    }
    let whole_days = months.saturating_mul(28).saturating_add(days);
    match is_date {
        true => whole_days,
        // Days may have 23 hours when clocks change.
        false => whole_days.saturating_mul(DAY_NANOS / 24 * 23).saturating_add(nanos),
    }
}
