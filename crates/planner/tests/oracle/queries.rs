//! Random queries, each as a streaming script and as the equivalent plain SQL.

use crate::compose;
use crate::data::{COLUMNS, Row};
use crate::windows::Shape;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::ops::Range;

/// A query of one INSERT.
#[derive(Clone, Debug)]
pub struct Query {
    pub kind: Kind,
    /// True if it reads `t UNION ALL u`; else it reads `t`.
    pub union: bool,
    /// Shape of windows, for [`Kind::ClosedWindows`] and [`Kind::OpenWindows`].
    windows: Shape,
    /// Times of the window that are in the key, for [`Kind::OpenWindows`].
    times: Times,
    /// `SET allowed_lateness`.
    pub lateness_ms: i64,
    filter: Option<&'static str>,
    group: Vec<Column>,
    aggregates: Vec<Column>,
    having: Option<&'static str>,
    /// The relation, for [`Kind::Composed`].
    relation: String,
    /// The relation in DataFusion's SQL, if that differs.
    in_other_words: Option<&'static str>,
    /// `SET state_ttl`.
    pub ttl: Option<&'static str>,
}

/// The kind of a query, and how its results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Filter and project, appended.
    Rows,
    /// One row per id into a keyed sink, without a proof that the key is unique.
    KeyedRows,
    /// SELECT DISTINCT, appended.
    Distinct,
    /// GROUP BY into a sink keyed by the groups.
    Groups,
    /// The same with a key computed from the groups, so that rows move between shards once more.
    RenamedGroups,
    /// No GROUP BY.
    Global,
    /// GROUP BY windows, final rows appended as they close.
    ClosedWindows,
    /// GROUP BY windows, every change at once.
    OpenWindows,
    /// A join of windows of `t` with those of `u`, appended; unmatched rows once their window is closed.
    WindowJoin,
    /// The same into a sink that takes corrections.
    WindowJoinUpdates,
    /// A join on a range of time, appended.
    IntervalJoin,
    /// The first rows of each window, appended when it closes.
    WindowTop,
    /// The rows that are the greatest of their window, appended when it closes: a join on the end of a window.
    BestOfWindow,
    /// Any relation, written whole at every batch.
    Complete,
    /// Any relation; its sink holds each distinct row with its count.
    Composed,
}

/// Times of its window that a row shows; each determines the other if windows have one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Both,
    End,
    Start,
    /// Both, and groups as expressions without a proof that different groups have different values.
    BothRenamed,
}

/// An expression and the type of its column.
type Column = (&'static str, &'static str);

const GROUPS: [Column; 4] =
    [("coalesce(k, 'none')", "STRING"), ("coalesce(b, -1)", "BIGINT"), ("id % 3", "BIGINT"), ("f IS NULL", "BOOLEAN")];
const AGGREGATES: [Column; 20] = [
    ("count(*)", "BIGINT"),
    ("count(x)", "BIGINT"),
    ("count(DISTINCT b)", "BIGINT"),
    ("sum(x)", "BIGINT"),
    ("min(x)", "BIGINT"),
    ("max(x)", "BIGINT"),
    ("max(k)", "STRING"),
    ("min(ts)", "TIMESTAMP(3)"),
    ("avg(x)", "DOUBLE"),
    ("sum(f)", "DOUBLE"),
    ("max(f)", "DOUBLE"),
    ("count(*) FILTER (WHERE x > 0)", "BIGINT"),
    ("sum(x) FILTER (WHERE b = 1)", "BIGINT"),
    ("bool_or(x > 10)", "BOOLEAN"),
    // Of these at least one makes the whole GROUP BY a general one.
    ("sum(DISTINCT x)", "BIGINT"),
    ("string_agg(k, ',' ORDER BY k DESC)", "STRING"),
    ("median(x)", "BIGINT"),
    ("mode(b)", "BIGINT"),
    ("first_value(k ORDER BY x, id)", "STRING"),
    // A bound that no group of few whole numbers meets exactly: rounding may not decide.
    ("stddev_pop(b) FILTER (WHERE b > 0) > 0.41", "BOOLEAN"),
];
const FILTERS: [&str; 4] = ["x > 0", "k IS NOT NULL AND k <> 'K1'", "b = 1 OR f < 0", "x IS NULL"];
const HAVINGS: [&str; 3] = ["count(*) > 1", "sum(x) > 0", "max(x) IS NOT NULL"];

pub fn query() -> impl Strategy<Value = Query> {
    let kinds = [
        Kind::Rows,
        Kind::KeyedRows,
        Kind::Distinct,
        Kind::Groups,
        Kind::Groups,
        Kind::RenamedGroups,
        Kind::Global,
        Kind::ClosedWindows,
        Kind::ClosedWindows,
        Kind::OpenWindows,
    ];
    let timed =
        vec![Kind::WindowJoin, Kind::WindowJoinUpdates, Kind::IntervalJoin, Kind::WindowTop, Kind::BestOfWindow];
    let kind = prop_oneof![2 => select(kinds.to_vec()), 2 => select(timed), 3 => Just(Kind::Composed), 1 => Just(Kind::Complete)];
    (
        kind,
        (any::<bool>(), windows(), prop_oneof![3 => Just(0i64), 1 => Just(2_500)]),
        prop::option::weighted(0.3, select(FILTERS.to_vec())),
        subsequence(GROUPS.to_vec(), 1..=2),
        subsequence(AGGREGATES.to_vec(), 1..=4),
        prop::option::weighted(0.3, select(HAVINGS.to_vec())),
        compose::relation(),
    )
        .prop_map(|(kind, (union, (windows, times), lateness_ms), filter, group, aggregates, having, relation)| {
            Query {
                kind,
                union,
                windows,
                times,
                lateness_ms,
                filter,
                group,
                aggregates,
                having,
                relation,
                in_other_words: None,
                ttl: None,
            }
        })
}

/// Returns random shapes of windows, and the times that are in the key.
fn windows() -> impl Strategy<Value = (Shape, Times)> {
    let times = [Times::Both, Times::End, Times::Start, Times::BothRenamed];
    (select(Shape::ALL.to_vec()), select(times.to_vec())).prop_map(|(shape, times)| match (shape, times) {
        // Several begin together.
        (Shape::Cumulate, Times::Start) => (shape, Times::End),
        // Those of two keys may begin or end together, and groups may be of both.
        (Shape::Session, Times::Start | Times::End) => (shape, Times::Both),
        given => given,
    })
}

impl Query {
    /// Returns a query over this relation.
    pub fn composed(relation: String) -> Self {
        Self {
            kind: Kind::Composed,
            union: false,
            windows: Shape::Tumble,
            times: Times::Both,
            lateness_ms: 0,
            filter: None,
            group: Vec::new(),
            aggregates: Vec::new(),
            having: None,
            relation,
            in_other_words: None,
            ttl: None,
        }
    }

    /// Sets the equivalent relation in DataFusion's SQL, if that differs.
    pub fn meaning_in(self, in_other_words: Option<&'static str>) -> Self {
        Self { in_other_words, ..self }
    }

    pub fn with_ttl(self, ttl: Option<&'static str>) -> Self {
        Self { ttl, ..self }
    }

    pub fn windowed(&self) -> bool {
        matches!(self.kind, Kind::ClosedWindows | Kind::OpenWindows)
    }

    /// True if a row's session determines whether it is late.
    pub fn has_sessions(&self) -> bool {
        self.windowed() && self.windows == Shape::Session
    }

    /// Returns the watermark from which on a row of this table is late; `None` = never.
    pub fn over_at_ms(&self, row: &Row, id: usize) -> Option<i64> {
        match self.kind {
            // In some of its windows a row may be late, and not in others.
            Kind::ClosedWindows | Kind::OpenWindows if self.windows != Shape::Tumble => {
                row.ts_ms(id).is_none().then_some(i64::MIN)
            }
            Kind::ClosedWindows | Kind::OpenWindows | Kind::WindowTop => {
                // A row without a time is in no window.
                Some(row.window_end_ms(id).unwrap_or(i64::MIN))
            }
            Kind::WindowJoin | Kind::WindowJoinUpdates => Some(row.window_end_ms(id).unwrap_or(i64::MIN)),
            // t.ts - u.ts is within −4 s and 2 s.
            Kind::IntervalJoin => Some(row.ts_ms(id)? + if row.table == 0 { 4_000 } else { 2_000 } + 1),
            _ => None,
        }
    }

    /// True if a row is appended only once its first column, a time, is passed, unless its second column is not NULL.
    pub fn waits(&self) -> bool {
        matches!(self.kind, Kind::WindowJoin | Kind::IntervalJoin)
    }

    /// Returns the script that runs as a stream.
    pub fn script(&self) -> String {
        let with = |topic: &str| {
            format!("WITH ('connector'='kafka','topic'='{topic}','bootstrap.servers'='localhost:1','format'='json')")
        };
        let table = |name: &str| {
            // The event time of u is a computed column.
            let columns = if name == "t" { COLUMNS.into() } else { COLUMNS.replace(" ts ", " stored_ts ") };
            let time = if name == "t" { "" } else { ", ts AS stored_ts + INTERVAL '0' SECOND" };
            format!(
                "CREATE TABLE {name} ({columns}{time}, y AS x * 2 + b, WATERMARK FOR ts AS ts - INTERVAL '3' SECOND) {};\n",
                with(name)
            )
        };
        let mut columns: Vec<String> =
            self.columns().iter().enumerate().map(|(i, (_, data_type))| format!("c{i} {data_type}")).collect();
        let key: Vec<String> = (0..self.key_width()).map(|i| format!("c{i}")).collect();
        if !key.is_empty() {
            columns.push(format!("PRIMARY KEY ({}) NOT ENFORCED", key.join(", ")));
        }
        let view = "CREATE VIEW v AS SELECT id, k, b, x, f, ts FROM t UNION ALL SELECT id, k, b, x, f, ts FROM u;\n";
        let input = if self.union { "v" } else { "t" };
        let from = match self.windowed() {
            true => self.windows.relation(input),
            false => input.to_string(),
        };
        let insert = |from: &str| {
            format!("INSERT INTO o {};", self.select_windows(from, &|table| Shape::Tumble.relation(table), ""))
        };
        // Several INSERTs into one table are a UNION ALL.
        let inserts = match self.kind {
            Kind::Rows | Kind::KeyedRows if self.union => {
                format!("BEGIN STATEMENT SET; {} {} END;", insert("t"), insert("u"))
            }
            _ => insert(&from),
        };
        format!(
            "SET shards = 8; SET late_topic = 'late';{}{}{}\n{}{}{}CREATE TABLE o ({}) {};\n{inserts}",
            if self.kind == Kind::Complete { " SET output_mode = 'complete';" } else { "" },
            match self.lateness_ms {
                0 => String::new(),
                lateness => format!(" SET allowed_lateness = '{lateness} milliseconds';"),
            },
            self.ttl.map_or(String::new(), |ttl| format!(" SET state_ttl = '{ttl}';")),
            table("t"),
            table("u"),
            if self.union && !matches!(self.kind, Kind::Composed | Kind::Complete) { view } else { "" },
            columns.join(", "),
            with("o"),
        )
    }

    /// Returns the query. `windows` returns a table with its windows; `still_there` is a further condition of an interval join.
    fn select_windows(&self, from: &str, windows: &dyn Fn(&str) -> String, still_there: &str) -> String {
        let (t, u) = (windows("t"), windows("u"));
        match self.kind {
            Kind::WindowJoin => format!(
                "SELECT l.window_end, r.id, l.id, l.k FROM {t} l LEFT JOIN {u} r ON l.window_end = r.window_end AND l.k = r.k"
            ),
            Kind::WindowJoinUpdates => format!(
                "SELECT l.window_end, coalesce(r.id, -1), l.id, l.k FROM {t} l LEFT JOIN {u} r ON l.window_end = r.window_end AND l.k = r.k"
            ),
            Kind::IntervalJoin => format!(
                "SELECT l.ts, r.id, l.id, CAST(l.b AS VARCHAR) FROM t l LEFT JOIN u r ON l.b = r.b AND l.ts BETWEEN \
                 r.ts - INTERVAL '4' SECOND AND r.ts + INTERVAL '2' SECOND{still_there}"
            ),
            Kind::BestOfWindow => {
                let in_time = match still_there.is_empty() {
                    true => t,
                    false => format!(
                        "(SELECT * FROM {} WHERE w IS NULL OR window_end > to_timestamp_millis(w))",
                        Shape::Tumble.meaning("(SELECT * FROM t WHERE ts IS NOT NULL)")
                    ),
                };
                let met = match still_there.is_empty() {
                    true => "",
                    false => {
                        " AND (b.w IS NULL OR (CAST(h.window_end AS BIGINT) + 1 > b.w AND CAST(b.ts AS BIGINT) + 10001 > b.w))"
                    }
                };
                format!(
                    "SELECT h.window_end, b.id, h.m FROM t b JOIN (SELECT window_end, max(x) AS m FROM {in_time} a GROUP BY \
                     window_start, window_end) h ON b.x = h.m AND b.ts BETWEEN h.window_end - INTERVAL '10' SECOND AND \
                     h.window_end{met}"
                )
            }
            Kind::WindowTop => format!(
                "SELECT window_end, id, CAST(n AS BIGINT) FROM (SELECT window_end, id, row_number() OVER (PARTITION BY window_end, k ORDER BY x DESC, id) AS n FROM {t} a) a WHERE n <= 2"
            ),
            _ => self.select(from),
        }
    }

    /// Returns the equivalent query over tables `t` and `u` with all rows, with windows in plain SQL.
    pub fn meaning(&self) -> String {
        if let Some(meaning) = self.in_other_words {
            return Self { relation: meaning.into(), in_other_words: None, ..self.clone() }.meaning();
        }
        let input = if self.union { "(SELECT * FROM t UNION ALL SELECT * FROM u)" } else { "(SELECT * FROM t)" };
        let from = match self.windowed() {
            true => self.windows.meaning(input),
            false => input.to_string(),
        };
        let windows = |table: &str| {
            format!(
                "(SELECT *, date_bin(INTERVAL '10 seconds', ts) + INTERVAL '10 seconds' AS window_end FROM {table} WHERE ts IS NOT NULL)"
            )
        };
        // A row the watermark had freed before the other came matches it no more.
        let still_there = " AND (r.w IS NULL OR CAST(l.ts AS BIGINT) + 4001 > r.w) \
                           AND (l.w IS NULL OR CAST(r.ts AS BIGINT) + 2001 > l.w)";
        self.select_windows(&from, &windows, still_there)
    }

    /// Returns the number of leading columns that are the PRIMARY KEY.
    pub fn key_width(&self) -> usize {
        match self.kind {
            Kind::Rows | Kind::Distinct | Kind::ClosedWindows | Kind::Complete => 0,
            Kind::WindowJoin | Kind::IntervalJoin | Kind::WindowTop | Kind::BestOfWindow => 0,
            Kind::WindowJoinUpdates => 3,
            Kind::KeyedRows | Kind::Global => 1,
            Kind::RenamedGroups | Kind::Groups => self.group.len(),
            Kind::OpenWindows => self.group.len() + self.times().len(),
            Kind::Composed => 3,
        }
    }

    /// Returns the expression and type of each column of the sink, in order.
    fn columns(&self) -> Vec<Column> {
        let groups = self.group.iter().copied();
        match self.kind {
            Kind::Rows | Kind::KeyedRows => {
                vec![("id", "BIGINT"), ("upper(k)", "STRING"), ("x + 1", "BIGINT"), ("f", "DOUBLE")]
            }
            Kind::WindowJoin | Kind::IntervalJoin | Kind::WindowJoinUpdates => {
                vec![("at", "TIMESTAMP(3)"), ("other", "BIGINT"), ("id", "BIGINT"), ("k", "STRING")]
            }
            Kind::BestOfWindow => vec![("window_end", "TIMESTAMP(3)"), ("id", "BIGINT"), ("m", "BIGINT")],
            Kind::WindowTop => {
                vec![("window_end", "TIMESTAMP(3)"), ("id", "BIGINT"), ("n", "BIGINT")]
            }
            Kind::Composed | Kind::Complete => {
                vec![("k", "STRING"), ("b", "STRING"), ("x", "STRING"), ("n", "BIGINT")]
            }
            Kind::Distinct => groups.collect(),
            Kind::Groups | Kind::RenamedGroups => groups.chain(self.aggregates.iter().copied()).collect(),
            Kind::Global => [("1", "BIGINT")].into_iter().chain(self.aggregates.iter().copied()).collect(),
            Kind::ClosedWindows | Kind::OpenWindows => {
                let times = self.times().iter().copied();
                times.chain(groups).chain(self.aggregates.iter().copied()).collect()
            }
        }
    }

    /// Returns the shown times of its windows, which are the first columns.
    fn times(&self) -> &'static [Column] {
        const TIMES: [Column; 2] = [("window_end", "TIMESTAMP(3)"), ("window_start", "TIMESTAMP(3)")];
        match self.times {
            Times::End if self.kind == Kind::OpenWindows => &TIMES[..1],
            Times::Start if self.kind == Kind::OpenWindows => &TIMES[1..],
            _ => &TIMES,
        }
    }

    /// Returns all of a query's columns, with the groups in `groups` mapped one to one to other values.
    fn renamed(&self, inner: &str, groups: Range<usize>) -> String {
        let columns = self.columns();
        let renamed = columns.iter().enumerate().map(|(i, (_, data_type))| match *data_type {
            "STRING" if groups.contains(&i) => format!("concat(c{i}, '!') AS c{i}"),
            "BIGINT" if groups.contains(&i) => format!("c{i} * 7 AS c{i}"),
            _ => format!("c{i}"),
        });
        format!("SELECT {} FROM ({inner})", renamed.collect::<Vec<_>>().join(", "))
    }

    fn select(&self, from: &str) -> String {
        let columns = self.columns();
        let listed: Vec<String> = columns.iter().enumerate().map(|(i, (sql, _))| format!("{sql} AS c{i}")).collect();
        let listed = listed.join(", ");
        let filter = self.filter.map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
        let having = self.having.map(|having| format!(" HAVING {having}")).unwrap_or_default();
        let groups: Vec<&str> = self.group.iter().map(|(sql, _)| *sql).collect();
        let groups = groups.join(", ");
        match self.kind {
            Kind::Rows | Kind::KeyedRows => format!("SELECT {listed} FROM {from}{filter}"),
            Kind::Distinct => format!("SELECT DISTINCT {listed} FROM {from}{filter}"),
            Kind::Groups => format!("SELECT {listed} FROM {from}{filter} GROUP BY {groups}{having}"),
            Kind::RenamedGroups => {
                let inner = format!("SELECT {listed} FROM {from}{filter} GROUP BY {groups}{having}");
                self.renamed(&inner, 0..self.group.len())
            }
            Kind::Global => format!("SELECT {listed} FROM {from}{filter}{having}"),
            Kind::Complete => {
                let text = |column: &str| format!("CAST({column} AS VARCHAR)");
                format!("SELECT {}, 1 AS n FROM ({}) q", ["k", "b", "x"].map(text).join(", "), self.relation)
            }
            Kind::Composed => {
                let text = |column: &str| format!("coalesce(CAST({column} AS VARCHAR), '-')");
                let texts = ["k", "b", "x"].map(text).join(", ");
                let relation = &self.relation;
                format!("SELECT {texts}, count(*) AS n FROM ({relation}) q GROUP BY {texts}")
            }
            Kind::WindowJoin | Kind::WindowJoinUpdates | Kind::IntervalJoin | Kind::WindowTop | Kind::BestOfWindow => {
                unreachable!("see select_windows")
            }
            Kind::ClosedWindows | Kind::OpenWindows => {
                let windows =
                    format!("SELECT {listed} FROM {from}{filter} GROUP BY window_start, window_end, {groups}{having}");
                match (self.kind, self.times) {
                    (Kind::OpenWindows, Times::BothRenamed) => self.renamed(&windows, 2..2 + self.group.len()),
                    _ => windows,
                }
            }
        }
    }
}
