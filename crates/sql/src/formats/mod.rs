//! The formats of records and files, as scripts see them.
//!
//! Owns: the shape of declarations, and a table's chosen format. Does not own: the declarations (`list`), which options a
//! script sets where (`format_options`), reading and writing: crate `connector-api` has a codec for each declaration.
//! Invariant: the options of a chosen format have passed its declaration.

mod list;

pub use list::{CSV, FORMATS, JSON, RAW};

use datafusion::arrow::datatypes::DataType;
use std::collections::BTreeMap;
use std::fmt;

/// The declaration of a format.
pub struct FormatSpec {
    /// Its name, the value of `'format'`.
    pub name: &'static str,
    pub options: &'static [OptionSpec],
    /// True if records of this format can be read.
    pub reads: bool,
    /// True if records of this format can be written.
    pub writes: bool,
    /// True if record keys can have this format.
    pub keys: bool,
    /// Reads files of this format for lookups; `None` = files cannot have it.
    pub files: Option<FileReader>,
    /// True if the value, or the key, is a single column without any encoding, whose NULL is a missing value or key.
    pub single: bool,
    /// Returns true if columns of this type can be read and written.
    pub holds: fn(&DataType) -> bool,
    /// The types for which `holds` is true, in words.
    pub types: &'static str,
    /// Returns an option that does not go with the others, and why; `None` if all go together.
    pub conflict: fn(&Format) -> Option<(&'static str, &'static str)>,
}

/// An option of a format.
#[derive(Debug)]
pub struct OptionSpec {
    /// Begins with the format's name: `csv.delimiter`.
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
    /// Returns the value in the form that [`Format`] keeps.
    ///
    /// # Errors
    /// If the value is invalid; the text shows valid ones.
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
    /// Options whose values differ from their defaults.
    set: BTreeMap<&'static str, String>,
}

impl Format {
    /// Returns the format with the defaults of all options.
    pub fn of(spec: &'static FormatSpec) -> Self {
        Self { spec, set: BTreeMap::new() }
    }

    pub fn spec(&self) -> &'static FormatSpec {
        self.spec
    }

    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Sets an option of the format's declaration.
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

    /// Returns the value of an option; empty if the format does not have it.
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

/// Formats are equal if name and options are; two declarations never share a name.
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
