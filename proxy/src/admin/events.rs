//! `/events`: what happens here, told at once as server-sent events: connections when they are admitted and when they are over,
//! requests that are refused, new policies, new certificates. Each event names its proxy as number 0; the dashboard puts
//! its own number there.
//!
//! An onlooker that is slow loses events and is told so (`lost`): it then asks `/page/state` for how things stand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use pillion_mesh::edges::Edge;
use pillion_mesh::wire::{ConnectionRecord, rfc3339};
use pillion_mesh::workload::Workload;
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::AdminState;
use super::server::{Answer, Sender};
use crate::connections::{ConnectionTable, Event, MAX_ONLOOKERS};
use crate::live::{LiveSnapshot, Published};
use crate::page::frames::{EVENT_STREAM, frame, nothing};
use crate::tls::LiveCredentials;

/// How often the bytes of open connections are told.
const BEAT: Duration = Duration::from_secs(1);
/// Open connections whose bytes are told; the newest.
const MOVING: usize = 1_000;

/// `/events`.
pub(super) fn stream(state: &AdminState, _: &Parts) -> Answer {
    let Some(events) = state.connections.look_on() else {
        return Answer::problem(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MAX_ONLOOKERS} look on already; close a page or a dashboard"),
        );
    };
    let (answer, sender) = Answer::in_parts(EVENT_STREAM);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut snapshot = state.snapshot.clone();
    let policy = version(&snapshot.borrow_and_update());
    let onlooker = Onlooker {
        workload: state.settings.workload.clone(),
        connections: state.connections.clone(),
        events,
        snapshot,
        policy,
        credentials: state.identity.credentials.clone(),
        beat,
        moved: HashMap::new(),
        stop: state.drain.quit_token(),
    };
    tokio::spawn(onlooker.serve(sender));
    answer
}

/// Who looks on, and what it has been told.
struct Onlooker {
    workload: Workload,
    connections: Arc<ConnectionTable>,
    events: Receiver<Event>,
    snapshot: LiveSnapshot,
    policy: (u64, Option<String>),
    credentials: LiveCredentials,
    beat: Interval,
    moved: HashMap<u64, [u64; 2]>,
    stop: CancellationToken,
}

impl Onlooker {
    async fn serve(mut self, sender: Sender) {
        let stop = self.stop.clone();
        let mut next = frame("hello", &json!({ "proxy": 0, "version": env!("CARGO_PKG_VERSION") }));
        while sender.send(next).await {
            next = tokio::select! {
                event = self.next() => event,
                () = sender.gone() => return,
                () = stop.cancelled() => return,
            };
        }
    }

    async fn next(&mut self) -> Bytes {
        loop {
            let event = tokio::select! {
                event = self.events.recv() => Some(self.told(event)),
                Ok(()) = self.snapshot.changed() => self.new_policy(),
                Ok(()) = self.credentials.changed() => Some(self.new_certificate()),
                _ = self.beat.tick() => Some(self.moved()),
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn told(&self, event: Result<Event, RecvError>) -> Bytes {
        match event {
            Ok(Event::Connection(record)) => {
                let mut event = connection(&self.workload, &record);
                if let Some(fields) = event.as_object_mut() {
                    fields.insert("proxy".to_owned(), 0.into());
                }
                frame("connection", &event)
            }
            Ok(Event::Request(request)) => frame("request", &json!({ "proxy": 0, "request": *request })),
            Err(RecvError::Lagged(events)) => frame("lost", &json!({ "proxy": 0, "events": events })),
            // The table of connections outlives its onlookers.
            Err(RecvError::Closed) => nothing(),
        }
    }

    /// None where only addresses of names are new.
    fn new_policy(&mut self) -> Option<Bytes> {
        let published = self.snapshot.borrow_and_update().clone();
        let version = version(&published);
        let is_new = version != self.policy;
        self.policy = version;
        is_new.then(|| frame("policy", &json!({ "proxy": 0, "policy": policy(&published) })))
    }

    fn new_certificate(&mut self) -> Bytes {
        let credentials = self.credentials.borrow_and_update().clone();
        let svid = credentials.as_ref().map(|credentials| &credentials.svid);
        frame(
            "certificate",
            &json!({
                "proxy": 0,
                "identity": svid.map(|svid| svid.id.as_str()),
                "notAfter": svid.map(|svid| rfc3339::print(svid.not_after)),
            }),
        )
    }

    /// The bytes of open connections that have changed.
    fn moved(&mut self) -> Bytes {
        let now: HashMap<_, _> = self.connections.moved(MOVING).into_iter().collect();
        let changed: Vec<_> = now
            .iter()
            .filter(|(id, bytes)| self.moved.get(*id) != Some(*bytes))
            .map(|(id, [to_server, to_client])| json!([id, to_server, to_client]))
            .collect();
        self.moved = now;
        if changed.is_empty() { nothing() } else { frame("moved", &json!({ "proxy": 0, "moved": changed })) }
    }
}

/// A connection as the page takes it: the record, and the edge that it belongs to.
pub(super) fn connection(own: &Workload, record: &ConnectionRecord) -> Value {
    json!({ "connection": record, "edge": Edge::of(own, record) })
}

/// How the policies stand.
pub(super) fn policy(published: &Published) -> Value {
    json!({
        "version": published.version,
        "loaded": rfc3339::print(published.loaded),
        "lastError": published.last_error,
        "findings": published.snapshot.findings.len(),
    })
}

fn version(published: &Published) -> (u64, Option<String>) {
    (published.version, published.last_error.clone())
}
