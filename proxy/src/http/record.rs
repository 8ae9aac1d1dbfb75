//! One request's record, from its head to the end of its answer: then it is logged and counted, once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use hyper::http::request::Parts;
use hyper::{StatusCode, Version};
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{AuthorizationRecord, Direction, Parties, RequestRecord, TlsMode};

use super::asked::Asked;
use super::io::IoState;
use super::{Downstream, Upstream};
use crate::connections::ConnectionTable;
use crate::telemetry::Telemetry;

/// The record of a request that is under way. Dropped without [`Recording::finish`], the request ends as its connection does.
pub(super) struct Recording {
    /// `None` once it is told.
    record: Option<RequestRecord>,
    begun: Instant,
    sent: Arc<AtomicU64>,
    connections: Arc<ConnectionTable>,
    telemetry: Arc<Telemetry>,
    state: Arc<IoState>,
}

impl Recording {
    /// A head has arrived.
    pub(super) fn begin<U: Upstream>(downstream: &Downstream<U>, parts: &Parts) -> Self {
        downstream.state.request_begun();
        let is_grpc = parts
            .headers
            .get(hyper::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let record = RequestRecord {
            connection: downstream.notes.id(),
            direction: if U::IS_EDGE { Direction::Outbound } else { Direction::Inbound },
            received: SystemTime::now(),
            client: downstream.notes.client(),
            destination: downstream.known.destination,
            tls: downstream.parties(),
            protocol: protocol_name(parts.version).to_owned(),
            is_grpc,
            method: parts.method.as_str().chars().take(LONGEST_METHOD).collect(),
            host: None,
            path: None,
            service: None,
            upstream: None,
            authorization: None,
            status: None,
            grpc_status: None,
            bytes_to_server: 0,
            bytes_to_client: 0,
            duration_micros: 0,
            reason: Reason::Internal,
            detail: None,
        };
        Self {
            record: Some(record),
            begun: Instant::now(),
            sent: Arc::default(),
            connections: downstream.shared.connections.clone(),
            telemetry: downstream.shared.telemetry.clone(),
            state: downstream.state.clone(),
        }
    }

    fn note(&mut self, note: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = &mut self.record {
            note(record);
        }
    }

    /// What it asks for. The query may hold secrets and is not kept.
    pub(super) fn asked(&mut self, asked: &Asked, service: Option<String>) {
        self.note(|record| {
            record.host = Some(asked.host.to_string());
            record.path = Some(asked.path.path().chars().take(LONGEST_PATH).collect());
            record.service = service;
        });
    }

    pub(super) fn authorized(&mut self, authorization: AuthorizationRecord) {
        self.note(|record| record.authorization = Some(authorization));
    }

    /// Where it went, and who answers.
    pub(super) fn passed(&mut self, upstream: SocketAddr, server: Option<Parties>) {
        self.note(|record| {
            record.upstream = Some(upstream);
            if server.is_some() {
                record.tls = server;
            }
        });
    }

    pub(super) fn status(&mut self, status: StatusCode) {
        self.note(|record| record.status = Some(status.as_u16()));
    }

    pub(super) fn grpc_status(&mut self, status: u32) {
        self.note(|record| record.grpc_status = Some(status));
    }

    pub(super) fn answered_bytes(&mut self, count: usize) {
        self.note(|record| record.bytes_to_client += count as u64);
    }

    /// Counts the bytes of the request's body.
    pub(super) fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }

    /// The request is over. What comes after changes nothing.
    pub(super) fn finish(&mut self, reason: Reason, detail: Option<String>) {
        let Some(mut record) = self.record.take() else { return };
        self.state.request_ended();
        record.bytes_to_server = self.sent.load(Ordering::Relaxed);
        record.duration_micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        record.reason = reason;
        record.detail = detail;
        self.telemetry.request_ended(&record);
        self.connections.request_ended(record);
    }
}

impl<U> Downstream<U> {
    /// What the client has proved.
    fn parties(&self) -> Option<Parties> {
        let local = self.shared.settings.workload.id().ok()?.to_string();
        let peer = self.known.peer.as_ref()?.to_string();
        Some(Parties { mode: TlsMode::IstioMutual, peer, local })
    }
}

/// Its connection has ended first.
impl Drop for Recording {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() { Reason::Internal } else { self.state.end_reason() };
        self.finish(reason, Some("the connection ended before the answer did".to_owned()));
    }
}

/// Of a path, in the record: enough to know it.
const LONGEST_PATH: usize = 1024;
const LONGEST_METHOD: usize = 32;

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
