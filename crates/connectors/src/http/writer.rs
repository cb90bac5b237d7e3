//! One writer's rows of a batch, and their requests.
//!
//! Owns: the rows until they are published, their order, and the keys and bodies of requests. Does not own: sending
//! (`endpoint`).
//! Invariants: the requests are a function of query, sink, writer, batch, the set of rows and `rows_per_request`, but
//! not of the order of rows; nothing is sent before `publish`.

use super::endpoint::Endpoint;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::records::RecordEncoder;
use highwater_connector_api::sink::{Published, Writer, WriterConfig};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId};
use highwater_protocol::report::WriterReport;
use std::time::{Duration, Instant};

/// Time after which one `publish` begins no more requests. The last request takes at most another minute
/// (`request_timeout`), so that `publish` returns before the driver's limit of three minutes.
const PUBLISH: Duration = Duration::from_secs(100);

pub struct HttpWriter {
    config: WriterConfig,
    endpoint: Endpoint,
    encoder: RecordEncoder,
    batch: BatchId,
    recompute_only: bool,
    /// Rows as JSON; sorted by `flush`.
    rows: Vec<Box<[u8]>>,
    digest: u128,
    rows_per_request: usize,
    taken: Option<Taken>,
}

/// How many requests of a batch have been accepted, for when the batch is published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    batch: BatchId,
    /// Digest of all rows of the batch.
    digest: u128,
    requests: usize,
}

/// A request, without its endpoint.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    key: String,
    body: Vec<u8>,
}

impl HttpWriter {
    pub fn open(config: WriterConfig) -> Result<Self, ConnectorError> {
        let rows_per_request = config.table.connector.values.number("rows_per_request").unwrap_or(1);
        Ok(Self {
            endpoint: Endpoint::open(&config.table)?,
            encoder: RecordEncoder::new(&config.table, "")?,
            rows_per_request: usize::try_from(rows_per_request).unwrap_or(usize::MAX),
            config,
            batch: BatchId::default(),
            recompute_only: false,
            rows: Vec::new(),
            digest: 0,
            taken: None,
        })
    }

    /// Sends requests, without those that were accepted before, until all are accepted or `end` is reached.
    fn send(&mut self, end: Instant) -> Result<Published, ConnectorError> {
        let (batch, digest) = (self.batch, self.digest);
        let same = self.taken.filter(|taken| (taken.batch, taken.digest) == (batch, digest));
        let mut done = same.map_or(0, |taken| taken.requests);
        let mut ended = Ok(Published::Committed);
        for Request { key, body } in self.requests().skip(done) {
            if Instant::now() >= end {
                let all = self.rows.len().div_ceil(self.rows_per_request);
                let message = format!("sink '{}': {done} of {all} requests have been accepted", self.config.table.name);
                ended = Ok(Published::Unfinished(message));
                break;
            }
            match self.endpoint.post(&key, &body, end) {
                Ok(()) => done += 1,
                Err(error) if error.kind() == ErrorKind::Retry => {
                    ended = Ok(Published::Unfinished(error.to_string()));
                    break;
                }
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        self.taken = Some(Taken { batch, digest, requests: done });
        ended
    }

    fn requests(&self) -> impl Iterator<Item = Request> {
        let (query, plan) = (self.config.query, self.config.plan());
        let prefix = format!("highwater-{query}-{}-{}-{}", plan.sink, plan.writer, self.batch);
        self.rows.chunks(self.rows_per_request).enumerate().map(move |(chunk, rows)| {
            let mut body = vec![b'['];
            body.extend_from_slice(&rows.join(&b","[..]));
            body.push(b']');
            Request { key: format!("{prefix}-{chunk}"), body }
        })
    }
}

impl Writer for HttpWriter {
    fn begin(&mut self, batch: BatchId, _: AttemptId, recompute_only: bool) {
        self.abort();
        (self.batch, self.recompute_only) = (batch, recompute_only);
    }

    fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError> {
        let Self { encoder, rows: kept, digest, .. } = self;
        encoder.encode(rows, |record| {
            *digest = digest.wrapping_add(record.digest());
            kept.push(record.value.unwrap_or(b"null").into());
            Ok(())
        })
    }

    fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        self.rows.sort_unstable();
        Ok(WriterReport { plan: self.config.plan(), rows: self.rows.len() as u64, digest: self.digest, token: None })
    }

    fn publish(&mut self) -> Result<Published, ConnectorError> {
        if self.recompute_only {
            self.rows.clear();
            return Ok(Published::Committed);
        }
        let outcome = self.send(Instant::now() + PUBLISH)?;
        if outcome == Published::Committed {
            self.rows.clear();
        }
        Ok(outcome)
    }

    fn abort(&mut self) {
        self.rows.clear();
        self.digest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server_tests::serve;
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use highwater_protocol::ids::{AttemptNumber, Epoch, QueryId, WriterId};
    use std::sync::Arc;

    const ATTEMPT: AttemptId = AttemptId { epoch: Epoch(1), number: AttemptNumber(1) };

    fn writer() -> HttpWriter {
        writer_to("http://h/rows")
    }

    fn writer_to(url: &str) -> HttpWriter {
        let script = format!(
            "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='x:1', 'format'='json');
             CREATE TABLE o (id BIGINT) WITH ('connector'='http', 'url'='{url}', 'rows_per_request'='2',
               'retry_timeout'='1 ms', 'authorization'='Bearer hunter2');
             INSERT INTO o SELECT id FROM t;"
        );
        let table = highwater_planner::compile(&script).unwrap().sinks[0].clone();
        let query = QueryId(uuid::Uuid::from_u128(7));
        HttpWriter::open(WriterConfig { table, query, query_name: "q".into(), writer: WriterId(3), epoch: 1 }).unwrap()
    }

    fn flushed(writer: &mut HttpWriter, batch: u64, ids: &[i64]) {
        writer.begin(BatchId(batch), ATTEMPT, false);
        let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        writer.write(&ChangeBatch::inserts(RecordBatch::try_from_iter([("id", ids)]).unwrap())).unwrap();
        writer.flush().unwrap();
    }

    fn requests(batch: u64, writes: &[&[i64]]) -> (WriterReport, Vec<Request>) {
        let mut writer = writer();
        writer.begin(BatchId(batch), ATTEMPT, false);
        for ids in writes {
            let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
            writer.write(&ChangeBatch::inserts(RecordBatch::try_from_iter([("id", ids)]).unwrap())).unwrap();
        }
        let report = writer.flush().unwrap();
        (report, writer.requests().collect())
    }

    #[test]
    fn a_repetition_makes_the_same_requests_whatever_the_order_of_its_rows() {
        let (report, first) = requests(5, &[&[1, 2], &[3]]);
        assert_eq!(requests(5, &[&[3, 1, 2]]), (report.clone(), requests(5, &[&[2], &[1, 3]]).1));
        assert_eq!(report.rows, 3);
        let of = |chunk: u32, body: &str| Request {
            key: format!("highwater-00000000-0000-0000-0000-000000000007-0-3-5-{chunk}"),
            body: body.as_bytes().to_vec(),
        };
        assert_eq!(first, [of(0, r#"[{"id":1},{"id":2}]"#), of(1, r#"[{"id":3}]"#)]);
        let (_, next) = requests(6, &[&[1, 2], &[3]]);
        assert!(next.iter().all(|request| first.iter().all(|other| other.key != request.key)));
    }

    #[test]
    fn an_attempt_that_is_dropped_leaves_no_row() {
        let mut writer = writer();
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        writer.write(&ChangeBatch::inserts(RecordBatch::try_from_iter([("id", ids)]).unwrap())).unwrap();
        writer.begin(BatchId(1), ATTEMPT, false);
        assert_eq!((writer.flush().unwrap().rows, writer.requests().count()), (0, 0));
    }

    #[test]
    fn a_batch_that_is_published_again_goes_on_where_it_stopped() {
        let ok = ("200 OK", "");
        let busy = ("503 Service Unavailable", "token hunter2 is busy");
        let (url, keys) = serve(vec![ok, busy, ok, ok, ok]);
        let mut writer = writer_to(&url);
        flushed(&mut writer, 5, &[1, 2, 3, 4, 5]);
        let Published::Unfinished(why) = writer.publish().unwrap() else { panic!("the second request was not taken") };
        assert!(why.contains("503") && !why.contains("hunter2"), "{why}");
        flushed(&mut writer, 5, &[5, 4, 3, 2, 1]);
        assert_eq!(writer.publish().unwrap(), Published::Committed);
        flushed(&mut writer, 6, &[1]);
        assert_eq!(writer.publish().unwrap(), Published::Committed);
        let keys = keys.join().unwrap();
        let chunks: Vec<&str> = keys.iter().map(|key| key.split("-0-3-").nth(1).unwrap()).collect();
        assert_eq!(chunks, ["5-0", "5-1", "5-1", "5-2", "6-0"]);
    }

    #[test]
    fn publishing_ends_when_its_time_is_over_and_goes_on_the_next_time() {
        let (url, keys) = serve(vec![("200 OK", "")]);
        let mut writer = writer_to(&url);
        flushed(&mut writer, 5, &[1]);
        let ended = writer.send(Instant::now()).unwrap();
        assert_eq!(ended, Published::Unfinished("sink 'o': 0 of 1 requests have been accepted".into()));
        assert_eq!(writer.publish().unwrap(), Published::Committed);
        assert_eq!(keys.join().unwrap().len(), 1);
    }
}
