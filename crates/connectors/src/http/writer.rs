//! One writer's rows of a batch, and the requests they make.
//!
//! Owns: the rows until they are published, their order, keys and bodies. Does not own: sending (`endpoint`).
//! Invariants: the requests are a function of query, sink, writer, batch, the rows and `rows_per_request`, in whatever order
//! the rows came; nothing is sent before `publish`.

use super::endpoint::Endpoint;
use crate::error::ConnectorError;
use crate::sink::records::RecordEncoder;
use crate::sink::{Published, Writer, WriterConfig};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{AttemptId, BatchId};
use highwater_protocol::report::WriterReport;

pub struct HttpWriter {
    config: WriterConfig,
    endpoint: Endpoint,
    encoder: RecordEncoder,
    batch: BatchId,
    recompute_only: bool,
    /// As JSON; sorted by `flush`.
    rows: Vec<Box<[u8]>>,
    digest: u128,
    rows_per_request: usize,
}

/// A request, without where it goes.
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
        })
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
        if !self.recompute_only {
            self.requests().try_for_each(|Request { key, body }| self.endpoint.post(&key, &body))?;
        }
        self.rows.clear();
        Ok(Published::Committed)
    }

    fn abort(&mut self) {
        self.rows.clear();
        self.digest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use highwater_protocol::ids::{AttemptNumber, Epoch, QueryId, WriterId};
    use std::sync::Arc;

    const ATTEMPT: AttemptId = AttemptId { epoch: Epoch(1), number: AttemptNumber(1) };

    fn writer() -> HttpWriter {
        let script = "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='x:1', 'format'='json');
             CREATE TABLE o (id BIGINT) WITH ('connector'='http', 'url'='http://h/rows', 'rows_per_request'='2');
             INSERT INTO o SELECT id FROM t;";
        let table = highwater_planner::compile(script).unwrap().sinks[0].clone();
        let query = QueryId(uuid::Uuid::from_u128(7));
        HttpWriter::open(WriterConfig { table, query, query_name: "q".into(), writer: WriterId(3), epoch: 1 }).unwrap()
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
}
