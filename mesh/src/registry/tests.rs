mod routes;
mod rules;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::workload::Labels;

const BACKEND: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend}
spec:
  hosts: [backend.default.svc.cluster.local, backend]
  addresses: [10.96.0.10]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 3000}
  - {number: 9000, name: raw}
  endpoints:
  - {address: 10.0.0.1, serviceAccount: backend, labels: {app: backend, security.istio.io/tlsMode: istio}}
  - {address: 10.0.0.2, serviceAccount: backend, labels: {app: backend, security.istio.io/tlsMode: istio}, ports: {http: 3001}}
  - {address: 10.0.0.3, labels: {app: backend}}
";

const BY_DNS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: customers}
spec:
  hosts: [customers]
  location: MESH_INTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, targetPort: 3000}]
  endpoints: [{address: Customers, serviceAccount: customers, labels: {security.istio.io/tlsMode: istio}}]
";

fn build(texts: &[&str]) -> (Registry, Vec<Finding>) {
    let mut resources = Resources::default();
    for text in texts {
        resources.read("mesh.yaml", text).unwrap();
    }
    let workload = Workload {
        name: "web".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "web".to_owned(),
        labels: Labels::new(),
    };
    let (registry, mut findings) = Registry::build(&resources, &workload, &MeshConfig::default());
    findings.extend_from_slice(registry.conflicts());
    (registry, findings)
}

fn registry(texts: &[&str]) -> Registry {
    let (registry, findings) = build(texts);
    assert_eq!(findings, []);
    registry
}

fn addresses(pairs: &[(&str, &[&str])]) -> Addresses {
    let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
    pairs.iter().map(|(name, of_name)| ((*name).to_owned(), ips(of_name))).collect()
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A service that differs in name, host and the rest of its spec.
fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
         hosts: [{name}.example.org]\n  ports: [{{number: 80, name: http}}]\n{spec}"
    )
}

#[rstest]
#[case::an_endpoint_at_the_service_port("10.0.0.1:80", "10.0.0.1:3000")]
#[case::an_endpoint_at_its_own_port("10.0.0.2:3001", "10.0.0.2:3001")]
#[case::an_endpoint_whose_port_is_named("10.0.0.2:80", "10.0.0.2:3001")]
#[case::the_virtual_address("10.96.0.10:80", "10.0.0.1:3000")]
#[case::ipv4_as_ipv6("[::ffff:10.0.0.1]:80", "10.0.0.1:3000")]
#[case::virtual_ipv4_as_ipv6("[::ffff:10.96.0.10]:80", "10.0.0.1:3000")]
fn a_dialled_address_leads_to(#[case] dialled: &str, #[case] endpoint: &str) {
    let found = registry(&[BACKEND]).lookup(at(dialled), 0).unwrap();
    assert_eq!((found.endpoint, found.port, found.protocol), (at(endpoint), 80, Protocol::Http));
    assert_eq!(
        (found.host.as_str(), found.service_entry.as_str()),
        ("backend.default.svc.cluster.local", "default/backend")
    );
}

#[rstest]
#[case::another_address("10.0.0.9:80")]
#[case::another_port("10.0.0.1:81")]
#[case::the_virtual_address_at_the_target_port("10.96.0.10:3000")]
fn an_address_of_no_service_is_unknown(#[case] dialled: &str) {
    assert_eq!(registry(&[BACKEND]).lookup(at(dialled), 0), Err(Miss::Unknown));
}

#[test]
fn behind_a_virtual_address_the_endpoints_take_turns_and_a_dialled_one_is_kept() {
    let registry = registry(&[BACKEND]);
    let by_turn = |dialled: &str| -> Vec<String> {
        (0..4).map(|turn| registry.lookup(at(dialled), turn).unwrap().endpoint.to_string()).collect()
    };
    assert_eq!(
        by_turn("10.96.0.10:80"),
        ["10.0.0.1:3000", "10.0.0.2:3001", "10.0.0.3:3000", "10.0.0.1:3000"]
    );
    assert_eq!(by_turn("10.0.0.2:80"), ["10.0.0.2:3001"; 4]);
}

#[test]
fn each_endpoint_says_whether_it_has_a_sidecar() {
    let registry = registry(&[BACKEND]);
    let has_sidecar = |dialled: &str| registry.lookup(at(dialled), 0).unwrap().has_sidecar;
    assert!(has_sidecar("10.0.0.1:80") && has_sidecar("10.0.0.2:9000"));
    assert!(!has_sidecar("10.0.0.3:80"));
}

#[test]
fn the_accounts_of_all_endpoints_and_the_alternative_names_may_serve() {
    let names = "  subjectAltNames: [\"spiffe://cluster.local/ns/default/sa/backend\", \"spiffe://other.org/ns/x/sa/y\"]\n";
    let found = registry(&[&format!("{BACKEND}{names}")]).lookup(at("10.0.0.3:80"), 0).unwrap();
    let identities: Vec<&str> = found.identities.iter().map(SpiffeId::as_str).collect();
    assert_eq!(identities, ["spiffe://cluster.local/ns/default/sa/backend", "spiffe://other.org/ns/x/sa/y"]);
}

#[rstest]
#[case::mesh("istio-system", "{mtls: {mode: DISABLE}}", Mode::Disable, Mode::Disable)]
#[case::namespace("default", "{mtls: {mode: STRICT}}", Mode::Strict, Mode::Strict)]
#[case::another_namespace("foo", "{mtls: {mode: STRICT}}", Mode::Permissive, Mode::Permissive)]
#[case::target_port(
    "default",
    "{selector: {matchLabels: {app: backend}}, portLevelMtls: {3001: {mode: DISABLE}}}",
    Mode::Permissive,
    Mode::Disable
)]
#[case::not_the_service_port(
    "default",
    "{selector: {matchLabels: {app: backend}}, portLevelMtls: {80: {mode: DISABLE}}}",
    Mode::Permissive,
    Mode::Permissive
)]
fn an_endpoints_mode_is_that_of_its_own_port(
    #[case] namespace: &str,
    #[case] spec: &str,
    #[case] first: Mode,
    #[case] second: Mode,
) {
    let head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n";
    let policy = format!("{head}metadata: {{name: default, namespace: {namespace}}}\nspec: {spec}\n");
    let registry = registry(&[BACKEND, &policy]);
    assert_eq!(registry.lookup(at("10.0.0.1:80"), 0).unwrap().endpoint_mode, first);
    assert_eq!(registry.lookup(at("10.0.0.2:80"), 0).unwrap().endpoint_mode, second);
}

#[rstest]
#[case::full("backend.default.svc.cluster.local")]
#[case::other_case("Backend.Default.svc.cluster.local")]
#[case::final_dot("backend.default.svc.cluster.local.")]
#[case::another_host_of_the_entry("backend")]
#[case::with_namespace("backend.default")]
#[case::with_namespace_and_svc("backend.default.svc")]
#[case::by_address("10.0.0.1")]
fn a_listener_finds_its_destination_by(#[case] host: &str) {
    let found = registry(&[BACKEND]).lookup_host(host, 80, 0).unwrap();
    assert_eq!(found.endpoint, at("10.0.0.1:3000"));
}

#[test]
fn a_short_name_means_the_callers_own_namespace() {
    let service = |namespace: &str, address: &str| {
        BACKEND
            .replace("{name: backend}", &format!("{{name: backend, namespace: {namespace}}}"))
            .replace("backend.default.svc.cluster.local, backend", &format!("backend.{namespace}.svc.cluster.local"))
            .replace("10.0.0.1", address)
            .replace("10.96.0.10", &format!("{address}0"))
            .replace("  - {address: 10.0.0.2, serviceAccount: backend, labels: {app: backend, security.istio.io/tlsMode: istio}, ports: {http: 3001}}\n  - {address: 10.0.0.3, labels: {app: backend}}\n", "")
    };
    let registry = registry(&[&service("other", "10.1.0.1"), &service("default", "10.2.0.1")]);
    assert_eq!(registry.lookup_host("backend", 80, 0).unwrap().endpoint, at("10.2.0.1:3000"));
    assert_eq!(registry.lookup_host("backend.other", 80, 0).unwrap().endpoint, at("10.1.0.1:3000"));
}

#[rstest]
#[case::another_host("frontend", 80)]
#[case::another_port("backend", 81)]
#[case::part_of_a_host("backend.default.svc.cluster", 80)]
fn an_unknown_destination_of_a_listener_is_told(#[case] host: &str, #[case] port: u16) {
    assert_eq!(registry(&[BACKEND]).lookup_host(host, port, 0), Err(Miss::Unknown));
}

/// Requirement 39: a host is never a pattern but for the `*.` in front.
#[test]
fn req_39_hosts_are_matched_literally() {
    let wildcard = entry("x", "  resolution: STATIC\n  endpoints: [{address: 10.0.0.1}]\n")
        .replace("x.example.org", "\"*.example.org\"");
    let registry = registry(&[&wildcard]);
    let found = |host: &str| registry.lookup_host(host, 80, 0).is_ok();
    assert!(found("api.example.org") && found("v1.api.example.org"));
    assert!(
        !found("example.org")
            && !found("api-example.org")
            && !found("apixexample.org")
            && !found("api.example.org.evil")
    );
}

#[test]
fn the_longest_name_before_a_wildcard_and_a_full_name_before_both_wins() {
    let service = |name: &str, host: &str, ip: &str| {
        let spec = format!("  resolution: STATIC\n  endpoints: [{{address: {ip}}}]\n");
        entry(name, &spec).replace(&format!("{name}.example.org"), &format!("\"{host}\""))
    };
    let registry = registry(&[
        &service("a", "*.example.org", "10.0.0.1"),
        &service("b", "*.api.example.org", "10.0.0.2"),
        &service("c", "v1.api.example.org", "10.0.0.3"),
    ]);
    let found = |host: &str| registry.lookup_host(host, 80, 0).unwrap().endpoint.ip().to_string();
    assert_eq!(found("www.example.org"), "10.0.0.1");
    assert_eq!(found("v2.api.example.org"), "10.0.0.2");
    assert_eq!(found("v1.api.example.org"), "10.0.0.3");
}

#[test]
fn names_are_resolved_by_the_caller() {
    let registry = registry(&[BACKEND, BY_DNS]);
    assert_eq!(registry.names_to_resolve(), ["customers"]);
    assert!(registry.may_be_stale(80) && registry.may_be_stale(3000) && !registry.may_be_stale(9000));
    assert_eq!(registry.lookup_host("customers", 80, 0), Err(Miss::NoEndpoint("customers".to_owned())));

    let fresh =
        registry.with_addresses(&addresses(&[("customers", &["10.5.0.1", "::ffff:10.5.0.2", "10.5.0.1"])]));
    let found = fresh.lookup(at("10.5.0.2:80"), 0).unwrap();
    assert_eq!((found.endpoint, found.has_sidecar), (at("10.5.0.2:3000"), true));
    assert_eq!(found.identities[0].principal(), "cluster.local/ns/default/sa/customers");
    let turns: Vec<_> =
        (0..4).map(|turn| fresh.lookup_host("customers", 80, turn).unwrap().endpoint).collect();
    assert_eq!(turns, ["10.5.0.1:3000", "10.5.0.2:3000", "10.5.0.1:3000", "10.5.0.2:3000"].map(at));

    let moved = fresh.with_addresses(&addresses(&[("customers", &["10.5.0.9"])]));
    assert_eq!(moved.lookup(at("10.5.0.1:80"), 0), Err(Miss::Unknown));
    assert!(moved.lookup(at("10.5.0.9:80"), 0).is_ok());
}

#[test]
fn an_unknown_address_is_never_a_fresh_one_of_a_service_without_sidecars() {
    let registry = registry(&[&BY_DNS.replace("tlsMode: istio", "tlsMode: disabled")]);
    assert_eq!(registry.names_to_resolve(), ["customers"]);
    assert!(!registry.may_be_stale(80) && !registry.may_be_stale(3000));
}

#[test]
fn hosts_without_endpoints_are_names_each_for_itself() {
    let text = entry("a", "  resolution: DNS\n").replace("[a.example.org]", "[a.example.org, b.example.org]");
    let registry = registry(&[&text]);
    assert_eq!(registry.names_to_resolve(), ["a.example.org", "b.example.org"]);
    let registry = registry
        .with_addresses(&addresses(&[("a.example.org", &["192.0.2.1"]), ("b.example.org", &["192.0.2.2"])]));
    let found = registry.lookup(at("192.0.2.2:80"), 0).unwrap();
    assert_eq!((found.host.as_str(), found.location), ("b.example.org", Location::MeshExternal));
    assert_eq!(registry.lookup_host("b.example.org", 80, 0).unwrap().endpoint, at("192.0.2.2:80"));
}

#[test]
fn without_resolution_the_dialled_address_is_kept() {
    let registry = registry(&[&entry("a", "  addresses: [192.0.2.0/24, 192.0.3.1]\n")]);
    for dialled in ["192.0.2.7:80", "192.0.3.1:80"] {
        let found = registry.lookup(at(dialled), 0).unwrap();
        assert_eq!((found.endpoint, found.has_sidecar), (at(dialled), false));
    }
    assert_eq!(
        registry.lookup_host("a.example.org", 80, 0),
        Err(Miss::NoEndpoint("a.example.org".to_owned()))
    );
    assert_eq!(registry.lookup(at("192.0.2.7:81"), 0), Err(Miss::Unknown));
}

#[test]
fn the_longest_range_wins_and_an_address_before_any() {
    let service = |name: &str, range: &str, ip: &str| {
        entry(
            name,
            &format!("  resolution: STATIC\n  addresses: [\"{range}\"]\n  endpoints: [{{address: {ip}}}]\n"),
        )
    };
    let registry = registry(&[
        &service("wide", "10.0.0.0/8", "192.0.2.1"),
        &service("narrow", "10.1.2.3/16", "192.0.2.2"),
        &service("one", "10.1.0.1", "192.0.2.3"),
        &service("six", "fd00::/8", "192.0.2.4"),
        &service("all", "0.0.0.0/0", "192.0.2.5"),
    ]);
    let found = |dialled: &str| registry.lookup(at(dialled), 0).unwrap().endpoint.ip().to_string();
    assert_eq!(found("10.2.0.1:80"), "192.0.2.1");
    assert_eq!(found("10.1.0.2:80"), "192.0.2.2");
    assert_eq!(found("10.1.0.1:80"), "192.0.2.3");
    assert_eq!(found("[fd00::1]:80"), "192.0.2.4");
    assert_eq!(found("203.0.113.1:80"), "192.0.2.5");
    assert_eq!(registry.lookup(at("[fe80::1]:80"), 0), Err(Miss::Unknown));
}

#[test]
fn a_selector_picks_the_workload_entries_of_its_own_namespace() {
    let workload = |name: &str, namespace: &str, app: &str, ip: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{address: {ip}, ports: {{http: 3000}}, serviceAccount: {name}, labels: {{app: {app}, security.istio.io/tlsMode: istio}}}}\n"
        )
    };
    let service = entry(
        "backend",
        "  location: MESH_INTERNAL\n  resolution: STATIC\n  workloadSelector: {labels: {app: backend}}\n",
    );
    let registry = registry(&[
        &service,
        &workload("one", "default", "backend", "10.0.0.1"),
        &workload("two", "default", "web", "10.0.0.2"),
        &workload("three", "other", "backend", "10.0.0.3"),
        &workload("four", "default", "backend", "10.0.0.4"),
    ]);
    let endpoints: Vec<String> =
        registry.destinations().iter().map(|found| found.endpoint.to_string()).collect();
    assert_eq!(endpoints, ["10.0.0.1:3000", "10.0.0.4:3000"]);
    let identities: Vec<String> =
        registry.destinations()[0].identities.iter().map(ToString::to_string).collect();
    assert_eq!(
        identities,
        ["spiffe://cluster.local/ns/default/sa/four", "spiffe://cluster.local/ns/default/sa/one"]
    );
}

#[test]
fn a_service_is_seen_where_it_is_exported_to() {
    let exported = |to: &str| {
        let text = entry(
            "a",
            &format!("  resolution: STATIC\n  exportTo: [\"{to}\"]\n  endpoints: [{{address: 10.0.0.1}}]\n"),
        );
        registry(&[&text.replace("{name: a}", "{name: a, namespace: other}")])
            .lookup(at("10.0.0.1:80"), 0)
            .is_ok()
    };
    assert!(exported("*") && exported("default"));
    assert!(!exported(".") && !exported("other") && !exported("~"));
}

#[test]
fn of_two_claims_the_first_wins_and_the_second_is_reported() {
    let service = |name: &str| {
        entry(
            name,
            "  location: MESH_INTERNAL\n  resolution: STATIC\n  endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2}]\n",
        )
    };
    let (registry, findings) = build(&[&service("first"), &service("second")]);
    assert_eq!(registry.lookup(at("10.0.0.1:80"), 0).unwrap().service_entry, "default/first");
    let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "ServiceEntry default/second does not get 10.0.0.1:80 (and 3 more): ServiceEntry default/first (mesh.yaml:1) comes first"
        ]
    );
}

#[test]
fn a_service_port_comes_before_the_own_port_of_an_endpoint() {
    let text = entry("a", "  resolution: STATIC\n  endpoints: [{address: 10.0.0.1}]\n").replace(
        "{number: 80, name: http}",
        "{number: 80, name: http, targetPort: 8080}, {number: 8080, name: admin, targetPort: 9090}",
    );
    let found = registry(&[&text]).lookup(at("10.0.0.1:8080"), 0).unwrap();
    assert_eq!((found.port, found.endpoint), (8080, at("10.0.0.1:9090")));
}

#[test]
fn services_outside_the_mesh_may_share_an_address_without_a_word() {
    let registry = registry(&[&entry("a", "  resolution: DNS\n"), &entry("b", "  resolution: DNS\n")]);
    let shared: &[&str] = &["192.0.2.1"];
    let registry =
        registry.with_addresses(&addresses(&[("a.example.org", shared), ("b.example.org", shared)]));
    assert_eq!(registry.conflicts(), []);
    assert_eq!(registry.lookup(at("192.0.2.1:80"), 0).unwrap().host, "a.example.org");
}

#[rstest]
#[case::a_sidecar_outside_the_mesh(
    "  resolution: STATIC\n  endpoints: [{address: 10.0.0.1, serviceAccount: a, labels: {security.istio.io/tlsMode: istio}}]\n",
    "is dialled in plaintext"
)]
#[case::nothing_to_go_by("", "no connection can be told to be its own")]
#[case::an_empty_selector(
    "  resolution: STATIC\n  workloadSelector: {}\n",
    "every WorkloadEntry of its namespace serves it"
)]
fn what_is_probably_not_meant_is_told(#[case] spec: &str, #[case] message: &str) {
    let (_, findings) = build(&[&entry("a", spec)]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].message.contains(message), "{findings:?}");
}

#[rstest]
#[case::without_identity(
    "{address: 10.0.0.1, labels: {app: a, security.istio.io/tlsMode: istio}}",
    "connections there are refused",
    true
)]
#[case::with_a_name("{address: a.example.org, labels: {app: a}}", "whose resolution is STATIC", false)]
fn a_selected_workload_that_cannot_serve_is_told(
    #[case] spec: &str,
    #[case] message: &str,
    #[case] found: bool,
) {
    let service = entry(
        "a",
        "  location: MESH_INTERNAL\n  resolution: STATIC\n  workloadSelector: {labels: {app: a}}\n",
    );
    let workload = format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: one}}\nspec: {spec}\n"
    );
    let (registry, findings) = build(&[&service, &workload]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].message.contains(message), "{findings:?}");
    let destination = registry.lookup(at("10.0.0.1:80"), 0);
    assert_eq!(destination.is_ok(), found);
    if let Ok(destination) = destination {
        assert!(destination.has_sidecar && destination.identities.is_empty());
    }
}

#[test]
fn all_destinations_stand_in_file_order() {
    let registry = registry(&[BACKEND, BY_DNS]).with_addresses(&addresses(&[("customers", &["10.5.0.1"])]));
    let listed: Vec<String> = registry
        .destinations()
        .into_iter()
        .map(|found| format!("{}:{} {}", found.host, found.port, found.endpoint))
        .collect();
    assert_eq!(
        listed,
        [
            "backend.default.svc.cluster.local:80 10.0.0.1:3000",
            "backend.default.svc.cluster.local:80 10.0.0.2:3001",
            "backend.default.svc.cluster.local:80 10.0.0.3:3000",
            "backend.default.svc.cluster.local:9000 10.0.0.1:9000",
            "backend.default.svc.cluster.local:9000 10.0.0.2:9000",
            "backend.default.svc.cluster.local:9000 10.0.0.3:9000",
            "customers:80 10.5.0.1:3000",
        ]
    );
}

#[test]
fn an_address_behind_a_name_without_sidecar_is_not_asked_for_again() {
    let without_sidecar = BY_DNS.replace("tlsMode: istio", "tlsMode: disabled");
    assert_ne!(without_sidecar, BY_DNS);
    let registry = registry(&[&without_sidecar]);
    assert_eq!(registry.names_to_resolve(), ["customers"]);
    assert!(!registry.may_be_stale(80) && !registry.may_be_stale(3000));
}

#[test]
fn a_service_may_have_ten_thousand_endpoints() {
    let endpoint = |number: usize| {
        format!(
            "\n  - {{address: 10.1.{}.{}, serviceAccount: a, labels: {{app: a, security.istio.io/tlsMode: istio}}}}",
            number / 256,
            number % 256
        )
    };
    let endpoints: String = (0..10_000).map(endpoint).collect();
    let text =
        entry("a", &format!("  location: MESH_INTERNAL\n  resolution: STATIC\n  endpoints:{endpoints}\n"));
    let registry = registry(&[&text]);
    assert_eq!(registry.destinations().len(), 10_000);
    assert!(registry.lookup(at("10.1.39.15:80"), 0).unwrap().has_sidecar);
}

#[test]
fn an_empty_registry_knows_nothing() {
    let registry = Registry::default();
    assert_eq!(registry.lookup(at("10.0.0.1:80"), 0), Err(Miss::Unknown));
    assert_eq!(registry.lookup_host("backend", 80, 0), Err(Miss::Unknown));
    assert!(
        registry.names_to_resolve().is_empty()
            && !registry.may_be_stale(80)
            && registry.destinations().is_empty()
    );
}

/// What people see: names that DNS does not know yet too.
#[test]
fn the_list_has_every_endpoint_by_address_or_by_name() {
    let twice = BY_DNS.replace("endpoints: [", "endpoints: [{address: customers, labels: {}}, ");
    let kept = entry("kept", "  addresses: [192.0.2.0/24]\n");
    let registry = registry(&[BACKEND, &twice, &kept]);
    let listed = |registry: &Registry| -> Vec<String> {
        let listed = registry.list().into_iter();
        listed.map(|one| format!("{}:{} {}", one.destination.host, one.destination.port, one.name)).collect()
    };
    let backend = [
        "backend.default.svc.cluster.local:80 10.0.0.1:3000",
        "backend.default.svc.cluster.local:80 10.0.0.2:3001",
        "backend.default.svc.cluster.local:80 10.0.0.3:3000",
        "backend.default.svc.cluster.local:9000 10.0.0.1:9000",
        "backend.default.svc.cluster.local:9000 10.0.0.2:9000",
        "backend.default.svc.cluster.local:9000 10.0.0.3:9000",
    ];
    let others = ["customers:80 customers:3000", "kept.example.org:80 as dialled"];
    assert_eq!(listed(&registry), [&backend[..], &others].concat());
    let fresh = registry.with_addresses(&addresses(&[("customers", &["10.0.0.5", "10.0.0.6"])]));
    let others =
        ["customers:80 10.0.0.5:3000", "customers:80 10.0.0.6:3000", "kept.example.org:80 as dialled"];
    assert_eq!(listed(&fresh), [&backend[..], &others].concat());
}

/// A service of the property below: whether DNS names its endpoint, that endpoint, its ports with the target of each, and
/// whether it has the virtual address.
type Written = (bool, u8, Vec<(u16, u16)>, bool);

const VIRTUAL: &str = "10.0.0.2";

fn written((number, (named, endpoint, ports, is_virtual)): (usize, &Written)) -> String {
    let ports = ports
        .iter()
        .enumerate()
        .map(|(place, (port, target))| format!("{{number: {port}, name: p{place}, targetPort: {target}}}"));
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{number}}}\nspec:\n  \
         hosts: [s{number}.example]\n  location: MESH_INTERNAL\n  ports: [{}]\n  resolution: {}\n  \
         endpoints: [{{address: {}}}]\n  addresses: [{}]\n",
        ports.collect::<Vec<_>>().join(", "),
        if *named { "DNS" } else { "STATIC" },
        if *named { format!("name{endpoint}") } else { format!("10.0.0.{endpoint}") },
        if *is_virtual { VIRTUAL } else { "" },
    )
}

/// "A service's own port comes before an endpoint's", and the first in reading order before the others.
fn claimed(services: &[Written], address: u8, port: u16) -> Option<(String, SocketAddr)> {
    let at_service_port =
        services.iter().enumerate().find_map(|(number, (_, endpoint, ports, is_virtual))| {
            let here = *endpoint == address || *is_virtual && format!("10.0.0.{address}") == VIRTUAL;
            let (_, target) = ports.iter().find(|(own, _)| *own == port).filter(|_| here)?;
            Some((number, *endpoint, *target))
        });
    let at_own_port = || {
        services.iter().enumerate().find_map(|(number, (_, endpoint, ports, _))| {
            let (_, target) = ports.iter().find(|(_, target)| *target == port && *endpoint == address)?;
            Some((number, *endpoint, *target))
        })
    };
    let (number, endpoint, target) = at_service_port.or_else(at_own_port)?;
    Some((format!("default/s{number}"), at(&format!("10.0.0.{endpoint}:{target}"))))
}

proptest! {
    /// Services with names stand apart from the others; who has an address is as if they did not.
    #[test]
    fn the_first_has_an_address_whether_dns_names_it_or_not(
        services in prop::collection::vec(
            (
                any::<bool>(),
                1u8..4,
                prop::collection::btree_map(80u16..83, 80u16..83, 1..3)
                    .prop_map(|ports| ports.into_iter().collect::<Vec<_>>()),
                any::<bool>(),
            ),
            1..6,
        )
    ) {
        let texts: Vec<String> = services.iter().enumerate().map(written).collect();
        let (registry, _) = build(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let names = ["name1", "name2", "name3"];
        let known = names.map(|name| (name.to_owned(), vec![format!("10.0.0.{}", &name[4..]).parse().unwrap()]));
        let registry = registry.with_addresses(&known.into());
        for (address, port) in (1..5).flat_map(|address| (79..84).map(move |port| (address, port))) {
            let found = registry.lookup(at(&format!("10.0.0.{address}:{port}")), 0).ok();
            let found = found.map(|found| (found.service_entry, found.endpoint));
            prop_assert_eq!(found, claimed(&services, address, port), "10.0.0.{}:{}\n{}", address, port, texts.concat());
        }
    }
}
