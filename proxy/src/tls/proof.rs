//! What a peer of an open connection has proved itself by, kept so that another trust bundle can be asked about it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::reason::Reason;
use rustls::pki_types::CertificateDer;

use super::failure::Role;
use super::judged::Accepted;
use super::verify::{ChainError, check_chain};
use super::{Bundles, Credentials, HandshakeError, LiveCredentials, Revoked, provider};

/// The chain that a peer has shown, and the bundles and revocation lists by which it was accepted. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Leaf first. All of it: another bundle may need another path.
    chain: Arc<[CertificateDer<'static>]>,
    leaf: Arc<[u8]>,
    /// The end of the leaf's validity.
    not_after: SystemTime,
    peer: Role,
    bundles: Bundles,
    revoked: Revoked,
}

impl Proof {
    pub(super) fn new(holder: &Accepted, peer: Role, credentials: &Credentials) -> Proof {
        let Accepted { svid, chain, leaf } = holder;
        Proof {
            chain: chain.clone(),
            leaf: leaf.clone(),
            not_after: svid.not_after,
            peer,
            bundles: credentials.bundles().clone(),
            revoked: credentials.revoked().clone(),
        }
    }

    /// The DER of the certificate that was proved.
    pub(crate) fn leaf(&self) -> Arc<[u8]> {
        self.leaf.clone()
    }

    /// Why by other credentials' bundles and lists the peer would not have been accepted. Whether it was accepted by the clock, the
    /// handshake has judged: a certificate that has expired since is judged as on its last day.
    fn refused_by(&self, credentials: &Credentials) -> Option<String> {
        let error = self.still_holds(credentials).err()?;
        let what = match error.reason {
            Reason::CertificateRevoked => "the revocation list",
            _ => "the trust bundle",
        };
        Some(format!("{what} has changed: {}", error.detail))
    }

    /// Whether by other credentials' bundles and lists the peer would be accepted too, likewise.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn still_holds(&self, credentials: &Credentials) -> Result<(), HandshakeError> {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return Ok(()) };
        let at = credentials.now().min(self.not_after);
        let algorithms = provider().signature_verification_algorithms;
        check_chain(
            credentials.bundles(),
            credentials.revoked(),
            &algorithms,
            leaf,
            intermediates,
            at,
            self.peer,
        )
        .map(|_svid| ())
        .map_err(|ChainError { reason, detail }| HandshakeError { reason, detail })
    }
}

/// Leaves the chain out, which is thousands of bytes.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Ends, with the reason in words, when the trust bundle has become one that does not accept the peer, or the peer's
/// certificate is revoked. Our own renewal changes nothing; without a proof (plaintext) it never ends.
pub(crate) async fn no_longer_proved(proof: Option<&Proof>, live: &LiveCredentials) -> String {
    let Some(proof) = proof else { return std::future::pending().await };
    let mut live = live.clone();
    let mut judged = (proof.bundles.clone(), proof.revoked.clone());
    loop {
        let current = live.borrow_and_update().clone();
        if let Some(current) = current {
            let now = (current.bundles().clone(), current.revoked().clone());
            if now != judged {
                if let Some(because) = proof.refused_by(&current) {
                    return because;
                }
                judged = now;
            }
        }
        if live.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
