//! The trust bundle as the CA publishes it: a SPIFFE bundle of its roots, with how often to look for a newer one.

use std::time::Duration;

use pillion_mesh::spiffe::bundle;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

/// How often a reader shall look for a newer bundle (`spiffe_refresh_hint`).
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// A SPIFFE bundle.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Bundle(bundle::Bundle);

impl Bundle {
    /// The bundle of these roots; one whose key has no JWK form is left out, which no root of ours is.
    pub(crate) fn of<'a>(
        roots: impl IntoIterator<Item = &'a CertificateDer<'static>>,
        sequence: u64,
    ) -> Self {
        Bundle(bundle::Bundle::of(roots, Some(sequence), Some(REFRESH_HINT)))
    }
}
