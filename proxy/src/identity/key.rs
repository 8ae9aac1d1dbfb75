//! Keys that are made here, certified and forgotten: none is ever written anywhere.

use pillion_mesh::spiffe::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::KeyType;

/// A key with the request to certify it.
pub(super) struct NewKey {
    pair: Zeroizing<KeyPair>,
    /// The PKCS#10 request as PEM.
    pub(super) request: String,
}

impl NewKey {
    /// Makes a key and signs a request for `id` with it. An RSA key takes its time, so this runs beside the tasks.
    ///
    /// # Errors
    /// What the crypto library says, which is not expected to fail.
    pub(super) async fn make(id: SpiffeId, key_type: KeyType) -> Result<NewKey, String> {
        spawn_blocking(move || make(&id, key_type)).await.map_err(|error| error.to_string())?
    }

    /// The key as TLS takes it.
    pub(super) fn der(&self) -> Zeroizing<PrivateKeyDer<'static>> {
        Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der())))
    }
}

fn make(id: &SpiffeId, key_type: KeyType) -> Result<NewKey, String> {
    let pair = match key_type {
        KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
        KeyType::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
    };
    let pair = Zeroizing::new(pair.map_err(|error| error.to_string())?);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        vec![SanType::URI(id.as_str().try_into().map_err(|error: rcgen::Error| error.to_string())?)];
    let request = params
        .serialize_request(&*pair)
        .and_then(|request| request.pem())
        .map_err(|error| error.to_string())?;
    Ok(NewKey { pair, request })
}
