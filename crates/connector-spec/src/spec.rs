//! The form of a connector's declaration: its options, uses and encoding.

mod reading;
mod values;

pub use reading::Reading;
pub use values::{OptionValue, OptionValues};

use std::fmt;

/// The declaration of a connector.
pub struct ConnectorSpec {
    /// The value of `'connector'` in a script.
    pub name: &'static str,
    /// Other values of `'connector'` for the same connector.
    pub aliases: &'static [&'static str],
    /// Name in sentences for people: `Kafka`.
    pub title: &'static str,
    /// What tables of it can be used for.
    pub uses: &'static [Use],
    /// Its options, besides `connector` and the options of formats.
    pub options: &'static [OptionSpec],
    /// Options with a common prefix that are passed to the client library; `None` if it has none.
    pub properties: Option<&'static PropertySpec>,
    pub encoding: Encoding,
    /// Whether its tables have metadata columns, such as a record's key, time and headers.
    pub metadata: bool,
    /// Whether its sinks can retract rows that were written before, which tables with PRIMARY KEY need.
    pub takes_back: bool,
    /// The option that locates a table, such as `topic`; `None` if the connector has none. Tables for late rows and bad
    /// records are derived from a source by changing it.
    pub place: Option<PlaceSpec>,
    /// How its tables are looked up; `None` if they cannot be.
    pub lookup: Option<LookupKind>,
    /// Returns a short description of a table for people, without secrets.
    pub describe: fn(&OptionValues) -> String,
    /// Checks options that depend on each other, and values that need more than their kind.
    pub check: fn(&OptionValues) -> Result<(), Fault>,
}

/// What a table is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A stream: its records are read as they arrive.
    Source,
    /// Rows are written to it.
    Sink,
    /// A lookup join reads it.
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

/// The option that locates a table.
#[derive(Debug)]
pub struct PlaceSpec {
    pub option: &'static str,
    /// The column that locates each row instead, in a sink without the option.
    pub column: &'static str,
}

/// How rows look up a table.
#[derive(Debug)]
pub enum LookupKind {
    /// The driver reads the table whole, and all rows of a batch look up the same version.
    Snapshot {
        /// The option with the pause between two checks for a new version. Without a value, a table is read once per run.
        refresh: &'static str,
    },
}

/// An option of a connector.
#[derive(Debug)]
pub struct OptionSpec {
    pub name: &'static str,
    /// Other names of the option, in snake_case.
    pub aliases: &'static [&'static str],
    pub kind: OptionKind,
    pub default: Default,
    /// The uses of a table for which the option is allowed.
    pub uses: &'static [Use],
    /// One line of docs.
    pub about: &'static str,
}

/// What applies if an option is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// The option is required. Holds an example value, as written in a script.
    Required(&'static str),
    /// This value.
    Value(&'static str),
    /// The option has no value. Holds the text for the column "default" of the docs.
    None(&'static str),
}

/// The kind of value an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// Plain text; shown unredacted, takes no references.
    Text,
    /// `http://…` or `https://…`; shown unredacted, takes no references.
    Url,
    /// A user name, client id or certificate: shown, since it is not secret, but it may be a reference like the secrets
    /// beside it.
    Login,
    /// Never shown.
    Secret,
    /// A file or folder on the machine of every process that opens it.
    Path,
    /// A whole number above zero.
    Count,
    Duration,
    /// An option about reading. It may be `SET` for all sources of a script.
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

    /// Returns which option about reading it is; `None` if it is another option.
    pub fn reading(self) -> Option<Reading> {
        match self {
            Self::Reading(reading) => Some(reading),
            Self::Text | Self::Url | Self::Login | Self::Secret | Self::Path | Self::Count | Self::Duration => None,
        }
    }

    /// Returns the allowed values, for the docs.
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

/// Options with a common prefix, passed to the connector's client library.
pub struct PropertySpec {
    pub prefix: &'static str,
    /// All properties that a script may set, without the prefix.
    pub known: &'static [(&'static str, OptionKind)],
    /// One line of docs.
    pub about: &'static str,
    /// Returns why a property outside `known` is refused, as message and remedy; `None` if it is only unknown.
    pub refusal: fn(&str) -> Option<(&'static str, &'static str)>,
}

impl PropertySpec {
    /// Returns the kind of value a property takes; an unknown property is treated as a secret.
    pub fn kind(&self, property: &str) -> OptionKind {
        self.known.iter().find(|(name, _)| *name == property).map_or(OptionKind::Secret, |(_, kind)| *kind)
    }
}

/// An error in an option of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The option's name.
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
    /// Returns all values of `'connector'` for it, its own name first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Returns whether its tables can be used as `wanted`.
    pub fn is(&self, wanted: Use) -> bool {
        self.uses.contains(&wanted)
    }

    pub fn option(&self, name: &str) -> Option<&'static OptionSpec> {
        self.options.iter().find(|option| option.name == name)
    }

    /// Splits an option with the connector's prefix into its `PropertySpec` and the property; `None` for any other
    /// option.
    pub fn property<'a>(&self, option: &'a str) -> Option<(&'static PropertySpec, &'a str)> {
        let spec = self.properties?;
        Some((spec, option.strip_prefix(spec.prefix).filter(|property| !property.is_empty())?))
    }

    /// Returns the kind of value an option takes; `None` if the connector does not have the option.
    pub fn kind(&self, option: &str) -> Option<OptionKind> {
        let own = self.option(option).map(|option| option.kind);
        own.or_else(|| self.property(option).map(|(spec, property)| spec.kind(property)))
    }
}

/// Declarations are equal if their names are, since names are unique.
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
