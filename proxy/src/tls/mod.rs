//! Mutual TLS between sidecars, and TLS to servers outside the mesh: what this proxy proves of itself, and what it asks of
//! a peer before it believes it.
//!
//! With `identity`'s connection to the CA the only room that names rustls. Leaves where certificates come from to
//! `identity`, whether a connection is TLS at all to `inbound` and `outbound`, and what a good leaf is to
//! `pillion_mesh::svid`.

mod bounded;
mod bundles;
mod ciphers;
pub(crate) mod client;
mod clock;
mod credentials;
mod failure;
mod handshake;
mod judged;
mod key_log;
pub(crate) mod origination;
mod path;
mod pkcs8;
mod proof;
mod revocations;
pub(crate) mod server;
mod sessions;
mod stream;
mod verify;

use std::sync::{Arc, LazyLock};

use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::TlsRecord;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;

pub(crate) use bundles::{BundleError, Bundles, Root};
pub(crate) use ciphers::{Ciphers, Group, Suite, UnknownCipher};
pub(crate) use clock::Clock;
pub(crate) use credentials::{Credentials, CredentialsError};
pub(crate) use failure::told;
pub(crate) use key_log::KeyLogFile;
pub(crate) use proof::{Proof, no_longer_proved};
pub(crate) use revocations::{Revocations, Revoked};
pub(crate) use sessions::Door;
pub(crate) use stream::TlsStream;
pub(crate) use verify::{ChainError, judge_chain, server_verifier};

/// How TLS is spoken, in the mesh and to servers outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    /// The oldest version that is spoken, as client and as server. The newest is always 1.3.
    pub(crate) min_version: TlsVersion,
    /// Which cipher suites and groups peers of the mesh may negotiate with us.
    pub(crate) ciphers: Ciphers,
    /// Whether peers of the mesh may resume sessions, and we theirs.
    pub(crate) resumption: bool,
    /// Where the secrets of sessions are written, which gives them away; `None` is nowhere.
    pub(crate) key_log: Option<&'static KeyLogFile>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { min_version: TlsVersion::Tls12, ciphers: Ciphers::default(), resumption: true, key_log: None }
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TlsVersion {
    /// RFC 5246. rustls has of it only ECDHE with AEAD ciphers.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The newest credentials; none before the first certificate arrived. Each change is a new value, never a mutation,
/// so a connection keeps those that it began with.
pub(crate) type LiveCredentials = watch::Receiver<Option<Arc<Credentials>>>;

/// A finished handshake with a peer that is who it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// The peer's verified SPIFFE ID.
    pub(crate) peer: SpiffeId,
    /// What was negotiated and proved, for the connection record.
    pub(crate) record: TlsRecord,
    /// What it was proved by.
    pub(crate) proof: Proof,
}

/// Why there is no handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub(crate) struct HandshakeError {
    /// The stable reason for log and metric.
    pub(crate) reason: Reason,
    /// What was expected and what was seen, with both identities where they are known.
    pub(crate) detail: String,
}

/// The credentials that may be shown by this clock.
///
/// # Errors
/// Why there are none, in words.
pub(crate) fn usable(current: Option<Arc<Credentials>>, clock: &Clock) -> Result<Arc<Credentials>, String> {
    let current = current.ok_or_else(|| "there is no certificate yet".to_owned())?;
    current.unusable_at(clock.now()).map_or(Ok(current), Err)
}

impl TlsSettings {
    /// For a rustls builder, newest first.
    pub(crate) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static FROM_12: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        static ONLY_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
        match self.min_version {
            TlsVersion::Tls12 => &FROM_12,
            TlsVersion::Tls13 => &ONLY_13,
        }
    }

    /// [`provider`] with what may be negotiated in the mesh.
    fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = provider();
        self.ciphers.narrow(Arc::make_mut(&mut provider));
        provider
    }

    fn describe(self) -> String {
        let versions = match self.min_version {
            TlsVersion::Tls12 => "TLS 1.2 and 1.3",
            TlsVersion::Tls13 => "TLS 1.3 only",
        };
        format!("{versions}{}", self.ciphers)
    }
}

/// aws-lc-rs with its default suites and groups, X25519MLKEM768 first. Handed to every rustls builder, so that no
/// process-wide default decides.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

#[cfg(test)]
mod tests;
