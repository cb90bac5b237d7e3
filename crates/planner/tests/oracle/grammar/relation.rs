//! Random relations: every operator over any other, to a random depth.
//!
//! Owns: the SQL of a relation and its columns, `x0`, `x1`, …. Does not own: running and comparing it (`super`).
//! Windows of tables are written `{{tumble t0}}`, since the stream and the batch query spell them differently (`windows`).

use super::expr::{self, Column, aggregate, order_by, order_within, predicate, scalar};
use super::tables::{Table, Type};
use super::tape::Tape;

/// A SELECT and its columns.
#[derive(Clone, Debug)]
pub struct Relation {
    pub sql: String,
    pub columns: Vec<Column>,
}

/// Most columns of a relation.
const WIDTH: usize = 5;

pub fn relation(tables: &[Table], depth: usize, tape: &mut Tape) -> Relation {
    if depth == 0 {
        return leaf(tables, tape);
    }
    let one = relation(tables, depth - 1, tape);
    match tape.pick(20) {
        0 => leaf(tables, tape),
        1 => filtered(&one, tape),
        2 => projected(&one, tape),
        3..=5 => grouped(&one, tape),
        6 => grouping_sets(&one, tape),
        7 => Relation { sql: format!("SELECT DISTINCT {} FROM ({}) a", list(&one.columns), one.sql), ..one },
        8 => ranked(&one, tape),
        9 => over(&one, tape),
        10 => limited(&one, tape),
        11 => distinct_on(&one, tape),
        12 => unnested(&one, tape),
        kind => {
            let depth = tape.pick(depth);
            let other = relation(tables, depth, tape);
            match kind {
                13 | 14 => joined(&one, &other, tape),
                15 => asked(&one, &other, tape),
                16 => subquery(&one, &other, tape),
                17 | 18 => combined(&one, &other, tape),
                _ => crossed(&one, &other, tape),
            }
        }
    }
}

fn list(columns: &[Column]) -> String {
    columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns `SELECT expr AS x0, …` of these expressions.
fn select(exprs: Vec<(String, Type)>, rest: &str) -> Relation {
    let exprs: Vec<_> = exprs.into_iter().take(WIDTH).enumerate().collect();
    let listed: Vec<String> = exprs.iter().map(|(index, (sql, _))| format!("{sql} AS x{index}")).collect();
    let columns = exprs.iter().map(|(index, (_, data_type))| (format!("x{index}"), *data_type)).collect();
    Relation { sql: format!("SELECT {} {rest}", listed.join(", ")), columns }
}

fn leaf(tables: &[Table], tape: &mut Tape) -> Relation {
    let table = tape.one(tables);
    if table.timed && tape.pick(2) == 1 {
        return windowed(table, tape);
    }
    let first = tape.pick(table.columns.len());
    let mut columns = table.columns.clone();
    columns.rotate_left(first);
    columns.truncate(2 + tape.pick(3));
    select(columns, &format!("FROM {}", table.name))
}

/// Returns a GROUP BY of windows.
fn windowed(table: &Table, tape: &mut Tape) -> Relation {
    let kind = *tape.one(&["tumble", "hop", "cumulate", "session"]);
    let key =
        table.columns.iter().find(|(_, data_type)| data_type.is_plain()).cloned().filter(|(name, _)| name != "ts");
    let mut groups = vec![("window_start".to_string(), Type::Timestamp), ("window_end".into(), Type::Timestamp)];
    let partition = key.as_ref().map_or("-", |(name, _)| name.as_str()).to_string();
    groups.extend(key.filter(|_| kind == "session" || tape.pick(2) == 1));
    let mut exprs = groups.clone();
    exprs.push(aggregate(&table.columns, tape));
    let from = format!("FROM {{{{{kind} {} {partition}}}}} w GROUP BY {}", table.name, list(&groups));
    select(exprs, &from)
}

fn filtered(one: &Relation, tape: &mut Tape) -> Relation {
    let sql = format!("SELECT {} FROM ({}) a WHERE {}", list(&one.columns), one.sql, predicate(&one.columns, 1, tape));
    Relation { sql, columns: one.columns.clone() }
}

fn projected(one: &Relation, tape: &mut Tape) -> Relation {
    let exprs = (0..2 + tape.pick(3)).map(|_| {
        let data_type = *tape.one(&Type::ALL);
        // A type that is there, or one that can be made.
        let data_type = if data_type == Type::Struct { one.columns[0].1 } else { data_type };
        (scalar(data_type, &one.columns, 2, tape), data_type)
    });
    select(exprs.collect(), &format!("FROM ({}) a", one.sql))
}

/// Returns the columns by which rows may be grouped and compared.
fn plain(one: &Relation) -> Vec<Column> {
    one.columns.iter().filter(|(_, data_type)| data_type.is_plain()).cloned().collect()
}

fn grouped(one: &Relation, tape: &mut Tape) -> Relation {
    let mut keys = one.columns.clone();
    keys.truncate(tape.pick(3));
    let mut exprs = keys.clone();
    exprs.extend((0..1 + tape.pick(3)).map(|_| aggregate(&one.columns, tape)));
    let groups = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", list(&keys)) };
    let having = if !keys.is_empty() && tape.rarely(4) { " HAVING count(*) > 1" } else { "" };
    select(exprs, &format!("FROM ({}) a{groups}{having}", one.sql))
}

fn grouping_sets(one: &Relation, tape: &mut Tape) -> Relation {
    let mut keys = plain(one);
    keys.truncate(2);
    let [first, .., last] = keys.as_slice() else { return grouped(one, tape) };
    let (first, last) = (first.0.as_str(), last.0.as_str());
    let sets = match tape.pick(3) {
        0 => format!("ROLLUP ({first}, {last})"),
        1 => format!("CUBE ({first}, {last})"),
        _ => format!("GROUPING SETS (({first}), ({last}), ())"),
    };
    let mut exprs = keys.clone();
    exprs.push(aggregate(&one.columns, tape));
    keyless(&select(exprs, &format!("FROM ({}) a GROUP BY {sets}", one.sql)))
}

/// Returns the same rows with computed columns, which DataFusion does not take for keys. It takes the groups of one grouping
/// set for keys of all sets, and groups for keys of rows from UNNEST, and would drop a further GROUP BY or ORDER BY.
fn keyless(one: &Relation) -> Relation {
    let again = |(name, data_type): &Column| (format!("CASE WHEN {name} IS NOT NULL THEN {name} END"), *data_type);
    select(one.columns.iter().map(again).collect(), &format!("FROM ({}) a", one.sql))
}

fn ranked(one: &Relation, tape: &mut Tape) -> Relation {
    let partition = match tape.pick(2) {
        0 => format!("PARTITION BY {} ", tape.one(&one.columns).0),
        _ => String::new(),
    };
    let order = order_by(&one.columns, tape);
    let (function, order) = match tape.pick(3) {
        0 => ("row_number", order.as_str()),
        // Ties.
        1 => ("rank", order.split(", ").next().unwrap()),
        _ => ("dense_rank", order.split(", ").next().unwrap()),
    };
    let inner = format!("SELECT *, {function}() OVER ({partition}ORDER BY {order}) AS n FROM ({}) a", one.sql);
    let mut exprs = one.columns.clone();
    exprs.truncate(WIDTH - 1);
    exprs.push(("CAST(n AS BIGINT)".into(), Type::Bigint));
    select(exprs, &format!("FROM ({inner}) b WHERE n <= {}", 1 + tape.pick(3)))
}

fn over(one: &Relation, tape: &mut Tape) -> Relation {
    let key = tape.one(&one.columns).0.clone();
    let order = order_by(&one.columns, tape);
    let (name, data_type) = tape.one(&one.columns).clone();
    let window = format!("OVER (PARTITION BY {key} ORDER BY {order}");
    let function = match tape.pick(4) {
        0 => (format!("count(*) {window})"), Type::Bigint),
        1 => (format!("lag({name}) {window})"), data_type),
        2 if data_type.is_plain() => {
            (format!("max({name}) {window} ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)"), data_type)
        }
        _ => (format!("lead({name}) {window})"), data_type),
    };
    let mut exprs = one.columns.clone();
    exprs.truncate(WIDTH - 1);
    exprs.push(function);
    select(exprs, &format!("FROM ({}) a", one.sql))
}

fn limited(one: &Relation, tape: &mut Tape) -> Relation {
    let order = order_by(&one.columns, tape);
    let offset = if tape.pick(2) == 1 { " OFFSET 1" } else { "" };
    let limit = 1 + tape.pick(4);
    let sql = format!("SELECT {} FROM ({}) a ORDER BY {order} LIMIT {limit}{offset}", list(&one.columns), one.sql);
    Relation { sql, columns: one.columns.clone() }
}

fn distinct_on(one: &Relation, tape: &mut Tape) -> Relation {
    // It is planned as an aggregate.
    let order = order_within(&one.columns, tape);
    let key = order.split(", ").next().unwrap().split(' ').next().unwrap();
    let sql = format!("SELECT DISTINCT ON ({key}) {} FROM ({}) a ORDER BY {order}", list(&one.columns), one.sql);
    Relation { sql, columns: one.columns.clone() }
}

fn unnested(one: &Relation, tape: &mut Tape) -> Relation {
    let list = scalar(Type::List, &one.columns, 1, tape);
    let mut exprs = one.columns.clone();
    exprs.truncate(WIDTH - 1);
    exprs.push((format!("unnest({list})"), Type::Bigint));
    keyless(&select(exprs, &format!("FROM ({}) a", one.sql)))
}

/// Returns the columns of both sides, as `l.x0` and `r.x0`.
fn both(one: &Relation, other: &Relation) -> (Vec<Column>, Vec<Column>) {
    let named = |side: &str, relation: &Relation| {
        let name = |(name, data_type): &Column| (format!("{side}.{name}"), *data_type);
        relation.columns.iter().map(name).collect::<Vec<_>>()
    };
    (named("l", one), named("r", other))
}

/// Returns a column of each side, both of the same type.
fn key(left: &[Column], right: &[Column], tape: &mut Tape) -> Option<(String, String)> {
    let pairs: Vec<(String, String)> = left
        .iter()
        .filter(|(_, data_type)| data_type.is_plain())
        .flat_map(|(name, data_type)| {
            expr::of_type(right, *data_type)
                .into_iter()
                .map(|other| (name.clone(), other.to_string()))
                .collect::<Vec<_>>()
        })
        .collect();
    if pairs.is_empty() { None } else { Some(tape.one(&pairs).clone()) }
}

fn joined(one: &Relation, other: &Relation, tape: &mut Tape) -> Relation {
    let (left, right) = both(one, other);
    let Some((l, r)) = key(&left, &right, tape) else { return crossed(one, other, tape) };
    let kind = *tape.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let mut all: Vec<Column> = left.into_iter().chain(right).collect();
    let equal = if tape.rarely(5) { "IS NOT DISTINCT FROM" } else { "=" };
    let more = if tape.rarely(3) { format!(" AND {}", predicate(&all, 0, tape)) } else { String::new() };
    let first = tape.pick(all.len());
    all.rotate_left(first);
    select(all, &format!("FROM ({}) l {kind} ({}) r ON {l} {equal} {r}{more}", one.sql, other.sql))
}

/// Returns a join without an equal key, with few rows on one side.
fn crossed(one: &Relation, other: &Relation, tape: &mut Tape) -> Relation {
    let few = format!("SELECT * FROM ({}) b ORDER BY {} LIMIT 2", other.sql, order_by(&other.columns, tape));
    let (left, right) = both(one, other);
    let mut all: Vec<Column> = left.into_iter().chain(right).collect();
    let condition = predicate(&all, 0, tape);
    let join = match tape.pick(3) {
        0 => format!("CROSS JOIN ({few}) r"),
        1 => format!("JOIN ({few}) r ON {condition}"),
        _ => format!("LEFT JOIN ({few}) r ON {condition}"),
    };
    let first = tape.pick(all.len());
    all.rotate_left(first);
    select(all, &format!("FROM ({}) l {join}", one.sql))
}

/// Returns a relation with IN, EXISTS or their opposites.
fn asked(one: &Relation, other: &Relation, tape: &mut Tape) -> Relation {
    let (left, right) = both(one, other);
    let Some((l, r)) = key(&left, &right, tape) else { return filtered(one, tape) };
    let not = if tape.pick(2) == 1 { "NOT " } else { "" };
    let asked = match tape.pick(3) {
        0 => format!("{l} {not}IN (SELECT {r} FROM ({}) r)", other.sql),
        1 => format!("{not}EXISTS (SELECT 1 FROM ({}) r WHERE {r} = {l})", other.sql),
        _ => {
            format!("({} OR {not}EXISTS (SELECT 1 FROM ({}) r WHERE {r} = {l}))", predicate(&left, 0, tape), other.sql)
        }
    };
    select(left, &format!("FROM ({}) l WHERE {asked}", one.sql))
}

/// Returns a relation with a scalar subquery, correlated or not. Outer columns are renamed, since DataFusion confuses a
/// subquery with a column of the same name.
fn subquery(one: &Relation, other: &Relation, tape: &mut Tape) -> Relation {
    let outside: Vec<Column> =
        one.columns.iter().enumerate().map(|(index, (_, data_type))| (format!("y{index}"), *data_type)).collect();
    let renamed: Vec<String> =
        one.columns.iter().zip(&outside).map(|((name, _), (other, _))| format!("{name} AS {other}")).collect();
    let one = Relation { sql: format!("SELECT {} FROM ({}) a", renamed.join(", "), one.sql), columns: outside };
    let (left, right) = both(&one, other);
    let plain: Vec<&Column> = right.iter().filter(|(_, data_type)| data_type.is_plain()).collect();
    let Some((name, data_type)) = plain.first() else { return select(left, &format!("FROM ({}) l", one.sql)) };
    let correlated = key(&left, &right, tape).filter(|_| tape.pick(2) == 1);
    let condition = correlated.map(|(l, r)| format!(" WHERE {r} = {l}")).unwrap_or_default();
    let scalar = format!("(SELECT max({name}) FROM ({}) r{condition})", other.sql);
    let mut exprs = left;
    exprs.truncate(WIDTH - 1);
    exprs.push((scalar, *data_type));
    select(exprs, &format!("FROM ({}) l", one.sql))
}

fn combined(one: &Relation, other: &Relation, tape: &mut Tape) -> Relation {
    let kind = *tape.one(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT"]);
    let mut wanted = one.columns.clone();
    wanted.truncate(1 + tape.pick(3));
    let exprs = wanted.iter().map(|(_, data_type)| (scalar(*data_type, &other.columns, 0, tape), *data_type)).collect();
    let left = select(wanted, &format!("FROM ({}) a", one.sql));
    let right = select(exprs, &format!("FROM ({}) b", other.sql));
    Relation { sql: format!("{} {kind} {}", left.sql, right.sql), columns: left.columns }
}
