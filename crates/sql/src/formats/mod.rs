//! The formats of records and files, as scripts see them.
//!
//! Owns: the form of a declaration, and a table's format with its options. Does not own: the declarations (`list`),
//! parsing a script's options (`format_options`), reading and writing: crate `connector-api` has a codec for each
//! declaration. Invariant: the options of a table's format have been checked against its declaration.

mod list;

pub use list::{CSV, FORMATS, JSON, RAW};

use datafusion::arrow::datatypes::DataType;
use std::collections::BTreeMap;
use std::fmt;

/// The declaration of a format.
pub struct FormatSpec {
    /// The value of `'format'` in a script.
    pub name: &'static str,
    pub options: &'static [OptionSpec],
    /// Whether records can be read.
    pub reads: bool,
    /// Whether records can be written.
    pub writes: bool,
    /// Whether the keys of records can have this format, too.
    pub keys: bool,
    /// The reader of files for lookup joins; `None` if files cannot have this format.
    pub files: Option<FileReader>,
    /// Whether a record consists of one column, unchanged, and NULL is a missing value or key.
    pub single: bool,
    /// Returns whether a column of this type can be read and written.
    pub holds: fn(&DataType) -> bool,
    /// The types that `holds` accepts, in words.
    pub types: &'static str,
    /// Checks options that depend on each other. Returns the option at fault and the reason; `None` if they agree.
    pub conflict: fn(&Format) -> Option<(&'static str, &'static str)>,
}

/// An option of a format.
#[derive(Debug)]
pub struct OptionSpec {
    /// The name with the format's name as prefix: `csv.delimiter`.
    pub name: &'static str,
    pub kind: OptionKind,
    pub default: &'static str,
    pub scope: OptionScope,
    /// One line of docs.
    pub about: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    Flag,
    /// One ASCII character, no end of line; `\t` is a tab.
    Character,
    /// Any text, including an empty one.
    Text,
}

/// Where an option applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionScope {
    Everywhere,
    Files,
    Records,
}

/// The reader of whole files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileReader {
    Csv,
    Json,
}

impl OptionKind {
    /// Checks a value and returns it in its normal form.
    ///
    /// # Errors
    /// The value is invalid; the error says what to write instead.
    pub fn parse(self, value: &str) -> Result<String, &'static str> {
        match self {
            Self::Text => Ok(value.to_string()),
            Self::Flag => match value.trim().to_ascii_lowercase() {
                word if word == "true" || word == "false" => Ok(word),
                _ => Err("write one of 'true', 'false'"),
            },
            Self::Character => {
                let value = if value == "\\t" { "\t" } else { value };
                match value.as_bytes() {
                    [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Ok(value.to_string()),
                    _ => Err("write one character, such as ';' or '\\t' for a tab"),
                }
            }
        }
    }
}

/// The format of a table, with its options.
#[derive(Clone)]
pub struct Format {
    spec: &'static FormatSpec,
    /// Options that differ from their defaults.
    set: BTreeMap<&'static str, String>,
}

impl Format {
    /// Returns the format with all options at their defaults.
    pub fn of(spec: &'static FormatSpec) -> Self {
        Self { spec, set: BTreeMap::new() }
    }

    pub fn spec(&self) -> &'static FormatSpec {
        self.spec
    }

    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Sets an option, which must belong to the format's declaration.
    ///
    /// # Errors
    /// As [`OptionKind::parse`].
    pub fn set(&mut self, option: &'static OptionSpec, value: &str) -> Result<(), &'static str> {
        let value = option.kind.parse(value)?;
        if value == option.default {
            self.set.remove(option.name);
        } else {
            self.set.insert(option.name, value);
        }
        Ok(())
    }

    /// Returns the value of an option; empty if the declaration has no option of this name.
    pub fn text(&self, option: &str) -> &str {
        let declared = || self.spec.options.iter().find(|one| one.name == option);
        match self.set.get(option) {
            Some(value) => value,
            None => declared().map_or("", |one| one.default),
        }
    }

    pub fn flag(&self, option: &str) -> bool {
        self.text(option) == "true"
    }

    pub fn character(&self, option: &str) -> u8 {
        self.text(option).bytes().next().unwrap_or_default()
    }
}

/// Formats are equal if their names and the values of their options are.
impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.set == other.set
    }
}

impl Eq for Format {}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name(), self.set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_whole() {
        for spec in FORMATS {
            assert!(spec.reads || spec.writes || spec.files.is_some(), "{} does nothing", spec.name);
            for option in spec.options {
                assert!(option.name.starts_with(&format!("{}.", spec.name)), "{}", option.name);
                assert_eq!(option.kind.parse(option.default).as_deref(), Ok(option.default), "{}", option.name);
            }
            assert_eq!((spec.conflict)(&Format::of(spec)), None, "{}", spec.name);
        }
    }

    #[test]
    fn docs_have_every_option_with_its_default() {
        let docs = include_str!("../../../../docs/connectors.md");
        for option in FORMATS.iter().flat_map(|spec| spec.options) {
            let row = format!("| `{}` | {} |", option.name, option.about);
            assert!(docs.contains(&row), "docs/connectors.md lacks the row {row}");
        }
    }
}
