//! `(a, b) IN (SELECT c, d …)`: rows compared column by column.
//!
//! Owns: its rewriting to EXISTS. Does not own: `IN` of one column (`plan::subqueries`). Invariant: NULLs make the result
//! NULL where SQL says so; conditions get a shorter form, since NULL and false are the same there.

use super::syntax::{query_of, select_of};
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Ident, Query, Select, SelectItem, TableAlias, TableAliasColumnDef, TableFactor,
    TableWithJoins, UnaryOperator, Value, VisitMut, VisitorMut,
};
use std::ops::ControlFlow;

/// Rewrites every `IN` of several columns.
pub fn compare_rows(query: &mut Query) {
    struct Rows;
    impl VisitorMut for Rows {
        type Break = ();
        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            select.selection.iter_mut().chain(&mut select.having).for_each(condition);
            ControlFlow::Continue(())
        }
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Some(call) = Call::of(expr) {
                *expr = call.value();
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Rows);
}

fn condition(expr: &mut Expr) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            condition(left);
            condition(right);
        }
        Expr::Nested(inner) => condition(inner),
        _ => {
            if let Some(call) = Call::of(expr) {
                *expr = call.condition();
            }
        }
    }
}

struct Call {
    row: Vec<Expr>,
    subquery: Box<Query>,
    negated: bool,
}

impl Call {
    fn of(expr: &Expr) -> Option<Self> {
        let Expr::InSubquery { expr, subquery, negated } = expr else { return None };
        let Expr::Tuple(row) = expr.as_ref() else { return None };
        Some(Self { row: row.clone(), subquery: subquery.clone(), negated: *negated })
    }

    /// Builds EXISTS, or NOT EXISTS if `negated`, over the rows of the subquery whose equality with the row passes `test`.
    fn exists(&self, test: impl FnOnce(Expr) -> Expr, negated: bool) -> Expr {
        let name = |place: usize| Ident::new(format!("__hw_in_{place}"));
        let pair = |(place, outside): (usize, &Expr)| Expr::BinaryOp {
            left: Box::new(Expr::Identifier(name(place))),
            op: BinaryOperator::Eq,
            right: Box::new(Expr::Nested(Box::new(outside.clone()))),
        };
        let and = |left: Expr, right: Expr| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::And,
            right: Box::new(right),
        };
        let equal = self.row.iter().enumerate().map(pair).reduce(and);
        let columns = (0..self.row.len()).map(|place| TableAliasColumnDef { name: name(place), data_type: None });
        let alias = TableAlias { explicit: true, name: Ident::new("__hw_in"), columns: columns.collect(), at: None };
        let relation =
            TableFactor::Derived { lateral: false, subquery: self.subquery.clone(), alias: Some(alias), sample: None };
        let one = Expr::Value(Value::Number("1".into(), false).with_empty_span());
        let mut select = select_of(vec![SelectItem::UnnamedExpr(one)]);
        select.from = vec![TableWithJoins { relation, joins: Vec::new() }];
        select.selection = equal.map(test);
        Expr::Exists { subquery: Box::new(query_of(select)), negated }
    }

    /// Builds the form for conditions, where NULL counts as false.
    fn condition(&self) -> Expr {
        match self.negated {
            false => self.exists(|equal| equal, false),
            true => self.exists(|equal| Expr::IsNotFalse(Box::new(Expr::Nested(Box::new(equal)))), true),
        }
    }

    /// Builds the form whose value is true, false or NULL.
    fn value(&self) -> Expr {
        let bool = |value| Expr::Value(Value::Boolean(value).with_empty_span());
        let null = Expr::Value(Value::Null.with_empty_span());
        let unknown = |equal| Expr::IsNull(Box::new(Expr::Nested(Box::new(equal))));
        let found = Expr::Case {
            case_token: AttachedToken::empty(),
            end_token: AttachedToken::empty(),
            operand: None,
            conditions: vec![
                CaseWhen { condition: self.exists(|equal| equal, false), result: bool(true) },
                CaseWhen { condition: self.exists(unknown, false), result: null },
            ],
            else_result: Some(Box::new(bool(false))),
        };
        match self.negated {
            false => found,
            true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(found) },
        }
    }
}
