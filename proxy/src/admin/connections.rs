//! The pages on connections: those that are open and those that are over, the story of one, who talks to whom, and the switch
//! by which plaintext is kept.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use hyper::StatusCode;
use hyper::http::request::Parts;
use pillion_mesh::duration;
use pillion_mesh::edges::Edges;
use pillion_mesh::explain::explain as tell;
use pillion_mesh::proxy_config::Connections;
use pillion_mesh::top::Traffic;
use pillion_mesh::wire::{ConnectionRecord, RequestRecord, rfc3339};
use serde_json::{Value, json};
use tracing::warn;

use super::AdminState;
use super::pages::decoded;
use super::server::Answer;
use crate::net::capture::{CONNECTIONS, KEPT, LONGEST};

/// `/connections`.
pub(super) fn list(state: &AdminState, request: &Parts) -> Answer {
    let known = &state.connections;
    let asked = match asked(request) {
        Err(answer) => return answer,
        Ok(None) => "open".to_owned(),
        Ok(Some((name, value))) if name == "state" => value,
        Ok(Some(_)) => String::new(),
    };
    let (connections, requests) = match asked.as_str() {
        "open" => (known.list(), None),
        "ended" => (known.ended(), None),
        "refused" => (known.refused(), Some(known.refused_requests())),
        "all" => (known.all(), None),
        _ => return wrong("expected ?state= with open, ended, refused or all"),
    };
    let workload = (&state.settings.workload).into();
    let page = json!(Connections { now: SystemTime::now(), workload, connections });
    Answer::json(&with_requests(page, requests))
}

/// The page, with the requests that were refused where they are asked for.
fn with_requests(mut page: Value, requests: Option<Vec<RequestRecord>>) -> Value {
    if let (Some(fields), Some(requests)) = (page.as_object_mut(), requests) {
        fields.insert("requests".to_owned(), json!(requests));
    }
    page
}

/// `/traffic`.
pub(super) fn traffic(state: &AdminState, request: &Parts) -> Answer {
    let since = match asked(request) {
        Err(answer) => return answer,
        Ok(None) => None,
        Ok(Some((name, time))) => match rfc3339::parse(&time) {
            Ok(since) if name == "since" => Some(since),
            _ => return wrong("expected ?since= with a time, such as 2026-11-20T12:00:00.000Z"),
        },
    };
    // Taken first: what ends while the records are gathered is told again next time, and not passed over.
    let now = SystemTime::now();
    let (known, own) = (&state.connections, &state.settings.workload);
    Answer::json(&Traffic::of(own, &known.all(), &known.refused_requests(), since, now))
}

/// `/explain`.
pub(super) fn explain(state: &AdminState, request: &Parts) -> Answer {
    let which = match asked(request) {
        Err(answer) => return answer,
        Ok(None) => Which::LastRefused,
        Ok(Some((name, value))) => match Which::read(&name, &value) {
            Some(which) => which,
            None => {
                return wrong(
                    "expected ?id=NUMBER, ?client=ADDRESS with or without a port, or ?last=refused",
                );
            }
        },
    };
    match which.of(state) {
        Some(record) => Answer::json(&tell(&record, &refused_on(state, record.id))),
        None => Answer::unknown(which.unknown()),
    }
}

/// `/edges`.
pub(super) fn edges(state: &AdminState, _: &Parts) -> Answer {
    Answer::json(&Edges::seen_by(&state.settings.workload, &state.connections.all()))
}

/// `/migration`.
pub(super) fn migration(state: &AdminState, _: &Parts) -> Answer {
    let published = state.snapshot.borrow().clone();
    Answer::json(&state.connections.watched(&state.settings.workload, &published.snapshot))
}

/// `POST /capture`.
pub(super) fn capture(state: &AdminState, request: &Parts) -> Answer {
    if !state.settings.capture_allowed {
        let detail = "plaintext is kept for nobody here: admin.capture is not true; set it, or start with --admin-capture true, \
                      if whoever reaches this API may read what apps say";
        return Answer::problem(StatusCode::FORBIDDEN, detail);
    }
    let period = match asked(request) {
        Err(answer) => return answer,
        Ok(Some((name, value))) if name == "for" => period(&value),
        Ok(_) => None,
    };
    let capture = state.connections.capture();
    match period {
        None => {
            let most = duration::print(LONGEST);
            return wrong(&format!("expected ?for= with a duration of at most {most}, or 0 to stop"));
        }
        Some(Duration::ZERO) => {
            capture.stop();
            warn!(
                "capture of plaintext is off, as asked through the admin API; what was kept stays with its connections"
            );
        }
        Some(period) => {
            capture.begin(Instant::now(), period);
            warn!(
                "PLAINTEXT IS CAPTURED for {}, as asked through the admin API: of up to {CONNECTIONS} new connections the \
                 first {KEPT} bytes each way are kept in memory, and whoever reaches the admin API can read them; \
                 POST /capture?for=0 stops it",
                duration::print(period)
            );
        }
    }
    Answer::json(&json!({ "capture": capture_state(state) }))
}

/// How long, for how many connections and how much of each plaintext is kept; none where it is not.
pub(super) fn capture_state(state: &AdminState) -> Option<Value> {
    let now = Instant::now();
    let on = state.connections.capture().state(now)?;
    let until = SystemTime::now() + on.until.saturating_duration_since(now);
    Some(json!({ "until": rfc3339::print(until), "connectionsLeft": on.left, "bytesEachWay": KEPT }))
}

/// `0` too; none where it is no period, or a longer one than there is.
fn period(text: &str) -> Option<Duration> {
    if ["0", "0s"].contains(&text) {
        return Some(Duration::ZERO);
    }
    duration::parse(text).ok().filter(|period| *period <= LONGEST)
}

/// The one part that the query has, if it has any.
fn asked(request: &Parts) -> Result<Option<(String, String)>, Answer> {
    let mut parts = decoded(request.uri.query().unwrap_or_default())?.into_iter();
    match (parts.next(), parts.next()) {
        (_, Some(_)) => Err(wrong("expected one part in the query")),
        (part, None) => Ok(part),
    }
}

fn wrong(detail: &str) -> Answer {
    Answer::problem(StatusCode::BAD_REQUEST, detail)
}

fn refused_on(state: &AdminState, connection: u64) -> Vec<RequestRecord> {
    let mut requests = state.connections.refused_requests();
    requests.retain(|request| request.connection == connection);
    requests
}

/// Which connection is meant.
enum Which {
    Id(u64),
    /// The newest from this address and port.
    Socket(SocketAddr),
    /// The newest from this address.
    Address(IpAddr),
    LastRefused,
}

impl Which {
    fn read(name: &str, value: &str) -> Option<Self> {
        match (name, value) {
            ("last", "refused") => Some(Self::LastRefused),
            ("id", id) => id.parse().ok().map(Self::Id),
            ("client", client) => {
                let address = || client.parse().ok().map(Self::Address);
                client.parse().ok().map(Self::Socket).or_else(address)
            }
            _ => None,
        }
    }

    fn of(&self, state: &AdminState) -> Option<ConnectionRecord> {
        let known = state.connections.all();
        let newest = |is_meant: &dyn Fn(&ConnectionRecord) -> bool| {
            known.iter().rev().find(|record| is_meant(record)).cloned()
        };
        match self {
            Self::Id(id) => newest(&|record| record.id == *id),
            Self::Socket(client) => newest(&|record| record.client == *client),
            Self::Address(client) => newest(&|record| record.client.ip() == *client),
            // A request may be kept for longer than its connection.
            Self::LastRefused => {
                let mut refusals = state.connections.refusals().into_iter();
                refusals.find_map(|id| newest(&|record| record.id == id))
            }
        }
    }

    fn unknown(&self) -> String {
        let which = match self {
            Self::Id(id) => format!("connection {id} is not known"),
            Self::Socket(client) => format!("no connection of {client} is known"),
            Self::Address(client) => format!("no connection of {client} is known"),
            Self::LastRefused => {
                return "nothing was refused here in the last hour, no connection and no request on one; where a client \
                        was reset all the same, ask by its address, or ask the proxy of the other side"
                    .to_owned();
            }
        };
        format!(
            "{which}: the open ones are, the last thousand that have ended, and those that were refused in the last \
             hour (/connections?state=all); did it come to this proxy?"
        )
    }
}
