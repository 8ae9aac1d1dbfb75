//! What only the web page asks ([`crate::page`]): how things stand in one answer, and which proxies there are to look at.

use hyper::http::request::Parts;
use pillion_mesh::wire::{ConnectionRecord, rfc3339};
use serde_json::{Value, json};

use super::AdminState;
use super::events::{connection, policy};
use super::pages::readiness_of;
use super::readiness::Readiness;
use super::server::Answer;

/// Connections in one answer; the newest.
const MOST: usize = 3_000;

/// `/page/state`.
pub(super) fn state(state: &AdminState, _: &Parts) -> Answer {
    let workload = &state.settings.workload;
    let credentials = state.identity.credentials.borrow().clone();
    let Readiness { ready, because } = readiness_of(state);
    let records = state.connections.all();
    let left_out = records.len().saturating_sub(MOST);
    let told = |record: &ConnectionRecord| connection(workload, record);
    let connections: Vec<Value> = records.iter().skip(left_out).map(told).collect();
    Answer::compact(&json!({
        "workload": {
            "name": workload.name,
            "namespace": workload.namespace,
            "identity": credentials.as_ref().map(|credentials| credentials.svid.id.as_str()),
        },
        "now": rfc3339::print(state.clock.now()),
        "ready": { "ready": ready, "because": because },
        "certificate": credentials.as_ref().map(|credentials| rfc3339::print(credentials.svid.not_after)),
        "policy": policy(&state.snapshot.borrow()),
        "connections": connections,
        "leftOut": left_out,
        "requests": state.connections.refused_requests(),
    }))
}

/// `/proxies`: this one.
pub(super) fn proxies(_: &AdminState, _: &Parts) -> Answer {
    Answer::json(&json!({ "proxies": [{ "proxy": 0, "url": null, "at": "", "down": null }] }))
}
