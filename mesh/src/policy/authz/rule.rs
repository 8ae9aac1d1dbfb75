//! A rule, compiled: ANY source, ANY operation, ALL conditions; of a source or operation ALL fields; of a field ANY
//! value, or NONE of the values of its `not…` twin.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::aliases::TrustDomains;
use super::facts::{Facts, HttpFacts};
use super::matcher::{Ranges, Texts, service_account};
use super::ports::PortSet;
use super::verdict::{Miss, RuleName};
use crate::policy::path::Template;
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
    Principal(Texts, Vec<Pattern>),
    Namespace(Texts, Vec<Pattern>),
    ServiceAccount(Vec<ServiceAccount>),
    TrustDomain(Texts),
    SourceIp(Ranges),
    RemoteIp(Ranges),
    DestinationIp(Ranges),
    DestinationPort(Vec<u16>),
    Sni(Texts),
    Host(Texts),
    Method(Texts),
    Path(Texts, Vec<Template>),
    PathAndQuery(Texts),
    Header(String, Texts),
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
        let identity = matches!(
            self.test,
            Test::Principal(..) | Test::Namespace(..) | Test::ServiceAccount(_) | Test::TrustDomain(_)
        );
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
        if self.action == Action::Allow && facts.http.is_none() && self.http_clauses().next().is_some() {
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
        let is_nameless = |clause: &Clause| {
            clause.is_not
                && matches!(&clause.test, Test::Principal(_, principals) if *principals == [Pattern::Present])
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
    fn needs_http(&self) -> bool {
        matches!(
            self,
            Self::Host(_) | Self::Method(_) | Self::Path(..) | Self::PathAndQuery(_) | Self::Header(..)
        )
    }

    /// Whether one of the values matches. What is not known matches none.
    fn matches(&self, facts: &Facts<'_>, lines: Lines) -> bool {
        let peer = facts.peer;
        let http = |matches: &dyn Fn(&HttpFacts<'_>) -> bool| facts.http.as_ref().is_some_and(matches);
        match self {
            Self::Principal(texts, _) => peer.is_some_and(|peer| texts.matches(peer.principal())),
            Self::Namespace(texts, _) => {
                peer.and_then(service_account).is_some_and(|(namespace, _)| texts.matches(namespace))
            }
            Self::ServiceAccount(accounts) => {
                peer.and_then(service_account).is_some_and(|(namespace, name)| {
                    accounts
                        .iter()
                        .any(|account| account.namespace == namespace && Some(account.name.as_str()) == name)
                })
            }
            Self::TrustDomain(texts) => peer.is_some_and(|peer| texts.matches(peer.trust_domain().as_str())),
            Self::SourceIp(ranges) => ranges.contains(facts.source),
            Self::RemoteIp(ranges) => ranges.contains(facts.remote),
            Self::DestinationIp(ranges) => ranges.contains(facts.destination.ip()),
            Self::DestinationPort(ports) => ports.contains(&facts.destination.port()),
            Self::Sni(texts) => sni(facts).is_some_and(|sni| texts.matches(sni.to_ascii_lowercase())),
            // Whoever names a port of the host means the same host.
            Self::Host(texts) => {
                http(&|http| texts.matches(http.host.name()) || texts.matches(http.host.as_str()))
            }
            Self::Method(texts) => http(&|http| texts.matches(http.method)),
            Self::Path(texts, templates) => http(&|http| {
                let path = http.path.path();
                texts.matches(path) || templates.iter().any(|template| template.matches(path))
            }),
            Self::PathAndQuery(texts) => http(&|http| texts.matches(http.path.path_and_query())),
            Self::Header(name, texts) => http(&|http| lines.match_in(&http.headers.lines(name), texts)),
        }
    }

    /// The fact that is compared, for a person.
    fn seen(&self, facts: &Facts<'_>) -> String {
        const NOBODY: &str = "no identity (plaintext)";
        let of_peer = |text: Option<&str>| match (facts.peer, text) {
            (None, _) => NOBODY.to_owned(),
            (Some(_), Some(text)) => quoted(text),
            (Some(peer), None) => quoted(peer.principal()),
        };
        let of_http = |text: &dyn Fn(&HttpFacts<'_>) -> String| {
            facts.http.as_ref().map_or_else(|| "a TCP connection".to_owned(), text)
        };
        let address = |address: IpAddr| quoted(&address.to_canonical().to_string());
        let account = facts.peer.and_then(service_account);
        match self {
            Self::Principal(..) => of_peer(None),
            Self::Namespace(..) => of_peer(account.map(|(namespace, _)| namespace)),
            Self::ServiceAccount(_) => {
                let full = account.and_then(|(namespace, name)| Some(format!("{namespace}/{}", name?)));
                of_peer(full.as_deref())
            }
            Self::TrustDomain(_) => {
                of_peer(facts.peer.map(|peer| peer.trust_domain().as_str().to_owned()).as_deref())
            }
            Self::SourceIp(_) => address(facts.source),
            Self::RemoteIp(_) => address(facts.remote),
            Self::DestinationIp(_) => address(facts.destination.ip()),
            Self::DestinationPort(_) => quoted(&facts.destination.port().to_string()),
            Self::Sni(_) => sni(facts).map_or_else(|| "no server name".to_owned(), quoted),
            Self::Host(_) => of_http(&|http| quoted(http.host.as_str())),
            Self::Method(_) => of_http(&|http| quoted(http.method)),
            Self::Path(..) => of_http(&|http| quoted(http.path.path())),
            Self::PathAndQuery(_) => of_http(&|http| quoted(http.path.path_and_query())),
            Self::Header(name, _) => of_http(&|http| match http.headers.lines(name).as_slice() {
                [] => "no such header".to_owned(),
                lines if is_secret(name) => format!("a value of {} bytes", lines.concat().len()),
                lines => {
                    let shown = |line: &&[u8]| quoted(&String::from_utf8_lossy(line));
                    lines.iter().map(shown).collect::<Vec<_>>().join(" and ")
                }
            }),
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

fn sni<'f>(facts: &Facts<'f>) -> Option<&'f str> {
    facts.sni.filter(|sni| !sni.is_empty())
}

/// Headers whose values go into no log and no answer.
fn is_secret(header: &str) -> bool {
    const SECRET: [&str; 4] = ["authorization", "cookie", "token", "key"];
    SECRET.iter().any(|part| header.contains(part))
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
        clauses(["source.namespaces", "source.notNamespaces"], namespaces, |values| {
            Test::Namespace(values.iter().collect(), values.to_vec())
        }),
        clauses(["source.serviceAccounts", "source.notServiceAccounts"], service_accounts, |values| {
            Test::ServiceAccount(values.to_vec())
        }),
        trust_domain_clauses(["source.trustDomains", "source.notTrustDomains"], domains, trust_domains),
        address_clauses(["source.ipBlocks", "source.notIpBlocks"], ip_blocks, Test::SourceIp),
        address_clauses(
            ["source.remoteIpBlocks", "source.notRemoteIpBlocks"],
            remote_ip_blocks,
            Test::RemoteIp,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn operation_clauses(operation: &Operation) -> Vec<Clause> {
    let Operation { hosts, ports, methods, paths } = operation;
    [
        clauses(["operation.ports", "operation.notPorts"], ports, |ports| {
            Test::DestinationPort(ports.to_vec())
        }),
        clauses(["operation.hosts", "operation.notHosts"], hosts, |hosts| Test::Host(hosts.iter().collect())),
        clauses(["operation.methods", "operation.notMethods"], methods, |methods| {
            Test::Method(methods.iter().collect())
        }),
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
            PathPattern::Template(template) => templates.push(template.clone()),
        }
    }
    Test::Path(texts.into_iter().collect(), templates)
}

fn condition_clauses(condition: &Condition, trust_domains: &TrustDomains) -> Vec<Clause> {
    macro_rules! names {
        ($key:literal) => {
            [concat!($key, " values"), concat!($key, " notValues")]
        };
    }
    match condition {
        Condition::Header(name, values) => {
            let test = |values: &[Pattern]| {
                let texts = values.iter().collect();
                match name.as_str() {
                    ":authority" => Test::Host(texts),
                    ":method" => Test::Method(texts),
                    ":path" => Test::PathAndQuery(texts),
                    _ => Test::Header(name.clone(), texts),
                }
            };
            let names = ["values", "notValues"].map(|which| format!("request.headers[{name}] {which}"));
            clauses(names, values, test)
        }
        Condition::SourceIp(values) => address_clauses(names!("source.ip"), values, Test::SourceIp),
        Condition::RemoteIp(values) => address_clauses(names!("remote.ip"), values, Test::RemoteIp),
        Condition::SourceNamespace(values) => clauses(names!("source.namespace"), values, |values| {
            Test::Namespace(values.iter().collect(), values.to_vec())
        }),
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
            address_clauses(names!("destination.ip"), values, Test::DestinationIp)
        }
        Condition::DestinationPort(values) => {
            clauses(names!("destination.port"), values, |ports| Test::DestinationPort(ports.to_vec()))
        }
        Condition::Sni(values) => {
            clauses(names!("connection.sni"), values, |values| Test::Sni(values.iter().collect()))
        }
    }
}

fn principal_clauses(
    names: [&'static str; 2],
    principals: &Match<Pattern>,
    trust_domains: &TrustDomains,
) -> Vec<Clause> {
    clauses(names, principals, |values| {
        let values: Vec<Pattern> = values.iter().flat_map(|value| trust_domains.principals(value)).collect();
        Test::Principal(values.iter().collect(), values)
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
        Test::TrustDomain(values.iter().collect())
    })
}

fn address_clauses(
    names: [&'static str; 2],
    blocks: &Match<IpNet>,
    test: impl Fn(Ranges) -> Test,
) -> Vec<Clause> {
    clauses(names, blocks, |blocks| test(Ranges::from(blocks)))
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
