//! `SET state_memory_limit`: stops a query that keeps too much state before the machine runs out of memory.
//!
//! Owns: the comparison, and the message that names the operator. Does not own: measuring (`operators`), stopping
//! (`protocol`).

use highwater_planner::CompiledQuery;
use highwater_protocol::ids::OperatorId;
use highwater_protocol::report::OperatorMetrics;
use std::collections::BTreeMap;

/// Returns why the query must stop: its operators keep more bytes than its limit. `None` if they do not.
pub(crate) fn over_limit(compiled: &CompiledQuery, operators: &[OperatorMetrics]) -> Option<String> {
    let limit = compiled.options.state_memory_limit?;
    let mut sizes: BTreeMap<OperatorId, (u64, u64)> = BTreeMap::new();
    for metrics in operators {
        let (bytes, rows) = sizes.entry(metrics.operator).or_default();
        *bytes += metrics.state_bytes;
        *rows += metrics.state_rows;
    }
    let total: u64 = sizes.values().map(|(bytes, _)| bytes).sum();
    if total <= limit {
        return None;
    }
    let (largest, (bytes, rows)) = sizes.into_iter().max_by_key(|(_, (bytes, _))| *bytes)?;
    let info = compiled.dataflow.operators.iter().find(|info| info.id == largest)?;
    Some(format!(
        "the query keeps {total} bytes of state, over its state_memory_limit of {limit}: operator {largest} ({} {}) \
         keeps {bytes} bytes in {rows} rows; bound its state (a window over a table with WATERMARK, fewer columns), or \
         submit the query with a higher limit",
        info.name, info.description
    ))
}
