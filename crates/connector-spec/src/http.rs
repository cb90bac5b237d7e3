//! HTTP: rows POSTed as JSON.

use crate::spec::OptionValues;
use crate::spec::{ConnectorSpec, Default, Encoding, Fault, FaultAt, OptionKind, OptionSpec, Use};

const SINK: &[Use] = &[Use::Sink];

pub static HTTP: ConnectorSpec = ConnectorSpec {
    name: "http",
    aliases: &[],
    title: "HTTP",
    uses: SINK,
    options: &[
        OptionSpec {
            name: "url",
            aliases: &[],
            kind: OptionKind::Url,
            default: Default::Required("'https://example.com/rows'"),
            uses: SINK,
            about: "where rows are POSTed",
        },
        OptionSpec {
            name: "authorization",
            aliases: &[],
            kind: OptionKind::Secret,
            default: Default::None("none"),
            uses: SINK,
            about: "the header `Authorization`, such as `Bearer …`",
        },
        OptionSpec {
            name: "rows_per_request",
            aliases: &[],
            kind: OptionKind::Count,
            default: Default::Value("500"),
            uses: SINK,
            about: "maximum number of rows in one request",
        },
        OptionSpec {
            name: "request_timeout",
            aliases: &[],
            kind: OptionKind::Duration,
            default: Default::Value("30 seconds"),
            uses: SINK,
            about: "how long an answer is waited for; at most 1 minute",
        },
        OptionSpec {
            name: "retry_timeout",
            aliases: &[],
            kind: OptionKind::Duration,
            default: Default::Value("30 seconds"),
            uses: SINK,
            about: "how long an attempt retries a request; then its batch is recomputed and continues with that request; at most 1 minute",
        },
    ],
    properties: None,
    encoding: Encoding::Json,
    metadata: false,
    takes_back: false,
    place: None,
    lookup: None,
    describe: |values| format!("http {}", values.text("url").unwrap_or_default()),
    check,
};

/// Longest timeout in milliseconds: publishing must end before the driver gives up.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// Refuses timeouts that are too long, and a URL that contains a login, since URLs are shown and logged.
fn check(values: &OptionValues) -> Result<(), Fault> {
    for option in ["request_timeout", "retry_timeout"] {
        if values.number(option).is_some_and(|ms| ms > MAX_TIMEOUT_MS) {
            return Err(Fault {
                option: option.into(),
                at: FaultAt::Value,
                message: format!("'{option}' can be at most one minute"),
                hint: "write a shorter time: a request that is not accepted by then is sent again until it is".into(),
            });
        }
    }
    let url = values.text("url").unwrap_or_default();
    let authority = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    match authority.is_some_and(|authority| authority.contains('@')) {
        false => Ok(()),
        true => Err(Fault {
            option: "url".into(),
            at: FaultAt::Value,
            message: "a login in 'url' would be shown and logged with the URL".into(),
            hint: "write it as 'authorization' = '${env:NAME}', for example 'Basic …' or 'Bearer …'".into(),
        }),
    }
}
