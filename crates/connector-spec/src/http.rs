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
            about: "most rows in one request",
        },
        OptionSpec {
            name: "request_timeout",
            aliases: &[],
            kind: OptionKind::Duration,
            default: Default::Value("30 seconds"),
            uses: SINK,
            about: "longest wait for an answer; at most 1 minute",
        },
        OptionSpec {
            name: "retry_timeout",
            aliases: &[],
            kind: OptionKind::Duration,
            default: Default::Value("30 seconds"),
            uses: SINK,
            about: "how long a request is sent again before its batch is computed anew and goes on with it; at most 1 minute",
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

/// Longest value of a timeout, milliseconds: publishing must end before the driver gives up.
const MAX_TIMEOUT_MS: u64 = 60_000;

/// A URL is shown, so that no login may stand in it.
fn check(values: &OptionValues) -> Result<(), Fault> {
    for option in ["request_timeout", "retry_timeout"] {
        if values.number(option).is_some_and(|ms| ms > MAX_TIMEOUT_MS) {
            return Err(Fault {
                option: option.into(),
                at: FaultAt::Value,
                message: format!("'{option}' is one minute at most"),
                hint: "what was not taken by then is sent again, until it is".into(),
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
            message: "a login in 'url' would be shown wherever the URL is".into(),
            hint: "write it as 'authorization' = '${env:NAME}', for example 'Basic …' or 'Bearer …'".into(),
        }),
    }
}
