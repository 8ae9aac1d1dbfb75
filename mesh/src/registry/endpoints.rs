//! Which endpoints serve a `ServiceEntry`: those written in it, or the `WorkloadEntry` resources that it selects.

use std::collections::HashMap;

use crate::matching::labels::Labelled;
use crate::resource::{ServiceEntry, WorkloadEntry};

/// `WorkloadEntry` resources by namespace and label, in reading order.
#[derive(Debug, Default)]
pub(crate) struct WorkloadEntries<'r>(HashMap<&'r str, OfNamespace<'r>>);

#[derive(Debug, Default)]
struct OfNamespace<'r> {
    all: Vec<&'r WorkloadEntry>,
    labelled: Labelled<'r>,
}

impl<'r> WorkloadEntries<'r> {
    pub(crate) fn new(entries: impl IntoIterator<Item = &'r WorkloadEntry>) -> Self {
        let mut namespaces: HashMap<&str, OfNamespace<'_>> = HashMap::new();
        for entry in entries {
            let of_namespace = namespaces.entry(entry.meta.namespace.as_str()).or_default();
            of_namespace.labelled.add(&entry.labels);
            of_namespace.all.push(entry);
        }
        Self(namespaces)
    }

    /// The endpoints of a service: written in the entry, or those of these that it selects.
    pub(crate) fn of(&self, entry: &'r ServiceEntry) -> Vec<&'r WorkloadEntry> {
        let Some(selector) = &entry.workload_selector else { return entry.endpoints.iter().collect() };
        let Some(of_namespace) = self.0.get(entry.meta.namespace.as_str()) else { return Vec::new() };
        let picked = of_namespace.labelled.picked_by(&selector.match_labels).into_iter();
        picked.filter_map(|number| of_namespace.all.get(number).copied()).collect()
    }
}
