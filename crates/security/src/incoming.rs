//! The connections of a server, with TLS if it has a certificate.
//!
//! Owns: accepting, handshakes, telling a plain client that this port speaks TLS. Does not own: what is served.
//! Invariants: no handshake delays another connection; handshakes are limited in time and number; a failed `accept` (no
//! file descriptors left) is retried and does not end the server.

use crate::reload::Reloading;
use crate::stream::Stream;
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of connections in their handshake. Further ones are closed, and their clients retry.
const HANDSHAKES: usize = 1024;
/// Number of connections that may wait for the server after their handshake.
const WAITING: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS connection: a record of type handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// The first bytes of HTTP/2 without TLS (RFC 9113, section 3.4); below, the length of the whole preface.
const HTTP2_PREFACE: &[u8; 3] = b"PRI";
const HTTP2_PREFACE_BYTES: usize = 24;
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const HEADERS_FRAME: u8 = 1;
/// How long to wait for the request of a client without TLS.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Sent to clients that speak plain HTTP to this port; `dial` looks for it.
pub const SPEAKS_TLS: &str = "this port speaks TLS: use https://";

/// Connections that are ready to be served.
pub struct Incoming {
    ready: mpsc::Receiver<Stream>,
    address: SocketAddr,
}

impl Incoming {
    /// Accepts until `stop` is cancelled or this is dropped.
    pub fn new(
        listener: TcpListener,
        tls: Option<Reloading<ServerConfig>>,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (connections, ready) = mpsc::channel(WAITING);
        tokio::spawn(accept_all(listener, tls, connections, stop));
        Ok(Self { ready, address })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the next connection; `None` once the server stops.
    pub async fn next(&mut self) -> Option<Stream> {
        self.ready.recv().await
    }
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<Stream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

async fn accept_all(
    listener: TcpListener,
    tls: Option<Reloading<ServerConfig>>,
    connections: mpsc::Sender<Stream>,
    stop: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
            () = connections.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("could not accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            metrics::counter!("highwater_connections_refused_total").increment(1);
            continue;
        };
        // Only reduces latency; a failure does not matter.
        let _ = stream.set_nodelay(true);
        let (connections, config) = (connections.clone(), tls.as_ref().map(Reloading::current));
        tokio::spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, config)).await {
                // Fails if the server is stopping.
                Ok(Ok(stream)) => drop(connections.send(stream).await),
                Ok(Err(error)) => tracing::debug!("a handshake failed: {error}"),
                Err(_) => tracing::debug!("a handshake took too long"),
            }
        });
    }
}

async fn handshake(stream: TcpStream, config: Option<Arc<ServerConfig>>) -> io::Result<Stream> {
    let Some(config) = config else { return Ok(Stream::plain(stream)) };
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        tell_plain(stream).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
    }
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => Ok(Stream::tls(stream)),
        Err((error, stream)) => {
            // The alert that names the reason is on its way.
            close(stream).await?;
            Err(error)
        }
    }
}

/// Answers a client without TLS in its own protocol, so that it sees what is wrong.
async fn tell_plain(mut stream: TcpStream) -> io::Result<()> {
    let mut begin = [0; 3];
    stream.read_exact(&mut begin).await?;
    if &begin == HTTP2_PREFACE {
        stream.write_all(&EMPTY_SETTINGS).await?;
        // A client that gets the refusal before it has sent a request loses the reason. One that sends none gets it
        // anyway.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, until_asked(&mut stream)).await;
        stream.write_all(&http2_refusal()).await?;
    } else {
        stream.write_all(&http1_refusal()).await?;
    }
    close(stream).await
}

/// Reads HTTP/2, from the rest of the preface to a HEADERS frame.
async fn until_asked(stream: &mut TcpStream) -> io::Result<()> {
    let mut preface = [0; HTTP2_PREFACE_BYTES - HTTP2_PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        if header[3] == HEADERS_FRAME {
            return Ok(());
        }
        let length = u64::from(u32::from_be_bytes([0, header[0], header[1], header[2]]));
        tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    }
}

/// Closes a connection after the client has closed its side. Closing with unread bytes would reset the connection, and
/// the client might never see what was sent last.
async fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

fn http1_refusal() -> Vec<u8> {
    let length = SPEAKS_TLS.len() + 1;
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n\
         {SPEAKS_TLS}\n"
    )
    .into_bytes()
}

/// A GOAWAY of INADEQUATE_SECURITY (RFC 9113, sections 6.8 and 7).
fn http2_refusal() -> Vec<u8> {
    let length = u8::try_from(8 + SPEAKS_TLS.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0, 0, length, 7, 0, 0, 0, 0, 0];
    frame.extend([0, 0, 0, 0, 0, 0, 0, 12]);
    frame.extend(SPEAKS_TLS.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::{Dialer, explain};
    use crate::options::{CertificateFiles, ClientSecurity};
    use crate::tls::{self, Protocol};
    use tower::Service;

    #[tokio::test]
    async fn silent_connections_delay_no_other_and_plain_ones_get_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
        let files = CertificateFiles { cert: dir.path().join("cert"), key: dir.path().join("key") };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let tls = tls::server(&files, None, Protocol::Grpc).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let mut incoming = Incoming::new(listener, Some(tls), stop.clone()).unwrap();
        let address = incoming.address();

        let mut silent = Vec::new();
        for _ in 0..WAITING * 2 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let client = ClientSecurity { ca: Some(files.cert), ..ClientSecurity::default() };
        let mut dialer = Dialer::new(tls::client(&client).unwrap());
        let url = |scheme: &str| format!("{scheme}://{address}").parse::<http::Uri>().unwrap();
        let (connected, accepted) = tokio::join!(dialer.call(url("https")), incoming.next());
        assert!(connected.is_ok() && accepted.is_some_and(|stream| !stream.peer().certified));

        let plain = tonic::transport::Endpoint::from(url("http")).connect().await.unwrap();
        let mut client = tonic::client::Grpc::new(plain);
        client.ready().await.unwrap();
        let request = tonic::Request::new(tokio_stream::once(()));
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let refused = client.streaming(request, "/a.B/C".parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(explain(&refused).as_deref(), Some(SPEAKS_TLS), "{refused:?}");

        drop(silent);
        stop.cancel();
        while incoming.next().await.is_some() {}
    }
}
