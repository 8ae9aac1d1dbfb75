//! Look-ups of routes and of server names.

use super::*;

const WITH_VERSIONS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.1.0.1, serviceAccount: orders, labels: {version: v1, security.istio.io/tlsMode: istio}}
  - {address: 10.1.0.2, serviceAccount: orders, labels: {version: v2, security.istio.io/tlsMode: istio}}
  - {address: 10.1.0.3, serviceAccount: orders, labels: {version: v2, security.istio.io/tlsMode: istio}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders
  subsets:
  - {name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
  - {name: all}
";

fn route(
    registry: &Registry,
    host: &str,
    port: Option<u16>,
    subset: Option<&str>,
    turn: usize,
) -> Result<Destination, RouteMiss> {
    let target = RouteTarget {
        host: host.to_owned(),
        namespace: "shop".to_owned(),
        port,
        subset: subset.map(str::to_owned),
    };
    registry.lookup_route(&target, turn)
}

#[rstest]
#[case::full("orders.shop.svc.cluster.local", Some(80))]
#[case::short("orders", Some(80))]
#[case::with_namespace("orders.shop", Some(80))]
#[case::without_port("orders", None)]
#[case::in_any_case("Orders", None)]
fn a_route_leads_to_a_service(#[case] host: &str, #[case] port: Option<u16>) {
    let registry = registry(&[WITH_VERSIONS]);
    let turns: Vec<_> =
        (0..4).map(|turn| route(&registry, host, port, None, turn).unwrap().endpoint).collect();
    assert_eq!(turns, ["10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80", "10.1.0.1:80"].map(at));
}

#[test]
fn a_subset_has_its_own_endpoints_and_its_own_tls() {
    let registry = registry(&[WITH_VERSIONS]);
    let of = |subset: &str, turn: usize| route(&registry, "orders", Some(80), Some(subset), turn).unwrap();
    assert_eq!((of("v1", 0).endpoint, of("v1", 1).endpoint), (at("10.1.0.1:80"), at("10.1.0.1:80")));
    let turns = [0, 1, 2].map(|turn| of("v2", turn).endpoint);
    assert_eq!(turns, ["10.1.0.2:80", "10.1.0.3:80", "10.1.0.2:80"].map(at));
    assert_eq!(
        [0, 1, 2].map(|turn| of("all", turn).endpoint.ip().to_string()),
        ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
    );
    let tls = |subset: &str| of(subset, 0).rule.unwrap().tls.as_ref().map(ClientTls::mode);
    assert_eq!((tls("v1"), tls("v2")), (Some("DISABLE"), None));
    assert_eq!(of("v2", 0).subset.as_deref(), Some("v2"));
}

#[rstest]
#[case::unknown_host("nobody", Some(80), None, Miss::Unknown.into())]
#[case::unknown_port("orders", Some(81), None, Miss::Unknown.into())]
#[case::of_another_namespace("backend.default", None, None, RouteMiss::SeveralPorts)]
#[case::unknown_subset("orders", Some(80), Some("v9"), RouteMiss::NoSubset("orders.shop.svc.cluster.local".to_owned()))]
#[case::subset_without_rule("backend.default", Some(80), Some("v1"), RouteMiss::NoSubset("backend.default.svc.cluster.local".to_owned()))]
#[case::empty_subset("orders", Some(80), Some("v3"), Miss::NoEndpoint("orders.shop.svc.cluster.local".to_owned()).into())]
fn a_route_leads_nowhere(
    #[case] host: &str,
    #[case] port: Option<u16>,
    #[case] subset: Option<&str>,
    #[case] expected: RouteMiss,
) {
    let registry = registry(&[WITH_VERSIONS, BACKEND]);
    assert_eq!(route(&registry, host, port, subset, 0), Err(expected));
}

/// What DNS says of a subset's endpoint counts for the subset.
#[test]
fn a_subset_follows_the_addresses_of_its_names() {
    let named = WITH_VERSIONS
        .replace("resolution: STATIC", "resolution: DNS")
        .replace("10.1.0.1", "one")
        .replace("10.1.0.2", "two")
        .replace("10.1.0.3", "two");
    let registry = registry(&[&named]);
    let missing = Miss::NoEndpoint("orders.shop.svc.cluster.local".to_owned());
    assert_eq!(route(&registry, "orders", None, Some("v1"), 0), Err(missing.into()));
    let registry =
        registry.with_addresses(&addresses(&[("one", &["10.5.0.1"]), ("two", &["10.5.0.2", "10.5.0.3"])]));
    let of = |subset: &str, turn| route(&registry, "orders", None, Some(subset), turn).unwrap().endpoint;
    assert_eq!(of("v1", 1), at("10.5.0.1:80"));
    assert_eq!([0, 1].map(|turn| of("v2", turn)), ["10.5.0.2:80", "10.5.0.3:80"].map(at));
}

/// A service that only a server name tells.
fn by_name(name: &str, host: &str, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: ['{host}'], ports: [{{number: 443, name: tls, protocol: TLS}}]{more}}}\n"
    )
}

#[rstest]
#[case::its_name("api.example", Some("default/one"))]
#[case::in_any_case("API.Example", Some("default/one"))]
#[case::a_wildcard("www.example", Some("default/all"))]
#[case::the_longest_wildcard("a.deep.example", Some("default/deep"))]
#[case::not_the_wildcards_own_end("example", None)]
#[case::unknown("api.other", None)]
#[case::a_service_that_has_addresses("ranged.example.net", None)]
fn a_server_name_tells_a_service(#[case] name: &str, #[case] expected: Option<&str>) {
    let registry = registry(&[
        &by_name("one", "api.example", ""),
        &by_name("all", "*.example", ""),
        &by_name("deep", "*.deep.example", ""),
        &by_name("ranged", "ranged.example.net", ", addresses: [192.0.2.0/24]"),
    ]);
    let dialled = at("198.51.100.1:443");
    let found = registry.lookup_sni(name, dialled);
    assert_eq!(found.as_ref().ok().map(|found| found.service_entry.as_str()), expected);
    if let Ok(found) = found {
        assert_eq!((found.endpoint, found.has_sidecar), (dialled, false), "the dialled address is kept");
    }
    assert_eq!(registry.lookup(dialled, 0), Err(Miss::Unknown));
}

#[rstest]
#[case::the_port(443, true)]
#[case::another_port(8443, false)]
fn a_server_name_is_asked_for_on_ports_of_such_services_alone(#[case] port: u16, #[case] expected: bool) {
    let registry = registry(&[&by_name("one", "api.example", ""), BACKEND]);
    assert_eq!(registry.asks_sni(port), expected);
    let dialled = SocketAddr::new([198, 51, 100, 1].into(), port);
    assert_eq!(registry.lookup_sni("api.example", dialled).is_ok(), expected);
}

#[test]
fn a_service_of_another_protocol_or_resolution_is_told_by_no_server_name() {
    let http = by_name("http", "a.example", "").replace("TLS", "HTTP");
    let looked_up = by_name("dns", "b.example", ", resolution: DNS");
    let (registry, _) = build(&[&http, &looked_up]);
    assert!(!registry.asks_sni(443));
}
