//! The workloads that are known: endpoints of `ServiceEntry`, `WorkloadEntry` resources, and sidecars whose settings are at
//! hand. What a whole mesh folder means is told for these.

use std::collections::HashMap;

use crate::registry::WorkloadEntries;
use crate::resource::{Location, Resources, ServiceEntry, WorkloadEntry};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{Labels, MeshConfig, Selector, Workload};

/// A sidecar whose settings are at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Who it stands for, with all labels.
    pub workload: Workload,
    /// What it takes for the whole mesh.
    pub config: MeshConfig,
    /// Where that is written.
    pub place: String,
    /// Whether it accepts connections for an app; at the edge of the mesh a proxy has none.
    pub accepts: bool,
}

/// A workload that somebody told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it is. The service account is empty where nobody says.
    pub workload: Workload,
    /// What its sidecar takes for the whole mesh.
    pub config: MeshConfig,
    /// `file:line` of what tells of it.
    pub place: String,
    /// Whether a sidecar stands beside it.
    pub has_sidecar: bool,
    /// Whether it accepts connections for an app, as far as is known.
    pub accepts: bool,
    /// Whether a `ServiceEntry` leads to it.
    pub is_service: bool,
    /// Whether it has no labels but those of `workload`. An endpoint need not name all.
    has_all_labels: bool,
}

/// Whether a selector picks a workload, for all that is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    Surely,
    /// It does if the workload has a label that nobody tells of.
    Perhaps,
    Not,
}

impl Known {
    /// `namespace/service account`, as findings and tables have it.
    #[must_use]
    pub fn name(&self) -> String {
        let Workload { namespace, service_account, name, .. } = &self.workload;
        format!("{namespace}/{}", if service_account.is_empty() { name } else { service_account })
    }

    /// Its SPIFFE ID, where the service account is known.
    #[must_use]
    pub fn identity(&self) -> Option<SpiffeId> {
        self.workload.id().ok()
    }

    pub(crate) fn picked_by(&self, selector: &Selector) -> Pick {
        let labels = &self.workload.labels;
        let differs = |(name, value): (&String, &String)| {
            labels.get(name).map_or(self.has_all_labels, |own| own != value)
        };
        if selector.matches(labels) {
            Pick::Surely
        } else if selector.match_labels.iter().any(differs) {
            Pick::Not
        } else {
            Pick::Perhaps
        }
    }

    fn account(&self) -> (String, String) {
        (self.workload.namespace.clone(), self.workload.service_account.clone())
    }

    fn of_sidecar(sidecar: &Sidecar) -> Self {
        let Sidecar { workload, config, place, accepts } = sidecar.clone();
        Self { workload, config, place, has_sidecar: true, accepts, is_service: false, has_all_labels: true }
    }

    fn of_endpoint(
        endpoint: &WorkloadEntry,
        trust_domain: &TrustDomain,
        config: &MeshConfig,
        is_service: bool,
    ) -> Self {
        let app = endpoint.labels.get("app").unwrap_or(&endpoint.address);
        Self {
            workload: Workload {
                name: app.clone(),
                trust_domain: trust_domain.clone(),
                namespace: endpoint.meta.namespace.clone(),
                service_account: endpoint.service_account.clone().unwrap_or_default(),
                labels: endpoint.labels.clone(),
            },
            config: config.clone(),
            place: endpoint.meta.place.clone(),
            has_sidecar: endpoint.has_sidecar(),
            accepts: true,
            is_service,
            has_all_labels: false,
        }
    }

    /// Whether this, of which more is known, is the same as `other`.
    fn takes_in(&self, other: &Known) -> bool {
        let (own, others) = (&self.workload, &other.workload);
        let is_one = own.namespace == others.namespace
            && own.service_account == others.service_account
            && self.has_sidecar == other.has_sidecar;
        is_one
            && if self.has_all_labels {
                within(&others.labels, &own.labels)
            } else {
                own.labels == others.labels
            }
    }
}

/// Each workload once, however many endpoints it has: those of `sidecars` first, then in reading order. `config` holds
/// for those of which only the resources tell; their trust domain is that of the first sidecar, else `cluster.local`.
#[must_use]
pub fn known_workloads(resources: &Resources, sidecars: &[Sidecar], config: &MeshConfig) -> Vec<Known> {
    let mut known: Vec<Known> = sidecars.iter().map(Known::of_sidecar).collect();
    let of_first = sidecars.first().map(|sidecar| sidecar.workload.trust_domain.clone());
    let Some(trust_domain) = of_first.or_else(|| "cluster.local".parse().ok()) else { return known };
    let entries = WorkloadEntries::new(&resources.workload_entries);
    let selected = resources.service_entries.iter().flat_map(|entry| members(entry, &entries));
    let of_services = selected.map(|endpoint| Known::of_endpoint(endpoint, &trust_domain, config, true));
    let others = resources.workload_entries.iter();
    let others = others.map(|endpoint| Known::of_endpoint(endpoint, &trust_domain, config, false));
    let mut by_account: HashMap<(String, String), Vec<usize>> = HashMap::new();
    for (number, sidecar) in known.iter().enumerate() {
        by_account.entry(sidecar.account()).or_default().push(number);
    }
    for endpoint in of_services.chain(others) {
        let alike = by_account.entry(endpoint.account()).or_default();
        let is_same = |number: &usize| known.get(*number).is_some_and(|known| known.takes_in(&endpoint));
        let same = alike.iter().copied().find(is_same);
        if let Some(same) = same.and_then(|number| known.get_mut(number)) {
            same.is_service |= endpoint.is_service;
        } else {
            alike.push(known.len());
            known.push(endpoint);
        }
    }
    known
}

/// The endpoints of an entry that are of the mesh.
fn members<'r>(
    entry: &'r ServiceEntry,
    entries: &WorkloadEntries<'r>,
) -> impl Iterator<Item = &'r WorkloadEntry> + use<'r> {
    let is_member =
        move |endpoint: &&WorkloadEntry| entry.location == Location::MeshInternal || endpoint.has_sidecar();
    entries.of(entry).into_iter().filter(is_member)
}

/// Whether all labels of `few` are among `many`, but the mark of a sidecar, which a sidecar does not bear itself.
fn within(few: &Labels, many: &Labels) -> bool {
    few.iter()
        .filter(|(name, _)| !crate::resource::is_of_sidecar(name))
        .all(|(name, value)| many.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SERVICES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: foo}
spec:
  hosts: [backend]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, serviceAccount: backend, labels: {app: backend, security.istio.io/tlsMode: istio}}
  - {address: 10.0.0.2, serviceAccount: backend, labels: {app: backend, security.istio.io/tlsMode: istio}}
  - {address: 10.0.0.3, labels: {app: old}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: foo}
spec:
  hosts: [outside.example]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.1, labels: {app: outside}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: batch, namespace: bar}
spec: {address: 10.0.0.9, serviceAccount: batch, labels: {security.istio.io/tlsMode: istio}}
";

    fn sidecar(account: &str, labels: &[(&str, &str)]) -> Sidecar {
        let workload = Workload {
            name: account.to_owned(),
            trust_domain: "example.org".parse().unwrap(),
            namespace: "foo".to_owned(),
            service_account: account.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        Sidecar { workload, config: MeshConfig::default(), place: format!("{account}.yaml"), accepts: true }
    }

    fn known(sidecars: &[Sidecar]) -> Vec<Known> {
        let mut resources = Resources::default();
        resources.read("services.yaml", SERVICES).unwrap();
        known_workloads(&resources, sidecars, &MeshConfig::default())
    }

    fn in_short(known: &Known) -> String {
        let sidecar = if known.has_sidecar { "sidecar" } else { "none" };
        let service = if known.is_service { "service" } else { "no service" };
        format!("{} {sidecar} {service} {}", known.name(), known.place)
    }

    #[test]
    fn endpoints_and_entries_are_known_once_each_and_what_is_outside_is_not() {
        let told: Vec<String> = known(&[]).iter().map(in_short).collect();
        assert_eq!(
            told,
            [
                "foo/backend sidecar service services.yaml:2",
                "foo/old none service services.yaml:2",
                "bar/batch sidecar no service services.yaml:24",
            ]
        );
    }

    #[test]
    fn a_sidecar_stands_for_its_endpoints_and_gives_the_trust_domain() {
        let known =
            known(&[sidecar("backend", &[("app", "backend"), ("version", "v1")]), sidecar("web", &[])]);
        let told: Vec<String> = known.iter().map(in_short).collect();
        assert_eq!(
            told[..2],
            ["foo/backend sidecar service backend.yaml", "foo/web sidecar no service web.yaml"]
        );
        assert_eq!(told.len(), 4);
        assert_eq!(known[3].identity().unwrap().as_str(), "spiffe://example.org/ns/bar/sa/batch");
        assert_eq!(known[2].identity(), None, "nobody says which service account it has");
    }

    #[rstest]
    #[case::same("backend", &[("app", "backend")], Pick::Surely)]
    #[case::another_value("backend", &[("app", "web")], Pick::Not)]
    #[case::a_label_that_the_endpoint_need_not_name("backend", &[("app", "backend"), ("version", "v1")], Pick::Perhaps)]
    #[case::no_such_label_in_the_settings("web", &[("version", "v1")], Pick::Not)]
    fn a_selector_picks(#[case] account: &str, #[case] wanted: &[(&str, &str)], #[case] expected: Pick) {
        let known = known(&[sidecar("web", &[("app", "web")])]);
        let workload = known.iter().find(|known| known.workload.service_account == account).unwrap();
        let match_labels =
            wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(workload.picked_by(&Selector { match_labels }), expected);
    }
}
