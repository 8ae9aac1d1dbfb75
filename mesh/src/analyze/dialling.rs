//! DestinationRules whose TLS the other side does not understand.

use std::collections::HashSet;

use super::Found;
use crate::finding::{Code, Finding};
use crate::registry::{ListedEndpoint, Registry};
use crate::resource::{ClientTls, Location, Protocol};

/// What sidecars that see these services would meet.
pub(super) fn find(registry: &Registry, found: &mut Found) {
    let mut told = HashSet::new();
    for listed in registry.list() {
        let Some(rule) = &listed.destination.rule else { continue };
        let Some((code, message)) = rule.tls.as_ref().and_then(|tls| doubt(&listed, &rule.name, tls)) else {
            continue;
        };
        // One endpoint stands for all of its service.
        let service = (listed.destination.host.clone(), listed.destination.port);
        if told.insert((code, rule.place.clone(), service)) {
            found.add(Finding::new(code, &rule.place, message));
        }
    }
}

fn doubt(listed: &ListedEndpoint, rule: &str, tls: &ClientTls) -> Option<(Code, String)> {
    let ListedEndpoint { destination, name } = listed;
    let service = format!("{}:{}", destination.host, destination.port);
    let speaks_tls = destination.protocol == Protocol::Tls;
    match tls {
        ClientTls::IstioMutual if destination.has_sidecar => speaks_tls.then(|| {
            let message = format!("DestinationRule {rule} says ISTIO_MUTUAL to {service}, where the app speaks TLS itself: it is encrypted twice");
            (Code::EncryptedTwice, message)
        }),
        // An identity that is named for what has no endpoint of its own is that of somebody outside who speaks the mesh's TLS.
        ClientTls::IstioMutual
            if !destination.identities.is_empty()
                && (destination.location == Location::MeshExternal || name == ListedEndpoint::AS_DIALLED) =>
        {
            None
        }
        ClientTls::IstioMutual => {
            let entry = &destination.service_entry;
            let message = format!(
                "DestinationRule {rule} says ISTIO_MUTUAL to {service}, whose endpoint {name} has no sidecar by ServiceEntry \
                 {entry}: connections there fail"
            );
            Some((Code::MutualWithoutSidecar, message))
        }
        ClientTls::Originate(how) => speaks_tls.then(|| {
            let message = format!(
                "DestinationRule {rule} asks for {} to {service}, where the app speaks TLS itself by ServiceEntry {}: the \
                 server gets TLS within TLS",
                how.mode(),
                destination.service_entry
            );
            (Code::TlsTwice, message)
        }),
        ClientTls::Disable => None,
    }
}
