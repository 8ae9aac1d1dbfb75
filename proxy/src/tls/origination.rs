//! TLS to servers outside the mesh, as SIMPLE and MUTUAL of a DestinationRule have it: the roots of a file or of the
//! system, names of the web or URIs, and with MUTUAL a certificate to show.
//!
//! Leaves which rule applies and which names the server must prove to `pillion_mesh::policy::dial`. As with mesh TLS no
//! session is resumed and no data is sent early.

mod files;
mod material;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pillion_mesh::reason::Reason;
use pillion_mesh::resource::Origination;
use pillion_mesh::wire::{TlsMode, TlsRecord};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, CommonState, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::client::{no_name, shake};
use super::failure::{Role, attending, explain, farewell};
use super::handshake::Parties;
use super::revocations::Revocations;
use super::stream::TlsStream;
use super::{Ciphers, Clock, HandshakeError, TlsSettings, key_log, provider};
use crate::live::LiveSnapshot;
use crate::net::Leg;
use crate::net::tap::Tap;
pub(crate) use files::FileState;
use files::Files;
use material::{Roots, Shown};
use verify::{Leaf, OutsideVerifier};

/// Who we are in messages: to a server outside we need not have a name.
const LOCAL: &str = "this proxy";

/// Speaks TLS to servers outside the mesh, and watches the files that are needed for it.
#[derive(Debug)]
pub(crate) struct Originator {
    files: Files,
    settings: TlsSettings,
    clock: Clock,
}

/// What one rule has to believe a server by and to show it, as its files were when they were read last.
#[derive(Debug, Clone)]
pub(crate) struct Material {
    trust: Trust,
    shown: Option<Arc<Shown>>,
}

#[derive(Debug, Clone)]
enum Trust {
    /// Whoever answers (`insecureSkipVerify`).
    Anyone,
    /// Who leads to a root and is on no list.
    Roots { roots: Arc<Roots>, revocations: Option<Arc<Revocations>> },
}

/// What a server is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The name in SNI.
    pub(crate) server_name: Option<&'a str>,
    /// It must prove one of these, unless the rule believes whoever answers.
    pub(crate) names: &'a [String],
    /// The protocol that is offered (ALPN).
    pub(crate) alpn: Option<&'static str>,
}

impl Originator {
    pub(crate) fn new(settings: TlsSettings, clock: Clock) -> Self {
        // Those are for peers of the mesh.
        let settings = TlsSettings { ciphers: Ciphers::default(), ..settings };
        Self { files: Files::default(), settings, clock }
    }

    /// Reads the files that connections have needed again and again, and forgets those that no rule in force names any
    /// more. Ends when it is stopped.
    pub(crate) async fn watch(&self, snapshot: LiveSnapshot, stop: CancellationToken) {
        stop.run_until_cancelled(self.files.watch(snapshot, &self.clock)).await;
    }

    /// The files that connections have needed, and how each fares.
    pub(crate) fn files(&self) -> Vec<FileState> {
        self.files.states()
    }

    /// What the rule's files hold. Read here where no connection has needed them before; puts no deadline on it.
    ///
    /// # Errors
    /// `TlsFilesUnusable` with the file and its fault, where no good one was read ever.
    pub(crate) async fn material(&self, how: &Origination) -> Result<Material, HandshakeError> {
        self.read(how).await.map_err(|detail| HandshakeError { reason: Reason::TlsFilesUnusable, detail })
    }

    async fn read(&self, how: &Origination) -> Result<Material, String> {
        let shown = match &how.client {
            Some(client) => Some(self.files.shown(client).await?),
            None => None,
        };
        if how.insecure_skip_verify {
            return Ok(Material { trust: Trust::Anyone, shown });
        }
        let roots = match &how.ca_certificates {
            Some(path) => self.files.roots(path).await?,
            None => self.files.roots_of_system().await?,
        };
        let revocations = match &how.ca_crl {
            Some(path) => Some(self.files.revocations(path).await?),
            None => None,
        };
        Ok(Material { trust: Trust::Roots { roots, revocations }, shown })
    }

    /// Handshakes with a server that must be what `wanted` and `material` say. Puts no deadline on it: the caller's has to
    /// cover a farewell of at most 0.2 s after a failure.
    ///
    /// In TLS 1.3 a server that refuses *our* certificate, or misses it, says so after this has returned: the first read
    /// fails with its alert.
    ///
    /// # Errors
    /// Why there is no such server.
    pub(crate) async fn connect<S>(
        &self,
        transport: S,
        tap: Arc<Tap>,
        material: &Material,
        wanted: Wanted<'_>,
    ) -> Result<(TlsStream<S>, TlsRecord), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Leg + Unpin,
    {
        let begun = Instant::now();
        let shown = material.shown.clone().map(|shown| Arc::new(Showing::new(shown)));
        let config = self.config(material, wanted, shown.clone())?;
        let name = wanted.server_name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let stream = attending(async {
            match shake(transport, tap, Arc::new(config), name.unwrap_or_else(no_name)).await {
                Ok(stream) => Ok(stream),
                Err((error, rest)) => {
                    let error = explain(&error, Role::Server, &LOCAL, self.settings);
                    farewell(rest).await;
                    Err(error)
                }
            }
        })
        .await?;
        let connection = stream.connection();
        let record =
            parties(connection, material, wanted, shown.as_deref())?.record(connection, begun.elapsed())?;
        Ok((stream, record))
    }

    fn config(
        &self,
        material: &Material,
        wanted: Wanted<'_>,
        shown: Option<Arc<Showing>>,
    ) -> Result<ClientConfig, HandshakeError> {
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(self.clock.clone()))
            .with_protocol_versions(self.settings.versions())
            .map_err(|error| HandshakeError { reason: Reason::Internal, detail: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OutsideVerifier::new(
                material.trust.clone(),
                wanted.names.into(),
            )));
        let mut config = match shown {
            Some(shown) => builder.with_client_cert_resolver(shown),
            None => builder.with_no_client_auth(),
        };
        config.key_log = key_log::to(self.settings.key_log);
        config.alpn_protocols = wanted.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}

/// Who has proved what to whom in a finished handshake.
fn parties(
    connection: &CommonState,
    material: &Material,
    wanted: Wanted<'_>,
    shown: Option<&Showing>,
) -> Result<Parties, HandshakeError> {
    let unreadable = || HandshakeError {
        reason: Reason::Internal,
        detail: "the server's certificate of a finished handshake cannot be read".to_owned(),
    };
    let der = connection.peer_certificates().and_then(<[_]>::first).ok_or_else(unreadable)?;
    let peer = match material.trust {
        Trust::Anyone => None,
        Trust::Roots { .. } => verify::proved(der, wanted.names),
    };
    let leaf = Leaf::read(der).map_err(|_fault| unreadable())?;
    let shown = shown.filter(|showing| showing.was_asked()).map(|showing| &showing.shown);
    Ok(Parties {
        mode: if material.shown.is_some() { TlsMode::Mutual } else { TlsMode::Simple },
        peer: peer.unwrap_or_default().to_owned(),
        local: shown.map(|shown| shown.name.clone()).unwrap_or_default(),
        peer_serial: leaf.serial,
        peer_not_after: leaf.validity.1,
        local_leaf: shown.map(|shown| (shown.serial.clone(), shown.not_after)),
    })
}

/// Shows a certificate to the server of one connection, if it asks for one.
#[derive(Debug)]
struct Showing {
    shown: Arc<Shown>,
    asked: AtomicBool,
}

impl Showing {
    fn new(shown: Arc<Shown>) -> Self {
        Self { shown, asked: AtomicBool::new(false) }
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Showing {
    /// Always the one that the rule names, whatever issuers the server would like.
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        Some(Arc::clone(&self.shown.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
