//! The values that a script gives to the options of one table.
//!
//! Owns: values by name, including defaults. Does not own: checking them (SQL frontend). Invariant: every option of the
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
    /// Names without the prefix.
    properties: BTreeMap<String, String>,
}

impl OptionValues {
    /// Returns no values for a connector's options, not even defaults.
    pub fn of(spec: &'static ConnectorSpec) -> Self {
        Self { spec, values: BTreeMap::new(), properties: BTreeMap::new() }
    }

    pub fn spec(&self) -> &'static ConnectorSpec {
        self.spec
    }

    pub fn set(&mut self, option: &'static str, value: OptionValue) {
        self.values.insert(option, value);
    }

    /// Returns the same values with the option `option` set to `text`.
    pub fn with(mut self, option: &'static str, text: &str) -> Self {
        self.set(option, OptionValue::Text(text.to_string()));
        self
    }

    /// Returns the text of an option; `None` if it is not set or is a number.
    pub fn text(&self, option: &str) -> Option<&str> {
        match self.values.get(option)? {
            OptionValue::Text(text) => Some(text),
            OptionValue::Number(_) => None,
        }
    }

    /// Returns the number of an option (a count, or milliseconds); `None` if it is not set or is a text.
    pub fn number(&self, option: &str) -> Option<u64> {
        match self.values.get(option)? {
            OptionValue::Number(number) => Some(*number),
            OptionValue::Text(_) => None,
        }
    }

    /// Returns the properties by name, without their prefix.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties
    }

    /// Sets properties that are not set yet.
    pub fn add_properties(&mut self, more: BTreeMap<String, String>) {
        for (property, value) in more {
            self.properties.entry(property).or_insert(value);
        }
    }

    /// Returns every text value: the option's name with its prefix, the text, and the kind of value.
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
