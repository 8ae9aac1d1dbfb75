//! Tells somebody when a certificate that nobody here can renew nears its end: in the last fifth of its life, and when it
//! is over.

use std::time::SystemTime;

use pillion_mesh::wire::rfc3339;
use tracing::{error, warn};

use super::publish::Publisher;
use crate::tls::Clock;

/// Says each thing once.
pub(super) struct Expiry {
    /// Where the certificate comes from.
    whence: String,
    /// What helps.
    cure: &'static str,
    /// The moment that was told of.
    reported: Option<SystemTime>,
}

impl Expiry {
    pub(super) fn of(whence: String, cure: &'static str) -> Expiry {
        Expiry { whence, cure, reported: None }
    }

    /// Looks at the clock; to be called now and then.
    pub(super) fn mind(&mut self, publisher: &Publisher, clock: &Clock) {
        let Some(current) = publisher.current() else { return };
        let (svid, now) = (&current.svid, clock.now());
        let life = svid.not_after.duration_since(svid.not_before).unwrap_or_default();
        let stage = if now > svid.not_after {
            svid.not_after
        } else if now + life / 5 > svid.not_after {
            svid.not_after - life / 5
        } else {
            return;
        };
        if self.reported.replace(stage) == Some(stage) {
            return;
        }
        let Expiry { whence, cure, .. } = self;
        let until = rfc3339::print(svid.not_after);
        if now > svid.not_after {
            error!("the certificate of {whence} EXPIRED at {until} and mesh connections are refused: {cure}");
        } else {
            warn!("the certificate of {whence} lasts only until {until}: {cure}");
        }
    }
}
