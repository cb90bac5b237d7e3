//! The list of all connectors.
//!
//! Owns: the list, and lookups over the options of all connectors. Does not own: the declarations.

use crate::spec::{ConnectorSpec, OptionKind, Reading};

/// All connectors, the most common first.
pub static CONNECTORS: &[&ConnectorSpec] =
    &[&crate::kafka::KAFKA, &crate::console::CONSOLE, &crate::filesystem::FILESYSTEM, &crate::http::HTTP];

/// Returns the connector whose name or alias is `name`, ignoring case.
pub fn find(name: &str) -> Option<&'static ConnectorSpec> {
    CONNECTORS.iter().copied().find(|spec| spec.names().any(|own| own.eq_ignore_ascii_case(name)))
}

/// Returns the option's own name if `name` is an alias of it.
pub fn unaliased(name: &str) -> Option<&'static str> {
    let mut options = CONNECTORS.iter().flat_map(|spec| spec.options);
    options.find(|option| option.aliases.contains(&name)).map(|option| option.name)
}

/// Returns which option about reading has this name, in any connector; `None` if it is another option.
pub fn reading(name: &str) -> Option<Reading> {
    CONNECTORS.iter().find_map(|spec| spec.option(name)?.kind.reading())
}

/// Returns whether an option may be `SET` for all sources of a script.
pub fn settable(name: &str) -> bool {
    reading(name).is_some() || CONNECTORS.iter().any(|spec| spec.property(name).is_some())
}

/// Returns whether the value of an option is secret in any connector.
pub fn is_secret(name: &str) -> bool {
    CONNECTORS.iter().any(|spec| spec.kind(name) == Some(OptionKind::Secret))
}

/// Returns whether a piece of a script contains the name of an option that may hold a secret.
pub fn may_hide_secret(piece: &str) -> bool {
    let piece = &piece.to_ascii_lowercase();
    let passes = |spec: &ConnectorSpec| spec.properties.is_some_and(|properties| piece.contains(properties.prefix));
    let names = |spec: &ConnectorSpec| {
        spec.options.iter().any(|option| option.kind == OptionKind::Secret && piece.contains(option.name))
    };
    CONNECTORS.iter().any(|spec| passes(spec) || names(spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Default, LookupKind, Use};
    use std::collections::BTreeMap;

    #[test]
    fn an_option_that_may_be_a_secret_is_known_however_it_is_written() {
        for piece in ["'authorization' 'x'", "'Authorization' 'x'", "AUTHORIZATION = x", "'Kafka.sasl.password' x"] {
            assert!(may_hide_secret(piece), "{piece}");
        }
        assert!(!may_hide_secret("'topic' 't'"));
    }

    #[test]
    fn every_name_is_that_of_one_connector() {
        let names: Vec<&str> = CONNECTORS.iter().flat_map(|spec| spec.names()).collect();
        for name in &names {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
            assert!(find(&name.to_uppercase()).is_some_and(|spec| spec.names().any(|own| own == *name)));
        }
        assert_eq!(find("file"), find("filesystem"));
    }

    #[test]
    fn declarations_are_whole() {
        for spec in CONNECTORS {
            assert!(!spec.uses.is_empty(), "{spec:?} does nothing");
            let names: Vec<&str> = spec.options.iter().map(|option| option.name).collect();
            for option in spec.options {
                assert!(option.uses.iter().all(|one| spec.is(*one)), "{spec:?} {}", option.name);
                assert!(!option.uses.is_empty() && !option.about.is_empty(), "{spec:?} {}", option.name);
                assert_eq!(names.iter().filter(|name| **name == option.name).count(), 1, "{}", option.name);
            }
            if let Some(place) = &spec.place {
                assert!(spec.option(place.option).is_some(), "{spec:?}");
            }
            assert_eq!(spec.lookup.is_some(), spec.is(Use::Lookup), "{spec:?}");
            if let Some(LookupKind::Snapshot { refresh }) = &spec.lookup {
                assert_eq!(spec.kind(refresh), Some(OptionKind::Duration), "{spec:?}");
            }
            let readings: Vec<Reading> = spec.options.iter().filter_map(|option| option.kind.reading()).collect();
            assert!(readings.is_empty() || spec.is(Use::Source), "{spec:?}");
            for one in &readings {
                assert_eq!(readings.iter().filter(|other| *other == one).count(), 1, "{spec:?} {one:?}");
            }
        }
    }

    /// `SET` applies such an option to all sources, whatever their connectors.
    #[test]
    fn an_option_about_reading_is_the_same_in_every_connector() {
        for option in CONNECTORS.iter().flat_map(|spec| spec.options) {
            assert_eq!(option.kind.reading(), reading(option.name), "{}", option.name);
        }
    }

    /// An option that several connectors have is secret in all of them or in none, and has the same aliases.
    #[test]
    fn an_option_of_several_connectors_is_as_secret_in_each() {
        let mut secrets: BTreeMap<&str, bool> = BTreeMap::new();
        for option in CONNECTORS.iter().flat_map(|spec| spec.options) {
            let is_secret = option.kind == OptionKind::Secret;
            assert_eq!(*secrets.entry(option.name).or_insert(is_secret), is_secret, "{}", option.name);
            assert!(option.aliases.iter().all(|alias| unaliased(alias) == Some(option.name)), "{}", option.name);
            assert!(!is_secret || !matches!(option.default, Default::Value(_)), "{}", option.name);
        }
    }

    #[test]
    fn whatever_may_be_secret_is_known_by_its_name() {
        assert!(is_secret("kafka.sasl.password") && is_secret("kafka.no.such.property") && !is_secret("topic"));
        assert!(!is_secret("kafka.client.id") && may_hide_secret("'kafka.sasl.password'") && !may_hide_secret("topic"));
        assert!(settable("starting_offsets") && settable("kafka.client.id") && !settable("topic"));
    }
}
