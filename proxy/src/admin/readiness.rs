//! Whether connections are served: with a valid certificate, at the edge with its ports open, and not while draining.

use std::time::SystemTime;

use pillion_mesh::wire::rfc3339;

use crate::gateway::PortStatus;
use crate::tls::Credentials;

/// Ready or not, and why, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    pub(super) because: String,
}

/// Judges. `last_error` is that of the newest try to get a certificate, `missing` a port of the edge that is not open yet.
pub(super) fn judge(
    credentials: Option<&Credentials>,
    last_error: Option<&str>,
    missing: Option<&PortStatus>,
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
            if let (true, Some(PortStatus { port, address, fault })) = (credentials.is_valid_at(now), missing)
            {
                let fault = fault.as_deref().unwrap_or("not tried yet");
                (false, format!("gateway port {port} is not listened on at {address}: {fault}"))
            } else if credentials.is_valid_at(now) {
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
