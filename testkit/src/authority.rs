//! A certificate authority in memory: roots, intermediates, and leaves with anything changed before they are signed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

/// How long a fresh leaf is valid.
pub const LEAF_LIFE: Duration = Duration::from_secs(3600);

/// A root, or an intermediate with the certificates between it and its root.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// From this signer up to the root; the last is the root.
    path: Vec<CertificateDer<'static>>,
    name: String,
}

/// What a workload holds: its chain, leaf first and without the root, and its key.
#[derive(Debug)]
pub struct Held {
    /// Leaf, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

/// Where [`Held::write`] put its files.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The chain as PEM.
    pub certificate: PathBuf,
    /// The key as PEM, mode 0600.
    pub key: PathBuf,
    /// The bundle as PEM.
    pub bundle: PathBuf,
}

impl TestCa {
    /// A root valid from an hour ago for ten years, its subject `CN=<name>`.
    #[must_use]
    pub fn root(name: &str) -> TestCa {
        Self::root_with(name, |_| {})
    }

    /// A root of which `change` may change anything.
    #[must_use]
    pub fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> TestCa {
        let mut params = signer_params(name);
        change(&mut params);
        let issuer = CertifiedIssuer::self_signed(params, new_key()).expect("a root");
        TestCa { path: vec![issuer.der().clone()], issuer, name: name.to_owned() }
    }

    /// An intermediate under this authority.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> TestCa {
        self.intermediate_with(name, |_| {})
    }

    /// An intermediate of which `change` may change anything.
    #[must_use]
    pub fn intermediate_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TestCa {
        let mut params = signer_params(name);
        change(&mut params);
        let issuer = CertifiedIssuer::signed_by(params, new_key(), &self.issuer).expect("an intermediate");
        let path = std::iter::once(issuer.der().clone()).chain(self.path.iter().cloned()).collect();
        TestCa { issuer, path, name: name.to_owned() }
    }

    /// A good X509-SVID for `id`, valid from a minute ago for [`LEAF_LIFE`], with a new P-256 key.
    #[must_use]
    pub fn issue(&self, id: &str) -> Held {
        self.issue_with(id, |_| {})
    }

    /// A leaf of which `change` may change anything.
    #[must_use]
    pub fn issue_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Held {
        self.issue_for_key(id, &rcgen::PKCS_ECDSA_P256_SHA256, change)
    }

    /// A leaf with a key of another kind.
    #[must_use]
    pub fn issue_for_key(
        &self,
        id: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Held {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let chain = self.sign(id, &key, change);
        Held { chain, key: private_key(&key) }
    }

    /// A good server certificate for DNS names, as an authority's own endpoint has it.
    #[must_use]
    pub fn issue_server(&self, dns_names: &[&str]) -> Held {
        self.issue_with("spiffe://cluster.local/server", |params| {
            params.subject_alt_names = dns_names.iter().map(|name| dns_san(name)).collect();
        })
    }

    /// A leaf for a public key whose private half somebody else holds; leaf first, then intermediates.
    #[must_use]
    pub fn sign(
        &self,
        id: &str,
        key: &impl PublicKeyData,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<CertificateDer<'static>> {
        let mut params = leaf_params(id);
        change(&mut params);
        let leaf = params.signed_by(key, &self.issuer).expect("a leaf");
        let between = self.path.len() - 1;
        std::iter::once(leaf.der().clone()).chain(self.path.iter().take(between).cloned()).collect()
    }

    /// A revocation list of this signer as PEM, with the serial numbers of these certificates, to be replaced by
    /// `next_update`.
    #[must_use]
    pub fn revocation_list(&self, revoked: &[&CertificateDer<'_>], next_update: SystemTime) -> String {
        let issued = OffsetDateTime::from(next_update - 2 * LEAF_LIFE);
        let entry = |der: &&CertificateDer<'_>| RevokedCertParams {
            serial_number: serial_number(der),
            revocation_time: issued,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: issued,
            next_update: OffsetDateTime::from(next_update),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        pem_of("X509 CRL", params.signed_by(&self.issuer).expect("a revocation list").der())
    }

    /// The common name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signer's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.path[0]
    }

    /// The root above this authority, which is itself for a root.
    #[must_use]
    pub fn root_certificate(&self) -> &CertificateDer<'static> {
        &self.path[self.path.len() - 1]
    }

    /// The signer's own certificate and key, for one that is shown itself: a self-signed server.
    #[must_use]
    pub fn own(&self) -> Held {
        Held { chain: vec![self.certificate().clone()], key: private_key(self.issuer.key()) }
    }

    /// The trust bundle: the root as PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        pem(std::slice::from_ref(self.root_certificate()))
    }

    /// The root as rustls wants it.
    #[must_use]
    pub fn root_store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.root_certificate().clone()).expect("a root that webpki can read");
        store
    }
}

impl Held {
    /// The chain as PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        pem(&self.chain)
    }

    /// The key as PEM, PKCS#8.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem_of("PRIVATE KEY", self.key.secret_der())
    }

    /// Writes `svid.pem`, `svid.key` (mode 0600) and `bundle.pem` into `folder`, each by rename.
    #[must_use]
    pub fn write(&self, folder: &Path, bundle_pem: &str) -> Paths {
        Paths {
            certificate: write_private(&folder.join("svid.pem"), &self.chain_pem()),
            key: write_private(&folder.join("svid.key"), &self.key_pem()),
            bundle: write_private(&folder.join("bundle.pem"), bundle_pem),
        }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Held { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Certificates as PEM, one after the other.
#[must_use]
pub fn pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| pem_of("CERTIFICATE", der)).collect()
}

/// Writes a file of mode 0600 and puts it in place by rename.
#[must_use]
pub fn write_private(path: &Path, text: &str) -> PathBuf {
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .expect("a file in the test's folder");
    file.write_all(text.as_bytes()).expect("room on the disk");
    fs::rename(&draft, path).expect("a rename in the test's folder");
    path.to_owned()
}

/// What every good leaf has: one URI SAN, cA FALSE, critical digitalSignature, both purposes, an empty subject.
#[must_use]
pub fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri_san(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_between(&mut params, before(Duration::from_secs(60)), after(LEAF_LIFE));
    params
}

/// A URI SAN, byte for byte.
#[must_use]
pub fn uri_san(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("IA5 text"))
}

/// A DNS SAN.
#[must_use]
pub fn dns_san(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("IA5 text"))
}

/// Sets the validity; certificates carry whole seconds.
pub fn valid_between(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    params.not_before = OffsetDateTime::from(not_before);
    params.not_after = OffsetDateTime::from(not_after);
}

/// This long ago.
#[must_use]
pub fn before(age: Duration) -> SystemTime {
    SystemTime::now() - age
}

/// This far ahead.
#[must_use]
pub fn after(wait: Duration) -> SystemTime {
    SystemTime::now() + wait
}

fn signer_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    valid_between(&mut params, before(LEAF_LIFE), after(Duration::from_secs(10 * 365 * 24 * 3600)));
    params
}

fn serial_number(der: &CertificateDer<'_>) -> SerialNumber {
    let certificate = webpki::EndEntityCert::try_from(der).expect("a certificate that webpki can read");
    SerialNumber::from_slice(certificate.serial())
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a P-256 key")
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn pem_of(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
