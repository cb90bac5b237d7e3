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
            about: "the topic; a sink may have a column `_topic` that names that of each row instead",
        },
        OptionSpec {
            name: "bootstrap.servers",
            aliases: &["bootstrap_servers", "kafka.bootstrap.servers"],
            kind: OptionKind::Text,
            default: Default::Required("'host:9092'"),
            uses: BOTH,
            about: "brokers to begin with, `host:port`, separated by commas",
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
            about: "where the query finishes",
        },
        OptionSpec {
            name: "max_offsets_per_trigger",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MaxOffsetsPerTrigger),
            default: Default::None("none"),
            uses: SOURCE,
            about: "offsets per batch, all partitions together",
        },
        OptionSpec {
            name: "min_offsets_per_trigger",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MinOffsetsPerTrigger),
            default: Default::None("none"),
            uses: SOURCE,
            about: "a batch waits for so many…",
        },
        OptionSpec {
            name: "max_trigger_delay",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MaxTriggerDelay),
            default: Default::None("15 minutes"),
            uses: SOURCE,
            about: "…but no longer than this",
        },
        OptionSpec {
            name: "max_records_per_second",
            aliases: &[],
            kind: OptionKind::Reading(Reading::MaxRecordsPerSecond),
            default: Default::None("none"),
            uses: SOURCE,
            about: "smooth, all partitions of the table together",
        },
        OptionSpec {
            name: "on_data_loss",
            aliases: &[],
            kind: OptionKind::Reading(Reading::OnDataLoss),
            default: Default::Value("fail"),
            uses: SOURCE,
            about: "what happens when records are gone before they were read",
        },
        OptionSpec {
            name: "on_bad_record",
            aliases: &[],
            kind: OptionKind::Reading(Reading::OnBadRecord),
            default: Default::Value("fail"),
            uses: SOURCE,
            about: "what happens to records that do not decode",
        },
        OptionSpec {
            name: "dead_letter_topic",
            aliases: &[],
            kind: OptionKind::Reading(Reading::DeadLetterTopic),
            default: Default::None("`<topic>-dead-letters`"),
            uses: SOURCE,
            about: "where dead letters go",
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
            about: "see watermarks in [sql.md](sql.md)",
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
