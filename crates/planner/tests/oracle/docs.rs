//! Runs the examples of `docs/sql.md`.
//!
//! Owns: finding them, and comparing their results with the page. Does not own: running them (`harness`).
//!
//! - ` ```sql `: statements. Tables and views hold to the end of the section (`##`), those of the first section for
//!   the whole page. A block with INSERTs, or one SELECT, is an example of its own: it begins without records.
//! - ` ```records NAME `: JSON objects, a line each, of that topic or file; of a record without value the key's columns,
//!   then `null`; `COMMIT` in a line ends a micro-batch.
//! - ` ```result NAME `: what the sink holds, or what the SELECT gives: a line of names, then rows, ` | ` between
//!   values, in the order of the columns.
//! - ` ```refused `: the message of the block before, which must not compile.
//!
//! An example without a result must compile.

use crate::harness::scenario::Scenario;
use crate::harness::statements::{Statement, created_table, split};

/// A fenced block.
struct Block {
    line: usize,
    kind: String,
    name: String,
    text: String,
    /// Number of its section, from 0.
    section: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut section, mut open) = (0, false);
    for (index, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                let (kind, name) = info.split_once(' ').unwrap_or((info, ""));
                let (kind, name) = (kind.to_string(), name.trim().to_string());
                blocks.push(Block { line: index + 1, kind, name, text: String::new(), section });
                open = true;
            }
            None if open => {
                let text = &mut blocks.last_mut().unwrap().text;
                text.push_str(line);
                text.push('\n');
            }
            None => section += usize::from(line.starts_with("## ")),
        }
    }
    blocks
}

/// An example whose blocks are being read.
struct Example<'a> {
    /// Statements before it: of the page, then of its section.
    before: Vec<&'a str>,
    block: &'a Block,
    records: Vec<&'a Block>,
}

impl Example<'_> {
    fn scenario(&self) -> Result<(Scenario, Option<String>), String> {
        let mut scenario = Scenario::default();
        for text in &self.before {
            scenario.execute(text)?;
        }
        let is_select = |text: &String| {
            let word = text.split_whitespace().find(|word| !word.starts_with("--")).unwrap_or_default().to_lowercase();
            matches!(word.as_str(), "select" | "with")
        };
        let (selects, statements): (Vec<String>, Vec<String>) =
            split(&self.block.text).into_iter().partition(is_select);
        statements.iter().try_for_each(|text| scenario.execute(text))?;
        let select = selects.into_iter().next();
        if let Some(select) = &select {
            scenario.script_of(select)?;
        }
        for block in &self.records {
            for line in block.text.lines() {
                match line.trim() {
                    commit if commit.to_lowercase().starts_with("commit") => scenario.execute(commit)?,
                    record => scenario.json(&block.name, record)?,
                }
            }
        }
        Ok((scenario, select))
    }

    fn result(&self, name: &str) -> Result<String, String> {
        let (mut scenario, select) = self.scenario()?;
        let (schema, rows) = match select {
            Some(select) => scenario.query(&select)?,
            None => scenario.query(&format!("SELECT * FROM {name}"))?,
        };
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut lines = vec![names.join(" | ")];
        lines.extend(rows.iter().map(|row| row.join(" | ")));
        Ok(lines.join("\n"))
    }
}

/// Returns the lines after the first `skip` ones, with one blank between words.
fn bare(text: &str, skip: usize) -> Vec<String> {
    text.lines().skip(skip).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_examples_of_the_reference_are_true() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sql.md")).unwrap();
    let blocks = blocks(&page);
    let (mut wrong, mut ran, mut compared) = (Vec::new(), 0, 0);
    let mut example: Option<Example<'_>> = None;
    for (index, block) in blocks.iter().enumerate() {
        let mut fail = |error: String| wrong.push(format!("docs/sql.md:{}: {error}\n{}", block.line, block.text));
        match block.kind.as_str() {
            "sql" => {
                let is_common =
                    |other: &&Block| other.kind == "sql" && (other.section == 0 || other.section == block.section);
                let before = blocks[..index].iter().filter(is_common).flat_map(tables_of).collect();
                let next = Example { before, block, records: Vec::new() };
                let refused = blocks.get(index + 1).is_some_and(|next| next.kind == "refused");
                if let (Err(error), false) = (next.scenario(), refused) {
                    fail(error);
                }
                ran += 1;
                example = Some(next);
            }
            "records" => example.as_mut().unwrap().records.push(block),
            "refused" => match example.as_ref().unwrap().scenario() {
                Ok(_) => fail("this is not refused".into()),
                Err(error) if bare(&error, 0).join(" ").contains(&bare(&block.text, 0).join(" ")) => compared += 1,
                Err(error) => fail(error),
            },
            "result" => match example.as_ref().unwrap().result(&block.name) {
                Ok(found) if bare(&found, 1) == bare(&block.text, 1) => compared += 1,
                Ok(found) => fail(format!("it gives\n{found}\n")),
                Err(error) => fail(error),
            },
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {ran} examples:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ran > 30 && compared > 30, "{ran} examples, {compared} compared: are they still found?");
}

/// Returns a block of tables and views, which later blocks can use; empty if it has other statements.
fn tables_of(block: &Block) -> Vec<&str> {
    let statements = split(&block.text);
    let has_insert = statements.iter().any(|text| matches!(Statement::of(text), Statement::Insert(_)));
    let defines =
        |text: &String| created_table(text).is_some() || text.trim().to_lowercase().starts_with("create view");
    match !has_insert && !statements.is_empty() && statements.iter().all(defines) {
        true => vec![block.text.as_str()],
        false => Vec::new(),
    }
}
