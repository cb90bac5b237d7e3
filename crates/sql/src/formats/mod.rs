//! The formats of records and files, as scripts see them.
//!
//! Owns: what a declaration says, a format as a table chose it, and which columns are in a record's key and value. Does
//! not own: the declarations (`list`), where a script says what (`sql::formats`), reading and writing: crate `connector-api`
//! has a codec for each declaration. Invariant: the options of a chosen format have passed its declaration.

mod list;

pub use list::{CSV, FORMATS, JSON, RAW};

use datafusion::arrow::datatypes::DataType;
use std::collections::BTreeMap;
use std::fmt;

/// A format, declared.
pub struct FormatSpec {
    /// As `'format' = '…'` says it.
    pub name: &'static str,
    pub options: &'static [OptionSpec],
    /// Records of it can be read.
    pub reads: bool,
    /// Records of it can be written.
    pub writes: bool,
    /// Keys of records may be of it, too.
    pub keys: bool,
    /// Files of it can be looked up, by this reader.
    pub files: Option<FileReader>,
    /// A record is one column, as it is, and NULL is no record.
    pub single: bool,
    /// Whether a column of this type can be read and written.
    pub holds: fn(&DataType) -> bool,
    /// What `holds` says, in words.
    pub types: &'static str,
    /// What is wrong with these options together, and which of them it is.
    pub conflict: fn(&Format) -> Option<(&'static str, &'static str)>,
}

/// An option of a format.
#[derive(Debug)]
pub struct OptionSpec {
    /// With the format's name before it: `csv.delimiter`.
    pub name: &'static str,
    pub kind: OptionKind,
    pub default: &'static str,
    pub scope: OptionScope,
    /// One line for people.
    pub about: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    Flag,
    /// One ASCII character, no end of line; `\t` is a tab.
    Character,
    /// Any text, an empty one too.
    Text,
}

/// Where an option means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionScope {
    Everywhere,
    Files,
    Records,
}

/// What reads whole files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileReader {
    Csv,
    Json,
}

impl OptionKind {
    /// The value as it is kept.
    ///
    /// # Errors
    /// It is none; the text says what would be.
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

/// A format as a table chose it.
#[derive(Clone)]
pub struct Format {
    spec: &'static FormatSpec,
    /// Options that are not as declared.
    set: BTreeMap<&'static str, String>,
}

impl Format {
    /// With all options as declared.
    pub fn of(spec: &'static FormatSpec) -> Self {
        Self { spec, set: BTreeMap::new() }
    }

    pub fn spec(&self) -> &'static FormatSpec {
        self.spec
    }

    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Sets an option of its declaration.
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

    /// The value of an option; empty where the declaration has none of this name.
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

/// Formats are the same if they do the same.
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
