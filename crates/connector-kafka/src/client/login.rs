//! A client's token: the first before it connects, the next before that is over.
//!
//! Owns: when a token is due, and handing it to librdkafka, which rdkafka wraps without extensions. Does not own: where
//! tokens come from (`oidc`).

#![allow(unsafe_code)]

use super::oidc::{self, Oidc, Token};
use parking_lot::Mutex;
use rdkafka::bindings as sys;
use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two tries to get a token.
const AGAIN: Duration = Duration::from_secs(10);

pub struct Login {
    oidc: Arc<Oidc>,
    due: Mutex<Due>,
}

struct Due {
    renew_at: Instant,
    ends_at: Instant,
}

impl Login {
    pub fn new(oidc: Arc<Oidc>) -> Self {
        let now = Instant::now();
        Self { oidc, due: Mutex::new(Due { renew_at: now, ends_at: now }) }
    }

    /// Gets a token and hands it over.
    pub fn begin(&self, native: *mut sys::rd_kafka_t) -> Result<(), String> {
        let token = oidc::token(&self.oidc)?;
        set(native, &token)?;
        *self.due.lock() = Due { renew_at: token.renew_at, ends_at: token.ends_at };
        Ok(())
    }

    /// The same when it is time. A token that cannot be renewed is used until it is over.
    pub fn keep(&self, native: *mut sys::rd_kafka_t, hide: impl Fn(&str) -> String) {
        let now = Instant::now();
        {
            let mut due = self.due.lock();
            if now < due.renew_at {
                return;
            }
            // Whoever comes meanwhile does not try, too.
            due.renew_at = now + AGAIN;
        }
        let Err(message) = self.begin(native) else { return };
        let message = hide(&message);
        tracing::warn!("the login to Kafka cannot be renewed: {message}");
        if now >= self.due.lock().ends_at {
            fail(native, &message);
        }
    }
}

/// Room for what librdkafka says.
const MESSAGE_BYTES: usize = 512;

fn set(native: *mut sys::rd_kafka_t, token: &Token) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| "the token holds a zero byte".to_string());
    let (value, principal) = (text(&token.value)?, text(&token.principal)?);
    let extensions: Vec<CString> =
        token.extensions.iter().flat_map(|(key, value)| [text(key), text(value)]).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = extensions.iter().map(|text| text.as_ptr()).collect();
    let mut message = [0; MESSAGE_BYTES];
    // SAFETY: the client is its caller's and alive; all texts live until the call is over, which copies them; the room
    // for the message is as long as said.
    let code = unsafe {
        sys::rd_kafka_oauthbearer_set_token(
            native,
            value.as_ptr(),
            token.ends_at_epoch_ms,
            principal.as_ptr(),
            pointers.as_mut_ptr(),
            pointers.len(),
            message.as_mut_ptr(),
            message.len(),
        )
    };
    if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: librdkafka ends its messages with a zero, within the room they have.
    let message = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(format!("the token is refused: {}", message.to_string_lossy()))
}

/// Tells the client, which tells of it as of any failed login.
fn fail(native: *mut sys::rd_kafka_t, message: &str) {
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the client is its caller's and alive; the text is copied.
    let code = unsafe { sys::rd_kafka_oauthbearer_set_token_failure(native, message.as_ptr()) };
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        tracing::debug!(?code, "librdkafka does not take a failed login");
    }
}
