//! Windows of every shape: as the engine's table functions, and in plain SQL.

use crate::data::Row;
use std::collections::BTreeMap;

/// How windows follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Tumble,
    /// Every 4 seconds one of 10 seconds: they overlap, and the size is no multiple of the slide.
    Hop,
    /// In steps of 5 seconds, up to 10 seconds.
    Cumulate,
    /// Sessions of each `k`, with a gap of 4 seconds.
    Session,
}

/// The gap that ends a session.
pub const GAP_MS: i64 = 4_000;

impl Shape {
    pub const ALL: [Self; 4] = [Self::Tumble, Self::Hop, Self::Cumulate, Self::Session];

    /// Returns a table with its windows, for the engine.
    pub fn relation(self, table: &str) -> String {
        match self {
            Self::Tumble => format!("TABLE(TUMBLE(TABLE {table}, DESCRIPTOR(ts), INTERVAL '10' SECOND))"),
            Self::Hop => {
                format!("TABLE(HOP(TABLE {table}, DESCRIPTOR(ts), INTERVAL '4' SECOND, INTERVAL '10' SECOND))")
            }
            Self::Cumulate => {
                format!("TABLE(CUMULATE(TABLE {table}, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND))")
            }
            Self::Session => {
                format!("TABLE(SESSION(TABLE {table} PARTITION BY k, DESCRIPTOR(ts), INTERVAL '4' SECOND))")
            }
        }
    }

    /// Returns the same in plain SQL. `w` is the watermark at which a row was read, in milliseconds.
    pub fn meaning(self, input: &str) -> String {
        let in_time = "(w IS NULL OR window_end > to_timestamp_millis(w))";
        match self {
            Self::Tumble => format!(
                "(SELECT *, date_bin(INTERVAL '10 seconds', ts) AS window_start, \
                 date_bin(INTERVAL '10 seconds', ts) + INTERVAL '10 seconds' AS window_end FROM {input})"
            ),
            Self::Hop => format!(
                "(SELECT * FROM (SELECT *, window_start + INTERVAL '10 seconds' AS window_end FROM \
                 (SELECT *, date_bin(INTERVAL '4 seconds', ts) - i AS window_start FROM \
                 (SELECT *, unnest([INTERVAL '0 seconds', INTERVAL '4 seconds', INTERVAL '8 seconds']) AS i FROM {input}))) WHERE ts < window_end AND {in_time})"
            ),
            Self::Cumulate => format!(
                "(SELECT * FROM (SELECT *, window_start + i AS window_end FROM \
                 (SELECT *, date_bin(INTERVAL '10 seconds', ts) AS window_start FROM \
                 (SELECT *, unnest([INTERVAL '5 seconds', INTERVAL '10 seconds']) AS i FROM {input}))) WHERE ts < window_end AND {in_time})"
            ),
            Self::Session => format!(
                "(SELECT *, min(ts) OVER (PARTITION BY k, g) AS window_start, \
                 max(ts) OVER (PARTITION BY k, g) + INTERVAL '4 seconds' AS window_end FROM \
                 (SELECT *, sum(n) OVER (PARTITION BY k ORDER BY ts, id) AS g FROM \
                 (SELECT *, CASE WHEN CAST(ts AS BIGINT) - CAST(lag(ts) OVER (PARTITION BY k ORDER BY ts, id) AS BIGINT) \
                 <= {GAP_MS} THEN 0 ELSE 1 END AS n FROM {input} WHERE ts IS NOT NULL)))"
            ),
        }
    }
}

/// Returns the new rows that are not late for a closed session. Sessions are computed from all rows accepted so far.
pub fn in_sessions(rows: &[Row], accepted: &[usize], come: &[usize], late_before_ms: Option<i64>) -> Vec<usize> {
    /// Accepted times, and new times with their ids.
    type Times = (Vec<i64>, Vec<(i64, usize)>);
    let mut keys: BTreeMap<Option<u8>, Times> = BTreeMap::new();
    for id in accepted {
        if let Some(time) = rows[*id].ts_ms(*id) {
            keys.entry(rows[*id].k).or_default().0.push(time);
        }
    }
    for id in come {
        if let Some(time) = rows[*id].ts_ms(*id) {
            keys.entry(rows[*id].k).or_default().1.push((time, *id));
        }
    }
    let is_closed = |last: i64| late_before_ms.is_some_and(|before| last + GAP_MS <= before);
    let mut kept = Vec::new();
    for (mut old, mut new) in keys.into_values() {
        let closed: Vec<(i64, i64)> = runs(&mut old).into_iter().filter(|(_, last)| is_closed(*last)).collect();
        new.retain(|(time, _)| !closed.iter().any(|(start, last)| start - GAP_MS <= *time && *time <= last + GAP_MS));
        let mut all: Vec<i64> = old.iter().copied().chain(new.iter().map(|(time, _)| *time)).collect();
        for (start, last) in runs(&mut all) {
            let holds = |time: i64| start <= time && time <= last;
            let is_new = !old.iter().any(|time| holds(*time));
            if !(is_new && is_closed(last)) {
                kept.extend(new.iter().filter(|(time, _)| holds(*time)).map(|(_, id)| *id));
            }
        }
    }
    kept
}

/// Returns the first and last time of each run without a gap.
fn runs(times: &mut [i64]) -> Vec<(i64, i64)> {
    times.sort_unstable();
    times.chunk_by(|a, b| b - a <= GAP_MS).map(|run| (run[0], run[run.len() - 1])).collect()
}
