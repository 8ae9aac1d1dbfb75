//! An answer is what the decision functions say, asked one by one; its words are in the cases of `tests/asked`.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::describe::describe;
use crate::policy::authz::{Headers, OpenPort};
use crate::resource::{Action, Resources};
use crate::workload::MeshConfig;

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 8080}
  - {number: 81, name: tcp, protocol: TCP, targetPort: 8081}
  endpoints: [{address: 10.0.0.1, serviceAccount: orders, labels: {app: orders}}]
---
";

fn orders() -> Workload {
    Workload {
        name: "orders".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "shop".to_owned(),
        service_account: "orders".to_owned(),
        labels: [("app".to_owned(), "orders".to_owned())].into(),
    }
}

fn snapshot(policies: &str) -> Snapshot {
    let mut resources = Resources::default();
    resources
        .read("mesh.yaml", &format!("{SERVICE}{policies}"))
        .unwrap_or_else(|fault| panic!("{fault}\n{policies}"));
    Snapshot::build(&resources, &orders(), &MeshConfig::default())
}

fn mode(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

fn policy(name: usize, action: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{name}, namespace: shop}}\n\
         spec: {{action: {action}, rules: [{rule}]}}\n---\n"
    )
}

fn question(line: &str) -> Question {
    Question::parse(line.split(' ').filter_map(|part| part.split_once('=')))
        .unwrap_or_else(|fault| panic!("{fault}: {line}"))
}

const WEB: &str = "from=cluster.local/ns/shop/sa/web";

#[rstest]
#[case::strict_refuses_plaintext("{mtls: {mode: STRICT}}", "from=plaintext port=8080", Some((Reason::StrictPlaintext, None)))]
#[case::strict_takes_an_identity(
    "{mtls: {mode: STRICT}}",
    "from=cluster.local/ns/shop/sa/web port=8080",
    None
)]
#[case::permissive_takes_plaintext("{mtls: {mode: PERMISSIVE}}", "from=plaintext port=8081", None)]
#[case::a_method_in_lower_case("{}", "from=plaintext port=8080 method=get", Some((Reason::RequestMalformed, Some(400))))]
#[case::a_path_with_two_readings("{}", "from=plaintext port=8080 path=/a/..;/b", Some((Reason::RequestMalformed, Some(400))))]
#[case::a_host_that_is_none("{}", "from=plaintext port=8080 host=a@b", Some((Reason::RequestMalformed, Some(400))))]
#[case::two_hosts("{}", "from=plaintext port=8080 host=a path=http://b/", Some((Reason::RequestMalformed, Some(400))))]
#[case::a_tunnel("{}", "from=plaintext port=8080 method=CONNECT", Some((Reason::RequestMalformed, Some(400))))]
#[case::what_is_not_read_is_not_malformed("{}", "from=plaintext port=8081 method=get path=a", None)]
fn without_policies_the_port_and_the_request_decide(
    #[case] spec: &str,
    #[case] asked: &str,
    #[case] refusal: Option<(Reason, Option<u16>)>,
) {
    let answer = ask(&snapshot(&mode(spec)), &orders(), &question(asked));
    assert_eq!(answer.allowed, refusal.is_none());
    assert_eq!(answer.reason.map(|reason| (reason, answer.status)), refusal);
    assert_eq!(answer.steps.last().unwrap().passed, answer.allowed);
}

/// On a DISABLE port nobody proves anything, so that a rule about identities matches no caller.
#[test]
fn an_identity_counts_for_nothing_where_it_is_not_proved() {
    let allow = policy(0, "ALLOW", "{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}");
    let asked = question(&format!("{WEB} port=8080"));
    assert!(ask(&snapshot(&allow), &orders(), &asked).allowed);
    let disabled = snapshot(&format!("{allow}{}", mode("{mtls: {mode: DISABLE}}")));
    assert!(!ask(&disabled, &orders(), &asked).allowed);
}

#[rstest]
#[case::as_a_sidecar_asks(WEB, true)]
#[case::as_it_is_said("from=cluster.local/ns/shop/sa/web sni=other.example", false)]
#[case::in_plaintext("from=plaintext", false)]
fn the_server_name_is_that_of_a_sidecar_unless_somebody_says_otherwise(
    #[case] from: &str,
    #[case] expected: bool,
) {
    let allow = policy(0, "ALLOW", "{when: [{key: connection.sni, values: [outbound_.81_._.orders]}]}");
    assert_eq!(ask(&snapshot(&allow), &orders(), &question(&format!("{from} port=8081"))).allowed, expected);
}
#[rstest]
#[case::own("{}", "cluster.local", false)]
#[case::another("{}", "other.example", true)]
#[case::another_where_nobody_looks("{mtls: {mode: DISABLE}}", "other.example", false)]
fn of_another_trust_domain_it_is_said_that_a_bundle_is_needed(
    #[case] spec: &str,
    #[case] trust_domain: &str,
    #[case] expected: bool,
) {
    let asked = question(&format!("from={trust_domain}/ns/shop/sa/web port=8080"));
    let answer = ask(&snapshot(&mode(spec)), &orders(), &asked);
    let needed = answer.steps[0].because.ends_with("as far as there is a trust bundle of other.example");
    assert_eq!(needed, expected, "{answer}");
}

#[rstest]
#[case(
    "port=80",
    "`from` is missing; say who asks: a principal such as cluster.local/ns/default/sa/frontend, or plaintext"
)]
#[case("from=plaintext", "`port` is missing; say which port of the workload")]
#[case("from=plaintext port=0", "port: expected a number from 1 to 65535, seen `0`")]
#[case("from=plaintext port=80 port=81", "`port` stands twice; keep one")]
#[case("from=plaintext port=80 source-ip=here", "source-ip: expected an IP address, seen `here`")]
#[case("from=plaintext port=80 header=x", "header: expected `name=value`, seen `x`")]
#[case(
    "from=plaintext port=80 header=Host=x",
    "header: expected any header but the host, which is a part of its own (`host`), seen `Host=x`"
)]
#[case(
    "from=plaintext port=80 methods=GET",
    "a question has no `methods`, expected one of `from`, `port`, `method`, `path`, `host`, `header`, `source-ip`, `destination-ip`, `sni`; did you mean `method`?"
)]
#[case(
    "from=somebody port=80",
    "from: expected `plaintext` or a principal such as `cluster.local/ns/default/sa/frontend`: \"spiffe://somebody\" is not a SPIFFE ID: it names a trust domain but no workload: the path is missing (X509-SVID 3.1)"
)]
fn a_question_that_cannot_be_asked_says_why(#[case] line: &str, #[case] expected: &str) {
    let fault = Question::parse(line.split(' ').filter_map(|part| part.split_once('='))).unwrap_err();
    assert_eq!(fault.to_string(), expected);
}

#[test]
fn headers_and_addresses_reach_the_policies() {
    let allow = policy(
        0,
        "ALLOW",
        "{from: [{source: {ipBlocks: [10.1.0.0/16]}}], when: [{key: 'request.headers[X-Team]', values: [red]}, {key: destination.ip, values: [10.0.0.1]}]}",
    );
    let asked = "from=plaintext port=8080 header=x-team=red source-ip=10.1.2.3 destination-ip=10.0.0.1";
    assert!(ask(&snapshot(&allow), &orders(), &question(asked)).allowed);
    for other in [("x-team=red", "x-team=blue"), ("10.1.2.3", "10.2.2.3"), ("10.0.0.1", "10.0.0.2")] {
        assert!(
            !ask(&snapshot(&allow), &orders(), &question(&asked.replace(other.0, other.1))).allowed,
            "{other:?}"
        );
    }
}

/// The decision once more, by the functions that the proxy calls and nothing else.
fn decided(snapshot: &Snapshot, question: &Question) -> bool {
    let decision = snapshot.modes.for_port(question.port);
    let observed = if question.caller.is_some() { Observed::MeshTls } else { Observed::Plaintext };
    let admission = if needs_sniff(decision.mode) {
        admit(decision.mode, snapshot.protocol(question.port), observed)
    } else {
        Admission::Forward
    };
    let peer = match admission {
        Admission::Refuse(_) => return false,
        Admission::Terminate => question.caller.as_ref(),
        Admission::Forward => None,
    };
    let asked = question.asked.clone().unwrap();
    let headers: Vec<(String, String)> = asked.headers.clone();
    let judged =
        check_method(&asked.method).and_then(|()| Ok((Host::parse("orders")?, normalize(&asked.path)?)));
    let http = match (&judged, snapshot.reads_http(question.port)) {
        (_, false) => None,
        (Err(_), true) => return false,
        (Ok((host, path)), true) => {
            Some(HttpFacts { method: &asked.method, host, path, headers: &headers as &dyn Headers })
        }
    };
    let facts = Facts {
        peer,
        source: question.source,
        remote: question.source,
        destination: (question.destination, question.port).into(),
        sni: None,
        http,
    };
    snapshot.authorization.authorize(&facts).outcome.is_ok()
}

fn any_rule() -> impl Strategy<Value = String> {
    let from = prop::sample::select(vec![
        "",
        "from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]",
        "from: [{source: {namespaces: [shop]}}]",
        "from: [{source: {notNamespaces: [shop]}}]",
        "from: [{source: {notPrincipals: ['*']}}]",
    ]);
    let to = prop::sample::select(vec![
        "",
        "to: [{operation: {methods: [GET]}}]",
        "to: [{operation: {paths: [/a, /b/*]}}]",
        "to: [{operation: {notPaths: [/a], ports: ['8080']}}]",
        "to: [{operation: {ports: ['8081']}}, {operation: {methods: [PUT], paths: ['*/c']}}]",
    ]);
    (from, to).prop_map(|(from, to)| {
        let between = if from.is_empty() || to.is_empty() { "" } else { ", " };
        format!("{{{from}{between}{to}}}")
    })
}

fn any_policies() -> impl Strategy<Value = String> {
    let policies =
        prop::collection::vec((prop::sample::select(vec!["ALLOW", "DENY", "AUDIT"]), any_rule()), 0..4);
    policies.prop_map(|policies| {
        policies.iter().enumerate().map(|(number, (action, rule))| policy(number, action, rule)).collect()
    })
}

fn any_modes() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "STRICT", "PERMISSIVE", "DISABLE"]).prop_map(|written| match written {
        "" => String::new(),
        written => mode(&format!("{{mtls: {{mode: {written}}}}}")),
    })
}

fn any_question() -> impl Strategy<Value = Question> {
    let caller = prop::sample::select(vec![
        "plaintext",
        "cluster.local/ns/shop/sa/web",
        "cluster.local/ns/bar/sa/web",
    ]);
    let port = prop::sample::select(vec![8080, 8081, 9090]);
    let method = prop::sample::select(vec!["GET", "PUT", "get"]);
    let path = prop::sample::select(vec!["/", "/a", "/b/c", "//a", "/b/../a", "/b/..;/a"]);
    (caller, port, method, path).prop_map(|(caller, port, method, path)| {
        question(&format!("from={caller} port={port} method={method} path={path}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The law of this room: explanation, bare answer and decision are one.
    #[test]
    fn an_answer_never_disagrees_with_the_decision(
        policies in any_policies(),
        modes in any_modes(),
        question in any_question(),
    ) {
        let snapshot = snapshot(&format!("{policies}{modes}"));
        let answer = ask(&snapshot, &orders(), &question);
        prop_assert_eq!(answer.allowed, decided(&snapshot, &question), "{}", answer);
        prop_assert_eq!(answer.allowed, may(&snapshot, &question));
        prop_assert_eq!(answer.allowed, answer.steps.iter().all(|step| step.passed));
        prop_assert_eq!(answer.allowed, answer.reason.is_none());
    }

    /// What the table and the description say of everybody else.
    #[test]
    fn whom_no_rule_is_about_is_treated_as_everybody_else(
        policies in any_policies(),
        modes in any_modes(),
        question in any_question(),
    ) {
        let snapshot = snapshot(&format!("{policies}{modes}"));
        let answer = ask(&snapshot, &orders(), &question);
        let mut in_force = answer.policies.iter().filter(|policy| policy.action != Action::Audit);
        let is_about = in_force.any(|policy| policy.rules.iter().any(|rule| rule.matched));
        if answer.steps.last().unwrap().about == About::Policies && !is_about {
            let told = describe(&snapshot, &orders(), &BTreeSet::new()).others_allowed;
            prop_assert_eq!(answer.allowed, told, "{}", answer);
            prop_assert_eq!(answer.allowed, table(&snapshot, &orders()).everybody_else.allowed);
        }
    }

    /// The finding that nobody may call a service is never wrong.
    #[test]
    fn where_nobody_can_be_let_in_nobody_is(
        policies in any_policies(),
        modes in any_modes(),
        questions in prop::collection::vec(any_question(), 20),
    ) {
        let snapshot = snapshot(&format!("{policies}{modes}"));
        let open = |number| OpenPort {
            number,
            reads_http: snapshot.reads_http(number),
            mode: snapshot.modes.for_port(number).mode,
        };
        if snapshot.authorization.let_nobody_in(&[open(8080), open(8081)]).is_some() {
            for question in questions.iter().filter(|question| question.port != 9090) {
                prop_assert!(!may(&snapshot, question), "{question:?}");
            }
        }
    }
}
