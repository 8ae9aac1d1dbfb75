//! What a proxy listens on, dials, holds and serves: pages of its admin API as tables with istioctl's columns, and with the mode
//! of mutual TLS, which istioctl's tables leave out.
//!
//! Nothing is decided here, and nothing is asked: who prints a table hands in the page.

mod connection;
mod endpoint;
mod listener;
mod secret;

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

pub use connection::{ConnectionRow, Connections, Shown};
pub use endpoint::{Endpoint, Endpoints};
pub use listener::{Decided, Listener, ListenerRow, ListenerRows, Listeners, PortMode, Shadow, Side};
pub use secret::{Certificate, Renewals, SecretRow, SecretRows, Secrets};
use serde::{Deserialize, Serialize};

use crate::wire::Direction;
use crate::words::{Columns, Escaped};
use crate::workload::Workload;

/// Which rows of a table are wanted; what is not named wants all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Those with this port.
    pub port: Option<u16>,
    /// Those with this address.
    pub address: Option<IpAddr>,
    /// Those of this service: its host, or `host:port`.
    pub service: Option<String>,
    /// Those of this direction.
    pub direction: Option<Direction>,
}

impl Filter {
    fn wants_address(&self, addresses: &[IpAddr]) -> bool {
        self.address
            .is_none_or(|wanted| addresses.iter().any(|ip| ip.to_canonical() == wanted.to_canonical()))
    }

    fn wants_port(&self, ports: &[u16]) -> bool {
        self.port.is_none_or(|wanted| ports.contains(&wanted))
    }

    /// Whether a socket has what is wanted; one of several is enough for the port, and one for the address.
    fn wants_socket(&self, sockets: &[SocketAddr]) -> bool {
        let (ips, ports): (Vec<_>, Vec<_>) =
            sockets.iter().map(|socket| (socket.ip(), socket.port())).unzip();
        self.wants_address(&ips) && self.wants_port(&ports)
    }

    /// `service` as `host:port`.
    fn wants_service(&self, service: Option<&str>) -> bool {
        let Some(wanted) = &self.service else { return true };
        let Some(service) = service else { return false };
        let host = service.rsplit_once(':').map_or(service, |(host, _)| host);
        [service, host].iter().any(|name| name.eq_ignore_ascii_case(wanted))
    }

    fn wants_direction(&self, direction: Option<Direction>) -> bool {
        self.direction.is_none_or(|wanted| direction == Some(wanted))
    }
}

/// Whose proxy a page is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// What logs and metrics call the workload.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl From<&Workload> for Owner {
    fn from(workload: &Workload) -> Self {
        Self { name: workload.name.clone(), namespace: workload.namespace.clone() }
    }
}

/// `web.default`, as Istio writes it.
impl Display for Owner {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// A heading and rows; `nothing` where there are no rows.
fn table<const N: usize>(
    f: &mut Formatter<'_>,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    nothing: &str,
) -> fmt::Result {
    let rows: Vec<_> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
    if rows.len() == 1 {
        return f.write_str(nothing);
    }
    f.write_str(Columns(&rows).to_string().trim_end())
}

/// What stands in a cell: `-` for nothing.
fn cell(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { Escaped(text).to_string() }
}

fn known(text: Option<&String>) -> String {
    cell(text.map_or("", String::as_str))
}
