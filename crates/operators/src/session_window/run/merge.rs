//! Merging sessions that touch, and splitting sessions with gaps.
//!
//! Owns: pure decisions over times of one partition. Times and gaps are in units of the time column.

use std::collections::BTreeMap;

/// Rows of sessions by time, with their weights.
pub type Rows = BTreeMap<(i64, Vec<u8>), i64>;

/// Rows that a batch changes, by time.
pub type Changed = BTreeMap<(i64, Vec<u8>), Change>;

/// The change of a row in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Weight before the batch.
    pub before: i64,
    /// Change of the weight.
    pub weight: i64,
}

/// A session in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Time of its first row.
    pub start: i64,
    /// Time of its last row.
    pub last: i64,
    /// Whether its rows are final and no longer in state.
    pub closed: bool,
}

impl Session {
    /// Returns whether a row of this time would belong to the session.
    pub fn touches(&self, time: i64, gap: i64) -> bool {
        time >= self.start.saturating_sub(gap) && time <= self.last.saturating_add(gap)
    }
}

/// Open sessions that are merged into one, with their changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    pub start: i64,
    pub last: i64,
    pub old: Vec<Session>,
    pub changes: Changed,
}

/// Returns the open sessions that these changes affect, merged if they touch.
pub fn groups(sessions: &[Session], changes: Changed, gap: i64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open = sessions.iter().filter(|session| !session.closed).peekable();
    let mut changes = changes.into_iter().peekable();
    loop {
        // Takes the session or the change that begins first.
        let next_change = changes.peek().map(|((time, _), _)| *time);
        let takes_session = match (open.peek(), next_change) {
            (None, None) => break,
            (Some(session), Some(time)) => session.start <= time,
            (session, _) => session.is_some(),
        };
        let (start, last) = match (takes_session, open.peek(), next_change) {
            (true, Some(session), _) => (session.start, session.last),
            (_, _, time) => (time.unwrap_or_default(), time.unwrap_or_default()),
        };
        let joins = groups.last().is_some_and(|group| start.saturating_sub(group.last) <= gap);
        if !joins {
            groups.push(Group { start, last, old: Vec::new(), changes: Changed::new() });
        }
        if let Some(group) = groups.last_mut() {
            group.last = group.last.max(last);
            match takes_session {
                true => group.old.extend(open.next()),
                false => group.changes.extend(changes.next()),
            }
        }
    }
    groups.retain(|group| !group.changes.is_empty());
    groups
}

/// Returns first and last time of each run of times without a gap.
pub fn split(times: impl Iterator<Item = i64>, gap: i64) -> Vec<(i64, i64)> {
    let mut sessions: Vec<(i64, i64)> = Vec::new();
    for time in times {
        match sessions.last_mut() {
            Some((_, last)) if time.saturating_sub(*last) <= gap => *last = time,
            _ => sessions.push((time, time)),
        }
    }
    sessions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(start: i64, last: i64) -> Session {
        Session { start, last, closed: false }
    }

    fn changes(times: &[i64]) -> Changed {
        times.iter().map(|time| ((*time, Vec::new()), Change { before: 0, weight: 1 })).collect()
    }

    fn bounds(sessions: &[Session], times: &[i64]) -> Vec<(i64, i64, usize)> {
        groups(sessions, changes(times), 10).iter().map(|group| (group.start, group.last, group.old.len())).collect()
    }

    #[test]
    fn a_row_between_two_sessions_merges_them() {
        let sessions = [session(0, 5), session(25, 30)];
        assert_eq!(bounds(&sessions, &[15]), [(0, 30, 2)]);
        assert_eq!(bounds(&sessions, &[16]), [(16, 30, 1)]);
        assert_eq!(bounds(&sessions, &[14]), [(0, 14, 1)]);
        assert_eq!(bounds(&sessions, &[41]), [(41, 41, 0)]);
        assert_eq!(bounds(&sessions, &[-10, 40]), [(-10, 5, 1), (25, 40, 1)]);
        assert_eq!(bounds(&[session(0, 50)], &[20]), [(0, 50, 1)]);
    }

    #[test]
    fn closed_sessions_merge_with_nothing() {
        let closed = Session { closed: true, ..session(0, 5) };
        assert_eq!(bounds(&[closed, session(25, 30)], &[20]), [(20, 30, 1)]);
        assert!(closed.touches(15, 10) && closed.touches(-10, 10));
        assert!(!closed.touches(16, 10) && !closed.touches(-11, 10));
    }

    #[test]
    fn gaps_split() {
        assert_eq!(split([0, 10, 20, 31].into_iter(), 10), [(0, 20), (31, 31)]);
        assert_eq!(split(std::iter::empty(), 10), []);
    }
}
