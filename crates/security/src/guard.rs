//! The tower layer in front of every gRPC service: a request reaches its handler only if its rule admits it.
//!
//! Owns: applying a rule to a request, the refusal on the wire, the check of versions. Does not own: the decision who
//! is admitted (`access` for the driver, `peers` for executors). The driver's HTTP port calls [`Authority`] itself.

use crate::stream::Peer;
use crate::tokens::Role;
use highwater_proto::version::{PROTOCOL_HEADER, VERSION_HEADER, check_client};
use http::{HeaderMap, Request, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tower::{Layer, Service};

/// Decides who may make which call.
pub trait Authority: Clone + Send + Sync + 'static {
    /// Decides about a call of `path` with these headers, over a connection to `peer`.
    fn admit(&self, path: &str, headers: &HeaderMap, peer: Peer) -> Result<Caller, Refusal>;
}

/// The caller of an admitted request. Handlers find it in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name for logs and refusals.
    pub name: Arc<str>,
    /// Its role as a client; `None` if it is no client, or the call needs no role.
    pub role: Option<Role>,
}

impl Caller {
    /// Refuses a caller with less than `role`, for a part of a call that needs more than the call itself.
    pub fn needs(&self, role: Role, what: &str) -> Result<(), Refusal> {
        if self.role.is_some_and(|mine| mine != Role::Executor && mine >= role) {
            return Ok(());
        }
        Err(denied(&self.name, self.role, role, what))
    }
}

/// Returns the caller of a request. An error if the service has no [`Guard`] in front.
pub fn caller<T>(request: &tonic::Request<T>) -> Result<&Caller, Status> {
    request.extensions().get().ok_or_else(|| Status::internal("the caller is not known: the service has no guard"))
}

/// The refusal of a client that may not do `what`.
pub(crate) fn denied(name: &str, has: Option<Role>, wants: Role, what: &str) -> Refusal {
    let has = has.map_or("no role", Role::name);
    Refusal::Denied(format!("{name} has role {has}, and {what} needs {}; use a token of that role", wants.name()))
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The caller is not known.
    Unauthenticated(String),
    /// The caller is known and may not make this call.
    Denied(String),
}

impl Refusal {
    pub fn message(&self) -> &str {
        let (Self::Unauthenticated(message) | Self::Denied(message)) = self;
        message
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthenticated(message) => Self::unauthenticated(message),
            Refusal::Denied(message) => Self::permission_denied(message),
        }
    }
}

/// Returns the token of an `authorization: Bearer …` header; `None` if there is no such header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get(http::header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.map(Some).ok_or_else(|| Refusal::Unauthenticated("the authorization header is not `Bearer TOKEN`".into()))
}

/// Adds a [`Guard`] in front of a service.
#[derive(Clone, Debug)]
pub struct GuardLayer<A>(pub A);

impl<S, A: Clone> Layer<S> for GuardLayer<A> {
    type Service = Guard<S, A>;

    fn layer(&self, inner: S) -> Guard<S, A> {
        Guard { inner, authority: self.0.clone() }
    }
}

/// Refuses a request, or passes it on with its [`Caller`].
#[derive(Clone, Debug)]
pub struct Guard<S, A> {
    inner: S,
    authority: A,
}

impl<S, A, B, R> Service<Request<B>> for Guard<S, A>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
    A: Authority,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.admit(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(status) => {
                metrics::counter!("highwater_calls_refused_total").increment(1);
                tracing::debug!(rpc = request.uri().path(), %status, "refused");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}

impl<S, A: Authority> Guard<S, A> {
    fn admit<B>(&self, request: &Request<B>) -> Result<Caller, Status> {
        let (path, headers) = (request.uri().path(), request.headers());
        let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
        let caller = self.authority.admit(path, headers, peer)?;
        if path.starts_with("/highwater.") {
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            check_client(text(PROTOCOL_HEADER), text(VERSION_HEADER))?;
        }
        Ok(caller)
    }
}
