//! The rules, as typed values, each with a sentence that says why it is there.
//!
//! Chains and their order follow Istio's sidecar (`tools/istio-iptables/pkg/capture/run.go`), with these differences:
//!
//! - All of 127.0.0.0/8 is left alone, not 127.0.0.1 only, and first of all: Docker's DNS is 127.0.0.11, and a rule of
//!   Docker in the same hook rewrites what goes to it.
//! - What the proxy says to its own workload goes through the inbound chain, as if it came from outside, so that a port
//!   left alone there is left alone here too.
//! - With several owners (uid, gid, mark) each rule is made for all of them before the next, so that a later owner's
//!   rules are not hidden behind an earlier one's.
//! - Only TCP enters the chains: UDP is not captured, so nothing need be said of it.
//! - TPROXY mode marks neither the client's packets nor those of open connections (Istio's `ISTIO_DIVERT`): their
//!   destination is this host in any case, and a mark on them would send the proxy's answers astray where
//!   `net.ipv4.tcp_fwmark_accept` or `src_valid_mark` is set.
//!
//! How a rule is written for `iptables-restore` is left to [`crate::render`].

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::capture::{Capture, LOOPBACK_V4, LOOPBACK_V6, Mark, Mode, Owner, Port, SELF_CALL_MARK, Selection};

/// Source address of the proxy's connections to its app.
const PROXY_SOURCE_V4: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 6), 32);
/// The same for IPv6; `apply` puts it on lo, where IPv6 has no range like 127.0.0.0/8.
pub(crate) const PROXY_SOURCE_V6: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6), 128);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The tables in the order in which a packet meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Table {
    Mangle,
    Nat,
}

impl Table {
    pub(crate) const ALL: [Self; 2] = [Self::Mangle, Self::Nat];
}

/// The chains that hold rules: the kernel's own two, and pillion's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chain {
    /// The kernel's: packets that arrive, from the network or over lo.
    Prerouting,
    /// The kernel's: packets that processes of this host send.
    Output,
    Inbound,
    InRedirect,
    Tproxy,
    Outbound,
    Redirect,
}

impl Chain {
    pub(crate) fn is_the_kernels(self) -> bool {
        matches!(self, Self::Prerouting | Self::Output)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
            Self::Inbound => "PILLION_INBOUND",
            Self::InRedirect => "PILLION_IN_REDIRECT",
            Self::Tproxy => "PILLION_TPROXY",
            Self::Outbound => "PILLION_OUTPUT",
            Self::Redirect => "PILLION_REDIRECT",
        }
    }
}

/// What a packet must be for a rule to take it. The variants stand in the order in which `iptables-save` writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    Source(IpNet),
    Destination(IpNet),
    NotDestination(IpNet),
    InLoopback,
    OutLoopback,
    Tcp,
    DestinationPort(Port),
    Uid(u32),
    Gid(u32),
    Mark(Mark),
    NotMark(Mark),
    /// The mark that was saved on the connection.
    ConnectionMark(Mark),
    /// The packet belongs to a connection that has seen packets both ways, or to one related to it.
    Established,
}

/// What becomes of a packet that a rule takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Back to the calling chain.
    Return,
    Jump(Chain),
    /// To this port of this host, by rewriting the destination.
    Redirect(Port),
    /// To the transparent socket on this port, as it is.
    Tproxy(Family, Port),
    SetMark(Mark),
    /// The packet's mark is kept on its connection.
    SaveMark,
    /// The packet gets its connection's mark.
    RestoreMark,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) table: Table,
    pub(crate) chain: Chain,
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
    /// Why the rule is there: one sentence.
    pub(crate) why: String,
}

/// All rules of one family, in order within each chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) family: Family,
    pub(crate) mode: Mode,
    pub(crate) rules: Vec<Rule>,
}

impl Plan {
    /// The rules that fulfil the wishes.
    pub(crate) fn new(capture: &Capture, family: Family) -> Self {
        let mut plan = Self { family, mode: capture.mode, rules: Vec::new() };
        match capture.mode {
            Mode::Redirect => plan.inbound_by_redirect(capture),
            Mode::Tproxy { mark, .. } => plan.inbound_by_tproxy(capture, mark),
        }
        plan.outbound(capture);
        plan
    }

    /// The rules of a chain, in order.
    pub(crate) fn chain(&self, table: Table, chain: Chain) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.table == table && rule.chain == chain)
    }

    fn inbound_by_redirect(&mut self, capture: &Capture) {
        if capture.inbound.is_nothing() {
            return;
        }
        let port = capture.inbound_port;
        self.add(
            (Table::Nat, Chain::Prerouting),
            [Match::Tcp],
            Action::Jump(Chain::Inbound),
            "TCP that arrives is inbound; UDP is not captured.",
        );
        self.inbound_ports_left_alone(Table::Nat, capture);
        self.inbound_ports_captured(Table::Nat, capture, Chain::InRedirect);
        self.add(
            (Table::Nat, Chain::InRedirect),
            [Match::Tcp],
            Action::Redirect(port),
            format!(
                "Inbound capture: the proxy takes it on port {port} and asks conntrack where it was going."
            ),
        );
    }

    fn inbound_by_tproxy(&mut self, capture: &Capture, mark: Mark) {
        if capture.inbound.is_nothing() {
            return;
        }
        self.tproxy_arrivals(capture, mark);
        self.tproxy_departures(capture, mark);
    }

    fn tproxy_arrivals(&mut self, capture: &Capture, mark: Mark) {
        let chain = (Table::Mangle, Chain::Inbound);
        self.add(
            (Table::Mangle, Chain::Prerouting),
            [Match::Tcp],
            Action::Jump(Chain::Inbound),
            "TCP that arrives is inbound; UDP is not captured.",
        );
        self.add(
            chain,
            [Match::Mark(mark)],
            Action::SaveMark,
            format!("Mark {mark}: the proxy's connection to the app. It is noted on the connection, to know the answers by."),
        );
        self.add(
            chain,
            [Match::Mark(mark)],
            Action::Return,
            "Between the proxy and the app: the proxy has seen it, so it is not captured again.",
        );
        self.add(
            chain,
            [Match::Source(self.proxy_source()), Match::InLoopback],
            Action::Return,
            "The proxy's connection to the app under its loopback address: it is not captured again.",
        );
        self.add(
            chain,
            [Match::InLoopback, Match::NotMark(SELF_CALL_MARK)],
            Action::Return,
            "What the app says to itself stays as it is; over lo, only the proxy's calls to its own workload are inbound.",
        );
        self.inbound_ports_left_alone(Table::Mangle, capture);
        self.add(
            chain,
            [Match::Established],
            Action::Return,
            "An open connection finds its socket by itself, the proxy's as well as one older than these rules.",
        );
        self.inbound_ports_captured(Table::Mangle, capture, Chain::Tproxy);
        let port = capture.inbound_port;
        self.add(
            (Table::Mangle, Chain::Tproxy),
            [Match::Tcp],
            Action::Tproxy(self.family, port),
            format!("Inbound capture: the proxy's transparent socket on port {port} takes it, its addresses unchanged."),
        );
    }

    fn tproxy_departures(&mut self, capture: &Capture, mark: Mark) {
        let chain = (Table::Mangle, Chain::Outbound);
        self.add(
            (Table::Mangle, Chain::Output),
            [Match::Tcp],
            Action::Jump(Chain::Outbound),
            "TCP that processes here send is outbound; UDP is not captured.",
        );
        self.add(
            chain,
            [Match::OutLoopback, Match::Mark(mark)],
            Action::Return,
            "The proxy's connection to the app keeps its mark.",
        );
        for owner in &capture.proxy {
            self.add(
                chain,
                [Match::NotDestination(self.loopback()), Match::OutLoopback, owner.into()],
                Action::SetMark(SELF_CALL_MARK),
                format!("The proxy ({owner}) calls its own workload: the mark makes it inbound when it arrives over lo."),
            );
        }
        self.add(
            chain,
            [Match::ConnectionMark(mark)],
            Action::RestoreMark,
            "The app's answer to the proxy gets the mark, whose route leads to this host and not out to the client.",
        );
    }

    /// The ports of the inbound chain that pass by, before anything is captured.
    fn inbound_ports_left_alone(&mut self, table: Table, capture: &Capture) {
        for port in &capture.proxy_ports {
            self.add(
                (table, Chain::Inbound),
                [Match::Tcp, Match::DestinationPort(*port)],
                Action::Return,
                format!("The proxy itself serves port {port}."),
            );
        }
        for port in &capture.exclude_inbound {
            self.add(
                (table, Chain::Inbound),
                [Match::Tcp, Match::DestinationPort(*port)],
                Action::Return,
                format!("Port {port} is excluded: it reaches the app past the proxy and its policies."),
            );
        }
    }

    fn inbound_ports_captured(&mut self, table: Table, capture: &Capture, to: Chain) {
        let chain = (table, Chain::Inbound);
        match &capture.inbound {
            Selection::All => {
                self.add(chain, [], Action::Jump(to), "Every other port is captured, declared or not.");
            }
            Selection::Only(ports) => {
                for port in ports {
                    let matches = [Match::Tcp, Match::DestinationPort(*port)];
                    self.add(chain, matches, Action::Jump(to), format!("Port {port} is included."));
                }
            }
        }
    }

    /// The same in both modes, but for the proxy's calls to its own workload, which TPROXY mode captures on arrival.
    fn outbound(&mut self, capture: &Capture) {
        let chain = (Table::Nat, Chain::Outbound);
        self.add(
            (Table::Nat, Chain::Output),
            [Match::Tcp],
            Action::Jump(Chain::Outbound),
            "TCP that processes here send is outbound; UDP is not captured.",
        );
        self.add(
            chain,
            [Match::Destination(self.loopback())],
            Action::Return,
            match self.family {
                Family::V4 => {
                    "Loopback is never captured; Docker's DNS at 127.0.0.11 is left to Docker's rules."
                }
                Family::V6 => "Loopback is never captured.",
            },
        );
        for port in &capture.exclude_outbound_ports {
            self.add(
                chain,
                [Match::Tcp, Match::DestinationPort(*port)],
                Action::Return,
                format!("Port {port} is excluded: it leaves past the proxy."),
            );
        }
        self.add(
            chain,
            [Match::Source(self.proxy_source()), Match::OutLoopback],
            Action::Return,
            "The proxy's connection to the app: it goes to the app and nowhere else.",
        );
        self.outbound_of_the_proxy(capture);
        self.add(
            chain,
            [Match::OutLoopback],
            Action::Return,
            "The app calls its own address: what stays on this host is not captured.",
        );
        self.outbound_of_the_app(capture);
    }

    fn outbound_of_the_proxy(&mut self, capture: &Capture) {
        let chain = (Table::Nat, Chain::Outbound);
        match capture.mode {
            Mode::Redirect if capture.inbound.is_nothing() => {}
            Mode::Redirect => {
                for owner in &capture.proxy {
                    self.add(
                        chain,
                        [Match::OutLoopback, owner.into()],
                        Action::Jump(Chain::Inbound),
                        format!("The proxy ({owner}) calls its own workload: it is inbound, as if it came from outside."),
                    );
                }
            }
            Mode::Tproxy { mark, .. } => {
                for mark in [mark, SELF_CALL_MARK] {
                    self.add(
                        chain,
                        [Match::Mark(mark)],
                        Action::Return,
                        format!("Mark {mark} is the proxy's, towards its app or its own workload: it is not captured again."),
                    );
                }
            }
        }
        for owner in &capture.proxy {
            self.add(
                chain,
                [owner.into()],
                Action::Return,
                format!("The proxy's own packets ({owner}) are not captured again: there is no loop."),
            );
        }
    }

    fn outbound_of_the_app(&mut self, capture: &Capture) {
        if capture.outbound.is_nothing() && capture.outbound_ports.is_empty() {
            return;
        }
        let chain = (Table::Nat, Chain::Outbound);
        for range in self.of_this_family(&capture.exclude_outbound) {
            self.add(
                chain,
                [Match::Destination(range)],
                Action::Return,
                format!("{range} is excluded: it leaves past the proxy."),
            );
        }
        for port in &capture.outbound_ports {
            self.add(
                chain,
                [Match::Tcp, Match::DestinationPort(*port)],
                Action::Jump(Chain::Redirect),
                format!("Port {port} is included, whatever its address."),
            );
        }
        match &capture.outbound {
            Selection::All => {
                self.add(
                    chain,
                    [],
                    Action::Jump(Chain::Redirect),
                    "All else that the app sends is captured.",
                );
            }
            Selection::Only(ranges) => {
                for range in self.of_this_family(ranges) {
                    let matches = [Match::Destination(range)];
                    self.add(chain, matches, Action::Jump(Chain::Redirect), format!("{range} is included."));
                }
            }
        }
        let port = capture.outbound_port;
        self.add(
            (Table::Nat, Chain::Redirect),
            [Match::Tcp],
            Action::Redirect(port),
            format!(
                "Outbound capture: the proxy takes it on port {port} and asks conntrack where it was going."
            ),
        );
    }

    fn add<const N: usize>(
        &mut self,
        (table, chain): (Table, Chain),
        mut matches: [Match; N],
        action: Action,
        why: impl Into<String>,
    ) {
        matches.sort_unstable();
        self.rules.push(Rule { table, chain, matches: matches.to_vec(), action, why: why.into() });
    }

    fn of_this_family(&self, ranges: &[IpNet]) -> Vec<IpNet> {
        ranges.iter().copied().filter(|range| Family::of(range.addr()) == self.family).collect()
    }

    fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => LOOPBACK_V4.into(),
            Family::V6 => LOOPBACK_V6.into(),
        }
    }

    fn proxy_source(&self) -> IpNet {
        match self.family {
            Family::V4 => PROXY_SOURCE_V4.into(),
            Family::V6 => PROXY_SOURCE_V6.into(),
        }
    }
}

impl Family {
    pub(crate) fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl From<&Owner> for Match {
    fn from(owner: &Owner) -> Self {
        match owner {
            Owner::Uid(uid) => Self::Uid(*uid),
            Owner::Gid(gid) => Self::Gid(*gid),
            Owner::Mark(mark) => Self::Mark(*mark),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        })
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
