//! Who signs: the signers of one moment, as `store` keeps them on the disk and `pillion_mesh::signers` orders them.
//!
//! Everything that needs a signer or the trust bundle asks [`Slots`]. A change makes new ones; nothing changes within.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pillion_mesh::signers::{self, Signers};
use pillion_mesh::spiffe::TrustDomain;
use pillion_mesh::svid::{self, SvidError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, RsaKeySize, SanType, SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{self, KeyError, KeyKind};

/// How far back every validity begins, for peers whose clocks are behind (istio/istio#32176).
pub(crate) const BACKDATE: Duration = Duration::from_secs(2 * 60);
/// Longest common name (RFC 5280, ub-common-name).
const LONGEST_COMMON_NAME: usize = 64;
/// More certificates than a chain has.
const LONGEST_CHAIN: usize = 16;

/// The signers of one trust domain.
pub(crate) struct Slots {
    signers: Signers,
    current: Signer,
    /// The other published ones, by name.
    others: BTreeMap<String, Signer>,
    roots: Vec<CertificateDer<'static>>,
    pem: String,
}

impl Slots {
    /// The signers that the record names, of which `loaded` has each by its name; none where one is missing.
    pub(crate) fn new(signers: Signers, mut loaded: BTreeMap<String, Signer>) -> Option<Self> {
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for signer in signers.published() {
            for root in &loaded.get(&signer.name)?.roots {
                if !roots.contains(root) {
                    roots.push(root.clone());
                }
            }
        }
        let pem = roots.iter().map(|root| pem_of(root)).collect();
        let current = loaded.remove(&signers.current().name)?;
        Some(Slots { signers, current, others: loaded, roots, pem })
    }

    /// The first signer of a trust domain, published at `now`.
    pub(crate) fn only(signer: Signer, now: SystemTime) -> Self {
        let signers = Signers::first(signer.record(now, Duration::ZERO));
        let roots = signer.roots.clone();
        let pem = roots.iter().map(|root| pem_of(root)).collect();
        Slots { signers, current: signer, others: BTreeMap::new(), roots, pem }
    }

    /// The signer of every workload's certificate that is issued now.
    pub(crate) fn current(&self) -> &Signer {
        &self.current
    }

    /// The signer of the CA's own server certificate, which is to last for `life`: the one that is published for the
    /// longest time, so that the CA is known also to those who have not asked for a while.
    pub(crate) fn longest_known(&self, now: SystemTime, life: Duration) -> &Signer {
        let known = self.others.get(&self.signers.longest_known(now, life).name);
        known.filter(|signer| signer.can_sign()).unwrap_or(&self.current)
    }

    /// Which signer is which.
    pub(crate) fn signers(&self) -> &Signers {
        &self.signers
    }

    /// The roots that a verifier of this trust domain shall trust, the current one first.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter()
    }

    /// Whether every root that this signer leads to is published.
    pub(crate) fn publishes(&self, signer: &Signer) -> bool {
        signer.roots.iter().all(|root| self.roots.contains(root))
    }

    /// The same roots as PEM.
    pub(crate) fn bundle_pem(&self) -> &str {
        &self.pem
    }

    /// Counts the changes of the set of roots (SPIFFE bundle, `spiffe_sequence`).
    pub(crate) fn sequence(&self) -> u64 {
        self.signers.sequence()
    }

    /// The longest life that may be granted before a longer one is noted down.
    pub(crate) fn longest(&self) -> Duration {
        self.signers.current().longest
    }
}

/// What kind of key a root is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RootKey {
    #[default]
    EcdsaP256,
    EcdsaP384,
    #[serde(rename = "rsa-2048")]
    #[value(name = "rsa-2048")]
    Rsa2048,
    #[serde(rename = "rsa-3072")]
    #[value(name = "rsa-3072")]
    Rsa3072,
    #[serde(rename = "rsa-4096")]
    #[value(name = "rsa-4096")]
    Rsa4096,
}

impl RootKey {
    fn make(self) -> Result<WipedKey, rcgen::Error> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        match self {
            RootKey::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            RootKey::EcdsaP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            RootKey::Rsa2048 => rsa(RsaKeySize::_2048),
            RootKey::Rsa3072 => rsa(RsaKeySize::_3072),
            RootKey::Rsa4096 => rsa(RsaKeySize::_4096),
        }
        .map(WipedKey)
    }
}

/// How roots are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RootPlan {
    pub(crate) key: RootKey,
    /// How long a root is valid.
    pub(crate) life: Duration,
    /// How long an intermediate under it is valid; none: the root signs workloads itself.
    pub(crate) intermediate: Option<Duration>,
}

/// A signing certificate with its key: a root of ours, or somebody else's certificate below their root.
pub(crate) struct Signer {
    name: String,
    certificate: CertificateDer<'static>,
    /// What a verifier has to trust.
    roots: Vec<CertificateDer<'static>>,
    /// What stands between a leaf and the roots, itself included; empty for a root.
    above: Vec<CertificateDer<'static>>,
    /// None where somebody else has the key and does not lend it any more.
    issuer: Option<Issuer<'static, WipedKey>>,
    not_before: SystemTime,
    not_after: SystemTime,
    below: Option<Intermediate>,
}

/// A signing certificate under a root, made by this process; its key is never written down.
struct Intermediate {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, WipedKey>,
    not_after: SystemTime,
    renew_at: SystemTime,
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
    /// How the record of the signers names it.
    pub(crate) name: String,
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
    #[error("the certificate is another one than the record of the signers tells of (its name would be {0})")]
    NotRecorded(String),
    #[error("the chain is damaged: expected the certificates above the signing one in PEM; seen: {0}")]
    Chain(String),
    #[error(
        "there is no root: expected a self-signed certificate in the chain, or as the signing certificate itself"
    )]
    NoRoot,
    #[error(
        "workloads would not accept what it signs: {0}; is the chain whole, and are all of its certificates valid now?"
    )]
    Unfit(String),
}

impl Signer {
    /// Makes a self-signed root for the trust domain, with room for an intermediate where there shall be one.
    pub(crate) fn create(
        trust_domain: &TrustDomain,
        plan: &RootPlan,
        now: SystemTime,
    ) -> Result<NewRoot, rcgen::Error> {
        let key = plan.key.make()?;
        let params = signer_params(
            trust_domain,
            plan.intermediate.map_or(0, |_life| 1),
            (now - BACKDATE, now + plan.life),
        )?;
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
        let validity = certificate.validity();
        let (not_before, not_after) = (system_time(validity.not_before), system_time(validity.not_after));
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| SignerError::Certificate(error.to_string()))?;
        let (name, roots) = (name_of(&der), vec![der.clone()]);
        Ok(Signer {
            name,
            certificate: der,
            roots,
            above: Vec::new(),
            issuer: Some(issuer),
            not_before,
            not_after,
            below: None,
        })
    }

    /// Takes up somebody else's certificate with what stands above it, roots included; with a key it is tried whether
    /// workloads would accept what it signs.
    pub(crate) fn external(
        certificate_pem: &str,
        chain_pem: &str,
        key_pem: Option<&str>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, SignerError> {
        let der = one_certificate(certificate_pem)?;
        let mut all = vec![der.clone()];
        for certificate in CertificateDer::pem_slice_iter(chain_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| SignerError::Chain(error.to_string()))?;
            if !all.contains(&certificate) {
                all.push(certificate);
            }
        }
        if all.len() > LONGEST_CHAIN {
            return Err(SignerError::Chain(format!(
                "{} certificates, of which {LONGEST_CHAIN} are the most",
                all.len()
            )));
        }
        let (mut roots, mut above) = (Vec::new(), Vec::new());
        let (mut not_before, mut not_after) = (SystemTime::UNIX_EPOCH, None::<SystemTime>);
        for der in all {
            svid::check_signer(&der)?;
            let certificate = parse(&der)?;
            check_no_other_trust_domain(&certificate, trust_domain)?;
            let validity = certificate.validity();
            not_before = not_before.max(system_time(validity.not_before));
            let end = system_time(validity.not_after);
            if certificate.subject() == certificate.issuer() {
                roots.push(der.clone());
            } else {
                not_after = not_after.into_iter().chain([end]).min();
                above.push(der.clone());
            }
        }
        // With several roots it is enough that one of them is valid.
        let ends = roots.iter().filter_map(|root| Some(svid::validity(root).ok()?.1)).max();
        let root_end = ends.ok_or(SignerError::NoRoot)?;
        let not_after = not_after.into_iter().chain([root_end]).min().unwrap_or(root_end);
        let name = name_of(&der);
        let mut signer =
            Signer { name, certificate: der, roots, above, issuer: None, not_before, not_after, below: None };
        if let Some(key_pem) = key_pem {
            let key = KeyPair::from_pem(key_pem).map(WipedKey).map_err(SignerError::Key)?;
            if key.subject_public_key_info() != parse(&signer.certificate)?.public_key().raw {
                return Err(SignerError::NotAPair);
            }
            let issuer = Issuer::from_ca_cert_der(&signer.certificate, key);
            signer.issuer = Some(issuer.map_err(|error| SignerError::Certificate(error.to_string()))?);
            signer.try_out(trust_domain, now)?;
        }
        Ok(signer)
    }

    /// Signs a certificate that nobody gets to see, and verifies it as a workload would.
    fn try_out(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), SignerError> {
        let unfit = |fault: String| SignerError::Unfit(fault);
        let making = |error: rcgen::Error| SignerError::Unfit(error.to_string());
        let issuer = self.issuer.as_ref().ok_or_else(|| unfit("it has no key".to_owned()))?;
        let key = RootKey::EcdsaP256.make().map_err(making)?;
        let mut params = CertificateParams::default();
        let name = format!("{}/trial", trust_domain.uri()).as_str().try_into().map_err(making)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(now + BACKDATE);
        let leaf = params.signed_by(&key, issuer).map_err(making)?;
        let leaf = webpki::EndEntityCert::try_from(leaf.der()).map_err(|error| unfit(error.to_string()))?;
        let anchors = self.roots.iter().map(webpki::anchor_from_trusted_cert);
        let anchors: Vec<_> = anchors.collect::<Result<_, _>>().map_err(|error| unfit(error.to_string()))?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &self.above,
            UnixTime::since_unix_epoch(since),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        )
        .map(|_path| ())
        .map_err(|error| unfit(error.to_string()))
    }

    /// Whether it has its key.
    pub(crate) fn can_sign(&self) -> bool {
        self.issuer.is_some()
    }

    /// Puts a new intermediate under the root, which signs from now on in its place.
    pub(crate) fn with_intermediate(
        self,
        trust_domain: &TrustDomain,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, rcgen::Error> {
        let key = RootKey::EcdsaP256.make()?;
        let not_after = now.checked_add(life).unwrap_or(self.not_after).min(self.not_after);
        let mut params = signer_params(trust_domain, 0, (now - BACKDATE, not_after))?;
        params.distinguished_name.push(DnType::OrganizationalUnitName, "intermediate");
        params.use_authority_key_identifier_extension = true;
        let Some(issuer) = &self.issuer else { return Ok(self) };
        let certificate = params.signed_by(&key, issuer)?;
        let below = Intermediate {
            issuer: Issuer::from_ca_cert_der(certificate.der(), key)?,
            certificate: certificate.der().clone(),
            not_after,
            renew_at: now + not_after.duration_since(now).unwrap_or_default() / 2,
        };
        Ok(Signer { below: Some(below), ..self })
    }

    /// Whether there is room for an intermediate under the root (RFC 5280 4.2.1.9, pathLen).
    pub(crate) fn takes_intermediate(&self) -> bool {
        let constraints = parse(&self.certificate).ok().and_then(|certificate| {
            certificate.basic_constraints().ok().flatten().map(|found| found.value.path_len_constraint)
        });
        constraints.is_some_and(|path_length| path_length != Some(0))
    }

    /// When its intermediate is to be made anew; none where there is none.
    pub(crate) fn renew_at(&self) -> Option<SystemTime> {
        self.below.as_ref().map(|below| below.renew_at)
    }

    /// What is to be known of it over the years, published from `published` on.
    pub(crate) fn record(&self, published: SystemTime, longest: Duration) -> signers::Signer {
        signers::Signer::new(self.name.clone(), (self.not_before, self.not_after), published, longest)
    }

    /// How the record of the signers names it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What signs; none without a key.
    pub(crate) fn issuer(&self) -> Option<&Issuer<'static, impl SigningKey + use<>>> {
        self.below.as_ref().map(|below| &below.issuer).or(self.issuer.as_ref())
    }

    /// What stands between a leaf and the root.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.below.iter().map(|below| &below.certificate).chain(&self.above)
    }

    /// The same in PEM.
    pub(crate) fn chain_pem(&self) -> String {
        self.chain().map(|certificate| pem_of(certificate)).collect()
    }

    /// The end of the signer's own validity: nothing it signs lasts longer.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.below.as_ref().map_or(self.not_after, |below| below.not_after)
    }
}

/// What every signing certificate of ours has: the trust domain's own SPIFFE ID (X509-SVID 3.2), cA TRUE with room for
/// `path_length` more, keyCertSign and cRLSign.
fn signer_params(
    trust_domain: &TrustDomain,
    path_length: u8,
    (not_before, not_after): (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "pillion");
    let common_name: String = trust_domain.as_str().chars().take(LONGEST_COMMON_NAME).collect();
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
    params.serial_number = Some(random_serial()?);
    Ok(params)
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
        name: name_of(&der),
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

/// As everybody writes it: lines of 64 characters.
fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at_checked(64).unwrap_or((rest, ""));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The first 16 hexadecimal digits of the certificate's SHA-256.
fn name_of(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
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

/// Somebody else's signing certificate needs no SPIFFE ID; of another trust domain it must not be.
fn check_no_other_trust_domain(
    certificate: &X509Certificate<'_>,
    expected: &TrustDomain,
) -> Result<(), SignerError> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let mut names = names.iter().flat_map(|names| &names.value.general_names);
    match names.find(|name| matches!(name, GeneralName::URI(uri) if *uri != expected.uri())) {
        Some(other) => {
            Err(SignerError::OtherTrustDomain { expected: expected.clone(), seen: other.to_string() })
        }
        None => Ok(()),
    }
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
