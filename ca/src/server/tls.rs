//! The TLS of the API: the CA's own certificate, renewed in good time, and the verifier of client certificates.
//!
//! The only room here that knows rustls as a server. A client certificate is optional; one that is shown must have a valid chain
//! to our root and be fit for clients, else the handshake fails. Whose it is, `attest` says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;

use crate::authority::{Authority, IssueError};
use crate::slots::Slots;

/// Pause after a failed renewal of the server certificate.
const RETRY: Duration = Duration::from_secs(60);

/// Why there is no TLS to serve with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("the CA's own server certificate: {0}")]
    Issue(#[from] IssueError),
    #[error("the CA's own server certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the verifier of client certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// The TLS configuration in force, and what the next one is made of.
pub(super) struct Endpoint {
    authority: Arc<Authority>,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
    /// What `config` was made of.
    slots: Arc<Slots>,
    config: Arc<ServerConfig>,
    renew_at: SystemTime,
}

impl Endpoint {
    /// Makes the first certificate.
    pub(super) fn new(
        authority: Arc<Authority>,
        names: Vec<ServerName<'static>>,
        now: SystemTime,
    ) -> Result<Self, EndpointError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let slots = authority.slots();
        let (config, renew_at) = configure(&authority, &slots, &names, &provider, now)?;
        Ok(Endpoint { authority, names, provider, slots, config, renew_at })
    }

    /// The configuration for a connection accepted now. From half of its life on, and when the signers have changed, the
    /// certificate is replaced first.
    pub(super) fn config(&mut self, now: SystemTime) -> Arc<ServerConfig> {
        let slots = self.authority.slots();
        if now >= self.renew_at || !Arc::ptr_eq(&slots, &self.slots) {
            match configure(&self.authority, &slots, &self.names, &self.provider, now) {
                Ok((config, renew_at)) => {
                    tracing::info!("renewed the CA's own server certificate");
                    self.config = config;
                    self.renew_at = renew_at;
                }
                Err(error) => {
                    tracing::error!(error = %error, "keeping the old server certificate");
                    self.renew_at = now + RETRY;
                }
            }
            self.slots = slots;
        }
        Arc::clone(&self.config)
    }
}

/// A configuration, and when to replace it.
fn configure(
    authority: &Authority,
    slots: &Slots,
    names: &[ServerName<'static>],
    provider: &Arc<CryptoProvider>,
    now: SystemTime,
) -> Result<(Arc<ServerConfig>, SystemTime), EndpointError> {
    let certificate = authority.issue_server(names, now)?;
    let renew_at = now + certificate.not_after.duration_since(now).unwrap_or_default() / 2;
    let key = aws_lc_rs::sign::any_supported_type(&certificate.key())?;
    let certified = SingleCertAndKey::from(CertifiedKey::new(certificate.chain, key));
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::new(authority.clock()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier(slots, provider)?)
        .with_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![
        #[cfg(feature = "grpc")]
        super::http2::ALPN.to_vec(),
        b"http/1.1".to_vec(),
    ];
    // No session outlives its handshake: a resumed one would carry an old proof of identity.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), renew_at))
}

/// Accepts client certificates of every published root, and clients without one.
fn verifier(
    slots: &Slots,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, EndpointError> {
    let mut roots = RootCertStore::empty();
    for root in slots.roots() {
        roots.add(root.clone())?;
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()?)
}

#[cfg(test)]
mod tests;
