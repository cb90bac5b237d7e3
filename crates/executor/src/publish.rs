//! Publishes the writers of a prepared batch: commits all at the same time, and answers for each.
//!
//! Owns: this step. Does not own: whether it is allowed (`protocol::participant`).

use crate::outbox::Outbox;
use crate::writers::Writers;
use highwater_crash as crash;
use highwater_protocol::ids::{AttemptId, BatchId};
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::query::PublishOutcome;
use std::sync::Arc;

/// Commits `writers` on blocking threads.
pub fn publish(writers: &Arc<Writers>, attempt: AttemptId, batch: BatchId, plans: Vec<WriterPlan>, outbox: &Outbox) {
    for plan in plans {
        let (slot, outbox) = (writers.slot(plan), outbox.clone());
        tokio::spawn(async move {
            let published = tokio::task::spawn_blocking(move || {
                crash::point("executor_before_publish");
                let outcome = slot.publish(attempt);
                crash::point("executor_after_publish");
                outcome
            })
            .await;
            let outcome = published.unwrap_or_else(|error| {
                tracing::error!(%attempt, %batch, sink = %plan.sink, writer = %plan.writer, "publish: {error}");
                PublishOutcome::Unknown
            });
            let why = match &outcome {
                PublishOutcome::Published => None,
                PublishOutcome::Unknown => {
                    Some("it is unknown whether the sink has the batch; the driver will ask the sink")
                }
                PublishOutcome::Failed { message, .. } => Some(message.as_str()),
            };
            if let Some(why) = why {
                tracing::warn!(%attempt, %batch, sink = %plan.sink, writer = %plan.writer, "publish: {why}");
            }
            outbox.published(attempt, batch, plan, outcome).await;
        });
    }
}

/// Answers that nothing is known about these writers: their attempt does not run here, or is not flushed.
pub async fn answer_unknown(attempt: AttemptId, batch: BatchId, plans: Vec<WriterPlan>, outbox: &Outbox) {
    for plan in plans {
        outbox.published(attempt, batch, plan, PublishOutcome::Unknown).await;
    }
}
