//! The credentials of a client, sent with every call: its token and its protocol version.
//!
//! Invariant: a token is sent to the other side only; it is never in logs or debug output.

use highwater_proto::version::{PROTOCOL, PROTOCOL_HEADER, VERSION, VERSION_HEADER};
use rand::Rng;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A secret text that identifies its bearer.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Parses a token given by the user; surrounding white space (of a file) is ignored.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is one word of visible ASCII characters".into());
        }
        Ok(Self(text.to_string()))
    }

    /// Creates a token of 256 random bits.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill(&mut bytes);
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// True if `shown` is this token. Takes the same time whatever it is.
    pub fn is(&self, shown: &str) -> bool {
        Sha256::digest(self.0.as_bytes()).ct_eq(&Sha256::digest(shown.as_bytes())).into()
    }

    /// Returns the token's text, for the message that hands it out.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Adds a token and the protocol version to every request.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    bearer: Option<MetadataValue<Ascii>>,
}

/// A channel whose calls carry credentials.
pub type Authenticated = InterceptedService<Channel, Credentials>;

impl Credentials {
    pub fn new(token: Option<&Token>) -> Self {
        let bearer = token.and_then(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {}", token.0)).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { bearer }
    }

    pub fn on(self, channel: Channel) -> Authenticated {
        InterceptedService::new(channel, self)
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(bearer) = &self.bearer {
            metadata.insert("authorization", bearer.clone());
        }
        metadata.insert(PROTOCOL_HEADER, MetadataValue::from(PROTOCOL));
        metadata.insert(VERSION_HEADER, MetadataValue::from_static(VERSION));
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_visible_word_and_never_shown() {
        assert_eq!(Token::parse(" abc\n").unwrap().reveal(), "abc");
        for wrong in ["", " ", "a b", "ä"] {
            assert!(Token::parse(wrong).is_err(), "{wrong:?}");
        }
        let token = Token::parse("hush").unwrap();
        assert!(token.is("hush") && !token.is("hus") && !token.is(""));
        assert!(!format!("{token:?} {:?}", Credentials::new(Some(&token))).contains("hush"));
        assert_ne!(Token::random(), Token::random());
    }
}
