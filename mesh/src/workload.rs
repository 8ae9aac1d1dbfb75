//! A workload as policies see it, the mesh that it is part of, and the selector that picks workloads by label.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::matching::labels::picks;
use crate::policy::dial::OutboundPolicy;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Labels of a workload: name to value, compared literally and case-sensitively.
pub type Labels = BTreeMap<String, String>;

/// One instance of a service, as its own sidecar knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// What metrics and logs call it; Istio's `source_workload` and `destination_workload`.
    pub name: String,
    /// The trust domain whose authority signs its certificate.
    pub trust_domain: TrustDomain,
    /// Its namespace; policies of this namespace and of the root namespace may apply to it.
    pub namespace: String,
    /// Its service account; with the namespace it makes the SPIFFE ID.
    pub service_account: String,
    /// What selectors match on.
    pub labels: Labels,
}

impl Workload {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// When namespace or service account holds a character that a SPIFFE ID segment may not (SPIFFE-ID 2.2).
    pub fn id(&self) -> Result<SpiffeId, crate::spiffe::SpiffeIdError> {
        SpiffeId::of_service_account(&self.trust_domain, &self.namespace, &self.service_account)
    }
}

/// What holds for every workload of the mesh alike (Istio's `meshConfig`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshConfig {
    /// The namespace whose policies apply to the whole mesh.
    pub root_namespace: String,
    /// Trust domains whose names stand for the workload's own: in policies, in who may serve, and in whose bundle a peer is
    /// verified by. For the time of a rename.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// What is done with a destination that the registry does not know.
    pub outbound_policy: OutboundPolicy,
}

/// Istio's defaults.
impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".to_owned(),
            trust_domain_aliases: Vec::new(),
            outbound_policy: OutboundPolicy::default(),
        }
    }
}

/// Istio's `WorkloadSelector`: every pair must be among the workload's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// The pairs that must all be present. Empty selects every workload of the namespace.
    #[serde(default)]
    pub match_labels: Labels,
}

impl Selector {
    /// Whether all pairs are among `labels`, compared literally.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        picks(&self.match_labels, labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_selector_matches_when_every_pair_is_a_label() {
        let selector = Selector { match_labels: labels(&[("app", "backend"), ("version", "v1")]) };
        assert!(selector.matches(&labels(&[("app", "backend"), ("version", "v1"), ("team", "a")])));
        assert!(!selector.matches(&labels(&[("app", "backend")])));
        assert!(!selector.matches(&labels(&[("app", "backend"), ("version", "V1")])));
    }

    /// Requirement 39: names are literals, never patterns.
    #[test]
    fn req_39_a_dot_or_star_in_a_label_is_no_pattern() {
        let selector = Selector { match_labels: labels(&[("app", "back.nd"), ("tier", "*")]) };
        assert!(!selector.matches(&labels(&[("app", "backend"), ("tier", "web")])));
    }

    #[test]
    fn the_empty_selector_matches_every_workload() {
        assert!(Selector::default().matches(&Labels::new()));
    }
}
