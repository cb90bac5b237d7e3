//! `UNNEST` in FROM, with positions, fields and maps, and Spark's `LATERAL VIEW explode(…)`.
//!
//! Owns: turning them into `LATERAL (SELECT UNNEST(…))`, which the planner takes. Does not own: planning that
//! (`plan::lateral`, `plan::unnest`). Invariant: the columns are those of the standard: an element, or its fields
//! where it is a row or an entry of a map, and its position last; in `posexplode` first, from 0.

use super::syntax::function_name;
use super::syntax::{call, query_of, select_of};
use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    Cte, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Join, JoinConstraint, JoinOperator, LateralView,
    ObjectName, Query, Select, SelectItem, TableAlias, TableAliasColumnDef, TableFactor, TableFunctionArgs,
    TableWithJoins, Value, VisitMut, VisitorMut, With,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// Functions that return the elements of lists as rows.
const GENERATORS: [&str; 3] = ["unnest", "explode", "posexplode"];

/// True if this module makes calls of `name` in FROM lateral.
pub fn is_generator(name: &ObjectName) -> bool {
    GENERATORS.contains(&function_name(name).as_str())
}

/// `FROM t LATERAL VIEW explode(list) v AS x` and `FROM t, LATERAL explode(list) AS v (x)` become
/// `FROM t CROSS JOIN UNNEST(list) AS v (x)`.
pub fn join_lateral_views(query: &mut Query) {
    struct Views;
    impl VisitorMut for Views {
        type Break = ();
        fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
            let known = |view: &LateralView| generator(&view.lateral_view).is_some();
            if let Some(last) = select.from.last_mut()
                && select.lateral_views.iter().all(known)
            {
                last.joins.extend(select.lateral_views.drain(..).filter_map(join));
            }
            ControlFlow::Continue(())
        }
        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Function { name, args, with_ordinality, alias, .. } = factor
                && is_generator(name)
            {
                *factor = table(name.clone(), std::mem::take(args), *with_ordinality, alias.take());
            }
            ControlFlow::Continue(())
        }
    }
    let _ = VisitMut::visit(query, &mut Views);
}

/// Returns the generator that a lateral view calls, its arguments, and true if rows without elements stay. `None`: another
/// function is called.
fn generator(expr: &Expr) -> Option<(&'static str, Vec<FunctionArg>, bool)> {
    let Expr::Function(function) = expr else { return None };
    let FunctionArguments::List(list) = &function.args else { return None };
    let name = function_name(&function.name);
    let plain = name.strip_suffix("_outer").unwrap_or(&name);
    let generator = GENERATORS.into_iter().find(|known| *known == plain)?;
    Some((generator, list.args.clone(), plain.len() < name.len()))
}

fn join(view: LateralView) -> Option<Join> {
    let (name, args, outer) = generator(&view.lateral_view)?;
    let columns =
        view.lateral_col_alias.into_iter().map(|name| TableAliasColumnDef { name, data_type: None }).collect();
    let name_of_view = view.lateral_view_name.0.last().and_then(|part| part.as_ident()).cloned()?;
    let alias = TableAlias { explicit: true, name: name_of_view, columns, at: None };
    let relation = table(ObjectName::from(vec![Ident::new(name)]), args, false, Some(alias));
    let all = Expr::Value(Value::Boolean(true).with_empty_span());
    let join_operator = match view.outer || outer {
        true => JoinOperator::Left(JoinConstraint::On(all)),
        false => JoinOperator::CrossJoin(JoinConstraint::None),
    };
    Some(Join { relation, global: false, join_operator })
}

fn table(name: ObjectName, args: Vec<FunctionArg>, with_ordinality: bool, alias: Option<TableAlias>) -> TableFactor {
    TableFactor::Table {
        name,
        alias,
        args: Some(TableFunctionArgs { args, settings: None }),
        with_hints: Vec::new(),
        version: None,
        with_ordinality,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// Makes every UNNEST of FROM a lateral subquery. `types` returns the types of a query's columns, or `None` if it cannot be
/// planned.
pub fn make_lateral(query: &mut Query, types: &dyn Fn(Query) -> Option<Vec<DataType>>) {
    let _ = VisitMut::visit(query, &mut Lists { types, scope: Vec::new(), outer: Vec::new() });
}

struct Lists<'a> {
    types: &'a dyn Fn(Query) -> Option<Vec<DataType>>,
    /// CTEs in scope at the current node.
    scope: Vec<Cte>,
    /// Lengths of `scope` before each of the queries around the current node.
    outer: Vec<usize>,
}

impl VisitorMut for Lists<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.outer.push(self.scope.len());
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            VisitMut::visit(cte.query.as_mut(), self)?;
            self.scope.push(cte.clone());
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        let known = self.outer.pop().unwrap_or_default();
        self.scope.truncate(known);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for place in 0..select.from.len() {
            if let Some(lateral) = self.lateral(&select.from[place].relation, &select.from[..place]) {
                select.from[place].relation = lateral;
            }
            for join in 0..select.from[place].joins.len() {
                let mut before = select.from[..=place].to_vec();
                before[place].joins.truncate(join);
                if let Some(lateral) = self.lateral(&select.from[place].joins[join].relation, &before) {
                    select.from[place].joins[join].relation = lateral;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Lists<'_> {
    /// Returns the subquery that replaces an UNNEST, given the FROM items `before` it; `None` for other FROM items.
    fn lateral(&self, factor: &TableFactor, before: &[TableWithJoins]) -> Option<TableFactor> {
        let TableFactor::Table { alias, name, args: Some(args), with_ordinality, .. } = factor else { return None };
        if !is_generator(name) {
            return None;
        }
        let mut lists: Vec<Expr> = args.args.iter().filter_map(argument).collect();
        let positions = match (function_name(name).as_str(), with_ordinality) {
            ("posexplode", _) => Some(Positions::First),
            (_, true) => Some(Positions::Last),
            _ => None,
        };
        let types = self.types_of(&lists, before);
        let mut fields = match (lists.as_slice(), types.as_deref()) {
            ([_], Some([list])) => fields_of(list),
            _ => None,
        };
        if let (true, [list]) = (matches!(types.as_deref(), Some([DataType::Map(..)])), lists.as_mut_slice()) {
            *list = call("map_entries", vec![list.clone()], Span::empty());
        } else if names_of(alias) == lists.len() + usize::from(positions.is_some()) {
            // The alias has one name for each whole element, so elements are not split into fields.
            fields = None;
        }
        let has_fields =
            fields.is_some() || lists.len() == 1 && names_of(alias) > lists.len() + usize::from(positions.is_some());
        let mut alias = alias.clone();
        if let (Some(mut fields), 0) = (fields, names_of(&alias)) {
            match positions {
                Some(Positions::First) => fields.insert(0, "pos".into()),
                Some(Positions::Last) => fields.push("ordinality".into()),
                None => {}
            }
            let columns = fields
                .into_iter()
                .map(|name| TableAliasColumnDef { name: Ident::with_quote('"', name), data_type: None });
            let unnamed = TableAlias { explicit: true, name: Ident::new("unnest"), columns: Vec::new(), at: None };
            alias.get_or_insert(unnamed).columns = columns.collect();
        }
        let subquery = Box::new(query_of(elements(lists, positions, has_fields)));
        Some(TableFactor::Derived { lateral: true, subquery, alias, sample: None })
    }

    fn types_of(&self, lists: &[Expr], before: &[TableWithJoins]) -> Option<Vec<DataType>> {
        let columns = lists.iter().enumerate().map(|(place, list)| SelectItem::ExprWithAlias {
            expr: list.clone(),
            alias: Ident::new(format!("__hw_list_{place}")),
        });
        let mut select = select_of(columns.collect());
        select.from = before.to_vec();
        let mut query = query_of(select);
        if !self.scope.is_empty() {
            query.with =
                Some(With { with_token: AttachedToken::empty(), recursive: false, cte_tables: self.scope.clone() });
        }
        (self.types)(query)
    }
}

fn names_of(alias: &Option<TableAlias>) -> usize {
    alias.as_ref().map_or(0, |alias| alias.columns.len())
}

/// Returns the names of the columns that an element of this list or map is split into; `None` if it is a single value.
fn fields_of(list: &DataType) -> Option<Vec<String>> {
    match list {
        DataType::Map(..) => Some(vec!["key".into(), "value".into()]),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => match item.data_type() {
            DataType::Struct(fields) => Some(fields.iter().map(|field| field.name().clone()).collect()),
            _ => None,
        },
        _ => None,
    }
}

fn argument(argument: &FunctionArg) -> Option<Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(list)) => Some(list.clone()),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Positions {
    /// From 0, as the first column.
    First,
    /// From 1, as the last column.
    Last,
}

/// Builds `SELECT UNNEST(list), …`; with fields, `SELECT UNNEST(element) FROM (SELECT UNNEST(list) AS element)`.
fn elements(lists: Vec<Expr>, positions: Option<Positions>, has_fields: bool) -> Select {
    const ELEMENT: &str = "__hw_element";
    const POSITION: &str = "__hw_position";
    let unnest = |list: Expr| call("unnest", vec![list], Span::empty());
    let counted = positions.map(|positions| {
        let from = if positions == Positions::First { "0" } else { "1" };
        let from = Expr::Value(Value::Number(from.into(), false).with_empty_span());
        unnest(call("hw_positions", std::iter::once(from).chain(lists.iter().cloned()).collect(), Span::empty()))
    });
    let mut columns: Vec<SelectItem> = lists.into_iter().map(|list| SelectItem::UnnamedExpr(unnest(list))).collect();
    let place = |columns: &[SelectItem]| if positions == Some(Positions::First) { 0 } else { columns.len() };
    if !has_fields {
        if let Some(counted) = counted {
            columns.insert(place(&columns), SelectItem::UnnamedExpr(counted));
        }
        return select_of(columns);
    }
    let named = |item: SelectItem, name: &str| match item {
        SelectItem::UnnamedExpr(expr) => SelectItem::ExprWithAlias { expr, alias: Ident::new(name) },
        other => other,
    };
    let mut inner: Vec<SelectItem> = columns.into_iter().map(|item| named(item, ELEMENT)).collect();
    let column = |name: &str| Expr::Identifier(Ident::new(name));
    let mut outer = vec![SelectItem::UnnamedExpr(unnest(column(ELEMENT)))];
    if let Some(counted) = counted {
        inner.push(named(SelectItem::UnnamedExpr(counted), POSITION));
        outer.insert(place(&outer), SelectItem::UnnamedExpr(column(POSITION)));
    }
    let mut select = select_of(outer);
    let subquery = Box::new(query_of(select_of(inner)));
    let relation = TableFactor::Derived { lateral: false, subquery, alias: None, sample: None };
    select.from = vec![TableWithJoins { relation, joins: Vec::new() }];
    select
}
