//! The ports that a rule is about.

use std::collections::HashSet;

use super::rule::{Clause, Test};

/// Ports by name, and all others but some.
#[derive(Debug, Default)]
pub(super) struct PortSet {
    named: HashSet<u16>,
    /// `None` where nothing speaks of the others.
    others_but: Option<HashSet<u16>>,
}

impl PortSet {
    pub(super) fn contains(&self, port: u16) -> bool {
        self.named.contains(&port) || self.others_but.as_ref().is_some_and(|but| !but.contains(&port))
    }

    /// The ports that are named, in no order.
    pub(super) fn named(&self) -> impl Iterator<Item = u16> {
        self.named.iter().copied()
    }

    /// The ports that are excluded where all others are among them, in no order.
    pub(super) fn excluded(&self) -> impl Iterator<Item = u16> {
        self.others_but.iter().flatten().copied()
    }

    /// Whether any port that nobody named is among them.
    pub(super) fn has_others(&self) -> bool {
        self.others_but.is_some()
    }

    /// Whether one of `ports` is among those that nobody named.
    pub(super) fn has_others_among(&self, ports: &HashSet<u16>) -> bool {
        self.others_but.as_ref().is_some_and(|but| ports.iter().any(|port| !but.contains(port)))
    }

    /// Adds a way to match: the ports on which all of `clauses` can hold.
    pub(super) fn add_way(&mut self, clauses: &[&Clause]) {
        let ports = |clause: &'_ &Clause, is_positive| match &clause.test {
            Test::DestinationPort(ports) if clause.is_positive() == is_positive => Some(ports.clone()),
            _ => None,
        };
        let excluded: HashSet<u16> =
            clauses.iter().filter_map(|clause| ports(clause, false)).flatten().collect();
        let named = clauses.iter().filter_map(|clause| ports(clause, true));
        match named.map(HashSet::from_iter).reduce(|one, other: HashSet<u16>| &one & &other) {
            Some(named) => self.named.extend(&named - &excluded),
            None => {
                let but = self.others_but.take();
                self.others_but = Some(but.map_or(excluded.clone(), |but| &but & &excluded));
            }
        }
    }

    /// Adds the ports of another set.
    pub(super) fn add(&mut self, other: &PortSet) {
        self.named.extend(&other.named);
        self.others_but = match (self.others_but.take(), &other.others_but) {
            (Some(one), Some(two)) => Some(&one & two),
            (one, two) => one.or_else(|| two.clone()),
        };
    }
}
