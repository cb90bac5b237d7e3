//! The executor's half of the protocol, command by command.

use super::*;
use crate::ids::{AttemptNumber, Epoch, SinkId, WriterId};

fn attempt(epoch: u64, number: u64) -> AttemptId {
    AttemptId { epoch: Epoch(epoch), number: AttemptNumber(number) }
}

fn run(attempt: AttemptId, batch: u64, shards: &[u16]) -> RunCommand {
    RunCommand {
        attempt,
        batch: BatchId(batch),
        base: batch.checked_sub(1).map(BatchId),
        tasks: [TaskId(0), TaskId(1)].into(),
        shards: shards.iter().map(|shard| ShardId(*shard)).collect(),
    }
}

fn writer() -> WriterPlan {
    WriterPlan { sink: SinkId(0), writer: WriterId(0) }
}

/// Runs an attempt until all its tasks are flushed.
fn flushed(participant: &mut Participant, command: RunCommand) {
    let attempt = command.attempt;
    participant.command(Command::Run(command));
    participant.restored(attempt);
    participant.finished(attempt, TaskId(0));
    participant.finished(attempt, TaskId(1));
}

#[test]
fn starts_from_promoted_state_without_restoring_again() {
    let mut p = Participant::default();
    let first = attempt(1, 1);
    let effects = p.command(Command::Run(run(first, 0, &[0, 1])));
    assert_eq!(
        effects.last(),
        Some(&Effect::Restore { attempt: first, base: None, shards: [ShardId(0), ShardId(1)].into() })
    );
    assert!(p.restored(first));
    p.finished(first, TaskId(0));
    p.finished(first, TaskId(1));
    let promoted = p.command(Command::Committed { attempt: first });
    assert_eq!(promoted, vec![Effect::Promote { attempt: first, keep: [ShardId(0), ShardId(1)].into() }]);
    assert_eq!(p.command(Command::Run(run(attempt(1, 2), 1, &[0, 1]))), vec![Effect::Start { attempt: attempt(1, 2) }]);
}

#[test]
fn only_newly_assigned_shards_are_restored() {
    let mut p = Participant::default();
    flushed(&mut p, run(attempt(1, 1), 0, &[0]));
    p.command(Command::Committed { attempt: attempt(1, 1) });
    let effects = p.command(Command::Run(run(attempt(1, 2), 1, &[0, 1])));
    let wanted = Effect::Restore { attempt: attempt(1, 2), base: Some(BatchId(0)), shards: [ShardId(1)].into() };
    assert_eq!(effects, vec![wanted]);
}

#[test]
fn publishes_only_a_flushed_current_attempt_and_once() {
    let mut p = Participant::default();
    let a = attempt(1, 1);
    p.command(Command::Run(run(a, 0, &[])));
    p.finished(a, TaskId(0));
    let publish = Command::Publish { attempt: a, writers: vec![writer()] };
    assert_eq!(p.command(publish.clone()), vec![Effect::AnswerUnknown { attempt: a, writers: vec![writer()] }]);
    p.finished(a, TaskId(1));
    assert_eq!(p.command(publish.clone()), vec![Effect::Publish { attempt: a, writers: vec![writer()] }]);
    assert_eq!(p.command(publish), vec![Effect::Publish { attempt: a, writers: vec![] }]);
    let other = Command::Publish { attempt: attempt(1, 2), writers: vec![writer()] };
    assert!(matches!(p.command(other)[..], [Effect::AnswerUnknown { .. }]));
}

#[test]
fn an_overlay_of_another_attempt_is_never_promoted() {
    let mut p = Participant::default();
    flushed(&mut p, run(attempt(1, 1), 0, &[0]));
    let effects = p.command(Command::Committed { attempt: attempt(1, 2) });
    assert_eq!(effects, vec![Effect::Cancel { attempt: attempt(1, 1) }, Effect::DropState]);
    let again = p.command(Command::Run(run(attempt(1, 3), 1, &[0])));
    assert!(again.iter().any(|effect| matches!(effect, Effect::Restore { base: Some(BatchId(0)), .. })), "{again:?}");
}

#[test]
fn older_attempts_and_epochs_are_refused() {
    let mut p = Participant::default();
    p.command(Command::Run(run(attempt(2, 1), 5, &[])));
    assert!(p.command(Command::Run(run(attempt(1, 9), 5, &[]))).is_empty());
    assert!(p.command(Command::Run(run(attempt(2, 1), 5, &[]))).is_empty());
    assert_eq!(p.current(), Some(attempt(2, 1)));
    p.command(Command::Abort { attempt: attempt(2, 2) });
    assert!(p.command(Command::Run(run(attempt(2, 2), 5, &[]))).is_empty(), "aborted before its command arrived");
}

#[test]
fn restores_of_superseded_attempts_are_ignored() {
    let mut p = Participant::default();
    p.command(Command::Run(run(attempt(1, 1), 0, &[0])));
    p.command(Command::Run(run(attempt(1, 2), 0, &[0])));
    assert!(!p.restored(attempt(1, 1)));
    assert!(p.restored(attempt(1, 2)));
    assert!(!p.restored(attempt(1, 2)));
}
