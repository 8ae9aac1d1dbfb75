//! The walk through the mesh: seven steps, each with what is expected and what was seen.

use std::time::Duration;

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{ConnectionRecord, TlsRecord};

use super::page::{Page, Seen};
use super::stage::{Call, Stage};
use super::traffic::Traffic;
use super::walk::Walk;
use crate::lab::{LabError, Mesh, wait_until};
use crate::wiretap::{Segment, contains, hex_lines, payload};

/// How long a changed policy may take until both sidecars have it.
const RELOAD: Duration = Duration::from_secs(10);

/// How long a sidecar may take to log a connection that has ended, and an ear to have heard all of it.
const SETTLE: Duration = Duration::from_secs(10);

/// How many calls are made before a policy changes, and again after it.
const CALLS: usize = 20;

/// The file of the policy in the mesh folder.
pub(super) const POLICY: &str = "policy.yaml";

/// Tells all steps. Returns how many were as expected, of how many.
pub(super) fn tell(page: &Page, stage: &Stage) -> Result<(usize, usize), LabError> {
    let mut walk = Walk::new(page);
    walk.step(
        "The frontend calls the backend",
        &format!("The app calls {}; the sidecars do the rest.", stage.backend_url()),
        "200 by TLS 1.3, both sides proved by their SPIFFE IDs",
        || mutual_tls(stage),
    )?;
    walk.step(
        "That call, on the wire between the sidecars",
        &format!("Somebody listens in. The backend's answer says {:?}.", stage.marker),
        "ciphertext: the name is not to be found",
        || on_the_wire(stage),
    )?;
    walk.step(
        "The same call, between the backend's sidecar and its app",
        "The app neither needs nor has TLS.",
        "plaintext: the name is there to read",
        || on_the_app_leg(stage),
    )?;
    walk.step(
        "A client without a sidecar, while there is no policy",
        &format!("No policy means PERMISSIVE. legacy calls {}", stage.legacy_url()),
        "200, in plaintext",
        || stranger_is_accepted(stage),
    )?;
    walk.step(
        "A policy says STRICT, while the frontend goes on calling",
        "The file is written into the mesh folder that the sidecars watch.",
        "ECONNRESET for legacy; no failure for the frontend",
        || strict(stage),
    )?;
    walk.step(
        "The policy says DISABLE",
        "The frontend's sidecar knows the policy too, and sends no TLS there.",
        "200 for both, and the name is to be read on the wire",
        || disable(stage),
    )?;
    walk.step(
        "The policy is deleted",
        "As at the beginning: PERMISSIVE.",
        "200 for both, the frontend by TLS again",
        || deleted(stage),
    )?;
    Ok(walk.result())
}

fn mutual_tls(stage: &Stage) -> Result<Seen, LabError> {
    let call = stage.caller().call();
    let mut lines = vec![call.describe()];
    if call.failure.is_some() {
        return Ok(Seen { lines, met: false });
    }
    let tls = newest_handshake(stage)?;
    let met = tls.version == "TLSv1.3"
        && tls.peer == stage.frontend.spiffe_id()?
        && tls.local == stage.backend.spiffe_id()?;
    let handshake = Duration::from_micros(tls.handshake_micros).as_secs_f64() * 1e3;
    lines.push(format!("client  {}", tls.peer));
    lines.push(format!("server  {}", tls.local));
    lines.push(format!("{}, {}, {}, handshake {handshake:.1} ms", tls.version, tls.group, tls.cipher_suite));
    Ok(Seen { lines, met })
}

/// As the backend's sidecar logged it.
fn newest_handshake(stage: &Stage) -> Result<TlsRecord, LabError> {
    let record = stage.backend.wait_for_record(SETTLE, |record| record.tls.is_some())?;
    record.tls.ok_or_else(|| LabError::Impossible("the record lost its handshake".to_owned()))
}

fn on_the_wire(stage: &Stage) -> Result<Seen, LabError> {
    let (wire, _) = hear_whole_answer(stage)?;
    let bytes = payload(&wire, |_| true);
    let found = contains(&bytes, stage.marker.as_bytes());
    let mut lines = vec![found_in(found, bytes.len())];
    // The longest is the answer.
    let records = wire.iter().filter(|segment| is_application_data(segment));
    if let Some(segment) = records.max_by_key(|segment| segment.payload.len()) {
        lines.push(direction(segment));
        lines.extend(hex_lines(&segment.payload, 3));
    }
    Ok(Seen { lines, met: !found })
}

fn on_the_app_leg(stage: &Stage) -> Result<Seen, LabError> {
    let (_, app_leg) = hear_whole_answer(stage)?;
    let bytes = payload(&app_leg, |_| true);
    let found = contains(&bytes, stage.marker.as_bytes());
    let mut lines = vec![found_in(found, bytes.len())];
    lines.extend(show_marker(stage, &app_leg));
    Ok(Seen { lines, met: found })
}

/// What was heard on both legs, when the ears have caught up: the app's leg has carried the answer, and the wire a TLS
/// record that can hold it, or, if something is wrong, the answer itself.
fn hear_whole_answer(stage: &Stage) -> Result<(Vec<Segment>, Vec<Segment>), LabError> {
    let marker = stage.marker.as_bytes();
    wait_until(SETTLE, "the backend's answer on both legs", || {
        let (wire, app_leg) = (stage.heard_on_wire(), stage.heard_on_app_leg());
        let answer = app_leg.iter().find(|segment| contains(&segment.payload, marker));
        let whole = answer.is_some_and(|answer| {
            wire.iter().any(|segment| {
                (is_application_data(segment) && segment.payload.len() > answer.payload.len())
                    || contains(&segment.payload, marker)
            })
        });
        Ok(whole.then_some((wire, app_leg)))
    })
}

/// A call of the frontend and what was heard of it on the wire once `heard` is content; nothing where the call failed.
fn call_and_listen(
    stage: &Stage,
    what: &str,
    heard: impl Fn(&[Segment]) -> bool,
) -> Result<(Call, Vec<Segment>), LabError> {
    stage.listen_afresh();
    let call = stage.caller().call();
    if call.failure.is_some() {
        return Ok((call, Vec::new()));
    }
    let wire = wait_until(SETTLE, what, || {
        let wire = stage.heard_on_wire();
        Ok(heard(&wire).then_some(wire))
    })?;
    Ok((call, wire))
}

fn stranger_is_accepted(stage: &Stage) -> Result<Seen, LabError> {
    let call = stage.call_as_legacy();
    Ok(Seen { lines: vec![call.describe()], met: call.failure.is_none() })
}

fn strict(stage: &Stage) -> Result<Seen, LabError> {
    let traffic = Traffic::start(stage.caller());
    wait_for_calls(&traffic, CALLS)?;
    set_policy(stage, "STRICT")?;
    let stranger = stage.call_as_legacy();
    wait_for_calls(&traffic, traffic.made() + CALLS)?;
    let count = traffic.stop();
    let refused = |record: &ConnectionRecord| record.reason == Some(Reason::StrictPlaintext);
    let reason = stage.backend.wait_for_record(SETTLE, refused)?.reason.unwrap_or(Reason::Internal);
    let mut lines = vec![
        format!("legacy    {}", stranger.describe()),
        format!("          the backend's sidecar: {reason}."),
        format!("          {}", reason.sentence()),
        format!(
            "frontend  {} calls before, during and after the change: {} failed",
            count.made(),
            count.failed
        ),
    ];
    lines.extend(count.first_failure.as_ref().map(|failure| format!("          {failure}")));
    Ok(Seen { lines, met: stranger.outcome == "ECONNRESET" && count.failed == 0 })
}

fn disable(stage: &Stage) -> Result<Seen, LabError> {
    set_policy(stage, "DISABLE")?;
    let readable = |wire: &[Segment]| contains(&payload(wire, |_| true), stage.marker.as_bytes());
    let (call, wire) = call_and_listen(stage, "the backend's name on the wire", readable)?;
    let stranger = stage.call_as_legacy();
    let met = stranger.failure.is_none() && readable(&wire);
    let mut lines = vec![
        format!("legacy    {}", stranger.describe()),
        format!("frontend  {}", call.describe()),
        found_in(readable(&wire), payload(&wire, |_| true).len()),
    ];
    lines.extend(show_marker(stage, &wire));
    Ok(Seen { lines, met })
}

fn deleted(stage: &Stage) -> Result<Seen, LabError> {
    stage.lab.mesh().remove(POLICY)?;
    wait_for_mode(stage, "PERMISSIVE")?;
    let (call, wire) = call_and_listen(stage, "an answer by TLS on the wire", is_tls_both_ways)?;
    let stranger = stage.call_as_legacy();
    let bytes = payload(&wire, |_| true);
    let found = contains(&bytes, stage.marker.as_bytes());
    let lines = vec![
        format!("legacy    {}", stranger.describe()),
        format!("frontend  {}", call.describe()),
        found_in(found, bytes.len()),
    ];
    Ok(Seen { lines, met: stranger.failure.is_none() && is_tls_both_ways(&wire) && !found })
}

/// A ClientHello from one side (content type 22, RFC 8446 5.1), and application data from the other.
fn is_tls_both_ways(wire: &[Segment]) -> bool {
    let hello = wire.iter().find(|segment| segment.payload.starts_with(&[22, 3]));
    hello.is_some_and(|hello| {
        wire.iter().any(|segment| segment.from == hello.to && is_application_data(segment))
    })
}

/// Whether it begins with a record of application data (content type 23, RFC 8446 5.1).
fn is_application_data(segment: &Segment) -> bool {
    segment.payload.starts_with(&[23, 3, 3])
}

fn set_policy(stage: &Stage, mode: &str) -> Result<(), LabError> {
    stage.lab.mesh().write(POLICY, &Mesh::peer_authentication("backend", Some("backend"), mode))?;
    wait_for_mode(stage, mode)
}

/// Until both sidecars have the policy: the backend's decides what it accepts, the frontend's what it sends.
fn wait_for_mode(stage: &Stage, mode: &str) -> Result<(), LabError> {
    stage.backend.wait_for_mode(RELOAD, stage.backend_port(), mode)?;
    stage.frontend.wait_for_endpoint_mode(RELOAD, "backend", mode)
}

fn wait_for_calls(traffic: &Traffic, calls: usize) -> Result<(), LabError> {
    wait_until(SETTLE, &format!("{calls} calls of the frontend"), || {
        Ok((traffic.made() >= calls).then_some(()))
    })
}

fn found_in(found: bool, bytes: usize) -> String {
    format!("the name is {} in {bytes} bytes", if found { "found" } else { "not found" })
}

fn direction(segment: &Segment) -> String {
    format!("{} → {}, {} bytes:", segment.from, segment.to, segment.payload.len())
}

/// The lines of the packet that hold the marker, and the one before.
fn show_marker(stage: &Stage, segments: &[Segment]) -> Vec<String> {
    let marker = stage.marker.as_bytes();
    let Some(segment) = segments.iter().find(|segment| contains(&segment.payload, marker)) else {
        return Vec::new();
    };
    let place = segment.payload.windows(marker.len()).position(|window| window == marker).unwrap_or(0);
    let from = (place / 16).saturating_sub(1) * 16;
    let mut lines = vec![direction(segment)];
    lines.extend(hex_lines(segment.payload.get(from..).unwrap_or_default(), 4));
    lines
}

impl Call {
    fn describe(&self) -> String {
        match &self.failure {
            None => self.outcome.clone(),
            Some(failure) => format!("{}: {failure}", self.outcome),
        }
    }
}
