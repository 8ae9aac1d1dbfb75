//! What is legal in a whole mesh folder and probably not meant.
//!
//! What a single sidecar would report is found by making its [`Snapshot`], for every workload that is known, and for one
//! that just fits where a policy asks for somebody whom nobody told of. What only the whole folder shows is found here:
//! a file for each question. Nothing is said twice.

mod dialling;
mod hosts;
mod names;
mod openness;
mod selectors;
mod splits;
mod viewers;

use std::collections::{HashMap, HashSet};

use crate::finding::{Code, Finding, Severity};
use crate::known::{Known, Sidecar, known_workloads};
use crate::policy::{Snapshot, of_the_folder};
use crate::registry::Registry;
use crate::resource::Resources;
use crate::workload::MeshConfig;
use viewers::{View, Viewer};

/// Everything that is found in `resources`, the worst first, then in the order of the places. `sidecars` are those whose
/// settings are at hand; `config` holds for the workloads of which only the resources tell.
#[must_use]
pub fn analyze(resources: &Resources, sidecars: &[Sidecar], config: &MeshConfig) -> Vec<Finding> {
    let known = known_workloads(resources, sidecars, config);
    let selective = resources.peer_authentications.iter().filter(|policy| policy.selector.is_some());
    let selective = selective.map(|policy| policy.meta.place.clone()).collect();
    let mut found = Found { selective, ..Found::default() };
    for file in &resources.unread {
        found.add(Finding::new(Code::InvalidResource, &file.place, &file.message));
    }
    found.all_of(of_the_folder(resources));
    let mut views = Views::default();
    for viewer in viewers::all(resources, &known, config) {
        let services = views.of(&viewer, resources, &mut found);
        let snapshot =
            Snapshot::build_seeing(resources, &viewer.workload, &viewer.config, (services, Vec::new()));
        found.of_viewer(&viewer, &snapshot);
    }
    splits::find(resources, &mut found);
    openness::reasons(resources, &mut found);
    openness::trials(resources, &mut found);
    names::find(resources, &known, config, &mut found);
    // What a file that is not read may hold is not missed.
    if resources.unread.is_empty() {
        selectors::find(resources, &known, config, &mut found);
        hosts::find(resources, &mut found);
    }
    found.in_order()
}

/// The services as each group of workloads sees them, so that it is found out once for each.
#[derive(Debug, Default)]
struct Views(HashMap<View, Registry>);

impl Views {
    fn of(&mut self, viewer: &Viewer<'_>, resources: &Resources, found: &mut Found) -> Registry {
        let registry = self.0.entry(viewer.view(resources)).or_insert_with(|| {
            let (registry, findings) = Registry::build(resources, &viewer.workload, &viewer.config);
            found.all_of(findings);
            dialling::find(&registry, found);
            registry
        });
        registry.clone()
    }
}

/// What was found so far, each once.
#[derive(Debug, Default)]
struct Found {
    all: Vec<Finding>,
    numbers: HashMap<(Code, String, String), usize>,
    places: HashSet<(Code, String)>,
    /// The places of PeerAuthentications that are for some workloads of their namespace.
    selective: HashSet<String>,
}

impl Found {
    fn add(&mut self, finding: Finding) {
        self.add_for(finding, None);
    }

    fn all_of(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }

    /// Puts a cure that fits better into the findings of this kind at a place.
    fn cure(&mut self, code: Code, place: &str, cure: &str) {
        let fitting = self.all.iter_mut().filter(|finding| finding.code == code && finding.place == place);
        fitting.for_each(|finding| finding.cure = cure.to_owned().into());
    }

    /// Adds a finding about one of several workloads.
    fn add_for(&mut self, finding: Finding, workload: Option<&str>) {
        self.places.insert((finding.code, finding.place.clone()));
        let key = (finding.code, finding.place.clone(), finding.message.clone());
        let number = *self.numbers.entry(key).or_insert_with(|| {
            self.all.push(finding);
            self.all.len() - 1
        });
        let (Some(same), Some(workload)) = (self.all.get_mut(number), workload) else { return };
        if !same.workloads.iter().any(|known| known == workload) {
            same.workloads.push(workload.to_owned());
        }
    }

    /// Whether there is a finding of this kind at a place.
    fn has(&self, code: Code, place: &str) -> bool {
        self.places.contains(&(code, place.to_owned()))
    }

    /// What one sidecar reports of itself.
    fn of_viewer(&mut self, viewer: &Viewer<'_>, snapshot: &Snapshot) {
        for finding in &snapshot.findings {
            let name = viewer.known.filter(|_| self.is_about_a_workload(finding)).map(Known::name);
            self.add_for(finding.clone(), name.as_deref());
        }
        if let Some(known) = viewer.known {
            openness::of_workload(known, snapshot, self);
        }
    }

    /// Whether the same may be so for one workload and not for another.
    fn is_about_a_workload(&self, finding: &Finding) -> bool {
        match finding.code {
            Code::PolicyIgnored => self.selective.contains(&finding.place),
            Code::AllowNeverMatches | Code::DenyDeniesMore | Code::AuditMarksMore => true,
            Code::PlaintextEscapesDeny | Code::ProtocolTwice => true,
            _ => false,
        }
    }

    fn in_order(mut self) -> Vec<Finding> {
        fn key(finding: &Finding) -> (Severity, (&str, Vec<u64>), Code, &str) {
            (finding.severity, place(&finding.place), finding.code, &finding.message)
        }
        self.all.sort_by(|one, other| key(one).cmp(&key(other)));
        self.all
    }
}

/// `file:line:column` in parts that sort as a person counts.
fn place(text: &str) -> (&str, Vec<u64>) {
    let mut file = text;
    let mut numbers = Vec::new();
    while let Some((before, number)) =
        file.rsplit_once(':').and_then(|(before, last)| Some((before, last.parse().ok()?)))
    {
        numbers.insert(0, number);
        file = before;
    }
    (file, numbers)
}
