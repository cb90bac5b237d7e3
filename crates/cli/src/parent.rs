//! Ends a child process with its parent, whatever ended the parent.
//!
//! Owns: watching stdin. The parent holds the other end of the pipe and never writes; its death closes the pipe.

use std::io::Read;
use tokio_util::sync::CancellationToken;

/// Cancels `stop` when stdin reaches its end.
pub fn cancel_when_gone(stop: CancellationToken) {
    std::thread::spawn(move || {
        let mut byte = [0_u8; 1];
        while matches!(std::io::stdin().read(&mut byte), Ok(read) if read > 0) {}
        stop.cancel();
    });
}
