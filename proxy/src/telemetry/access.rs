//! The access log: one line for each connection when it has ended, on the target `access`, and one for each HTTP request,
//! on `access::request`.

use std::fmt;
use std::time::Duration;

use pillion_mesh::reason::{Kind, Reason};
use pillion_mesh::wire::{ConnectionRecord, Direction, FirstBytes, RequestRecord, TunnelRecord};
use pillion_mesh::words::{Bytes, Elapsed, Escaped};
use serde::Serialize;
use tracing::{info, warn};

/// Writes the line: a warning where something is wrong. In the JSON form the whole record goes along.
pub(super) fn log(record: &ConnectionRecord) {
    let line = Line(record);
    let whole = WholeRecord(record);
    if record.reason.is_some_and(|reason| reason.kind() == Kind::Ended) {
        info!(target: "access", record = %whole, "{line}");
    } else {
        warn!(target: "access", record = %whole, "{line}");
    }
}

/// The same for a request.
pub(super) fn log_request(record: &RequestRecord) {
    let line = RequestLine(record);
    let whole = WholeRecord(record);
    if record.reason.kind() == Kind::Ended {
        info!(target: "access::request", record = %whole, "{line}");
    } else {
        warn!(target: "access::request", record = %whole, "{line}");
    }
}

/// The record as JSON, made only when a line in the JSON form asks for it.
struct WholeRecord<'a, R>(&'a R);

impl<R: Serialize> fmt::Display for WholeRecord<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self.0).map_err(|_unserializable| fmt::Error)?)
    }
}

/// The record as a line for people.
pub(super) struct Line<'a>(pub(super) &'a ConnectionRecord);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        write!(f, "{:<8}  {} -> {}  ", record.direction.as_str(), record.client, Target(record))?;
        write_security(f, record)?;
        write!(
            f,
            "  {} to server, {} to client",
            Bytes(record.bytes_to_server),
            Bytes(record.bytes_to_client)
        )?;
        let elapsed = Elapsed(Duration::from_micros(record.duration_micros));
        write!(f, "  {elapsed}  id={}  ", record.id)?;
        write_end(f, record)?;
        write_shadow(f, record)
    }
}

/// The record of a request as a line for people.
pub(super) struct RequestLine<'a>(pub(super) &'a RequestRecord);

impl fmt::Display for RequestLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        write!(f, "{:<8}  {} -> {}", record.direction.as_str(), record.client, record.destination)?;
        write_service(f, record.service.as_deref())?;
        if let Some(upstream) = record.upstream.filter(|upstream| *upstream != record.destination) {
            write!(f, " at {upstream}")?;
        }
        let (host, path) = (record.host.as_deref().unwrap_or("?"), record.path.as_deref().unwrap_or(""));
        write!(f, "  {} {}{}  ", Escaped(&record.method), Escaped(host), Escaped(path))?;
        match record.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_str("no answer")?,
        }
        if let Some(status) = record.grpc_status {
            write!(f, " (gRPC {status})")?;
        }
        match &record.tls {
            Some(tls) => {
                f.write_str("  ")?;
                write_parties(f, &tls.peer, &tls.local)?;
            }
            None => f.write_str("  plaintext")?,
        }
        let (sent, answered) = (Bytes(record.bytes_to_server), Bytes(record.bytes_to_client));
        let elapsed = Elapsed(Duration::from_micros(record.duration_micros));
        write!(f, "  {sent} to server, {answered} to client  {elapsed}  id={}  ", record.connection)?;
        write!(f, "{}", record.reason)?;
        if record.reason == Reason::Completed {
            return Ok(());
        }
        write!(f, ": {}", record.reason.sentence())?;
        if let Some(detail) = &record.detail {
            write!(f, " {}.", Escaped(detail.trim_end_matches('.')))?;
        }
        if record.reason.kind() == Kind::Ended {
            return Ok(());
        }
        write!(f, " Cure: {}", record.reason.cure())
    }
}

/// Where the connection was going: the address dialled, the service there, the address that we dialled if another.
struct Target<'a>(&'a ConnectionRecord);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.0;
        match (record.original_destination, record.upstream) {
            (Some(dialled), Some(upstream)) if dialled != upstream => {
                write!(f, "{dialled}")?;
                write_service(f, record.service.as_deref())?;
                write!(f, " at {upstream}")
            }
            (Some(address), _) | (None, Some(address)) => {
                write!(f, "{address}")?;
                write_service(f, record.service.as_deref())
            }
            (None, None) => {
                f.write_str("?")?;
                write_service(f, record.service.as_deref())
            }
        }
    }
}

fn write_service(f: &mut fmt::Formatter<'_>, service: Option<&str>) -> fmt::Result {
    match service {
        Some(service) => write!(f, " ({})", Escaped(service)),
        None => Ok(()),
    }
}

fn write_security(f: &mut fmt::Formatter<'_>, record: &ConnectionRecord) -> fmt::Result {
    match (&record.tls, &record.first_bytes, record.direction) {
        (Some(tls), _, _) => {
            write_parties(f, &tls.peer, &tls.local)?;
            write!(f, "  {} {}", Escaped(&tls.version), Escaped(&tls.group))?;
            if tls.resumed {
                f.write_str(" resumed")?;
            }
            match record.tunnel {
                Some(TunnelRecord { id, new, .. }) => {
                    write!(f, "  tunnel {id}{}", if new { " (new)" } else { "" })
                }
                None => Ok(()),
            }
        }
        (None, Some(FirstBytes::Tls { mesh: true, .. }), _) => f.write_str("mTLS unfinished"),
        (None, Some(FirstBytes::Tls { mesh: false, .. }), _) => f.write_str("TLS of the app"),
        (None, Some(FirstBytes::Silent), _) => f.write_str("silent"),
        (None, Some(FirstBytes::Unseen) | None, Direction::Inbound) => f.write_str("unseen"),
        (None, Some(FirstBytes::Plaintext), _) | (None, _, Direction::Outbound) => {
            f.write_str("plaintext")?;
            match &record.looks_like {
                Some(looks_like) => write!(f, " ({})", Escaped(looks_like)),
                None => Ok(()),
            }
        }
    }
}

/// `mTLS spiffe://…`; `TLS` where we have shown nothing.
fn write_parties(f: &mut fmt::Formatter<'_>, peer: &str, local: &str) -> fmt::Result {
    let kind = if local.is_empty() { "TLS" } else { "mTLS" };
    write!(f, "{kind} {}", Escaped(if peer.is_empty() { "unverified" } else { peer }))
}

/// That a PeerAuthentication in dry run would have refused the connection.
fn write_shadow(f: &mut fmt::Formatter<'_>, record: &ConnectionRecord) -> fmt::Result {
    let Some(shadow) = record.mode.as_ref().and_then(|mode| mode.shadow.as_ref()) else { return Ok(()) };
    match shadow.refused {
        Some(reason) => {
            write!(f, "  dry run: {reason}, {} by {}", shadow.mode, Escaped(&shadow.because))
        }
        None => Ok(()),
    }
}

/// The reason; where something is wrong also what it means, what was seen, which policy decided (of a refusal, unless
/// the detail says it), and the cure.
fn write_end(f: &mut fmt::Formatter<'_>, record: &ConnectionRecord) -> fmt::Result {
    let reason = record.reason.unwrap_or(Reason::Internal);
    write!(f, "{reason}")?;
    if reason == Reason::Completed {
        return Ok(());
    }
    write!(f, ": {}", reason.sentence())?;
    if let Some(detail) = &record.detail {
        write!(f, " {}.", Escaped(detail.trim_end_matches('.')))?;
    }
    if reason.kind() == Kind::Ended {
        return Ok(());
    }
    let said = |because: &str| record.detail.as_ref().is_some_and(|detail| detail.contains(because));
    if let Some(mode) =
        record.mode.as_ref().filter(|mode| reason.kind() == Kind::Refused && !said(&mode.because))
    {
        write!(f, " {} by {}.", mode.mode, Escaped(&mode.because))?;
    }
    write!(f, " Cure: {}", reason.cure())
}
