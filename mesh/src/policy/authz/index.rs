//! Rules by the values that they ask for, so that a decision looks at few of many.
//!
//! A rule stands under each value of one of its fields, where every way to match it asks for one. Of the others none
//! matches a connection that has none of these values, so they need not be looked at. Of several such fields the one
//! whose values fewest other rules ask for is taken.

use std::collections::HashMap;

use ipnet::IpNet;

use super::fact::{AddressFact, TextFact};
use super::facts::Facts;
use super::matcher::service_account;
use super::rule::{Clause, Rule, Test};
use crate::matching::ranges::ByRange;
use crate::matching::texts::{Patterns, PatternsBuilder, TextKey};
use crate::resource::ServiceAccount;

/// The rules of a set, for connections and for requests. On a TCP connection a DENY rule is read without its HTTP fields,
/// so it cannot be looked up by these there.
#[derive(Debug, Default)]
pub(super) struct Index {
    tcp: Lists,
    http: Lists,
}

/// Numbers of rules, in order.
type Numbers = Vec<usize>;

/// The rules by what they stand under.
#[derive(Debug, Default)]
struct Lists {
    texts: HashMap<TextFact, Patterns<Numbers>>,
    addresses: HashMap<AddressFact, ByRange<Numbers>>,
    service_accounts: HashMap<(String, String), Numbers>,
    ports: HashMap<u16, Numbers>,
    /// Rules that some way to match asks for nothing of this.
    others: Numbers,
}

/// A value that a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key<'r> {
    Text(&'r TextFact, TextKey<'r>),
    Address(AddressFact, IpNet),
    ServiceAccount(&'r ServiceAccount),
    Port(u16),
}

/// How many rules ask for a value.
type Uses<'r> = HashMap<Key<'r>, usize>;

impl Index {
    pub(super) fn build(rules: &[Rule]) -> Self {
        let numbered = || rules.iter().enumerate();
        let tcp = numbered().filter(|(_, rule)| rule.is_for_tcp()).collect();
        Self {
            tcp: Lists::build(tcp, |clause| !clause.test.needs_http()),
            http: Lists::build(numbered().collect(), |_| true),
        }
    }

    /// The first rule that matches.
    pub(super) fn first_match<'r>(&self, rules: &'r [Rule], facts: &Facts<'_>) -> Option<&'r Rule> {
        let mut first: Option<(usize, &Rule)> = None;
        for numbers in self.lists(facts) {
            let before = |number: &&usize| first.is_none_or(|(first, _)| **number < first);
            let mut candidates = numbers.iter().take_while(before);
            let found = candidates.find_map(|number| {
                let rule = rules.get(*number)?;
                rule.evaluate(facts).is_ok().then_some((*number, rule))
            });
            first = found.or(first);
        }
        first.map(|(_, rule)| rule)
    }

    /// How many rules are looked at, at most.
    #[cfg(test)]
    pub(super) fn candidates(&self, facts: &Facts<'_>) -> usize {
        self.lists(facts).iter().map(|numbers| numbers.len()).sum()
    }

    fn lists<'l>(&'l self, facts: &Facts<'_>) -> Vec<&'l Numbers> {
        if facts.http.is_some() { self.http.of(facts) } else { self.tcp.of(facts) }
    }
}

impl Lists {
    /// `counts` tells the clauses that rules are looked up by.
    fn build(rules: Vec<(usize, &Rule)>, counts: impl Fn(&Clause) -> bool) -> Self {
        let counts = |clause: &&Clause| clause.is_positive() && counts(clause);
        let mut uses = Uses::new();
        for (_, rule) in &rules {
            let (from, to, when) = rule.parts();
            for clause in from.iter().chain(to).flatten().chain(when).filter(counts) {
                keys(clause).for_each(|key| *uses.entry(key).or_default() += 1);
            }
        }
        let mut lists = Self::default();
        let mut texts: HashMap<TextFact, PatternsBuilder<Numbers>> = HashMap::new();
        for (number, rule) in rules {
            let Some(keys) = best_keys(rule, &uses, counts) else {
                lists.others.push(number);
                continue;
            };
            for key in keys {
                let numbers = match key {
                    Key::Text(fact, pattern) => texts.entry(fact.clone()).or_default().entry(pattern),
                    Key::Address(fact, range) => lists.addresses.entry(fact).or_default().entry(range),
                    Key::ServiceAccount(ServiceAccount { namespace, name }) => {
                        lists.service_accounts.entry((namespace.clone(), name.clone())).or_default()
                    }
                    Key::Port(port) => lists.ports.entry(port).or_default(),
                };
                if numbers.last() != Some(&number) {
                    numbers.push(number);
                }
            }
        }
        lists.texts = texts.into_iter().map(|(fact, patterns)| (fact, patterns.build())).collect();
        lists
    }

    /// The lists that hold every rule which could match.
    fn of<'l>(&'l self, facts: &Facts<'_>) -> Vec<&'l Numbers> {
        let mut lists = vec![&self.others];
        for (fact, patterns) in &self.texts {
            fact.texts(facts).for_each(|text| lists.extend(patterns.matching(&text)));
        }
        for (fact, ranges) in &self.addresses {
            lists.extend(ranges.holding(fact.address(facts).to_canonical()));
        }
        let account = facts.peer.filter(|_| !self.service_accounts.is_empty()).and_then(service_account);
        if let Some((namespace, Some(name))) = account {
            lists.extend(self.service_accounts.get(&(namespace.to_owned(), name.to_owned())));
        }
        lists.extend(self.ports.get(&facts.destination.port()));
        lists
    }
}

/// Values that a rule can be looked up by, with how many rules ask for the commonest of them.
struct Choice<'r> {
    keys: Vec<Key<'r>>,
    uses: usize,
}

impl<'r> Choice<'r> {
    fn of(clause: &'r Clause, uses: &Uses<'r>) -> Self {
        let keys: Vec<Key<'_>> = keys(clause).collect();
        let uses = keys.iter().filter_map(|key| uses.get(key)).max();
        Self { uses: uses.copied().unwrap_or_default(), keys }
    }

    fn and(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        Self { uses: self.uses.max(other.uses), ..self }
    }

    /// What is looked at in vain first, then the space that it takes.
    fn cost(&self) -> (usize, usize) {
        (self.uses, self.keys.len())
    }
}

/// The values that the rule is looked up by; `None` where some way to match it asks for none.
fn best_keys<'r>(
    rule: &'r Rule,
    uses: &Uses<'r>,
    counts: impl Fn(&&'r Clause) -> bool,
) -> Option<Vec<Key<'r>>> {
    let best_of = |clauses: &'r [Clause]| {
        clauses.iter().filter(&counts).map(|clause| Choice::of(clause, uses)).min_by_key(Choice::cost)
    };
    let of_each = |alternatives: &'r [Vec<Clause>]| -> Option<Choice<'r>> {
        let each: Option<Vec<Choice<'r>>> = alternatives.iter().map(|clauses| best_of(clauses)).collect();
        each?.into_iter().reduce(Choice::and)
    };
    let (from, to, when) = rule.parts();
    let choices = [of_each(from), best_of(when), of_each(to)];
    choices.into_iter().flatten().min_by_key(Choice::cost).map(|choice| choice.keys)
}

/// One for each value of a field, at most.
fn keys(clause: &Clause) -> Box<dyn Iterator<Item = Key<'_>> + '_> {
    match &clause.test {
        Test::Text(fact, texts) => Box::new(texts.keys().map(move |key| Key::Text(fact, key))),
        Test::Path(texts, templates) => {
            Box::new(texts.keys().chain(templates.keys()).map(|key| Key::Text(&TextFact::Path, key)))
        }
        Test::Address(fact, ranges) => Box::new(ranges.iter().map(|range| Key::Address(*fact, range))),
        Test::ServiceAccount(accounts) => Box::new(accounts.iter().map(Key::ServiceAccount)),
        Test::DestinationPort(ports) => Box::new(ports.iter().copied().map(Key::Port)),
    }
}
