//! Reads out of a finished handshake what the connection record shows.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{TlsMode, TlsRecord};
use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion};

use super::ciphers::iana_name;
use super::failure::Role;
use super::{Credentials, Handshake, HandshakeError, Proof};

/// What was negotiated and who the peer is, which `credentials` have verified.
///
/// # Errors
/// `Internal` when rustls does not say; it always does after a handshake that our verifier passed.
pub(super) fn record(
    connection: &CommonState,
    credentials: &Credentials,
    peer: Role,
    took: Duration,
) -> Result<Handshake, HandshakeError> {
    let chain = connection.peer_certificates().unwrap_or_default();
    let holder = credentials
        .verifier
        .holder(chain, peer)
        .map_err(|error| HandshakeError { reason: error.reason, detail: error.detail })?;
    let svid = &holder.svid;
    let parties = Parties {
        mode: TlsMode::IstioMutual,
        peer: svid.id.to_string(),
        local: credentials.svid.id.to_string(),
        peer_serial: svid.serial.clone(),
        peer_not_after: svid.not_after,
        local_leaf: Some((credentials.svid.serial.clone(), credentials.svid.not_after)),
    };
    Ok(Handshake {
        record: parties.record(connection, took)?,
        proof: Proof::new(&holder, peer, credentials),
        peer: svid.id.clone(),
    })
}

/// Who has proved what to whom.
pub(super) struct Parties {
    pub(super) mode: TlsMode,
    pub(super) peer: String,
    pub(super) local: String,
    pub(super) peer_serial: String,
    pub(super) peer_not_after: SystemTime,
    /// The serial number of the certificate that we have shown, and when it ends.
    pub(super) local_leaf: Option<(String, SystemTime)>,
}

impl Parties {
    /// With what was negotiated.
    ///
    /// # Errors
    /// `Internal` when rustls does not say; it always does after a handshake.
    pub(super) fn record(
        self,
        connection: &CommonState,
        took: Duration,
    ) -> Result<TlsRecord, HandshakeError> {
        let suite = connection.negotiated_cipher_suite().ok_or_else(|| unknown("the cipher suite"))?;
        let (local_serial, local_not_after) = self.local_leaf.unzip();
        let group = connection.negotiated_key_exchange_group().ok_or_else(|| unknown("the group"))?;
        Ok(TlsRecord {
            mode: self.mode,
            peer: self.peer,
            local: self.local,
            version: version_name(connection.protocol_version().ok_or_else(|| unknown("the version"))?),
            cipher_suite: suite_name(suite.suite()),
            group: group_name(group.name()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            handshake_micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            peer_serial: self.peer_serial,
            peer_not_after: self.peer_not_after,
            local_serial,
            local_not_after,
        })
    }
}

fn unknown(what: &str) -> HandshakeError {
    HandshakeError {
        reason: Reason::Internal,
        detail: format!("the TLS library does not say {what} of a finished handshake"),
    }
}

fn version_name(version: ProtocolVersion) -> Cow<'static, str> {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2".into(),
        ProtocolVersion::TLSv1_3 => "TLSv1.3".into(),
        other => format!("{other:?}").into(),
    }
}

fn suite_name(suite: CipherSuite) -> Cow<'static, str> {
    iana_name(suite).map_or_else(|| format!("{suite:?}").into(), Cow::from)
}

/// IANA writes `x25519` where rustls writes `X25519`; the others are the same.
fn group_name(group: NamedGroup) -> Cow<'static, str> {
    match group {
        NamedGroup::X25519 => "x25519".into(),
        NamedGroup::X448 => "x448".into(),
        other => other.as_str().map_or_else(|| format!("{other:?}").into(), Cow::from),
    }
}
