//! One call to another executor's exchange: the rows of one task for all tasks on that executor.
//!
//! Owns: the bounded queue of the call, and why the call ended. Does not own: what is sent (`sender`).

use crate::error::TaskError;
use highwater_proto::MAX_MESSAGE_BYTES;
use highwater_proto::v1::PushBatchesRequest;
use highwater_proto::v1::exchange_service_client::ExchangeServiceClient;
use highwater_protocol::ids::ExecutorId;
use highwater_security::credentials::Authenticated;
use highwater_security::dial;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// Number of messages that may wait for one receiving executor.
const QUEUE: usize = 8;
/// How long a call that accepts no more messages may take to report why.
const REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// A call in progress. Dropping it cancels the call.
pub struct Call {
    address: String,
    queue: Option<mpsc::Sender<PushBatchesRequest>>,
    /// `None` once its result has been taken.
    result: Option<JoinHandle<Result<(), TaskError>>>,
}

impl Call {
    pub fn open(channel: Authenticated, peer: ExecutorId, address: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let to = address.to_string();
        let result = tokio::spawn(async move {
            let mut client = ExchangeServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            let pushed = client.push_batches(ReceiverStream::new(waiting)).await;
            pushed.map(drop).map_err(|status| failed(peer, to, &status))
        });
        Self { address: address.to_string(), queue: Some(queue), result: Some(result) }
    }

    /// Sends a message. Blocks while the receiver is behind. If the call has ended, returns its error.
    pub fn send(&mut self, message: PushBatchesRequest) -> Result<(), TaskError> {
        match &self.queue {
            Some(queue) if queue.blocking_send(message).is_ok() => Ok(()),
            _ => {
                let reason = async { tokio::time::timeout(REASON_TIMEOUT, self.finish()).await };
                Err(match Handle::current().block_on(reason) {
                    Ok(Err(error)) => error,
                    _ => TaskError::Exchange(format!("executor at {} accepts no more rows", self.address)),
                })
            }
        }
    }

    /// Waits until the receiver has taken everything.
    pub async fn finish(&mut self) -> Result<(), TaskError> {
        self.queue = None;
        // The handle stays in `self` while it is awaited, so that dropping `self` cancels the call.
        let Some(result) = &mut self.result else { return Ok(()) };
        let result = result.await;
        self.result = None;
        result.map_err(|_| TaskError::Exchange(format!("the call to {} was cancelled", self.address)))?
    }
}

/// An answer of the other executor has no source error; a broken connection has one.
fn failed(peer: ExecutorId, address: String, status: &Status) -> TaskError {
    let broken = status.code() == Code::Unavailable || std::error::Error::source(status).is_some();
    let message = dial::explain(status).unwrap_or_else(|| status.message().to_string());
    match broken {
        true => TaskError::Unreachable { peer, address, message },
        false if status.code() == Code::ResourceExhausted => TaskError::NoMemoryThere { address, message },
        false => TaskError::Exchange(format!("executor at {address}: {message}")),
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(call) = &self.result {
            call.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use highwater_proto::v1::PushBatchesResponse;
    use highwater_proto::v1::exchange_service_server::{ExchangeService, ExchangeServiceServer};
    use highwater_security::credentials::Credentials;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Channel;
    use tonic::{Request, Response, Streaming};

    const PEER: ExecutorId = ExecutorId(uuid::Uuid::nil());

    /// Takes one message, then refuses the call.
    struct Refuses;

    #[tonic::async_trait]
    impl ExchangeService for Refuses {
        async fn push_batches(
            &self,
            request: Request<Streaming<PushBatchesRequest>>,
        ) -> Result<Response<PushBatchesResponse>, Status> {
            request.into_inner().message().await?;
            Err(Status::failed_precondition("attempt 7 is over here"))
        }
    }

    #[tokio::test]
    async fn a_sender_learns_why_its_rows_are_not_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(ExchangeServiceServer::new(Refuses));
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let mut call = Call::open(Credentials::default().on(channel), PEER, &address);
        let refused = tokio::task::spawn_blocking(move || {
            loop {
                if let Err(error) = call.send(PushBatchesRequest::default()) {
                    return (error.to_string(), call.send(PushBatchesRequest::default()).unwrap_err().to_string());
                }
            }
        });
        let (first, then) = refused.await.unwrap();
        assert!(first.ends_with(&format!("executor at {address}: attempt 7 is over here")), "{first}");
        assert!(then.ends_with("accepts no more rows"), "{then}");
        serving.abort();
    }

    #[test]
    fn an_executor_without_memory_left_stops_the_query() {
        let status = Status::resource_exhausted("the query takes more memory than it may");
        let error = failed(PEER, "host:1".into(), &status);
        assert_eq!(error.kind(), highwater_protocol::error::ErrorKind::Fix, "{error}");
        let error = failed(PEER, "host:1".into(), &Status::failed_precondition("attempt 7 is over here"));
        assert_eq!(error.kind(), highwater_protocol::error::ErrorKind::Retry, "{error}");
    }

    #[tokio::test]
    async fn an_executor_that_cannot_be_reached_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let error = Call::open(Credentials::default().on(channel), PEER, &address).finish().await.unwrap_err();
        assert_eq!(error.unreachable(), Some(PEER), "{error}");
        assert!(error.to_string().contains(&address), "{error}");
    }
}
