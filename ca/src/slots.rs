//! Who signs: one slot for now, the current signer, which is the CA's own self-signed root.
//!
//! Everything that needs a signer or the trust bundle asks [`Slots`], so that a next signer, published ahead of its
//! use, can join without opening the callers.

use std::time::{Duration, SystemTime};

use pillion_mesh::spiffe::TrustDomain;
use pillion_mesh::svid::{self, SvidError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{self, KeyError, KeyKind};

/// How long a new root is valid: ten years, as Istio's.
const ROOT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// How far back every validity begins, for peers whose clocks are behind (istio/istio#32176).
pub(crate) const BACKDATE: Duration = Duration::from_secs(2 * 60);
/// Longest common name (RFC 5280, ub-common-name).
const LONGEST_COMMON_NAME: usize = 64;

/// The signers of one trust domain.
pub(crate) struct Slots {
    current: Signer,
}

impl Slots {
    pub(crate) fn new(current: Signer) -> Self {
        Slots { current }
    }

    /// The signer of everything that is issued now.
    pub(crate) fn current(&self) -> &Signer {
        &self.current
    }

    /// The roots that a verifier of this trust domain shall trust.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.current.certificate)
    }

    /// The same roots as PEM.
    pub(crate) fn bundle_pem(&self) -> &str {
        &self.current.pem
    }

    /// Counts the changes of the set of roots (SPIFFE bundle, `spiffe_sequence`).
    pub(crate) fn sequence(&self) -> u64 {
        1
    }
}

/// A signing certificate with its key.
pub(crate) struct Signer {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, WipedKey>,
    not_after: SystemTime,
}

/// A root as it goes to the disk.
pub(crate) struct NewRoot {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: Zeroizing<String>,
}

/// What a person wants to know of a signing certificate; read without its key.
pub(crate) struct SignerSummary {
    pub(crate) subject: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) sha256: String,
}

/// Why a stored signer cannot be used. Nothing is ever made anew in its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    #[error("the certificate is damaged: expected one whole certificate in PEM; seen: {0}")]
    Certificate(String),
    #[error("the key is damaged: expected one whole private key in PEM; seen: {0}")]
    Key(rcgen::Error),
    #[error("the key and the certificate do not belong together: their public keys differ")]
    NotAPair,
    #[error("the certificate is damaged: {0}")]
    Signature(KeyError),
    #[error("the certificate may not sign workloads: {0}")]
    Profile(#[from] SvidError),
    #[error("the certificate is of {seen}; the settings say trustDomain: {expected}")]
    OtherTrustDomain { expected: TrustDomain, seen: String },
}

impl Signer {
    /// Makes a self-signed root for the trust domain: ECDSA P-256, ten years, no CA under it.
    pub(crate) fn create(trust_domain: &TrustDomain, now: SystemTime) -> Result<NewRoot, rcgen::Error> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(WipedKey)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "pillion");
        let common_name: String = trust_domain.as_str().chars().take(LONGEST_COMMON_NAME).collect();
        name.push(DnType::CommonName, common_name);
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(now + ROOT_VALIDITY);
        params.serial_number = Some(random_serial()?);
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(NewRoot { certificate_pem, key_pem: Zeroizing::new(key.0.serialize_pem()) })
    }

    /// Takes up a stored root after every check that a damaged or foreign pair would fail.
    pub(crate) fn load(
        certificate_pem: &str,
        key_pem: &str,
        trust_domain: &TrustDomain,
    ) -> Result<Self, SignerError> {
        let der = one_certificate(certificate_pem)?;
        let certificate = parse(&der)?;
        let key = KeyPair::from_pem(key_pem).map(WipedKey).map_err(SignerError::Key)?;
        if key.subject_public_key_info() != certificate.public_key().raw {
            return Err(SignerError::NotAPair);
        }
        // webpki reads more strictly, and verifiers everywhere will read this certificate by it.
        webpki::anchor_from_trusted_cert(&der)
            .map_err(|error| SignerError::Certificate(format!("{error:?}")))?;
        check_self_signature(&certificate)?;
        svid::check_signer(&der)?;
        check_trust_domain(&certificate, trust_domain)?;
        let not_after = system_time(certificate.validity().not_after);
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| SignerError::Certificate(error.to_string()))?;
        Ok(Signer { certificate: der, pem: certificate_pem.to_owned(), issuer, not_after })
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, impl SigningKey + use<>> {
        &self.issuer
    }

    /// The end of the signer's own validity: nothing it signs lasts longer.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// Reads a signing certificate for a person.
pub(crate) fn summarize(certificate_pem: &str) -> Result<SignerSummary, SignerError> {
    let der = one_certificate(certificate_pem)?;
    let certificate = parse(&der)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let sha256: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(SignerSummary {
        subject: certificate.subject().to_string(),
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
        sha256: sha256.join(":"),
    })
}

/// A positive serial number with 126 random bits, always 16 bytes long (RFC 5280 4.1.2.2 asks for at most 20).
pub(crate) fn random_serial() -> Result<rcgen::SerialNumber, rcgen::Error> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    let [first, ..] = &mut bytes;
    *first = (*first & 0x3f) | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}

fn one_certificate(pem: &str) -> Result<CertificateDer<'static>, SignerError> {
    let mut sections = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (sections.next(), sections.next()) {
        (Some(Ok(der)), None) => Ok(der),
        (Some(Err(error)), _) => Err(SignerError::Certificate(error.to_string())),
        (Some(Ok(_)), Some(_)) => Err(SignerError::Certificate("more than one".to_owned())),
        (None, _) => Err(SignerError::Certificate("none".to_owned())),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SignerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(SignerError::Certificate(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(SignerError::Certificate(error.to_string())),
    }
}

/// webpki takes a trust anchor's own bytes on trust, so a flipped bit in ours would go unseen without this.
fn check_self_signature(certificate: &X509Certificate<'_>) -> Result<(), SignerError> {
    let key = certificate.public_key();
    let verify = |kind: KeyKind| {
        let algorithm = &certificate.signature_algorithm.algorithm;
        let signed = certificate.tbs_certificate.as_ref();
        keys::verify(kind, key, algorithm, signed, &certificate.signature_value.data)
    };
    keys::kind_of(key).and_then(verify).map_err(SignerError::Signature)
}

/// A signing certificate's own SPIFFE ID is the trust domain without a path (X509-SVID 3.2).
fn check_trust_domain(certificate: &X509Certificate<'_>, expected: &TrustDomain) -> Result<(), SignerError> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] if *uri == expected.uri() => Ok(()),
        names => {
            let seen: Vec<_> = names.iter().map(ToString::to_string).collect();
            Err(SignerError::OtherTrustDomain { expected: expected.clone(), seen: seen.join(" ") })
        }
    }
}

fn system_time(time: ASN1Time) -> SystemTime {
    time.to_datetime().into()
}

/// A signing key whose copy of the PKCS#8 text is wiped when it is dropped.
struct WipedKey(KeyPair);

impl Drop for WipedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for WipedKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for WipedKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

#[cfg(test)]
mod tests;
