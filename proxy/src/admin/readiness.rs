//! Whether connections are served: with a valid certificate, and not while draining.

use std::time::SystemTime;

use pillion_mesh::wire::rfc3339;

use crate::tls::Credentials;

/// Ready or not, and why, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) because: String,
}

/// Judges. `last_error` is that of the newest try to get a certificate.
pub(super) fn judge(
    credentials: Option<&Credentials>,
    last_error: Option<&str>,
    draining: bool,
    now: SystemTime,
) -> Readiness {
    let last_error = last_error.map(|error| format!("; the last try failed: {error}")).unwrap_or_default();
    let (ready, because) = match credentials {
        _ if draining => (false, "draining: no new connections are taken".to_owned()),
        None => (false, format!("there is no certificate yet{last_error}")),
        Some(credentials) => {
            let svid = &credentials.svid;
            let (id, until) = (&svid.id, rfc3339::print(svid.not_after));
            if credentials.is_valid_at(now) {
                (true, format!("the certificate of {id} is valid until {until}"))
            } else if now < svid.not_before {
                let from = rfc3339::print(svid.not_before);
                (false, format!("the certificate of {id} is not valid before {from}; compare the clocks"))
            } else {
                (false, format!("the certificate of {id} has expired at {until}{last_error}"))
            }
        }
    };
    Readiness { ready, because }
}
