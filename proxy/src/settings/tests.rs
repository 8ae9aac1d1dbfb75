//! What only shows when settings are seen from inside; what a person sees is in `tests/settings.rs`.

use std::collections::BTreeMap;

use clap::CommandFactory;
use rstest::rstest;
use serde_json::Value;

use super::value::Period;
use super::*;

/// The example that users are given, with what it leaves to comments.
const EXAMPLE: &str = "
workload:
  trustDomain: cluster.local
  namespace: default
  serviceAccount: backend
  labels: {app: backend-app}
identity:
  ca:
    address: https://ca:15012
    tokenFile: /run/pillion/token
    bundleFile: /run/pillion/bundle.pem
    keyType: ecdsa-p256
    ttl: 24h
  crl: /etc/pillion/crl.pem
workloadApi: {socket: /run/pillion/workload.sock, mode: 0660}
federation:
- {trustDomain: a.example, bundle: {file: a.json}}
- {trustDomain: b.example, bundle: {endpoint: https://b.example/bundle, profile: https_web, caFile: b.pem}}
- trustDomain: c.example
  bundle:
    endpoint: https://ca.c.example:15012/v1/bundle
    profile: https_spiffe
    endpointSpiffeId: spiffe://c.example/ca
    file: c.json
mesh: /etc/pillion/mesh
inbound:
  capture: 0.0.0.0:15006
  tunnel: 0.0.0.0:15008
  listeners:
  - {address: 0.0.0.0:8443, forward: 127.0.0.1:8080}
outbound:
  capture: 127.0.0.1:15001
  listeners:
  - {address: 127.0.0.1:9001, destination: \"backend:8080\"}
admin: {address: 127.0.0.1:15000}
readiness: {address: 0.0.0.0:15021, failBefore: 10m}
metrics: {address: 0.0.0.0:15090}
tls:
  minVersion: \"1.2\"
  cipherSuites: [TLS_AES_128_GCM_SHA256, ECDHE-ECDSA-AES128-GCM-SHA256]
  ecdhCurves: [X25519, P-256]
detection: {timeout: 5s}
drain: {timeout: 5s}
";

fn settings(yaml: &str) -> Result<Settings, Faults> {
    Settings::try_from(pillion_mesh::yaml::read::<RawSettings>("proxy.yaml", yaml).unwrap())
}

/// The smallest settings with `more` of the file.
fn minimal_with(more: &str) -> Result<Settings, Faults> {
    settings(&format!(
        "workload: {{serviceAccount: backend}}\n\
         identity: {{files: {{certificate: c, key: k, bundle: b}}}}\n{more}\n"
    ))
}

fn faults(result: Result<Settings, Faults>) -> Vec<String> {
    result.map_or_else(|faults| faults.0.into_iter().map(|fault| fault.path).collect(), |_fine| Vec::new())
}

#[test]
fn a_door_for_tunnels_is_enough_to_take_connections_in() {
    let settings = minimal_with("inbound: {tunnel: 0.0.0.0:15008}").unwrap();
    let Tunnels { max_streams, max_tunnels, idle_timeout } = settings.tunnels;
    assert_eq!((max_streams, max_tunnels, idle_timeout), (100, 1_000, Duration::from_secs(300)));
}

#[test]
fn the_example_is_read_as_it_says() {
    let settings = settings(EXAMPLE).unwrap();
    assert_eq!(settings.workload.id().unwrap().as_str(), "spiffe://cluster.local/ns/default/sa/backend");
    assert_eq!(settings.workload.name, "backend-app", "the label `app` names the workload");
    let ports: Vec<_> = settings.own_ports().into_iter().collect();
    assert_eq!(ports, [8443, 9001, 15000, 15001, 15006, 15008, 15021, 15090]);
    assert_eq!(
        (settings.outbound.listeners[0].host.as_str(), settings.outbound.listeners[0].port),
        ("backend", 8080)
    );
    assert!(
        matches!(settings.identity, identity::Source::Ca(ca) if (ca.host.as_str(), ca.port) == ("ca", 15012))
    );
}

#[test]
fn tproxy_marks_the_proxys_own_sockets_and_redirect_does_not() {
    let mark = |more: &str| {
        minimal_with(&format!("inbound: {{capture: 0.0.0.0:15006}}\n{more}")).unwrap().interception.mark
    };
    assert_eq!(mark(""), None);
    assert_eq!(mark("interception: {mode: TPROXY}"), Some(1337));
    assert_eq!(mark("interception: {mode: TPROXY, mark: 5}"), Some(5));
    assert_eq!(mark("interception: {mark: 5}"), Some(5));
}

/// Requirement 38: the proxy's own ports cannot be used to reach the app past the policy.
#[rstest]
#[case::outbound_capture("127.0.0.1:15001", true)]
#[case::inbound_capture("127.0.0.1:15006", true)]
#[case::inbound_capture_by_another_loopback("127.0.0.2:15006", true)]
#[case::inbound_capture_by_ipv6_loopback("[::1]:15006", true)]
#[case::inbound_capture_by_mapped_loopback("[::ffff:127.0.0.1]:15006", true)]
#[case::inbound_capture_by_no_address("0.0.0.0:15006", true)]
#[case::admin("127.0.0.1:15000", true)]
#[case::readiness("127.0.0.1:15021", true)]
#[case::metrics("127.0.0.1:15090", true)]
#[case::itself("127.0.0.1:8443", true)]
#[case::itself_by_its_address("10.0.0.1:8443", true)]
#[case::the_app("127.0.0.1:8080", false)]
#[case::an_app_elsewhere_on_a_port_like_ours("10.0.0.9:15006", false)]
fn req_38_a_listener_does_not_forward_to_the_proxy_itself(#[case] forward: &str, #[case] refused: bool) {
    let result = minimal_with(&format!(
        "inbound: {{capture: 0.0.0.0:15006, listeners: [{{address: 10.0.0.1:8443, forward: '{forward}'}}]}}\n\
         outbound: {{capture: 127.0.0.1:15001}}"
    ));
    let expected = if refused { vec!["inbound.listeners[0].forward"] } else { vec![] };
    assert_eq!(faults(result), expected);
}

#[rstest]
#[case::the_same("127.0.0.1:7000", "127.0.0.1:7000", true)]
#[case::all_over_one("0.0.0.0:7000", "127.0.0.1:7000", true)]
#[case::one_under_all("127.0.0.1:7000", "0.0.0.0:7000", true)]
#[case::both_families_over_one("[::]:7000", "127.0.0.1:7000", true)]
#[case::another_port("127.0.0.1:7000", "127.0.0.1:7001", false)]
#[case::another_address("127.0.0.1:7000", "127.0.0.2:7000", false)]
#[case::another_family("0.0.0.0:7000", "[::1]:7000", false)]
#[case::ports_of_the_kernels_choice("127.0.0.1:0", "127.0.0.1:0", false)]
fn two_listeners_need_two_addresses(#[case] admin: &str, #[case] metrics: &str, #[case] clash: bool) {
    let result = minimal_with(&format!(
        "inbound: {{capture: 0.0.0.0:15006}}\nadmin: {{address: '{admin}'}}\nmetrics: {{address: '{metrics}'}}"
    ));
    assert_eq!(faults(result), if clash { vec!["metrics.address"] } else { vec![] });
}

#[test]
fn ports_of_the_kernels_choice_are_not_among_the_own_ones() {
    let settings = minimal_with(
        "inbound: {capture: 127.0.0.1:0}\nadmin: {address: 127.0.0.1:0}\n\
         readiness: {address: 127.0.0.1:0}\nmetrics: {address: 127.0.0.1:0}",
    );
    assert!(settings.unwrap().own_ports().is_empty());
}

/// Path to value of every scalar that the settings in force show.
fn scalars(settings: &Settings) -> BTreeMap<String, String> {
    settings
        .to_lines()
        .iter()
        .filter_map(|line| line.split_once("  "))
        .map(|(path, value)| (path.trim().to_owned(), value.trim().to_owned()))
        .filter(|(path, _)| !path.contains('[') && !path.starts_with("workload.labels."))
        .collect()
}

#[test]
fn every_scalar_has_a_flag_and_a_variable_named_by_its_path() {
    let rest = "interception: {mark: 1}\ntime: {scale: 2880, origin: 2026-11-26T00:00:00Z}\n";
    let ca = settings(&format!("{EXAMPLE}{rest}")).unwrap();
    let files = minimal_with("inbound: {capture: 0.0.0.0:15006}").unwrap();
    let command = Arguments::command();
    for path in scalars(&ca).into_keys().chain(scalars(&files).into_keys()) {
        let kebab: String = path
            .chars()
            .map(|c| match c {
                '.' => "-".to_owned(),
                c if c.is_ascii_uppercase() => format!("-{}", c.to_ascii_lowercase()),
                c => c.to_string(),
            })
            .collect();
        let variable = format!("PILLION_{}", kebab.replace('-', "_").to_uppercase());
        let flag = command.get_arguments().find(|arg| arg.get_long() == Some(&kebab));
        let flag = flag.unwrap_or_else(|| panic!("{path} has no flag --{kebab}"));
        assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "of {path}");
    }
}

#[test]
fn the_default_that_help_names_is_the_one_in_force() {
    let in_force = scalars(&minimal_with("inbound: {capture: 0.0.0.0:15006}").unwrap());
    let mut seen = 0;
    for arg in Arguments::command().get_arguments() {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let Some(told) = help.split_once("[default: ").and_then(|(_, rest)| rest.strip_suffix(']')) else {
            continue;
        };
        let path = match arg.get_id().as_str() {
            "root_namespace" => "rootNamespace",
            "policy_change" => "policyChange",
            // Said in words.
            "workload.name" | "interception.mark" => continue,
            path => path,
        };
        let Some(value) = in_force.get(path) else {
            let elsewhere = path.starts_with("identity.ca.") || path == "workloadApi.mode";
            assert!(elsewhere, "help names a default of {path}, which has none");
            continue;
        };
        let same_period = told.parse::<Period>().is_ok_and(|told| value.parse() == Ok(told));
        assert!(told == value || same_period, "{path} is {value}, and help says {told}");
        seen += 1;
    }
    assert!(seen > 15, "only {seen} defaults were found in help");
}

/// Whoever has it can decrypt the traffic, so nothing but the setting itself turns it on.
#[test]
fn secrets_are_written_down_only_where_a_file_is_named() {
    let shown =
        |text: &str| minimal_with(&format!("inbound: {{capture: 0.0.0.0:15006}}\n{text}")).unwrap().to_json();
    assert!(shown("")["tls"]["keyLogFile"].is_null());
    assert_eq!(shown("tls: {keyLogFile: keys.log}")["tls"]["keyLogFile"], "keys.log");
    let empty = minimal_with("inbound: {capture: 0.0.0.0:15006}\ntls: {keyLogFile: ''}");
    assert_eq!(faults(empty), ["tls.keyLogFile"]);
}

#[test]
fn the_settings_shown_read_back_as_themselves() {
    let hurried = format!("{EXAMPLE}time: {{scale: 2880, origin: 2026-11-26T00:00:00Z}}\n");
    let shown = settings(&hurried).unwrap().to_json();
    let mut raw = shown.clone();
    remove_nulls(&mut raw);
    assert_eq!(settings(&raw.to_string()).unwrap().to_json(), shown);
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(remove_nulls);
    }
}
