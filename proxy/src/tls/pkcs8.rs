//! A private key in the form that every library takes: PKCS#8, version 1.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

/// The key as PKCS#8; none where it is of a kind that TLS does not know.
pub(super) fn pkcs8(key: &PrivateKeyDer<'_>) -> Option<Zeroizing<Vec<u8>>> {
    match key {
        // Ed25519 keys are often of version 2, with the public key in them (RFC 5958), which OpenSSL does not take.
        PrivateKeyDer::Pkcs8(key) => {
            let der = key.secret_pkcs8_der();
            let ed25519 = Ed25519KeyPair::from_pkcs8(der).ok().and_then(|pair| pair.to_pkcs8v1().ok());
            Some(Zeroizing::new(ed25519.map_or_else(|| der.to_vec(), |document| document.as_ref().to_vec())))
        }
        PrivateKeyDer::Sec1(key) => {
            let curves = [
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &ECDSA_P384_SHA384_ASN1_SIGNING,
                &ECDSA_P521_SHA512_ASN1_SIGNING,
            ];
            let mut pairs = curves
                .into_iter()
                .filter_map(|curve| EcdsaKeyPair::from_private_key_der(curve, key.secret_sec1_der()).ok());
            Some(Zeroizing::new(pairs.next()?.to_pkcs8v1().ok()?.as_ref().to_vec()))
        }
        PrivateKeyDer::Pkcs1(key) => {
            let pair = rsa::KeyPair::from_der(key.secret_pkcs1_der()).ok()?;
            let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
            Some(Zeroizing::new(der.as_ref().to_vec()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::EcPrivateKeyRfc5915Der;
    use aws_lc_rs::signature::KeyPair as _;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
    use rustls::pki_types::{PrivatePkcs8KeyDer, PrivateSec1KeyDer};

    use super::*;

    #[test]
    fn a_key_of_pkcs8_stays_what_it_is() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        assert_eq!(*pkcs8(&key).unwrap(), pair.serialize_der());
    }

    #[test]
    fn an_ed25519_key_is_written_without_its_public_key() {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let written = pkcs8(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()))).unwrap();
        assert_eq!(written.get(..5), Some(&[0x30, 0x2e, 2, 1, 0][..]), "version 1 is 0 (RFC 5208)");
        let same = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&written).unwrap();
        assert_eq!(same.public_key().as_ref(), pair.der_bytes());
    }

    #[test]
    fn a_key_of_sec1_is_the_same_key_in_pkcs8() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let sec1: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        let key = PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(sec1.as_ref().to_vec()));
        let same = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8(&key).unwrap()).unwrap();
        assert_eq!(same.public_key().as_ref(), pair.public_key().as_ref());
    }
}
