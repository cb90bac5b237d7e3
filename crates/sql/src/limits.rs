//! Limits of scripts, so that compiling and running one takes down neither driver nor executor.
//!
//! Owns: the limits of a script's text, its tables and its plans, and their errors. Does not own: limits of a running query
//! (`runtime`, driver, executor).
//! Invariants: a script is measured before any step that recurses over it or takes more than linear time; the stack of
//! [`on_large_stack`] suffices for every plan that passes.

use super::error::{Result, SqlError};
use super::types::fold;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, GroupingSet, LogicalPlan};
use datafusion::sql::sqlparser::ast::{Query, Visit, Visitor, visit_relations};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Text of a script, bytes.
pub const MAX_SCRIPT_BYTES: usize = 1 << 20;
/// Tables and views of a script.
pub const MAX_TABLES: usize = 500;
/// INSERTs of a script.
pub const MAX_INSERTS: usize = 200;
/// Columns of a table, a view or any relation of a plan.
pub const MAX_COLUMNS: usize = 2_000;
/// Operators, calls and brackets of an expression one below another; set operations and joins of a query in a row.
pub const MAX_DEPTH: usize = 500;
/// Relations of a query with its views expanded: tables, joins, filters, projections.
pub const MAX_PLAN_NODES: usize = 5_000;
/// Depth of such a query, in relations.
pub const MAX_PLAN_DEPTH: usize = 1_000;
/// Parts of an expression after planning has repeated some of them: see [`check_growth`].
pub const MAX_EXPANDED: usize = 10_000;
/// Expressions that grow by no more than this factor are always allowed.
const MAX_GROWTH: usize = 8;
/// Grouping sets of one GROUP BY, also those that CUBE and ROLLUP make.
pub const MAX_GROUPING_SETS: usize = 1_000;
/// Shards of a query.
pub const MAX_SHARDS: u16 = 4096;
/// Partitions of all sources of a query together.
pub const MAX_PARTITIONS: usize = 20_000;

/// Stack in bytes: enough for the deepest plan that passes, in a build without optimisation.
const STACK_BYTES: usize = 256 << 20;
/// Columns of the largest CUBE that makes at most [`MAX_GROUPING_SETS`] sets.
const MAX_CUBE: usize = MAX_GROUPING_SETS.ilog2() as usize;

/// Runs `work` on a thread with a large stack. A panic becomes an error: it ends the submission, never the process.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = |why: String| {
        SqlError::at(Location::empty(), format!("the script cannot be compiled: {why}"))
            .hint("this is a fault of Highwater: please report it with the script")
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("compile".into()).stack_size(STACK_BYTES);
        let running = thread.spawn_scoped(scope, work).map_err(|error| failed(error.to_string()))?;
        running.join().map_err(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            failed(said.unwrap_or("a panic").to_string())
        })?
    })
}

/// Refuses a script whose text is too long.
pub fn check_size(text: &str) -> Result<()> {
    match text.len() {
        size if size > MAX_SCRIPT_BYTES => {
            Err(over("the script is too long", size, "bytes", MAX_SCRIPT_BYTES, Location::empty())
                .hint("split it into several queries"))
        }
        _ => Ok(()),
    }
}

/// Refuses a `count` of `what` above `most`.
pub fn check_count(what: &str, count: usize, most: usize, at: Location) -> Result<()> {
    match count > most {
        true => Err(SqlError::at(at, format!("{count} {what}, but the maximum is {most}"))
            .hint("split the script into several queries")),
        false => Ok(()),
    }
}

fn over(what: &str, found: usize, unit: &str, most: usize, at: Location) -> SqlError {
    SqlError::at(at, format!("{what}: {found} {unit}, but the maximum is {most}"))
}

/// Counters of one pair of brackets, or of a statement.
#[derive(Default)]
struct Level {
    /// Operators since the last AND or OR; `inner` is the greatest depth of a pair of brackets among them.
    operators: usize,
    inner: usize,
    /// ANDs and ORs since the last separator; `term` is the greatest depth between two of them.
    logic: usize,
    term: usize,
    /// The greatest depth between two separators so far.
    deepest: usize,
    /// Set operations and joined relations.
    relations: usize,
    in_from: bool,
}

impl Level {
    /// Returns the depth since the last separator.
    fn now(&self) -> usize {
        self.logic + self.term.max(self.operators + self.inner)
    }

    fn separate(&mut self) {
        self.deepest = self.deepest.max(self.now());
        (self.operators, self.inner, self.logic, self.term) = (0, 0, 0, 0);
    }

    fn connect(&mut self) {
        self.term = self.term.max(self.operators + self.inner);
        (self.operators, self.inner) = (0, 0);
        self.logic += 1;
    }

    fn depth(&mut self) -> usize {
        self.separate();
        self.deepest.max(self.relations) + 1
    }
}

/// Refuses text that would parse to too deep a tree. Counts tokens, which gives an upper bound of the tree's depth.
pub fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Level::default()];
    for token in tokens {
        let at = token.span.start;
        let outside = levels.len() == 1;
        let Some(level) = levels.last_mut() else { break };
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => levels.push(Level::default()),
            Token::RParen | Token::RBracket | Token::RBrace => {
                let inner = level.depth();
                // The parser reports a closing bracket without an opening one.
                if !outside {
                    levels.pop();
                }
                if let Some(level) = levels.last_mut() {
                    level.inner = level.inner.max(inner);
                    level.operators += usize::from(token.token == Token::RBracket);
                }
            }
            Token::Comma => {
                level.relations += usize::from(level.in_from);
                level.separate();
            }
            Token::SemiColon if outside => *level = Level::default(),
            Token::Word(word) if word.quote_style.is_none() => count_word(level, word.keyword),
            Token::Word(_) | Token::Number(..) | Token::Period | Token::SingleQuotedString(_) => {}
            Token::Whitespace(_) | Token::EOF => {}
            _ => level.operators += 1,
        }
        let found = levels.last().map_or(0, |level| level.now().max(level.relations)) + levels.len();
        if found > MAX_DEPTH {
            return Err(over("nested too deeply", found, "operators, brackets or relations in a row", MAX_DEPTH, at)
                .hint("IN (…) takes any number of values; split the rest with CREATE VIEW, or write several INSERTs"));
        }
    }
    Ok(())
}

fn count_word(level: &mut Level, keyword: Keyword) {
    match keyword {
        Keyword::SELECT | Keyword::WHERE | Keyword::GROUP | Keyword::HAVING | Keyword::ORDER | Keyword::LIMIT => {
            level.separate();
            level.in_from = false;
        }
        Keyword::FROM => {
            level.separate();
            level.in_from = true;
        }
        Keyword::JOIN | Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS => {
            level.separate();
            level.relations += 1;
        }
        Keyword::ON | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => level.separate(),
        Keyword::AND | Keyword::OR | Keyword::XOR => level.connect(),
        Keyword::NOT | Keyword::IS | Keyword::IN | Keyword::BETWEEN => level.operators += 1,
        Keyword::LIKE | Keyword::ILIKE | Keyword::RLIKE | Keyword::REGEXP | Keyword::SIMILAR | Keyword::COLLATE => {
            level.operators += 1;
        }
        Keyword::AT | Keyword::DIV | Keyword::CASE | Keyword::ARRAY | Keyword::INTERVAL => level.operators += 1,
        _ => {}
    }
}

/// Refuses a query that has too many relations once the planner expands its views and WITH subqueries. `view` returns the
/// number of relations of a view; `None` if there is no view of this name.
pub fn check_query(query: &Query, view: &dyn Fn(&str) -> Option<usize>, at: Location) -> Result<()> {
    let mut names = Names::default();
    // It never breaks off.
    let _ = query.visit(&mut names);
    let mut sizes = BTreeMap::new();
    let all = relations(query).into_iter().map(|name| size_of(&name, &names, view, &mut sizes));
    match all.fold(0, usize::saturating_add) > MAX_PLAN_NODES {
        true => Err(too_many_relations(at)),
        false => Ok(()),
    }
}

/// Names of a query's WITH subqueries, each with the names of the relations that it reads.
#[derive(Default)]
struct Names(BTreeMap<String, Vec<String>>);

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            // Where several WITH subqueries have one name, their relations add up.
            self.0.entry(fold(&cte.alias.name)).or_default().extend(relations(&cte.query));
        }
        ControlFlow::Continue(())
    }
}

/// Returns the names of all relations that a query and its subqueries read.
fn relations(query: &Query) -> Vec<String> {
    let mut names = Vec::new();
    // It never breaks off.
    let _ = visit_relations(query, |name| {
        names.extend(name.0.last().and_then(|part| part.as_ident()).map(fold));
        ControlFlow::<()>::Continue(())
    });
    names
}

fn size_of(
    name: &str,
    names: &Names,
    view: &dyn Fn(&str) -> Option<usize>,
    sizes: &mut BTreeMap<String, usize>,
) -> usize {
    if let Some(known) = sizes.get(name) {
        return *known;
    }
    let outside = view(name).unwrap_or(1);
    let Some(reads) = names.0.get(name) else { return outside };
    // A WITH subquery that reads its own name reads the view or table of this name.
    sizes.insert(name.to_string(), outside);
    let size = reads.iter().map(|read| size_of(read, names, view, sizes)).fold(1, usize::saturating_add);
    sizes.insert(name.to_string(), size);
    size
}

fn too_many_relations(at: Location) -> SqlError {
    let message = format!(
        "with its views expanded, this query has more than {MAX_PLAN_NODES} relations, or {MAX_PLAN_DEPTH} nested in one \
         another"
    );
    SqlError::at(at, message).hint("write an intermediate result to a topic, and read that topic in another query")
}

/// Refuses a plan that is too large, too deep or too wide, as views of views can be. Returns its number of nodes.
pub fn check_plan(plan: &LogicalPlan, at: Location) -> Result<usize> {
    let mut nodes = 0;
    let mut rest = vec![(plan.clone(), 1)];
    while let Some((plan, depth)) = rest.pop() {
        nodes += 1;
        if nodes > MAX_PLAN_NODES || depth > MAX_PLAN_DEPTH {
            return Err(too_many_relations(at));
        }
        check_count("columns in one relation", plan.schema().fields().len(), MAX_COLUMNS, at)?;
        if let LogicalPlan::Aggregate(node) = &plan {
            node.group_expr.iter().try_for_each(|key| check_sets(key, at))?;
        }
        plan.expressions().iter().try_for_each(|expr| check_growth(expr, at))?;
        rest.extend(plan.inputs().into_iter().map(|input| (input.clone(), depth + 1)));
        // The closures never fail, so neither do the walks.
        let _ = plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::ScalarSubquery(subquery) => rest.push((subquery.subquery.as_ref().clone(), depth + 1)),
                    Expr::Exists(exists) => rest.push((exists.subquery.subquery.as_ref().clone(), depth + 1)),
                    Expr::InSubquery(within) => rest.push((within.subquery.subquery.as_ref().clone(), depth + 1)),
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        });
    }
    Ok(nodes)
}

/// Refuses an expression that planning makes much larger. `coalesce(a, b)` becomes `CASE WHEN a IS NOT NULL THEN a ELSE b END`,
/// `a BETWEEN b AND c` becomes `a >= b AND a <= c`, and a short `a IN (…)` a chain of comparisons: each repeats `a`, so that
/// nested ones grow exponentially.
fn check_growth(expr: &Expr, at: Location) -> Result<()> {
    let Sizes { plain, expanded } = sizes(expr);
    match expanded > MAX_EXPANDED && expanded / MAX_GROWTH > plain {
        true => Err(SqlError::at(
            at,
            format!(
                "an expression would grow to more than {MAX_EXPANDED} parts: COALESCE, NVL, BETWEEN and short IN lists are \
                 computed by repeating their arguments, and here they are nested too deeply"
            ),
        )
        .hint("compute the inner ones in a view, and refer to its columns")),
        false => Ok(()),
    }
}

/// Sizes of an expression, in nodes of its tree.
#[derive(Clone, Copy)]
struct Sizes {
    plain: usize,
    expanded: usize,
}

/// Functions for which planning repeats every argument but the last.
const REPEATING: [&str; 4] = ["coalesce", "nvl", "ifnull", "nvl2"];
/// `IN` with up to this many values becomes comparisons.
const SHORT_LIST: usize = 3;

fn sizes(expr: &Expr) -> Sizes {
    let mut children: Vec<Sizes> = Vec::new();
    // The closure never fails, so neither does the walk.
    let _ = expr.apply_children(|child| {
        children.push(sizes(child));
        Ok(TreeNodeRecursion::Continue)
    });
    let times = |place: usize| match expr {
        Expr::ScalarFunction(call) if REPEATING.contains(&call.name()) => 1 + usize::from(place + 1 < children.len()),
        Expr::Between(_) => 1 + usize::from(place == 0),
        Expr::InList(list) if place == 0 && list.list.len() <= SHORT_LIST => list.list.len().max(1),
        _ => 1,
    };
    let expanded = children.iter().enumerate().map(|(place, child)| child.expanded.saturating_mul(times(place)));
    Sizes {
        plain: children.iter().map(|child| child.plain).fold(1, usize::saturating_add),
        expanded: expanded.fold(1, usize::saturating_add),
    }
}

fn check_sets(key: &Expr, at: Location) -> Result<()> {
    match key {
        Expr::GroupingSet(GroupingSet::GroupingSets(sets)) => {
            check_count("grouping sets", sets.len(), MAX_GROUPING_SETS, at)
        }
        Expr::GroupingSet(GroupingSet::Rollup(keys)) => {
            check_count("grouping sets", keys.len() + 1, MAX_GROUPING_SETS, at)
        }
        Expr::GroupingSet(GroupingSet::Cube(keys)) => check_count("columns of CUBE", keys.len(), MAX_CUBE, at),
        _ => Ok(()),
    }
}

/// Refuses an expression that is too deep once views are expanded, since executors compute it on threads with a small
/// stack.
pub fn check_expr(expr: &Expr, at: Location) -> Result<()> {
    let depth = depth(expr);
    match depth > MAX_DEPTH {
        true => Err(over("an expression is too deep once all views are expanded", depth, "levels", MAX_DEPTH, at)
            .hint("compute a part of it in another query, and read that query's topic")),
        false => Ok(()),
    }
}

fn depth(expr: &Expr) -> usize {
    let mut deepest = 0;
    // The closure never fails, so neither does the walk.
    let _ = expr.apply_children(|child| {
        deepest = deepest.max(depth(child));
        Ok(TreeNodeRecursion::Continue)
    });
    deepest + 1
}
