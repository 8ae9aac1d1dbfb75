//! What is wished for, checked: which packets the proxy shall get, and by what its own packets are known.
//!
//! All fields are typed values (ports, address ranges, numbers): there is no text here that could end up in a rule.
//! How packets reach the proxy is left to [`crate::plan`].

use std::fmt;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use crate::arguments::{CaptureFlags, ModeFlag};

/// The mark that, in TPROXY mode, the rules put on the proxy's calls to its own workload (Istio's number). It tells
/// them on the loopback interface from what the app says to itself.
pub(crate) const SELF_CALL_MARK: Mark = Mark(1338);

/// Route tables 253 to 255 are `default`, `main` and `local`.
const RESERVED_ROUTE_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

/// Which packets the proxy gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capture {
    pub(crate) mode: Mode,
    /// By what the proxy's own packets are known; never empty.
    pub(crate) proxy: Vec<Owner>,
    /// Where outbound connections go.
    pub(crate) outbound_port: Port,
    /// Where inbound connections go.
    pub(crate) inbound_port: Port,
    /// Inbound ports that the proxy itself serves, tunnel, readiness and metrics: they reach it without redirection.
    pub(crate) proxy_ports: Vec<Port>,
    pub(crate) inbound: Selection<Port>,
    pub(crate) exclude_inbound: Vec<Port>,
    pub(crate) outbound: Selection<IpNet>,
    pub(crate) exclude_outbound: Vec<IpNet>,
    /// Captured whatever the destination address.
    pub(crate) outbound_ports: Vec<Port>,
    pub(crate) exclude_outbound_ports: Vec<Port>,
}

/// How inbound connections reach the proxy. Outbound ones are redirected in both modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The destination address is rewritten; the app sees 127.0.0.6 as its peer.
    Redirect,
    /// The packet is handed over as it is; the app sees the client's address.
    Tproxy {
        /// `SO_MARK` of the proxy's connections to the app.
        mark: Mark,
        /// Route table that brings the app's answers to such connections back to the proxy.
        table: RouteTable,
    },
}

/// Everything, or what a list names; an empty list names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection<T> {
    All,
    Only(Vec<T>),
}

impl<T> Selection<T> {
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Only(list) if list.is_empty())
    }
}

/// By what a packet is known to be the proxy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Uid(u32),
    Gid(u32),
    /// `SO_MARK` on the proxy's sockets.
    Mark(Mark),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Gid(gid) => write!(f, "gid {gid}"),
            Self::Mark(mark) => write!(f, "socket mark {}", mark.0),
        }
    }
}

/// A wish that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum WishError {
    #[error(
        "nothing tells the proxy's packets from the app's: the proxy would capture itself; give --proxy-uid, --proxy-gid \
         or --proxy-mark"
    )]
    NoOwner,
    #[error("port {0} is given for both directions: inbound and outbound capture need a port each")]
    SamePort(Port),
    #[error(
        "{0} is loopback, which is never captured: the app's talk with itself and Docker's DNS at 127.0.0.11 stay as \
         they are; remove it from --outbound-cidrs"
    )]
    Loopback(IpNet),
    #[error(
        "mark {0} is given two meanings: --tproxy-mark, --proxy-mark and {SELF_CALL_MARK} (calls to itself) must differ"
    )]
    SameMark(Mark),
}

impl Capture {
    /// Checks the flags against each other and puts the lists in order, without what is said twice.
    ///
    /// # Errors
    /// Says which wish cannot be kept, and why.
    pub(crate) fn check(flags: &CaptureFlags) -> Result<Self, WishError> {
        if flags.inbound_port == flags.outbound_port {
            return Err(WishError::SamePort(flags.inbound_port));
        }
        let mut proxy_ports = vec![flags.tunnel_port];
        proxy_ports.extend(&flags.proxy_ports.0);
        Ok(Self {
            mode: mode(flags)?,
            proxy: owners(flags)?,
            outbound_port: flags.outbound_port,
            inbound_port: flags.inbound_port,
            exclude_inbound: without(&flags.exclude_inbound_ports.0, &proxy_ports),
            proxy_ports: sorted(&proxy_ports),
            inbound: match &flags.inbound_ports.0 {
                Selection::All => Selection::All,
                Selection::Only(ports) => Selection::Only(sorted(ports)),
            },
            outbound: match &flags.outbound_cidrs.0 {
                Selection::All => Selection::All,
                Selection::Only(ranges) => Selection::Only(not_loopback(networks(ranges))?),
            },
            exclude_outbound: networks(&flags.exclude_outbound_cidrs.0),
            outbound_ports: sorted(&flags.outbound_ports.0),
            exclude_outbound_ports: sorted(&flags.exclude_outbound_ports.0),
        })
    }
}

fn mode(flags: &CaptureFlags) -> Result<Mode, WishError> {
    if flags.mode == ModeFlag::Redirect {
        return Ok(Mode::Redirect);
    }
    let mark = flags.tproxy_mark;
    if mark == SELF_CALL_MARK || flags.proxy_mark == Some(mark) {
        return Err(WishError::SameMark(mark));
    }
    if flags.proxy_mark == Some(SELF_CALL_MARK) {
        return Err(WishError::SameMark(SELF_CALL_MARK));
    }
    Ok(Mode::Tproxy { mark, table: flags.tproxy_table })
}

fn owners(flags: &CaptureFlags) -> Result<Vec<Owner>, WishError> {
    let uids = sorted(&flags.proxy_uid.0).into_iter().map(|id| Owner::Uid(id.0));
    let gids = sorted(&flags.proxy_gid.0).into_iter().map(|id| Owner::Gid(id.0));
    let owners: Vec<_> = uids.chain(gids).chain(flags.proxy_mark.map(Owner::Mark)).collect();
    if owners.is_empty() { Err(WishError::NoOwner) } else { Ok(owners) }
}

fn not_loopback(ranges: Vec<IpNet>) -> Result<Vec<IpNet>, WishError> {
    match ranges.iter().find(|range| is_loopback(range)) {
        Some(range) => Err(WishError::Loopback(*range)),
        None => Ok(ranges),
    }
}

fn networks(ranges: &[Range]) -> Vec<IpNet> {
    sorted(&ranges.iter().map(|range| range.0).collect::<Vec<_>>())
}

fn sorted<T: Copy + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

fn without(list: &[Port], others: &[Port]) -> Vec<Port> {
    sorted(list).into_iter().filter(|port| !others.contains(port)).collect()
}

fn is_loopback(range: &IpNet) -> bool {
    match range {
        IpNet::V4(range) => LOOPBACK_V4.contains(range),
        IpNet::V6(range) => LOOPBACK_V6.contains(range),
    }
}

/// Loopback destinations of IPv4. The whole range: 127.0.0.11 is Docker's DNS.
pub(crate) const LOOPBACK_V4: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
/// The loopback destination of IPv6.
pub(crate) const LOOPBACK_V6: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128);

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub(crate) struct Port(u16);

/// A uid or gid. 4294967295 is the kernel's "no such id" and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) u32);

/// A packet mark, never 0, which every unmarked packet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Mark(pub(crate) u32);

/// The number of a route table that nobody else owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteTable(pub(crate) u32);

/// An address range in CIDR notation, or a single address; bits behind the prefix are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range(pub(crate) IpNet);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that was not understood: what was expected, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected {expected}, not {seen:?}")]
pub(crate) struct ValueError {
    expected: &'static str,
    seen: String,
}

impl ValueError {
    pub(crate) fn new(expected: &'static str, seen: &str) -> Self {
        Self { expected, seen: seen.to_owned() }
    }
}

impl FromStr for Port {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        decimal(text)
            .and_then(|number| u16::try_from(number).ok())
            .filter(|port| *port != 0)
            .map(Self)
            .ok_or_else(|| ValueError::new("a port from 1 to 65535", text))
    }
}

impl FromStr for Id {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        decimal(text)
            .filter(|id| *id != u32::MAX)
            .map(Self)
            .ok_or_else(|| ValueError::new("a numeric uid or gid", text))
    }
}

impl FromStr for Mark {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = match text.strip_prefix("0x") {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            Some(_) => None,
            None => decimal(text),
        };
        number
            .filter(|mark| *mark != 0)
            .map(Self)
            .ok_or_else(|| ValueError::new("a mark from 1 to 4294967295, decimal or 0x…", text))
    }
}

impl FromStr for RouteTable {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        decimal(text)
            .filter(|table| *table != 0 && !RESERVED_ROUTE_TABLES.contains(table))
            .map(Self)
            .ok_or_else(|| {
                ValueError::new("the number of a route table other than 0, 253, 254 and 255", text)
            })
    }
}

impl FromStr for Range {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)))
            .map(|range| Self(range.trunc()))
            .map_err(|_| ValueError::new("an address range such as 10.0.0.0/8 or fd00::/8", text))
    }
}

/// Digits only: no sign, no space, unlike the standard library's parser.
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
pub(crate) mod tests;
