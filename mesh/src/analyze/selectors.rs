//! Selectors that pick nobody. Said only where that can be known: somebody is known whom they could pick, and each of
//! them has another value for some label.

use super::Found;
use super::names::nearest;
use crate::finding::{Code, Finding};
use crate::known::{Known, Pick};
use crate::registry::WorkloadEntries;
use crate::resource::{Meta, Resources};
use crate::workload::{Labels, MeshConfig, Selector};

pub(super) fn find(resources: &Resources, known: &[Known], config: &MeshConfig, found: &mut Found) {
    let in_namespace = |meta: &Meta, or_any: bool| -> Vec<&Known> {
        known.iter().filter(|known| or_any || known.workload.namespace == meta.namespace).collect()
    };
    for policy in
        resources.peer_authentications.iter().filter(|policy| policy.meta.namespace != config.root_namespace)
    {
        let candidates = in_namespace(&policy.meta, false);
        found.all_of(picks_nobody("PeerAuthentication", &policy.meta, policy.selector.as_ref(), &candidates));
    }
    for policy in &resources.authorization_policies {
        let candidates = in_namespace(&policy.meta, policy.meta.namespace == config.root_namespace);
        found.all_of(picks_nobody(
            "AuthorizationPolicy",
            &policy.meta,
            policy.selector.as_ref(),
            &candidates,
        ));
    }
    for rule in &resources.destination_rules {
        let candidates = in_namespace(&rule.meta, false);
        found.all_of(picks_nobody(
            "DestinationRule",
            &rule.meta,
            rule.workload_selector.as_ref(),
            &candidates,
        ));
    }
    for gateway in &resources.gateways {
        found.all_of(picks_nobody(
            "Gateway",
            &gateway.meta,
            Some(&gateway.selector),
            &in_namespace(&gateway.meta, true),
        ));
    }
    let entries = WorkloadEntries::new(&resources.workload_entries);
    for entry in resources.service_entries.iter().filter(|entry| entry.workload_selector.is_some()) {
        let of_sidecar = |known: &Known| {
            let selector = entry.workload_selector.as_ref();
            known.workload.namespace == entry.meta.namespace
                && selector.is_some_and(|selector| known.picked_by(selector) == Pick::Surely)
        };
        if entries.of(entry).is_empty() && !known.iter().any(of_sidecar) {
            let name = entry.meta.full_name();
            let message =
                format!("ServiceEntry {name} selects no WorkloadEntry of its namespace: it has no endpoint");
            found.add(Finding::new(Code::SelectsNobody, &entry.meta.place, message));
        }
    }
}

fn picks_nobody(
    kind: &str,
    meta: &Meta,
    selector: Option<&Selector>,
    candidates: &[&Known],
) -> Option<Finding> {
    let selector = selector.filter(|selector| !selector.match_labels.is_empty())?;
    let picked: Vec<(&Known, Pick)> = candidates
        .iter()
        .map(|known| (*known, known.picked_by(selector)))
        .filter(|(_, pick)| *pick != Pick::Not)
        .collect();
    let name = meta.full_name();
    let labels = in_words(&selector.match_labels);
    if candidates.is_empty() || picked.iter().any(|(known, pick)| known.has_sidecar || *pick == Pick::Perhaps)
    {
        return None;
    }
    let Some((first, _)) = picked.first() else {
        let message = format!("{kind} {name} is for {labels}, which no known workload has");
        let finding = Finding::new(Code::SelectsNobody, &meta.place, message);
        return Some(match nearest_label(&selector.match_labels, candidates) {
            Some(near) => finding.with_cure(format!("did you mean `{near}`?")),
            None => finding,
        });
    };
    const CURE: &str =
        "label the endpoint `security.istio.io/tlsMode: istio` if it has a sidecar, or give it one";
    let message = format!(
        "{kind} {name} is for {labels}, and no sidecar stands beside {}, who has that: nobody applies it",
        first.name()
    );
    Some(Finding::new(Code::SelectsNobody, &meta.place, message).with_cure(CURE))
}

/// A label that somebody has and that differs in a letter or two.
fn nearest_label(wanted: &Labels, candidates: &[&Known]) -> Option<String> {
    wanted.iter().find_map(|(name, value)| {
        let values = candidates.iter().filter_map(|known| known.workload.labels.get(name));
        nearest(value, values.map(String::as_str)).map(|near| format!("{name}: {near}"))
    })
}

fn in_words(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("`{name}: {value}`")).collect();
    pairs.join(" and ")
}
