//! The list of all connectors.
//!
//! Owns: the list. Does not own: the connectors.

use highwater_connector_api::api::Connector;

/// All connectors, in the order of their declarations.
pub static CONNECTORS: &[&dyn Connector] =
    &[&highwater_connector_kafka::Kafka, &crate::console::Console, &crate::filesystem::Filesystem, &crate::http::Http];

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_connector_api::lookup::Lookup;
    use highwater_connector_spec::{LookupKind, Use};

    #[test]
    fn every_declared_connector_is_here_and_does_what_it_declares() {
        let here: Vec<&str> = CONNECTORS.iter().map(|connector| connector.spec().name).collect();
        let declared: Vec<&str> = highwater_connector_spec::CONNECTORS.iter().map(|spec| spec.name).collect();
        assert_eq!(here, declared);
        for connector in CONNECTORS {
            assert_eq!(connector.source().is_some(), connector.spec().is(Use::Source), "{:?}", connector.spec());
            assert_eq!(connector.sink().is_some(), connector.spec().is(Use::Sink), "{:?}", connector.spec());
            match (connector.lookup(), &connector.spec().lookup) {
                (None, None) | (Some(Lookup::Snapshot(_)), Some(LookupKind::Snapshot { .. })) => {}
                (Some(_), None) | (None, Some(_)) => panic!("{:?}", connector.spec()),
            }
        }
    }
}
