//! What several tests need: a signer, an authority, requests.

use std::time::{Duration, SystemTime};

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};

use crate::authority::{Authority, WorkloadTtl};
use crate::clock::Clock;
use crate::slots::{NewRoot, RootKey, RootPlan, Signer, Slots};

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// The identity of a service account in the namespace `default`.
pub(crate) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::of_service_account(&trust_domain(), "default", service_account).unwrap()
}

pub(crate) const TTL: WorkloadTtl = WorkloadTtl { default: DAY, max: Duration::from_secs(90 * 24 * 60 * 60) };

/// A root of ten years that signs workloads itself.
pub(crate) const ROOT: RootPlan =
    RootPlan { key: RootKey::EcdsaP256, life: Duration::from_secs(3650 * 24 * 60 * 60), intermediate: None };

pub(crate) fn new_root(now: SystemTime) -> NewRoot {
    Signer::create(&trust_domain(), &ROOT, now).unwrap()
}

/// An authority whose root was made at `now`: 24 h by default, 90 d at most.
pub(crate) fn authority(now: SystemTime) -> Authority {
    let root = new_root(now);
    let signer = Signer::load(&root.certificate_pem, &root.key_pem, &trust_domain()).unwrap();
    Authority::fixed(Slots::only(signer, now), TTL, Clock::SYSTEM)
}

/// A request that asks for nothing beside its key.
pub(crate) fn plain_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

/// The DER of a request with a new key of this algorithm.
pub(crate) fn request_with(params: &CertificateParams, algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

/// The DER of a plain request with a new P-256 key.
pub(crate) fn request() -> Vec<u8> {
    request_with(&plain_params(), &rcgen::PKCS_ECDSA_P256_SHA256)
}
