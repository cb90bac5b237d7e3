//! `max_watermark_drift`: no partition runs far ahead of the slowest, and all records are read in the end.

use super::*;
use crate::align::Mark;
use proptest::prelude::*;

const IDLE_MS: i64 = 100;

/// Two sources of two partitions each.
fn place(number: i32) -> SourcePartition {
    let source = SourceId(number as u32 / 2);
    SourcePartition { source, tp: TopicPartition::new(format!("t{source}"), number % 2) }
}

fn config(drift_ms: i64, ends: Option<&[Vec<i64>]>) -> QueryConfig {
    let source = |id: u32| SourceSpec {
        id: SourceId(id),
        table: format!("t{id}"),
        topic: format!("t{id}"),
        options: SourceOptions { idle_timeout_ms: Some(IDLE_MS as u64), ..SourceOptions::default() },
        has_watermark: true,
    };
    let stage = |id: u32| StageTopology { id: StageId(id), input: StageInput::Source(SourceId(id)), sinks: vec![] };
    QueryConfig {
        sources: vec![source(0), source(1)],
        stages: vec![stage(0), stage(1)],
        max_drift_ms: Some(drift_ms),
        start_positions: (0..4).map(|number| (place(number), 0)).collect(),
        end_positions: ends.map_or_else(BTreeMap::new, |logs| {
            (0..4).map(|number| (place(number), logs[number as usize].len() as i64)).collect()
        }),
        ..super::config()
    }
}

/// The report of a consumer that has read `reach` records of a log, decoded in chunks of `chunk`.
fn news(number: i32, log: &[i64], reach: usize, chunk: usize) -> Event {
    let partition = place(number);
    let ends = (chunk..=reach).step_by(chunk);
    let mark = |end: usize| Mark { position: end as i64, watermark_ms: log[end - chunk..end].iter().copied().max() };
    let partitions = vec![(partition.clone(), reach as i64, reach == log.len())];
    Event::Available { executor: e(1), partitions, marks: [(partition, ends.map(mark).collect())].into() }
}

/// The brokers' answer about a source's topic.
fn ends_of(source: u32, logs: &[Vec<i64>]) -> Event {
    let numbers = [source as i32 * 2, source as i32 * 2 + 1];
    let ends = |number: i32| {
        let end = logs[number as usize].len() as i64;
        (place(number), LogEnds { earliest: 0, latest: end, log_end: end })
    };
    Event::Topic(TopicLook { source: SourceId(source), id: None, ends: numbers.map(ends).into() })
}

/// The report of a task of a batch over these logs.
fn read(logs: &[Vec<i64>], task: &TaskPlan) -> TaskReport {
    let mut done = report(task);
    for (partition, report) in &mut done.partitions {
        let TaskWork::Source { ranges, .. } = &task.work else { continue };
        let log = &logs[(partition.source.0 * 2) as usize + partition.tp.partition as usize];
        let range = ranges[partition];
        report.max_watermark_ms = log[range.start as usize..range.end as usize].iter().copied().max();
    }
    done
}

fn high(log: &[i64], to: i64) -> Option<i64> {
    log[..to as usize].iter().copied().max()
}

/// Runs the query to its end. Returns how much of each log was read.
fn run(logs: &[Vec<i64>], reaches: &[usize], chunk: usize, drift: i64, ends: bool) -> Result<Vec<i64>, TestCaseError> {
    let mut query = Query::new(config(drift, ends.then_some(logs)));
    query.tell(executors(&[(1, 1)]));
    let mut reached = [0usize; 4];
    let mut turns = reaches.iter().cycle();
    for step in 0..1_000 {
        let number = step % 4;
        let log = &logs[number];
        // After enough steps every consumer reads to its end.
        let more = if step > 400 { log.len() } else { turns.next().copied().unwrap_or(1) };
        reached[number] = log.len().min(reached[number] + more);
        let positions: Vec<i64> = (0..4).map(|number| query.machine.positions()[&place(number)]).collect();
        let mut actions = query.tell(ends_of(number as u32 / 2, logs));
        actions.extend(query.tell(news(number as i32, log, reached[number], chunk)));
        while actions.iter().any(|action| matches!(action, Action::Run { .. })) {
            let before: Vec<i64> = (0..4).map(|number| query.machine.positions()[&place(number)]).collect();
            check(&query, logs, &before, chunk, drift)?;
            let batch = query.run().plan.batch;
            query.finish_tasks_with(|task| read(logs, task));
            actions = query.tell(Event::Persisted { batch });
            if !query.run().plan.writers().collect::<Vec<_>>().is_empty() {
                actions = query.publish_all();
            }
        }
        let done = (0..4).all(|number| query.machine.positions()[&place(number)] == logs[number as usize].len() as i64);
        if done {
            break;
        }
        // No progress without time: let it pass until partitions at their end are idle.
        if reached.iter().zip(logs).all(|(reached, log)| *reached == log.len())
            && positions == (0..4).map(|number| query.machine.positions()[&place(number)]).collect::<Vec<_>>()
        {
            query.now_ms += IDLE_MS / 4;
        }
    }
    Ok((0..4).map(|number| query.machine.positions()[&place(number)]).collect())
}

/// Checks that what this batch reads is within the drift, apart from one step.
fn check(query: &Query, logs: &[Vec<i64>], before: &[i64], chunk: usize, drift: i64) -> Result<(), TestCaseError> {
    let plan = query.run().plan;
    let left = |number: usize| before[number] < logs[number].len() as i64;
    let times = (0..4).filter(|number| left(*number)).map(|number| high(&logs[number], before[number]));
    let Some(Some(slowest)) = times.min() else { return Ok(()) };
    for (partition, range) in &plan.ranges {
        let log = &logs[(partition.source.0 * 2) as usize + partition.tp.partition as usize];
        prop_assert!(high(log, range.start).is_none_or(|time| time <= slowest + drift), "{partition:?} runs away");
        let one_step = range.end - range.start <= 2 * chunk as i64;
        let within = high(log, range.end).is_none_or(|time| time <= slowest + drift);
        prop_assert!(within || one_step, "{partition:?} reads {range:?} at once");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_read_in_the_end_and_no_batch_exceeds_the_drift(
        logs in proptest::collection::vec(proptest::collection::vec(0i64..200, 0..40), 4),
        reaches in proptest::collection::vec(0usize..12, 1..9),
        chunk in 1usize..6,
        drift in 0i64..60,
        ends in any::<bool>(),
    ) {
        let read = run(&logs, &reaches, chunk, drift, ends)?;
        let all: Vec<i64> = logs.iter().map(|log| log.len() as i64).collect();
        prop_assert_eq!(read, all);
    }
}

#[test]
fn a_fast_source_waits_for_a_slow_one() {
    // given: one partition an hour ahead of the others
    let logs: Vec<Vec<i64>> = vec![vec![3_600_000; 3], vec![0, 1, 2], vec![0, 30_000, 61_000], vec![0, 1, 2]];
    let mut query = Query::new(config(60_000, None));
    query.tell(executors(&[(1, 1)]));
    // when
    let actions = query.tell(news(0, &logs[0], 3, 1));
    // then
    assert_eq!(names(&actions), ["run"], "it is not known yet that it is ahead: one step of it is read");
    assert_eq!(query.run().plan.ranges[&place(0)].end, 1);
    // when
    query.finish_tasks_with(|task| read(&logs, task));
    let batch = query.run().plan.batch;
    assert_eq!(names(&query.tell(Event::Persisted { batch })), ["committed"], "the others are unread");
    for number in 1..4 {
        query.tell(news(number, &logs[number as usize], 2, 1));
    }
    // then
    assert!(!query.run().plan.ranges.contains_key(&place(0)), "{:?}", query.run().plan.ranges);
}
