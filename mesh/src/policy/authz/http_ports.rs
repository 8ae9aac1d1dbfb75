//! The ports on which a rule asks for what only an HTTP request answers.

use std::collections::HashSet;

use super::rule::{Clause, Rule, Test};

/// Ports by name, and all others but some.
#[derive(Debug, Default)]
pub(super) struct HttpPorts {
    named: HashSet<u16>,
    /// `None` where no rule speaks of the others.
    others_but: Option<HashSet<u16>>,
}

impl HttpPorts {
    pub(super) fn add(&mut self, rule: &Rule) {
        for clauses in rule.ways_that_need_http() {
            self.add_way(&clauses);
        }
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.named.contains(&port) || self.others_but.as_ref().is_some_and(|but| !but.contains(&port))
    }

    /// `clauses` must all hold.
    fn add_way(&mut self, clauses: &[&Clause]) {
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
}
