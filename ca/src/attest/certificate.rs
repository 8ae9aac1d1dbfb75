//! A certificate of ours as evidence, for renewal: it proves the identity that stands in it.
//!
//! That its chain ends at our root, that it is valid now and that the caller holds its key, the TLS handshake has
//! verified (`server::tls`).

use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::svid::{self, SvidError};
use rustls_pki_types::CertificateDer;

pub(crate) fn identify(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    svid::check_leaf(leaf).map(|svid| svid.id)
}
