//! A rule, compiled: ANY source, ANY operation, ALL conditions; of a source or operation ALL fields; of a field ANY
//! value, or NONE of the values of its `not…` twin.

use std::borrow::Cow;

use ipnet::IpNet;

use super::aliases::TrustDomains;
use super::fact::{AddressFact, TextFact};
use super::facts::{Facts, HttpFacts};
use super::matcher::{Ranges, Templates, Texts, service_account};
use super::ports::PortSet;
use super::verdict::{Miss, RuleName};
use crate::resource::{
    self, Action, AuthorizationPolicy, Condition, Match, Operation, PathPattern, Pattern, ServiceAccount,
    Source,
};
use crate::yaml::quoted_at_length as quoted;

/// One rule of a policy.
#[derive(Debug)]
pub(super) struct Rule {
    name: RuleName,
    action: Action,
    from: Vec<Vec<Clause>>,
    to: Vec<Vec<Clause>>,
    when: Vec<Clause>,
}

/// One field with its values, or with those of its `not…` twin.
#[derive(Debug)]
pub(super) struct Clause {
    /// As it is written, without the place in its list.
    field: Cow<'static, str>,
    is_not: bool,
    pub(super) test: Test,
    lines: Lines,
    /// The first values, for a person.
    expected: String,
}

/// How a header is read that has several lines. An app may read any of them, or all in one (RFC 9110, 5.3), so none may
/// hide another: what lets in wants all of them as they must be, and for what keeps out one is enough. (Envoy takes one for
/// enough in either case.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// Each must match.
    Each,
    /// One that matches is enough, and so is the whole.
    One,
}

/// What is compared with what.
#[derive(Debug)]
pub(super) enum Test {
    Text(TextFact, Texts),
    Path(Texts, Templates),
    Address(AddressFact, Ranges),
    ServiceAccount(Vec<ServiceAccount>),
    /// In order.
    DestinationPort(Vec<u16>),
}

/// Which part of a rule did not match.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'r> {
    rule: &'r Rule,
    part: Part,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    /// It asks for HTTP, and the connection is TCP.
    Http,
    From,
    To,
    When,
}

impl Clause {
    /// The same as part of a rule that lets in, or keeps out.
    fn in_rule_of(self, action: Action) -> Self {
        let lets_in = action == Action::Allow;
        Self { lines: if lets_in == self.is_not { Lines::One } else { Lines::Each }, ..self }
    }

    fn asks_who(&self) -> bool {
        let identity = match &self.test {
            Test::Text(fact, _) => fact.is_of_peer(),
            Test::ServiceAccount(_) => true,
            Test::Path(..) | Test::Address(..) | Test::DestinationPort(_) => false,
        };
        identity && !self.is_not
    }
}

impl Rule {
    pub(super) fn compile(
        policy: &AuthorizationPolicy,
        number: usize,
        rule: &resource::Rule,
        trust_domains: &TrustDomains,
    ) -> Self {
        let conditions = rule.when.iter().flat_map(|condition| condition_clauses(condition, trust_domains));
        Self {
            name: RuleName::new(&policy.meta, number),
            action: policy.action,
            from: rule.from.iter().map(|source| source_clauses(source, trust_domains)).collect(),
            to: rule.to.iter().map(operation_clauses).collect(),
            when: conditions.map(|clause| clause.in_rule_of(policy.action)).collect(),
        }
    }

    pub(super) fn name(&self) -> RuleName {
        self.name.clone()
    }

    /// Whether the rule matches, or the part of it that does not.
    pub(super) fn evaluate(&self, facts: &Facts<'_>) -> Result<(), Failure<'_>> {
        let fails = |part| Err(Failure { rule: self, part });
        let any = |alternatives: &[Vec<Clause>]| {
            alternatives.is_empty() || alternatives.iter().any(|all| first_failing(all, facts).is_none())
        };
        if facts.http.is_none() && !self.is_for_tcp() {
            fails(Part::Http)
        } else if !any(&self.from) {
            fails(Part::From)
        } else if !any(&self.to) {
            fails(Part::To)
        } else if first_failing(&self.when, facts).is_some() {
            fails(Part::When)
        } else {
            Ok(())
        }
    }

    /// Whether it can match a TCP connection: an ALLOW rule that asks for HTTP cannot.
    pub(super) fn is_for_tcp(&self) -> bool {
        self.action != Action::Allow || self.http_clauses().next().is_none()
    }

    /// The ports on which it can match.
    pub(super) fn ports(&self) -> PortSet {
        self.ports_of_ways(|_| true)
    }

    /// The ports on which some way to match asks for what only HTTP answers.
    pub(super) fn http_ports(&self) -> PortSet {
        self.ports_of_ways(|clauses| clauses.iter().any(|clause| clause.test.needs_http()))
    }

    /// The ports of those ways to match, each the clauses about one operation, that `counts` picks.
    fn ports_of_ways(&self, counts: impl Fn(&[&Clause]) -> bool) -> PortSet {
        let ways: Vec<Vec<&Clause>> = if self.to.is_empty() {
            vec![self.when.iter().collect()]
        } else {
            self.to.iter().map(|operation| operation.iter().chain(&self.when).collect()).collect()
        };
        let mut ports = PortSet::default();
        ways.iter().filter(|clauses| counts(clauses)).for_each(|clauses| ports.add_way(clauses));
        ports
    }

    /// The fields that a DENY or AUDIT rule is read without, the connection being TCP.
    pub(super) fn ignored_fields(&self, facts: &Facts<'_>) -> Vec<String> {
        if facts.http.is_some() { Vec::new() } else { self.http_clauses().map(|miss| miss.field).collect() }
    }

    /// Whether a peer without an identity can never match it.
    pub(super) fn asks_who(&self) -> bool {
        let asks = |clauses: &[Clause]| clauses.iter().any(Clause::asks_who);
        asks(&self.when) || (!self.from.is_empty() && self.from.iter().all(|source| asks(source)))
    }

    /// Whether whoever has no identity matches it on all its ports, whatever they ask for.
    pub(super) fn matches_all_the_nameless(&self) -> bool {
        let is_port = |clause: &Clause| matches!(clause.test, Test::DestinationPort(_));
        // Who has no identity is none of those that are named.
        let is_nameless = |clause: &Clause| {
            clause.is_not && matches!(&clause.test, Test::Text(fact, _) if fact.is_of_peer())
        };
        let by_source = self.from.is_empty() || self.from.iter().any(|source| source.iter().all(is_nameless));
        by_source && self.when.iter().all(is_port) && self.to.iter().flatten().all(is_port)
    }

    /// Whether it asks for nothing.
    pub(super) fn matches_everything(&self) -> bool {
        self.from.is_empty() && self.to.is_empty() && self.when.is_empty()
    }

    /// The alternatives of `from`, those of `to`, and the conditions.
    pub(super) fn parts(&self) -> (&[Vec<Clause>], &[Vec<Clause>], &[Clause]) {
        (&self.from, &self.to, &self.when)
    }

    /// The fields that only an HTTP request has.
    pub(super) fn http_clauses(&self) -> impl Iterator<Item = Miss> {
        let http = |(place, clause): (String, &Clause)| {
            clause.test.needs_http().then(|| Miss {
                field: format!("{place}{}", clause.field),
                expected: "an HTTP request".to_owned(),
                seen: "a TCP connection".to_owned(),
            })
        };
        let in_to = self.to.iter().enumerate().flat_map(|(number, operation)| {
            operation.iter().map(move |clause| (format!("to[{number}]."), clause))
        });
        in_to.chain(self.when.iter().map(|clause| ("when ".to_owned(), clause))).filter_map(http)
    }
}

impl Failure<'_> {
    /// Of each alternative the first field that failed.
    pub(super) fn misses(&self, facts: &Facts<'_>) -> Vec<Miss> {
        let of_alternatives = |name: &str, alternatives: &[Vec<Clause>]| {
            let numbered = alternatives.iter().enumerate();
            let misses = numbered.filter_map(|(number, all)| {
                first_failing(all, facts).map(|clause| clause.miss(&format!("{name}[{number}]."), facts))
            });
            misses.collect()
        };
        match self.part {
            Part::Http => self.rule.http_clauses().take(1).collect(),
            Part::From => of_alternatives("from", &self.rule.from),
            Part::To => of_alternatives("to", &self.rule.to),
            Part::When => first_failing(&self.rule.when, facts)
                .map(|clause| clause.miss("when ", facts))
                .into_iter()
                .collect(),
        }
    }
}

fn first_failing<'c>(clauses: &'c [Clause], facts: &Facts<'_>) -> Option<&'c Clause> {
    clauses.iter().find(|clause| !clause.holds(facts))
}

impl Clause {
    /// The value is one of those wanted, or none of those not wanted. What a TCP connection cannot answer holds: ALLOW
    /// rules with such a field have failed before, and others are read without it.
    fn holds(&self, facts: &Facts<'_>) -> bool {
        (self.test.needs_http() && facts.http.is_none())
            || self.test.matches(facts, self.lines) != self.is_not
    }

    /// Whether its values are what must be there, not what must not.
    pub(super) fn is_positive(&self) -> bool {
        !self.is_not
    }

    fn miss(&self, place: &str, facts: &Facts<'_>) -> Miss {
        Miss {
            field: format!("{place}{}", self.field),
            expected: self.expected.clone(),
            seen: self.test.seen(facts),
        }
    }
}

impl Test {
    pub(super) fn needs_http(&self) -> bool {
        match self {
            Self::Text(fact, _) => fact.needs_http(),
            Self::Path(..) => true,
            Self::Address(..) | Self::ServiceAccount(_) | Self::DestinationPort(_) => false,
        }
    }

    /// Whether one of the values matches. What is not known matches none.
    fn matches(&self, facts: &Facts<'_>, lines: Lines) -> bool {
        match self {
            Self::Text(TextFact::Header(name), texts) => {
                let of = |http: &HttpFacts<'_>| lines.match_in(&http.headers.lines(name), texts);
                facts.http.as_ref().is_some_and(of)
            }
            Self::Text(fact, texts) => fact.texts(facts).any(|text| texts.matches(text)),
            Self::Path(texts, templates) => facts.http.as_ref().is_some_and(|http| {
                let path = http.path.path();
                texts.matches(path) || templates.matches(path)
            }),
            Self::Address(fact, ranges) => ranges.contains(fact.address(facts)),
            Self::ServiceAccount(accounts) => {
                facts.peer.and_then(service_account).is_some_and(|(namespace, name)| {
                    accounts
                        .iter()
                        .any(|account| account.namespace == namespace && Some(account.name.as_str()) == name)
                })
            }
            Self::DestinationPort(ports) => ports.binary_search(&facts.destination.port()).is_ok(),
        }
    }

    /// The fact that is compared, for a person.
    fn seen(&self, facts: &Facts<'_>) -> String {
        match self {
            Self::Text(fact, _) => fact.seen(facts),
            Self::Path(..) => TextFact::Path.seen(facts),
            Self::Address(fact, _) => quoted(&fact.address(facts).to_canonical().to_string()),
            Self::ServiceAccount(_) => {
                let account = facts.peer.and_then(service_account);
                let full = account.and_then(|(namespace, name)| Some(format!("{namespace}/{}", name?)));
                super::fact::seen_of_peer(facts, full.as_deref())
            }
            Self::DestinationPort(_) => quoted(&facts.destination.port().to_string()),
        }
    }
}

impl Lines {
    /// Whether the lines of a header match; none do where there are none.
    fn match_in(self, lines: &[&[u8]], texts: &Texts) -> bool {
        match (self, lines) {
            (_, []) => false,
            (_, [line]) => texts.matches(line),
            (Self::Each, lines) => lines.iter().all(|line| texts.matches(line)),
            (Self::One, lines) => {
                lines.iter().any(|line| texts.matches(line)) || texts.matches(lines.join(&b','))
            }
        }
    }
}

fn source_clauses(source: &Source, trust_domains: &TrustDomains) -> Vec<Clause> {
    let Source {
        principals,
        namespaces,
        service_accounts,
        trust_domains: domains,
        ip_blocks,
        remote_ip_blocks,
    } = source;
    [
        principal_clauses(["source.principals", "source.notPrincipals"], principals, trust_domains),
        text_clauses(["source.namespaces", "source.notNamespaces"], namespaces, &TextFact::Namespace),
        clauses(["source.serviceAccounts", "source.notServiceAccounts"], service_accounts, |values| {
            Test::ServiceAccount(values.to_vec())
        }),
        trust_domain_clauses(["source.trustDomains", "source.notTrustDomains"], domains, trust_domains),
        address_clauses(["source.ipBlocks", "source.notIpBlocks"], ip_blocks, AddressFact::Source),
        address_clauses(
            ["source.remoteIpBlocks", "source.notRemoteIpBlocks"],
            remote_ip_blocks,
            AddressFact::Remote,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn operation_clauses(operation: &Operation) -> Vec<Clause> {
    let Operation { hosts, ports, methods, paths } = operation;
    [
        clauses(["operation.ports", "operation.notPorts"], ports, port_test),
        text_clauses(["operation.hosts", "operation.notHosts"], hosts, &TextFact::Host),
        text_clauses(["operation.methods", "operation.notMethods"], methods, &TextFact::Method),
        clauses(["operation.paths", "operation.notPaths"], paths, path_test),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn path_test(paths: &[PathPattern]) -> Test {
    let (mut texts, mut templates) = (Vec::new(), Vec::new());
    for path in paths {
        match path {
            PathPattern::Text(pattern) => texts.push(pattern),
            PathPattern::Template(template) => templates.push(template),
        }
    }
    Test::Path(texts.into_iter().collect(), templates.into_iter().collect())
}

fn port_test(ports: &[u16]) -> Test {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    Test::DestinationPort(ports)
}

fn condition_clauses(condition: &Condition, trust_domains: &TrustDomains) -> Vec<Clause> {
    macro_rules! names {
        ($key:literal) => {
            [concat!($key, " values"), concat!($key, " notValues")]
        };
    }
    match condition {
        Condition::Header(name, values) => {
            let fact = match name.as_str() {
                ":authority" => TextFact::Host,
                ":method" => TextFact::Method,
                ":path" => TextFact::PathAndQuery,
                _ => TextFact::Header(name.clone()),
            };
            let names = ["values", "notValues"].map(|which| format!("request.headers[{name}] {which}"));
            text_clauses(names, values, &fact)
        }
        Condition::SourceIp(values) => address_clauses(names!("source.ip"), values, AddressFact::Source),
        Condition::RemoteIp(values) => address_clauses(names!("remote.ip"), values, AddressFact::Remote),
        Condition::SourceNamespace(values) => {
            text_clauses(names!("source.namespace"), values, &TextFact::Namespace)
        }
        Condition::SourceServiceAccount(values) => {
            clauses(names!("source.serviceAccount"), values, |values| Test::ServiceAccount(values.to_vec()))
        }
        Condition::SourceTrustDomain(values) => {
            trust_domain_clauses(names!("source.trustDomain"), values, trust_domains)
        }
        Condition::SourcePrincipal(values) => {
            principal_clauses(names!("source.principal"), values, trust_domains)
        }
        Condition::DestinationIp(values) => {
            address_clauses(names!("destination.ip"), values, AddressFact::Destination)
        }
        Condition::DestinationPort(values) => clauses(names!("destination.port"), values, port_test),
        Condition::Sni(values) => text_clauses(names!("connection.sni"), values, &TextFact::Sni),
    }
}

fn principal_clauses(
    names: [&'static str; 2],
    principals: &Match<Pattern>,
    trust_domains: &TrustDomains,
) -> Vec<Clause> {
    clauses(names, principals, |values| {
        let values: Vec<Pattern> = values.iter().flat_map(|value| trust_domains.principals(value)).collect();
        Test::Text(TextFact::Principal, values.iter().collect())
    })
}

fn trust_domain_clauses(
    names: [&'static str; 2],
    values: &Match<Pattern>,
    trust_domains: &TrustDomains,
) -> Vec<Clause> {
    clauses(names, values, |values| {
        let values: Vec<Pattern> =
            values.iter().flat_map(|value| trust_domains.trust_domains(value)).collect();
        Test::Text(TextFact::TrustDomain, values.iter().collect())
    })
}

fn address_clauses(names: [&'static str; 2], blocks: &Match<IpNet>, fact: AddressFact) -> Vec<Clause> {
    clauses(names, blocks, |blocks| Test::Address(fact, Ranges::from(blocks)))
}

fn text_clauses(
    names: [impl Into<Cow<'static, str>>; 2],
    values: &Match<Pattern>,
    fact: &TextFact,
) -> Vec<Clause> {
    clauses(names, values, |values| Test::Text(fact.clone(), values.iter().collect()))
}

/// The clause of a field and that of its `not…` twin, each where it has values.
fn clauses<T: ToString>(
    names: [impl Into<Cow<'static, str>>; 2],
    values: &Match<T>,
    test: impl Fn(&[T]) -> Test,
) -> Vec<Clause> {
    let [name, not_name] = names;
    let clause = |field: Cow<'static, str>, values: &[T], is_not: bool| {
        let expected = || format!("{}{}", if is_not { "none of " } else { "" }, some_of(values));
        (!values.is_empty()).then(|| Clause {
            field,
            is_not,
            test: test(values),
            lines: Lines::One,
            expected: expected(),
        })
    };
    let positive = clause(name.into(), &values.values, false);
    let negative = clause(not_name.into(), &values.not_values, true);
    positive.into_iter().chain(negative).collect()
}

/// The first values, and how many more there are.
fn some_of<T: ToString>(values: &[T]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = values.iter().take(SHOWN).map(|value| quoted(&value.to_string())).collect();
    let more = values.len() - shown.len();
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} or {more} more") }
}
