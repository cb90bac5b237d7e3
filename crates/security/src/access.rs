//! Who may call the driver: checks tokens and client certificates against the table of rules.
//!
//! Invariants: a token that is sent is always checked, except for open calls; if tokens are in use, a certificate
//! identifies an executor and nothing else.

use crate::error::SecurityError;
use crate::guard::{Authority, Caller, Refusal, bearer, denied};
use crate::options::DriverSecurity;
use crate::reload::Reloading;
use crate::rules::{self, Rule};
use crate::stream::Peer;
use crate::tokens::{Entry, Role, Tokens};
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

/// The access control of the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    tokens: Option<Reloading<Tokens>>,
    certificates: bool,
}

impl Access {
    pub fn load(security: &DriverSecurity) -> Result<Self, SecurityError> {
        let tokens = security.tokens.as_deref().map(Tokens::load).transpose()?;
        Ok(Self { tokens, certificates: security.client_ca.is_some() })
    }

    /// Reads the token file again when it changes, until `stop` is cancelled.
    pub fn watch(&self, stop: CancellationToken) {
        if let Some(tokens) = &self.tokens {
            tokens.watch(stop);
        }
    }

    /// True if anyone may call anything.
    pub fn is_open(&self) -> bool {
        self.tokens.is_none() && !self.certificates
    }
}

impl Authority for Access {
    fn admit(&self, path: &str, headers: &HeaderMap, peer: Peer) -> Result<Caller, Refusal> {
        if self.is_open() {
            return Ok(Caller { name: "anybody".into(), role: Some(Role::Admin) });
        }
        let Some(rule) = rules::of(path) else {
            return Err(Refusal::Denied(format!("{path} cannot be called: there is no access rule for it")));
        };
        if rule == Rule::Open {
            return Ok(Caller { name: "anybody".into(), role: None });
        }
        let shown = bearer(headers)?;
        let tokens = self.tokens.as_ref().map(Reloading::current);
        let entry = match (&tokens, shown) {
            (Some(tokens), Some(shown)) => Some(tokens.find(shown).ok_or_else(|| {
                Refusal::Unauthenticated(
                    "the token is not among the driver's tokens, or was removed; set HIGHWATER_TOKEN to a valid one"
                        .into(),
                )
            })?),
            _ => None,
        };
        let what = path.rsplit('/').next().filter(|_| path.contains('.')).unwrap_or(path);
        decide(rule, what, entry, peer.certified, tokens.is_some())
    }
}

fn decide(rule: Rule, what: &str, entry: Option<&Entry>, certified: bool, tokens: bool) -> Result<Caller, Refusal> {
    let named = |entry: &Entry| format!("token `{}`", entry.name);
    match (rule, entry) {
        (Rule::Client(least), Some(entry)) => {
            let caller = Caller { name: named(entry).into(), role: Some(entry.role) };
            caller.needs(least, what).map(|()| caller)
        }
        (Rule::Client(_), None) if certified && !tokens => {
            Ok(Caller { name: "a client certificate".into(), role: Some(Role::Admin) })
        }
        (Rule::Client(_), None) => Err(Refusal::Unauthenticated(nothing_shown(tokens).into())),
        (Rule::Executor, Some(entry)) if entry.role == Role::Executor => {
            Ok(Caller { name: named(entry).into(), role: None })
        }
        (Rule::Executor, _) if certified => Ok(Caller { name: "a client certificate".into(), role: None }),
        (Rule::Executor, Some(entry)) => Err(denied(&named(entry), Some(entry.role), Role::Executor, what)),
        (Rule::Executor, None) => Err(Refusal::Unauthenticated(nothing_shown(tokens).into())),
        (Rule::Open | Rule::Peer, _) => Err(Refusal::Denied(format!("{what} is not a call of the driver"))),
    }
}

fn nothing_shown(tokens: bool) -> &'static str {
    if tokens {
        "the driver requires a token: set HIGHWATER_TOKEN (an executor may show a certificate instead: --tls-cert and \
         --tls-key)"
    } else {
        "the driver requires a client certificate: set --tls-cert and --tls-key"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Admin, Executor, Operator, Viewer};

    fn outcome(rule: Rule, token: Option<Role>, certified: bool, tokens: bool) -> char {
        let file = |role: Role| {
            let text = format!("[[token]]\nname = \"t\"\nrole = \"{}\"\nsha256 = \"{:064}\"\n", role.name(), 0);
            Tokens::parse(&text).unwrap()
        };
        let tokens_read = token.map(file);
        let entry = tokens_read.as_ref().map(Tokens::first);
        match decide(rule, "call", entry, certified, tokens) {
            Ok(_) => 'y',
            Err(Refusal::Unauthenticated(_)) => '?',
            Err(Refusal::Denied(_)) => 'n',
        }
    }

    #[test]
    fn each_role_may_do_what_the_table_says() {
        // Shown: nothing, a certificate, then tokens of each role.
        let shown = [
            (None, false),
            (None, true),
            (Some(Viewer), false),
            (Some(Operator), false),
            (Some(Admin), false),
            (Some(Executor), false),
            (Some(Viewer), true),
        ];
        for (rule, with_tokens) in [
            (Rule::Client(Viewer), "??yyyny"),
            (Rule::Client(Operator), "??nyynn"),
            (Rule::Client(Admin), "??nnynn"),
            (Rule::Executor, "?ynnnyy"),
            (Rule::Peer, "nnnnnnn"),
        ] {
            let found: String =
                shown.iter().map(|(token, certified)| outcome(rule, *token, *certified, true)).collect();
            assert_eq!(found, with_tokens, "{rule:?}");
        }
        for (rule, without_tokens) in [(Rule::Client(Admin), "?y"), (Rule::Executor, "?y"), (Rule::Peer, "nn")] {
            let found: String = [false, true].map(|certified| outcome(rule, None, certified, false)).iter().collect();
            assert_eq!(found, without_tokens, "{rule:?} by certificates alone");
        }
    }

    #[test]
    fn an_unknown_path_and_a_wrong_header_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.toml");
        std::fs::write(&file, format!("[[token]]\nname = \"t\"\nrole = \"admin\"\nsha256 = \"{:064}\"\n", 0)).unwrap();
        let access = Access::load(&DriverSecurity { tokens: Some(file), ..DriverSecurity::default() }).unwrap();
        let admit = |path: &str, authorization: &str| {
            let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, authorization.parse().unwrap())]);
            access.admit(path, &headers, Peer::default())
        };
        assert!(matches!(admit("/highwater.v1.QueryService/New", "Bearer x"), Err(Refusal::Denied(_))));
        for wrong in ["Basic eDp5", "Bearer", "Bearer ", "Bearer x", "x"] {
            let refused = admit("/highwater.v1.QueryService/ListQueries", wrong);
            assert!(matches!(refused, Err(Refusal::Unauthenticated(_))), "{wrong}");
            assert!(admit("/health", wrong).is_ok(), "{wrong}");
        }
    }
}
