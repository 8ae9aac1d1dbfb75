//! Judges a peer's certificate chain, the same in both directions: the leaf by the rules of X509-SVID
//! (`pillion_mesh::svid`), the path by webpki, and between them what neither looks at.
//!
//! webpki 0.103 leaves three things to us, each checked here for every certificate of the path that it found: the dates
//! of trust anchors, an anchor's own pathLen, and keyUsage, cA and URI name constraints of signers
//! (`svid::check_signer`). It bounds a path search itself, to 100 signatures.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::svid::{self, Svid};
use pillion_mesh::wire::rfc3339;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::bundles::{Bundles, Root, list};
use super::clock::system_time;
use super::failure::{self, Role};
use super::{HandshakeError, provider};

/// Verifies peers for one set of credentials. Immutable: another bundle is another verifier.
#[derive(Debug, Clone)]
pub(super) struct PeerVerifier {
    bundles: Bundles,
    algorithms: WebPkiSupportedAlgorithms,
    /// Who we are, for messages.
    local: SpiffeId,
    /// Who a server must be, in the order of their texts. Empty accepts no server at all.
    wanted: Arc<[SpiffeId]>,
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
    pub(super) fn new(bundles: Bundles, local: SpiffeId) -> PeerVerifier {
        let algorithms = provider().signature_verification_algorithms;
        PeerVerifier { bundles, algorithms, local, wanted: Arc::new([]) }
    }

    /// The same, for a connection to a server that must prove one of these identities, which stand in the order of their
    /// texts.
    pub(super) fn for_servers(&self, wanted: Arc<[SpiffeId]>) -> PeerVerifier {
        PeerVerifier { wanted, ..self.clone() }
    }

    /// The whole judgement of a chain as `peer` presents it.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        peer: Role,
    ) -> Result<Svid, HandshakeError> {
        let svid = check_chain(&self.bundles, &self.algorithms, leaf, intermediates, now, peer)
            .map_err(|error| self.refusal(&error, peer))?;
        if peer == Role::Server && self.wanted.binary_search(&svid.id).is_err() {
            return Err(self.refusal(&self.unexpected(&svid.id), peer));
        }
        Ok(svid)
    }

    fn unexpected(&self, seen: &SpiffeId) -> ChainError {
        /// Of more, the message would not be read.
        const NAMED: usize = 8;
        let mut wanted: Vec<&str> = self.wanted.iter().take(NAMED).map(SpiffeId::as_str).collect();
        let more = self.wanted.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("one of {more} more"));
        wanted.extend(more.as_deref());
        let wanted = if wanted.is_empty() { "no identity at all".to_owned() } else { wanted.join(" or ") };
        ChainError::new(
            Reason::IdentityUnexpected,
            format!("it proved {seen}; this destination may be served by {wanted}"),
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
            Ok(_svid) => Ok(()),
            Err(refusal) => {
                let alert = alert_for(refusal.reason);
                failure::remember(refusal);
                Err(Error::InvalidCertificate(alert))
            }
        }
    }
}

/// The bundle by the leaf's trust domain, the path to one of its roots that is valid `now`, the leaf's and signers'
/// rules. `holder` is what the leaf is used as, which its EKU must allow.
pub(crate) fn check_chain(
    bundles: &Bundles,
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

    let search = PathSearch { algorithms, leaf, intermediates, now, holder };
    let (valid, outdated): (Vec<&Root>, Vec<&Root>) = roots.iter().partition(|root| root.is_valid_at(now));
    match search.run(&valid) {
        Ok(()) => Ok(svid),
        Err(Fault::Signer(fault)) => {
            Err(ChainError::new(Reason::CertificateInvalid, format!("{}: {fault}", svid.id)))
        }
        Err(Fault::Path(error)) => {
            let by_outdated = outdated.iter().find(|root| search.run(&[**root]).is_ok());
            Err(match by_outdated {
                Some(root) => outdated_root(&svid, root, now),
                None => path_error(&svid, &error, roots, now),
            })
        }
    }
}

/// The search for a path, with everything but the roots.
struct PathSearch<'a> {
    algorithms: &'a WebPkiSupportedAlgorithms,
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    now: SystemTime,
    holder: Role,
}

/// Why there is no path.
enum Fault {
    /// webpki found none.
    Path(webpki::Error),
    /// It found one, of which a signer breaks a rule that is ours to check.
    Signer(String),
}

impl PathSearch<'_> {
    fn run(&self, roots: &[&Root]) -> Result<(), Fault> {
        let leaf = EndEntityCert::try_from(self.leaf).map_err(Fault::Path)?;
        let anchored: Vec<(&Root, TrustAnchor<'_>)> = roots
            .iter()
            .filter_map(|root| Some((*root, webpki::anchor_from_trusted_cert(&root.der).ok()?)))
            .collect();
        let anchors: Vec<TrustAnchor<'_>> = anchored.iter().map(|(_, anchor)| anchor.clone()).collect();
        let usage = match self.holder {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let signer_fault = RefCell::new(None);
        // An error here makes webpki go on to the next path; a good one makes it forget the bad ones.
        let check_signers = |path: &VerifiedPath<'_>| {
            let root = anchored.iter().find(|(_, anchor)| anchor == path.anchor()).map(|(root, _)| *root);
            signers_fault(path, root).map_or(Ok(()), |fault| {
                signer_fault.replace(Some(fault));
                Err(webpki::Error::UnknownIssuer)
            })
        };
        let found = leaf.verify_for_usage(
            self.algorithms.all,
            &anchors,
            self.intermediates,
            UnixTime::since_unix_epoch(now),
            usage,
            None,
            Some(&check_signers),
        );
        match (found, signer_fault.take()) {
            (Ok(_path), _) => Ok(()),
            (Err(_), Some(fault)) => Err(Fault::Signer(fault)),
            (Err(error), None) => Err(Fault::Path(error)),
        }
    }
}

/// The first rule that a signer of a path breaks and webpki did not look at.
fn signers_fault(path: &VerifiedPath<'_>, root: Option<&Root>) -> Option<String> {
    let Some(root) = root else {
        return Some("its path ends in no known root".to_owned());
    };
    let below = path.intermediate_certificates().count();
    if let Some(most) = root.path_length
        && usize::try_from(most).is_ok_and(|most| below > most)
    {
        return Some(format!(
            "expected at most {most} intermediates below root {} (pathLen, RFC 5280 4.2.1.9); seen: {below}",
            root.subject
        ));
    }
    path.intermediate_certificates().find_map(|signer| {
        let fault = svid::check_signer(&signer.der()).err()?;
        Some(format!("a signer of its path breaks {fault}"))
    })
}

fn outdated_root(svid: &Svid, root: &Root, now: SystemTime) -> ChainError {
    let detail = format!(
        "{} leads only to root {} of our bundle, which is valid from {} until {}; our clock says {}: \
         give this proxy a bundle with a valid root, or mend its clock",
        svid.id,
        root.subject,
        rfc3339::print(root.not_before),
        rfc3339::print(root.not_after),
        rfc3339::print(now),
    );
    ChainError::new(Reason::CertificateUntrusted, detail)
}

fn path_error(svid: &Svid, error: &webpki::Error, roots: &[Root], now: SystemTime) -> ChainError {
    let whose = |limit: SystemTime, leaf: SystemTime| {
        if limit == leaf {
            format!("{} (serial {})", svid.id, svid.serial)
        } else {
            format!("a signer of {}", svid.id)
        }
    };
    let (now, known) = (rfc3339::print(now), list(roots));
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            let not_after = system_time(*not_after);
            let (whose, until) = (whose(not_after, svid.not_after), rfc3339::print(not_after));
            ChainError::new(
                Reason::CertificateExpired,
                format!("{whose} expired at {until}; our clock says {now}"),
            )
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            let not_before = system_time(*not_before);
            let (whose, from) = (whose(not_before, svid.not_before), rfc3339::print(not_before));
            ChainError::new(
                Reason::CertificateNotYetValid,
                format!("{whose} is valid from {from}; our clock says {now}"),
            )
        }
        webpki::Error::UnknownIssuer => ChainError::new(
            Reason::CertificateUntrusted,
            format!("{} does not lead to a root of its trust domain; we trust {known}", svid.id),
        ),
        webpki::Error::InvalidSignatureForPublicKey => ChainError::new(
            Reason::CertificateUntrusted,
            format!(
                "{}: a signature of its chain is not by the key of that name, or that key is weak (RSA under 2048 bits); \
                 we trust {known}. A CA that was made anew under its old name looks like this",
                svid.id
            ),
        ),
        other => ChainError::new(Reason::CertificateInvalid, format!("{}: {other} (RFC 5280)", svid.id)),
    }
}

/// What rustls turns into the alert that tells the peer as much as it may know (RFC 8446 6.2).
fn alert_for(reason: Reason) -> CertificateError {
    match reason {
        Reason::CertificateExpired => CertificateError::Expired,
        Reason::CertificateNotYetValid => CertificateError::NotValidYet,
        Reason::CertificateUntrusted | Reason::TrustDomainUnknown => CertificateError::UnknownIssuer,
        Reason::IdentityUnexpected => CertificateError::ApplicationVerificationFailure,
        _ => CertificateError::BadEncoding,
    }
}

impl ChainError {
    /// No certificate at all.
    pub(super) fn empty() -> ChainError {
        ChainError::new(Reason::CertificateInvalid, "the chain holds no certificate".to_owned())
    }

    fn new(reason: Reason, detail: String) -> ChainError {
        ChainError { reason, detail }
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
