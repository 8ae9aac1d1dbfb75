//! Between the messages of the Workload API and certificates, both ways.

use std::collections::HashMap;

use pillion_mesh::spiffe::{SpiffeId, TrustDomain, alternatives};
use pillion_mesh::wire::rfc3339;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Status;
use x509_parser::asn1_rs::{Any, FromDer};
use zeroize::Zeroizing;

use super::proto::{X509BundlesResponse, X509svid, X509svidResponse};
use crate::tls::{BundleError, Bundles, Credentials};

/// The identity, its key and every bundle, as an app may have them.
///
/// # Errors
/// `PermissionDenied` where there is no valid certificate now.
pub(super) fn svids(credentials: Option<&Credentials>) -> Result<X509svidResponse, Status> {
    let credentials = valid(credentials)?;
    let key = credentials.pkcs8().ok_or_else(|| {
        Status::internal("the private key cannot be written as PKCS#8; make it of another kind")
    })?;
    let own = credentials.svid.id.trust_domain();
    let mut bundles = all_bundles(credentials);
    let bundle = bundles.remove(&own.uri()).unwrap_or_default();
    let svid = X509svid {
        spiffe_id: credentials.svid.id.to_string(),
        x509_svid: credentials.chain.iter().flat_map(|certificate| certificate.to_vec()).collect(),
        x509_svid_key: key.to_vec(),
        bundle,
        hint: String::new(),
    };
    Ok(X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: bundles })
}

/// Every bundle.
///
/// # Errors
/// As of [`svids`].
pub(super) fn bundles(credentials: Option<&Credentials>) -> Result<X509BundlesResponse, Status> {
    Ok(X509BundlesResponse { crl: Vec::new(), bundles: all_bundles(valid(credentials)?) })
}

/// An outdated certificate is no identity.
fn valid(credentials: Option<&Credentials>) -> Result<&Credentials, Status> {
    let credentials = credentials.ok_or_else(|| {
        Status::permission_denied("this workload has no certificate yet; the log of its sidecar says why")
    })?;
    let (svid, now) = (&credentials.svid, credentials.now());
    if credentials.is_valid_at(now) {
        return Ok(credentials);
    }
    Err(Status::permission_denied(format!(
        "the certificate of {} is valid from {} until {}; the sidecar's clock says {}, and its log why there is no other",
        svid.id,
        rfc3339::print(svid.not_before),
        rfc3339::print(svid.not_after),
        rfc3339::print(now),
    )))
}

fn all_bundles(credentials: &Credentials) -> HashMap<String, Vec<u8>> {
    let bundle = |(trust_domain, roots): (&TrustDomain, &[_])| {
        (trust_domain.uri(), roots.iter().flat_map(|root: &crate::tls::Root| root.der.to_vec()).collect())
    };
    credentials.bundles().iter().map(bundle).collect()
}

/// What an agent gave for one identity.
pub(crate) struct Given {
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The leaf's.
    pub(crate) key: Zeroizing<PrivateKeyDer<'static>>,
    /// Of the identity's own trust domain.
    pub(crate) own_bundle: Bundles,
    /// Of other trust domains.
    pub(crate) foreign: Bundles,
    /// What could not be used of the message, which does not keep the rest from being used.
    pub(crate) faults: Vec<String>,
}

/// Why a message of an agent cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GivenError {
    /// It is for others.
    #[error(
        "it gives {given}; this proxy is to be {wanted}: register that there, or set `workload` to what it gives"
    )]
    OtherIdentity {
        /// Whom it is for.
        given: String,
        /// Whom it should be for.
        wanted: SpiffeId,
    },
    /// DER that ends too early, or is none.
    #[error("expected in {field} certificates in DER, one behind the other: {fault}")]
    Der {
        /// Of the message.
        field: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// Roots that cannot be used.
    #[error("bundle: {0}")]
    Bundle(#[from] BundleError),
}

impl Given {
    /// The identity `wanted` of a message, which may hold several.
    ///
    /// # Errors
    /// [`GivenError`]. A bundle of another trust domain that cannot be used is left out and is among `faults`.
    pub(crate) fn of(message: X509svidResponse, wanted: &SpiffeId) -> Result<Given, GivenError> {
        let X509svidResponse { svids, crl, federated_bundles } = message;
        let mut other = Vec::new();
        let mut svid = None;
        for candidate in svids.into_iter().map(Wiped) {
            if svid.is_none() && candidate.0.spiffe_id == wanted.as_str() {
                svid = Some(candidate);
            } else {
                other.extend(candidate.0.spiffe_id.parse::<SpiffeId>());
            }
        }
        let Some(mut svid) = svid else {
            return Err(GivenError::OtherIdentity { given: alternatives(&other), wanted: wanted.clone() });
        };
        let chain = split("x509_svid", &svid.0.x509_svid)?;
        let key = std::mem::take(&mut svid.0.x509_svid_key);
        let key = Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)));
        let own = wanted.trust_domain();
        let own_bundle = Bundles::from_der(&own, split("bundle", &svid.0.bundle)?)?;
        let (mut foreign, mut faults) = (Bundles::default(), Vec::new());
        for (name, der) in federated_bundles {
            match foreign_bundle(&name, &der) {
                Ok(bundle) => foreign = foreign.with_foreign(&bundle),
                Err(fault) => faults.push(format!("the bundle of {name:?} cannot be used: {fault}")),
            }
        }
        if !crl.is_empty() {
            faults.push("its revocation lists are not used; give them by file".to_owned());
        }
        Ok(Given { chain, key, own_bundle, foreign, faults })
    }
}

fn foreign_bundle(name: &str, der: &[u8]) -> Result<Bundles, String> {
    let trust_domain = name.strip_prefix("spiffe://").unwrap_or(name);
    let trust_domain: TrustDomain = trust_domain.parse().map_err(|error| format!("{error}"))?;
    let roots = split("federated_bundles", der).map_err(|error| error.to_string())?;
    Bundles::from_der(&trust_domain, roots).map_err(|error| error.to_string())
}

/// A message with a key, which is wiped when it goes.
struct Wiped(X509svid);

impl Drop for Wiped {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0.x509_svid_key);
    }
}

/// The certificates that stand one behind the other.
fn split(field: &'static str, mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, GivenError> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (behind, _) = Any::from_der(der).map_err(|error| GivenError::Der {
            field,
            fault: error.to_string().chars().take(200).collect(),
        })?;
        let (certificate, _) = der.split_at_checked(der.len() - behind.len()).unwrap_or_default();
        certificates.push(CertificateDer::from(certificate.to_vec()));
        der = behind;
    }
    Ok(certificates)
}
