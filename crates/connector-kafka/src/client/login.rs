//! A client's token: set before the client connects, and renewed before it expires.
//!
//! Owns: when a token is due, and passing it to librdkafka, since rdkafka's wrapper lacks extensions. Does not own:
//! fetching tokens (`oidc`).

#![allow(unsafe_code)]

use super::oidc::{self, Oidc, Token};
use parking_lot::Mutex;
use rdkafka::bindings as sys;
use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two attempts to get a token.
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

    /// Gets a token and sets it in the client.
    pub fn begin(&self, native: *mut sys::rd_kafka_t) -> Result<(), String> {
        let token = oidc::token(&self.oidc)?;
        set(native, &token)?;
        *self.due.lock() = Due { renew_at: token.renew_at, ends_at: token.ends_at };
        Ok(())
    }

    /// Renews the token if it is due. A token that cannot be renewed is used until it expires.
    pub fn keep(&self, native: *mut sys::rd_kafka_t, hide: impl Fn(&str) -> String) {
        let now = Instant::now();
        {
            let mut due = self.due.lock();
            if now < due.renew_at {
                return;
            }
            // Other threads must not renew it at the same time.
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

/// Size of the buffer for librdkafka's error message.
const MESSAGE_BYTES: usize = 512;

fn set(native: *mut sys::rd_kafka_t, token: &Token) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| "the token holds a zero byte".to_string());
    let (value, principal) = (text(&token.value)?, text(&token.principal)?);
    let extensions: Vec<CString> =
        token.extensions.iter().flat_map(|(key, value)| [text(key), text(value)]).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = extensions.iter().map(|text| text.as_ptr()).collect();
    let mut message = [0; MESSAGE_BYTES];
    // SAFETY: the caller keeps the client alive; all texts outlive the call, which copies them; the message buffer has
    // the given length.
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
    // SAFETY: librdkafka ends its messages with a zero byte within the buffer.
    let message = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(format!("the token is refused: {}", message.to_string_lossy()))
}

/// Reports the failure to the client, which then handles it like any failed login.
fn fail(native: *mut sys::rd_kafka_t, message: &str) {
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the caller keeps the client alive; the text is copied.
    let code = unsafe { sys::rd_kafka_oauthbearer_set_token_failure(native, message.as_ptr()) };
    if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        tracing::debug!(?code, "librdkafka did not accept the report of a failed login");
    }
}
