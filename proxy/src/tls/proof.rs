//! What a peer of an open connection has proved itself by, kept so that another trust bundle can be asked about it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::failure::Role;
use super::verify::check_chain;
use super::{Bundles, Credentials, LiveCredentials, provider};

/// The chain that a peer has shown, and the bundles that accepted it. Clones share it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Leaf first. All of it: another bundle may need another path.
    chain: Arc<[CertificateDer<'static>]>,
    /// The end of the leaf's validity.
    not_after: SystemTime,
    peer: Role,
    bundles: Bundles,
}

impl Proof {
    pub(super) fn new(
        chain: &[CertificateDer<'static>],
        not_after: SystemTime,
        peer: Role,
        bundles: Bundles,
    ) -> Proof {
        Proof { chain: chain.into(), not_after, peer, bundles }
    }

    /// The DER of the certificate that was proved.
    pub(crate) fn leaf(&self) -> Arc<[u8]> {
        self.chain.first().map(|leaf| leaf.as_ref().into()).unwrap_or_default()
    }

    /// Why other credentials' bundles would not have accepted the peer. Whether it was accepted by the clock, the
    /// handshake has judged: a certificate that has expired since is judged as on its last day.
    fn refused_by(&self, credentials: &Credentials) -> Option<String> {
        let (leaf, intermediates) = self.chain.split_first()?;
        let at = credentials.now().min(self.not_after);
        let algorithms = provider().signature_verification_algorithms;
        check_chain(credentials.bundles(), &algorithms, leaf, intermediates, at, self.peer)
            .err()
            .map(|error| format!("the trust bundle has changed: {}", error.detail))
    }
}

/// Leaves the chain out, which is thousands of bytes.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Ends, with the reason in words, when the trust bundle has become one that does not accept the peer. Our own renewal
/// changes nothing; without a proof (plaintext) it never ends.
pub(crate) async fn no_longer_proved(proof: Option<&Proof>, live: &LiveCredentials) -> String {
    let Some(proof) = proof else { return std::future::pending().await };
    let mut live = live.clone();
    let mut judged = proof.bundles.clone();
    loop {
        let current = live.borrow_and_update().clone();
        if let Some(current) = current.filter(|current| *current.bundles() != judged) {
            if let Some(because) = proof.refused_by(&current) {
                return because;
            }
            judged = current.bundles().clone();
        }
        if live.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
