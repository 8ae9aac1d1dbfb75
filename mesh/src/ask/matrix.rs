//! Who may call whom: every known workload asks every other, and a stranger in plaintext asks too.
//!
//! The policies give the words (which methods and paths are worth a question); whether something is allowed is always
//! asked, by [`may`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::question::{Asked, Question};
use super::{ask, may};
use crate::known::Known;
use crate::policy::Snapshot;
use crate::policy::authz::PolicyDescription;
use crate::resource::Resources;
use crate::spiffe::SpiffeId;

/// Methods that are asked for in any case.
const COMMON_METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Stands for every method that nobody names.
const OTHER_METHOD: &str = "X-NAMED-NOWHERE";
/// Stands for every path that no rule names.
const OTHER_PATH: &str = "/x-named-nowhere";
/// A caller without a sidecar.
const PLAINTEXT: &str = "plaintext";

/// All pairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Matrix {
    /// Who calls: `namespace/service account`, and `plaintext`.
    pub callers: Vec<String>,
    /// Who is called.
    pub called: Vec<String>,
    /// Each pair with each port, in the order of callers, called and ports.
    pub pairs: Vec<Pair>,
    /// What the questions leave out.
    pub notes: Vec<String>,
}

/// What a caller may do at one port of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// Who calls.
    pub from: String,
    /// Who is called.
    pub to: String,
    /// The port of the workload; none where none is declared, and any is meant.
    pub port: Option<u16>,
    /// In short.
    pub access: Access,
    /// The requests that are allowed, where not all are.
    pub may: Vec<May>,
    /// Why everything is allowed, or nothing.
    pub because: Option<String>,
}

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Nothing.
    None,
    /// Some requests.
    Some,
    /// Everything.
    All,
}

/// Requests that are allowed: each of the methods with each of the paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct May {
    /// Methods; none is every one.
    pub methods: Vec<String>,
    /// Paths as the rules have them; none is every one.
    pub paths: Vec<String>,
}

/// Asks for all pairs of `known`.
#[must_use]
pub fn matrix(resources: &Resources, known: &[Known]) -> Matrix {
    let callers = callers(known);
    let mut called: Vec<Called<'_>> = known.iter().map(|one| Called::new(one, known, resources)).collect();
    called.sort_by(|one, other| one.name.cmp(&other.name));
    let mut pairs = Vec::new();
    for (from, caller) in &callers {
        pairs.extend(called.iter().flat_map(|called| called.asked_by(from, caller.as_ref())));
    }
    Matrix {
        notes: called.iter().filter_map(Called::note).collect(),
        callers: callers.into_iter().map(|(name, _)| name).collect(),
        called: called.into_iter().map(|called| called.name).collect(),
        pairs,
    }
}

/// Who has a sidecar calls by its identity; everybody else is `plaintext`.
fn callers(known: &[Known]) -> Vec<(String, Option<SpiffeId>)> {
    let with_sidecar = known.iter().filter(|known| known.has_sidecar);
    let named: BTreeMap<String, SpiffeId> =
        with_sidecar.filter_map(|known| Some((known.name(), known.identity()?))).collect();
    let named = named.into_iter().map(|(name, id)| (name, Some(id)));
    named.chain([(PLAINTEXT.to_owned(), None)]).collect()
}

/// A workload that is called.
struct Called<'k> {
    name: String,
    known: &'k Known,
    /// None where no sidecar asks anybody.
    snapshot: Option<Snapshot>,
    /// By number; none where no port is declared and any stands for all.
    doors: Vec<(Option<u16>, u16)>,
    words: Words,
}

impl<'k> Called<'k> {
    fn new(known: &'k Known, all: &[Known], resources: &Resources) -> Self {
        let name = name_among(known, all);
        let snapshot = known.has_sidecar.then(|| Snapshot::build(resources, &known.workload, &known.config));
        let words = snapshot.iter().map(|snapshot| Words::of(&snapshot.authorization.describe())).next();
        let words = words.unwrap_or_default();
        let doors = snapshot.as_ref().map(|snapshot| doors(snapshot, &words)).unwrap_or_default();
        Self { name, known, snapshot, doors, words }
    }

    fn asked_by(&self, from: &str, caller: Option<&SpiffeId>) -> Vec<Pair> {
        let pair = |port, access, may, because| Pair {
            from: from.to_owned(),
            to: self.name.clone(),
            port,
            access,
            may,
            because,
        };
        let Some(snapshot) = &self.snapshot else {
            let because = "no sidecar stands beside it, so nobody asks".to_owned();
            return vec![pair(None, Access::All, Vec::new(), Some(because))];
        };
        let of_door = |(port, number): &(Option<u16>, u16)| {
            let question = |asked| Question::about(caller.cloned(), *number, asked);
            let allowed = if snapshot.reads_http(*number) {
                self.words.allowed(|asked| may(snapshot, &question(Some(asked))))
            } else if may(snapshot, &question(None)) {
                Allowed::All
            } else {
                Allowed::None
            };
            let because = || {
                let steps = ask(snapshot, &self.known.workload, &question(None)).steps;
                steps.into_iter().next_back().map(|last| last.because)
            };
            match allowed {
                Allowed::All => pair(*port, Access::All, Vec::new(), because()),
                Allowed::None => pair(*port, Access::None, Vec::new(), because()),
                Allowed::Some(some) => pair(*port, Access::Some, some, None),
            }
        };
        self.doors.iter().map(of_door).collect()
    }

    fn note(&self) -> Option<String> {
        let also = &self.words.not_varied;
        let also: Vec<&str> = also.iter().map(String::as_str).collect();
        (!also.is_empty()).then(|| {
            format!(
                "{}: rules ask for {} too; asked with the service's own host, without headers and addresses",
                self.name,
                also.join(", ")
            )
        })
    }
}

/// With the labels that tell it from others of its name.
fn name_among(known: &Known, all: &[Known]) -> String {
    let others: Vec<&Known> =
        all.iter().filter(|other| other.name() == known.name() && *other != known).collect();
    let differs = |(name, value): &(&String, &String)| {
        others.iter().any(|other| other.workload.labels.get(*name) != Some(*value))
    };
    let labels = known.workload.labels.iter().filter(differs).map(|(name, value)| format!("{name}={value}"));
    let labels: Vec<String> = labels.collect();
    if labels.is_empty() { known.name() } else { format!("{} ({})", known.name(), labels.join(", ")) }
}

/// The ports worth a question: those that are declared or have a mode of their own, and those that rules name.
fn doors(snapshot: &Snapshot, words: &Words) -> Vec<(Option<u16>, u16)> {
    let declared = snapshot.own_ports().map(|(port, _)| port);
    let with_mode = snapshot.modes.ports().map(|(port, _)| port);
    let ports: BTreeSet<u16> = declared.chain(with_mode).chain(words.ports.iter().copied()).collect();
    if ports.is_empty() {
        return vec![(None, 1)];
    }
    ports.into_iter().map(|port| (Some(port), port)).collect()
}

/// What is allowed of all that can be said in some words.
enum Allowed {
    All,
    None,
    Some(Vec<May>),
}

/// What the rules of a workload speak of.
#[derive(Debug, Default)]
struct Words {
    methods: BTreeSet<String>,
    /// Paths as rules have them.
    paths: BTreeSet<String>,
    ports: BTreeSet<u16>,
    /// Fields and keys that the questions do not vary.
    not_varied: BTreeSet<String>,
}

impl Words {
    fn of(policies: &[PolicyDescription]) -> Self {
        let mut words = Self::default();
        for rule in policies.iter().filter(|policy| !policy.dry_run).flat_map(|policy| &policy.rules) {
            for (field, values) in rule.from.iter().chain(&rule.to).flatten() {
                words.take(field, values);
            }
            for condition in &rule.when {
                words.take(&condition.key, &[condition.values.as_slice(), &condition.not_values].concat());
            }
        }
        words
    }

    fn take(&mut self, field: &str, values: &[String]) {
        let values = || values.iter().cloned();
        match field {
            "methods" | "notMethods" | "request.headers[:method]" => {
                self.methods.extend(values().filter(|method| !method.contains('*')));
            }
            "paths" | "notPaths" => self.paths.extend(values().filter(|path| path != "*")),
            "ports" => self.ports.extend(values().filter_map(|port| port.parse::<u16>().ok())),
            "notPorts" | "destination.port" => {}
            who if who.contains("rincipal") || who.contains("amespace") || who.contains("ccount") => {}
            who if who.contains("rustDomain") => {}
            other => {
                self.not_varied.insert(other.to_owned());
            }
        }
    }

    /// What `may` says to each method with each path.
    fn allowed(&self, may: impl Fn(Asked) -> bool) -> Allowed {
        let mut methods: Vec<&str> = COMMON_METHODS.to_vec();
        methods.extend(self.methods.iter().map(String::as_str).filter(|name| !COMMON_METHODS.contains(name)));
        methods.push(OTHER_METHOD);
        let named = self.paths.iter().map(|path| (path.as_str(), example(path)));
        let paths: Vec<(&str, String)> = named.chain([(OTHER_PATH, OTHER_PATH.to_owned())]).collect();
        let allowed_of = |path: &str| -> Vec<&str> {
            let asks = |method: &&str| Asked {
                method: (*method).to_owned(),
                path: path.to_owned(),
                host: None,
                headers: Vec::new(),
            };
            methods.iter().copied().filter(|method| may(asks(method))).collect()
        };
        let mut by_methods: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        for (name, example) in &paths {
            by_methods.entry(allowed_of(example)).or_default().push(name);
        }
        by_methods.remove(&[][..]);
        let may = |(of, paths_of): (Vec<&str>, Vec<&str>)| May {
            methods: if of.len() == methods.len() { Vec::new() } else { of.into_iter().map(shown).collect() },
            paths: if paths_of.len() == paths.len() {
                Vec::new()
            } else {
                paths_of.into_iter().map(shown).collect()
            },
        };
        let some: Vec<May> = by_methods.into_iter().map(may).collect();
        match some.as_slice() {
            [] => Allowed::None,
            [May { methods, paths }] if methods.is_empty() && paths.is_empty() => Allowed::All,
            _ => Allowed::Some(some),
        }
    }
}

fn shown(word: &str) -> String {
    match word {
        OTHER_METHOD => "every other method".to_owned(),
        OTHER_PATH => "every other path".to_owned(),
        word => word.to_owned(),
    }
}

/// A path that a value of `paths` matches.
fn example(pattern: &str) -> String {
    let path = pattern.replace("{**}", "x/x").replace("{*}", "x");
    match (path.strip_prefix('*'), path.strip_suffix('*')) {
        (Some(end), _) => format!("/x{end}"),
        (None, Some(start)) => format!("{start}x"),
        (None, None) => path,
    }
}
