//! What a declaration says.

mod reading;
mod values;

pub use reading::Reading;
pub use values::{OptionValue, OptionValues};

use std::fmt;

/// A connector, declared.
pub struct ConnectorSpec {
    /// As `'connector' = '…'` says it.
    pub name: &'static str,
    /// Other names that `'connector'` may say.
    pub aliases: &'static [&'static str],
    /// For sentences: `Kafka`.
    pub title: &'static str,
    /// What tables of it can be used for.
    pub uses: &'static [Use],
    /// Besides `connector` and the options of formats.
    pub options: &'static [OptionSpec],
    /// Options that all begin with the same, and are passed on.
    pub properties: Option<&'static PropertySpec>,
    pub encoding: Encoding,
    /// Its records have a key, a time and the like beside their value, as metadata columns.
    pub metadata: bool,
    /// A sink takes rows back that were written before: those with PRIMARY KEY.
    pub takes_back: bool,
    /// The option that says where in the connector the table is. Other tables beside it (of late rows, of bad records) are
    /// made from it.
    pub place: Option<PlaceSpec>,
    /// How rows look things up in its tables; `None`: they do not.
    pub lookup: Option<LookupKind>,
    /// The table for people, in a few words; never with a secret.
    pub describe: fn(&OptionValues) -> String,
    /// Finds what is wrong with options together.
    pub check: fn(&OptionValues) -> Result<(), Fault>,
}

/// What a table is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Its records are read as they come.
    Source,
    /// It is written.
    Sink,
    /// Rows look things up in it.
    Lookup,
}

/// How rows are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As records with a key and a value, each in a format of its own.
    Records,
    /// As files, in a format of files.
    Files,
    /// Always as JSON; `format` may say so.
    Json,
}

/// The option that says where in a connector a table is.
#[derive(Debug)]
pub struct PlaceSpec {
    pub option: &'static str,
    /// The column that says it for every row, in a sink without the option.
    pub column: &'static str,
}

/// How rows look things up in a table.
#[derive(Debug)]
pub enum LookupKind {
    /// In a version of the whole table, which the driver reads: all rows of a batch look up the same one.
    Snapshot {
        /// The option that says how often the driver looks whether there is a new version. A table without a value of it is
        /// read once in every run.
        refresh: &'static str,
    },
}

/// An option of a connector.
#[derive(Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    /// Other names of it, in snake_case.
    pub aliases: &'static [&'static str],
    pub kind: OptionKind,
    pub default: Default,
    /// Of which tables.
    pub uses: &'static [Use],
    /// One line for people.
    pub about: &'static str,
}

/// What stands for an option that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// Nothing: it must be there. An example, as it stands in a script.
    Required(&'static str),
    /// This value.
    Value(&'static str),
    /// No value; what that means, in a word.
    None(&'static str),
}

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// Shown as it is; takes no reference.
    Text,
    /// `http://…` or `https://…`; shown as it is, takes no reference.
    Url,
    /// Says who logs in, or whom to trust: no secret, but it comes with one and may be a reference, too.
    Login,
    /// Never shown.
    Secret,
    /// A file or folder of every process that opens it.
    Path,
    /// A whole number above zero.
    Count,
    Duration,
    /// Of how records are read. It may be `SET` for all tables that are read.
    Reading(Reading),
}

impl OptionKind {
    /// Whether a value may hold `${env:NAME}` and `${file:PATH}`.
    pub fn takes_references(self) -> bool {
        match self {
            Self::Login | Self::Secret | Self::Path => true,
            Self::Text | Self::Url | Self::Count | Self::Duration | Self::Reading(_) => false,
        }
    }

    /// What it decides of how records are read; `None`: nothing.
    pub fn reading(self) -> Option<Reading> {
        match self {
            Self::Reading(reading) => Some(reading),
            Self::Text | Self::Url | Self::Login | Self::Secret | Self::Path | Self::Count | Self::Duration => None,
        }
    }

    /// Its values, for people.
    pub fn values(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Url => "`http://…` or `https://…`",
            Self::Login => "text, or a [reference](#secrets)",
            Self::Secret => "a [secret](#secrets)",
            Self::Path => "a path",
            Self::Count => "a whole number above 0",
            Self::Duration => "a duration, `10 seconds`",
            Self::Reading(reading) => reading.values(),
        }
    }
}

/// Options that all begin with the same.
pub struct PropertySpec {
    pub prefix: &'static str,
    /// All that may be set, without the prefix.
    pub known: &'static [(&'static str, OptionKind)],
    /// One line for people.
    pub about: &'static str,
    /// Why one that is not known must not be set: message and remedy. `None`: it is just unknown.
    pub refusal: fn(&str) -> Option<(&'static str, &'static str)>,
}

impl PropertySpec {
    /// What kind of value a property takes; one that is not known is treated as a secret.
    pub fn kind(&self, property: &str) -> OptionKind {
        self.known.iter().find(|(name, _)| *name == property).map_or(OptionKind::Secret, |(_, kind)| *kind)
    }
}

/// What is wrong with an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name.
    pub option: String,
    pub at: FaultAt,
    pub message: String,
    pub hint: String,
}

/// Where in the script a fault is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAt {
    Name,
    Value,
}

impl ConnectorSpec {
    /// All names that `'connector'` may say, its own first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Whether a table can be used so.
    pub fn is(&self, wanted: Use) -> bool {
        self.uses.contains(&wanted)
    }

    pub fn option(&self, name: &str) -> Option<&'static OptionSpec> {
        self.options.iter().find(|option| option.name == name)
    }

    /// The property that an option sets, if it is one.
    pub fn property<'a>(&self, option: &'a str) -> Option<(&'static PropertySpec, &'a str)> {
        let spec = self.properties?;
        Some((spec, option.strip_prefix(spec.prefix).filter(|property| !property.is_empty())?))
    }

    /// What kind of value an option of it takes.
    pub fn kind(&self, option: &str) -> Option<OptionKind> {
        let own = self.option(option).map(|option| option.kind);
        own.or_else(|| self.property(option).map(|(spec, property)| spec.kind(property)))
    }
}

/// A name stands for its declaration.
impl PartialEq for ConnectorSpec {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ConnectorSpec {}

impl fmt::Debug for ConnectorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
