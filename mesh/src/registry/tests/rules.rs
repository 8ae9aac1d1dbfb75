//! Which DestinationRule a service follows.

use super::*;
use crate::finding::Code;
use crate::resource::ClientTls;

/// The name of the rule that a client of `client`, of labels `app: web`, follows for `host` of namespace `service`.
fn followed(client: &str, host: &str, service: &str, rules: &[String]) -> Option<String> {
    let mut resources = Resources::default();
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s, namespace: {service}}}\n\
         spec: {{hosts: [{host}], resolution: STATIC, location: MESH_INTERNAL, ports: [{{number: 80, name: http}}], \
         endpoints: [{{address: 10.0.0.1}}]}}\n"
    );
    resources.read("service.yaml", &entry).unwrap();
    resources.read("rules.yaml", &rules.concat()).unwrap();
    let workload = Workload {
        name: "web".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: client.to_owned(),
        service_account: "web".to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
    };
    let (registry, _) = Registry::build(&resources, &workload, &MeshConfig::default());
    let found = registry.lookup(at("10.0.0.1:80"), 0).unwrap();
    found.rule.map(|rule| rule.name.clone())
}

/// A rule `namespace/name` for a host, with more of its spec.
fn rule(name: &str, host: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{host: '{host}', trafficPolicy: {{tls: {{mode: DISABLE}}}}{more}}}\n"
    )
}

#[rstest]
#[case::the_host_itself(&["a.b.example", "*.b.example", "*.example", "*"], Some("shop/r0"))]
#[case::the_longest_wildcard(&["*", "*.example", "*.b.example"], Some("shop/r2"))]
#[case::a_shorter_wildcard(&["*", "*.example", "*.c.example"], Some("shop/r1"))]
#[case::any(&["*", "b.example", "x.b.example"], Some("shop/r0"))]
#[case::in_any_case(&["A.B.Example"], Some("shop/r0"))]
#[case::the_first_of_two(&["a.b.example", "a.b.example"], Some("shop/r0"))]
#[case::not_by_a_part_of_a_label(&["*.xample", "b.example"], None)]
#[case::not_by_its_own_end(&["*.a.b.example"], None)]
fn the_most_specific_host_is_followed(#[case] hosts: &[&str], #[case] expected: Option<&str>) {
    let rules: Vec<String> =
        hosts.iter().enumerate().map(|(number, host)| rule(&format!("shop/r{number}"), host, "")).collect();
    assert_eq!(followed("shop", "a.b.example", "shop", &rules).as_deref(), expected);
}

/// A service whose own host is a wildcard is among those of its own and of shorter ones.
#[rstest]
#[case::its_own("*.b.example", true)]
#[case::a_shorter_one("*.example", true)]
#[case::a_longer_one("*.a.b.example", false)]
#[case::a_host_below_it("a.b.example", false)]
fn a_wildcard_service_follows(#[case] host: &str, #[case] expected: bool) {
    assert_eq!(followed("shop", "'*.b.example'", "shop", &[rule("shop/r", host, "")]).is_some(), expected);
}

/// A rule's short host is one of its own namespace, and the bare name of a compose file.
#[rstest]
#[case::full("orders.shop.svc.cluster.local", "shop/r", true)]
#[case::of_another_namespace("orders.bar.svc.cluster.local", "shop/r", false)]
#[case::bare("orders", "shop/r", true)]
fn a_short_host_means(#[case] host: &str, #[case] name: &str, #[case] expected: bool) {
    assert_eq!(followed("shop", host, "shop", &[rule(name, "orders", "")]).is_some(), expected);
}

/// The client's namespace, then the service's, then the root; which host is the most specific counts within one only.
#[rstest]
#[case::the_clients("web", &["istio-system/r", "shop/r", "web/r"], "web/r")]
#[case::the_services("web", &["istio-system/r", "shop/r", "other/r"], "shop/r")]
#[case::the_roots("web", &["istio-system/r", "other/r"], "istio-system/r")]
#[case::an_edge_of_the_root("istio-system", &["istio-system/r", "shop/r"], "shop/r")]
#[case::an_edge_of_the_root_without_another("istio-system", &["istio-system/r", "other/r"], "istio-system/r")]
fn the_namespaces_are_asked_in_order(#[case] client: &str, #[case] names: &[&str], #[case] expected: &str) {
    let rules: Vec<String> = names.iter().map(|name| rule(name, "orders.example", "")).collect();
    assert_eq!(followed(client, "orders.example", "shop", &rules).as_deref(), Some(expected));
}

#[test]
fn a_wildcard_of_the_clients_namespace_comes_before_the_host_of_another() {
    let rules = [rule("web/wide", "*", ""), rule("shop/narrow", "orders.example", "")];
    assert_eq!(followed("web", "orders.example", "shop", &rules).as_deref(), Some("web/wide"));
}

#[rstest]
#[case::everywhere(", exportTo: ['*']", "web", true)]
#[case::its_own_namespace(", exportTo: ['.']", "web", false)]
#[case::its_own_namespace_for_a_client_there(", exportTo: ['.']", "shop", true)]
#[case::a_named_namespace(", exportTo: [web]", "web", true)]
#[case::another_than_its_own(", exportTo: [web]", "shop", false)]
#[case::nowhere(", exportTo: ['~']", "shop", false)]
#[case::for_these_clients(", workloadSelector: {matchLabels: {app: web}}", "shop", true)]
#[case::for_others(", workloadSelector: {matchLabels: {app: api}}", "shop", false)]
#[case::a_selector_stays_in_its_namespace(", workloadSelector: {matchLabels: {app: web}}", "web", false)]
#[case::an_empty_selector_is_none(", workloadSelector: {matchLabels: {}}", "web", true)]
fn a_rule_is_for(#[case] more: &str, #[case] client: &str, #[case] expected: bool) {
    let found = followed(client, "orders.example", "shop", &[rule("shop/r", "orders.example", more)]);
    assert_eq!(found.is_some(), expected);
}

/// Hosts of one entry that different rules are for are different services at one address.
#[test]
fn each_host_of_an_entry_follows_its_own_rule() {
    let text =
        entry("a", "  resolution: STATIC\n  location: MESH_INTERNAL\n  endpoints: [{address: 10.0.0.1}]\n")
            .replace("[a.example.org]", "[a.example.org, b.example.org, c.example.org]");
    let rule = rule("default/b", "b.example.org", "");
    let (registry, findings) = build(&[&text, &rule]);
    assert_eq!(findings, [], "who has the address is nobody's loss");
    let of = |host: &str| registry.lookup_host(host, 80, 0).unwrap();
    assert_eq!(of("b.example.org").rule.unwrap().tls, Some(ClientTls::Disable));
    assert_eq!((of("a.example.org").rule, of("c.example.org").rule), (None, None));
    let dialled = registry.lookup(at("10.0.0.1:80"), 0).unwrap();
    assert_eq!((dialled.host.as_str(), dialled.rule), ("a.example.org", None));
}

#[test]
fn the_rule_of_a_port_is_told_by_the_services_port() {
    let ports = ", trafficPolicy: {tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}, {port: {number: 3000}, tls: {mode: SIMPLE}}]}";
    let rule =
        rule("default/backend", "backend", "").replace(", trafficPolicy: {tls: {mode: DISABLE}}", ports);
    let registry = registry(&[BACKEND, &rule]);
    let tls =
        |port: u16| registry.lookup_host("backend", port, 0).unwrap().rule.unwrap().tls.clone().unwrap();
    assert_eq!((tls(80), tls(9000)), (ClientTls::IstioMutual, ClientTls::Disable));
}

#[rstest]
#[case::lost(
    &[("default/a", "x.example", ""), ("default/b", "x.example", "")],
    Code::RuleIgnored, "DestinationRule default/b is ignored: default/a (mesh.yaml:2) is for the same host and comes first"
)]
#[case::lost_by_another_spelling(
    &[("default/a", "x", ""), ("default/b", "x.default.svc.cluster.local", "")],
    Code::RuleIgnored, "DestinationRule default/b is ignored"
)]
#[case::no_effect(
    &[("default/a", "x.example", ", trafficPolicy: {loadBalancer: {simple: RANDOM}}")],
    Code::NotApplied, "trafficPolicy.loadBalancer of DestinationRule default/a is read and has no effect"
)]
#[case::unverified(
    &[("default/a", "x.example", ", trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}")],
    Code::VerificationSkipped, "DestinationRule default/a believes whoever answers for x.example"
)]
#[case::nobody_to_expect(
    &[("default/a", "*.example", ", trafficPolicy: {tls: {mode: SIMPLE}}")],
    Code::NoServerName, "asks for SIMPLE to *.example, and names no server to expect"
)]
fn what_is_probably_not_meant_in_a_rule_is_told(
    #[case] rules: &[(&str, &str, &str)],
    #[case] code: Code,
    #[case] message: &str,
) {
    let texts: Vec<String> = rules
        .iter()
        .map(|(name, host, policy)| match *policy {
            "" => rule(name, host, ""),
            policy => rule(name, host, "").replace(", trafficPolicy: {tls: {mode: DISABLE}}", policy),
        })
        .collect();
    let (_, findings) = build(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.code, code);
    assert!(finding.message.contains(message), "{finding:?}");
}
