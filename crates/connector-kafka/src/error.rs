//! Turning errors of librdkafka into errors of connectors.
//!
//! Owns: which error codes mean *retry*, *fix* or *fenced*. Does not own: the error type.

use highwater_connector_api::error::ConnectorError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Classifies an error of rdkafka. `context` names the call that failed, such as `listing topic 't'`.
pub fn classify(context: impl Into<String>, error: &KafkaError) -> ConnectorError {
    classify_code(context, error.rdkafka_error_code(), error.to_string())
}

/// Classifies an error code of librdkafka; `None` means an error in the client's own configuration.
pub fn classify_code(context: impl Into<String>, code: Option<RDKafkaErrorCode>, message: String) -> ConnectorError {
    let context = context.into();
    match code {
        Some(code) if is_fenced(code) => ConnectorError::Fenced { context, message },
        Some(code) if is_refused(code) => ConnectorError::Refused { context, message },
        Some(_) => ConnectorError::Unavailable { context, message },
        None => ConnectorError::Refused { context, message },
    }
}

/// Returns whether a producer with a higher epoch exists.
fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(code, C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch | C::FencedInstanceId)
}

/// Returns whether only a change of the cluster's or the query's configuration can fix the error.
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
