//! Kafka: topics that are read and written.

mod properties;

pub use properties::PROPERTIES;

use crate::spec::{ConnectorSpec, Default, Encoding, OptionKind, OptionSpec, PlaceSpec, Reading, Use};

const SOURCE: &[Use] = &[Use::Source];
const BOTH: &[Use] = &[Use::Source, Use::Sink];

pub static KAFKA: ConnectorSpec = ConnectorSpec {
    name: "kafka",
    aliases: &[],
    title: "Kafka",
    uses: BOTH,
    options: &[
        OptionSpec {
            name: "topic",
            aliases: &["subscribe"],
            kind: OptionKind::Text,
            default: Default::None("none"),
            uses: BOTH,
            about: "the topic; a sink may instead have a column `_topic` with the topic of each row",
        },
        OptionSpec {
            name: "bootstrap.servers",
            aliases: &["bootstrap_servers", "kafka.bootstrap.servers"],
            kind: OptionKind::Text,
            default: Default::Required("'host:9092'"),
            uses: BOTH,
            about: "brokers for the first connection, `host:port`, separated by commas",
        },
        OptionSpec {
            name: "starting_offsets",
            aliases: &[],
            kind: OptionKind::Reading(Reading::StartingOffsets),
            default: Default::Value("earliest"),
            uses: SOURCE,
            about: "where the first batch begins",
        },
        OptionSpec {
            name: "ending_offsets",
            aliases: &[],
            kind: OptionKind::Reading(Reading::EndingOffsets),
            default: Default::None("none"),
            uses: SOURCE,
            about: "where the query stops reading and finishes",
        },
        OptionSpec {
            name: "max_offsets_per_trigger",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MaxOffsetsPerTrigger),
            default: Default::None("none"),
            uses: SOURCE,
            about: "maximum number of offsets per batch, summed over all partitions",
        },
        OptionSpec {
            name: "min_offsets_per_trigger",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MinOffsetsPerTrigger),
            default: Default::None("none"),
            uses: SOURCE,
            about: "number of offsets that a batch waits for",
        },
        OptionSpec {
            name: "max_trigger_delay",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MaxTriggerDelay),
            default: Default::None("15 minutes"),
            uses: SOURCE,
            about: "longest time that a batch waits for `min_offsets_per_trigger`",
        },
        OptionSpec {
            name: "max_records_per_second",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MaxRecordsPerSecond),
            default: Default::None("none"),
            uses: SOURCE,
            about: "maximum rate of reading, summed over all partitions of the table",
        },
        OptionSpec {
            name: "on_data_loss",
            aliases: &[],
            kind: OptionKind::Reading(Reading::OnDataLoss),
            default: Default::Value("fail"),
            uses: SOURCE,
            about: "what happens if records are deleted before they are read",
        },
        OptionSpec {
            name: "on_bad_record",
            aliases: &[],
            kind: OptionKind::Reading(Reading::OnBadRecord),
            default: Default::Value("fail"),
            uses: SOURCE,
            about: "what happens to records that cannot be decoded, or on which an expression fails",
        },
        OptionSpec {
            name: "dead_letter_topic",
            aliases: &[],
            kind: OptionKind::Reading(Reading::DeadLetterTopic),
            default: Default::None("`<topic>-dead-letters`"),
            uses: SOURCE,
            about: "topic for bad records with `on_bad_record` = `dead_letter`",
        },
        OptionSpec {
            name: "late_topic",
            aliases: &[],
            kind: OptionKind::Reading(Reading::LateTopic),
            default: Default::None("none"),
            uses: SOURCE,
            about: "topic for rows that operators drop as late, see [sql.md](sql.md#windows-and-time)",
        },
        OptionSpec {
            name: "idle_timeout",
            aliases: &[],
            kind: OptionKind::Reading(Reading::IdleTimeout),
            default: Default::Value("60 seconds"),
            uses: SOURCE,
            about: "how long an idle partition holds back the watermark, see [sql.md](sql.md#windows-and-time)",
        },
        OptionSpec {
            name: "isolation_level",
            aliases: &[],
            kind: OptionKind::Reading(Reading::IsolationLevel),
            default: Default::Value("read_committed"),
            uses: SOURCE,
            about: "whether records of open and aborted transactions are read",
        },
    ],
    properties: Some(&PROPERTIES),
    encoding: Encoding::Records,
    metadata: true,
    takes_back: true,
    place: Some(PlaceSpec { option: "topic", column: "_topic" }),
    lookup: None,
    describe: |values| match values.text("topic") {
        Some(topic) => format!("kafka topic {topic}"),
        None => "kafka topic by _topic".into(),
    },
    check: properties::check_login,
};
