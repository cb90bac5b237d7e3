//! Names match in any case, and keep the case they were declared in.
//!
//! Owns: the spelling of every name that a script declares, and bringing the names of queries to it. DataFusion's planner then
//! compares names as they are. Does not own: fields of JSON (connectors), columns of rows (`planner::plan::fields`), lists of
//! columns outside of queries (`identifier`). Invariants: a name that the script does not declare stays as it is: folded if it
//! is not quoted; a name in lower case wherever it is declared stays in lower case.
//!
//! Names that differ only in case are one name, in the spelling of the tables that declare it, unless one list declares
//! both: then each is a name of its own in the whole script, and a reference has to match one of them exactly.

use super::derived::DerivedFrom;
use super::error::{Result, SqlError};
use super::identifier::{Name, key_of};
use super::metadata_columns::METADATA;
use super::name_walk::{NameVisitor, walk_names};
use super::table_def::TableDef;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::sql::sqlparser::ast::{Ident, Query, VisitMut};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Columns that window functions add.
const WINDOW: [&str; 3] = ["window_start", "window_end", "window_time"];

/// The spelling of each name, by its key (`identifier::key_of`).
#[derive(Debug, Default)]
pub struct Spellings(BTreeMap<String, Spelling>);

#[derive(Debug)]
enum Spelling {
    One(String),
    /// Different names, of which a reference matches one exactly.
    Several(Vec<String>),
}

impl Spellings {
    /// Of a script: the tables that can be read in it, its views with their lists of columns, and all its queries, which are
    /// only looked at.
    pub fn of_script<'a>(
        tables: impl Iterator<Item = &'a TableDef>,
        views: impl Iterator<Item = (&'a Name, &'a [Name])>,
        mut queries: impl Iterator<Item = &'a mut Query>,
    ) -> Result<Self> {
        let mut found = Found::default();
        found.add(Rank::Engine, METADATA.into_iter().chain(WINDOW));
        tables.for_each(|table| found.table(table));
        for (name, columns) in views {
            found.add(Rank::Relation, [name.text.as_str()]);
            found.add(Rank::Given, columns.iter().map(|column| column.text.as_str()));
        }
        queries.try_for_each(|query| walk_names(query, &mut found))?;
        Ok(found.spellings())
    }

    /// Of the columns of one table, for the expressions it declares.
    pub fn of_table(table: &TableDef) -> Self {
        let mut found = Found::default();
        found.add(Rank::Engine, METADATA);
        found.table(table);
        found.spellings()
    }

    /// Brings all names of a query or an expression to their spelling.
    ///
    /// # Errors
    /// A name matches several, none of them exactly.
    pub fn apply(&self, node: &mut impl VisitMut) -> Result<()> {
        walk_names(node, &mut Respell(self))
    }

    /// The spelling of a declared name in the script's queries.
    pub fn planned<'a>(&'a self, name: &'a str) -> &'a str {
        match self.0.get(&key_of(name)) {
            Some(Spelling::One(spelling)) => spelling,
            Some(Spelling::Several(_)) | None => name,
        }
    }

    /// The same of the fields of a type.
    pub fn planned_type(&self, data_type: &DataType) -> DataType {
        let inner = |field: &FieldRef| -> FieldRef {
            Arc::new(Field::new(field.name(), self.planned_type(field.data_type()), field.is_nullable()))
        };
        match data_type {
            DataType::List(item) => DataType::List(inner(item)),
            DataType::Struct(fields) => DataType::Struct(Fields::from_iter(fields.iter().map(|field| {
                let name = self.planned(field.name());
                Field::new(name, self.planned_type(field.data_type()), field.is_nullable())
            }))),
            other => other.clone(),
        }
    }
}

/// Whose spelling counts more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Names that the engine gives.
    Engine,
    /// Columns of tables: another spelling costs a projection.
    Column,
    /// Fields of rows.
    Field,
    /// Columns of views, aliases of columns.
    Given,
    /// Names of tables and views, aliases of those.
    Relation,
}

/// Declared names, as they are found.
#[derive(Debug, Default)]
struct Found(BTreeMap<String, Declared>);

#[derive(Debug, Default)]
struct Declared {
    /// Each once, in the script's order.
    spellings: Vec<(Rank, String)>,
    /// One list declares two of them.
    differ: bool,
}

impl Found {
    fn table(&mut self, table: &TableDef) {
        let columns = table.columns.iter().map(|column| &column.name);
        let all = columns.chain(table.derived.iter().map(|derived| &derived.name));
        self.add(Rank::Column, all.map(|name| name.text.as_str()));
        self.add(Rank::Relation, [table.name.text.as_str()]);
        table.columns.iter().for_each(|column| self.fields(&column.data_type));
        for derived in &table.derived {
            if let DerivedFrom::Metadata { data_type, .. } = &derived.from {
                self.fields(data_type);
            }
        }
    }

    fn fields(&mut self, data_type: &DataType) {
        match data_type {
            DataType::List(item) => self.fields(item.data_type()),
            DataType::Map(entries, _) => {
                if let DataType::Struct(entry) = entries.data_type() {
                    entry.iter().for_each(|field| self.fields(field.data_type()));
                }
            }
            DataType::Struct(fields) => {
                self.add(Rank::Field, fields.iter().map(|field| field.name().as_str()));
                fields.iter().for_each(|field| self.fields(field.data_type()));
            }
            _ => {}
        }
    }

    /// Adds the names of one list.
    fn add<'a>(&mut self, rank: Rank, names: impl IntoIterator<Item = &'a str>) {
        let mut here: BTreeMap<String, &str> = BTreeMap::new();
        for name in names {
            let key = key_of(name);
            let declared = self.0.entry(key.clone()).or_default();
            if !declared.spellings.iter().any(|known| *known == (rank, name.to_string())) {
                declared.spellings.push((rank, name.to_string()));
            }
            declared.differ |= here.insert(key, name).is_some_and(|other| other != name);
        }
    }

    fn spellings(self) -> Spellings {
        let spelling = |(key, declared): (String, Declared)| {
            let spelling = match declared.differ {
                true => Spelling::Several(each_once(declared.spellings)),
                false => Spelling::One(preferred(&key, &declared.spellings)),
            };
            (key, spelling)
        };
        Spellings(self.0.into_iter().map(spelling).collect())
    }
}

fn each_once(spellings: Vec<(Rank, String)>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (_, name) in spellings {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Of several spellings, that of lower case, as older builds planned with it, or else the first. Names of relations are in lower
/// case: nothing shows them but the names that DataFusion makes up for columns, and those are part of a plan's identity.
fn preferred(key: &str, spellings: &[(Rank, String)]) -> String {
    let best = spellings.iter().map(|(rank, _)| *rank).min();
    if best == Some(Rank::Relation) {
        return key.to_string();
    }
    let mut of_best = spellings.iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, name)| name.as_str());
    let first = of_best.clone().next();
    of_best.find(|name| *name == key).or(first).unwrap_or(key).to_string()
}

impl NameVisitor for Found {
    fn refers(&mut self, _: &mut Ident) -> Result<()> {
        Ok(())
    }

    fn gives(&mut self, names: Vec<&mut Ident>) -> Result<()> {
        self.add(Rank::Given, names.iter().map(|name| name.value.as_str()));
        Ok(())
    }

    fn names_relation(&mut self, name: &mut Ident) -> Result<()> {
        self.add(Rank::Relation, [name.value.as_str()]);
        Ok(())
    }

    fn implies(&mut self, names: &[&str]) {
        self.add(Rank::Engine, names.iter().copied());
    }
}

struct Respell<'a>(&'a Spellings);

impl NameVisitor for Respell<'_> {
    fn refers(&mut self, name: &mut Ident) -> Result<()> {
        let spelling = match self.0.0.get(&key_of(&name.value)) {
            None => return Ok(()),
            Some(Spelling::One(spelling)) => spelling,
            Some(Spelling::Several(all)) => all.iter().find(|known| **known == name.value).ok_or_else(|| {
                let all: Vec<String> = all.iter().map(|known| format!("'{known}'")).collect();
                let message = format!("'{}' is ambiguous: the script declares {}", name.value, all.join(" and "));
                SqlError::at(name.span.start, message).hint("write the name exactly as it is declared")
            })?,
        };
        name.value.clone_from(spelling);
        if key_of(spelling) != *spelling {
            name.quote_style = Some('"');
        }
        Ok(())
    }

    fn gives(&mut self, names: Vec<&mut Ident>) -> Result<()> {
        names.into_iter().try_for_each(|name| self.refers(name))
    }

    fn names_relation(&mut self, name: &mut Ident) -> Result<()> {
        self.refers(name)
    }

    fn implies(&mut self, _: &[&str]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Statement, parse_script};

    /// The queries of a script after its names were brought to their spelling.
    fn respelled(script: &str) -> Result<Vec<String>> {
        let (mut tables, mut queries) = (Vec::new(), Vec::new());
        for statement in parse_script(script)? {
            match statement {
                Statement::Table(table) => tables.push(table),
                Statement::Insert(insert) => queries.push(insert.query),
                Statement::View(_) | Statement::Set(_) => {}
            }
        }
        let spellings = Spellings::of_script(tables.iter(), std::iter::empty(), queries.iter_mut())?;
        queries.iter_mut().map(|query| spellings.apply(query).map(|()| query.to_string())).collect()
    }

    const TABLE: &str =
        "CREATE TABLE Orders (orderId BIGINT, \"Item\" ROW<unitPrice BIGINT>, at BIGINT) WITH ('a' = 'b');";

    #[test]
    fn every_place_of_a_name_is_brought_to_its_spelling() {
        let query = |text: &str| respelled(&format!("{TABLE} INSERT INTO s {text}")).unwrap().remove(0);
        for (written, spelled) in [
            (
                "SELECT ORDERID, o.item.UNITPRICE FROM orders AS O",
                "SELECT \"orderId\", o.\"Item\".\"unitPrice\" FROM orders AS o",
            ),
            (
                "SELECT sum(at) AS myTotal FROM Orders ORDER BY MYTOTAL LIMIT 1",
                "SELECT sum(at) AS \"myTotal\" FROM orders ORDER BY \"myTotal\" LIMIT 1",
            ),
            ("SELECT * EXCEPT (ORDERID) FROM orders", "SELECT * EXCEPT (\"orderId\") FROM orders"),
            (
                "SELECT a.* FROM orders A JOIN orders b USING (OrderID)",
                "SELECT a.* FROM orders a JOIN orders b USING(\"orderId\")",
            ),
            (
                "WITH Recent AS (SELECT orderid FROM orders) SELECT COUNT(*) FROM RECENT",
                "WITH recent AS (SELECT \"orderId\" FROM orders) SELECT COUNT(*) FROM recent",
            ),
            (
                "SELECT rank() OVER W FROM orders WINDOW w AS (ORDER BY AT)",
                "SELECT rank() OVER w FROM orders WINDOW w AS (ORDER BY at)",
            ),
            (
                "SELECT window_START FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(AT), INTERVAL '1' DAY))",
                "SELECT window_start FROM TABLE(TUMBLE(TABLE (orders), DESCRIPTOR(at), INTERVAL '1' DAY))",
            ),
            ("SELECT AT FROM `ORDERS`", "SELECT at FROM `orders`"),
            ("SELECT Stranger, \"Stranger\" FROM orders", "SELECT Stranger, \"Stranger\" FROM orders"),
        ] {
            assert_eq!(query(written), spelled, "{written}");
        }
    }

    #[test]
    fn the_spelling_is_the_tables_and_lower_case_where_tables_differ() {
        let other = "CREATE TABLE other (ORDERID BIGINT, AT BIGINT) WITH ('a' = 'b');";
        let queries =
            respelled(&format!("{TABLE}{other} INSERT INTO s SELECT orderID AS OrderId, At FROM orders")).unwrap();
        assert_eq!(queries, ["SELECT \"orderId\" AS \"orderId\", at FROM orders"]);
    }

    #[test]
    fn names_of_one_list_that_differ_in_case_are_matched_exactly() {
        let both = "CREATE TABLE t (id BIGINT, \"ID\" BIGINT) WITH ('a' = 'b');";
        let queries = respelled(&format!("{both} INSERT INTO s SELECT ID, id, `ID` FROM T")).unwrap();
        assert_eq!(queries, ["SELECT \"ID\", id, \"ID\" FROM t"]);
        let error = respelled(&format!("{both}\nINSERT INTO s SELECT Id FROM t")).unwrap_err().to_string();
        let expected = "line 2, column 22: 'Id' is ambiguous: the script declares 'id' and 'ID'\n  hint: write the name exactly as it is declared";
        assert_eq!(error, expected);
    }
}
