//! The story of one connection in words: who came, what was seen, what decided at each step, how it ended, and the cure.
//!
//! A view of its record: nothing is decided or guessed here, and reasons and cures are those of the one list
//! ([`crate::reason`]). The admin API gives it as JSON, and `pillion explain` prints it.

mod steps;
#[cfg(test)]
mod tests;
mod text;

use serde::{Deserialize, Serialize};

use crate::reason::{Kind, Reason};
use crate::wire::{ConnectionRecord, RequestRecord};

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// Which connection, and what became of it.
    pub title: String,
    /// What happened, in that order.
    pub steps: Vec<Step>,
    /// What most likely helps, where something is wrong.
    pub cure: Option<String>,
    /// The record that the story is told from.
    pub connection: ConnectionRecord,
    /// The requests on it that were refused, as far as they are kept, oldest first.
    pub refused_requests: Vec<RequestRecord>,
}

/// One step of a story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What it is about.
    pub about: About,
    /// Whether the connection went on from here.
    pub passed: bool,
    /// When it was done, in microseconds after the connection was accepted, where that is known.
    pub at_micros: Option<u64>,
    /// What was so, in words.
    pub told: String,
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// Who dialled.
    Client,
    /// Where it was going.
    Destination,
    /// What the port accepts (inbound).
    Port,
    /// What came first.
    FirstBytes,
    /// How the destination is to be reached (outbound).
    Plan,
    /// TLS.
    Handshake,
    /// What the AuthorizationPolicies say.
    Policies,
    /// The other side.
    Dial,
    /// A request on it that was refused.
    Request,
    /// What passed.
    Bytes,
    /// What it looked like on the way.
    Wire,
    /// How it ended.
    End,
}

impl About {
    /// As it stands in front of a step.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            About::Client => "client",
            About::Destination => "destination",
            About::Port => "port",
            About::FirstBytes => "first bytes",
            About::Plan => "plan",
            About::Handshake => "handshake",
            About::Policies => "policies",
            About::Dial => "dial",
            About::Request => "request",
            About::Bytes => "bytes",
            About::Wire => "wire",
            About::End => "end",
        }
    }
}

/// Tells the story of a connection. `refused_requests` are those on it, oldest first.
#[must_use]
pub fn explain(record: &ConnectionRecord, refused_requests: &[RequestRecord]) -> Story {
    Story {
        title: title(record),
        steps: steps::steps(record, refused_requests),
        cure: cure(record, refused_requests),
        connection: record.clone(),
        refused_requests: refused_requests.to_vec(),
    }
}

fn title(record: &ConnectionRecord) -> String {
    let became = match record.reason {
        None => "open".to_owned(),
        Some(reason) => match reason.kind() {
            Kind::Ended => format!("ended: {reason}"),
            Kind::Refused => format!("refused: {reason}"),
            Kind::Cut => format!("cut: {reason}"),
        },
    };
    format!("Connection {}, {}, {became}", record.id, record.direction.as_str())
}

/// That of its own end, unless it ended well; else that of the last request which was refused.
fn cure(record: &ConnectionRecord, refused_requests: &[RequestRecord]) -> Option<String> {
    let of_connection = record.reason.filter(|reason| *reason != Reason::Completed);
    let of_requests = refused_requests.last().map(|request| request.reason);
    let wrong = of_connection.filter(|reason| reason.kind() != Kind::Ended).or(of_requests).or(of_connection);
    wrong.map(|reason| reason.cure().to_owned()).filter(|cure| !cure.is_empty())
}
