//! Trust bundles: for each trust domain the roots that may vouch for its identities (SPIFFE Trust Domain and Bundle 3).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::spiffe::TrustDomain;
use pillion_mesh::spiffe::bundle::Bundle;
use pillion_mesh::svid::{self, SvidError};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Trust domain to roots. Cheap to clone; equal when the same roots stand in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bundles(Arc<BTreeMap<TrustDomain, Arc<[Root]>>>);

/// A trust anchor, with the dates that webpki does not look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// The certificate.
    pub(crate) der: CertificateDer<'static>,
    /// Its subject, for people.
    pub(crate) subject: String,
    /// Its serial number in lower-case hexadecimal.
    pub(crate) serial: String,
    /// Valid from.
    pub(crate) not_before: SystemTime,
    /// Valid until.
    pub(crate) not_after: SystemTime,
    /// How many intermediates may stand below it (RFC 5280 4.2.1.9); none = any number.
    pub(super) path_length: Option<u32>,
    /// The same as webpki wants it.
    pub(super) anchor: TrustAnchor<'static>,
}

/// Why a text is no trust bundle. The number counts the bundle's certificates from 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// Nothing to trust.
    #[error("expected one or more PEM certificates, found none")]
    Empty,
    /// Broken PEM.
    #[error("certificate {number} is not PEM: {error}")]
    Pem {
        /// Which one.
        number: usize,
        /// What is wrong with it.
        error: pem::Error,
    },
    /// Not a certificate that webpki or we can read.
    #[error("certificate {number} is not an X.509 v3 certificate in DER: {error}")]
    Der {
        /// Which one.
        number: usize,
        /// What is wrong with it.
        error: String,
    },
    /// A certificate that may not sign.
    #[error("certificate {number} cannot be a root: {error}")]
    NotSigner {
        /// Which one.
        number: usize,
        /// The broken clause.
        error: SvidError,
    },
}

impl Bundles {
    /// The bundle of one trust domain: PEM certificates, other PEM sections are passed over.
    ///
    /// # Errors
    /// When there is no certificate, or one that is no signing certificate: a bundle is taken whole or not at all.
    pub(crate) fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Bundles, BundleError> {
        let certificates = (1..)
            .zip(CertificateDer::pem_slice_iter(pem))
            .map(|(number, der)| der.map_err(|error| BundleError::Pem { number, error }))
            .collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() {
            return Err(BundleError::Empty);
        }
        Self::from_der(trust_domain, certificates)
    }

    /// The bundle of one trust domain as somebody wrote it: a SPIFFE bundle in JSON, or PEM. What a SPIFFE bundle says of
    /// itself comes along.
    ///
    /// # Errors
    /// What is wrong with it; a bundle is taken whole or not at all.
    pub(crate) fn from_text(trust_domain: &TrustDomain, text: &[u8]) -> Result<(Bundles, Bundle), String> {
        if !text.trim_ascii_start().starts_with(b"{") {
            let bundles = Self::from_pem(trust_domain, text).map_err(|error| error.to_string())?;
            return Ok((bundles, Bundle::default()));
        }
        let bundle = Bundle::parse(text).map_err(|error| error.to_string())?;
        let roots = bundle.roots().map(|root| CertificateDer::from(root.to_vec()));
        let bundles = Self::from_der(trust_domain, roots).map_err(|error| error.to_string())?;
        Ok((bundles, bundle))
    }

    /// The bundle of one trust domain. Without certificates it vouches for nobody: all is revoked.
    ///
    /// # Errors
    /// When one is no signing certificate: a bundle is taken whole or not at all.
    pub(crate) fn from_der(
        trust_domain: &TrustDomain,
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Bundles, BundleError> {
        let mut roots: Vec<Root> = Vec::new();
        for (number, der) in (1..).zip(certificates) {
            let root = Root::new(number, der)?;
            if !roots.iter().any(|known| known.der == root.der) {
                roots.push(root);
            }
        }
        Ok(Bundles(Arc::new(BTreeMap::from([(trust_domain.clone(), roots.into())]))))
    }

    /// The bundle of one trust domain, whose roots vouch for its `aliases` too: other names of the same trust domain.
    #[must_use]
    pub(crate) fn also_for(mut self, aliases: &[TrustDomain]) -> Bundles {
        let map = Arc::make_mut(&mut self.0);
        if let Some(roots) = map.first_key_value().map(|(_, roots)| Arc::clone(roots)) {
            for alias in aliases {
                map.entry(alias.clone()).or_insert_with(|| Arc::clone(&roots));
            }
        }
        self
    }

    /// These, and those of other trust domains. Where both know one, it keeps what it has here: no bundle is ever merged
    /// with that of another trust domain (SPIFFE Federation 6).
    #[must_use]
    pub(crate) fn with_foreign(mut self, foreign: &Bundles) -> Bundles {
        let map = Arc::make_mut(&mut self.0);
        for (trust_domain, roots) in foreign.0.iter() {
            map.entry(trust_domain.clone()).or_insert_with(|| Arc::clone(roots));
        }
        self
    }

    /// The roots that may vouch for identities of `trust_domain`; none when it is unknown.
    pub(crate) fn roots(&self, trust_domain: &TrustDomain) -> Option<&[Root]> {
        self.0.get(trust_domain).map(AsRef::as_ref)
    }

    /// Every trust domain with its roots, in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &[Root])> {
        self.0.iter().map(|(trust_domain, roots)| (trust_domain, roots.as_ref()))
    }

    /// The names of the trust domains, for messages.
    pub(super) fn names(&self) -> String {
        self.0.keys().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// `cluster.local: CN=root (serial 1f)`.
impl fmt::Display for Bundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (trust_domain, roots)) in self.iter().enumerate() {
            write!(f, "{}{trust_domain}: {}", if at == 0 { "" } else { "; " }, list(roots))?;
        }
        Ok(())
    }
}

/// Roots by subject and serial number, for messages.
pub(super) fn list(roots: &[Root]) -> String {
    if roots.is_empty() {
        return "no root at all".to_owned();
    }
    let names = roots.iter().map(|root| format!("{} (serial {})", root.subject, root.serial));
    names.collect::<Vec<_>>().join(", ")
}

impl Root {
    /// A certificate that may sign identities of the mesh.
    fn new(number: usize, der: CertificateDer<'static>) -> Result<Root, BundleError> {
        svid::check_signer(&der).map_err(|error| BundleError::NotSigner { number, error })?;
        Root::read(der).map_err(|error| BundleError::Der { number, error })
    }

    /// Any certificate that webpki and we can read, for those who want no more of a root.
    pub(super) fn read(der: CertificateDer<'static>) -> Result<Root, String> {
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| error.to_string())?.to_owned();
        let (not_before, not_after) = svid::validity(&der).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let constraints = parsed.basic_constraints().map_err(|error| error.to_string())?;
        Ok(Root {
            subject: parsed.subject().to_string(),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before,
            not_after,
            path_length: constraints.and_then(|extension| extension.value.path_len_constraint),
            anchor,
            der,
        })
    }

    /// Whether `now` lies in its validity, both ends included (RFC 5280 4.1.2.5).
    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}
