//! What the resource reader loads: the policies that people meet in tutorials, and what a cluster prints.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use pillion_mesh::policy::mode::Mode;
use pillion_mesh::resource::{Location, PeerAuthentication, Protocol, Resolution, Resources};
use rstest::rstest;

fn load(name: &str) -> Resources {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/loads").join(name).with_extension("yaml");
    let mut resources = Resources::default();
    resources.read(name, &std::fs::read_to_string(path).unwrap()).unwrap();
    resources
}

/// Everything that a policy says, in one line.
fn in_short(policy: &PeerAuthentication) -> String {
    let mode = |mode: &Option<Mode>| mode.map_or("UNSET".to_owned(), |mode| mode.to_string());
    let labels = policy.selector.iter().flat_map(|selector| &selector.match_labels);
    let labels: Vec<String> = labels.map(|(name, value)| format!(" {name}={value}")).collect();
    let ports: Vec<String> = policy.ports.iter().map(|(port, of)| format!(" {port}:{}", mode(of))).collect();
    format!("{}{} {}{}", policy.meta.full_name(), labels.concat(), mode(&policy.mode), ports.concat())
}

#[rstest]
#[case("mesh_strict", &["istio-system/default STRICT"])]
#[case("mesh_permissive", &["istio-system/default PERMISSIVE"])]
#[case("namespace_strict", &["your-namespace/default STRICT"])]
#[case("namespace_permissive", &["legacy-services/default PERMISSIVE"])]
#[case("workload_strict", &["your-namespace/service-mtls app=your-service STRICT"])]
#[case("workload_disable", &["default/legacy-service-mtls app=legacy-service DISABLE"])]
#[case("workload_permissive", &["foo/workload-policy app=httpbin PERMISSIVE"])]
#[case("port_disable", &["foo/example-peer-policy app=example-app STRICT 8080:DISABLE"])]
#[case("port_metrics", &["production/payment-service-mtls app=payment-service STRICT 9090:PERMISSIVE"])]
#[case("two_namespaces", &["foo/default STRICT", "bar/default STRICT"])]
#[case("migration", &["production/default STRICT", "legacy/default PERMISSIVE"])]
#[case("versions", &["foo/a STRICT", "foo/b STRICT", "foo/c STRICT"])]
#[case("inherits", &["foo/a UNSET", "foo/b UNSET", "foo/c UNSET"])]
#[case("from_kubectl", &["foo/default STRICT"])]
#[case("almost_nothing", &["foo/default STRICT"])]
fn policies_say(#[case] name: &str, #[case] expected: &[&str]) {
    let policies: Vec<String> = load(name).peer_authentications.iter().map(in_short).collect();
    assert_eq!(policies, expected);
}

#[test]
fn a_service_outside_the_mesh_says() {
    let entry = load("external_api").service_entries.remove(0);
    assert_eq!(entry.meta.full_name(), "production/external-api");
    assert_eq!(entry.hosts, ["api.external-service.com"]);
    assert_eq!((entry.location, entry.resolution), (Location::MeshExternal, Resolution::Dns));
    let port = &entry.ports[0];
    assert_eq!((port.number, port.name.as_str(), port.protocol), (443, "https", Protocol::Tls));
    assert_eq!(port.target_port, None);
}

#[test]
fn a_service_of_docker_compose_says() {
    let entry = load("compose_service").service_entries.remove(0);
    assert_eq!(entry.meta.full_name(), "default/customers");
    assert_eq!(entry.location, Location::MeshInternal);
    assert_eq!((entry.ports[0].protocol, entry.ports[0].target_port), (Protocol::Http, Some(3000)));
    let endpoint = &entry.endpoints[0];
    assert!(endpoint.has_sidecar());
    assert_eq!((endpoint.address.as_str(), endpoint.ip()), ("customers", None));
    assert_eq!(endpoint.service_account.as_deref(), Some("customers"));
}

#[test]
fn a_service_on_virtual_machines_says() {
    let mut resources = load("virtual_machines");
    let entry = resources.service_entries.remove(0);
    let addresses: Vec<String> = entry.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.96.0.10/32", "10.97.0.0/16", "fd00::10/128"]);
    assert!(entry.is_visible_in("production") && !entry.is_visible_in("default"));
    assert_eq!(entry.subject_alt_names[0].principal(), "cluster.local/ns/production/sa/backend-canary");
    assert_eq!(entry.ports[0].protocol, Protocol::Http2);

    let endpoint = resources.workload_entries.remove(0);
    assert_eq!(endpoint.ports["http"], 3000);
    assert_eq!(endpoint.labels["app"], "backend");
    assert_eq!(endpoint.labels["version"], "v2", "metadata.labels go over spec.labels");
}

#[test]
fn the_identities_of_a_sidecar_may_stand_in_the_entry() {
    let entry = load("canary").service_entries.remove(0);
    assert!(entry.endpoints[0].has_sidecar() && entry.endpoints[0].service_account.is_none());
    assert_eq!(entry.subject_alt_names.len(), 1);
}

#[test]
fn an_item_of_a_list_has_its_own_place_time_and_position() {
    let resources = load("from_kubectl");
    let policy = &resources.peer_authentications[0].meta;
    assert_eq!((policy.place.as_str(), policy.position), ("from_kubectl:4", 0));
    assert_eq!(policy.created, Some(1_777_863_721));
    let endpoint = &resources.workload_entries[0].meta;
    assert_eq!((endpoint.place.as_str(), endpoint.position), ("from_kubectl:28", 1));
}

#[test]
fn places_and_positions_go_on_from_document_to_document_and_file_to_file() {
    let mut resources = load("two_namespaces");
    resources
        .read(
            "more.yaml",
            "# again\n\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x}\n",
        )
        .unwrap();
    let places: Vec<_> = resources
        .peer_authentications
        .iter()
        .map(|policy| (policy.meta.place.as_str(), policy.meta.position))
        .collect();
    assert_eq!(places, [("two_namespaces:2", 0), ("two_namespaces:11", 1), ("more.yaml:3", 2)]);
}

#[test]
fn every_file_of_the_folder_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/loads");
    for entry in std::fs::read_dir(folder).unwrap() {
        load(entry.unwrap().path().file_stem().unwrap().to_str().unwrap());
    }
}
