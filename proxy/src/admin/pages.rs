//! The pages and buttons. Each is a view of the state, made when it is asked for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::ACCEPT;
use hyper::http::request::Parts;
use pillion_mesh::ask::{self, Question};
use pillion_mesh::describe;
use pillion_mesh::exposition::Format;
use pillion_mesh::policy::mode::PortDecision;
use pillion_mesh::proxy_config::{Decided, Endpoints, Listener, Listeners, PortMode, Shadow, Side};
use pillion_mesh::wire::{Direction, rfc3339};
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::readiness::{self, Facts, Readiness};
use super::server::Answer;
use super::{AdminState, connections};
use crate::telemetry::Scraped;
use crate::tls::Credentials;

/// `/ready`.
pub(super) fn ready(state: &AdminState, _: &Parts) -> Answer {
    let Readiness { ready, because } = readiness_of(state);
    Answer::json(&json!({ "ready": ready, "because": because })).with_status(status_of(ready))
}

/// `/healthz/ready`.
pub(super) fn healthz(state: &AdminState, _: &Parts) -> Answer {
    let Readiness { ready, because } = readiness_of(state);
    let word = if ready { "ready" } else { "not ready" };
    Answer::text(format!("{word}: {because}")).with_status(status_of(ready))
}

pub(super) fn readiness_of(state: &AdminState) -> Readiness {
    let status = state.identity.status();
    readiness::judge(&Facts {
        credentials: credentials(state).as_deref(),
        last_error: status.fault(),
        fail_before: state.settings.fail_before,
        missing: state.gateway.missing().as_ref(),
        draining: state.drain.is_draining(),
        now: state.clock.now(),
    })
}

fn status_of(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn credentials(state: &AdminState) -> Option<Arc<Credentials>> {
    state.identity.credentials.borrow().clone()
}

/// `/config_dump`.
pub(super) fn config_dump(state: &AdminState, _: &Parts) -> Answer {
    let published = state.snapshot.borrow().clone();
    Answer::json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "settings": state.settings.to_json(),
        "policy": {
            "version": published.version,
            "loaded": rfc3339::print(published.loaded),
            "lastError": published.last_error,
            "findings": published.snapshot.findings,
        },
        "capture": connections::capture_state(state),
    }))
}

/// `/certs`.
pub(super) fn certs(state: &AdminState, _: &Parts) -> Answer {
    let credentials = credentials(state);
    let now = state.clock.now();
    let bundles: serde_json::Map<_, _> = credentials
        .iter()
        .flat_map(|credentials| credentials.bundles().iter())
        .map(|(trust_domain, roots)| {
            let roots: Vec<_> = roots
                .iter()
                .map(|root| {
                    let mut page = certificate(&root.der);
                    if let Some(fields) = page.as_object_mut() {
                        fields.insert("valid".to_owned(), root.is_valid_at(now).into());
                    }
                    page
                })
                .collect();
            (trust_domain.as_str().to_owned(), Value::from(roots))
        })
        .collect();
    let status = state.identity.status();
    Answer::json(&json!({
        "now": rfc3339::print(now),
        "identity": credentials.as_ref().map(|credentials| credentials.svid.id.as_str()),
        "valid": credentials.as_ref().is_some_and(|credentials| credentials.is_valid_at(now)),
        "chain": credentials.as_deref().map(chain).unwrap_or_default(),
        "bundles": bundles,
        "renewals": {
            "succeeded": status.succeeded,
            "failed": status.failed,
            "lastError": status.last_error,
            "next": status.next_attempt.map(rfc3339::print),
        },
        "revocationLists": state.settings.crl.as_ref().map(|path| json!({
            "path": path,
            "holds": status.lists.as_ref().map(|lists| lists.describe()),
            "nextUpdate": status.lists.as_ref().and_then(|lists| lists.next_update).map(rfc3339::print),
            "lastError": status.lists_error,
        })),
        "federation": state.identity.federation().iter()
            .map(|(trust_domain, fault)| (trust_domain.to_string(), json!({ "lastError": fault })))
            .collect::<serde_json::Map<_, _>>(),
        "destinationRuleFiles": state.originator.files(),
    }))
}

/// The certificates that peers are shown, leaf first.
fn chain(credentials: &Credentials) -> Vec<Value> {
    credentials.chain.iter().map(|der| certificate(der)).collect()
}

fn certificate(der: &[u8]) -> Value {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return json!({ "subject": "unreadable" });
    };
    let validity = certificate.validity();
    // Roots of one CA share their name; the key identifiers (RFC 5280 4.2.1.1, 4.2.1.2) tell them apart.
    let (mut own_key, mut signing_key) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => own_key = Some(hex(key.0)),
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                signing_key = authority.key_identifier.as_ref().map(|key| hex(key.0));
            }
            _ => {}
        }
    }
    json!({
        "subject": certificate.subject().to_string(),
        "issuer": certificate.issuer().to_string(),
        "serial": hex(certificate.raw_serial()),
        "subjectKeyId": own_key,
        "authorityKeyId": signing_key,
        "notBefore": rfc3339::print(validity.not_before.to_datetime().into()),
        "notAfter": rfc3339::print(validity.not_after.to_datetime().into()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `/listeners`.
pub(super) fn listeners(state: &AdminState, _: &Parts) -> Answer {
    let snapshot = state.snapshot.borrow().snapshot.clone();
    let bound = &state.bound;
    let listener = |direction: Side, address: &SocketAddr, what: &str| Listener {
        direction,
        address: *address,
        kind: what.to_owned(),
        fault: None,
    };
    let listeners = (bound.inbound.iter().map(|(address, what)| listener(Side::Inbound, address, what)))
        .chain(bound.outbound.iter().map(|(address, what)| listener(Side::Outbound, address, what)))
        .chain(state.gateway.list().into_iter().map(|port| Listener {
            fault: port.fault,
            ..listener(Side::Gateway, &port.address, &format!("gateway port {}", port.port))
        }))
        .chain([
            listener(Side::Own, &bound.admin, "admin"),
            listener(Side::Own, &bound.readiness, "readiness"),
            listener(Side::Own, &bound.metrics, "metrics"),
        ])
        .collect();
    let decided = |decision: &PortDecision, shadow: Option<&PortDecision>| Decided {
        mode: decision.mode,
        because: decision.because.clone(),
        shadow: shadow.map(|PortDecision { mode, because }| Shadow { mode: *mode, because: because.clone() }),
    };
    let modes = &snapshot.modes;
    let ports = ports_of_interest(state).into_iter().map(|port| PortMode {
        port,
        protocol: snapshot.protocol(port).as_str().to_owned(),
        decided: decided(modes.for_port(port), modes.shadow_for_port(port)),
    });
    Answer::json(&Listeners {
        listeners,
        ports: ports.collect(),
        other_ports: decided(modes.for_other_ports(), modes.shadow_for_other_ports()),
    })
}

/// The app's ports that settings, resources or open connections name.
fn ports_of_interest(state: &AdminState) -> BTreeSet<u16> {
    let forwards = state.settings.inbound.listeners.iter().map(|listener| listener.forward.port());
    let snapshot = state.snapshot.borrow();
    let declared = snapshot.snapshot.own_ports().map(|(port, _)| port);
    let named = snapshot.snapshot.modes.ports().map(|(port, _)| port);
    let open = state.connections.list();
    let in_use = open
        .iter()
        .filter(|record| record.direction == Direction::Inbound)
        .filter_map(|record| record.original_destination)
        .map(|address| address.port());
    forwards.chain(declared).chain(named).chain(in_use).collect()
}

/// `/endpoints`.
pub(super) fn endpoints(state: &AdminState, _: &Parts) -> Answer {
    Answer::json(&Endpoints::of(&state.snapshot.borrow().snapshot))
}

/// `/describe`.
pub(super) fn describe(state: &AdminState, _: &Parts) -> Answer {
    let published = state.snapshot.borrow().clone();
    Answer::json(&describe::describe(
        &published.snapshot,
        &state.settings.workload,
        &ports_of_interest(state),
    ))
}

/// `/authz`: the table, or with a caller in the query the answer.
pub(super) fn authz(state: &AdminState, request: &Parts) -> Answer {
    let published = state.snapshot.borrow().clone();
    let (snapshot, workload) = (&published.snapshot, &state.settings.workload);
    let query = request.uri.query().unwrap_or_default();
    if query.is_empty() {
        return Answer::json(&ask::table(snapshot, workload));
    }
    let parts = match decoded(query) {
        Ok(parts) => parts,
        Err(broken) => return broken,
    };
    match Question::parse(parts) {
        Ok(question) => Answer::json(&ask::ask(snapshot, workload, &question)),
        Err(fault) => Answer::problem(StatusCode::BAD_REQUEST, fault.to_string()),
    }
}

/// Names and values of a query; the answer where an escape is broken.
pub(super) fn decoded(query: &str) -> Result<Vec<(String, String)>, Answer> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((percent_decoded(name)?, percent_decoded(value)?))
    };
    let pairs: Option<_> = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
    pairs.ok_or_else(|| {
        Answer::problem(
            StatusCode::BAD_REQUEST,
            "the query has a `%` without two hexadecimal digits behind it",
        )
    })
}

/// `/stats/prometheus`.
pub(super) fn metrics(state: &AdminState, request: &Parts) -> Answer {
    let format = Format::of_accept(request.headers.get(ACCEPT).and_then(|value| value.to_str().ok()));
    let credentials = credentials(state);
    let status = state.identity.status();
    let root_not_after = credentials.as_ref().and_then(|credentials| {
        let roots = credentials.bundles().roots(&state.settings.workload.trust_domain)?;
        roots.iter().map(|root| root.not_after).min()
    });
    let openmetrics = state.telemetry.encode(&Scraped {
        leaf_not_after: credentials.as_ref().map(|credentials| credentials.svid.not_after),
        root_not_after,
        crl_next_update: status.lists.as_ref().and_then(|lists| lists.next_update),
        renewals_succeeded: status.succeeded,
        renewals_failed: status.failed,
        open: state.connections.list(),
    });
    Answer::page(format.content_type(), format.render(openmetrics))
}

/// `POST /logging?level=`.
pub(super) fn logging(state: &AdminState, request: &Parts) -> Answer {
    let query = request.uri.query().unwrap_or_default();
    let level = query.split('&').find_map(|pair| pair.strip_prefix("level=")).map(percent_decoded);
    let Some(Some(level)) = level else {
        return Answer::problem(
            StatusCode::BAD_REQUEST,
            "expected ?level=debug, or by module ?level=warn,access=info",
        );
    };
    if let Err(fault) = state.log_level.set(&level) {
        return Answer::problem(StatusCode::BAD_REQUEST, fault.to_string());
    }
    tracing::info!(%level, "log level changed through the admin API");
    Answer::json(&json!({ "level": state.log_level.current().unwrap_or(level) }))
}

/// A query's value with its escapes resolved; `None` where one is broken.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match first {
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                (u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, tail)
            }
            byte => (*byte, tail),
        };
        decoded.push(byte);
        rest = tail;
    }
    String::from_utf8(decoded).ok()
}

/// `POST /drain`.
pub(super) fn drain(state: &AdminState, _: &Parts) -> Answer {
    state.drain.start();
    Answer::json(&json!({ "draining": true, "openConnections": state.connections.len() }))
}

/// `POST /quitquitquit`.
pub(super) fn quit(state: &AdminState, _: &Parts) -> Answer {
    let drain = state.drain.clone();
    Answer::json(&json!({ "quitting": true, "openConnections": state.connections.len() }))
        .and_then(move || drain.quit())
}
