//! `JOIN t FOR SYSTEM_TIME AS OF l.ts ON …`: moves the time into the condition, as a marker call that the planner finds.
//!
//! Owns: where the clause may stand, and what it may name. Does not own: which tables have versions (`plan::versioned`),
//! lookup tables, which keep the clause.

use super::error::SqlError;
use super::refuse::not_yet;
use super::syntax::{call, function_name};
use super::types::fold;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Join, JoinConstraint, JoinOperator, ObjectName, Query, Select, Spanned, TableFactor,
    TableVersion, TableWithJoins, VisitMut, VisitorMut,
};
use highwater_functions::clock::is_clock;
use std::ops::ControlFlow;

/// Name of the marker call. Scripts cannot call it.
pub const AS_OF: &str = "hw_as_of";

const USAGE: &str = "write FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency";

/// Moves the times of versions into the joins' conditions. Tables for which `is_snapshot` is true keep their clause.
pub fn rewrite_versions(query: &mut Query, is_snapshot: &dyn Fn(&str) -> bool) -> Result<(), SqlError> {
    match VisitMut::visit(query, &mut Versions(is_snapshot)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Versions<'a>(&'a dyn Fn(&str) -> bool);

impl VisitorMut for Versions<'_> {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        for from in &mut select.from {
            self.joins(from)?;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => self.joins(table_with_joins),
            TableFactor::Table { name, version: Some(_), .. } if !self.is_snapshot(name) => ControlFlow::Break(
                SqlError::in_span(name.span(), "FOR SYSTEM_TIME AS OF belongs to the right side of a JOIN").hint(USAGE),
            ),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Versions<'_> {
    fn is_snapshot(&self, name: &ObjectName) -> bool {
        name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| (self.0)(&fold(name)))
    }

    fn joins(&self, from: &mut TableWithJoins) -> ControlFlow<SqlError> {
        for join in &mut from.joins {
            if let Err(error) = self.join(join) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }

    fn join(&self, join: &mut Join) -> Result<(), SqlError> {
        let TableFactor::Table { name, version, .. } = &mut join.relation else { return Ok(()) };
        if self.is_snapshot(name) {
            return Ok(());
        }
        let span = name.span();
        let time = match version.take() {
            None => return Ok(()),
            Some(TableVersion::ForSystemTimeAsOf(time)) => time,
            Some(_) => return Err(not_yet("this kind of version", span).hint(USAGE)),
        };
        refuse_now(&time)?;
        let constraint = match &mut join.join_operator {
            JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => {
                on
            }
            _ => {
                return Err(SqlError::in_span(span, "a temporal join is a JOIN or a LEFT JOIN").hint(USAGE));
            }
        };
        let JoinConstraint::On(condition) = constraint else {
            return Err(SqlError::in_span(span, "a temporal join needs a condition ON its key").hint(USAGE));
        };
        let mark = call(AS_OF, vec![time.clone()], time.span());
        let old = std::mem::replace(condition, mark.clone());
        *condition = Expr::BinaryOp {
            left: Box::new(mark),
            op: BinaryOperator::And,
            right: Box::new(Expr::Nested(Box::new(old))),
        };
        Ok(())
    }
}

/// Refuses the current time, since a replayed batch would find another version.
fn refuse_now(time: &Expr) -> Result<(), SqlError> {
    match time {
        Expr::Function(function) if is_clock(&function_name(&function.name)) => {
            let name = function_name(&function.name).to_uppercase();
            let what = format!("FOR SYSTEM_TIME AS OF {name}() on a stream");
            Err(not_yet(&what, function.name.span()).hint(
                "the version would depend on when records are read: name the event time of the left side, \
                 FOR SYSTEM_TIME AS OF o.ts; a plain JOIN follows every change of the right side; a table with \
                 'connector' = 'filesystem' is looked up as it is",
            ))
        }
        Expr::Nested(inner) => refuse_now(inner),
        _ => Ok(()),
    }
}
