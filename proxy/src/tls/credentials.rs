//! What this proxy proves and trusts at one moment: certificate, key, bundles, and the rustls configurations made of them.
//!
//! No session outlives them: those that may be resumed belong to them and go with them, so that a withdrawn root or a
//! renewed certificate ends with the next handshake; early data is off (requirements 16 to 18 of the security rules).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::svid::{self, Svid, SvidError};
use pillion_mesh::tunnel;
use pillion_mesh::wire::rfc3339;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use zeroize::Zeroizing;

use super::failure::{NOT_VALID_NOW, Role, explain};
use super::pkcs8::pkcs8;
use super::sessions::{Door, Issued, Issuer, Keeper, Kept};
use super::verify::{ChainError, PeerVerifier, check_chain};
use super::{Bundles, Clock, HandshakeError, Revoked, TlsSettings, key_log, provider};

/// ALPN protocols that the server picks from, the first that the client offers too.
///
/// `istio-peer-exchange` is left out though it marks mesh TLS: picking it tells an Istio client to send, and to wait
/// for, metadata ahead of the app's bytes, which nobody here speaks. Istio's clients that offer it offer `istio` too.
pub(super) const ANSWERED: [&[u8]; 4] = [b"istio", b"istio-http/1.1", b"istio-http/1.0", b"istio-h2"];

/// The one protocol that the client offers: the mark, and nothing on what the app speaks.
const OFFERED: &[u8] = b"istio";

/// An immutable set of certificate, key and bundles.
pub(crate) struct Credentials {
    /// What the leaf says.
    pub(crate) svid: Svid,
    /// The leaf, then its intermediates.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    generation: u64,
    key: Arc<CertifiedKey>,
    /// The same key as it came.
    secret: Arc<Zeroizing<PrivateKeyDer<'static>>>,
    bundles: Bundles,
    revoked: Revoked,
    settings: TlsSettings,
    clock: Clock,
    pub(super) verifier: PeerVerifier,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    server_without_alpn: Arc<ServerConfig>,
    server_of_tunnels: Arc<ServerConfig>,
    issued: Arc<Issued>,
    kept: Kept,
}

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// Nothing to show.
    #[error("expected a certificate chain, leaf first; found no certificate")]
    NoCertificate,
    /// The leaf is no X509-SVID.
    #[error("our own certificate is no X509-SVID: {0}")]
    Svid(#[from] SvidError),
    /// The key is broken or of a kind that TLS does not know.
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
    /// The key belongs to another certificate.
    #[error("the private key is not the one that the certificate of {id} (serial {serial}) was made for")]
    KeyMismatch {
        /// The certificate's identity.
        id: String,
        /// The certificate's serial number.
        serial: String,
    },
    /// rustls refuses the configuration.
    #[error("the TLS configuration is refused: {0}")]
    Configuration(rustls::Error),
}

impl Credentials {
    /// Checks that the leaf is an X509-SVID and the key its own, and builds what handshakes need. `generation` counts
    /// the credentials of this process. Whether the chain leads to the bundle is asked by [`Self::check_own_chain`].
    ///
    /// # Errors
    /// [`CredentialsError`], which names no byte of the key.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
        bundles: Bundles,
        settings: TlsSettings,
        clock: &Clock,
        generation: u64,
    ) -> Result<Credentials, CredentialsError> {
        let svid = svid::check_leaf(chain.first().ok_or(CredentialsError::NoCertificate)?)?;
        let secret = Arc::new(Zeroizing::new(key.clone_key()));
        let key = CertifiedKey::new(chain, any_supported_type(key).map_err(CredentialsError::Key)?);
        key.keys_match().map_err(|_error| CredentialsError::KeyMismatch {
            id: svid.id.to_string(),
            serial: svid.serial.clone(),
        })?;
        let (revoked, key) = (Revoked::default(), (Arc::new(key), secret));
        Self::build(svid, key, bundles, revoked, settings, clock.clone(), generation)
    }

    /// The same certificate and key with other bundles.
    ///
    /// # Errors
    /// `Configuration`, which cannot happen for a certificate and key that were accepted once.
    pub(crate) fn with_bundles(
        &self,
        bundles: Bundles,
        generation: u64,
    ) -> Result<Credentials, CredentialsError> {
        Self::build(
            self.svid.clone(),
            (self.key.clone(), self.secret.clone()),
            bundles,
            self.revoked.clone(),
            self.settings,
            self.clock.clone(),
            generation,
        )
    }

    /// The same certificate, key and bundles with other revocation lists.
    ///
    /// # Errors
    /// `Configuration`, which cannot happen for a certificate and key that were accepted once.
    pub(crate) fn with_revoked(
        &self,
        revoked: Revoked,
        generation: u64,
    ) -> Result<Credentials, CredentialsError> {
        Self::build(
            self.svid.clone(),
            (self.key.clone(), self.secret.clone()),
            self.bundles.clone(),
            revoked,
            self.settings,
            self.clock.clone(),
            generation,
        )
    }

    fn build(
        svid: Svid,
        (key, secret): (Arc<CertifiedKey>, Arc<Zeroizing<PrivateKeyDer<'static>>>),
        bundles: Bundles,
        revoked: Revoked,
        settings: TlsSettings,
        clock: Clock,
        generation: u64,
    ) -> Result<Credentials, CredentialsError> {
        let verifier = PeerVerifier::new(bundles.clone(), revoked.clone(), svid.id.clone());
        let shown = Arc::new(SingleCertAndKey::from(key.clone()));
        let client = client_config(&verifier, shown.clone(), settings, &clock)?;
        let server_without_alpn = server_config(&verifier, shown, settings, &clock)?;
        let mut server = server_without_alpn.clone();
        server.alpn_protocols = ANSWERED.map(<[u8]>::to_vec).to_vec();
        let mut server_of_tunnels = server_without_alpn.clone();
        server_of_tunnels.alpn_protocols = vec![tunnel::ALPN.to_vec()];
        Ok(Credentials {
            svid,
            chain: key.cert.clone(),
            generation,
            key,
            secret,
            bundles,
            revoked,
            settings,
            clock,
            verifier,
            client: Arc::new(client),
            server: Arc::new(server),
            server_without_alpn: Arc::new(server_without_alpn),
            server_of_tunnels: Arc::new(server_of_tunnels),
            issued: Arc::default(),
            kept: Kept::default(),
        })
    }

    /// Whether `now` lies in the leaf's validity, both ends included (RFC 5280 4.1.2.5).
    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.svid.not_before <= now && now <= self.svid.not_after
    }

    /// Why it cannot be shown at `now`, with what was read and the likely cure; none where it can.
    pub(crate) fn unusable_at(&self, now: SystemTime) -> Option<String> {
        if self.is_valid_at(now) {
            return None;
        }
        let (id, now_told) = (&self.svid.id, rfc3339::print(now));
        Some(if now < self.svid.not_before {
            let from = rfc3339::print(self.svid.not_before);
            format!(
                "the certificate of {id} is not valid before {from}; our clock says {now_told}: it was set back, or the \
                 issuer's is fast; compare the clocks"
            )
        } else {
            let until = rfc3339::print(self.svid.not_after);
            format!("the certificate of {id} has expired at {until}; our clock says {now_told}")
        })
    }

    /// Adds to a peer's complaint about the dates of our certificate what they are, and our clock.
    pub(crate) fn with_dates(&self, complaint: String) -> String {
        if !complaint.contains(NOT_VALID_NOW) {
            return complaint;
        }
        format!(
            "{complaint}; it is valid from {} until {}, and our clock says {}: compare both clocks",
            rfc3339::print(self.svid.not_before),
            rfc3339::print(self.svid.not_after),
            rfc3339::print(self.now())
        )
    }

    /// Why a handshake failed, from what tokio-rustls returned.
    pub(super) fn explain(&self, error: &io::Error, peer: Role) -> HandshakeError {
        let HandshakeError { reason, detail } = explain(error, peer, &self.svid.id, self.settings);
        HandshakeError { reason, detail: self.with_dates(detail) }
    }

    /// The time by which peers are judged.
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Whom this proxy trusts.
    pub(crate) fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    /// What is revoked for this proxy.
    pub(crate) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// Counts up with each change of certificate, bundle or revocation lists.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Judges our own chain as a peer with our bundle would, by our clock.
    ///
    /// # Errors
    /// What such a peer would refuse it for.
    pub(crate) fn check_own_chain(&self) -> Result<(), ChainError> {
        let (leaf, intermediates) = self.chain.split_first().ok_or_else(ChainError::empty)?;
        let algorithms = provider().signature_verification_algorithms;
        check_chain(
            &self.bundles,
            &self.revoked,
            &algorithms,
            leaf,
            intermediates,
            self.clock.now(),
            Role::Client,
        )
        .map(|_svid| ())
    }

    /// Certificate and key for a TLS client that is no mesh peer, the one that renews at the CA.
    pub(crate) fn shown(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.key.clone()))
    }

    /// What a connection to a server at `to`, an address and an SNI, takes that must prove one of `wanted`; with what
    /// keeps its sessions, where they are kept.
    pub(super) fn client_config(
        &self,
        to: (SocketAddr, &str),
        wanted: &Arc<[SpiffeId]>,
    ) -> (ClientConfig, Option<Arc<Keeper>>) {
        let mut config = ClientConfig::clone(&self.client);
        let verifier = || self.verifier.for_servers(Arc::clone(wanted));
        if !self.settings.resumption {
            config.dangerous().set_certificate_verifier(Arc::new(verifier()));
            return (config, None);
        }
        let keeper = self.kept.keeper(to, wanted, verifier, self.clock.clone(), self.svid.not_after);
        let keeper = Arc::new(keeper);
        config.dangerous().set_certificate_verifier(keeper.verifier());
        config.resumption = Resumption::store(keeper.clone()).tls12_resumption(Tls12Resumption::Disabled);
        (config, Some(keeper))
    }

    /// The private key as PKCS#8, for an app that is given the identity; none where the key has no such form.
    pub(crate) fn pkcs8(&self) -> Option<Zeroizing<Vec<u8>>> {
        pkcs8(&self.secret)
    }

    /// The tickets that lead to a session.
    #[cfg(test)]
    pub(super) fn tickets(&self) -> Vec<Vec<u8>> {
        self.issued.tickets()
    }

    /// What remembers the sessions of a client at `door`, where they are remembered.
    pub(super) fn issuer(&self, door: Door) -> Option<Arc<Issuer>> {
        self.settings.resumption.then(|| {
            let (verifier, clock) = (self.verifier.clone(), self.clock.clone());
            Arc::new(Issuer::new(&self.issued, door, verifier, clock, self.svid.not_after))
        })
    }

    /// The server's configuration for a client with this offer. A client that offers ALPN without a protocol that we
    /// answer gets no answer to it, as from Envoy, and not the alert of RFC 7301 3.2: under STRICT it may be curl with
    /// a certificate of the mesh, and what the app speaks is not ours to negotiate.
    pub(super) fn server_config<'a>(&self, mut offered: impl Iterator<Item = &'a [u8]>) -> Arc<ServerConfig> {
        let config = if offered.any(|protocol| ANSWERED.contains(&protocol)) {
            &self.server
        } else {
            &self.server_without_alpn
        };
        config.clone()
    }

    /// The server's configuration for a client that opens a tunnel.
    pub(super) fn tunnel_config(&self) -> Arc<ServerConfig> {
        self.server_of_tunnels.clone()
    }
}

/// Shows neither key nor configuration.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("svid", &self.svid)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

fn client_config(
    verifier: &PeerVerifier,
    shown: Arc<SingleCertAndKey>,
    settings: TlsSettings,
    clock: &Clock,
) -> Result<ClientConfig, CredentialsError> {
    let mut config = ClientConfig::builder_with_details(settings.provider(), Arc::new(clock.clone()))
        .with_protocol_versions(settings.versions())
        .map_err(CredentialsError::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier.clone()))
        .with_client_cert_resolver(shown);
    config.key_log = key_log::to(settings.key_log);
    config.alpn_protocols = vec![OFFERED.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn server_config(
    verifier: &PeerVerifier,
    shown: Arc<SingleCertAndKey>,
    settings: TlsSettings,
    clock: &Clock,
) -> Result<ServerConfig, CredentialsError> {
    let mut config = ServerConfig::builder_with_details(settings.provider(), Arc::new(clock.clone()))
        .with_protocol_versions(settings.versions())
        .map_err(CredentialsError::Configuration)?
        .with_client_cert_verifier(Arc::new(verifier.clone()))
        .with_cert_resolver(shown);
    config.key_log = key_log::to(settings.key_log);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
