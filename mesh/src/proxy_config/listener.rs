//! `proxy-config listener`: what the proxy listens on, and what becomes of whoever connects there.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Endpoints, Filter, cell, known, table};
use crate::policy::mode::Mode;
use crate::wire::Direction;

/// The page `/listeners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listeners {
    /// Every address.
    pub listeners: Vec<Listener>,
    /// The app's ports that settings, resources or open connections name, in order.
    pub ports: Vec<PortMode>,
    /// What holds for every other port of the app.
    pub other_ports: Decided,
}

/// An address that is listened on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// For whom.
    pub direction: Side,
    /// Where; as it is bound.
    pub address: SocketAddr,
    /// What becomes of connections: `capture`, `forward to 127.0.0.1:8080`, `to customers:80`, `gateway port 80`; of the
    /// proxy's own servers their name.
    pub kind: String,
    /// Why it does not listen there, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Whom an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Towards the app.
    Inbound,
    /// From the app.
    Outbound,
    /// The edge of the mesh.
    Gateway,
    /// The proxy itself: admin API, readiness, metrics.
    Own,
}

impl Side {
    /// As in the column of the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Inbound => "inbound",
            Side::Outbound => "outbound",
            Side::Gateway => "gateway",
            Side::Own => "own",
        }
    }

    fn direction(self) -> Option<Direction> {
        match self {
            Side::Inbound | Side::Gateway => Some(Direction::Inbound),
            Side::Outbound => Some(Direction::Outbound),
            Side::Own => None,
        }
    }
}

/// What one of the app's ports accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMode {
    /// Its number.
    pub port: u16,
    /// What is declared to be spoken there, `HTTP`, or `undeclared`.
    pub protocol: String,
    /// What it accepts, and why.
    #[serde(flatten)]
    pub decided: Decided,
}

/// A mode and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// STRICT, PERMISSIVE or DISABLE.
    pub mode: Mode,
    /// The policy that decided, to follow "by".
    pub because: String,
    /// What it would be if the policies in dry run were in force.
    pub shadow: Option<Shadow>,
}

/// A mode that is not in force, and where it would come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// STRICT, PERMISSIVE or DISABLE.
    pub mode: Mode,
    /// The policy in dry run, to follow "by".
    pub because: String,
}

/// The rows of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerRows {
    /// In the order of the page; a capture has a row for each port of the app that is told of, and one for all others.
    pub listeners: Vec<ListenerRow>,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerRow {
    /// The address that is listened on.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// For whom.
    pub direction: Side,
    /// Which of its connections are meant: `ALL`, or `Addr: *:3000` those to a port of the app.
    #[serde(rename = "match")]
    pub matches: String,
    /// Inbound what is accepted (STRICT, PERMISSIVE, DISABLE), outbound how it is dialled (as a DestinationRule has it).
    pub mode: Option<String>,
    /// Where they lead.
    pub destination: String,
    /// Why that mode.
    pub because: Option<String>,
    /// The port of the app, or the service, that is meant.
    #[serde(skip)]
    about: About,
}

/// What a row is found by, besides its address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct About {
    port: Option<u16>,
    service: Option<String>,
}

impl Listeners {
    /// The rows that `filter` wants; `endpoints` tells how the services behind explicit listeners are dialled.
    #[must_use]
    pub fn rows(&self, endpoints: &Endpoints, filter: &Filter) -> ListenerRows {
        let rows = self.listeners.iter().flat_map(|listener| self.rows_of(listener, endpoints));
        let wanted = |row: &ListenerRow| {
            let ports: Vec<u16> = [row.port].into_iter().chain(row.about.port).collect();
            filter.wants_port(&ports)
                && filter.wants_address(&[row.address])
                && filter.wants_direction(row.direction.direction())
                && filter.wants_service(row.about.service.as_deref())
        };
        ListenerRows { listeners: rows.filter(wanted).collect() }
    }

    fn rows_of(&self, listener: &Listener, endpoints: &Endpoints) -> Vec<ListenerRow> {
        let Listener { direction, address, kind, fault } = listener;
        let row =
            |matches: &str, destination: String, mode: Option<String>, because: Option<String>| ListenerRow {
                address: address.ip(),
                port: address.port(),
                direction: *direction,
                matches: matches.to_owned(),
                mode,
                destination,
                because: fault.as_ref().map(|fault| format!("not listening: {fault}")).or(because),
                about: About::default(),
            };
        let of_port = |matches: &str, port: Option<u16>, to: String, decided: &Decided| {
            let Decided { mode, because, shadow: _ } = decided;
            let row = row(matches, to, Some(mode.to_string()), Some(because.clone()));
            ListenerRow { about: About { port, service: None }, ..row }
        };
        match (direction, Leads::read(kind)) {
            (Side::Inbound, Leads::WhereDialled) => {
                let named = self.ports.iter().map(|PortMode { port, protocol, decided }| {
                    let to = format!("the app, {port} ({protocol})");
                    of_port(&format!("Addr: *:{port}"), Some(*port), to, decided)
                });
                let to = "the app, the port that was dialled".to_owned();
                named.chain([of_port("Addr: *:*", None, to, &self.other_ports)]).collect()
            }
            (Side::Inbound, Leads::ToApp(app)) => {
                vec![of_port("ALL", Some(app.port()), format!("the app, {app}"), self.decided(app.port()))]
            }
            (Side::Outbound, Leads::WhereDialled) => {
                vec![row("ALL", "by the address that was dialled".to_owned(), None, None)]
            }
            (Side::Outbound, Leads::ToService(service)) => {
                let (mode, because) = endpoints.dialled(service).unzip();
                let about = About { port: None, service: Some(service.to_owned()) };
                vec![ListenerRow { about, ..row("ALL", service.to_owned(), mode, because) }]
            }
            (Side::Gateway, _) => vec![row("ALL", "by route".to_owned(), None, None)],
            _ => vec![row("ALL", kind.clone(), None, None)],
        }
    }

    fn decided(&self, port: u16) -> &Decided {
        let named = self.ports.iter().find(|named| named.port == port);
        named.map_or(&self.other_ports, |named| &named.decided)
    }
}

/// Where connections to a listener lead, by its kind.
enum Leads<'k> {
    WhereDialled,
    ToApp(SocketAddr),
    ToService(&'k str),
    Elsewhere,
}

impl<'k> Leads<'k> {
    fn read(kind: &'k str) -> Self {
        let app = kind.strip_prefix("forward to ").and_then(|app| app.parse().ok());
        match (kind, app, kind.strip_prefix("to ")) {
            ("capture", ..) => Self::WhereDialled,
            (_, Some(app), _) => Self::ToApp(app),
            (_, _, Some(service)) => Self::ToService(service),
            _ => Self::Elsewhere,
        }
    }
}

impl Display for ListenerRows {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = ["ADDRESSES", "PORT", "DIRECTION", "MATCH", "MODE", "DESTINATION", "BECAUSE"];
        let row = |row: &ListenerRow| {
            [
                row.address.to_string(),
                row.port.to_string(),
                row.direction.as_str().to_owned(),
                cell(&row.matches),
                known(row.mode.as_ref()),
                cell(&row.destination),
                known(row.because.as_ref()),
            ]
        };
        table(f, head, self.listeners.iter().map(row), "The proxy has no such listener.")
    }
}
