//! The HTTP sink: POSTs rows as JSON when their batch is published.
//!
//! Owns: the requests of a writer (`writer`), and sending them (`endpoint`). Does not own: when to publish (protocol).
//! Invariant: a batch that is published again sends the same requests with the same keys and bodies, whatever the order
//! in which its rows were computed.

mod endpoint;
#[cfg(test)]
mod server_tests;
mod writer;

use endpoint::Endpoint;
use highwater_connector_api::api::Connector;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::lookup::Lookup;
use highwater_connector_api::sink::{Committer, SinkConnector, Writer, WriterConfig};
use highwater_connector_api::source::SourceConnector;
use highwater_connector_spec::{ConnectorSpec, HTTP};
use highwater_protocol::ids::QueryId;
use highwater_sql::tables::SinkTable;
use writer::HttpWriter;

/// The HTTP connector.
pub struct Http;

impl Connector for Http {
    fn spec(&self) -> &'static ConnectorSpec {
        &HTTP
    }

    fn source(&self) -> Option<&dyn SourceConnector> {
        None
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        Some(self)
    }

    fn lookup(&self) -> Option<Lookup<'_>> {
        None
    }
}

impl SinkConnector for Http {
    /// Checks the options. Nothing is sent, since an endpoint may not accept an empty request.
    fn prepare(&self, table: &SinkTable, _: QueryId) -> Result<(), ConnectorError> {
        Endpoint::open(table).map(drop)
    }

    fn open(&self, config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError> {
        Ok(Box::new(HttpWriter::open(config)?))
    }

    fn committer(&self) -> Committer<'_> {
        Committer::None {
            guarantee: "each request is sent at least once, and a repeated one has the Idempotency-Key and the body of the first",
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_planner::compile;

    const SOURCE: &str = "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='h:1', 'format'='json');";

    fn sink(columns: &str, options: &str) -> Result<highwater_planner::CompiledQuery, String> {
        let table = format!("CREATE TABLE o ({columns}) WITH ('connector'='http', {options});");
        compile(&format!("{SOURCE}\n{table}\nINSERT INTO o SELECT id FROM t;")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_it_cannot_do_is_refused_when_a_script_is_compiled() {
        let url = "'url'='https://h/rows'";
        for (columns, options, expected) in [
            ("id BIGINT, PRIMARY KEY (id) NOT ENFORCED", url, "'o' has a PRIMARY KEY, and HTTP cannot retract rows"),
            (
                "id BIGINT",
                "'rows_per_request'='5'",
                "lacks the option 'url'\n  hint: add 'url' = 'https://example.com/rows'",
            ),
            ("id BIGINT", "'url'='ftp://h/rows'", "hint: write a URL"),
            ("id BIGINT", "'url'='https://me:hunter2@h/rows'", "a login in 'url' would be shown"),
            ("id BIGINT", "'url'='https://h', 'rows_per_request'='0'", "'0' is not a value of 'rows_per_request'"),
            (
                "id BIGINT",
                "'url'='https://h', 'request_timeout'='2 minutes'",
                "'request_timeout' can be at most one minute",
            ),
            ("id BIGINT", "'url'='https://h', 'format'='csv'", "rows for HTTP are always JSON"),
            ("id BIGINT", "'url'='https://h', 'autorization'='x'", "did you mean 'authorization'?"),
            ("id BIGINT", "'url'='https://h', 'authorization'='hunter2${env:'", "'******' is not a value"),
        ] {
            let error = sink(columns, options).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{options}: {error}");
        }
        let read = "CREATE TABLE o (id BIGINT) WITH ('connector'='http', 'url'='https://h');
            CREATE TABLE c (id BIGINT) WITH ('connector'='console'); INSERT INTO c SELECT id FROM o;";
        assert!(compile(read).unwrap_err().to_string().contains("the http connector only writes"));
    }

    #[test]
    fn its_secret_is_warned_of_and_never_shown() {
        let query = sink("id BIGINT", "'url'='https://h/rows', 'authorization'='Bearer hunter2'").unwrap();
        assert!(query.warnings.iter().any(|warning| warning.contains("the value of 'authorization' stands")));
        let shown = format!("{}{}{:?}", query.explain_text(), query.explain_json(), query.warnings);
        assert!(shown.contains("http https://h/rows") && !shown.contains("hunter2"), "{shown}");
    }
}
