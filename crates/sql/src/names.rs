//! Functions that only other engines have under this name or in this form: `COUNT_IF(x)`, `COLLECT_SET(x)`,
//! `MAX_BY(x, y)`, `TIMESTAMPDIFF(SECOND, a, b)`.
//!
//! Owns: their rewriting to calls that the planner knows. Does not own: functions that are registered under several names
//! (`functions`). Invariant: the rewritten call has the value that the other engine documents; where several values are
//! right (ties), one that does not depend on the order of rows.

use super::compatibility::standard;
use super::syntax::function_name;
use super::syntax::{call, interval};
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, CeilFloorKind, DataType, DateTimeField, DuplicateTreatment, ExactNumberInfo,
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments,
    Ident, ObjectName, OrderByExpr, OrderByOptions, Query, Spanned, Value, VisitMut, VisitorMut,
};
use std::ops::ControlFlow;

/// Rewrites every such call of a query.
pub fn use_standard_names(query: &mut Query) {
    struct Names;
    impl VisitorMut for Names {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Some(standard) = standard(expr) {
                *expr = standard;
            }
            match expr {
                Expr::Function(function) => rename(function),
                Expr::Cast { expr: inner, data_type, .. } if is_decimal(data_type) => {
                    if let Expr::Value(value) = inner.as_mut()
                        && let Value::Number(text, _) = &value.value
                    {
                        value.value = Value::SingleQuotedString(text.clone());
                    }
                }
                Expr::Value(value) if let Some((text, data_type)) = typed_number(&value.value) => {
                    let text = Box::new(Expr::Value(Value::SingleQuotedString(text).with_span(value.span)));
                    *expr = Expr::Cast { kind: CastKind::Cast, expr: text, data_type, array: false, format: None };
                }
                // `FLOOR(ts TO HOUR)`
                Expr::Floor { expr: time, field: CeilFloorKind::DateTimeField(unit) }
                    if *unit != DateTimeField::NoDateTime =>
                {
                    *expr = floor(time, unit);
                }
                // `CEIL(ts TO HOUR)`
                Expr::Ceil { expr: time, field: CeilFloorKind::DateTimeField(unit) }
                    if *unit != DateTimeField::NoDateTime =>
                {
                    *expr = ceil(time, unit);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Names);
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal(_) | DataType::Numeric(_) | DataType::Dec(_))
}

/// The text and type of a number that the planner would not take exactly: with an exponent it is a DOUBLE, with more digits
/// than a DOUBLE or BIGINT holds a DECIMAL.
fn typed_number(value: &Value) -> Option<(String, DataType)> {
    let Value::Number(text, _) = value else { return None };
    if text.contains(['e', 'E']) {
        return Some((text.clone(), DataType::Double(ExactNumberInfo::None)));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.trim_start_matches('0').len() + fraction.len();
    let fits = if fraction.is_empty() { text.parse::<u64>().is_ok() } else { digits <= 15 };
    if fits || digits > 38 {
        return None;
    }
    let info = ExactNumberInfo::PrecisionAndScale(digits as u64, fraction.len() as i64);
    Some((text.clone(), DataType::Decimal(info)))
}

fn floor(time: &Expr, unit: &DateTimeField) -> Expr {
    call("date_trunc", vec![text(unit.to_string().to_lowercase()), time.clone()], time.span())
}

/// Builds `CEIL(time TO unit)`: `time` itself if it is the start of a unit, else the start of the next unit.
fn ceil(time: &Expr, unit: &DateTimeField) -> Expr {
    let is = |left: Expr, op, right: Expr| Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) };
    let floor = floor(time, unit);
    let length = match unit {
        DateTimeField::Quarter => "3 month".to_string(),
        unit => format!("1 {}", unit.to_string().to_lowercase()),
    };
    let length = interval(length);
    let is_floor = is(floor.clone(), BinaryOperator::Eq, Expr::Nested(Box::new(time.clone())));
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition: is_floor, result: floor.clone() }],
        else_result: Some(Box::new(is(floor, BinaryOperator::Plus, length))),
    }
}

fn text(text: String) -> Expr {
    Expr::Value(Value::SingleQuotedString(text).with_empty_span())
}

fn rename(function: &mut Function) {
    let span = function.name.span();
    let name = function_name(&function.name);
    let named = |name: &str| ObjectName::from(vec![Ident::with_span(span, name)]);
    let FunctionArguments::List(list) = &mut function.args else { return };
    // `LISTAGG(x, ',') WITHIN GROUP (ORDER BY y)`
    if matches!(name.as_str(), "listagg" | "string_agg" | "array_agg" | "collect_list")
        && !function.within_group.is_empty()
        && list.clauses.is_empty()
    {
        list.clauses.push(FunctionArgumentClause::OrderBy(std::mem::take(&mut function.within_group)));
    }
    // `MODE() WITHIN GROUP (ORDER BY x)`
    if name == "mode" && list.args.is_empty() && function.within_group.len() == 1 {
        let values =
            function.within_group.drain(..).map(|order| FunctionArg::Unnamed(FunctionArgExpr::Expr(order.expr)));
        list.args.extend(values);
    }
    match (name.as_str(), list.args.as_mut_slice()) {
        ("explode", [_]) => function.name = named("unnest"),
        ("any_value", [_]) => function.name = named("min"),
        ("grouping_id", [_, ..]) => function.name = named("grouping"),
        ("listagg" | "string_agg", [_]) => {
            list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(text(",".into()))));
        }
        ("collect_set", [_]) => {
            function.name = named("array_agg");
            list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
        }
        ("count_if", [FunctionArg::Unnamed(argument @ FunctionArgExpr::Expr(_))]) if function.filter.is_none() => {
            if let FunctionArgExpr::Expr(condition) = std::mem::replace(argument, FunctionArgExpr::Wildcard) {
                function.name = named("count");
                function.filter = Some(Box::new(condition));
            }
        }
        ("max_by" | "min_by" | "arg_max" | "arg_min" | "argmax" | "argmin", [_, _])
            if function.over.is_none() && list.clauses.is_empty() =>
        {
            by(list, &mut function.filter, name.contains("max"));
            function.name = named("first_value");
        }
        // DataFusion's functions panic if the length is negative.
        ("lpad" | "rpad", [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(length)), ..])
            if !matches!(length, Expr::Value(_)) =>
        {
            *length = not_negative(length.clone());
        }
        ("timestampdiff" | "timestampadd", [FunctionArg::Unnamed(FunctionArgExpr::Expr(unit)), ..]) => {
            if let Expr::Identifier(name) = unit {
                *unit = Expr::Value(Value::SingleQuotedString(name.value.clone()).with_span(name.span));
            }
        }
        _ => {}
    }
}

/// Builds `CASE WHEN x < 0 THEN 0 ELSE x END`.
fn not_negative(number: Expr) -> Expr {
    let zero = || Expr::Value(Value::Number("0".into(), false).with_empty_span());
    let number = Expr::Nested(Box::new(number));
    let condition = Expr::BinaryOp { left: Box::new(number.clone()), op: BinaryOperator::Lt, right: Box::new(zero()) };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: zero() }],
        else_result: Some(Box::new(number)),
    }
}

/// `MAX_BY(x, y)` is `FIRST_VALUE(x ORDER BY y DESC, x) FILTER (WHERE y IS NOT NULL)`.
fn by(list: &mut FunctionArgumentList, filter: &mut Option<Box<Expr>>, greatest: bool) {
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(order))) = list.args.pop() else { return };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(value))) = list.args.first() else { return };
    let sort = |expr: &Expr, asc| OrderByExpr {
        expr: expr.clone(),
        options: OrderByOptions { asc: Some(asc), nulls_first: None },
        with_fill: None,
    };
    list.clauses = vec![FunctionArgumentClause::OrderBy(vec![sort(&order, !greatest), sort(value, true)])];
    let known = Expr::IsNotNull(Box::new(order));
    *filter = Some(Box::new(match filter.take() {
        None => known,
        Some(filter) => {
            Expr::BinaryOp { left: Box::new(Expr::Nested(filter)), op: BinaryOperator::And, right: Box::new(known) }
        }
    }));
}

/// True for FIRST_VALUE, LAST_VALUE and NTH_VALUE as aggregates without ORDER BY.
pub fn lacks_order(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    let is_ordered = list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)));
    let name = function_name(&function.name);
    matches!(name.as_str(), "first_value" | "last_value" | "nth_value" | "first" | "last")
        && function.over.is_none()
        && function.within_group.is_empty()
        && !is_ordered
}
