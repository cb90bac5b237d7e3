//! The places of a query where names stand.
//!
//! Owns: the list of them. Does not own: what is done with the names (`spelling`). Invariants: names of functions, types, units
//! and arguments are no such names; queries inside of the query are walked too.

use super::error::{Result, SqlError};
use super::unnest::is_generator;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint,
    JoinOperator, NamedWindowExpr, ObjectName, ObjectNamePart, Query, RenameSelectItem, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableAlias, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions, WindowType,
};
use std::ops::ControlFlow;

/// What is done with the names of a query.
pub trait NameVisitor {
    /// A name that refers to something.
    fn refers(&mut self, name: &mut Ident) -> Result<()>;
    /// Names of columns that one list gives, such as that of a SELECT.
    fn gives(&mut self, names: Vec<&mut Ident>) -> Result<()>;
    /// A name given to a relation, or to a window.
    fn names_relation(&mut self, name: &mut Ident) -> Result<()>;
    /// Names that are given without being written.
    fn implies(&mut self, names: &[&str]);
}

/// Columns of UNNEST and its kind where no alias names them.
const ELEMENTS: [&str; 5] = ["key", "value", "pos", "ordinality", "unnest"];

/// Shows all names of a query or an expression.
pub fn walk_names(node: &mut impl VisitMut, visitor: &mut dyn NameVisitor) -> Result<()> {
    match VisitMut::visit(node, &mut Walk(visitor)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Walk<'a>(&'a mut dyn NameVisitor);

fn flow(result: Result<()>) -> ControlFlow<SqlError> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl VisitorMut for Walk<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        flow(self.with(query))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        flow(self.select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        flow(self.relation(factor))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        flow(match expr {
            Expr::Identifier(name) => self.0.refers(name),
            Expr::CompoundIdentifier(parts) => parts.iter_mut().try_for_each(|part| self.0.refers(part)),
            Expr::QualifiedWildcard(name, _) => self.object(name),
            Expr::Function(function) => self.function(function),
            _ => Ok(()),
        })
    }
}

impl Walk<'_> {
    fn with(&mut self, query: &mut Query) -> Result<()> {
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            self.0.names_relation(&mut cte.alias.name)?;
            self.0.gives(cte.alias.columns.iter_mut().map(|column| &mut column.name).collect())?;
        }
        Ok(())
    }

    fn select(&mut self, select: &mut Select) -> Result<()> {
        let mut aliases = Vec::new();
        for item in &mut select.projection {
            match item {
                SelectItem::UnnamedExpr(_) => {}
                SelectItem::ExprWithAlias { alias, .. } => aliases.push(alias),
                SelectItem::ExprWithAliases { aliases: several, .. } => aliases.extend(several),
                SelectItem::Wildcard(options) => self.star(options)?,
                SelectItem::QualifiedWildcard(of, options) => {
                    if let SelectItemQualifiedWildcardKind::ObjectName(name) = of {
                        self.object(name)?;
                    }
                    self.star(options)?;
                }
            }
        }
        self.0.gives(aliases)?;
        select.from.iter_mut().try_for_each(|from| self.joins(from))?;
        for view in &mut select.lateral_views {
            if view.lateral_col_alias.is_empty() {
                self.0.implies(&ELEMENTS);
            }
            self.object(&mut view.lateral_view_name)?;
            self.0.gives(view.lateral_col_alias.iter_mut().collect())?;
        }
        for window in &mut select.named_window {
            self.0.names_relation(&mut window.0)?;
            match &mut window.1 {
                NamedWindowExpr::NamedWindow(name) => self.0.refers(name)?,
                NamedWindowExpr::WindowSpec(spec) => {
                    spec.window_name.iter_mut().try_for_each(|name| self.0.refers(name))?;
                }
            }
        }
        Ok(())
    }

    /// `* EXCEPT (a) REPLACE (x AS b) RENAME (c AS d)`.
    fn star(&mut self, options: &mut WildcardAdditionalOptions) -> Result<()> {
        if let Some(except) = &mut options.opt_except {
            self.0.refers(&mut except.first_element)?;
            except.additional_elements.iter_mut().try_for_each(|name| self.0.refers(name))?;
        }
        match &mut options.opt_exclude {
            Some(ExcludeSelectItem::Single(name)) => self.object(name)?,
            Some(ExcludeSelectItem::Multiple(names)) => names.iter_mut().try_for_each(|name| self.object(name))?,
            None => {}
        }
        for item in options.opt_replace.iter_mut().flat_map(|replace| &mut replace.items) {
            self.0.refers(&mut item.column_name)?;
        }
        let renamed = match &mut options.opt_rename {
            Some(RenameSelectItem::Single(one)) => std::slice::from_mut(one),
            Some(RenameSelectItem::Multiple(several)) => several.as_mut_slice(),
            None => &mut [],
        };
        for item in renamed {
            self.0.refers(&mut item.ident)?;
            self.0.gives(vec![&mut item.alias])?;
        }
        Ok(())
    }

    fn joins(&mut self, from: &mut TableWithJoins) -> Result<()> {
        for join in &mut from.joins {
            let constraint = match &mut join.join_operator {
                JoinOperator::Join(constraint)
                | JoinOperator::Inner(constraint)
                | JoinOperator::Left(constraint)
                | JoinOperator::LeftOuter(constraint)
                | JoinOperator::Right(constraint)
                | JoinOperator::RightOuter(constraint)
                | JoinOperator::FullOuter(constraint)
                | JoinOperator::CrossJoin(constraint)
                | JoinOperator::Semi(constraint)
                | JoinOperator::LeftSemi(constraint)
                | JoinOperator::RightSemi(constraint)
                | JoinOperator::Anti(constraint)
                | JoinOperator::LeftAnti(constraint)
                | JoinOperator::RightAnti(constraint)
                | JoinOperator::StraightJoin(constraint) => constraint,
                _ => continue,
            };
            if let JoinConstraint::Using(columns) = constraint {
                columns.iter_mut().try_for_each(|column| self.object(column))?;
            }
        }
        Ok(())
    }

    fn relation(&mut self, factor: &mut TableFactor) -> Result<()> {
        match factor {
            TableFactor::Table { name, args: None, alias, .. } => {
                self.object(name)?;
                self.alias(alias)
            }
            TableFactor::Table { name, alias, .. } | TableFactor::Function { name, alias, .. } => {
                let is_named = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
                if is_generator(name) && !is_named {
                    self.0.implies(&ELEMENTS);
                }
                self.alias(alias)
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.joins(table_with_joins)?;
                self.alias(alias)
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. } => self.alias(alias),
            _ => Ok(()),
        }
    }

    fn alias(&mut self, alias: &mut Option<TableAlias>) -> Result<()> {
        let Some(alias) = alias else { return Ok(()) };
        self.0.names_relation(&mut alias.name)?;
        self.0.gives(alias.columns.iter_mut().map(|column| &mut column.name).collect())
    }

    fn function(&mut self, function: &mut Function) -> Result<()> {
        match &mut function.over {
            Some(WindowType::NamedWindow(name)) => self.0.refers(name)?,
            Some(WindowType::WindowSpec(spec)) => {
                spec.window_name.iter_mut().try_for_each(|name| self.0.refers(name))?;
            }
            None => {}
        }
        let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
        list.args.iter_mut().try_for_each(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) => self.object(name),
            _ => Ok(()),
        })
    }

    fn object(&mut self, name: &mut ObjectName) -> Result<()> {
        name.0.iter_mut().try_for_each(|part| match part {
            ObjectNamePart::Identifier(name) => self.0.refers(name),
            ObjectNamePart::Function(_) => Ok(()),
        })
    }
}
