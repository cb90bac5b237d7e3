//! Calls without the command line: any RPC by its path with an empty message, any HTTP path.

use highwater_security::dial::Dialer;
use highwater_security::{ClientSecurity, tls};
use http::uri::PathAndQuery;
use prost::Message;
use prost_types::FileDescriptorSet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status};
use tonic_prost::ProstCodec;

const DEADLINE: Duration = Duration::from_secs(60);

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await.expect("it ends in time") })
}

pub async fn connect(url: &str, security: &ClientSecurity) -> Result<Channel, tonic::transport::Error> {
    let dialer = Dialer::new(tls::client(security).unwrap());
    Endpoint::from_shared(url.to_string()).unwrap().connect_with_connector(dialer).await
}

/// Paths of all RPCs that driver and executors serve, including health and reflection.
pub fn all_rpcs() -> Vec<String> {
    let sets = [
        highwater_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = Vec::new();
    for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file) {
        for service in &file.service {
            let rpcs =
                service.method.iter().map(|rpc| format!("/{}.{}/{}", file.package(), service.name(), rpc.name()));
            paths.extend(rpcs);
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

/// Sends one empty message. Returns the error if the call is refused.
pub async fn call(channel: &Channel, path: &str, headers: &[(&'static str, &str)]) -> Result<(), Status> {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        metadata.insert(*name, value.parse().unwrap());
    }
    let request = Request::from_parts(metadata, Extensions::default(), tokio_stream::once(()));
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    let mut answers = client.streaming(request, path, ProstCodec::<(), ()>::default()).await?.into_inner();
    answers.message().await.map(drop)
}

/// Returns `y` if admitted, `?` if not authenticated, `n` if denied.
pub async fn admitted(channel: &Channel, path: &str, token: Option<&str>) -> char {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    match call(channel, path, &headers).await {
        Err(status) if status.code() == Code::Unauthenticated => '?',
        Err(status) if status.code() == Code::PermissionDenied => 'n',
        Err(status) if status.code() == Code::Unknown => panic!("{path}: {status:?}"),
        _ => 'y',
    }
}

/// Sends one GET over TLS. Returns the status code and the whole answer.
pub async fn get(address: &str, ca: &Path, path: &str, token: Option<&str>) -> (u16, String) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(address.split(':').next().unwrap().to_string()).unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    get_over(stream, path, token).await
}

/// Sends one GET over a connection.
pub async fn get_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    token: Option<&str>,
) -> (u16, String) {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: highwater\r\n{authorization}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server may end a TLS connection without close_notify: what was read counts.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("no HTTP answer: {answer:?}")), answer)
}
