use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::policy::path::normalize;
use crate::policy::request::Host;

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 8080, name: own, protocol: HTTP}, hosts: ['./*.example', 'shop/api.example']}
";

fn virtual_service(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn to(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]")
}

fn build(texts: &[&str], labels: &[(&str, &str)]) -> (Routes, Vec<Finding>) {
    let mut resources = Resources::default();
    resources.read("mesh.yaml", &texts.concat()).unwrap();
    let workload = Workload {
        name: "edge".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "edge".to_owned(),
        service_account: "edge".to_owned(),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    Routes::build(&resources, &workload)
}

const EDGE: &[(&str, &str)] = &[("istio", "ingressgateway")];

/// The service that a request for `host/path` at `port` goes to.
fn led(routes: &Routes, port: u16, url: &str) -> Result<String, NoRoute> {
    let (host, path) = url.split_at(url.find('/').unwrap());
    let route = routes.route(port, &Host::parse(host).unwrap(), &normalize(path).unwrap())?;
    Ok(route.destination.host.clone())
}

#[rstest]
#[case::whole_name("a.example/", "one")]
#[case::case_and_port_and_dot("A.Example.:80/", "one")]
#[case::longest_wildcard("x.b.example/", "below-b")]
#[case::shorter_wildcard("x.y.example/", "below")]
#[case::not_below_itself("b.example/", "below")]
#[case::any("example/", "any")]
#[case::address("10.0.0.1/", "any")]
fn the_most_specific_host_leads(#[case] url: &str, #[case] expected: &str) {
    let service = |name: &str, host: &str| {
        virtual_service(
            name,
            "edge",
            &format!("{{hosts: ['{host}'], gateways: [gateway], http: [{{{}}}]}}", to(name)),
        )
    };
    let services = [
        service("any", "*"),
        service("below", "*.example"),
        service("below-b", "*.b.example"),
        service("one", "a.example"),
    ];
    let (routes, findings) = build(&[GATEWAY, &services.concat()], EDGE);
    assert_eq!(findings, []);
    assert_eq!(led(&routes, 80, url).as_deref(), Ok(expected));
}

#[rstest]
#[case::exact("/api", "exact")]
#[case::prefix("/api/v1", "prefix")]
#[case::prefix_is_text("/apis", "prefix")]
#[case::query_does_not_count("/api?x=/y", "exact")]
#[case::normalized_before("//api/../api", "exact")]
#[case::one_of_two("/b", "two")]
#[case::the_rest("/c", "rest")]
fn of_a_host_the_first_route_that_takes_the_path_leads(#[case] path: &str, #[case] expected: &str) {
    let routes = [
        format!("{{match: [{{uri: {{exact: /api}}}}], {}}}", to("exact")),
        format!("{{match: [{{uri: {{prefix: /api}}}}], {}}}", to("prefix")),
        format!("{{match: [{{uri: {{exact: /a}}}}, {{uri: {{exact: /b}}}}], {}}}", to("two")),
        format!("{{{}}}", to("rest")),
        format!("{{{}}}", to("never")),
    ];
    let spec = format!("{{hosts: [a.example], gateways: [edge/gateway], http: [{}]}}", routes.join(", "));
    let (routes, _) = build(&[GATEWAY, &virtual_service("a", "shop", &spec)], EDGE);
    assert_eq!(led(&routes, 80, &format!("a.example{path}")).as_deref(), Ok(expected));
}

#[test]
fn what_nobody_routes_is_told_by_host_or_path() {
    let spec = format!(
        "{{hosts: [a.example], gateways: [gateway], http: [{{match: [{{uri: {{prefix: /api/}}}}], {}}}]}}",
        to("a")
    );
    let (routes, _) = build(&[GATEWAY, &virtual_service("a", "edge", &spec)], EDGE);
    let told = |url| led(&routes, 80, url).unwrap_err().to_string();
    assert_eq!(told("b.example/api/"), "no VirtualService has the host b.example");
    assert_eq!(told("a.example/api?q"), "no route of host a.example takes the path /api");
    assert!(led(&routes, 81, "a.example/api/").is_err());
}

#[rstest]
#[case::selected(EDGE, vec![80, 8080])]
#[case::more_labels(&[("istio", "ingressgateway"), ("app", "edge")], vec![80, 8080])]
#[case::another(&[("istio", "egressgateway")], vec![])]
#[case::none(&[], vec![])]
fn a_gateway_is_for_the_workloads_that_it_selects(
    #[case] labels: &[(&str, &str)],
    #[case] expected: Vec<u16>,
) {
    let (routes, _) = build(&[GATEWAY], labels);
    assert_eq!(routes.ports().collect::<Vec<_>>(), expected);
}

/// On port 8080 hosts below `.example` are taken from the gateway's own namespace, `api.example` from `shop`.
#[rstest]
#[case::own_namespace("edge", "a.example", true)]
#[case::another_namespace("shop", "a.example", false)]
#[case::the_one_that_may("shop", "api.example", true)]
#[case::wildcard_becomes_the_servers("edge", "*", true)]
#[case::outside("edge", "a.other", false)]
fn a_server_takes_hosts_of_some_namespaces(#[case] namespace: &str, #[case] host: &str, #[case] taken: bool) {
    let spec = format!("{{hosts: ['{host}'], gateways: [edge/gateway], http: [{{{}}}]}}", to("a"));
    let (routes, findings) = build(&[GATEWAY, &virtual_service("a", namespace, &spec)], EDGE);
    let asked = if host == "*" { "x.example" } else { host };
    assert_eq!(led(&routes, 8080, &format!("{asked}/")).is_ok(), taken);
    assert_eq!(findings, [], "port 80 takes them all");
    assert!(led(&routes, 8080, "x.other/").is_err(), "the server does not take it, whoever routes it");
}

#[test]
fn a_service_whose_hosts_no_server_takes_is_reported() {
    let gateway = GATEWAY.replace("['*']", "[a.example]");
    let spec = format!("{{hosts: [b.other], gateways: [gateway], http: [{{{}}}]}}", to("b"));
    let (_, findings) = build(&[&gateway, &virtual_service("b", "edge", &spec)], EDGE);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.code, Code::GatewayUnknown);
    assert!(finding.message.contains("names Gateway edge/gateway"), "{finding}");
}

#[rstest]
#[case::another_gateway("[other]", "*")]
#[case::of_another_namespace("[shop/gateway]", "*")]
#[case::not_exported("[gateway]", "shop")]
fn a_service_of_another_gateway_is_not_routed(#[case] gateways: &str, #[case] export_to: &str) {
    let spec = format!(
        "{{hosts: [a.example], exportTo: ['{export_to}'], gateways: {gateways}, http: [{{{}}}]}}",
        to("a")
    );
    let (routes, _) = build(&[GATEWAY, &virtual_service("a", "edge", &spec)], EDGE);
    assert!(led(&routes, 80, "a.example/").is_err());
}

/// Of two services with one host both are asked, the older first.
#[test]
fn routes_of_one_host_from_two_services_stand_in_order() {
    let spec = |path: &str, name: &str| {
        format!(
            "{{hosts: [a.example], gateways: [gateway], http: [{{match: [{{uri: {{prefix: {path}}}}}], {}}}]}}",
            to(name)
        )
    };
    let services = [
        virtual_service("late", "edge", &spec("/", "late")),
        virtual_service("b", "edge", &spec("/api", "b")),
    ];
    let (routes, _) = build(&[GATEWAY, &services.concat()], EDGE);
    assert_eq!(led(&routes, 80, "a.example/api").as_deref(), Ok("late"));
    let dated = services[1].replace("{name: b,", "{creationTimestamp: '2020-01-01T00:00:00Z', name: b,");
    let (routes, _) = build(&[GATEWAY, &services[0], &dated], EDGE);
    assert_eq!(led(&routes, 80, "a.example/api").as_deref(), Ok("b"));
    assert_eq!(led(&routes, 80, "a.example/x").as_deref(), Ok("late"));
    let told: Vec<_> = routes
        .all()
        .into_iter()
        .map(|(port, host, route)| format!("{port} {host} {}", route.destination.host))
        .collect();
    assert_eq!(told, ["80 a.example b", "80 a.example late", "8080 a.example b", "8080 a.example late"]);
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let path = "(/[ab]{0,2}){1,3}";
    prop_oneof![path.prop_map(PathMatch::Exact), path.prop_map(PathMatch::Prefix)]
}

proptest! {
    /// What is looked up is what trying each route in its order finds.
    #[test]
    fn the_first_route_that_takes_a_path_is_found(
        routes in prop::collection::vec(prop::collection::vec(path_match(), 0..3), 0..8),
        paths in prop::collection::vec("(/[ab]{0,3}){1,4}", 1..8),
    ) {
        let route = |(number, paths): (usize, Vec<PathMatch>)| {
            let destination = RouteDestination { host: number.to_string(), port: None, subset: None };
            let place = String::new();
            Arc::new(Route {
                virtual_service: String::new(),
                namespace: String::new(),
                place,
                paths,
                destination,
            })
        };
        let routes: Vec<Arc<Route>> = routes.into_iter().enumerate().map(route).collect();
        let of_host = OfHost::new(routes.clone());
        for path in &paths {
            let takes = |route: &&Arc<Route>| {
                route.paths.is_empty() || route.paths.iter().any(|wanted| wanted.matches(path))
            };
            prop_assert_eq!(of_host.first(path), routes.iter().find(takes), "{}", path);
        }
    }
}
