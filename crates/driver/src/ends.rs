//! The end positions of a query with fixed ends.
//!
//! Owns: asking the brokers for them. Does not own: when they are fixed (`submit`, `queries`).

use crate::error::DriverError;
use highwater_connector_api::source::SourceMonitor;
use highwater_connectors::registry;
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::SourceId;
use highwater_protocol::offsets::Positions;
use highwater_protocol::options::EndingOffsets;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Fixes new ends for a finished `available_now` query that is started again. Returns them with the ids of their
/// topics.
pub(crate) async fn fixed_ends(
    compiled: &Arc<CompiledQuery>,
) -> Result<(Positions, BTreeMap<SourceId, String>), DriverError> {
    let compiled = compiled.clone();
    tokio::task::spawn_blocking(move || {
        let (mut ends, mut ids) = (Positions::new(), BTreeMap::new());
        for table in &compiled.sources {
            let mut monitor = registry::monitor(table)?;
            monitor.partitions()?;
            ids.extend(monitor.identity()?.map(|(_, id)| (table.id, id)));
            ends.extend(ends_of(monitor.as_mut(), table.options.ending_offsets.as_ref(), true)?);
        }
        Ok((ends, ids))
    })
    .await?
}

pub(crate) fn ends_of(
    monitor: &mut dyn SourceMonitor,
    option: Option<&EndingOffsets>,
    bounded: bool,
) -> Result<Positions, DriverError> {
    match option {
        Some(ending) => Ok(monitor.resolve_end(ending)?),
        None if bounded => Ok(monitor.resolve_end(&EndingOffsets::Latest)?),
        None => Ok(Positions::new()),
    }
}
