//! Metadata columns: which of them a script uses, and keeping them out of `SELECT *`.
//!
//! Owns: names and types of `_key`, `_topic`, … Does not own: filling them (connectors).
//! Invariant: `*` over a table is its declared columns; over a view or subquery, all columns that it selects.

use super::types::{UTC, fold};
use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, Expr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, TableFactor, Visit,
    VisitMut, Visitor, VisitorMut, WildcardAdditionalOptions,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Metadata of a Kafka record, as columns that every Kafka source has.
pub const METADATA: [&str; 6] = ["_key", "_topic", "_partition", "_offset", "_timestamp", "_headers"];

/// Returns the field of a metadata column; `None` if `name` is not one.
pub fn metadata_field(name: &str) -> Option<Field> {
    let data_type = match name {
        "_key" => DataType::Binary,
        "_topic" => DataType::Utf8,
        "_partition" => DataType::Int32,
        "_offset" => DataType::Int64,
        "_timestamp" => DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into())),
        "_headers" => {
            let header = Fields::from(vec![
                Field::new("key", DataType::Utf8, true),
                Field::new("value", DataType::Binary, true),
            ]);
            DataType::List(Arc::new(Field::new_list_field(DataType::Struct(header), true)))
        }
        _ => return None,
    };
    Some(Field::new(name, data_type, matches!(name, "_key" | "_headers" | "_timestamp")))
}

/// Adds the metadata columns that an expression or query names.
pub fn collect_metadata(node: &impl Visit, used: &mut BTreeSet<&'static str>) {
    struct Names<'a>(&'a mut BTreeSet<&'static str>);
    impl Visitor for Names<'_> {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let idents: &[Ident] = match expr {
                Expr::Identifier(ident) => std::slice::from_ref(ident),
                Expr::CompoundIdentifier(idents) => idents,
                _ => &[],
            };
            for ident in idents {
                self.0.extend(METADATA.into_iter().find(|name| fold(ident) == *name));
            }
            ControlFlow::Continue(())
        }
    }
    let _ = node.visit(&mut Names(used));
}

/// Makes every `*` over a table skip its hidden columns.
/// `hidden` returns the hidden columns of the table with a name; none for views and unknown names.
pub fn hide_metadata(query: &mut Query, hidden: &dyn Fn(&str) -> Vec<&'static str>) {
    let mut shadowed = BTreeSet::new();
    collect_ctes(query, &mut shadowed);
    let _ = VisitMut::visit(query, &mut Stars { hidden, shadowed });
}

struct Stars<'a> {
    hidden: &'a dyn Fn(&str) -> Vec<&'static str>,
    shadowed: BTreeSet<String>,
}

impl VisitorMut for Stars<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let relations = select
            .from
            .iter()
            .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
        let tables: Vec<(String, Vec<&'static str>)> = relations
            .filter_map(|relation| Some((relation, base_table(relation)?)))
            .filter(|(_, table)| !self.shadowed.contains(table))
            .map(|(relation, table)| (alias(relation).unwrap_or_else(|| table.clone()), (self.hidden)(&table)))
            .collect();
        for item in &mut select.projection {
            match item {
                SelectItem::Wildcard(options) => {
                    let names: BTreeSet<&'static str> = tables.iter().flat_map(|(_, names)| names).copied().collect();
                    exclude(options, names.into_iter());
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(of), options) => {
                    let of = of.0.last().and_then(|part| part.as_ident()).map(fold);
                    let table = tables.iter().find(|(name, _)| of.as_deref() == Some(name));
                    exclude(options, table.iter().flat_map(|(_, names)| names).copied());
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// Returns the alias of a FROM item, if it has one.
fn alias(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { alias, .. } | TableFactor::TableFunction { alias, .. } => {
            alias.as_ref().map(|alias| fold(&alias.name))
        }
        _ => None,
    }
}

fn exclude(options: &mut WildcardAdditionalOptions, names: impl Iterator<Item = &'static str>) {
    let mut idents = names.map(|name| Ident::with_quote('"', name));
    match &mut options.opt_except {
        Some(except) => except.additional_elements.extend(idents),
        None => {
            if let Some(first_element) = idents.next() {
                options.opt_except = Some(ExceptSelectItem { first_element, additional_elements: idents.collect() });
            }
        }
    }
}

/// Returns the table that a FROM item reads directly: `t`, or `TABLE(TUMBLE(TABLE t, …))`. `None` for subqueries and joins.
fn base_table(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { name, args: None, .. } => match name.0.as_slice() {
            [part] => part.as_ident().map(fold),
            _ => None,
        },
        TableFactor::NestedJoin { table_with_joins, .. } if table_with_joins.joins.is_empty() => {
            base_table(&table_with_joins.relation)
        }
        TableFactor::TableFunction { .. } | TableFactor::Table { .. } => {
            super::window_call::WindowCall::parse(factor).ok()??.table()
        }
        _ => None,
    }
}

/// Adds the names of all WITH subqueries of a query.
pub fn collect_ctes(query: &Query, names: &mut BTreeSet<String>) {
    struct Ctes<'a>(&'a mut BTreeSet<String>);
    impl Visitor for Ctes<'_> {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let tables = query.with.iter().flat_map(|with| &with.cte_tables);
            self.0.extend(tables.map(|cte| fold(&cte.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let _ = query.visit(&mut Ctes(names));
}
