//! `proxy-config connection`: the connections of a proxy, with the columns of `istioctl ztunnel-config connections`.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Filter, Owner, cell, known, table};
use crate::edges::{self, Secured};
use crate::policy::mode::Mode;
use crate::reason::Reason;
use crate::wire::{ConnectionRecord, Direction, TlsMode, rfc3339};
use crate::words::{Bytes, Elapsed};

/// The page `/connections`, whole or what a filter wants of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// The proxy's clock.
    #[serde(with = "rfc3339")]
    pub now: SystemTime,
    /// Whose connections these are.
    pub workload: Owner,
    /// In the order in which they were accepted.
    pub connections: Vec<ConnectionRecord>,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRow {
    /// The connection's id, by which `pillion explain` tells more.
    pub id: u64,
    /// Towards the app or from it.
    pub direction: Direction,
    /// The address on the side of the app.
    pub local: Option<SocketAddr>,
    /// The address on the other side.
    pub remote: Option<SocketAddr>,
    /// Who is on the other side: who it has proved to be, or the service that was dialled.
    pub remote_target: Option<String>,
    /// Whether it is secured; none as long as that is not known.
    pub secured: Option<Secured>,
    /// The tunnel that it is in, where it is in one.
    pub tunnel: Option<u64>,
    /// What the port accepts (inbound).
    pub mode: Option<Mode>,
    /// Application bytes.
    pub to_server: u64,
    /// Application bytes.
    pub to_client: u64,
    /// From accept to end, or to now.
    pub age: Duration,
    /// How it ended; none while it is open.
    pub reason: Option<Reason>,
}

/// A connection in a word: what protects it.
#[derive(Debug, Clone, Copy)]
pub struct Shown(pub Option<Secured>);

impl Connections {
    /// Those that `filter` wants.
    #[must_use]
    pub fn wanted(mut self, filter: &Filter) -> Self {
        self.connections.retain(|record| {
            let ConnectionRecord { client, original_destination, upstream, .. } = record;
            let sockets: Vec<_> =
                [Some(*client), *original_destination, *upstream].into_iter().flatten().collect();
            filter.wants_socket(&sockets)
                && filter.wants_direction(Some(record.direction))
                && filter.wants_service(record.service.as_deref())
        });
        self
    }
}

impl From<&ConnectionRecord> for ConnectionRow {
    fn from(record: &ConnectionRecord) -> Self {
        let proved = record.tls.as_ref().filter(|tls| tls.mode == TlsMode::IstioMutual);
        let peer = proved.map(|tls| tls.peer.clone());
        let (local, remote, remote_target) = match record.direction {
            Direction::Inbound => (record.original_destination, Some(record.client), peer),
            Direction::Outbound => {
                let remote = record.upstream.or(record.original_destination);
                (Some(record.client), remote, record.service.clone().or(peer))
            }
        };
        Self {
            id: record.id,
            direction: record.direction,
            local,
            remote,
            remote_target,
            secured: edges::secured(record),
            tunnel: record.tunnel.map(|tunnel| tunnel.id),
            mode: record.mode.as_ref().map(|mode| mode.mode),
            to_server: record.bytes_to_server,
            to_client: record.bytes_to_client,
            age: Duration::from_micros(record.duration_micros),
            reason: record.reason,
        }
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(match self.0 {
            Some(Secured::MutualTls) => "mTLS",
            Some(Secured::Tls) => "TLS",
            Some(Secured::ByTheApp) => "TLS by the app",
            Some(Secured::No) => "plaintext",
            // Nothing passed, or not yet.
            Some(Secured::Refused) | None => "-",
        })
    }
}

impl Display for Connections {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = [
            "ID",
            "WORKLOAD",
            "DIRECTION",
            "LOCAL",
            "REMOTE",
            "REMOTE TARGET",
            "PROTOCOL",
            "MODE",
            "TO SERVER",
            "TO CLIENT",
            "AGE",
            "STATE",
        ];
        let rows = self.connections.iter().map(ConnectionRow::from).map(|row| {
            let address =
                |address: Option<SocketAddr>| address.map_or("-".to_owned(), |known| known.to_string());
            [
                row.id.to_string(),
                cell(&self.workload.to_string()),
                row.direction.as_str().to_owned(),
                address(row.local),
                address(row.remote),
                known(row.remote_target.as_ref()),
                row.tunnel.map_or_else(|| Shown(row.secured).to_string(), |tunnel| format!("HBONE {tunnel}")),
                row.mode.map_or("-".to_owned(), |mode| mode.to_string()),
                Bytes(row.to_server).to_string(),
                Bytes(row.to_client).to_string(),
                Elapsed(row.age).to_string(),
                row.reason.map_or("open", Reason::id).to_owned(),
            ]
        });
        table(f, head, rows, "The proxy knows no such connection.")
    }
}
