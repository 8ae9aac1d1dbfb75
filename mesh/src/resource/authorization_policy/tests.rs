use std::path::Path;

use rstest::rstest;

use super::*;
use crate::resource::Resources;

fn read(spec: &str) -> AuthorizationPolicy {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web, namespace: foo}}\n{spec}\n"
    );
    let mut resources = Resources::default();
    resources.read("policy.yaml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    resources.authorization_policies.remove(0)
}

/// Each file of `tests/authz/refused/` has the expected error as its first line; `UPDATE_GOLDEN=1` writes the lines
/// anew.
#[test]
fn each_fault_is_refused_in_the_words_of_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authz/refused");
    let mut differing = Vec::new();
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut resources = Resources::default();
        let error = resources.read(&name, &text).expect_err(&format!("{name} is read without a fault"));
        let (first, rest) = text.split_once('\n').unwrap();
        let expected = format!("# {error}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, format!("{expected}\n{rest}")).unwrap();
        } else if first != expected {
            differing.push(format!("{name}\n  expected {first}\n  seen     {expected}"));
        }
        files += 1;
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(files > 80, "only {files} files in {}", folder.display());
}

#[rstest]
#[case::empty("spec: {}", Action::Allow, 0)]
#[case::absent("", Action::Allow, 0)]
#[case::null("spec:", Action::Allow, 0)]
#[case::empty_rules("spec: {rules: []}", Action::Allow, 0)]
#[case::empty_rule("spec: {rules: [{}]}", Action::Allow, 1)]
#[case::allow("spec: {action: ALLOW, rules: [{}]}", Action::Allow, 1)]
#[case::deny("spec: {action: DENY, rules: [{}, {}]}", Action::Deny, 2)]
#[case::audit("spec: {action: AUDIT, rules: [{}]}", Action::Audit, 1)]
fn the_action_and_the_rules_are(#[case] spec: &str, #[case] action: Action, #[case] rules: usize) {
    let policy = read(spec);
    assert_eq!((policy.action, policy.rules.to_vec()), (action, vec![Rule::default(); rules]));
}

#[rstest]
#[case::none("spec: {}", None)]
#[case::empty("spec: {selector: {}}", None)]
#[case::empty_labels("spec: {selector: {matchLabels: {}}}", None)]
#[case::labels("spec: {selector: {matchLabels: {app: web}}}", Some(("app", "web")))]
fn the_selector_is(#[case] spec: &str, #[case] expected: Option<(&str, &str)>) {
    let selector = read(spec).selector;
    let label = selector.iter().flat_map(|selector| &selector.match_labels).next();
    assert_eq!(label.map(|(name, value)| (name.as_str(), value.as_str())), expected);
}

#[rstest]
#[case::absent("", false)]
#[case::on("annotations: {istio.io/dry-run: \"true\"}", true)]
#[case::unquoted("annotations: {istio.io/dry-run: true}", true)]
#[case::off("annotations: {istio.io/dry-run: \"false\"}", false)]
#[case::as_go_reads_it("annotations: {istio.io/dry-run: \"T\"}", true)]
#[case::beside_others("annotations: {a: {b: c}, istio.io/dry-run: \"1\"}", true)]
#[case::null("annotations:", false)]
fn the_annotation_makes_a_dry_run(#[case] annotations: &str, #[case] expected: bool) {
    let mut resources = Resources::default();
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: web\n  {annotations}\n"
    );
    resources.read("policy.yaml", &text).unwrap();
    assert_eq!(resources.authorization_policies[0].dry_run, expected);
}

#[test]
fn every_field_is_read_into_its_place() {
    let policy = read(
        r#"
spec:
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/foo/sa/a"]
        notPrincipals: ["*/sa/b"]
        namespaces: ["c*"]
        notNamespaces: ["d"]
        trustDomains: ["e"]
        notTrustDomains: ["*"]
        ipBlocks: ["10.0.0.1"]
        notIpBlocks: ["10.1.2.3/16"]
        remoteIpBlocks: ["::ffff:10.0.0.2"]
        notRemoteIpBlocks: ["fd00::/8", "::ffff:10.0.0.0/104"]
    - source:
        serviceAccounts: ["bar/web", "db"]
        notServiceAccounts: ["api"]
    to:
    - operation:
        hosts: ["API.example.com.:8080"]
        notHosts: ["*.Example.com"]
        ports: ["80", 443]
        notPorts: ["8080"]
        methods: ["GET"]
        notMethods: ["*"]
        paths: ["/a", "/b/*", "/c/{*}"]
        notPaths: ["*.html"]
    when:
    - {key: "request.headers[X-Team]", values: ["*", "a"], notValues: ["b"]}
    - {key: "request.headers[Host]", values: ["A.com."]}
    - {key: source.ip, values: ["10.0.0.0/8"]}
    - {key: remote.ip, notValues: ["10.0.0.0/8"]}
    - {key: source.namespace, values: ["foo"]}
    - {key: source.serviceAccount, values: ["foo/web"]}
    - {key: source.trustDomain, values: ["*.local"]}
    - {key: source.principal, notValues: ["*"]}
    - {key: destination.ip, values: ["10.0.0.9"]}
    - {key: destination.port, values: ["80"]}
    - {key: connection.sni, values: ["API.*"]}
"#,
    );
    let rule = &policy.rules[0];
    let [first, second] = rule.from.as_slice() else { panic!("{rule:?}") };
    assert_eq!(short(&first.principals), "cluster.local/ns/foo/sa/a not */sa/b");
    assert_eq!(short(&first.namespaces), "c* not d");
    assert_eq!(short(&first.trust_domains), "e not *");
    assert_eq!(short(&first.ip_blocks), "10.0.0.1/32 not 10.1.0.0/16");
    assert_eq!(short(&first.remote_ip_blocks), "10.0.0.2/32 not fd00::/8 not 10.0.0.0/8");
    assert_eq!(short(&second.service_accounts), "bar/web foo/db not foo/api");
    let operation = &rule.to[0];
    assert_eq!(short(&operation.hosts), "api.example.com:8080 not *.example.com");
    assert_eq!(short(&operation.ports), "80 443 not 8080");
    assert_eq!(short(&operation.methods), "GET not *");
    assert_eq!(short(&operation.paths), "/a /b/* /c/{*} not *.html");
    let conditions: Vec<String> = rule.when.iter().map(condition).collect();
    let expected = [
        "header x-team: * a not b",
        "header :authority: a.com",
        "source.ip: 10.0.0.0/8",
        "remote.ip: not 10.0.0.0/8",
        "source.namespace: foo",
        "source.serviceAccount: foo/web",
        "source.trustDomain: *.local",
        "source.principal: not *",
        "destination.ip: 10.0.0.9/32",
        "destination.port: 80",
        "connection.sni: api.*",
    ];
    assert_eq!(conditions, expected);
    assert!(rule.needs_http() && operation.needs_http());
}

fn short<T: ToString>(values: &Match<T>) -> String {
    let positive = values.values.iter().map(ToString::to_string);
    let negative = values.not_values.iter().map(|value| format!("not {}", value.to_string()));
    positive.chain(negative).collect::<Vec<_>>().join(" ")
}

fn condition(condition: &Condition) -> String {
    match condition {
        Condition::Header(name, values) => format!("header {name}: {}", short(values)),
        Condition::SourceIp(values) => format!("source.ip: {}", short(values)),
        Condition::RemoteIp(values) => format!("remote.ip: {}", short(values)),
        Condition::SourceNamespace(values) => format!("source.namespace: {}", short(values)),
        Condition::SourceServiceAccount(values) => format!("source.serviceAccount: {}", short(values)),
        Condition::SourceTrustDomain(values) => format!("source.trustDomain: {}", short(values)),
        Condition::SourcePrincipal(values) => format!("source.principal: {}", short(values)),
        Condition::DestinationIp(values) => format!("destination.ip: {}", short(values)),
        Condition::DestinationPort(values) => format!("destination.port: {}", short(values)),
        Condition::Sni(values) => format!("connection.sni: {}", short(values)),
    }
}

/// Legal in Istio, and means nothing: an empty list is as no list.
#[test]
fn an_empty_list_beside_others_is_as_if_it_were_not_there() {
    let policy = read("spec: {rules: [{from: [{source: {principals: [], namespaces: [foo]}}], when: []}]}");
    assert!(policy.rules[0].from[0].principals.is_empty());
    assert!(!policy.rules[0].from[0].namespaces.is_empty());
}

/// The stray dash: two sources instead of one with two fields.
#[rstest]
#[case::one_source("[{source: {namespaces: [a], ipBlocks: [10.0.0.1]}}]", 1)]
#[case::two_sources("[{source: {namespaces: [a]}}, {source: {ipBlocks: [10.0.0.1]}}]", 2)]
fn a_dash_more_makes_two_sources(#[case] from: &str, #[case] expected: usize) {
    assert_eq!(read(&format!("spec: {{rules: [{{from: {from}}}]}}")).rules[0].from.len(), expected);
}
