//! Certificates for a benchmark: a root of its own, and for each side a leaf with a SPIFFE ID and, for those who can verify
//! names only, a DNS name.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::load::job::Files;
use crate::lab::{LabError, TRUST_DOMAIN};

/// More than any run takes.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// The kind of a leaf's key. Signers have P-256 keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Key {
    /// ECDSA on P-256, what a sidecar has unless it is told otherwise.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 4096 bits.
    Rsa4096,
    /// Ed25519.
    Ed25519,
}

impl Key {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Key::P256 => "ECDSA P-256",
            Key::P384 => "ECDSA P-384",
            Key::Rsa2048 => "RSA 2048",
            Key::Rsa4096 => "RSA 4096",
            Key::Ed25519 => "Ed25519",
        }
    }

    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Key::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Key::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Key::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            Key::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
            Key::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        }
    }
}

/// A root, with intermediates under it, the last of which signs leaves.
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    /// From the signer of leaves up, without the root.
    between: Vec<CertificateDer<'static>>,
    signer: CertifiedIssuer<'static, KeyPair>,
}

/// What one side holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// Leaf first, without the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub(crate) key: PrivateKeyDer<'static>,
    /// All as PEM: chain, key, root.
    pem: [String; 3],
}

impl Authority {
    /// `chain` is the number of certificates that a leaf of it is shown with, itself included, at least one.
    pub(crate) fn new(chain: usize) -> Result<Self, LabError> {
        Self::make(chain).map_err(failed)
    }

    fn make(chain: usize) -> Result<Self, rcgen::Error> {
        let mut signer =
            CertifiedIssuer::self_signed(signer_params("root of a benchmark"), Key::P256.generate()?)?;
        let root = signer.der().clone();
        let mut between = Vec::new();
        for number in 1..chain {
            let params = signer_params(&format!("intermediate {number} of a benchmark"));
            signer = CertifiedIssuer::signed_by(params, Key::P256.generate()?, &signer)?;
            between.insert(0, signer.der().clone());
        }
        Ok(Self { root, between, signer })
    }

    /// A certificate for service account `account` of namespace `default`, and a key of that kind.
    pub(crate) fn issue(&self, account: &str, key: Key) -> Result<Held, LabError> {
        self.sign(account, key).map_err(failed)
    }

    fn sign(&self, account: &str, key: Key) -> Result<Held, rcgen::Error> {
        let key = key.generate()?;
        let leaf = leaf_params(account)?.signed_by(&key, &self.signer)?;
        let chain: Vec<_> = std::iter::once(leaf.der().clone()).chain(self.between.iter().cloned()).collect();
        let chain_pem: String = chain.iter().map(|der| pem(der)).collect();
        Ok(Held {
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            pem: [chain_pem, key.serialize_pem(), self.bundle()],
            chain,
        })
    }

    /// The root as PEM.
    pub(crate) fn bundle(&self) -> String {
        pem(&self.root)
    }
}

impl Held {
    /// Writes PEM files that begin with `name` into `folder`, for `owner` alone. Those who want chain and key in one file find it as
    /// [`combined`].
    pub(crate) fn write(&self, folder: &Path, name: &str, owner: Option<u32>) -> Result<Files, LabError> {
        let [chain, key, bundle] = &self.pem;
        let path = |kind: &str| folder.join(format!("{name}{kind}.pem"));
        let files = Files { certificate: path(""), key: path("-key"), bundle: path("-bundle") };
        write(&files.certificate, chain, owner)?;
        write(&files.key, key, owner)?;
        write(&files.bundle, bundle, owner)?;
        write(&combined(&files), &format!("{chain}{key}"), owner)?;
        Ok(files)
    }
}

/// The file that holds chain and key.
pub(crate) fn combined(files: &Files) -> PathBuf {
    files.certificate.with_extension("combined")
}

/// Writes a file that its owner alone can read.
pub(crate) fn write(path: &Path, text: &str, owner: Option<u32>) -> Result<(), LabError> {
    let written = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        if owner.is_some() {
            chown(path, owner, owner)?;
        }
        Ok(())
    };
    written().map_err(LabError::io(format!("write {}", path.display())))
}

fn signer_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params);
    params
}

fn leaf_params(account: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![
        SanType::URI(format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{account}").as_str().try_into()?),
        SanType::DnsName(account.try_into()?),
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params);
    Ok(params)
}

fn valid(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = OffsetDateTime::from(now - Duration::from_secs(3600));
    params.not_after = OffsetDateTime::from(now + LIFE);
}

/// RFC 7468.
fn pem(der: &CertificateDer<'_>) -> String {
    const LINE: usize = 64;
    use std::fmt::Write as _;
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(LINE) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    text + "-----END CERTIFICATE-----\n"
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: rcgen::Error) -> LabError {
    LabError::Failed(format!("a certificate cannot be made: {error}"))
}
