//! Reads out of a finished handshake what the connection record shows.

use std::time::Duration;

use pillion_mesh::reason::Reason;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::svid;
use pillion_mesh::wire::TlsRecord;
use rustls::{CommonState, HandshakeKind, NamedGroup, ProtocolVersion};

use super::{Handshake, HandshakeError};

/// What was negotiated and who the peer is.
///
/// # Errors
/// `Internal` when rustls does not say; it always does after a handshake that our verifier passed.
pub(super) fn record(
    connection: &CommonState,
    local: &SpiffeId,
    took: Duration,
) -> Result<Handshake, HandshakeError> {
    let unknown = |what: &str| HandshakeError {
        reason: Reason::Internal,
        detail: format!("the TLS library does not say {what} of a finished handshake"),
    };
    let chain = connection.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or_else(|| unknown("the certificate"))?;
    let peer = svid::check_leaf(leaf)
        .map_err(|error| HandshakeError { reason: Reason::SvidInvalid, detail: error.to_string() })?;
    let suite = connection.negotiated_cipher_suite().ok_or_else(|| unknown("the cipher suite"))?;
    let group = connection.negotiated_key_exchange_group().ok_or_else(|| unknown("the group"))?;
    Ok(Handshake {
        record: TlsRecord {
            peer: peer.id.to_string(),
            local: local.to_string(),
            version: version_name(connection.protocol_version().ok_or_else(|| unknown("the version"))?),
            cipher_suite: suite_name(&format!("{:?}", suite.suite())),
            group: group_name(group.name()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            handshake_micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            peer_serial: peer.serial,
            peer_not_after: peer.not_after,
        },
        peer: peer.id,
        chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
    })
}

fn version_name(version: ProtocolVersion) -> String {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
        ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
        other => format!("{other:?}"),
    }
}

/// IANA writes `TLS_AES_128_GCM_SHA256` where rustls writes `TLS13_AES_128_GCM_SHA256`.
fn suite_name(rustls_name: &str) -> String {
    match rustls_name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => rustls_name.to_owned(),
    }
}

/// IANA writes `x25519` where rustls writes `X25519`; the others are the same.
fn group_name(group: NamedGroup) -> String {
    match group {
        NamedGroup::X25519 => "x25519".to_owned(),
        NamedGroup::X448 => "x448".to_owned(),
        other => format!("{other:?}"),
    }
}
