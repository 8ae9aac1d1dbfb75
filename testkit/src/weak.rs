//! Certificates with weak cryptography, made once by `fixtures/weak/generate.sh`. All are of
//! `spiffe://cluster.local/ns/default/sa/weak`, under one strong root.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The root of all of them, RSA 2048 with SHA-256.
#[must_use]
pub fn root() -> CertificateDer<'static> {
    read(include_bytes!("../fixtures/weak/root.pem"))
}

/// The same as PEM.
#[must_use]
pub fn root_pem() -> &'static [u8] {
    include_bytes!("../fixtures/weak/root.pem")
}

/// Chains that path validation must refuse, by what is weak in them.
#[must_use]
pub fn chains() -> Vec<(&'static str, Vec<CertificateDer<'static>>)> {
    vec![
        ("SHA-1 signature", vec![read(include_bytes!("../fixtures/weak/sha1.pem"))]),
        ("MD5 signature", vec![read(include_bytes!("../fixtures/weak/md5.pem"))]),
        (
            "signer with RSA 1024",
            vec![
                read(include_bytes!("../fixtures/weak/below_rsa1024.pem")),
                read(include_bytes!("../fixtures/weak/rsa1024_signer.pem")),
            ],
        ),
    ]
}

/// What the holder of a weak key signed.
pub const SIGNED_MESSAGE: &[u8] = b"signed by a weak key";

/// A leaf whose key is weak, with that key's signature over [`SIGNED_MESSAGE`].
pub struct WeakKey {
    /// What is weak.
    pub name: &'static str,
    /// The leaf.
    pub leaf: CertificateDer<'static>,
    /// Whether the signature is `rsa_pss_rsae_sha256`; otherwise `ecdsa_secp256r1_sha256`.
    pub is_rsa: bool,
    /// The signature, which is correct.
    pub signature: &'static [u8],
}

/// Leaves whose own key must not be accepted in CertificateVerify.
#[must_use]
pub fn keys() -> Vec<WeakKey> {
    vec![
        WeakKey {
            name: "RSA 1024",
            leaf: read(include_bytes!("../fixtures/weak/rsa1024.pem")),
            is_rsa: true,
            signature: include_bytes!("../fixtures/weak/rsa1024.signature"),
        },
        WeakKey {
            name: "P-224",
            leaf: read(include_bytes!("../fixtures/weak/p224.pem")),
            is_rsa: false,
            signature: include_bytes!("../fixtures/weak/p224.signature"),
        },
        WeakKey {
            name: "explicit curve parameters",
            leaf: read(include_bytes!("../fixtures/weak/explicit_curve.pem")),
            is_rsa: false,
            signature: include_bytes!("../fixtures/weak/explicit_curve.signature"),
        },
    ]
}

fn read(pem: &'static [u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).expect("a fixture that is PEM")
}
