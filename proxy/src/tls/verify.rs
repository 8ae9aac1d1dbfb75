//! Judges a peer's certificate chain, the same in both directions: the leaf by the rules of X509-SVID
//! (`pillion_mesh::svid`), the path by `path`, its signers by `svid::check_signer`: keyUsage, cA and URI name constraints.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::{SpiffeId, alternatives};
use pillion_mesh::svid::{self, Svid};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tracing::debug;
use webpki::CertRevocationList;

use super::bundles::{Bundles, Root, list};
use super::clock::system_time;
use super::failure::{self, Role};
use super::judged::{Accepted, Fingerprint, Judged};
use super::path::{Fault, Names, PathSearch};
use super::revocations::is_foreign_list;
use super::{HandshakeError, Revoked, provider};
use crate::telemetry::log::STEP;

/// Verifies peers for one set of credentials. Immutable: another bundle is another verifier.
#[derive(Clone)]
pub(super) struct PeerVerifier {
    bundles: Bundles,
    revoked: Revoked,
    algorithms: WebPkiSupportedAlgorithms,
    /// Who we are, for messages.
    local: SpiffeId,
    /// Who a server must be, in the order of their texts. Empty accepts no server at all.
    wanted: Arc<[SpiffeId]>,
    judged: Arc<Judged>,
}

/// Judges one server, which must prove `wanted` by the bundle of its trust domain. `local` is who asks, for messages.
pub(crate) fn server_verifier(
    bundles: Bundles,
    local: &SpiffeId,
    wanted: &SpiffeId,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(
        PeerVerifier::new(bundles, Revoked::default(), local.clone()).for_servers([wanted.clone()].into()),
    )
}

/// Why a chain is refused, without a word on whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainError {
    /// The stable reason.
    pub(crate) reason: Reason,
    /// What was expected and what was seen.
    pub(crate) detail: String,
}

impl PeerVerifier {
    /// A verifier of clients; as a verifier of servers it accepts none until [`Self::for_servers`] names some.
    pub(super) fn new(bundles: Bundles, revoked: Revoked, local: SpiffeId) -> PeerVerifier {
        let algorithms = provider().signature_verification_algorithms;
        PeerVerifier { bundles, revoked, algorithms, local, wanted: Arc::new([]), judged: Arc::default() }
    }

    /// The same, for a connection to a server that must prove one of these identities, which stand in the order of their
    /// texts.
    pub(super) fn for_servers(&self, wanted: Arc<[SpiffeId]>) -> PeerVerifier {
        PeerVerifier { wanted, ..self.clone() }
    }

    /// Whether it asks a server for one of these.
    pub(super) fn wants(&self, wanted: &Arc<[SpiffeId]>) -> bool {
        Arc::ptr_eq(&self.wanted, wanted) || self.wanted == *wanted
    }

    /// The whole judgement of a chain as `peer` presents it.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        peer: Role,
    ) -> Result<Arc<Accepted>, HandshakeError> {
        let accepted =
            self.accepted(leaf, intermediates, now, peer).map_err(|error| self.refusal(&error, peer))?;
        let id = &accepted.svid.id;
        if peer == Role::Server && self.wanted.binary_search(id).is_err() {
            return Err(self.refusal(&self.unexpected(id), peer));
        }
        Ok(accepted)
    }

    /// Whose chain it is; by what is remembered where the same was accepted before.
    fn accepted(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        peer: Role,
    ) -> Result<Arc<Accepted>, ChainError> {
        let chain = Fingerprint::of(leaf, intermediates, peer);
        if let Some(accepted) = self.judged.accepted(&chain, now) {
            return Ok(accepted);
        }
        let svid =
            check_chain(&self.bundles, &self.revoked, &self.algorithms, leaf, intermediates, now, peer)?;
        let roots = self.bundles.roots(&svid.id.trust_domain()).unwrap_or_default();
        let accepted = Arc::new(Accepted::new(svid, leaf, intermediates));
        self.judged.accept(chain, &accepted, roots, now);
        Ok(accepted)
    }

    /// A chain that this verifier, or one for other servers by the same bundles, has accepted.
    ///
    /// # Errors
    /// The clause of X509-SVID that a leaf breaks which is not remembered.
    pub(super) fn holder(
        &self,
        chain: &[CertificateDer<'_>],
        peer: Role,
    ) -> Result<Arc<Accepted>, ChainError> {
        let (leaf, intermediates) = chain.split_first().ok_or_else(ChainError::empty)?;
        if let Some(accepted) = self.judged.known(&Fingerprint::of(leaf, intermediates, peer)) {
            return Ok(accepted);
        }
        let svid = svid::check_leaf(leaf)
            .map_err(|error| ChainError::new(Reason::SvidInvalid, error.to_string()))?;
        Ok(Arc::new(Accepted::new(svid, leaf, intermediates)))
    }

    fn unexpected(&self, seen: &SpiffeId) -> ChainError {
        ChainError::new(
            Reason::IdentityUnexpected,
            format!("it proved {seen}; this destination may be served by {}", alternatives(&self.wanted)),
        )
    }

    fn refusal(&self, error: &ChainError, peer: Role) -> HandshakeError {
        let detail =
            format!("the {}'s certificate was refused by {}: {}", peer.name(), self.local, error.detail);
        HandshakeError { reason: error.reason, detail }
    }

    /// For rustls: the refusal as the alert that fits; the words go to the handshake that waits for them.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        peer: Role,
    ) -> Result<(), Error> {
        match self.verify(leaf, intermediates, system_time(now), peer) {
            Ok(accepted) => {
                debug!(target: STEP, "the certificate of the {} is verified: {}", peer.name(), accepted.svid.id);
                Ok(())
            }
            Err(refusal) => {
                let alert = alert_for(refusal.reason);
                failure::remember(refusal);
                Err(Error::InvalidCertificate(alert))
            }
        }
    }
}

/// Judges a chain, leaf first, as any peer with these bundles would, whichever side it is on.
pub(crate) fn judge_chain(
    bundles: &Bundles,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), HandshakeError> {
    let error = |ChainError { reason, detail }| HandshakeError { reason, detail };
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| error(ChainError::empty()))?;
    let algorithms = provider().signature_verification_algorithms;
    for holder in [Role::Client, Role::Server] {
        check_chain(bundles, &Revoked::default(), &algorithms, leaf, intermediates, now, holder)
            .map_err(error)?;
    }
    Ok(())
}

/// The bundle by the leaf's trust domain, the path to one of its roots that is valid `now` and not `revoked`, the leaf's and
/// signers' rules. `holder` is what the leaf is used as, which its EKU must allow.
pub(crate) fn check_chain(
    bundles: &Bundles,
    revoked: &Revoked,
    algorithms: &WebPkiSupportedAlgorithms,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: SystemTime,
    holder: Role,
) -> Result<Svid, ChainError> {
    let svid =
        svid::check_leaf(leaf).map_err(|error| ChainError::new(Reason::SvidInvalid, error.to_string()))?;
    let trust_domain = svid.id.trust_domain();
    let roots = bundles.roots(&trust_domain).ok_or_else(|| {
        let detail = format!(
            "{} is of trust domain {trust_domain}, for which there is no bundle; there are bundles for: {}",
            svid.id,
            bundles.names()
        );
        ChainError::new(Reason::TrustDomainUnknown, detail)
    })?;

    let search = PathSearch {
        algorithms,
        leaf,
        intermediates,
        now,
        holder,
        signer_fault: |signer| svid::check_signer(signer).err().map(|fault| fault.to_string()),
        revocations: &[],
        every_issuer_has_a_list: false,
    };
    let names = Names {
        leaf: svid.id.as_str(),
        serial: &svid.serial,
        validity: (svid.not_before, svid.not_after),
        roots_of: "its trust domain's bundle",
        roots: &|| list(roots),
        renewal: "give this proxy a bundle with a valid root",
    };
    let found = match &revoked.0 {
        None => search.run(roots),
        Some(revocations) => unrevoked(search, &revocations.lists, roots),
    };
    match (found, &revoked.0) {
        (Ok(()), _) => Ok(svid),
        (Err(Fault::Path(webpki::Error::CertRevoked)), Some(revocations)) => Err(ChainError::new(
            Reason::CertificateRevoked,
            format!(
                "{} (serial {}), or a signer of it, is on a revocation list of {}",
                svid.id, svid.serial, revocations.whence
            ),
        )),
        (Err(fault), _) => Err(names.explain(&fault, now)),
    }
}

/// Whether there is a path of which no certificate is on one of the lists. An issuer without a list has revoked nothing, and a
/// list that was to be replaced goes on to revoke what it names: what is missing or old must not become an outage. A list by
/// a namesake of the issuer, as an older root may be one, counts for nothing.
fn unrevoked<'r>(
    search: PathSearch<'_>,
    lists: &[CertRevocationList<'static>],
    roots: &'r [Root],
) -> Result<(), Fault<'r>> {
    let judged_by =
        |lists: &[&CertRevocationList<'_>]| PathSearch { revocations: lists, ..search }.run(roots);
    let is_foreign =
        |found: &Result<(), Fault<'_>>| matches!(found, Err(Fault::Path(error)) if is_foreign_list(error));
    let all: Vec<&CertRevocationList<'_>> = lists.iter().collect();
    let found = judged_by(&all);
    if !is_foreign(&found) {
        return found;
    }
    let own: Vec<_> = all.into_iter().filter(|list| !is_foreign(&judged_by(&[list]))).collect();
    judged_by(&own)
}

/// What rustls turns into the alert that tells the peer as much as it may know (RFC 8446 6.2).
pub(super) fn alert_for(reason: Reason) -> CertificateError {
    match reason {
        Reason::CertificateExpired => CertificateError::Expired,
        Reason::CertificateNotYetValid => CertificateError::NotValidYet,
        Reason::CertificateUntrusted | Reason::TrustDomainUnknown => CertificateError::UnknownIssuer,
        Reason::CertificateRevoked => CertificateError::Revoked,
        Reason::TlsFilesUnusable => CertificateError::UnknownRevocationStatus,
        Reason::IdentityUnexpected | Reason::ServerNameUnexpected => {
            CertificateError::ApplicationVerificationFailure
        }
        _ => CertificateError::BadEncoding,
    }
}

impl ChainError {
    /// No certificate at all.
    pub(super) fn empty() -> ChainError {
        ChainError::new(Reason::CertificateInvalid, "the chain holds no certificate".to_owned())
    }

    pub(super) fn new(reason: Reason, detail: String) -> ChainError {
        ChainError { reason, detail }
    }
}

/// Leaves out what was judged.
impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerVerifier")
            .field("local", &self.local)
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerVerifier {
    /// None: a peer has one certificate and need not choose, and the names of roots are nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now, Role::Client).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    /// The name that was asked for counts for nothing: the SPIFFE ID decides. In TLS 1.3 this runs before our own
    /// certificate is sent, so an impostor never sees it.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now, Role::Server).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
