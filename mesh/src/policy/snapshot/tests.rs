use rstest::rstest;

use super::*;
use crate::policy::authz::Facts;
use crate::policy::mode::Mode;
use crate::spiffe::TrustDomain;

mod standing;

const BACKEND: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend, namespace: foo}
spec:
  hosts: [backend]
  location: MESH_INTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 3000}
  - {number: 9000, name: raw, protocol: TCP}
";

const ENDPOINT: &str = "  endpoints: [{address: backend, serviceAccount: backend, ports: {http: 3001}, labels: {app: backend, security.istio.io/tlsMode: istio}}]\n";
const SELECTOR: &str = "  workloadSelector: {labels: {app: backend}}\n";
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: foo}\nspec: {mtls: {mode: STRICT}}\n";

fn workload() -> Workload {
    Workload {
        name: "backend".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "foo".to_owned(),
        service_account: "backend".to_owned(),
        labels: [("app", "backend"), ("version", "v1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

fn snapshot(texts: &[&str], workload: &Workload) -> Snapshot {
    let mut resources = Resources::default();
    for (number, text) in texts.iter().enumerate() {
        resources.read(&format!("{number}.yaml"), text).unwrap();
    }
    Snapshot::build(&resources, workload, &MeshConfig::default())
}

#[rstest]
#[case::endpoint(ENDPOINT, 3001, Protocol::Http)]
#[case::not_the_service_port(ENDPOINT, 80, Protocol::Undeclared)]
#[case::not_the_target_port_that_the_endpoint_overrides(ENDPOINT, 3000, Protocol::Undeclared)]
#[case::declared_tcp(ENDPOINT, 9000, Protocol::Tcp)]
#[case::selector(SELECTOR, 3000, Protocol::Http)]
#[case::undeclared(SELECTOR, 4000, Protocol::Undeclared)]
fn the_protocol_of_an_own_port_is(#[case] source: &str, #[case] port: u16, #[case] expected: Protocol) {
    assert_eq!(snapshot(&[&format!("{BACKEND}{source}")], &workload()).protocol(port), expected);
}

#[rstest]
#[case::namespace(Workload { namespace: "bar".to_owned(), ..workload() })]
#[case::service_account(Workload { service_account: "web".to_owned(), ..workload() })]
#[case::labels(Workload { labels: [("app".to_owned(), "web".to_owned())].into(), ..workload() })]
fn an_endpoint_of_another_workload_declares_nothing(#[case] workload: Workload) {
    assert_eq!(snapshot(&[&format!("{BACKEND}{ENDPOINT}")], &workload).protocol(3001), Protocol::Undeclared);
}

#[rstest]
#[case::namespace(Workload { namespace: "bar".to_owned(), ..workload() })]
#[case::labels(Workload { labels: [("app".to_owned(), "web".to_owned())].into(), ..workload() })]
fn a_selector_of_another_workload_declares_nothing(#[case] workload: Workload) {
    assert_eq!(snapshot(&[&format!("{BACKEND}{SELECTOR}")], &workload).protocol(3000), Protocol::Undeclared);
}

#[test]
fn of_two_declarations_the_first_is_taken_and_the_second_reported() {
    let other =
        format!("{BACKEND}{SELECTOR}").replace("{name: backend,", "{name: other,").replace("HTTP", "TCP");
    let snapshot =
        snapshot(&[&format!("{BACKEND}{SELECTOR}"), &other.replace("[backend]", "[other]")], &workload());
    assert_eq!(snapshot.protocol(3000), Protocol::Http);
    let message = "ServiceEntry foo/other declares another protocol for this workload's port 3000 than foo/backend \
                   (0.yaml:2), which comes first and is taken";
    let expected = Finding::new(Code::ProtocolTwice, "1.yaml:2", message);
    assert_eq!(snapshot.findings, [expected]);
}

#[test]
fn modes_are_resolved_for_the_workload() {
    let snapshot = snapshot(&[STRICT], &workload());
    assert_eq!(snapshot.modes.for_port(3000).mode, Mode::Strict);
    assert_eq!(snapshot.findings, []);
}

const ONLY_WEB: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: web, namespace: foo}\nspec: {selector: {matchLabels: {app: backend}}, rules: [{from: [{source: {principals: [old.example/ns/foo/sa/web]}}], to: [{operation: {methods: [GET], ports: ['3000']}}]}]}\n";

#[test]
fn authorization_is_that_of_the_workload() {
    let backend = snapshot(&[ONLY_WEB], &workload());
    assert!(backend.authorization.needs_http(3000) && !backend.authorization.needs_http(4000));
    let other = Workload { labels: BTreeMap::new(), ..workload() };
    assert!(snapshot(&[ONLY_WEB], &other).authorization.is_empty());
    let fresh = backend.with_addresses(&Addresses::new());
    assert!(fresh.authorization.needs_http(3000), "addresses change no policy");
}

#[test]
fn aliases_of_the_trust_domain_reach_the_policies() {
    let mut resources = Resources::default();
    resources
        .read("0.yaml", &ONLY_WEB.replace(", to: [{operation: {methods: [GET], ports: ['3000']}}]", ""))
        .unwrap();
    let peer = "spiffe://cluster.local/ns/foo/sa/web".parse().unwrap();
    let address: std::net::SocketAddr = "10.0.0.9:3000".parse().unwrap();
    let facts = Facts {
        peer: Some(&peer),
        source: address.ip(),
        remote: address.ip(),
        destination: address,
        sni: None,
        http: None,
    };
    let allows = |aliases: &[TrustDomain]| {
        let config = MeshConfig { trust_domain_aliases: aliases.to_vec(), ..MeshConfig::default() };
        let snapshot = Snapshot::build(&resources, &workload(), &config);
        snapshot.authorization.authorize(&facts).outcome.is_ok()
    };
    assert!(!allows(&[]));
    assert!(allows(&["old.example".parse().unwrap()]));
}

#[test]
fn a_resource_that_stands_twice_is_reported() {
    let snapshot = snapshot(&[STRICT, STRICT], &workload());
    let messages: Vec<&str> = snapshot.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "PeerAuthentication foo/default stands at 0.yaml:1 too, and both are read; in a cluster the later would \
             have replaced the earlier",
            "PeerAuthentication foo/default is ignored: foo/default (0.yaml:1) has the same scope (namespace) and \
             comes first",
        ]
    );
}

#[test]
fn fresh_addresses_change_the_registry_and_its_findings_alone() {
    let external = |name: &str| {
        BACKEND
            .replace("{name: backend,", &format!("{{name: {name},"))
            .replace("[backend]", &format!("[{name}]"))
    };
    let snapshot = snapshot(&[&external("a"), &external("b"), STRICT], &workload());
    assert_eq!(snapshot.findings, []);
    let addresses: Addresses =
        ["a", "b"].map(|name| (name.to_owned(), vec!["10.0.0.1".parse().unwrap()])).into();
    let fresh = snapshot.with_addresses(&addresses);
    assert!(fresh.registry.lookup("10.0.0.1:80".parse().unwrap(), 0).is_ok());
    assert_eq!(fresh.modes, snapshot.modes);
    assert_eq!(fresh.findings.len(), 2, "{:?}", fresh.findings);
    assert_eq!(fresh.with_addresses(&Addresses::new()).findings, []);
}

#[test]
fn an_own_port_knows_its_service() {
    let snapshot = snapshot(&[&format!("{BACKEND}{SELECTOR}")], &workload());
    let own = snapshot.own_port(3000).unwrap();
    assert_eq!((own.host.as_str(), own.port), ("backend", 80));
    assert_eq!(snapshot.own_port(80), None, "the service's port is not the workload's");
}

fn authorization_policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: foo}}\nspec: {spec}\n"
    )
}

#[rstest]
#[case::allow(
    "{rules: [{to: [{operation: {methods: [GET], paths: [/a]}}]}]}",
    Code::AllowNeverMatches,
    "paths"
)]
#[case::deny(
    "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
    Code::DenyDeniesMore,
    "methods"
)]
#[case::audit("{action: AUDIT, rules: [{to: [{operation: {hosts: [a]}}]}]}", Code::AuditMarksMore, "hosts")]
#[case::when(
    "{rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]}",
    Code::AllowNeverMatches,
    "request.headers[x]"
)]
#[case::this_port(
    "{rules: [{to: [{operation: {methods: [GET], ports: ['9000']}}]}]}",
    Code::AllowNeverMatches,
    "9000"
)]
fn what_http_fields_come_to_on_a_tcp_port_is_reported(
    #[case] spec: &str,
    #[case] code: Code,
    #[case] named: &str,
) {
    let service = format!("{BACKEND}{SELECTOR}");
    let snapshot = snapshot(&[&authorization_policy(spec), &service], &workload());
    let [finding] = snapshot.findings.as_slice() else { panic!("{:?}", snapshot.findings) };
    assert_eq!(finding.code, code);
    assert!(finding.message.contains("ns[foo]-policy[p]-rule[0]"), "{finding:?}");
    assert!(finding.message.contains("port 9000") && finding.message.contains(named), "{finding:?}");
}

/// Where nothing else is declared, a port of which a policy asks for HTTP is read as HTTP.
#[rstest]
#[case::declared_http(3000, true)]
#[case::declared_tcp(9000, false)]
#[case::undeclared(4000, true)]
fn http_is_read_where_it_is_declared_or_asked_for(#[case] port: u16, #[case] expected: bool) {
    let policy = authorization_policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}");
    let service = format!("{BACKEND}{SELECTOR}");
    assert_eq!(snapshot(&[&policy, &service], &workload()).reads_http(port), expected);
    let without = authorization_policy("{rules: [{to: [{operation: {ports: ['4000']}}]}]}");
    assert_eq!(snapshot(&[&without, &service], &workload()).reads_http(port), port == 3000);
}

#[rstest]
#[case::another_port("{rules: [{to: [{operation: {methods: [GET], ports: ['3000']}}]}]}")]
#[case::no_http_field("{rules: [{to: [{operation: {ports: ['9000']}}]}]}")]
fn rules_that_a_tcp_port_has_no_part_in_are_not_reported(#[case] spec: &str) {
    let service = format!("{BACKEND}{SELECTOR}");
    assert_eq!(snapshot(&[&authorization_policy(spec), &service], &workload()).findings, []);
}

#[rstest]
#[case::principals("{action: DENY, rules: [{from: [{source: {principals: [a/ns/b/sa/c]}}]}]}", true)]
#[case::one_way_without(
    "{action: DENY, rules: [{from: [{source: {namespaces: [a]}}, {source: {ipBlocks: [10.0.0.1]}}]}]}",
    false
)]
#[case::not_principals("{action: DENY, rules: [{from: [{source: {notPrincipals: [a/ns/b/sa/c]}}]}]}", false)]
#[case::condition("{action: DENY, rules: [{when: [{key: source.namespace, values: [a]}]}]}", true)]
#[case::allow("{rules: [{from: [{source: {namespaces: [a]}}]}]}", false)]
fn req_39_a_deny_that_plaintext_escapes_is_reported(#[case] spec: &str, #[case] reported: bool) {
    let policy = authorization_policy(spec);
    let open = snapshot(&[&policy], &workload());
    assert_eq!(open.findings.len(), usize::from(reported), "{:?}", open.findings);
    assert_eq!(snapshot(&[&policy, STRICT], &workload()).findings, []);
}

/// The cure that the finding names is one.
#[rstest]
#[case::everywhere("{from: [{source: {notPrincipals: ['*']}}]}", false)]
#[case::on_another_port(
    "{from: [{source: {notPrincipals: ['*']}}], to: [{operation: {ports: ['81']}}]}",
    true
)]
#[case::but_on_one_port(
    "{from: [{source: {notPrincipals: ['*']}}], to: [{operation: {notPorts: ['81']}}]}",
    true
)]
#[case::of_a_namespace("{from: [{source: {notPrincipals: ['*'], ipBlocks: [10.0.0.0/8]}}]}", true)]
#[case::for_a_method("{from: [{source: {notPrincipals: ['*']}}], to: [{operation: {methods: [GET]}}]}", true)]
fn req_39_a_deny_of_the_nameless_leaves_nobody_to_escape(#[case] rule: &str, #[case] reported: bool) {
    let policy = authorization_policy(&format!(
        "{{action: DENY, rules: [{{from: [{{source: {{namespaces: [a]}}}}]}}, {rule}]}}"
    ));
    let escaped = |finding: &&Finding| finding.code == Code::PlaintextEscapesDeny;
    assert_eq!(
        snapshot(&[&policy], &workload()).findings.iter().filter(escaped).count(),
        usize::from(reported)
    );
}
