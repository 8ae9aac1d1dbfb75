//! What each fault does to a CA that has it on. Without one, everything here gives back what it was given.

use std::time::{Duration, SystemTime};

use pillion_mesh::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};

use crate::authority::{Authority, WorkloadTtl};
use crate::clock::Clock;
use crate::csr::Csr;
use crate::fault::Fault;
use crate::keys::KeyKind;
use crate::slots::{BACKDATE, RootKey, RootPlan, Signer, SignerError, Slots};

/// How far a certificate lies beside its time.
const BESIDE: Duration = Duration::from_secs(60 * 60);
/// How long the root of nobody's trust lives.
const LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// What comes instead of a certificate, and instead of a bundle.
pub(super) const GARBAGE: &str =
    "-----BEGIN CERTIFICATE-----\nVGhpcyBpcyBubyBjZXJ0aWZpY2F0ZS4=\n-----END CERTIFICATE-----\n";
/// Seconds that a busy CA tells its callers to wait.
pub(super) const BUSY: u64 = 5;

/// The faults that are on.
pub(crate) struct Faults {
    on: Vec<Fault>,
    /// Whose root is not ours and whose certificates nobody trusts; there if a fault needs it.
    stranger: Option<Authority>,
    somebody_else: SpiffeId,
}

/// Why a fault cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FaultsError {
    #[error("--fault: cannot make another root: {0}")]
    Root(#[from] rcgen::Error),
    #[error("--fault: cannot use another root: {0}")]
    Signer(#[from] SignerError),
    #[error("--fault: {0}")]
    Identity(#[from] SpiffeIdError),
}

impl Faults {
    pub(crate) fn new(on: &[Fault], trust_domain: &TrustDomain, clock: Clock) -> Result<Self, FaultsError> {
        let needs_stranger = |fault| matches!(fault, &Fault::OtherRoot | &Fault::BundleWithoutOwnRoot);
        let stranger =
            if on.iter().any(needs_stranger) { Some(stranger(trust_domain, clock)?) } else { None };
        let somebody_else = SpiffeId::of_service_account(trust_domain, "default", "somebody-else")?;
        Ok(Faults { on: on.to_vec(), stranger, somebody_else })
    }

    /// Says loudly, one line for each, that this is not how a CA should be.
    pub(super) fn tell(&self) {
        for fault in &self.on {
            tracing::warn!(%fault, "MISBEHAVING ON PURPOSE (--fault {fault}): for lessons and tests only");
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.on.iter().map(|fault| fault.name())
    }

    /// All that are on, for a log line; none where none is.
    pub(super) fn note(&self) -> Option<String> {
        let names: Vec<_> = self.on.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn has(&self, fault: Fault) -> bool {
        self.on.contains(&fault)
    }

    pub(super) fn down(&self) -> bool {
        self.has(Fault::Down)
    }

    pub(super) fn hangs_up(&self) -> bool {
        self.has(Fault::HangUp)
    }

    pub(super) fn errs(&self) -> bool {
        self.has(Fault::Error)
    }

    pub(super) fn busy(&self) -> bool {
        self.has(Fault::Busy)
    }

    pub(super) fn refuses(&self) -> bool {
        self.has(Fault::Refuse)
    }

    pub(super) fn issues_garbage(&self) -> bool {
        self.has(Fault::Garbage)
    }

    pub(super) fn publishes_garbage(&self) -> bool {
        self.has(Fault::GarbageBundle)
    }

    /// How much later each answer comes.
    pub(super) fn delay(&self) -> Duration {
        let delay = |fault: &Fault| if let Fault::Slow(delay) = fault { Some(*delay) } else { None };
        self.on.iter().filter_map(delay).sum()
    }

    /// Whose name the certificate gets.
    pub(super) fn identity<'a>(&'a self, proved: &'a SpiffeId) -> &'a SpiffeId {
        if self.has(Fault::WrongIdentity) { &self.somebody_else } else { proved }
    }

    /// Whose key the certificate gets.
    pub(super) fn key(&self, csr: Csr) -> Result<Csr, rcgen::Error> {
        if !self.has(Fault::OtherKey) {
            return Ok(csr);
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let key = SubjectPublicKeyInfo::from_der(&key.subject_public_key_info())?;
        Ok(Csr { key, kind: KeyKind::EcdsaP256, ..csr })
    }

    /// When the certificate is made, as far as it tells.
    pub(super) fn time(&self, now: SystemTime, ttl: Duration) -> SystemTime {
        if self.has(Fault::NotYetValid) {
            now + BESIDE + BACKDATE
        } else if self.has(Fault::Expired) {
            now.checked_sub(ttl + BESIDE).unwrap_or(now)
        } else {
            now
        }
    }

    /// Who signs.
    pub(super) fn signer<'a>(&'a self, own: &'a Authority) -> &'a Authority {
        self.stranger.as_ref().filter(|_| self.has(Fault::OtherRoot)).unwrap_or(own)
    }

    /// Whose roots are published.
    pub(super) fn published<'a>(&'a self, own: &'a Authority) -> &'a Authority {
        self.stranger.as_ref().filter(|_| self.has(Fault::BundleWithoutOwnRoot)).unwrap_or(own)
    }
}

/// An authority with a root of its own for the same trust domain.
fn stranger(trust_domain: &TrustDomain, clock: Clock) -> Result<Authority, FaultsError> {
    let now = clock.now();
    let plan = RootPlan { key: RootKey::default(), life: LIFE, intermediate: None };
    let root = Signer::create(trust_domain, &plan, now)?;
    let signer = Signer::load(&root.certificate_pem, &root.key_pem, trust_domain)?;
    // The lifetime is granted by the CA's own settings.
    let ttl = WorkloadTtl { default: BESIDE, max: BESIDE };
    Ok(Authority::fixed(Slots::only(signer, now), ttl, clock))
}
