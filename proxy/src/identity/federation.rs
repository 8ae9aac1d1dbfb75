//! Other trust domains whose identities are believed: their bundles from files or from their bundle endpoints, beside our
//! own and never merged with it (SPIFFE Federation 5 and 6).
//!
//! A bundle that cannot be had or read loses nothing: the last good one stays. One that has no roots says that its trust
//! domain has revoked them all, and is believed.

mod endpoint;
mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Identity, https};
use crate::telemetry::Telemetry;
use crate::tls::{Bundles, Clock, LiveCredentials, TlsSettings};

/// A trust domain and where its bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Federated {
    /// Whose identities are believed.
    pub(crate) trust_domain: TrustDomain,
    /// By what.
    pub(crate) bundle: BundleSource,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BundleSource {
    /// A file, watched: a SPIFFE bundle or PEM certificates.
    File(PathBuf),
    /// A bundle endpoint, asked again and again.
    Endpoint(Endpoint),
}

/// A SPIFFE bundle endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A DNS name or an address.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) path: String,
    /// How it proves who it is.
    pub(crate) trust: EndpointTrust,
}

/// How an endpoint proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndpointTrust {
    /// By its name and the system's roots, or by those of a PEM file and of the bundle that it gave last (`https_web`).
    Web {
        /// Instead of the system's.
        ca_file: Option<PathBuf>,
    },
    /// By its SPIFFE ID and the newest bundle of that ID's trust domain (`https_spiffe`).
    Spiffe {
        /// Who it must be.
        id: SpiffeId,
        /// A file with the bundle to begin with, where no other is known.
        first: Option<PathBuf>,
    },
}

/// Why the newest bundle of each other trust domain could not be had. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Faults(watch::Sender<BTreeMap<TrustDomain, Option<String>>>);

impl Faults {
    /// Of no trust domain.
    pub(super) fn none() -> Faults {
        Faults(watch::Sender::new(BTreeMap::new()))
    }

    /// Those of each trust domain that is believed, or is to be.
    pub(super) fn all(&self) -> BTreeMap<TrustDomain, Option<String>> {
        self.0.borrow().clone()
    }

    fn set(&self, trust_domain: &TrustDomain, fault: Option<String>) {
        self.0.send_modify(|faults| _ = faults.insert(trust_domain.clone(), fault));
    }
}

/// The newest bundle of each other trust domain.
type Foreign = BTreeMap<TrustDomain, Bundles>;

/// What each follower of a bundle has.
#[derive(Clone)]
struct Shared {
    trust_domain: TrustDomain,
    own_id: SpiffeId,
    foreign: watch::Sender<Foreign>,
    faults: Faults,
    own: LiveCredentials,
    telemetry: Arc<Telemetry>,
    tls: TlsSettings,
    clock: Clock,
}

/// The same identity, whose credentials believe other trust domains too.
pub(crate) fn federate(
    identity: Identity,
    own_id: &SpiffeId,
    federation: Vec<Federated>,
    (tls, mark, clock): (TlsSettings, Option<u32>, &Clock),
    telemetry: &Arc<Telemetry>,
    cancel: &CancellationToken,
) -> Identity {
    if federation.is_empty() {
        return identity;
    }
    let (foreign, bundles) = watch::channel(Foreign::new());
    for Federated { trust_domain, bundle } in federation {
        let shared = Shared {
            trust_domain,
            own_id: own_id.clone(),
            foreign: foreign.clone(),
            faults: identity.federation.clone(),
            own: identity.credentials.clone(),
            telemetry: telemetry.clone(),
            tls,
            clock: clock.clone(),
        };
        let cancel = cancel.clone();
        match bundle {
            BundleSource::File(path) => {
                tokio::spawn(cancel.run_until_cancelled_owned(file::Follower::new(shared, path).run()));
            }
            BundleSource::Endpoint(endpoint) => {
                let dial = https::dial(&endpoint.host, endpoint.port, mark);
                let follower = endpoint::Follower::new(shared, endpoint, dial);
                tokio::spawn(cancel.run_until_cancelled_owned(follower.run()));
            }
        }
    }
    let (sender, credentials) = watch::channel(None);
    let joining = join(identity.credentials.clone(), bundles, sender);
    tokio::spawn(cancel.clone().run_until_cancelled_owned(joining));
    Identity { credentials, ..identity }
}

/// Makes new credentials of our own and of the foreign bundles, whenever one of them changes.
async fn join(
    mut own: LiveCredentials,
    mut bundles: watch::Receiver<Foreign>,
    sender: watch::Sender<Option<Arc<crate::tls::Credentials>>>,
) {
    let mut generation = 0;
    loop {
        let current = own.borrow_and_update().clone();
        let foreign = bundles.borrow_and_update().clone();
        if let Some(current) = current {
            let all = foreign.values().fold(current.bundles().clone(), Bundles::with_foreign);
            generation += 1;
            match current.with_bundles(all, generation) {
                Ok(credentials) => _ = sender.send_replace(Some(Arc::new(credentials))),
                Err(error) => error!("the bundles of other trust domains cannot be used: {error}"),
            }
        }
        let changed = tokio::select! {
            changed = own.changed() => changed,
            changed = bundles.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Shared {
    /// The bundle in use.
    fn current(&self) -> Option<Bundles> {
        self.foreign.borrow().get(&self.trust_domain).cloned()
    }

    /// Takes a bundle into use, where it is another one.
    fn take(&self, bundles: Bundles, whence: &str) {
        self.telemetry.federation_refreshed(self.trust_domain.as_str(), true);
        self.faults.set(&self.trust_domain, None);
        if self.current().as_ref() == Some(&bundles) {
            return;
        }
        if bundles.roots(&self.trust_domain).is_none_or(<[_]>::is_empty) {
            warn!(
                "trust domain {} has revoked all its roots, says {whence}: its identities are refused",
                self.trust_domain
            );
        } else {
            info!("trust bundle of {bundles}; from {whence}");
        }
        self.foreign.send_modify(|foreign| _ = foreign.insert(self.trust_domain.clone(), bundles));
    }

    /// Nothing could be had; what is in use stays. What was `told` already is counted only.
    fn failed(&self, fault: &str, told: bool) {
        self.telemetry.federation_refreshed(self.trust_domain.as_str(), false);
        self.faults.set(&self.trust_domain, Some(fault.to_owned()));
        if told {
            return;
        }
        let trust_domain = &self.trust_domain;
        match self.current() {
            Some(_) => warn!("the trust bundle of {trust_domain}: {fault}; the one in use stays"),
            None => warn!("no trust bundle of {trust_domain} yet, its identities are refused: {fault}"),
        }
    }
}
