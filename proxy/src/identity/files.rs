//! Watches certificate, key and bundle files and takes them into use together, when they fit each other.
//!
//! Polls their contents: it works on every mount, and three small files are cheap to read. Somebody who writes them one
//! after the other makes them disagree for a moment; that is reported only when it lasts.

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use pillion_mesh::wire::rfc3339;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info};
use zeroize::Zeroizing;

use super::authority::{FILE_LIMIT, check_ours};
use super::expiry::Expiry;
use super::publish::Publisher;
use super::{FileSource, Own};
use crate::files::{read_bounded, warn_of_readers};
use crate::tls::{Clock, Credentials, TlsSettings};

/// How often the files are read.
const POLL: Duration = Duration::from_secs(1);

/// The task that watches.
pub(super) struct Watched {
    own: Own,
    source: FileSource,
    tls: TlsSettings,
    clock: Clock,
    publisher: Publisher,
    memory: Memory,
    expiry: Expiry,
}

/// What was seen so far.
#[derive(Default)]
struct Memory {
    /// What is in use.
    used: Option<Fingerprint>,
    /// What the last poll saw.
    last: Option<Fingerprint>,
    /// What was complained about.
    reported: Option<Fingerprint>,
}

/// A hash of all contents, or the error that reading them gave.
type Fingerprint = Result<[u8; 32], String>;

/// The files as they were read.
struct Contents {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    bundle: Zeroizing<Vec<u8>>,
}

impl Watched {
    pub(super) fn new(
        own: Own,
        source: FileSource,
        tls: TlsSettings,
        clock: Clock,
        publisher: Publisher,
    ) -> Watched {
        let expiry = Expiry::of(source.certificate.display().to_string(), "put a new one there");
        Watched { own, source, tls, clock, publisher, memory: Memory::default(), expiry }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let source = self.source.clone();
            let read = match spawn_blocking(move || Contents::read(&source)).await {
                Ok(read) => read,
                Err(error) => Err(error.to_string()),
            };
            self.look_at(read);
            self.expiry.mind(&self.publisher, &self.clock);
            sleep(POLL).await;
        }
    }

    fn look_at(&mut self, read: Result<Contents, String>) {
        let seen = read.as_ref().map(Contents::fingerprint).map_err(Clone::clone);
        if self.memory.used.as_ref() == Some(&seen) {
            if self.memory.reported.take().is_some() {
                info!("the identity files are those in use again");
                self.publisher.recovered();
            }
        } else {
            match read.and_then(|contents| self.load(&contents)) {
                Ok(credentials) => self.take(credentials, &seen),
                Err(fault) => self.complain(fault, &seen),
            }
        }
        self.memory.last = Some(seen);
    }

    fn take(&mut self, credentials: Credentials, seen: &Fingerprint) {
        let svid = &credentials.svid;
        info!(
            "certificate of {} (serial {}) from {}, valid until {}",
            svid.id,
            svid.serial,
            self.source.certificate.display(),
            rfc3339::print(svid.not_after)
        );
        warn_of_readers(&self.source.key);
        self.publisher.publish(credentials);
        self.memory.used = Some(seen.clone());
        self.memory.reported = None;
    }

    /// Once for each content, when it is the same at two polls in a row.
    fn complain(&mut self, fault: String, seen: &Fingerprint) {
        let settled = self.memory.last.as_ref() == Some(seen);
        if !settled || self.memory.reported.as_ref() == Some(seen) {
            return;
        }
        self.memory.reported = Some(seen.clone());
        match self.publisher.current() {
            None => error!("no certificate yet: {fault}"),
            Some(current) => error!(
                "the identity files cannot be used: {fault}; the certificate in use stays, it lasts until {}",
                rfc3339::print(current.svid.not_after)
            ),
        }
        self.publisher.failed(fault);
    }

    /// All three, fitting each other and our identity.
    fn load(&self, contents: &Contents) -> Result<Credentials, String> {
        let FileSource { certificate, key, bundle } = &self.source;
        let of = |path: &Path, error: &dyn ToString| format!("{}: {}", path.display(), error.to_string());
        let chain = CertificateDer::pem_slice_iter(&contents.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| of(certificate, &error))?;
        let secret = PrivateKeyDer::from_pem_slice(&contents.key)
            .map(Zeroizing::new)
            .map_err(|error| of(key, &format!("expected a PEM private key: {error}")))?;
        let bundles = self.own.bundles(&contents.bundle).map_err(|error| of(bundle, &error))?;
        let generation = self.publisher.next_generation();
        let credentials = Credentials::new(chain, &secret, bundles, self.tls, &self.clock, generation)
            .map_err(|error| of(certificate, &error))?;
        check_ours(&credentials, &self.own.id, &self.clock).map_err(|fault| of(certificate, &fault))?;
        Ok(credentials)
    }
}

impl Contents {
    fn read(source: &FileSource) -> Result<Contents, String> {
        let read = |path: &Path| {
            read_bounded(path, FILE_LIMIT).map_err(|error: io::Error| format!("{}: {error}", path.display()))
        };
        Ok(Contents {
            certificate: read(&source.certificate)?,
            key: read(&source.key)?,
            bundle: read(&source.bundle)?,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        for file in [&self.certificate, &self.key, &self.bundle] {
            hash.update(&file.len().to_be_bytes());
            hash.update(file);
        }
        hash.finish().as_ref().try_into().unwrap_or_default()
    }
}
