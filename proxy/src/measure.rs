//! Handshakes between two sidecars in memory, so that what they cost can be measured. For benches; nothing else calls it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use pillion_mesh::policy::mode::Mode;
use pillion_mesh::spiffe::SpiffeId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::tls::{self, Bundles, Ciphers, Clock, Credentials, Door, TlsSettings, TlsVersion, UnknownCipher};

/// Holds all that a handshake sends.
const PIPE: usize = 64 * 1024;

/// The certificate and key of one side.
#[derive(Debug)]
pub struct Side<'a> {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's.
    pub key: &'a PrivateKeyDer<'a>,
}

/// Two sidecars that trust one root.
#[derive(Debug)]
pub struct Pair {
    client: Credentials,
    server: Credentials,
    wanted: Arc<[SpiffeId]>,
}

impl Pair {
    /// `bundle` is the PEM of their root; `resumption` as the setting `tls.resumption`.
    ///
    /// # Errors
    /// Why one of them could not be used as a sidecar's.
    pub fn new(client: Side<'_>, server: Side<'_>, bundle: &str, resumption: bool) -> Result<Self, String> {
        Self::with(client, server, bundle, TlsSettings { resumption, ..TlsSettings::default() })
    }

    /// The same with TLS 1.3, X25519 and AES-128-GCM, to be compared with others.
    ///
    /// # Errors
    /// Why one of them could not be used as a sidecar's.
    pub fn usual(client: Side<'_>, server: Side<'_>, bundle: &str, resumption: bool) -> Result<Self, String> {
        let unknown = |fault: UnknownCipher| fault.to_string();
        let suite = "TLS_AES_128_GCM_SHA256".parse().map_err(unknown)?;
        let ciphers = Ciphers::of(vec![suite], vec!["X25519".parse().map_err(unknown)?]);
        let settings =
            TlsSettings { min_version: TlsVersion::Tls13, ciphers, resumption, ..TlsSettings::default() };
        Self::with(client, server, bundle, settings)
    }

    fn with(client: Side<'_>, server: Side<'_>, bundle: &str, settings: TlsSettings) -> Result<Self, String> {
        let trust_domain = "cluster.local".parse().map_err(|fault| format!("{fault}"))?;
        let bundles =
            Bundles::from_pem(&trust_domain, bundle.as_bytes()).map_err(|fault| fault.to_string())?;
        let credentials = |side: Side<'_>| {
            Credentials::new(side.chain, side.key, bundles.clone(), settings, &Clock::system(), 1)
                .map_err(|fault| fault.to_string())
        };
        let (client, server) = (credentials(client)?, credentials(server)?);
        let wanted = [server.svid.id.clone()].into();
        Ok(Self { client, server, wanted })
    }

    /// One connection: the work of both sides, and a byte back, so that a ticket arrives. Says whether it was resumed.
    ///
    /// # Errors
    /// Why there was none.
    pub async fn connect(&self) -> Result<bool, String> {
        const SNI: &str = "outbound_.8080_._.backend.default.svc.cluster.local";
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        let (near, far) = duplex(PIPE);
        let client = async {
            let wanted = Arc::clone(&self.wanted);
            let (mut stream, handshake) =
                tls::client::connect(near, Arc::default(), &self.client, address, SNI, wanted)
                    .await
                    .map_err(|fault| fault.to_string())?;
            stream.read_u8().await.map_err(|fault| fault.to_string())?;
            Ok(handshake.record.resumed)
        };
        let server = async {
            let door = Door { port: address.port(), mode: Mode::Strict };
            let (mut stream, _handshake) = tls::server::accept(far, Arc::default(), &self.server, door)
                .await
                .map_err(|fault| fault.to_string())?;
            stream.write_u8(0).await.and(stream.flush().await).map_err(|fault| fault.to_string())
        };
        let (resumed, served) = tokio::join!(client, server);
        served.and(resumed)
    }
}
