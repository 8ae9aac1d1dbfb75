//! Where this proxy's identity comes from, and how it stays valid: a certificate from the CA, renewed in time, or files
//! or an agent that somebody else renews. And whose identities are believed besides, those of other trust domains.
//!
//! Publishes [`LiveCredentials`]; a change drops no connection, since each keeps what it began with. Leaves what the
//! credentials are to `tls`, and when to renew to `pillion_mesh::rotation`.

mod attention;
mod authority;
mod expiry;
mod federation;
mod files;
mod https;
mod key;
mod publish;
mod revoked;
mod rotate;
#[cfg(feature = "workload-api")]
mod workload_api;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::tls::{BundleError, Bundles, Clock, LiveCredentials, Revocations, TlsSettings};

use federation::Faults;
pub(crate) use federation::{BundleSource, Endpoint, EndpointTrust, Federated, federate};
use publish::Publisher;

/// Who this proxy is, and whose identities its trust domain's bundle vouches for.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// The identity that it is to prove.
    pub(crate) id: SpiffeId,
    /// Other names of its trust domain.
    pub(crate) aliases: Arc<[TrustDomain]>,
}

impl Own {
    fn bundles(&self, pem: &[u8]) -> Result<Bundles, BundleError> {
        Bundles::from_pem(&self.id.trust_domain(), pem).map(|bundle| bundle.also_for(&self.aliases))
    }
}

/// Of a trust domain with one name.
impl From<SpiffeId> for Own {
    fn from(id: SpiffeId) -> Self {
        Self { id, aliases: Arc::new([]) }
    }
}

/// Where the identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A CA signs a key that never leaves this process.
    Ca(CaSource),
    /// Somebody else puts certificate and key into files.
    Files(FileSource),
    /// An agent gives them by the SPIFFE Workload API on this socket.
    WorkloadApi(PathBuf),
}

/// A CA with the API of `pillion-ca`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CaSource {
    /// A DNS name or an address, which the CA's own server certificate must have.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// Holds the token that proves who this workload is; read again for each use.
    pub(crate) token_file: PathBuf,
    /// What the CA's server certificate must lead to before the CA has told its bundle; never read after that.
    pub(crate) bundle_file: PathBuf,
    /// What kind of key to make.
    pub(crate) key_type: KeyType,
    /// How long the certificate should last; the CA may give less. Whole seconds, at least one.
    pub(crate) ttl: Duration,
}

/// Files that are watched and reloaded together. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSource {
    /// The chain, leaf first.
    pub(crate) certificate: PathBuf,
    /// The leaf's private key.
    pub(crate) key: PathBuf,
    /// The roots of the workload's trust domain.
    pub(crate) bundle: PathBuf,
}

/// The kinds of keys that this proxy makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum KeyType {
    /// The default: small, and fast to sign with.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 4096 bits; making one takes seconds.
    Rsa4096,
    /// Ed25519; not every TLS library takes it.
    Ed25519,
}

/// How the identity fares, for `/certs` and the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// Certificates and bundles that were taken into use.
    pub(crate) succeeded: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Why the newest attempt failed; none after a success.
    pub(crate) last_error: Option<String>,
    /// When the CA is asked next; none where files are watched or an agent is listened to.
    pub(crate) next_attempt: Option<SystemTime>,
    /// The revocation lists in force.
    pub(crate) lists: Option<Arc<Revocations>>,
    /// Why those that are there now are not in force.
    pub(crate) lists_error: Option<String>,
}

impl Status {
    /// What stands in the way of an identity, newest first.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.last_error.as_deref().or(self.lists_error.as_deref())
    }
}

/// The running identity.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The newest credentials; the last good ones stay when their successors cannot be had, also past their end.
    pub(crate) credentials: LiveCredentials,
    status: watch::Receiver<Status>,
    federation: Faults,
}

impl Identity {
    /// How it fares now.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Why the newest bundle of each other trust domain could not be had; none where it could.
    pub(crate) fn federation(&self) -> BTreeMap<TrustDomain, Option<String>> {
        self.federation.all()
    }
}

/// Starts to obtain and renew credentials for `own` until `cancel`. Never gives up: a CA or a file that is missing at
/// the start is waited for. Peers are judged by the revocation lists of the file `crl`, where one is named. `mark` is the
/// `SO_MARK` of connections to the CA.
pub(crate) fn spawn(
    own: Own,
    source: Source,
    crl: Option<PathBuf>,
    tls: TlsSettings,
    clock: Clock,
    mark: Option<u32>,
    cancel: CancellationToken,
) -> Identity {
    let (publisher, identity) = Publisher::new();
    let attention = attention::run(identity.credentials.clone(), clock.clone());
    tokio::spawn(cancel.clone().run_until_cancelled_owned(attention));
    if let Some(path) = crl {
        publisher.await_lists();
        let watched = revoked::RevokedFile::new(path, clock.clone(), publisher.clone());
        tokio::spawn(cancel.clone().run_until_cancelled_owned(watched.run()));
    }
    match source {
        Source::Ca(ca) => {
            let dial = https::dial(&ca.host, ca.port, mark);
            let rotation = rotate::Rotation::new(own, ca, dial, tls, clock, publisher);
            tokio::spawn(cancel.run_until_cancelled_owned(rotation.run()));
        }
        Source::Files(files) => {
            let watched = files::Watched::new(own, files, tls, clock, publisher);
            tokio::spawn(cancel.run_until_cancelled_owned(watched.run()));
        }
        #[cfg(feature = "workload-api")]
        Source::WorkloadApi(socket) => {
            let agent = workload_api::Agent::new(own, socket, tls, clock, publisher);
            tokio::spawn(cancel.run_until_cancelled_owned(agent.run()));
        }
        #[cfg(not(feature = "workload-api"))]
        Source::WorkloadApi(_) => {} // the settings refuse it
    }
    identity
}

#[cfg(test)]
mod tests;
