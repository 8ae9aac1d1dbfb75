//! The search for a path from a leaf to a root, the same for peers of the mesh and for servers outside of it, and why
//! there is none in words.
//!
//! webpki 0.103 leaves three things to us, each checked here for every certificate of the path that it found: the dates
//! of trust anchors, an anchor's own pathLen, and what signers may do (the caller's rule). It bounds a path search itself,
//! to 100 signatures.

use std::cell::RefCell;
use std::time::SystemTime;

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::rfc3339;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, Der, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::bundles::Root;
use super::clock::system_time;
use super::failure::Role;
use super::verify::ChainError;

/// The search, with everything but the roots.
#[derive(Clone, Copy)]
pub(super) struct PathSearch<'a> {
    pub(super) algorithms: &'a WebPkiSupportedAlgorithms,
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) now: SystemTime,
    /// What the leaf is used as, which its EKU and those of its signers must allow.
    pub(super) holder: Role,
    /// What a signer has to be that webpki does not ask for; says what is broken.
    pub(super) signer_fault: fn(&[u8]) -> Option<String>,
    /// No certificate of the path may be on one of these.
    pub(super) revocations: &'a [&'a CertRevocationList<'a>],
    /// Where there are lists, each certificate of the path must be in the reach of one, and that one not outdated.
    pub(super) every_issuer_has_a_list: bool,
}

/// Why there is no path.
pub(super) enum Fault<'r> {
    /// webpki found none.
    Path(webpki::Error),
    /// It found one, of which a signer breaks a rule that is ours to check.
    Signer(String),
    /// There is one, to a root that is not valid now.
    OutdatedRoot(&'r Root),
}

/// What a leaf and its roots are called in messages.
pub(super) struct Names<'a> {
    /// The leaf: its SPIFFE ID, or its subject.
    pub(super) leaf: &'a str,
    /// Its serial number.
    pub(super) serial: &'a str,
    /// Its validity.
    pub(super) validity: (SystemTime, SystemTime),
    /// What completes "a root of …".
    pub(super) roots_of: &'a str,
    /// The roots themselves, where a person can do something with them.
    pub(super) roots: &'a dyn Fn() -> String,
    /// What helps where the only root is outdated.
    pub(super) renewal: &'a str,
}

impl PathSearch<'_> {
    /// Whether there is a path to one of the roots that is valid now.
    pub(super) fn run<'r>(&self, roots: &'r [Root]) -> Result<(), Fault<'r>> {
        let (valid, outdated): (Vec<&Root>, Vec<&Root>) =
            roots.iter().partition(|root| root.is_valid_at(self.now));
        match self.to(&valid) {
            Err(Fault::Path(error)) => {
                let by_outdated = outdated.into_iter().find(|root| self.to(&[root]).is_ok());
                Err(by_outdated.map_or(Fault::Path(error), Fault::OutdatedRoot))
            }
            found => found,
        }
    }

    fn to<'r>(&self, roots: &[&'r Root]) -> Result<(), Fault<'r>> {
        let leaf = EndEntityCert::try_from(self.leaf).map_err(Fault::Path)?;
        let anchors: Vec<TrustAnchor<'_>> = roots.iter().map(|root| borrowed(&root.anchor)).collect();
        let usage = match self.holder {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (unlisted, outdated) = if self.every_issuer_has_a_list {
            (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce)
        } else {
            (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore)
        };
        let revocation = RevocationOptionsBuilder::new(self.revocations).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(unlisted)
                .with_expiration_policy(outdated)
                .build()
        });
        let signer_fault = RefCell::new(None);
        // An error here makes webpki go on to the next path; a good one makes it forget the bad ones.
        let check_signers = |path: &VerifiedPath<'_>| {
            let root = roots.iter().find(|root| root.anchor == *path.anchor());
            self.fault_of_signers(path, root.copied()).map_or(Ok(()), |fault| {
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
            revocation,
            Some(&check_signers),
        );
        match (found, signer_fault.take()) {
            (Ok(_path), _) => Ok(()),
            (Err(_), Some(fault)) => Err(Fault::Signer(fault)),
            (Err(error), None) => Err(Fault::Path(error)),
        }
    }

    /// The first rule that a signer of a path breaks and webpki did not look at.
    fn fault_of_signers(&self, path: &VerifiedPath<'_>, root: Option<&Root>) -> Option<String> {
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
            let fault = (self.signer_fault)(&signer.der())?;
            Some(format!("a signer of its path breaks {fault}"))
        })
    }
}

/// The same anchor without copies.
fn borrowed<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: Der::from_slice(&anchor.subject),
        subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
        name_constraints: anchor.name_constraints.as_ref().map(|constraints| Der::from_slice(constraints)),
    }
}

impl Names<'_> {
    /// The reason and the words for a path that was not found at `now`.
    pub(super) fn explain(&self, fault: &Fault<'_>, now: SystemTime) -> ChainError {
        match fault {
            Fault::Signer(fault) => {
                ChainError::new(Reason::CertificateInvalid, format!("{}: {fault}", self.leaf))
            }
            Fault::OutdatedRoot(root) => self.outdated_root(root, now),
            Fault::Path(error) => self.path_error(error, now),
        }
    }

    fn outdated_root(&self, root: &Root, now: SystemTime) -> ChainError {
        let detail = format!(
            "{} leads only to root {} of {}, which is valid from {} until {}; our clock says {}: {}, or mend its clock",
            self.leaf,
            root.subject,
            self.roots_of,
            rfc3339::print(root.not_before),
            rfc3339::print(root.not_after),
            rfc3339::print(now),
            self.renewal,
        );
        ChainError::new(Reason::CertificateUntrusted, detail)
    }

    fn path_error(&self, error: &webpki::Error, now: SystemTime) -> ChainError {
        let Names { leaf, roots_of, .. } = self;
        let now = rfc3339::print(now);
        match error {
            webpki::Error::CertExpired { not_after, .. } => {
                let not_after = system_time(*not_after);
                let (whose, until) = (self.whose(not_after, self.validity.1), rfc3339::print(not_after));
                ChainError::new(
                    Reason::CertificateExpired,
                    format!("{whose} expired at {until}; our clock says {now}"),
                )
            }
            webpki::Error::CertNotValidYet { not_before, .. } => {
                let not_before = system_time(*not_before);
                let (whose, from) = (self.whose(not_before, self.validity.0), rfc3339::print(not_before));
                ChainError::new(
                    Reason::CertificateNotYetValid,
                    format!("{whose} is valid from {from}; our clock says {now}"),
                )
            }
            webpki::Error::UnknownIssuer => ChainError::new(
                Reason::CertificateUntrusted,
                format!("{leaf} does not lead to a root of {roots_of}; we trust {}", (self.roots)()),
            ),
            webpki::Error::InvalidSignatureForPublicKey => ChainError::new(
                Reason::CertificateUntrusted,
                format!(
                    "{leaf}: a signature of its chain is not by the key of that name, or that key is weak (RSA under 2048 \
                     bits); we trust {}. A CA that was made anew under its old name looks like this",
                    (self.roots)()
                ),
            ),
            other => ChainError::new(Reason::CertificateInvalid, format!("{leaf}: {other} (RFC 5280)")),
        }
    }

    /// Of the leaf, where the date is its own; else of some signer, which webpki does not name.
    fn whose(&self, limit: SystemTime, of_leaf: SystemTime) -> String {
        if limit == of_leaf {
            format!("{} (serial {})", self.leaf, self.serial)
        } else {
            format!("a signer of {}", self.leaf)
        }
    }
}
