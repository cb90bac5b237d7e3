//! Who may call an executor: other executors, which know the secret that the driver sends to its executors.
//!
//! Invariant: without a session with a driver, all batches are refused.

use crate::credentials::{Credentials, Token};
use crate::guard::{Authority, Caller, Refusal, bearer};
use crate::rules::{self, Rule};
use crate::stream::Peer;
use arc_swap::ArcSwapOption;
use http::HeaderMap;
use std::sync::Arc;

/// What the driver sent at registration. Cheap to clone; all clones share it.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    session: Arc<ArcSwapOption<Session>>,
}

#[derive(Debug)]
struct Session {
    secret: Token,
    secured: bool,
}

impl Peers {
    /// Begins a session with the secret of the driver's epoch; `secured`: whether the driver authenticates callers.
    pub fn join(&self, secret: &str, secured: bool) -> Result<(), String> {
        let secret =
            Token::parse(secret).map_err(|_| "the driver sent no valid secret for the exchange".to_string())?;
        self.session.store(Some(Arc::new(Session { secret, secured })));
        Ok(())
    }

    /// Ends the session.
    pub fn leave(&self) {
        self.session.store(None);
    }

    /// The credentials of calls to other executors.
    pub fn credentials(&self) -> Credentials {
        Credentials::new(self.session.load().as_deref().map(|session| &session.secret))
    }
}

impl Authority for Peers {
    fn admit(&self, path: &str, headers: &HeaderMap, _: Peer) -> Result<Caller, Refusal> {
        let session = self.session.load();
        let session = session.as_deref();
        match rules::of(path) {
            Some(Rule::Open) => Ok(Caller { name: "anybody".into(), role: None }),
            Some(Rule::Peer) => {
                let shown = bearer(headers)?.unwrap_or_default();
                if session.is_some_and(|session| session.secret.is(shown)) {
                    return Ok(Caller { name: "an executor".into(), role: None });
                }
                Err(Refusal::Unauthenticated(
                    "the secret is not that of the driver's epoch: executors accept batches only from executors of \
                     their own driver"
                        .into(),
                ))
            }
            Some(Rule::Client(_)) if session.is_some_and(|session| !session.secured) => {
                Ok(Caller { name: "anybody".into(), role: None })
            }
            _ => Err(Refusal::Denied(format!("{path} is not a call of an executor; call the driver"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: &str = "/highwater.v1.ExchangeService/PushBatches";
    const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

    #[test]
    fn only_the_secret_of_this_session_admits_batches() {
        let peers = Peers::default();
        let push = |token: Option<&str>| {
            let header = |token| (http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            peers.admit(PUSH, &token.map(header).into_iter().collect(), Peer { certified: true }).is_ok()
        };
        assert!(!push(None) && !push(Some("")) && !push(Some("a")));
        peers.join("a", true).unwrap();
        assert!(push(Some("a")) && !push(Some("b")) && !push(Some("")) && !push(None));
        peers.join("b", true).unwrap();
        assert!(push(Some("b")) && !push(Some("a")));
        peers.leave();
        assert!(!push(Some("b")));
        assert!(peers.join("", true).is_err());
    }

    #[test]
    fn reflection_is_shown_where_the_driver_is_open_and_health_always() {
        let peers = Peers::default();
        let may = |path: &str| peers.admit(path, &HeaderMap::new(), Peer::default()).is_ok();
        assert!(may("/grpc.health.v1.Health/Check") && !may(REFLECTION) && !may("/x"));
        peers.join("a", true).unwrap();
        assert!(may("/grpc.health.v1.Health/Check") && !may(REFLECTION));
        peers.join("a", false).unwrap();
        assert!(may(REFLECTION) && !may(PUSH) && !may("/x"));
    }
}
