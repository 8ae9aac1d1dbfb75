//! What the resource reader loads: the policies that people meet in tutorials, and what a cluster prints.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use pillion_mesh::policy::mode::Mode;
use pillion_mesh::resource::{
    ClientTls, DestinationRule, Gateway, Location, PathMatch, PeerAuthentication, Protocol, Resolution,
    Resources, VirtualService,
};
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

/// Everything that a TLS says, in one line.
fn tls_in_short(tls: &ClientTls) -> String {
    let ClientTls::Originate(how) = tls else { return tls.mode().to_owned() };
    let mut words = vec![how.mode().to_owned()];
    let mut say =
        |name: &str, value: Option<&String>| words.extend(value.map(|value| format!("{name}={value}")));
    say("sni", how.sni.as_ref());
    how.subject_alt_names.iter().for_each(|name| say("name", Some(name)));
    say("ca", how.ca_certificates.as_ref());
    say("crl", how.ca_crl.as_ref());
    say("certificate", how.client.as_ref().map(|client| &client.certificate));
    say("key", how.client.as_ref().map(|client| &client.key));
    words.extend(how.insecure_skip_verify.then(|| "unverified".to_owned()));
    words.join(" ")
}

fn rule_in_short(rule: &DestinationRule) -> Vec<String> {
    let DestinationRule { meta, host, traffic_policy, .. } = rule;
    let or_none = |tls: Option<&ClientTls>| tls.map_or("auto".to_owned(), tls_in_short);
    let mut lines = vec![format!("{} {host}: {}", meta.full_name(), or_none(traffic_policy.tls.as_ref()))];
    lines.extend(traffic_policy.ports.iter().map(|(port, tls)| format!("{port}: {}", or_none(tls.as_ref()))));
    for subset in &rule.subsets {
        let labels: Vec<String> =
            subset.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(format!("{} {}: {}", subset.name, labels.join(" "), or_none(rule.tls(1, Some(subset)))));
    }
    lines
}

#[rstest]
#[case("rules_of_two_namespaces", &[
    "foo/httpbin-foo httpbin.foo.svc.cluster.local: ISTIO_MUTUAL",
    "bar/httpbin-bar httpbin.bar.svc.cluster.local: ISTIO_MUTUAL",
])]
#[case("rule_disable", &["default/outside external-service.example.com: DISABLE"])]
#[case("rule_simple", &["default/outside external-service.example.com: SIMPLE"])]
#[case("rule_mutual", &[
    "production/api-with-certificate api.external-service.com: MUTUAL ca=/etc/certs/ca.pem certificate=/etc/certs/cert.pem \
     key=/etc/certs/key.pem",
])]
#[case("rule_whole", &[
    "shop/whole *.shop.example: SIMPLE sni=api.shop.example name=api.shop.example name=spiffe://shop.example/api \
     name=192.0.2.1 ca=/etc/certs/ca.pem crl=/etc/certs/crl.pem",
    "80: DISABLE",
    "8443: SIMPLE unverified",
    "9000: auto",
    "v1 version=v1: SIMPLE sni=api.shop.example name=api.shop.example name=spiffe://shop.example/api name=192.0.2.1 \
     ca=/etc/certs/ca.pem crl=/etc/certs/crl.pem",
    "v2 version=v2: ISTIO_MUTUAL",
])]
fn destination_rules_say(#[case] name: &str, #[case] expected: &[&str]) {
    let lines: Vec<String> = load(name).destination_rules.iter().flat_map(rule_in_short).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_rule_says_for_whom_it_is_and_what_of_it_has_no_effect() {
    let rule = load("rule_whole").destination_rules.remove(0);
    let reached = ["shop", "web", "other"].map(|namespace| rule.export_to.reaches(namespace, "shop"));
    assert_eq!(reached, [true, true, false]);
    assert_eq!(rule.workload_selector.unwrap().match_labels["app"], "web");
    let fields: Vec<String> =
        rule.not_applied.into_iter().map(|(field, place)| format!("{place} {field}")).collect();
    assert_eq!(
        fields,
        [
            "rule_whole:10 trafficPolicy.loadBalancer",
            "rule_whole:11 trafficPolicy.connectionPool",
            "rule_whole:12 trafficPolicy.outlierDetection",
            "rule_whole:13 trafficPolicy.retryBudget",
            "rule_whole:26 trafficPolicy.portLevelSettings[2].connectionPool",
        ]
    );
}

/// Which TLS holds for a port, of the rule itself or of a subset.
#[rstest]
#[case::the_rules_own(443, None, Some("SIMPLE"))]
#[case::of_the_port(80, None, Some("DISABLE"))]
#[case::a_port_without_tls_takes_nothing_from_above(9000, None, None)]
#[case::a_subset_without_policy_is_the_rule(80, Some("v1"), Some("DISABLE"))]
#[case::a_subset_goes_over_the_rule(443, Some("v2"), Some("ISTIO_MUTUAL"))]
#[case::a_subset_goes_over_the_port(80, Some("v2"), Some("ISTIO_MUTUAL"))]
fn the_tls_of_a_port_is(#[case] port: u16, #[case] subset: Option<&str>, #[case] expected: Option<&str>) {
    let rule = load("rule_whole").destination_rules.remove(0);
    let subset = subset.map(|name| rule.subsets.iter().find(|subset| subset.name == name).unwrap());
    assert_eq!(rule.tls(port, subset).map(ClientTls::mode), expected);
}

fn gateway_in_short(gateway: &Gateway) -> Vec<String> {
    let labels: Vec<String> =
        gateway.selector.match_labels.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let mut lines = vec![format!("{}{}", gateway.meta.full_name(), labels.concat())];
    for server in &gateway.servers {
        let host = |host: &pillion_mesh::resource::ServerHost| {
            format!("{}/{}", host.namespace.as_deref().unwrap_or("*"), host.host)
        };
        lines.push(format!(
            "{}: {}",
            server.port,
            server.hosts.iter().map(host).collect::<Vec<_>>().join(" ")
        ));
    }
    lines
}

#[rstest]
#[case("gateway", &["default/gateway istio=ingressgateway", "80: */*"])]
#[case("gateway_of_namespaces", &[
    "edge/edge",
    "80: shop/shop.example.com ./*.example.com */www.example.org",
    "8080: */*.internal.example",
])]
fn gateways_say(#[case] name: &str, #[case] expected: &[&str]) {
    let lines: Vec<String> = load(name).gateways.iter().flat_map(gateway_in_short).collect();
    assert_eq!(lines, expected);
}

fn routes_in_short(service: &VirtualService) -> Vec<String> {
    let hosts: Vec<String> = service.hosts.iter().map(ToString::to_string).collect();
    let gateways: Vec<String> =
        service.gateways.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    let mut lines =
        vec![format!("{} {} by {}", service.meta.full_name(), hosts.join(" "), gateways.join(" "))];
    for route in &service.routes {
        let path = |path: &PathMatch| match path {
            PathMatch::Exact(path) => format!("{path} "),
            PathMatch::Prefix(start) => format!("{start}* "),
        };
        let paths: String = route.paths.iter().map(path).collect();
        let to = &route.destination;
        let port = to.port.map(|port| format!(":{port}")).unwrap_or_default();
        let subset = to.subset.as_ref().map(|subset| format!(" {subset}")).unwrap_or_default();
        lines.push(format!("{paths}-> {}{port}{subset} ({})", to.host, route.place));
    }
    lines
}

#[rstest]
#[case("routes_of_the_mesh", &[
    "default/customers customers.default.svc.cluster.local by ",
    "-> customers.default.svc.cluster.local:80 (routes_of_the_mesh:12)",
])]
#[case("routes_of_a_gateway", &[
    "default/customers customers.default.svc.cluster.local by default/gateway",
    "-> customers.default.svc.cluster.local:80 (routes_of_a_gateway:13)",
])]
#[case("routes_by_path", &[
    "shop/shop shop.example.com *.shop.example.com by edge/edge shop/own",
    "/cart /cart/* -> cart v2 (routes_by_path:15)",
    "-> files (routes_by_path:19)",
    "-> frontend.shop.svc.cluster.local:8080 (routes_by_path:21)",
])]
fn virtual_services_say(#[case] name: &str, #[case] expected: &[&str]) {
    let lines: Vec<String> = load(name).virtual_services.iter().flat_map(routes_in_short).collect();
    assert_eq!(lines, expected);
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
