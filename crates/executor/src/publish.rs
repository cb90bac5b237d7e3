//! Publishing: commits the writers of a prepared batch, all at the same time, and answers for each.
//!
//! Owns: this step. Does not own: whether it may be taken (core's participant).

use crate::outbox::Outbox;
use crate::writers::{Unpublished, Writers};
use highwater_crash as crash;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId};
use highwater_protocol::plan::WriterPlan;
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
            let unknown = match published {
                Ok(Ok(())) => None,
                Ok(Err(unpublished)) => Some(unpublished),
                Err(error) => Some(Unpublished::unknown(error.to_string())),
            };
            if let Some(Unpublished { kind, message }) = &unknown {
                tracing::warn!(%attempt, %batch, sink = %plan.sink, writer = %plan.writer, "publish: {message}");
                match kind {
                    // Told before the outcome, which would have the batch computed again.
                    ErrorKind::Fix | ErrorKind::Fatal => outbox.trouble(*kind, message.clone()).await,
                    ErrorKind::Retry | ErrorKind::Fenced => {}
                }
            }
            outbox.published(attempt, batch, plan, unknown.map(|unpublished| unpublished.message)).await;
        });
    }
}

/// Answers that nothing is known of these writers.
pub async fn answer_unknown(attempt: AttemptId, batch: BatchId, plans: Vec<WriterPlan>, outbox: &Outbox) {
    for plan in plans {
        let message = "the attempt does not run here, or is not flushed".to_string();
        outbox.published(attempt, batch, plan, Some(message)).await;
    }
}
