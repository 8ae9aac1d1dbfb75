//! Each field by itself, on requests and on connections.

use rstest::rstest;

use super::ask::{allows, ask, policies, policy};
use crate::policy::authz::Denial;

const WEB: &str = "cluster.local/ns/foo/sa/web";

/// Whether a rule matches, asked as an ALLOW and as a DENY policy, which must agree on requests.
fn matches(rule: &str, line: &str) -> bool {
    let allow = allows(&policies(&policy("ALLOW", rule), "foo/me", &[]), line);
    if ask(line).unwrap().facts().http.is_some() {
        let deny = !allows(&policies(&policy("DENY", rule), "foo/me", &[]), line);
        assert_eq!(allow, deny, "{rule} {line}");
    }
    allow
}

fn source(fields: &str, who: &str) -> bool {
    matches(&format!("{{from: [{{source: {{{fields}}}}}]}}"), who)
}

fn operation(fields: &str, request: &str) -> bool {
    matches(&format!("{{to: [{{operation: {{{fields}}}}}]}}"), &format!("{WEB} {request}"))
}

fn when(key: &str, values: &str, line: &str) -> bool {
    matches(&format!("{{when: [{{key: '{key}', {values}}}]}}"), line)
}

#[rstest]
#[case::exact("cluster.local/ns/foo/sa/web", true)]
#[case::another("cluster.local/ns/foo/sa/api", false)]
#[case::another_namespace("cluster.local/ns/bar/sa/web", false)]
#[case::another_trust_domain("other.example/ns/foo/sa/web", false)]
#[case::case_matters("cluster.local/ns/foo/sa/Web", false)]
#[case::prefix("cluster.local/ns/foo/*", true)]
#[case::prefix_that_is_all("cluster.local/ns/foo/sa/web*", true)]
#[case::prefix_of_another("cluster.local/ns/fo/*", false)]
#[case::suffix("*/ns/foo/sa/web", true)]
#[case::suffix_of_the_name("*eb", true)]
#[case::suffix_of_another("*/sa/eb", false)]
#[case::present("*", true)]
fn principals_match(#[case] value: &str, #[case] expected: bool) {
    assert_eq!(source(&format!("principals: ['{value}']"), WEB), expected);
    assert_eq!(source(&format!("notPrincipals: ['{value}']"), WEB), !expected);
    assert_eq!(when("source.principal", &format!("values: ['{value}']"), WEB), expected);
    assert_eq!(when("source.principal", &format!("notValues: ['{value}']"), WEB), !expected);
}

#[rstest]
#[case::exact("foo", true)]
#[case::another("bar", false)]
#[case::no_part("fo", false)]
#[case::prefix("f*", true)]
#[case::suffix("*o", true)]
#[case::suffix_of_another("*bar", false)]
#[case::present("*", true)]
#[case::not_the_account("web", false)]
#[case::case_matters("Foo", false)]
fn namespaces_match(#[case] value: &str, #[case] expected: bool) {
    assert_eq!(source(&format!("namespaces: ['{value}']"), WEB), expected);
    assert_eq!(source(&format!("notNamespaces: ['{value}']"), WEB), !expected);
    assert_eq!(when("source.namespace", &format!("values: ['{value}']"), WEB), expected);
    assert_eq!(when("source.namespace", &format!("notValues: ['{value}']"), WEB), !expected);
}

#[rstest]
#[case::full("foo/web", true)]
#[case::of_the_policys_namespace("web", true)]
#[case::of_another_namespace("bar/web", false)]
#[case::another("api", false)]
#[case::no_part("we", false)]
fn service_accounts_match(#[case] value: &str, #[case] expected: bool) {
    assert_eq!(source(&format!("serviceAccounts: ['{value}']"), WEB), expected);
    assert_eq!(source(&format!("notServiceAccounts: ['{value}']"), WEB), !expected);
    assert_eq!(source(&format!("serviceAccounts: ['{value}']"), "other.example/ns/foo/sa/web"), expected);
    assert_eq!(when("source.serviceAccount", &format!("values: ['{value}']"), WEB), expected);
    assert_eq!(when("source.serviceAccount", &format!("notValues: ['{value}']"), WEB), !expected);
}

#[rstest]
#[case::exact("cluster.local", true)]
#[case::another("other.example", false)]
#[case::no_part("cluster", false)]
#[case::prefix("cluster.*", true)]
#[case::suffix("*.local", true)]
#[case::present("*", true)]
fn trust_domains_match(#[case] value: &str, #[case] expected: bool) {
    assert_eq!(source(&format!("trustDomains: ['{value}']"), WEB), expected);
    assert_eq!(source(&format!("notTrustDomains: ['{value}']"), WEB), !expected);
    assert_eq!(when("source.trustDomain", &format!("values: ['{value}']"), WEB), expected);
}

/// A peer that has proven nothing has no principal, namespace, service account or trust domain: what asks for one does
/// not match, and what asks for none of them does.
#[rstest]
#[case("principals", "'*'")]
#[case("principals", "cluster.local/ns/foo/sa/web")]
#[case("namespaces", "'*'")]
#[case("namespaces", "foo")]
#[case("serviceAccounts", "foo/web")]
#[case("trustDomains", "'*'")]
fn a_plaintext_peer_has_no_identity(#[case] field: &str, #[case] value: &str) {
    assert!(!source(&format!("{field}: [{value}]"), "plaintext"));
    let not = format!("not{}{}", field[..1].to_uppercase(), &field[1..]);
    assert!(source(&format!("{not}: [{value}]"), "plaintext"));
}

/// An identity of another form than Istio's has no namespace and no service account.
#[rstest]
#[case("principals: ['cluster.local/backend']", true)]
#[case("trustDomains: [cluster.local]", true)]
#[case("namespaces: ['*']", false)]
#[case("notNamespaces: ['*']", true)]
#[case("notServiceAccounts: [foo/backend]", true)]
fn an_identity_of_another_form_matches(#[case] fields: &str, #[case] expected: bool) {
    assert_eq!(source(fields, "cluster.local/backend"), expected);
}

/// Requirement 39: names are literals. `.` is a dot, `[` a bracket.
#[rstest]
#[case("principals: ['cluster.local/ns/foo/sa/w.b']")]
#[case("principals: ['clusterxlocal/ns/foo/sa/web']")]
#[case("principals: ['*/sa/w.b']")]
#[case("namespaces: ['f.o']")]
#[case("namespaces: ['.*']")]
#[case("serviceAccounts: ['foo/w.b']")]
#[case("trustDomains: ['cluster-local']")]
#[case("trustDomains: ['c.uster.local']")]
fn req_39_values_are_no_patterns(#[case] fields: &str) {
    assert!(!source(fields, WEB));
}

#[rstest]
#[case("10.1.2.3", true)]
#[case("10.1.0.0/16", true)]
#[case("10.1.2.4", false)]
#[case("10.2.0.0/16", false)]
#[case("0.0.0.0/0", true)]
#[case("::/0", false)]
#[case("::ffff:10.1.2.3", true)]
#[case("::ffff:10.1.0.0/112", true)]
fn addresses_match(#[case] block: &str, #[case] expected: bool) {
    let from = "plaintext from=10.1.2.3 remote=192.168.0.1";
    let remote = "plaintext from=192.168.0.1 remote=10.1.2.3";
    assert_eq!(source(&format!("ipBlocks: ['{block}']"), from), expected);
    assert_eq!(source(&format!("notIpBlocks: ['{block}']"), from), !expected);
    assert_eq!(source(&format!("remoteIpBlocks: ['{block}']"), remote), expected);
    assert_eq!(source(&format!("notRemoteIpBlocks: ['{block}']"), remote), !expected);
    assert_eq!(when("source.ip", &format!("values: ['{block}']"), from), expected);
    assert_eq!(when("remote.ip", &format!("values: ['{block}']"), remote), expected);
    assert_eq!(when("destination.ip", &format!("values: ['{block}']"), "plaintext to=10.1.2.3:80"), expected);
    assert_eq!(
        when("source.ip", &format!("values: ['{block}']"), "plaintext from=::ffff:10.1.2.3"),
        expected
    );
}

#[rstest]
#[case("ports: ['8080']", true)]
#[case("ports: ['80', '8080']", true)]
#[case("ports: ['80']", false)]
#[case("notPorts: ['80']", true)]
#[case("notPorts: ['8080']", false)]
#[case("ports: ['8080'], notPorts: ['8080']", false)]
fn ports_match(#[case] fields: &str, #[case] expected: bool) {
    assert_eq!(operation(fields, "to=8080"), expected);
    assert_eq!(operation(fields, "to=8080 GET a/"), expected);
    if let Some(port) = fields.strip_prefix("ports: ").filter(|_| !fields.contains("not")) {
        assert_eq!(when("destination.port", &format!("values: {port}"), "plaintext to=8080"), expected);
    }
}

#[rstest]
#[case("GET", "GET", true)]
#[case("GET", "POST", false)]
#[case("GE*", "GET", true)]
#[case("*T", "POST", true)]
#[case("*", "PURGE", true)]
#[case("GET", "GETX", false)]
fn methods_match(#[case] value: &str, #[case] method: &str, #[case] expected: bool) {
    let request = format!("{method} a/");
    assert_eq!(operation(&format!("methods: ['{value}']"), &request), expected);
    assert_eq!(operation(&format!("notMethods: ['{value}']"), &request), !expected);
    let line = format!("{WEB} {request}");
    assert_eq!(when("request.headers[:method]", &format!("values: ['{value}']"), &line), expected);
}

/// The same host whatever its case, port and dot.
#[rstest]
#[case("api.example.com", "api.example.com", true)]
#[case("api.example.com", "API.Example.com", true)]
#[case("API.example.COM", "api.example.com", true)]
#[case("api.example.com", "api.example.com:8080", true)]
#[case("api.example.com", "api.example.com.", true)]
#[case("api.example.com.", "api.example.com", true)]
#[case("api.example.com", "api.example.com.:8080", true)]
#[case("api.example.com", "www.example.com", false)]
#[case("api.example.com", "xapi.example.com", false)]
#[case("api.example.com", "api.example.com.evil.org", false)]
#[case("*.example.com", "api.example.com:80", true)]
#[case("*.example.com", "example.com", false)]
#[case("*.example.com", "example.com.evil.org", false)]
#[case("api.*", "api.example.com", true)]
#[case("*", "api", true)]
#[case("api.example.com:8080", "api.example.com:8080", true)]
#[case("api.example.com:8080", "api.example.com:80", false)]
#[case("api.example.com:8080", "api.example.com", false)]
#[case("api.example.com:*", "api.example.com:80", true)]
#[case("10.0.0.1", "10.0.0.1:80", true)]
fn hosts_match(#[case] value: &str, #[case] host: &str, #[case] expected: bool) {
    let request = format!("GET {host}/");
    assert_eq!(operation(&format!("hosts: ['{value}']"), &request), expected);
    assert_eq!(operation(&format!("notHosts: ['{value}']"), &request), !expected);
    for key in ["request.headers[:authority]", "request.headers[Host]"] {
        assert_eq!(
            when(key, &format!("values: ['{value}']"), &format!("{WEB} {request}")),
            expected,
            "{key}"
        );
    }
}

/// Every way around `/admin` leads to `/admin`.
#[rstest]
#[case("/admin", "/admin", true)]
#[case("/admin", "/admin?x=/public", true)]
#[case("/admin", "/Admin", false)]
#[case("/admin", "/admin/", false)]
#[case("/admin", "/admin/users", false)]
#[case("/admin*", "/admin/users", true)]
#[case("/admin*", "/administration", true)]
#[case("/admin/*", "/admin/users", true)]
#[case("/admin/*", "/admin/", true)]
#[case("/admin/*", "/admin", false)]
#[case("*/admin", "/a/b/admin", true)]
#[case("*.html", "/a/b.html?x", true)]
#[case("*.html", "/a/b?x.html", false)]
#[case("*", "/", true)]
#[case("/users/{*}/orders", "/users/7/orders", true)]
#[case("/users/{*}/orders", "/users/7/8/orders", false)]
#[case("/users/{**}", "/users/7/orders", true)]
#[case::double_slash("/admin", "//admin", true)]
#[case::dot("/admin", "/./admin", true)]
#[case::up("/admin", "/public/../admin", true)]
#[case::encoded_up("/admin", "/public/%2e%2e/admin", true)]
#[case::encoded_slash("/public/admin", "/public%2Fadmin", true)]
#[case::encoded_backslash("/public/admin", "/public%5cadmin", true)]
#[case::backslash("/public/admin", "/public\\admin", true)]
#[case::encoded_letter("/admin", "/%61dmin", true)]
#[case::template_by_encoded_slash("/users/{*}", "/users/7%2Forders", false)]
#[case::dot_is_no_pattern("/a.b", "/axb", false)]
fn paths_match(#[case] value: &str, #[case] path: &str, #[case] expected: bool) {
    let request = format!("GET a{path}");
    assert_eq!(operation(&format!("paths: ['{value}']"), &request), expected);
    assert_eq!(operation(&format!("notPaths: ['{value}']"), &request), !expected);
}

#[rstest]
#[case("values: [a]", "x-team:a", true)]
#[case("values: [a]", "X-TEAM:a", true)]
#[case("values: [a]", "x-team:A", false)]
#[case("values: [a]", "x-other:a", false)]
#[case("values: ['a*']", "x-team:abc", true)]
#[case("values: ['*c']", "x-team:abc", true)]
#[case("values: ['*']", "x-team:a", true)]
#[case("values: ['*']", "x-team:", true)]
#[case("values: ['*']", "x-other:a", false)]
#[case("notValues: [a]", "x-team:a", false)]
#[case("notValues: [a]", "x-team:b", true)]
#[case("notValues: [a]", "x-other:a", true)]
#[case("notValues: ['*']", "x-other:a", true)]
#[case("values: ['*'], notValues: [b]", "x-team:b", false)]
#[case::two_alike("values: [a]", "x-team:a x-team:a", true)]
#[case::two_others("values: [a]", "x-team:b x-team:c", false)]
#[case::not_two_alike("notValues: [a]", "x-team:a x-team:a", false)]
fn headers_match(#[case] values: &str, #[case] headers: &str, #[case] expected: bool) {
    assert_eq!(when("request.headers[X-Team]", values, &format!("{WEB} GET a/ {headers}")), expected);
}

/// An app may read any line of a header, or all in one. What lets in wants all of them as they must be; one is enough for
/// what keeps out, so that no line hides another (CVE-2026-26308).
#[rstest]
#[case::one_is_wanted("values: [a]", "x-team:a x-team:b", false, true)]
#[case::one_begins_so("values: ['a*']", "x-team:b x-team:ax", false, true)]
#[case::one_line_is_as_both("values: ['a,b']", "x-team:a x-team:b", false, true)]
#[case::the_last_line_is_none_of_them("values: [a, b]", "x-team:a x-team:b x-team:c", false, true)]
#[case::each_is_wanted("values: [a, b]", "x-team:a x-team:b", true, true)]
#[case::each_is_there("values: ['*']", "x-team:a x-team:b", true, true)]
#[case::one_is_not_wanted("notValues: [a]", "x-team:b x-team:a", false, true)]
#[case::none_is_unwanted("notValues: [a]", "x-team:b x-team:c", true, true)]
fn lines_of_a_header_do_not_hide_each_other(
    #[case] values: &str,
    #[case] headers: &str,
    #[case] lets_in: bool,
    #[case] keeps_out: bool,
) {
    let rule = format!("{{when: [{{key: 'request.headers[X-Team]', {values}}}]}}");
    let line = format!("{WEB} GET a/ {headers}");
    let allows = |action| allows(&policies(&policy(action, &rule), "foo/me", &[]), &line);
    assert_eq!((allows("ALLOW"), !allows("DENY")), (lets_in, keeps_out));
}

#[rstest]
#[case("values: ['/a?b']", "/a?b", true)]
#[case("values: ['/a']", "/a?b", false)]
#[case("values: ['/a*']", "//a?b", true)]
fn the_path_header_is_the_normalized_path_with_its_query(
    #[case] values: &str,
    #[case] path: &str,
    #[case] expected: bool,
) {
    assert_eq!(when("request.headers[:path]", values, &format!("{WEB} GET a{path}")), expected);
}

#[rstest]
#[case("values: [api.example.com]", "sni=api.example.com", true)]
#[case("values: [api.example.com]", "sni=API.example.com", true)]
#[case("values: [API.example.com]", "sni=api.example.com", true)]
#[case("values: ['*.example.com']", "sni=api.example.com", true)]
#[case("values: ['*']", "sni=a", true)]
#[case("values: ['*']", "", false)]
#[case("notValues: ['*']", "", true)]
#[case("notValues: [api.example.com]", "sni=api.example.com", false)]
fn the_server_name_matches(#[case] values: &str, #[case] sni: &str, #[case] expected: bool) {
    assert_eq!(when("connection.sni", values, &format!("plaintext {sni}")), expected);
}

/// ANY source, ANY operation, ALL conditions, of each ALL fields.
#[rstest]
#[case::empty_rule("{}", true)]
#[case::both_fields("{from: [{source: {namespaces: [foo], ipBlocks: [10.0.0.1]}}]}", true)]
#[case::one_field_of_two("{from: [{source: {namespaces: [foo], ipBlocks: [10.0.0.2]}}]}", false)]
#[case::one_source_of_two("{from: [{source: {namespaces: [foo]}}, {source: {ipBlocks: [10.0.0.2]}}]}", true)]
#[case::no_source_of_two("{from: [{source: {namespaces: [bar]}}, {source: {ipBlocks: [10.0.0.2]}}]}", false)]
#[case::one_operation_of_two("{to: [{operation: {methods: [PUT]}}, {operation: {paths: [/a]}}]}", true)]
#[case::source_and_operation(
    "{from: [{source: {namespaces: [foo]}}], to: [{operation: {methods: [GET]}}]}",
    true
)]
#[case::source_without_operation(
    "{from: [{source: {namespaces: [foo]}}], to: [{operation: {methods: [PUT]}}]}",
    false
)]
#[case::operation_without_source(
    "{from: [{source: {namespaces: [bar]}}], to: [{operation: {methods: [GET]}}]}",
    false
)]
#[case::all_conditions(
    "{when: [{key: source.namespace, values: [foo]}, {key: destination.port, values: ['8080']}]}",
    true
)]
#[case::one_condition_of_two(
    "{when: [{key: source.namespace, values: [foo]}, {key: destination.port, values: ['80']}]}",
    false
)]
#[case::one_rule_of_two(
    "[{to: [{operation: {methods: [PUT]}}]}, {to: [{operation: {methods: [GET]}}]}]",
    true
)]
fn a_rule_is_put_together(#[case] rule: &str, #[case] expected: bool) {
    assert_eq!(matches(rule, &format!("{WEB} GET a/a")), expected);
}

/// A TCP connection says nothing of HTTP: an ALLOW rule that asks for it never matches, however much else does; of a
/// DENY rule the rest counts, so that it denies more.
#[rstest]
#[case::http_alone("{to: [{operation: {methods: [GET]}}]}", false, true)]
#[case::not_http_alone("{to: [{operation: {notMethods: [GET]}}]}", false, true)]
#[case::header("{when: [{key: 'request.headers[x]', values: [a]}]}", false, true)]
#[case::absent_header("{when: [{key: 'request.headers[x]', notValues: [a]}]}", false, true)]
#[case::method_pseudo_header("{when: [{key: 'request.headers[:method]', values: [GET]}]}", false, true)]
#[case::host_and_matching_port("{to: [{operation: {hosts: [a], ports: ['8080']}}]}", false, true)]
#[case::host_and_another_port("{to: [{operation: {hosts: [a], ports: ['80']}}]}", false, false)]
#[case::path_and_matching_source(
    "{from: [{source: {namespaces: [foo]}}], to: [{operation: {paths: [/a]}}]}",
    false,
    true
)]
#[case::path_and_another_source(
    "{from: [{source: {namespaces: [bar]}}], to: [{operation: {paths: [/a]}}]}",
    false,
    false
)]
#[case::an_alternative_without_http(
    "{to: [{operation: {methods: [GET]}}, {operation: {ports: ['8080']}}]}",
    false,
    true
)]
#[case::no_http("{to: [{operation: {ports: ['8080']}}]}", true, true)]
fn on_tcp_http_fields_make_allow_narrower_and_deny_wider(
    #[case] rule: &str,
    #[case] allowed: bool,
    #[case] denied: bool,
) {
    assert_eq!(allows(&policies(&policy("ALLOW", rule), "foo/me", &[]), WEB), allowed);
    assert_eq!(!allows(&policies(&policy("DENY", rule), "foo/me", &[]), WEB), denied);
    let audit = policies(&policy("AUDIT", rule), "foo/me", &[]);
    let verdict = audit.authorize(&ask(WEB).unwrap().facts());
    assert_eq!(verdict.audited.is_some(), denied);
    assert!(verdict.outcome.is_ok(), "AUDIT only marks");
}

/// Whether HTTP must be read on a port.
#[rstest]
#[case::nothing("ALLOW", "{}", false)]
#[case::tcp_fields(
    "ALLOW",
    "{from: [{source: {namespaces: [foo]}}], to: [{operation: {ports: ['80']}}]}",
    false
)]
#[case::method("ALLOW", "{to: [{operation: {methods: [GET]}}]}", true)]
#[case::not_method("DENY", "{to: [{operation: {notMethods: [GET]}}]}", true)]
#[case::audit("AUDIT", "{to: [{operation: {paths: [/a]}}]}", true)]
#[case::header("ALLOW", "{when: [{key: 'request.headers[x]', values: [a]}]}", true)]
#[case::on_the_port("ALLOW", "{to: [{operation: {methods: [GET], ports: ['8080']}}]}", true)]
#[case::on_another_port("ALLOW", "{to: [{operation: {methods: [GET], ports: ['80']}}]}", false)]
#[case::not_on_the_port("ALLOW", "{to: [{operation: {methods: [GET], notPorts: ['8080']}}]}", false)]
#[case::when_on_another_port(
    "DENY",
    "{to: [{operation: {methods: [GET]}}], when: [{key: destination.port, values: ['80']}]}",
    false
)]
#[case::another_operation_on_the_port(
    "ALLOW",
    "{to: [{operation: {methods: [GET], ports: ['80']}}, {operation: {ports: ['8080']}}]}",
    false
)]
#[case::two_port_lists_that_meet(
    "DENY",
    "{to: [{operation: {methods: [GET], ports: ['80', '8080']}}], when: [{key: destination.port, values: ['8080', '81']}]}",
    true
)]
#[case::two_port_lists_that_do_not_meet(
    "DENY",
    "{to: [{operation: {methods: [GET], ports: ['8080']}}], when: [{key: destination.port, values: ['81']}]}",
    false
)]
#[case::named_and_excluded(
    "DENY",
    "{to: [{operation: {methods: [GET], ports: ['8080'], notPorts: ['8080']}}]}",
    false
)]
#[case::excluded_by_one_of_two_rules(
    "DENY",
    "[{to: [{operation: {methods: [GET], notPorts: ['8080']}}]}, {to: [{operation: {paths: [/a], notPorts: ['80']}}]}]",
    true
)]
#[case::excluded_by_both_rules(
    "DENY",
    "[{to: [{operation: {methods: [GET], notPorts: ['8080']}}]}, {to: [{operation: {paths: [/a], notPorts: ['8080', '80']}}]}]",
    false
)]
#[case::header_with_an_operation_on_the_port(
    "ALLOW",
    "{to: [{operation: {ports: ['8080']}}], when: [{key: 'request.headers[x]', values: [a]}]}",
    true
)]
#[case::header_with_an_operation_on_another_port(
    "ALLOW",
    "{to: [{operation: {ports: ['80']}}], when: [{key: 'request.headers[x]', values: [a]}]}",
    false
)]
fn http_is_needed_where_a_rule_asks_for_it(#[case] action: &str, #[case] rule: &str, #[case] expected: bool) {
    let text = policy(action, rule);
    assert_eq!(policies(&text, "foo/me", &[]).needs_http(8080), expected);
    assert!(!policies(&text, "bar/me", &[]).needs_http(8080), "another namespace");
    let dry_run = text.replace("{name:", "{annotations: {istio.io/dry-run: \"true\"}, name:");
    if action != "AUDIT" {
        assert!(!policies(&dry_run, "foo/me", &[]).needs_http(8080), "a dry run changes nothing");
    }
}

/// Trust domains that stand for each other, as in Istio's `bundle.go`. The workload is of `new.example`.
#[rstest]
#[case::own("new.example/ns/foo/sa/web", "new.example", true)]
#[case::own_by_alias("new.example/ns/foo/sa/web", "old.example", true)]
#[case::alias("old.example/ns/foo/sa/web", "old.example", true)]
#[case::alias_by_own("old.example/ns/foo/sa/web", "new.example", true)]
#[case::cluster_local_is_own("cluster.local/ns/foo/sa/web", "new.example", true)]
#[case::cluster_local_is_alias("cluster.local/ns/foo/sa/web", "old.example", true)]
#[case::cluster_local_is_not_itself("cluster.local/ns/foo/sa/web", "cluster.local", false)]
#[case::foreign("foreign.example/ns/foo/sa/web", "foreign.example", true)]
#[case::foreign_is_no_alias("foreign.example/ns/foo/sa/web", "new.example", false)]
#[case::own_is_not_foreign("new.example/ns/foo/sa/web", "foreign.example", false)]
#[case::any("*/ns/foo/sa/web", "foreign.example", true)]
#[case::ending("*.example/ns/foo/sa/web", "foreign.example", true)]
#[case::ending_that_one_has("*old.example/ns/foo/sa/web", "old.example", true)]
#[case::ending_that_one_has_by_own("*old.example/ns/foo/sa/web", "new.example", true)]
#[case::ending_that_one_has_kept("*old.example/ns/foo/sa/web", "very-old.example", true)]
#[case::ending_that_none_has("*other.example/ns/foo/sa/web", "new.example", false)]
#[case::prefix_of_accounts("old.example/ns/foo/sa/*", "new.example", true)]
#[case::prefix_of_namespaces_stands_for_itself("old.example/ns/foo/*", "new.example", false)]
fn trust_domains_stand_for_each_other(#[case] value: &str, #[case] peer: &str, #[case] expected: bool) {
    let workload = "foo/me trustDomain=new.example";
    for field in ["principals", "notPrincipals"] {
        let rule = format!("{{from: [{{source: {{{field}: ['{value}']}}}}]}}");
        let policies = policies(&policy("ALLOW", &rule), workload, &["old.example"]);
        let expected = expected == (field == "principals");
        assert_eq!(allows(&policies, &format!("{peer}/ns/foo/sa/web")), expected, "{field}");
    }
}

#[rstest]
#[case::alias("old.example", "new.example", true)]
#[case::own("new.example", "old.example", true)]
#[case::foreign("foreign.example", "new.example", false)]
#[case::cluster_local_is_itself("cluster.local", "new.example", false)]
#[case::ending("*.example", "foreign.example", true)]
fn the_field_trust_domains_knows_aliases(#[case] value: &str, #[case] peer: &str, #[case] expected: bool) {
    let rule = format!("{{from: [{{source: {{trustDomains: ['{value}']}}}}]}}");
    let policies = policies(&policy("ALLOW", &rule), "foo/me trustDomain=new.example", &["old.example"]);
    assert_eq!(allows(&policies, &format!("{peer}/ns/foo/sa/web")), expected);
}

/// A denial names what was looked at, and not more than a person reads.
#[test]
fn a_denial_is_bounded() {
    let rules: Vec<String> =
        (0..100).map(|number| format!("{{to: [{{operation: {{ports: ['{}']}}}}]}}", number + 1)).collect();
    let policies = policies(&policy("ALLOW", &format!("[{}]", rules.join(", "))), "foo/me", &[]);
    let verdict = policies.authorize(&ask(WEB).unwrap().facts());
    let Err(Denial::NoAllowRule { considered, more }) = verdict.outcome else { panic!("{verdict:?}") };
    assert_eq!((considered.len(), more), (8, 92));
    assert_eq!(
        considered[0].to_string(),
        "ns[foo]-policy[allow]-rule[0]: to[0].operation.ports: expected `1`, seen `8080`"
    );
}

#[test]
fn a_secret_header_is_not_told() {
    let rule = "{when: [{key: 'request.headers[Authorization]', values: [a]}]}";
    let policies = policies(&policy("ALLOW", rule), "foo/me", &[]);
    let ask = ask(&format!("{WEB} GET a/ authorization:topsecret")).unwrap();
    let told = policies.explain(&ask.facts()).to_string();
    assert!(told.contains("a value of 9 bytes") && !told.contains("topsecret"), "{told}");
    assert!(!format!("{:?}", ask.facts()).contains("topsecret"));
}
