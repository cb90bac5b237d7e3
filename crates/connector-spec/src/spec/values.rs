//! The options of a table as a script chose them.
//!
//! Owns: values by name, defaults among them. Does not own: checking them (SQL frontend). Invariant: every option of the
//! declaration that has a default has a value; references to secrets stay unresolved.

use super::{ConnectorSpec, OptionKind};
use std::collections::BTreeMap;

/// A value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    Text(String),
    /// A count, or milliseconds.
    Number(u64),
}

/// Values by option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionValues {
    spec: &'static ConnectorSpec,
    values: BTreeMap<&'static str, OptionValue>,
    /// Without their prefix.
    properties: BTreeMap<String, String>,
}

impl OptionValues {
    /// None yet.
    pub fn of(spec: &'static ConnectorSpec) -> Self {
        Self { spec, values: BTreeMap::new(), properties: BTreeMap::new() }
    }

    pub fn spec(&self) -> &'static ConnectorSpec {
        self.spec
    }

    pub fn set(&mut self, option: &'static str, value: OptionValue) {
        self.values.insert(option, value);
    }

    /// The same with another text for an option.
    pub fn with(mut self, option: &'static str, text: &str) -> Self {
        self.set(option, OptionValue::Text(text.to_string()));
        self
    }

    /// The text of an option; `None` if it has none.
    pub fn text(&self, option: &str) -> Option<&str> {
        match self.values.get(option)? {
            OptionValue::Text(text) => Some(text),
            OptionValue::Number(_) => None,
        }
    }

    /// The number of an option, or its milliseconds; `None` if it has none.
    pub fn number(&self, option: &str) -> Option<u64> {
        match self.values.get(option)? {
            OptionValue::Number(number) => Some(*number),
            OptionValue::Text(_) => None,
        }
    }

    /// Without their prefix.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties
    }

    /// Sets properties that are not set yet.
    pub fn add_properties(&mut self, more: BTreeMap<String, String>) {
        for (property, value) in more {
            self.properties.entry(property).or_insert(value);
        }
    }

    /// Every text, under its option's whole name, with what kind of value it is.
    pub fn texts(&self) -> Vec<(String, &str, OptionKind)> {
        let own = self.values.iter().filter_map(|(name, value)| match value {
            OptionValue::Text(text) => Some((name.to_string(), text.as_str(), self.spec.option(name)?.kind)),
            OptionValue::Number(_) => None,
        });
        let passed = self.properties.iter().filter_map(|(property, value)| {
            let spec = self.spec.properties?;
            Some((format!("{}{property}", spec.prefix), value.as_str(), spec.kind(property)))
        });
        own.chain(passed).collect()
    }
}
