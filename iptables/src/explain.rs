//! What the rules do, in words: all of them with their reasons, or the way of one packet through them.
//!
//! The packet walks through the same typed rules that are installed, as the kernel would take it: mangle before nat, nat
//! for the first packet of a connection only, and what leaves over lo arrives over lo.

use std::fmt::{self, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::arguments::{DirectionFlag, PacketFlags, ProtocolFlag};
use crate::capture::{Mark, Mode, Port};
use crate::plan::{Action, Chain, Family, Match, Plan, Rule, Table};
use crate::render;

/// A packet, as far as rules look at it.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) direction: Direction,
    pub(crate) tcp: bool,
    /// Unknown sources match no rule that asks for one.
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: IpAddr,
    pub(crate) port: Port,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mark: Option<Mark>,
    pub(crate) connection_mark: Option<Mark>,
    /// Passes lo.
    pub(crate) loopback: bool,
    pub(crate) established: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

impl Packet {
    /// The packet that the flags describe; none without a direction.
    pub(crate) fn from_flags(flags: &PacketFlags) -> Option<Self> {
        let (destination, port) = (flags.destination?, flags.port?);
        let direction = match flags.direction? {
            DirectionFlag::In => Direction::In,
            DirectionFlag::Out => Direction::Out,
        };
        let stays_here = destination.is_loopback() || (flags.source == Some(destination));
        Some(Self {
            direction,
            tcp: flags.protocol == ProtocolFlag::Tcp,
            source: flags.source,
            destination,
            port,
            uid: flags.uid.map(|id| id.0),
            gid: flags.gid.map(|id| id.0),
            mark: flags.mark,
            connection_mark: flags.connection_mark,
            loopback: flags.interface.as_ref().map_or(stays_here, |interface| interface.0 == "lo"),
            established: flags.established,
        })
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.destination)
    }

    fn fits(&self, wanted: Match, kernel_chain: Chain) -> bool {
        let within =
            |range: &IpNet, address: Option<IpAddr>| address.is_some_and(|address| range.contains(&address));
        match wanted {
            Match::Source(range) => within(&range, self.source),
            Match::Destination(range) => within(&range, Some(self.destination)),
            Match::NotDestination(range) => !within(&range, Some(self.destination)),
            Match::InLoopback => kernel_chain == Chain::Prerouting && self.loopback,
            Match::OutLoopback => kernel_chain == Chain::Output && self.loopback,
            Match::Tcp => self.tcp,
            Match::DestinationPort(port) => self.port == port,
            Match::Uid(uid) => self.uid == Some(uid),
            Match::Gid(gid) => self.gid == Some(gid),
            Match::Mark(mark) => self.mark == Some(mark),
            Match::NotMark(mark) => self.mark != Some(mark),
            Match::ConnectionMark(mark) => self.connection_mark == Some(mark),
            Match::Established => self.established,
        }
    }

    /// What of the packet does not fit, in words.
    fn unlike(&self, wanted: Match) -> String {
        let is = |what: &str, value: Option<&dyn fmt::Display>| match value {
            Some(value) => format!("{what} is {value}"),
            None => format!("{what} is not known"),
        };
        let shown = |value: &Option<u32>| value.map(|value| value.to_string());
        let mark = |mark: &Option<Mark>| {
            mark.map_or("it has no mark".to_owned(), |mark| format!("its mark is {mark}"))
        };
        match wanted {
            Match::Source(_) => {
                is("where it comes from", self.source.as_ref().map(|ip| ip as &dyn fmt::Display))
            }
            Match::Destination(_) | Match::NotDestination(_) => format!("it goes to {}", self.destination),
            Match::InLoopback => "it does not come in over lo".to_owned(),
            Match::OutLoopback => "it does not go out over lo".to_owned(),
            Match::Tcp => "it is not TCP".to_owned(),
            Match::DestinationPort(_) => format!("it goes to port {}", self.port),
            Match::Uid(_) => is("its user", shown(&self.uid).as_ref().map(|id| id as &dyn fmt::Display)),
            Match::Gid(_) => is("its group", shown(&self.gid).as_ref().map(|id| id as &dyn fmt::Display)),
            Match::Mark(_) | Match::NotMark(_) => mark(&self.mark),
            Match::ConnectionMark(_) => format!("of its connection, {}", mark(&self.connection_mark)),
            Match::Established => "it opens its connection".to_owned(),
        }
    }
}

/// The way of a packet: the rules that took it, in order, and what came of it; where that was asked for, those too that
/// were looked at and did not fit.
#[derive(Debug, Serialize)]
pub(crate) struct Walk {
    steps: Vec<Step>,
    verdict: Verdict,
    /// The verdict in words.
    meaning: String,
}

#[derive(Debug, Serialize)]
struct Step {
    table: Table,
    chain: &'static str,
    /// Position of the rule in its chain, from 1.
    number: usize,
    rule: String,
    why: String,
    /// What of the packet does not fit, where the rule was passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    passed_over: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// The proxy gets it on its port for inbound connections.
    Inbound { port: Port },
    /// The proxy gets it on its port for outbound connections.
    Outbound { port: Port },
    /// An answer of the app that the mark's route brings to the proxy.
    BackToProxy,
    /// It goes where it is addressed.
    NotCaptured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound { port } => write!(f, "captured inbound: the proxy gets it on port {port}"),
            Self::Outbound { port } => write!(f, "captured outbound: the proxy gets it on port {port}"),
            Self::BackToProxy => {
                write!(f, "an answer to the proxy: the route of its mark brings it back to the proxy")
            }
            Self::NotCaptured => write!(f, "not captured: it goes where it is addressed"),
        }
    }
}

impl Walk {
    /// Takes the packet through the rules. `all` shows those too that do not fit.
    pub(crate) fn new(plan: &Plan, packet: &Packet, all: bool) -> Self {
        let mut walker = Walker { plan, packet: packet.clone(), all, steps: Vec::new() };
        let verdict = match packet.direction {
            Direction::In => walker.arrive(packet.established),
            Direction::Out => walker.leave(),
        }
        .unwrap_or(Verdict::NotCaptured);
        Self { steps: walker.steps, verdict, meaning: verdict.to_string() }
    }

    #[cfg(test)]
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

struct Walker<'a> {
    plan: &'a Plan,
    /// Its marks change on the way.
    packet: Packet,
    /// Whether rules that do not fit are kept too.
    all: bool,
    steps: Vec<Step>,
}

impl Walker<'_> {
    fn leave(&mut self) -> Option<Verdict> {
        self.enter(Table::Mangle, Chain::Output);
        if !self.packet.loopback && self.has_tproxy_mark() {
            self.packet.loopback = true;
            self.enter(Table::Mangle, Chain::Prerouting);
            return Some(Verdict::BackToProxy);
        }
        if !self.packet.established
            && let Some(verdict) = self.enter(Table::Nat, Chain::Output)
        {
            return Some(verdict);
        }
        // conntrack has settled the connection's destination in the output hook: nat is not asked again.
        if self.packet.loopback { self.arrive(true) } else { None }
    }

    fn arrive(&mut self, settled: bool) -> Option<Verdict> {
        let captured = self.enter(Table::Mangle, Chain::Prerouting);
        if captured.is_some() || settled { captured } else { self.enter(Table::Nat, Chain::Prerouting) }
    }

    fn has_tproxy_mark(&self) -> bool {
        matches!(self.plan.mode, Mode::Tproxy { mark, .. } if self.packet.mark == Some(mark))
    }

    fn enter(&mut self, table: Table, kernel_chain: Chain) -> Option<Verdict> {
        self.follow(table, kernel_chain, kernel_chain)
    }

    /// Goes through a chain; none where it ends or returns. Chains do not lead in circles.
    fn follow(&mut self, table: Table, chain: Chain, kernel_chain: Chain) -> Option<Verdict> {
        let plan = self.plan;
        for (at, rule) in plan.chain(table, chain).enumerate() {
            let unlike = rule.matches.iter().find(|wanted| !self.packet.fits(**wanted, kernel_chain));
            if let Some(wanted) = unlike {
                if self.all {
                    let because = self.packet.unlike(*wanted);
                    self.steps.push(Step { passed_over: Some(because), ..Step::new(at + 1, rule) });
                }
                continue;
            }
            self.steps.push(Step::new(at + 1, rule));
            match rule.action {
                Action::Return => return None,
                Action::Jump(to) => {
                    if let Some(verdict) = self.follow(table, to, kernel_chain) {
                        return Some(verdict);
                    }
                }
                Action::Redirect(port) if chain == Chain::Redirect => {
                    return Some(Verdict::Outbound { port });
                }
                Action::Redirect(port) | Action::Tproxy(_, port) => return Some(Verdict::Inbound { port }),
                Action::SetMark(mark) => self.packet.mark = Some(mark),
                Action::SaveMark => self.packet.connection_mark = self.packet.mark,
                Action::RestoreMark => self.packet.mark = self.packet.connection_mark,
            }
        }
        None
    }
}

impl Step {
    fn new(number: usize, rule: &Rule) -> Self {
        Self {
            table: rule.table,
            chain: rule.chain.name(),
            number,
            rule: render::spec(rule).trim_start().to_owned(),
            why: rule.why.clone(),
            passed_over: None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format!("{} {} {}: {}", self.table, self.chain, self.number, self.rule);
        match &self.passed_over {
            None => writeln!(f, "{place}\n    {}", self.why),
            Some(because) => writeln!(f, "  {place}\n      passed over: {because}"),
        }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{step}")?;
        }
        if self.steps.iter().all(|step| step.passed_over.is_some()) {
            writeln!(f, "No rule takes it.")?;
        }
        writeln!(f, "=> {}", self.meaning)
    }
}

/// Every rule with its reason, chain by chain.
pub(crate) fn all_rules(plan: &Plan) -> String {
    let mut text = String::new();
    let mut heading = None;
    let mut number = 0;
    for rule in &plan.rules {
        let place = (rule.table, rule.chain);
        if heading != Some(place) {
            heading = Some(place);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n{} {} {}", plan.family, rule.table, rule.chain);
            number =
                plan.chain(rule.table, rule.chain).take_while(|other| !std::ptr::eq(*other, rule)).count();
        }
        number += 1;
        let _ = writeln!(text, "{number:>4}. {}\n      {}", render::spec(rule).trim_start(), rule.why);
    }
    text.trim_start().to_owned()
}

#[cfg(test)]
mod tests;
