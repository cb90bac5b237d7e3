//! Sizes of values in memory.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::DataType;
use std::sync::Arc;

/// Returns the bytes of an array's own values, without the rest of buffers that it is a slice of.
pub fn array_bytes(array: &ArrayRef) -> usize {
    let between = |offsets: &[i32], values: ArrayRef| {
        let (first, end) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
        size_of_val(offsets) + array_bytes(&values.slice(first, end - first))
    };
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            between(list.value_offsets(), list.values().clone())
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            between(map.value_offsets(), Arc::new(map.entries().clone()))
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(array_bytes).sum(),
        _ => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()),
    }
}
