//! Follows a bundle at its endpoint, by both profiles of SPIFFE Federation 5.2. Redirects are not followed.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Method, Request, StatusCode};
use pillion_mesh::rotation;
use pillion_mesh::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{Endpoint, EndpointTrust, Shared};
use crate::identity::authority::read_file;
use crate::identity::https::{self, Dial, Peer, Trust};
use crate::tls::{Bundles, server_verifier};

/// The longest that one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How often a bundle is asked for that gives no hint (SPIFFE Trust Domain and Bundle 4.1.2 leaves it open; as SPIRE).
const REFRESH: Duration = Duration::from_secs(300);
/// The hints that are followed: no endpoint may have us ask all the time, nor make a revoked root live for days.
const HINTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// The task that follows.
pub(super) struct Follower {
    shared: Shared,
    endpoint: Endpoint,
    dial: Dial,
    refresh: Duration,
    /// The newest bundle's number.
    sequence: Option<u64>,
    /// Failed tries since the last that was none.
    failures: u32,
    /// What was complained about last, since then.
    reported: Option<String>,
}

impl Follower {
    pub(super) fn new(shared: Shared, endpoint: Endpoint, dial: Dial) -> Follower {
        Follower { shared, endpoint, dial, refresh: REFRESH, sequence: None, failures: 0, reported: None }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let outcome = timeout(ATTEMPT, self.fetch()).await;
            match outcome.unwrap_or_else(|_elapsed| Err(format!("no answer within {} s", ATTEMPT.as_secs())))
            {
                Ok(bundles) => {
                    self.shared.take(bundles, &self.url());
                    (self.failures, self.reported) = (0, None);
                }
                Err(fault) => self.complain(fault),
            }
            sleep(self.wait()).await;
        }
    }

    /// Until the next try. Before the first bundle, whose lack refuses every peer, sooner.
    fn wait(&self) -> Duration {
        if self.failures > 0 && self.shared.current().is_none() {
            return rotation::backoff(self.failures, fastrand::f64()).min(self.refresh);
        }
        self.refresh.mul_f64(1.0 - fastrand::f64() / 10.0) // so that not all ask together
    }

    fn complain(&mut self, fault: String) {
        self.failures = self.failures.saturating_add(1);
        let told = self.reported.as_ref() == Some(&fault);
        self.shared.failed(&format!("{}: {fault}", self.url()), told);
        self.reported = Some(fault);
    }

    async fn fetch(&mut self) -> Result<Bundles, String> {
        let Endpoint { host, path, .. } = &self.endpoint;
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, self.authority())
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::new()))
            .map_err(|error| error.to_string())?;
        let peer = Peer { host, trust: self.trust().await?, shown: None };
        let (status, body) = https::send(&self.dial, peer, self.shared.tls, &self.shared.clock, request)
            .await
            .map_err(|error| error.to_string())?;
        if status.is_redirection() {
            return Err(format!(
                "it answered {status}: redirects are not followed; name the address that it leads to"
            ));
        }
        if status != StatusCode::OK {
            return Err(format!("it answered {status}; is its path right?"));
        }
        let (bundles, bundle) = Bundles::from_text(&self.shared.trust_domain, &body)
            .map_err(|fault| format!("its answer: {fault}"))?;
        if let (Some(known), Some(sequence)) = (self.sequence, bundle.sequence)
            && sequence < known
        {
            return Err(format!(
                "it gives bundle {sequence}, older than {known}, which it gave before (spiffe_sequence); if it was made \
                 anew, restart this proxy"
            ));
        }
        self.sequence = bundle.sequence;
        self.refresh = bundle.refresh_hint.unwrap_or(REFRESH).clamp(HINTS.0, HINTS.1);
        Ok(bundles)
    }

    /// What its certificate must be, by what is known now.
    async fn trust(&self) -> Result<Trust, String> {
        match &self.endpoint.trust {
            EndpointTrust::Web { ca_file: None } => system_roots().await.map(Trust::Roots),
            EndpointTrust::Web { ca_file: Some(path) } => {
                let at = |fault: &dyn ToString| format!("{}: {}", path.display(), fault.to_string());
                let pem = read_file(path.clone()).await.map_err(|error| at(&error))?;
                let mut roots = CertificateDer::pem_slice_iter(&pem)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| at(&error))?;
                let last = self.shared.current();
                let last = last.as_ref().and_then(|bundles| bundles.roots(&self.shared.trust_domain));
                roots.extend(last.into_iter().flatten().map(|root| root.der.clone()));
                Ok(Trust::Roots(roots))
            }
            EndpointTrust::Spiffe { id, first } => {
                let bundles = self.bundle_of(id, first.as_ref()).await?;
                Ok(Trust::Verifier(server_verifier(bundles, &self.shared.own_id, id)))
            }
        }
    }

    /// The newest bundle of the endpoint's own trust domain: fetched, our own, or to begin with that of the file.
    async fn bundle_of(&self, id: &SpiffeId, first: Option<&std::path::PathBuf>) -> Result<Bundles, String> {
        let trust_domain = id.trust_domain();
        let fetched = self.shared.foreign.borrow().get(&trust_domain).cloned();
        let known = fetched.or_else(|| {
            let own = self.shared.own.borrow().as_ref().map(|own| own.bundles().clone());
            own.filter(|bundles| bundles.roots(&trust_domain).is_some())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let Some(path) = first else {
            return Err(format!("there is no bundle of {trust_domain} yet, by which to believe it"));
        };
        let at = |fault: &dyn ToString| format!("{}: {}", path.display(), fault.to_string());
        let text = read_file(path.clone()).await.map_err(|error| at(&error))?;
        Bundles::from_text(&trust_domain, &text).map(|(bundles, _)| bundles).map_err(|fault| at(&fault))
    }

    fn authority(&self) -> String {
        format!("{}:{}", https::url_host(&self.endpoint.host), self.endpoint.port)
    }

    fn url(&self) -> String {
        format!("https://{}{}", self.authority(), self.endpoint.path)
    }
}

/// The roots of the web, as this system has them.
async fn system_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    let found =
        spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(|error| error.to_string())?;
    if found.certs.is_empty() {
        return Err(
            "the system has no roots of the web; install ca-certificates, or name a caFile".to_owned()
        );
    }
    Ok(found.certs)
}
