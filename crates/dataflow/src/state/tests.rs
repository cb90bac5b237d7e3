//! Tests of overlays, promotion and restoring: which state a task sees, and which changes are committed.

use super::keeps_tests::Keeps;
use super::*;
use crate::{Pipeline, PipelineInput, PipelineOutput, Stage, StageInput};
use highwater_protocol::ids::{AttemptNumber, EdgeId, Epoch, SinkId};
use std::ops::ControlFlow;

const OP: OperatorId = OperatorId(0);
const STAGE: StageId = StageId(0);

fn state() -> QueryState {
    QueryState::new(&dataflow())
}

fn dataflow() -> Dataflow {
    let pipeline = Pipeline {
        late: Vec::new(),
        inputs: vec![PipelineInput::Edge(EdgeId(0))],
        ops: vec![Arc::new(Keeps(OP, Layout::Hashed))],
        output: PipelineOutput::Sink(SinkId(0)),
    };
    let stage = Stage { id: STAGE, input: StageInput::Shards, pipelines: vec![pipeline], sinks: vec![SinkId(0)] };
    Dataflow { stages: vec![stage], ..Dataflow::default() }
}

fn attempt(number: u64) -> AttemptId {
    AttemptId { epoch: Epoch(1), number: AttemptNumber(number) }
}

fn value(close: i64, text: &str) -> Box<[u8]> {
    [&close.to_le_bytes()[..], text.as_bytes()].concat().into()
}

fn get(store: &dyn StateStore, shard: u16, key: &str) -> Option<Vec<u8>> {
    let (mut keys, mut values) = (Keys::default(), Values::default());
    keys.push(ShardId(shard), &[key.as_bytes()]);
    store.get(OP, &keys, &mut values).unwrap();
    values.get(0).map(<[u8]>::to_vec)
}

fn put(store: &mut dyn StateStore, shard: u16, key: &str, value: Option<Box<[u8]>>) {
    let mut writes = Writes::default();
    writes.set(ShardId(shard), &[key.as_bytes()], value.as_deref());
    store.put(OP, &writes).unwrap();
}

fn read(state: &QueryState, shard: u16, key: &str) -> Option<Vec<u8>> {
    get(state.task(STAGE, shard..shard + 1).unwrap().parts().0, shard, key)
}

#[test]
fn changes_are_tentative_until_their_attempt_is_promoted() {
    let state = state();
    state.load(0..2, &[]).unwrap();
    let mut task = state.task(STAGE, 0..2).unwrap();
    put(task.parts().0, 1, "k", Some(value(NEVER, "v")));
    assert!(get(task.parts().0, 1, "k").is_some(), "a task sees its own changes");
    let (overlay, deltas) = task.finish();
    state.stage(attempt(1), overlay);
    assert_eq!(read(&state, 1, "k"), None);
    state.promote(attempt(1)).unwrap();
    assert_eq!(read(&state, 1, "k"), Some(value(NEVER, "v").to_vec()));
    let restored = self::state();
    restored.load(0..2, &[deltas[0].bytes.clone()]).unwrap();
    assert_eq!(read(&restored, 1, "k"), read(&state, 1, "k"));
}

#[test]
fn an_overlay_of_another_attempt_is_refused() {
    let state = state();
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    put(task.parts().0, 0, "k", Some(value(NEVER, "old")));
    state.stage(attempt(1), task.finish().0);
    assert!(matches!(state.promote(attempt(2)), Err(EngineError::WrongAttempt { .. })));
    assert_eq!(read(&state, 0, "k"), None);
    state.promote(attempt(3)).unwrap();
}

#[test]
fn due_keys_come_in_order_and_only_once() {
    let state = state();
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    for (key, close) in [("b", 10), ("a", 10), ("c", 5), ("d", 11), ("e", NEVER)] {
        put(task.parts().0, 0, key, Some(value(close, "")));
    }
    state.stage(attempt(1), task.finish().0);
    state.promote(attempt(1)).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    let keys = |task: &mut TaskState| {
        let mut due = Keys::default();
        task.parts().0.due(OP, Until::Watermark(10), &mut due).unwrap();
        due.iter().map(|(_, key)| key.to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&mut task), [b"c".to_vec(), b"a".to_vec(), b"b".to_vec()]);
    put(task.parts().0, 0, "a", None);
    assert_eq!(keys(&mut task), [b"c".to_vec(), b"b".to_vec()]);
    let size = task.size(OP);
    assert_eq!((size.rows, size.removed, size.updated), (4, 1, 0));
    state.stage(attempt(2), task.finish().0);
    state.promote(attempt(2)).unwrap();
    assert_eq!(keys(&mut state.task(STAGE, 0..1).unwrap()), [b"c".to_vec(), b"b".to_vec()]);
}

#[test]
fn a_shard_that_is_not_owned_is_missing() {
    let state = state();
    state.load(0..2, &[]).unwrap();
    assert!(matches!(state.task(STAGE, 1..3), Err(EngineError::MissingShard(ShardId(2)))));
    state.forget([ShardId(0)].into_iter());
    assert_eq!(state.owned(), [ShardId(1)].into());
}

#[test]
fn memory_counts_what_an_entry_costs_and_goes_when_it_goes() {
    let state = state();
    state.load(0..1, &[]).unwrap();
    let keep = |number: u64, value: Option<Box<[u8]>>| {
        let mut task = state.task(STAGE, 0..1).unwrap();
        put(task.parts().0, 0, "key", value);
        let size = task.size(OP).bytes;
        let (overlay, _) = task.finish();
        state.stage(attempt(number), overlay);
        state.promote(attempt(number)).unwrap();
        let committed = state.task(STAGE, 0..1).unwrap().size(OP).bytes;
        assert_eq!(committed, size, "what a task foresees is what is kept");
        size
    };
    let kept = keep(1, Some(value(NEVER, "v")));
    assert!(kept > 12, "more than its bytes: {kept}");
    assert!(keep(2, Some(value(5, "v"))) > kept, "what closes is remembered by its time too");
    assert_eq!(keep(3, Some(value(NEVER, "v"))), kept);
    assert_eq!(keep(4, None), 0);
}

#[test]
fn state_of_an_operator_that_declares_none_is_refused() {
    let state = state();
    let mut delta = highwater_protocol::state_delta::DeltaWriter::new(OperatorId(7));
    delta.push(ShardId(0), b"k", Some(&value(NEVER, "v")));
    let loaded = state.load(0..1, &[delta.finish()]);
    assert!(matches!(loaded, Err(EngineError::UndeclaredState(OperatorId(7)))), "{loaded:?}");
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    let store = task.parts().0;
    put(store, 0, "k", Some(value(NEVER, "v")));
    let mut writes = Writes::default();
    writes.put(ShardId(0), &[b"k"], &[&value(NEVER, "v")]);
    let refused = [
        store.put(OperatorId(7), &writes),
        store.scan(OperatorId(7), &[Scan::prefix(ShardId(0), b"")], &mut |_, _, _| Ok(ControlFlow::Continue(()))),
        store.due(OperatorId(7), Until::Watermark(0), &mut Keys::default()),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(EngineError::UndeclaredState(OperatorId(7)))), "{refused:?}");
    }
}

#[test]
fn what_has_no_memory_is_refused_at_once() {
    let state = QueryState::with_limit(&dataflow(), 200);
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    put(task.parts().0, 0, "k", Some(value(NEVER, "v")));
    task.check().unwrap();
    let mut writes = Writes::default();
    (0..3).for_each(|n: u8| writes.put(ShardId(0), &[&[n]], &[&value(NEVER, "v")]));
    assert!(matches!(task.parts().0.put(OP, &writes), Err(EngineError::OverMemory { .. })));
    assert!(task.check().is_err(), "its changes are worth nothing");
}
