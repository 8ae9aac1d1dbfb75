//! For whom a snapshot is made: every known workload with a sidecar, and a supposed one where a resource asks for
//! somebody whom nobody told of, so that what it means is found all the same.

use std::collections::BTreeSet;

use crate::known::Known;
use crate::resource::Resources;
use crate::spiffe::TrustDomain;
use crate::workload::{Labels, MeshConfig, Selector, Workload};

/// A workload through whose eyes the resources are seen.
pub(super) struct Viewer<'k> {
    pub(super) workload: Workload,
    pub(super) config: MeshConfig,
    /// None for a supposed one.
    pub(super) known: Option<&'k Known>,
}

/// What decides which services a workload sees, and how it dials them.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    namespace: String,
    trust_domain: TrustDomain,
    root_namespace: String,
    trust_domain_aliases: Vec<TrustDomain>,
    /// The DestinationRules that are for some clients of a namespace, and for this one.
    rules: Vec<usize>,
}

impl Viewer<'_> {
    pub(super) fn view(&self, resources: &Resources) -> View {
        let Self { workload, config, .. } = self;
        let numbered = resources.destination_rules.iter().enumerate();
        let for_this = numbered.filter(|(_, rule)| {
            rule.workload_selector.as_ref().is_some_and(|selector| selector.matches(&workload.labels))
        });
        View {
            namespace: workload.namespace.clone(),
            trust_domain: workload.trust_domain.clone(),
            root_namespace: config.root_namespace.clone(),
            trust_domain_aliases: config.trust_domain_aliases.clone(),
            rules: for_this.map(|(number, _)| number).collect(),
        }
    }
}

/// A workload that a resource asks for.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Wanted<'r> {
    /// None is any.
    namespace: Option<&'r str>,
    labels: Option<&'r Labels>,
    /// Where it is supposed, if nobody is known.
    at: &'r str,
}

pub(super) fn all<'k>(resources: &Resources, known: &'k [Known], config: &MeshConfig) -> Vec<Viewer<'k>> {
    let with_sidecar = known.iter().filter(|known| known.has_sidecar);
    let viewer = |known: &'k Known| Viewer {
        workload: known.workload.clone(),
        config: known.config.clone(),
        known: Some(known),
    };
    let mut viewers: Vec<Viewer<'k>> = with_sidecar.map(viewer).collect();
    let of_first = known.first().map(|known| known.workload.trust_domain.clone());
    let Some(trust_domain) = of_first.or_else(|| "cluster.local".parse().ok()) else { return viewers };
    for wanted in wanted(resources, &config.root_namespace) {
        if !viewers.iter().any(|viewer| wanted.is(&viewer.workload)) {
            let workload = wanted.supposed(&trust_domain);
            viewers.push(Viewer { workload, config: config.clone(), known: None });
        }
    }
    viewers
}

impl Wanted<'_> {
    fn is(&self, workload: &Workload) -> bool {
        let picks =
            |wanted: &Labels| wanted.iter().all(|(name, value)| workload.labels.get(name) == Some(value));
        self.namespace.is_none_or(|namespace| namespace == workload.namespace)
            && self.labels.is_none_or(picks)
    }

    fn supposed(&self, trust_domain: &TrustDomain) -> Workload {
        Workload {
            name: String::new(),
            trust_domain: trust_domain.clone(),
            namespace: self.at.to_owned(),
            service_account: String::new(),
            labels: self.labels.cloned().unwrap_or_default(),
        }
    }
}

/// The workloads that resources speak of, those by labels first: they stand for their namespace too.
fn wanted<'r>(resources: &'r Resources, root_namespace: &str) -> Vec<Wanted<'r>> {
    fn labels(selector: &Option<Selector>) -> Option<&Labels> {
        selector.as_ref().map(|selector| &selector.match_labels).filter(|labels| !labels.is_empty())
    }
    let within =
        |at: &'r str, labels| Wanted { namespace: Some(at).filter(|at| *at != root_namespace), labels, at };
    let mut wanted = BTreeSet::new();
    for policy in &resources.peer_authentications {
        wanted.insert(within(&policy.meta.namespace, labels(&policy.selector)));
    }
    for policy in &resources.authorization_policies {
        wanted.insert(within(&policy.meta.namespace, labels(&policy.selector)));
    }
    for rule in &resources.destination_rules {
        wanted.insert(within(&rule.meta.namespace, labels(&rule.workload_selector)));
    }
    for entry in &resources.service_entries {
        wanted.insert(within(&entry.meta.namespace, None));
    }
    for gateway in &resources.gateways {
        let labels = Some(&gateway.selector.match_labels).filter(|labels| !labels.is_empty());
        wanted.insert(Wanted { namespace: None, labels, at: &gateway.meta.namespace });
    }
    // Whoever comes: what is told of the folder as a whole is told to somebody.
    let anybody = Wanted { namespace: None, labels: None, at: "default" };
    let (by_labels, others): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|wanted| wanted.labels.is_some());
    by_labels.into_iter().chain(others).chain([anybody]).collect()
}
