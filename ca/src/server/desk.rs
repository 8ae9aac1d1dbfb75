//! The life of a CSR, whatever door it came in by: who asks, how often, for what; then the signature.
//!
//! Whatever costs nothing to refuse is refused first. Every CSR that is answered is one line of the audit log and one
//! count. A door reads the request and words the answer; all that is decided is decided here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use pillion_mesh::rate::{self, Rates};
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::rfc3339;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::faults::{BUSY, Faults, GARBAGE};
use crate::attest::{Attestor, Evidence, Identified, Refusal};
use crate::authority::{Authority, IssueError, Issued};
use crate::csr::{self, CsrError};
use crate::metrics::Metrics;
use crate::refusal::RefusalId;
use crate::settings::Limits;

/// Longest body of a request, in bytes (requirement 34).
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// Addresses, and identities, whose requests are counted apart from those of all others.
const MOST_COUNTED: usize = 16 * 1024;

/// All that answers need; shared by the connections.
pub(super) struct Desk {
    authority: Arc<Authority>,
    attestor: Attestor,
    start: Instant,
    addresses: Mutex<Rates<IpAddr>>,
    identities: Mutex<Rates<SpiffeId>>,
    metrics: Metrics,
    faults: Faults,
}

/// Who calls, as far as the connection shows.
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    /// The leaf of a client certificate that the handshake verified.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

/// By which protocol a CSR came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Https,
    #[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "the door is not there"))]
    Grpc,
}

impl Door {
    fn as_str(self) -> &'static str {
        match self {
            Door::Https => "https",
            Door::Grpc => "grpc",
        }
    }
}

/// Why a CSR got no certificate. The text is the whole reason, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denial {
    #[error("the body is longer than {BODY_LIMIT} bytes")]
    TooLarge,
    #[error("too many requests from this address; the next is answered in {} s", seconds(*.0))]
    AddressRate(Duration),
    #[error("too many requests for {id}; the next is answered in {} s", seconds(*.wait))]
    IdentityRate { id: SpiffeId, wait: Duration },
    #[error(transparent)]
    Evidence(#[from] Refusal),
    #[error("{0}")]
    Lifetime(String),
    #[error("the body broke off: {0}")]
    Broken(String),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Signing(#[from] IssueError),
    #[error("the CA was told to (--fault refuse)")]
    RefusedOnPurpose,
    #[error("the CA was told to (--fault busy)")]
    BusyOnPurpose,
    #[error("the CA was told to (--fault error)")]
    ErrorOnPurpose,
}

impl Denial {
    pub(super) fn id(&self) -> RefusalId {
        match self {
            Denial::TooLarge => RefusalId::TooLarge,
            Denial::AddressRate(_) => RefusalId::AddressRate,
            Denial::IdentityRate { .. } => RefusalId::IdentityRate,
            Denial::Evidence(refusal) => refusal.id(),
            Denial::Lifetime(_) => RefusalId::LifetimeMalformed,
            Denial::Broken(_) => RefusalId::BodyBroken,
            Denial::Csr(CsrError::NotARequest(_) | CsrError::Malformed(_)) => RefusalId::CsrMalformed,
            Denial::Csr(CsrError::Wish(_)) => RefusalId::CsrWish,
            Denial::Csr(CsrError::Key(_)) => RefusalId::CsrKey,
            Denial::Signing(IssueError::SignerExpired(_)) => RefusalId::SignerExpired,
            Denial::Signing(_) => RefusalId::SigningFailed,
            Denial::RefusedOnPurpose | Denial::BusyOnPurpose | Denial::ErrorOnPurpose => RefusalId::OnPurpose,
        }
    }

    /// How many seconds the caller shall wait before it asks again; none where that helps nothing.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Denial::AddressRate(wait) | Denial::IdentityRate { wait, .. } => Some(seconds(*wait)),
            Denial::BusyOnPurpose => Some(BUSY),
            _ => None,
        }
    }
}

/// Whole seconds, never too few.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl Desk {
    pub(super) fn new(
        authority: Arc<Authority>,
        attestor: Attestor,
        metrics: Metrics,
        limits: Limits,
        faults: Faults,
    ) -> Self {
        faults.names().for_each(|name| metrics.fault(name));
        Desk {
            authority,
            attestor,
            start: Instant::now(),
            addresses: Mutex::new(Rates::new(limits.address_per_minute, MOST_COUNTED)),
            identities: Mutex::new(Rates::new(limits.identity_per_minute, MOST_COUNTED)),
            metrics,
            faults,
        }
    }

    /// All metrics as text, those of the published roots as they are now.
    pub(super) fn scrape(&self) -> String {
        self.metrics.show_roots(self.authority.slots().signers());
        self.metrics.encode()
    }

    /// The time that certificates and tokens live by.
    pub(super) fn now(&self) -> SystemTime {
        self.authority.clock().now()
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Whose roots the callers shall trust.
    pub(super) fn published(&self) -> &Authority {
        self.faults.published(&self.authority)
    }

    pub(super) fn can_sign(&self) -> bool {
        self.now() < self.authority.slots().current().not_after()
    }

    /// A client certificate that does not verify ends here, before there is a request to answer.
    pub(super) fn handshake_failed(&self, caller: SocketAddr, error: &std::io::Error) {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(fault, Some(rustls::Error::InvalidCertificate(_))) {
            let refusal = RefusalId::CertificateRefused.id();
            self.metrics.authentication_failure.increment();
            self.metrics.request("tls", "certificate", refusal);
            tracing::warn!(target: "audit", caller = %caller, evidence = "certificate", result = "refused", refusal,
                reason = error.to_string().as_str(), "TLS handshake refused");
        } else {
            tracing::debug!(caller = %caller, error = %error, "TLS handshake failed");
        }
    }

    /// A CSR has come.
    pub(super) fn open<'a>(&'a self, caller: &'a Caller, door: Door) -> Case<'a> {
        self.metrics.csr.increment();
        Case {
            desk: self,
            caller,
            door,
            evidence: "none",
            identity: None,
            public_key: None,
            asked: None,
            granted: None,
            ignored: String::new(),
        }
    }
}

/// One CSR on its way, with what the audit log will tell of it.
pub(super) struct Case<'a> {
    desk: &'a Desk,
    caller: &'a Caller,
    door: Door,
    evidence: &'static str,
    identity: Option<SpiffeId>,
    public_key: Option<String>,
    asked: Option<Duration>,
    granted: Option<Duration>,
    ignored: String,
}

impl Case<'_> {
    /// Who asks, and whether they may ask now. `authorization` is the header; without one the client certificate counts.
    pub(super) fn identify(&mut self, authorization: Option<&[u8]>) -> Result<Identified, Denial> {
        let evidence = match (authorization, &self.caller.certificate) {
            (Some(header), _) => Evidence::Authorization(header),
            (None, Some(certificate)) => Evidence::Certificate(certificate),
            (None, None) => Evidence::Nothing,
        };
        self.evidence = evidence.kind();
        let desk = self.desk;
        // Refusing an address comes before its evidence costs anything.
        let now = desk.start.elapsed();
        let source = rate::source(self.caller.address.ip());
        locked(&desk.addresses).admit(source, now).map_err(Denial::AddressRate)?;
        self.misbehave()?;
        let who = desk.attestor.identify(&evidence, desk.now(), SystemTime::now())?;
        self.evidence = who.evidence;
        self.identity = Some(who.id.clone());
        let limited = locked(&desk.identities).admit(who.id.clone(), now);
        limited.map_err(|wait| Denial::IdentityRate { id: who.id.clone(), wait })?;
        Ok(who)
    }

    fn misbehave(&self) -> Result<(), Denial> {
        let faults = &self.desk.faults;
        match () {
            () if faults.refuses() => Err(Denial::RefusedOnPurpose),
            () if faults.busy() => Err(Denial::BusyOnPurpose),
            () if faults.errs() => Err(Denial::ErrorOnPurpose),
            () => Ok(()),
        }
    }

    /// The lifetime that the caller would like; none for the CA's default.
    pub(super) fn asks_for(&mut self, lifetime: Option<Duration>) {
        self.asked = lifetime;
    }

    /// Signs what the body asks for. Evidence that counts once is used up at the last moment before.
    pub(super) fn sign(&mut self, who: &Identified, body: &[u8]) -> Result<Issued, Denial> {
        let Desk { authority, faults, .. } = self.desk;
        let ttl = authority.ttl().grant(self.asked);
        self.granted = Some(ttl);
        let csr = csr::read(body)?;
        self.ignored.clone_from(&csr.ignored);
        self.public_key = Some(csr.sha256.clone());
        let csr = faults.key(csr).map_err(IssueError::from)?;
        who.spend()?;
        let now = faults.time(self.desk.now(), ttl);
        let mut issued = faults.signer(authority).issue(faults.identity(&who.id), &csr, ttl, now)?;
        if faults.issues_garbage() {
            GARBAGE.clone_into(&mut issued.chain_pem);
        }
        Ok(issued)
    }

    /// The case is over: one line, one count.
    pub(super) fn close(self, outcome: &Result<Issued, Denial>) {
        let metrics = &self.desk.metrics;
        let result = outcome.as_ref().map_or_else(|denial| denial.id().id(), |_| "issued");
        metrics.request(self.door.as_str(), self.evidence, result);
        match outcome {
            Ok(_) => metrics.success.increment(),
            Err(Denial::Evidence(_)) => metrics.authentication_failure.increment(),
            Err(Denial::Csr(_)) => metrics.csr_parsing_error.increment(),
            Err(Denial::Signing(_)) => metrics.csr_sign_error.increment(),
            Err(_) => {}
        }
        self.log(outcome);
    }

    /// Texts that a caller can shape are logged quoted and escaped.
    fn log(&self, outcome: &Result<Issued, Denial>) {
        let caller = self.caller.address;
        let (door, evidence) = (self.door.as_str(), self.evidence);
        let identity = self.identity.as_ref().map(SpiffeId::as_str);
        let public_key = self.public_key.as_deref();
        let ignored = Some(self.ignored.as_str()).filter(|ignored| !ignored.is_empty());
        let note = self.note();
        let note = note.as_deref();
        match outcome {
            Ok(issued) => {
                let serial = issued.serial.as_str();
                let not_after = rfc3339::print(issued.not_after);
                let not_after = not_after.as_str();
                tracing::info!(target: "audit", %caller, door, evidence, identity, result = "issued", serial,
                    public_key, not_after, ignored, note, "CSR answered");
            }
            Err(denial) => {
                let refusal = denial.id().id();
                let reason = denial.to_string();
                let reason = reason.as_str();
                tracing::warn!(target: "audit", %caller, door, evidence, identity, result = "refused", refusal, reason,
                    public_key, ignored, note, "CSR answered");
            }
        }
    }

    fn note(&self) -> Option<String> {
        let capped = self.asked.filter(|asked| self.granted.is_some_and(|granted| granted != *asked));
        let capped = capped.map(|asked| format!("asked for {asked:?}, which is over workloadTtl.max"));
        let faults = self.desk.faults.note().map(|faults| format!("misbehaving on purpose: {faults}"));
        let notes: Vec<_> = capped.into_iter().chain(faults).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// What a panic left behind is whole: a request is counted in one step.
fn locked<T>(rates: &Mutex<Rates<T>>) -> std::sync::MutexGuard<'_, Rates<T>> {
    rates.lock().unwrap_or_else(PoisonError::into_inner)
}
