//! Errors of librdkafka as errors of connectors.
//!
//! Owns: which of *retry, fix, fenced* a code is. Does not own: the error type.

use highwater_connector_api::error::ConnectorError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Classifies an error of rdkafka. `context` says what was tried, such as `listing topic 't'`.
pub fn classify(context: impl Into<String>, error: &KafkaError) -> ConnectorError {
    classify_code(context, error.rdkafka_error_code(), error.to_string())
}

/// Classifies an error code of librdkafka. `None`: the error is about the client's own configuration.
pub fn classify_code(context: impl Into<String>, code: Option<RDKafkaErrorCode>, message: String) -> ConnectorError {
    let context = context.into();
    match code {
        Some(code) if is_fenced(code) => ConnectorError::Fenced { context, message },
        Some(code) if is_refused(code) => ConnectorError::Refused { context, message },
        Some(_) => ConnectorError::Unavailable { context, message },
        None => ConnectorError::Refused { context, message },
    }
}

/// A higher producer epoch exists.
fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(code, C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch | C::FencedInstanceId)
}

/// Errors only a change of the cluster's or query's configuration can cure.
pub fn is_refused(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::UnknownTopic
            | C::UnknownPartition
            | C::UnknownTopicOrPartition
            | C::InvalidTopic
            | C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::TransactionalIdAuthorizationFailed
            | C::InvalidArgument
            | C::UnsupportedFeature
            | C::UnsupportedVersion
            | C::PolicyViolation
            | C::InvalidConfig
            | C::InvalidReplicationFactor
            | C::MessageSizeTooLarge
    )
}
