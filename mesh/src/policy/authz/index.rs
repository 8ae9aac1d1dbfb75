//! Rules by the exact identity or port that they ask for, so that a decision looks at few of many.
//!
//! A rule stands under each value that one of its fields asks for by name, where every way to match it asks so. Of the
//! others none matches a connection that has none of these values, so they need not be looked at.

use std::collections::HashMap;

use super::facts::Facts;
use super::matcher::service_account;
use super::rule::{Clause, Rule, Test};
use crate::resource::Pattern;

/// The numbers of the rules, each list in order.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_principal: HashMap<String, Vec<usize>>,
    by_namespace: HashMap<String, Vec<usize>>,
    by_service_account: HashMap<(String, String), Vec<usize>>,
    by_port: HashMap<u16, Vec<usize>>,
    others: Vec<usize>,
}

/// What a rule asks for by name.
#[derive(Clone)]
enum Key {
    Principal(String),
    Namespace(String),
    ServiceAccount(String, String),
    Port(u16),
}

impl Index {
    pub(super) fn add(&mut self, number: usize, rule: &Rule) {
        let Some(keys) = keys(rule) else { return self.others.push(number) };
        for key in keys {
            let numbers = match key {
                Key::Principal(principal) => self.by_principal.entry(principal).or_default(),
                Key::Namespace(namespace) => self.by_namespace.entry(namespace).or_default(),
                Key::ServiceAccount(namespace, name) => {
                    self.by_service_account.entry((namespace, name)).or_default()
                }
                Key::Port(port) => self.by_port.entry(port).or_default(),
            };
            if numbers.last() != Some(&number) {
                numbers.push(number);
            }
        }
    }

    /// The first rule that matches, by its number.
    pub(super) fn first_match<'r>(&self, rules: &'r [Rule], facts: &Facts<'_>) -> Option<&'r Rule> {
        let matching = |numbers: &Vec<usize>| {
            let mut numbered = numbers.iter().filter_map(|number| Some((*number, rules.get(*number)?)));
            numbered.find(|(_, rule)| rule.evaluate(facts).is_ok())
        };
        let firsts = self.lists(facts).filter_map(matching);
        firsts.min_by_key(|(number, _)| *number).map(|(_, rule)| rule)
    }

    /// How many rules are looked at, at most.
    #[cfg(test)]
    pub(super) fn candidates(&self, facts: &Facts<'_>) -> usize {
        self.lists(facts).map(Vec::len).sum()
    }

    /// The lists that hold every rule which could match.
    fn lists(&self, facts: &Facts<'_>) -> impl Iterator<Item = &Vec<usize>> {
        let account = facts.peer.and_then(service_account);
        let of_account = || {
            let (namespace, name) = account.filter(|_| !self.by_service_account.is_empty())?;
            self.by_service_account.get(&(namespace.to_owned(), name?.to_owned()))
        };
        [
            Some(&self.others),
            facts.peer.and_then(|peer| self.by_principal.get(peer.principal())),
            account.and_then(|(namespace, _)| self.by_namespace.get(namespace)),
            of_account(),
            self.by_port.get(&facts.destination.port()),
        ]
        .into_iter()
        .flatten()
    }
}

/// What the rule asks for by name; `None` where some way to match it does not.
fn keys(rule: &Rule) -> Option<Vec<Key>> {
    let (from, to, when) = rule.parts();
    let of_clauses = |clauses: &[Clause]| clauses.iter().find_map(keys_of_clause);
    let of_alternatives = |alternatives: &[Vec<Clause>]| -> Option<Vec<Key>> {
        let each: Option<Vec<Vec<Key>>> = alternatives.iter().map(|clauses| of_clauses(clauses)).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.concat())
    };
    of_alternatives(from).or_else(|| of_clauses(when)).or_else(|| of_alternatives(to))
}

fn keys_of_clause(clause: &Clause) -> Option<Vec<Key>> {
    let exact = |patterns: &[Pattern], key: fn(String) -> Key| -> Option<Vec<Key>> {
        let key = |pattern: &Pattern| match pattern {
            Pattern::Exact(text) => Some(key(text.clone())),
            _ => None,
        };
        patterns.iter().map(key).collect()
    };
    match &clause.test {
        _ if !clause.is_positive() => None,
        Test::Principal(_, principals) => exact(principals, Key::Principal),
        Test::Namespace(_, namespaces) => exact(namespaces, Key::Namespace),
        Test::ServiceAccount(accounts) => {
            let key = |account: &crate::resource::ServiceAccount| {
                Key::ServiceAccount(account.namespace.clone(), account.name.clone())
            };
            Some(accounts.iter().map(key).collect())
        }
        Test::DestinationPort(ports) => Some(ports.iter().copied().map(Key::Port).collect()),
        _ => None,
    }
}
