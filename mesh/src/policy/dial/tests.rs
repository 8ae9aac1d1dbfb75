use rstest::rstest;

use super::*;
use crate::registry::AppliedRule;
use crate::resource::ClientFiles;

fn backend() -> Destination {
    Destination {
        host: "backend".to_owned(),
        service_entry: "default/backend".to_owned(),
        port: 8080,
        protocol: Protocol::Http,
        location: Location::MeshInternal,
        endpoint: "10.0.0.2:3000".parse().unwrap(),
        has_sidecar: true,
        takes_tunnels: false,
        endpoint_mode: Mode::Permissive,
        identities: ["spiffe://cluster.local/ns/default/sa/backend".parse().unwrap()].into(),
        rule: None,
        subset: None,
    }
}

fn planned(destination: &Destination) -> DialPlan {
    plan(Some(destination), OutboundPolicy::RegistryOnly)
}

#[rstest]
#[case::permissive(Mode::Permissive)]
#[case::strict(Mode::Strict)]
fn a_sidecar_is_reached_by_mutual_tls(#[case] endpoint_mode: Mode) {
    let destination = Destination { endpoint_mode, ..backend() };
    let DialTls::IstioMutual { sni, identities } = planned(&destination).tls else {
        panic!("expected mutual TLS");
    };
    assert_eq!(sni, "outbound_.8080_._.backend");
    assert_eq!(identities, destination.identities);
}

#[rstest]
#[case::automatically(None)]
#[case::by_rule(Some(ClientTls::IstioMutual))]
fn a_sidecar_that_takes_tunnels_is_reached_by_one(#[case] tls: Option<ClientTls>) {
    let destination = ruled(tls, Destination { takes_tunnels: true, ..backend() });
    let DialPlan { tls, because } = planned(&destination);
    let (door, identities) = ("10.0.0.2:15008".parse().unwrap(), destination.identities);
    assert_eq!(tls, DialTls::Tunnel { door, identities });
    assert!(because.ends_with("and it takes tunnels"), "{because}");
}

#[rstest]
#[case::port_is_disable(Destination { endpoint_mode: Mode::Disable, takes_tunnels: true, ..backend() })]
#[case::outside_the_mesh(Destination { location: Location::MeshExternal, takes_tunnels: true, ..backend() })]
#[case::by_rule(ruled(Some(ClientTls::Disable), Destination { takes_tunnels: true, ..backend() }))]
#[case::no_sidecar(Destination { has_sidecar: false, ..backend() })]
#[case::port_is_disable(Destination { endpoint_mode: Mode::Disable, ..backend() })]
#[case::outside_the_mesh(Destination { location: Location::MeshExternal, ..backend() })]
fn a_known_destination_without_mesh_tls_is_reached_in_plaintext(#[case] destination: Destination) {
    assert_eq!(planned(&destination).tls, DialTls::Plaintext);
}

#[test]
fn an_unknown_destination_is_passed_on_or_refused_as_the_policy_says() {
    assert_eq!(plan(None, OutboundPolicy::AllowAny).tls, DialTls::Plaintext);
    assert_eq!(plan(None, OutboundPolicy::RegistryOnly).tls, DialTls::Refuse(Reason::DestinationUnknown));
}

/// Requirement 25: where mTLS is wanted, nothing else is done.
#[test]
fn req_25_a_sidecar_without_a_known_identity_is_not_dialled() {
    let destination = Destination { identities: Arc::new([]), ..backend() };
    assert_eq!(planned(&destination).tls, DialTls::Refuse(Reason::NoExpectedIdentity));
}

#[rstest]
#[case::plain("backend", None, "outbound_.8080_._.backend")]
#[case::of_a_subset("backend", Some("v2"), "outbound_.8080_.v2_.backend")]
#[case::a_wildcard_is_no_server_name("*.example.org", None, "outbound_.8080_._.example.org")]
fn the_sni_of_the_mesh_is(#[case] host: &str, #[case] subset: Option<&str>, #[case] expected: &str) {
    let destination = Destination { host: host.to_owned(), subset: subset.map(str::to_owned), ..backend() };
    let DialTls::IstioMutual { sni, .. } = planned(&destination).tls else {
        panic!("expected mutual TLS");
    };
    assert_eq!(sni, expected);
}

fn origination() -> Origination {
    Origination {
        sni: None,
        subject_alt_names: Vec::new(),
        ca_certificates: None,
        ca_crl: None,
        insecure_skip_verify: false,
        client: None,
    }
}

fn with_certificate() -> Origination {
    let files = ClientFiles { certificate: "/c.pem".to_owned(), key: "/k.pem".to_owned() };
    Origination { client: Some(files), ..origination() }
}

fn ruled(tls: Option<ClientTls>, destination: Destination) -> Destination {
    let rule = AppliedRule { name: "shop/rule".to_owned(), place: "mesh.yaml:1".to_owned(), tls };
    Destination { rule: Some(Arc::new(rule)), ..destination }
}

/// An explicit rule always wins, whatever the endpoint has and wherever it is.
#[rstest]
#[case::disable(ClientTls::Disable, "DISABLE")]
#[case::istio_mutual(ClientTls::IstioMutual, "ISTIO_MUTUAL")]
#[case::simple(ClientTls::Originate(Arc::new(origination())), "SIMPLE")]
#[case::mutual(ClientTls::Originate(Arc::new(with_certificate())), "MUTUAL")]
fn a_rule_goes_over_auto_mtls(
    #[case] tls: ClientTls,
    #[case] mode: &str,
    #[values(true, false)] has_sidecar: bool,
    #[values(Mode::Strict, Mode::Permissive, Mode::Disable)] endpoint_mode: Mode,
    #[values(Location::MeshInternal, Location::MeshExternal)] location: Location,
) {
    let plan = planned(&ruled(Some(tls), Destination { has_sidecar, endpoint_mode, location, ..backend() }));
    assert_eq!(plan.tls.mode(), mode);
    assert_eq!(plan.because, format!("DestinationRule shop/rule says {mode}"));
}

/// A rule that says nothing of TLS leaves it to auto mTLS.
#[rstest]
#[case::a_sidecar(true, Mode::Strict, Location::MeshInternal, "ISTIO_MUTUAL")]
#[case::a_sidecar_that_takes_both(true, Mode::Permissive, Location::MeshInternal, "ISTIO_MUTUAL")]
#[case::a_port_that_takes_none(true, Mode::Disable, Location::MeshInternal, "DISABLE")]
#[case::no_sidecar(false, Mode::Permissive, Location::MeshInternal, "DISABLE")]
#[case::no_sidecar_behind_strict(false, Mode::Strict, Location::MeshInternal, "DISABLE")]
#[case::outside(true, Mode::Strict, Location::MeshExternal, "DISABLE")]
#[case::outside_without_sidecar(false, Mode::Permissive, Location::MeshExternal, "DISABLE")]
fn without_an_explicit_mode_auto_mtls_decides(
    #[case] has_sidecar: bool,
    #[case] endpoint_mode: Mode,
    #[case] location: Location,
    #[case] mode: &str,
) {
    let destination = Destination { has_sidecar, endpoint_mode, location, ..backend() };
    assert_eq!(planned(&destination).tls.mode(), mode);
    assert_eq!(planned(&ruled(None, destination)).tls.mode(), mode);
}

/// Requirement 25, for an explicit rule too.
#[test]
fn req_25_istio_mutual_without_a_known_identity_is_not_dialled() {
    let destination = Destination { identities: Arc::new([]), has_sidecar: false, ..backend() };
    let plan = planned(&ruled(Some(ClientTls::IstioMutual), destination));
    assert_eq!(plan.tls, DialTls::Refuse(Reason::NoExpectedIdentity));
}

fn names(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The name that is asked for, and those of which the server must prove one.
#[rstest]
#[case::the_host("api.example", origination(), Some("api.example"), &["api.example"])]
#[case::the_rules_sni("api.example", Origination { sni: Some("sni.example".to_owned()), ..origination() },
    Some("sni.example"), &["sni.example"])]
#[case::the_rules_names("api.example", Origination { subject_alt_names: names(&["one.example", "two.example"]), ..origination() },
    Some("api.example"), &["one.example", "two.example"])]
#[case::a_wildcard_with_sni("*.example", Origination { sni: Some("sni.example".to_owned()), ..origination() },
    Some("sni.example"), &["sni.example"])]
#[case::a_wildcard_with_names("*.example", Origination { subject_alt_names: names(&["one.example"]), ..origination() },
    None, &["one.example"])]
#[case::whoever_answers("api.example", Origination { insecure_skip_verify: true, ..origination() },
    Some("api.example"), &[])]
#[case::whoever_answers_behind_a_wildcard("*.example", Origination { insecure_skip_verify: true, ..origination() },
    None, &[])]
fn tls_of_the_web_asks_for(
    #[case] host: &str,
    #[case] how: Origination,
    #[case] asked: Option<&str>,
    #[case] proved: &[&str],
) {
    let destination = Destination { host: host.to_owned(), ..backend() };
    let plan = planned(&ruled(Some(ClientTls::Originate(Arc::new(how))), destination));
    let DialTls::Originate { server_name, names, .. } = plan.tls else { panic!("{plan:?}") };
    assert_eq!(server_name.as_deref(), asked);
    assert_eq!(names, proved);
}

/// Nobody can be verified behind a wildcard without a name.
#[test]
fn a_wildcard_without_a_name_to_expect_is_not_dialled() {
    let destination = Destination { host: "*.example".to_owned(), ..backend() };
    let plan = planned(&ruled(Some(ClientTls::Originate(Arc::new(with_certificate()))), destination));
    assert_eq!(plan.tls, DialTls::Refuse(Reason::NoServerName));
    assert!(plan.because.ends_with("names no server to expect behind *.example"), "{}", plan.because);
}

#[rstest]
#[case(Protocol::Http, Some("http/1.1"))]
#[case(Protocol::Http2, Some("h2"))]
#[case(Protocol::Tcp, None)]
#[case(Protocol::Tls, None)]
#[case(Protocol::Undeclared, None)]
fn tls_of_the_web_offers_what_is_spoken(#[case] protocol: Protocol, #[case] expected: Option<&str>) {
    let destination = Destination { protocol, ..backend() };
    let plan = planned(&ruled(Some(ClientTls::Originate(Arc::new(origination()))), destination));
    let DialTls::Originate { alpn, .. } = plan.tls else { panic!("{plan:?}") };
    assert_eq!(alpn, expected);
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}").parse().unwrap()
}

fn mesh_tls(accounts: &[&str]) -> DialTls {
    let identities = accounts.iter().map(|account| id(account)).collect();
    DialTls::IstioMutual { sni: "outbound_.80_._.a".to_owned(), identities }
}

fn tunnel(accounts: &[&str]) -> DialTls {
    let identities = accounts.iter().map(|account| id(account)).collect();
    DialTls::Tunnel { door: "10.0.0.2:15008".parse().unwrap(), identities }
}

fn web_tls(ca: &str) -> DialTls {
    let how = Origination { ca_certificates: Some(ca.to_owned()), ..origination() };
    let name = "api.example".to_owned();
    DialTls::Originate { server_name: Some(name.clone()), names: vec![name], alpn: None, how: Arc::new(how) }
}

/// Whether a connection that was made by the first plan, with `a` proved where anybody was, goes on under the second.
#[rstest]
#[case::plaintext(DialTls::Plaintext, DialTls::Plaintext, true)]
#[case::safer_than_it_must_be(mesh_tls(&["a"]), DialTls::Plaintext, true)]
#[case::web_is_safer_too(web_tls("/ca.pem"), DialTls::Plaintext, true)]
#[case::plaintext_where_mtls_is_wanted(DialTls::Plaintext, mesh_tls(&["a"]), false)]
#[case::plaintext_where_tls_is_wanted(DialTls::Plaintext, web_tls("/ca.pem"), false)]
#[case::refused(mesh_tls(&["a"]), DialTls::Refuse(Reason::NoExpectedIdentity), false)]
#[case::plaintext_refused(DialTls::Plaintext, DialTls::Refuse(Reason::DestinationUnknown), false)]
#[case::may_serve(mesh_tls(&["a", "b"]), mesh_tls(&["a"]), true)]
#[case::may_not_serve_any_more(mesh_tls(&["a", "b"]), mesh_tls(&["b", "c"]), false)]
#[case::in_a_tunnel(tunnel(&["a", "b"]), tunnel(&["a"]), true)]
#[case::in_a_tunnel_no_more(tunnel(&["a"]), mesh_tls(&["a"]), true)]
#[case::in_a_tunnel_from_now_on(mesh_tls(&["a"]), tunnel(&["a"]), true)]
#[case::in_a_tunnel_to_another(tunnel(&["a"]), tunnel(&["b"]), false)]
#[case::plaintext_where_a_tunnel_is_wanted(DialTls::Plaintext, tunnel(&["a"]), false)]
#[case::another_kind_of_tls(web_tls("/ca.pem"), mesh_tls(&["a"]), false)]
#[case::and_the_other_way(mesh_tls(&["a"]), web_tls("/ca.pem"), false)]
#[case::the_same_tls(web_tls("/ca.pem"), web_tls("/ca.pem"), true)]
#[case::other_roots(web_tls("/ca.pem"), web_tls("/other.pem"), false)]
fn a_connection_goes_on(#[case] made: DialTls, #[case] now: DialTls, #[case] expected: bool) {
    let peer = matches!(made, DialTls::IstioMutual { .. } | DialTls::Tunnel { .. }).then(|| id("a"));
    assert_eq!(made.still_serves(peer.as_ref(), &now), expected);
}
