//! Istio's resources as files hold them: checked when parsed, so that decisions need not check again.
//!
//! A document is read twice: for `apiVersion` and `kind`, then as what these say. One file per kind; what resources
//! mean together is [`crate::policy`]'s and [`crate::registry`]'s.

mod authorization_policy;
mod destination_rule;
mod export_to;
mod gateway;
mod host;
mod kind;
mod meta;
mod pattern;
mod peer_authentication;
mod port_number;
mod service_entry;
mod virtual_service;
mod workload_entry;

pub use authorization_policy::{
    Action, AuthorizationPolicy, Condition, Match, Operation, PathPattern, Rule, ServiceAccount, Source,
};
pub use destination_rule::{ClientFiles, ClientTls, DestinationRule, Origination, Subset, TrafficPolicy};
pub use export_to::ExportTo;
pub use gateway::{Gateway, Server, ServerHost};
pub use host::HostPattern;
pub use meta::Meta;
pub use pattern::Pattern;
pub use peer_authentication::{PeerAuthentication, PortMode};
pub use service_entry::{Location, Port, Protocol, Resolution, ServiceEntry};
pub use virtual_service::{HttpRoute, PathMatch, RouteDestination, VirtualService};
pub use workload_entry::WorkloadEntry;
pub(crate) use workload_entry::is_of_sidecar;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer};

use crate::yaml::{At, Document, YamlError, documents};
use kind::{Head, Kind};
use meta::Envelope;

/// All resources of a mesh folder, in reading order.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// `PeerAuthentication`.
    pub peer_authentications: Vec<PeerAuthentication>,
    /// `AuthorizationPolicy`.
    pub authorization_policies: Vec<AuthorizationPolicy>,
    /// `ServiceEntry`.
    pub service_entries: Vec<ServiceEntry>,
    /// `WorkloadEntry`.
    pub workload_entries: Vec<WorkloadEntry>,
    /// `DestinationRule`.
    pub destination_rules: Vec<DestinationRule>,
    /// `Gateway`.
    pub gateways: Vec<Gateway>,
    /// `VirtualService`.
    pub virtual_services: Vec<VirtualService>,
    /// Files beside them that are not read, since their names are not those of resource files.
    pub skipped: Vec<String>,
    /// Files that are no good, where reading went on without them.
    pub unread: Vec<Unread>,
}

/// A file that is no good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// `file:line:column`, or the file where it cannot be read at all.
    pub place: String,
    /// What was expected, what was seen, the likely cure.
    pub message: String,
}

impl From<YamlError> for Unread {
    fn from(fault: YamlError) -> Self {
        let YamlError { source_name, line, column, message } = fault;
        Self { place: format!("{source_name}:{line}:{column}"), message }
    }
}

impl Resources {
    /// Reads every document of one file and adds its resources. Empty documents are skipped; a `List`, as
    /// `kubectl get -o yaml` prints it, counts as its items.
    ///
    /// # Errors
    /// At the first fault; nothing is added then. An unknown kind, apiVersion, field or value is a fault.
    pub fn read(&mut self, source_name: &str, text: &str) -> Result<(), YamlError> {
        let mut read = Resources::default();
        for document in documents(source_name, text) {
            for (head, written) in read_document(&document)? {
                read.check(&document, &head, written, self.len() + read.len())?;
            }
        }
        self.peer_authentications.append(&mut read.peer_authentications);
        self.authorization_policies.append(&mut read.authorization_policies);
        self.service_entries.append(&mut read.service_entries);
        self.workload_entries.append(&mut read.workload_entries);
        self.destination_rules.append(&mut read.destination_rules);
        self.gateways.append(&mut read.gateways);
        self.virtual_services.append(&mut read.virtual_services);
        Ok(())
    }

    /// The name and place of every resource, with its kind; in reading order within a kind.
    pub(crate) fn metas(&self) -> impl Iterator<Item = (&'static str, &Meta)> {
        let policies = self.peer_authentications.iter().map(|policy| ("PeerAuthentication", &policy.meta));
        let authorizations =
            self.authorization_policies.iter().map(|policy| ("AuthorizationPolicy", &policy.meta));
        let services = self.service_entries.iter().map(|entry| ("ServiceEntry", &entry.meta));
        let workloads = self.workload_entries.iter().map(|entry| ("WorkloadEntry", &entry.meta));
        let rules = self.destination_rules.iter().map(|rule| ("DestinationRule", &rule.meta));
        let gateways = self.gateways.iter().map(|gateway| ("Gateway", &gateway.meta));
        let routes = self.virtual_services.iter().map(|routes| ("VirtualService", &routes.meta));
        policies
            .chain(authorizations)
            .chain(services)
            .chain(workloads)
            .chain(rules)
            .chain(gateways)
            .chain(routes)
    }

    fn len(&self) -> usize {
        self.peer_authentications.len()
            + self.authorization_policies.len()
            + self.service_entries.len()
            + self.workload_entries.len()
            + self.destination_rules.len()
            + self.gateways.len()
            + self.virtual_services.len()
    }

    fn check(
        &mut self,
        document: &Document<'_>,
        head: &At<Head>,
        written: Written,
        position: usize,
    ) -> Result<(), YamlError> {
        let place = document.place(head);
        match written {
            Written::PeerAuthentication(mut written) => {
                let reason = written.metadata.take_reason();
                let dry_run = written.metadata.take_dry_run(document)?.is_some_and(|dry_run| dry_run.value);
                let meta = written.metadata.check(document, place, position)?;
                let policy = peer_authentication::check(document, meta, reason, dry_run, written.spec)?;
                self.peer_authentications.push(policy);
            }
            Written::AuthorizationPolicy(mut written) => {
                let dry_run = written.metadata.take_dry_run(document)?;
                let meta = written.metadata.check(document, place, position)?;
                let policy = authorization_policy::check(document, meta, dry_run.as_ref(), written.spec)?;
                self.authorization_policies.push(policy);
            }
            Written::ServiceEntry(written) => {
                let meta = written.metadata.check(document, place, position)?;
                self.service_entries.push(service_entry::check(document, meta, written.spec)?);
            }
            Written::WorkloadEntry(written) => {
                let labels = written.metadata.value.labels.clone();
                let meta = written.metadata.check(document, place, position)?;
                self.workload_entries.push(workload_entry::check(document, meta, written.spec, labels)?);
            }
            Written::DestinationRule(written) => {
                let meta = written.metadata.check(document, place, position)?;
                self.destination_rules.push(destination_rule::check(document, meta, written.spec)?);
            }
            Written::Gateway(written) => {
                let meta = written.metadata.check(document, place, position)?;
                self.gateways.push(gateway::check(document, meta, written.spec)?);
            }
            Written::VirtualService(written) => {
                let meta = written.metadata.check(document, place, position)?;
                self.virtual_services.push(virtual_service::check(document, meta, written.spec)?);
            }
        }
        Ok(())
    }
}

/// A resource as it stands in the file, not yet checked.
enum Written {
    PeerAuthentication(Envelope<Option<peer_authentication::Spec>>),
    AuthorizationPolicy(Envelope<Option<At<authorization_policy::Spec>>>),
    ServiceEntry(Envelope<At<service_entry::Spec>>),
    WorkloadEntry(Envelope<At<workload_entry::Spec>>),
    DestinationRule(Box<Envelope<At<destination_rule::Spec>>>),
    Gateway(Envelope<At<gateway::Spec>>),
    VirtualService(Envelope<At<virtual_service::Spec>>),
}

/// A kind reads its own struct.
impl<'de> DeserializeSeed<'de> for Kind {
    type Value = Written;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        Ok(match self {
            Kind::PeerAuthentication => Written::PeerAuthentication(Envelope::deserialize(deserializer)?),
            Kind::AuthorizationPolicy => Written::AuthorizationPolicy(Envelope::deserialize(deserializer)?),
            Kind::ServiceEntry => Written::ServiceEntry(Envelope::deserialize(deserializer)?),
            Kind::WorkloadEntry => Written::WorkloadEntry(Envelope::deserialize(deserializer)?),
            Kind::DestinationRule => Written::DestinationRule(Box::new(Envelope::deserialize(deserializer)?)),
            Kind::Gateway => Written::Gateway(Envelope::deserialize(deserializer)?),
            Kind::VirtualService => Written::VirtualService(Envelope::deserialize(deserializer)?),
        })
    }
}

/// The resources of one document: none, one, or the items of a `List`.
fn read_document(document: &Document<'_>) -> Result<Vec<(At<Head>, Written)>, YamlError> {
    let Some(head) = document.read::<Option<At<Head>>>()? else { return Ok(Vec::new()) };
    if !head.value.is_list() {
        let written = document.read_seed(kind::of(document, &head)?)?;
        return Ok(vec![(head, written)]);
    }
    let heads = head.value.items.unwrap_or_default();
    let kinds = heads.iter().map(|head| kind::of(document, head)).collect::<Result<Vec<_>, _>>()?;
    Ok(heads.into_iter().zip(document.read_items(kinds)?).collect())
}
