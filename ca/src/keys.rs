//! Which public keys the CA signs, and the signatures those keys make.
//!
//! The list is that of TLS 1.3 stacks in use: ECDSA on P-256, P-384 and P-521, Ed25519, RSA from 2,048 to 8,192 bits.
//! SHA-1, MD5 and shorter keys are refused by name (RFC 9155, SP 800-131A). The arithmetic is aws-lc's, by webpki.

use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use webpki::aws_lc_rs as algorithms;
use x509_parser::asn1_rs::Tag;
use x509_parser::oid_registry::{self as oid, Oid};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The kind of a public key that the CA signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    Rsa,
}

/// Why a key or a signature made by it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the public key is {0}; use ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits")]
    UnsupportedKey(String),
    #[error("the public key is damaged: {0}")]
    MalformedKey(String),
    #[error(
        "the signature algorithm is {0}, which does not go with the key or is too weak; use SHA-256 or longer"
    )]
    UnsupportedSignature(String),
    #[error("the signature does not verify with the public key beside it")]
    WrongSignature,
}

/// Which supported kind this key is.
pub(crate) fn kind_of(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, KeyError> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        curve_of(key)
    } else if *algorithm == oid::OID_SIG_ED25519 {
        Ok(KeyKind::Ed25519)
    } else if *algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        check_rsa(key)
    } else {
        Err(KeyError::UnsupportedKey(format!("of the algorithm {}", name_of(algorithm))))
    }
}

fn curve_of(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, KeyError> {
    let name = key.algorithm.parameters.as_ref().filter(|parameters| parameters.tag() == Tag::Oid);
    let curve = name.and_then(|name| name.as_oid().ok()).ok_or_else(|| {
        KeyError::UnsupportedKey("on an elliptic curve that is not given by name (RFC 5480 2.1.1)".to_owned())
    })?;
    match curve {
        curve if curve == oid::OID_EC_P256 => Ok(KeyKind::EcdsaP256),
        curve if curve == oid::OID_NIST_EC_P384 => Ok(KeyKind::EcdsaP384),
        curve if curve == oid::OID_NIST_EC_P521 => Ok(KeyKind::EcdsaP521),
        curve => Err(KeyError::UnsupportedKey(format!("on the curve {}", name_of(&curve)))),
    }
}

fn check_rsa(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, KeyError> {
    let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
        return Err(KeyError::MalformedKey("its modulus and exponent cannot be read".to_owned()));
    };
    match rsa.key_size() {
        2048..=8192 => Ok(KeyKind::Rsa),
        bits => Err(KeyError::UnsupportedKey(format!("RSA of {bits} bits"))),
    }
}

/// Checks that `signature` over `message` was made by the private half of `key`, whose kind is `kind`.
pub(crate) fn verify(
    kind: KeyKind,
    key: &SubjectPublicKeyInfo<'_>,
    algorithm: &Oid<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), KeyError> {
    let algorithm = verification_algorithm(kind, algorithm)
        .ok_or_else(|| KeyError::UnsupportedSignature(name_of(algorithm)))?;
    let der = SubjectPublicKeyInfoDer::from(key.raw);
    let key =
        RawPublicKeyEntity::try_from(&der).map_err(|error| KeyError::MalformedKey(format!("{error:?}")))?;
    key.verify_signature(algorithm, message, signature).map_err(|_| KeyError::WrongSignature)
}

fn verification_algorithm(
    kind: KeyKind,
    algorithm: &Oid<'_>,
) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    let of_hash = |sha256: &Oid<'_>, sha384: &Oid<'_>, sha512: &Oid<'_>| {
        [sha256, sha384, sha512].iter().position(|candidate| *candidate == algorithm)
    };
    let ecdsa = || {
        of_hash(
            &oid::OID_SIG_ECDSA_WITH_SHA256,
            &oid::OID_SIG_ECDSA_WITH_SHA384,
            &oid::OID_SIG_ECDSA_WITH_SHA512,
        )
    };
    let rsa = || {
        of_hash(&oid::OID_PKCS1_SHA256WITHRSA, &oid::OID_PKCS1_SHA384WITHRSA, &oid::OID_PKCS1_SHA512WITHRSA)
    };
    let three: [&'static dyn SignatureVerificationAlgorithm; 3] = match kind {
        KeyKind::Ed25519 => return (*algorithm == oid::OID_SIG_ED25519).then_some(algorithms::ED25519),
        KeyKind::EcdsaP256 => {
            [algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P256_SHA384, algorithms::ECDSA_P256_SHA512]
        }
        KeyKind::EcdsaP384 => {
            [algorithms::ECDSA_P384_SHA256, algorithms::ECDSA_P384_SHA384, algorithms::ECDSA_P384_SHA512]
        }
        KeyKind::EcdsaP521 => {
            [algorithms::ECDSA_P521_SHA256, algorithms::ECDSA_P521_SHA384, algorithms::ECDSA_P521_SHA512]
        }
        KeyKind::Rsa => [
            algorithms::RSA_PKCS1_2048_8192_SHA256,
            algorithms::RSA_PKCS1_2048_8192_SHA384,
            algorithms::RSA_PKCS1_2048_8192_SHA512,
        ],
    };
    let position = if kind == KeyKind::Rsa { rsa() } else { ecdsa() }?;
    three.get(position).copied()
}

/// A name that a person knows for an algorithm or a curve, else the numbers.
fn name_of(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    let name = match number.as_str() {
        "1.3.132.0.33" => "secp224r1 (P-224)",
        "1.3.132.0.10" => "secp256k1",
        "1.2.840.10045.3.1.1" => "prime192v1 (P-192)",
        "1.2.840.10040.4.1" => "DSA",
        "1.2.840.113549.1.1.10" => "RSASSA-PSS",
        "1.2.840.113549.1.1.4" => "md5WithRSAEncryption",
        "1.2.840.113549.1.1.5" => "sha1WithRSAEncryption",
        "1.2.840.10045.4.1" => "ecdsa-with-SHA1",
        "1.3.101.113" => "Ed448",
        _ => return number,
    };
    name.to_owned()
}
