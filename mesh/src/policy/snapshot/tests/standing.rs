//! What a change of resources or addresses means for a connection that stands.

use rstest::rstest;

use super::*;
use crate::policy::dial::DialTls;
use crate::reason::Reason;
use crate::registry::FoundBy;
use crate::spiffe::SpiffeId;

const PEER: &str = "spiffe://cluster.local/ns/default/sa/backend";

/// What stands beside the service.
const NOTHING: &str = "";
const DISABLE: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: rule}\nspec: {host: backend.example, trafficPolicy: {tls: {mode: DISABLE}}}\n";
const SIMPLE: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: rule}\nspec: {host: backend.example, trafficPolicy: {tls: {mode: SIMPLE}}}\n";
const SIMPLE_BY_OTHER_ROOTS: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: rule}\nspec: {host: backend.example, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /ca.pem}}}\n";

/// A service of one port; `how` is `sidecar`, `plain` or `another` (which only another workload may serve).
fn service(how: &str, addresses: &str, endpoint: &str) -> String {
    let labels = if how == "plain" { "{}" } else { "{security.istio.io/tlsMode: istio}" };
    let account = if how == "another" { "other" } else { "backend" };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\nspec:\n  \
         hosts: [backend.example]\n  addresses: [{addresses}]\n  location: MESH_INTERNAL\n  resolution: DNS\n  \
         ports: [{{number: 80, name: tcp, protocol: TCP}}]\n  \
         endpoints: [{{address: {endpoint}, serviceAccount: {account}, labels: {labels}}}]\n"
    )
}

fn build(texts: &str, policy: OutboundPolicy) -> Snapshot {
    let mut resources = Resources::default();
    resources.read("mesh.yaml", texts).unwrap();
    let client = Workload { namespace: "default".to_owned(), ..workload() };
    let config = MeshConfig { outbound_policy: policy, ..MeshConfig::default() };
    Snapshot::build(&resources, &client, &config)
}

/// Why a connection that was made by `before` and found by `by` ends by `after`.
fn ends(before: &Snapshot, after: &Snapshot, by: &FoundBy) -> Option<String> {
    let made = before.registry.find(by, 0).ok();
    let plan = before.plan(made.as_ref());
    let peer: Option<SpiffeId> =
        matches!(plan.tls, DialTls::IstioMutual { .. }).then(|| PEER.parse().unwrap());
    after.plan_again(by, made.as_ref()).ends(&plan.tls, peer.as_ref())
}

fn dialled(address: &str) -> FoundBy {
    FoundBy::Address(address.parse().unwrap())
}

#[rstest]
#[case::nothing_changed(("sidecar", NOTHING), ("sidecar", NOTHING), None)]
#[case::plaintext_is_enough_now(("sidecar", NOTHING), ("plain", NOTHING), None)]
#[case::a_rule_says_so(("sidecar", NOTHING), ("sidecar", DISABLE), None)]
#[case::a_sidecar_came(("plain", NOTHING), ("sidecar", NOTHING), Some("has a sidecar, and its port is PERMISSIVE; this connection was made as DISABLE has it"))]
#[case::a_rule_went(("sidecar", DISABLE), ("sidecar", NOTHING), Some("this connection was made as DISABLE"))]
#[case::another_may_serve(("sidecar", NOTHING), ("another", NOTHING), Some("may be served by spiffe://cluster.local/ns/default/sa/other; this connection is with spiffe://cluster.local/ns/default/sa/backend"))]
#[case::tls_of_the_web(("sidecar", NOTHING), ("sidecar", SIMPLE), Some("DestinationRule default/rule says SIMPLE; this connection was made as ISTIO_MUTUAL has it"))]
#[case::by_other_roots(("sidecar", SIMPLE), ("sidecar", SIMPLE_BY_OTHER_ROOTS), Some("DestinationRule default/rule says SIMPLE otherwise than when this connection was made"))]
#[case::tls_of_the_web_no_more(("sidecar", SIMPLE), ("sidecar", NOTHING), Some("this connection was made as SIMPLE has it"))]
fn a_standing_connection_ends_where_it_would_be_made_more_safely_now(
    #[case] before: (&str, &str),
    #[case] after: (&str, &str),
    #[case] expected: Option<&str>,
) {
    let snapshot = |(how, rule): (&str, &str)| {
        build(&(service(how, "10.96.0.1", "10.0.0.1") + rule), OutboundPolicy::AllowAny)
    };
    for by in [
        dialled("10.0.0.1:80"),
        dialled("10.96.0.1:80"),
        FoundBy::Host("backend.example".to_owned(), 80),
        FoundBy::Host("10.96.0.1".to_owned(), 80),
    ] {
        let ended = ends(&snapshot(before), &snapshot(after), &by);
        match (expected, &ended) {
            (None, None) => {}
            (Some(expected), Some(ended)) => assert!(ended.contains(expected), "{by:?}: {ended}"),
            _ => panic!("{by:?}: {ended:?} instead of {expected:?}"),
        }
    }
}

#[rstest]
#[case::refused_now(OutboundPolicy::RegistryOnly, true)]
#[case::passed_on_now(OutboundPolicy::AllowAny, false)]
fn a_destination_that_is_known_no_more_is_judged_as_an_unknown_one(
    #[case] policy: OutboundPolicy,
    #[case] cut: bool,
) {
    let before = build(&service("sidecar", "", "10.0.0.1"), policy);
    let after = build("", policy);
    assert_eq!(ends(&before, &after, &dialled("10.0.0.1:80")).is_some(), cut);
    let listener = FoundBy::Host("backend.example".to_owned(), 80);
    let because = ends(&before, &after, &listener).expect("a listener's host must be known");
    assert!(because.contains("no ServiceEntry has the host backend.example"), "{because}");
    assert_eq!(after.plan_again(&listener, None).tls, DialTls::Refuse(Reason::DestinationUnknown));
}

#[test]
fn a_destination_that_was_unknown_and_turns_out_to_have_a_sidecar_is_not_kept_in_plaintext() {
    let by = dialled("10.0.0.1:80");
    let (before, after) = (
        build("", OutboundPolicy::AllowAny),
        build(&service("sidecar", "", "10.0.0.1"), OutboundPolicy::AllowAny),
    );
    assert!(ends(&before, &after, &by).is_some());
}

/// DNS gives other addresses every few seconds; what was dialled by an old one goes on, also where strangers are refused,
/// and is still judged by what is said of its service.
#[test]
fn an_address_that_dns_no_longer_tells_ends_nothing_by_itself() {
    let addresses = |ip: &str| [("web.test".to_owned(), vec![ip.parse().unwrap()])].into();
    let snapshot = |how: &str, ip: &str| {
        build(&service(how, "", "web.test"), OutboundPolicy::RegistryOnly).with_addresses(&addresses(ip))
    };
    let by = dialled("10.0.0.1:80");
    let before = snapshot("plain", "10.0.0.1");
    assert_eq!(ends(&before, &snapshot("plain", "10.0.0.2"), &by), None);
    let mutual = snapshot("sidecar", "10.0.0.1");
    assert_eq!(ends(&mutual, &snapshot("sidecar", "10.0.0.2"), &by), None);
    assert!(ends(&mutual, &snapshot("another", "10.0.0.2"), &by).is_some());
}

/// With several endpoints, the one that the connection goes to counts, not the one whose turn it is.
#[test]
fn the_endpoint_that_a_connection_goes_to_is_the_one_that_is_judged() {
    let endpoints = |second: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\nspec:\n  \
             hosts: [backend.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: tcp, protocol: TCP}}]\n  endpoints:\n  \
             - {{address: 10.0.0.1, labels: {{}}}}\n  \
             - {{address: 10.0.0.2, serviceAccount: backend, labels: {second}}}\n"
        )
    };
    let (before, after) = (
        build(&endpoints("{}"), OutboundPolicy::AllowAny),
        build(&endpoints("{security.istio.io/tlsMode: istio}"), OutboundPolicy::AllowAny),
    );
    let by = FoundBy::Host("backend.example".to_owned(), 80);
    for (turn, ended) in [(0, false), (1, true)] {
        let made = before.registry.find(&by, turn).unwrap();
        let plan = before.plan(Some(&made));
        let now = after.plan_again(&by, Some(&made));
        assert_eq!(now.ends(&plan.tls, None).is_some(), ended, "{}", made.endpoint);
    }
}

#[test]
fn what_a_server_name_tells_is_looked_up_by_it_again() {
    let by_name = |rule: &str| {
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: web}\nspec:\n  \
         hosts: ['*.example']\n  location: MESH_EXTERNAL\n  resolution: NONE\n  \
         ports: [{number: 443, name: tls, protocol: TLS}]\n"
            .to_owned()
            + rule
    };
    let by = FoundBy::ServerName("api.example".to_owned(), "192.0.2.1:443".parse().unwrap());
    let only = OutboundPolicy::RegistryOnly;
    let (before, after) = (build(&by_name(""), only), build("", only));
    assert_eq!(ends(&before, &before, &by), None);
    assert!(ends(&before, &after, &by).unwrap().contains("REGISTRY_ONLY"));
}

#[rstest]
#[case::a_sidecar("sidecar", NOTHING, OutboundPolicy::AllowAny, (true, false))]
#[case::nothing("plain", NOTHING, OutboundPolicy::AllowAny, (false, false))]
#[case::a_rule("plain", SIMPLE, OutboundPolicy::AllowAny, (false, true))]
#[case::a_rule_for_plaintext("plain", DISABLE, OutboundPolicy::AllowAny, (false, false))]
#[case::strangers_are_refused("plain", NOTHING, OutboundPolicy::RegistryOnly, (true, false))]
fn an_unknown_address_may_be_a_fresh_one_of_a_name_that(
    #[case] how: &str,
    #[case] rule: &str,
    #[case] policy: OutboundPolicy,
    #[case] expected: (bool, bool),
) {
    let registry = build(&(service(how, "", "web.test") + rule), policy).registry;
    assert_eq!((registry.may_be_stale(80), registry.may_be_originated(80)), expected);
    assert!(!registry.may_be_stale(81) && !registry.may_be_originated(81));
}
