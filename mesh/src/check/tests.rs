use std::time::{Duration, SystemTime};

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::finding::{Code, Finding};
use crate::reason::Reason;
use crate::wire::{ConnectionRecord, Direction, FirstBytes, Times, TlsMode, TlsRecord, rfc3339};

fn now() -> SystemTime {
    rfc3339::parse("2026-11-20T12:00:00Z").unwrap()
}

fn at(name: &str) -> String {
    format!("http://{name}:15000")
}

/// A proxy with which all is well, in the shape of the pages.
fn pages(name: &str) -> (Value, Value) {
    let config = json!({
        "version": "1.0.0",
        "settings": {
            "workload": {
                "name": name, "trustDomain": "cluster.local", "namespace": "default", "serviceAccount": name,
            },
            "inbound": {"capture": "0.0.0.0:15006"},
            "outbound": {"capture": "127.0.0.1:15001"},
        },
        "policy": {"version": 1, "loaded": "2026-11-20T11:00:00.000Z", "lastError": null, "findings": []},
    });
    let certs = json!({
        "now": "2026-11-20T12:00:00.000Z",
        "identity": format!("spiffe://cluster.local/ns/default/sa/{name}"),
        "valid": true,
        "chain": [{
            "issuer": "CN=root", "authorityKeyId": "aa",
            "notBefore": "2026-11-20T00:00:00.000Z", "notAfter": "2026-11-21T00:00:00.000Z",
        }],
        "bundles": {"cluster.local": [
            {"subject": "CN=root", "subjectKeyId": "aa", "notAfter": "2036-11-20T00:00:00.000Z", "valid": true},
        ]},
        "renewals": {"succeeded": 1, "failed": 0, "lastError": null, "next": "2026-11-20T12:30:00.000Z"},
    });
    (config, certs)
}

fn facts(name: &str) -> Facts {
    let (config, certs) = pages(name);
    Facts {
        config: serde_json::from_value(config).unwrap(),
        readiness: Readiness { ready: true, because: "the certificate is valid".to_owned() },
        certs: serde_json::from_value(certs).unwrap(),
        asked_at: now(),
        connections: Vec::new(),
        rules: Some("-A PILLION_OUTPUT -m owner --uid-owner 1337 -j RETURN".to_owned()),
        captured: None,
    }
}

fn asked(all: impl IntoIterator<Item = Facts>) -> Vec<Asked> {
    all.into_iter().map(|facts| Asked { url: at(facts.name()), facts: Ok(Box::new(facts)) }).collect()
}

/// The ends of one connection from `web` to `customers`, as each tells it.
fn ends(secured: bool) -> [ConnectionRecord; 2] {
    let tls = |peer: &str, local: &str| {
        secured.then(|| TlsRecord {
            mode: TlsMode::IstioMutual,
            peer: format!("spiffe://cluster.local/ns/default/sa/{peer}"),
            local: format!("spiffe://cluster.local/ns/default/sa/{local}"),
            version: "TLSv1.3".into(),
            cipher_suite: "TLS13_AES_256_GCM_SHA384".into(),
            group: "X25519".into(),
            resumed: false,
            handshake_micros: 1,
            peer_serial: "01".to_owned(),
            peer_not_after: now(),
            local_serial: None,
            local_not_after: None,
        })
    };
    let inbound = ConnectionRecord {
        id: 7,
        direction: Direction::Inbound,
        accepted: now(),
        client: "10.0.0.7:4312".parse().unwrap(),
        original_destination: Some("10.0.0.8:3000".parse().unwrap()),
        first_bytes: Some(FirstBytes::Plaintext),
        looks_like: None,
        mode: None,
        service: None,
        plan: None,
        tls: tls("web", "customers"),
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 112,
        bytes_to_client: 4_000,
        duration_micros: 0,
        times: Times { dialled: Some(0), opened: Some(1), ..Times::default() },
        reason: Some(Reason::Completed),
        detail: None,
        closed: None,
        wire: None,
    };
    let outbound = ConnectionRecord {
        direction: Direction::Outbound,
        client: "10.0.0.7:50000".parse().unwrap(),
        tls: tls("customers", "web"),
        upstream: inbound.original_destination,
        dialled_from: Some(inbound.client),
        ..inbound.clone()
    };
    [outbound, inbound]
}

fn pair(secured: bool) -> [Facts; 2] {
    let [outbound, inbound] = ends(secured);
    [
        Facts { connections: vec![outbound], ..facts("web") },
        Facts { connections: vec![inbound], ..facts("customers") },
    ]
}

fn of(report: &Report, kind: Kind) -> Vec<&Check> {
    report.checks.iter().filter(|check| check.id == kind).collect()
}

#[test]
fn a_good_mesh_is_told_as_a_person_reads_it() {
    let report = judge(&asked(pair(true)), "1.0.0", Some(&Ok("ready".to_owned())));
    let expected = "\
proxies
-------
√ web answers at http://web:15000
√ customers answers at http://customers:15000
√ web is ready: the certificate is valid
√ customers is ready: the certificate is valid
√ all are of version 1.0.0

identity
--------
√ web is spiffe://cluster.local/ns/default/sa/web until 2026-11-21T00:00:00.000Z (12 h 0 m left)
√ customers is spiffe://cluster.local/ns/default/sa/customers until 2026-11-21T00:00:00.000Z (12 h 0 m left)
√ web believes roots of cluster.local until 2036-11-20T00:00:00.000Z
√ customers believes roots of cluster.local until 2036-11-20T00:00:00.000Z
√ each believes the certificates of all others
√ the clock of web agrees with ours
√ the clock of customers agrees with ours

certificate authority
---------------------
√ web got its certificate, and asks again at 2026-11-20T12:30:00.000Z
√ customers got its certificate, and asks again at 2026-11-20T12:30:00.000Z
√ the CA says: ready

policies
--------
√ web has the mesh folder of 2026-11-20T11:00:00.000Z
√ customers has the mesh folder of 2026-11-20T11:00:00.000Z
√ web finds nothing in it that is probably not meant
√ customers finds nothing in it that is probably not meant

interception
------------
√ the rules of web are installed in its network namespace
√ the rules of customers are installed in its network namespace
√ no connection of web itself came back to it
√ no connection of customers itself came back to it

mesh
----
√ web -> customers: 0 plaintext bytes of 4,112 seen on the link, by the records of both ends (1 connection; each end has proved to the other who it is)
√ nobody was refused in the last hour

√ all 25 checks passed";
    snapbox::assert_data_eq!(report.to_string(), snapbox::Data::text(expected).raw());
    assert!(report.is_good());
    assert_eq!(serde_json::from_value::<Report>(serde_json::to_value(&report).unwrap()).unwrap(), report);
}

type Fault = fn(&mut Facts);

fn renewal_fails(facts: &mut Facts) {
    facts.certs.renewals.last_error = Some("the CA does not answer".to_owned());
}
fn has_expired(facts: &mut Facts) {
    facts.certs.valid = false;
}
fn ends_soon(facts: &mut Facts) {
    facts.certs.chain[0].not_after = now() + Duration::from_secs(60);
}
fn has_no_certificate(facts: &mut Facts) {
    facts.certs.chain.clear();
}
fn is_not_ready(facts: &mut Facts) {
    facts.readiness.ready = false;
}
fn is_old(facts: &mut Facts) {
    facts.config.version = "0.9.0".to_owned();
}
fn has_another_root(facts: &mut Facts) {
    facts.certs.bundles.get_mut("cluster.local").unwrap()[0].subject_key_id = Some("bb".to_owned());
}
fn has_no_valid_root(facts: &mut Facts) {
    facts.certs.bundles.get_mut("cluster.local").unwrap()[0].valid = false;
}
fn has_a_root_that_ends(facts: &mut Facts) {
    facts.certs.bundles.get_mut("cluster.local").unwrap()[0].not_after = now() + Duration::from_secs(86_400);
}
fn is_a_minute_ahead(facts: &mut Facts) {
    facts.certs.now += Duration::from_secs(60);
}
fn is_an_hour_behind(facts: &mut Facts) {
    facts.certs.now -= Duration::from_secs(3600);
}
fn cannot_load(facts: &mut Facts) {
    facts.config.policy.last_error = Some("modes.yaml:3:5: unknown field".to_owned());
}
fn has_a_finding(facts: &mut Facts) {
    facts.config.policy.findings.push(Finding::new(Code::PolicyIgnored, "modes.yaml:1", "it is ignored"));
}
fn has_a_warning(facts: &mut Facts) {
    facts.config.policy.findings.push(Finding::new(Code::ProtocolTwice, "modes.yaml:1", "twice"));
}
fn has_an_info(facts: &mut Facts) {
    facts.config.policy.findings.push(Finding::new(Code::NotApplied, "modes.yaml:1", "not applied"));
}
fn has_no_rules(facts: &mut Facts) {
    facts.rules = Some("no rules of pillion are installed".to_owned());
}
fn is_not_exempt(facts: &mut Facts) {
    facts.rules = Some("-A PILLION_OUTPUT -j PILLION_REDIRECT".to_owned());
}
fn comes_back(facts: &mut Facts) {
    facts.connections[0].reason = Some(Reason::SelfLoop);
}
fn refuses_somebody(facts: &mut Facts) {
    let [_, inbound] = ends(false);
    let reason = Some(Reason::StrictPlaintext);
    facts.connections.push(ConnectionRecord {
        id: 99,
        reason,
        client: "10.0.0.9:1".parse().unwrap(),
        ..inbound
    });
}
fn takes_plaintext_of_a_stranger(facts: &mut Facts) {
    let [_, inbound] = ends(false);
    facts.connections.push(ConnectionRecord { id: 99, client: "10.0.0.9:1".parse().unwrap(), ..inbound });
}
fn cannot_be_looked_into(facts: &mut Facts) {
    facts.rules = None;
    facts.connections.clear();
}

#[rstest]
#[case(is_not_ready, Kind::ProxyReady, Outcome::Failed)]
#[case(is_old, Kind::VersionsEqual, Outcome::Warned)]
#[case(has_expired, Kind::CertificateValid, Outcome::Failed)]
#[case(has_no_certificate, Kind::CertificateValid, Outcome::Failed)]
#[case(ends_soon, Kind::CertificateValid, Outcome::Warned)]
#[case(renewal_fails, Kind::CaReachable, Outcome::Failed)]
#[case(has_another_root, Kind::RootsCommon, Outcome::Failed)]
#[case(has_no_valid_root, Kind::RootsValid, Outcome::Failed)]
#[case(has_a_root_that_ends, Kind::RootsValid, Outcome::Warned)]
#[case(is_a_minute_ahead, Kind::ClocksAgree, Outcome::Warned)]
#[case(is_an_hour_behind, Kind::ClocksAgree, Outcome::Failed)]
#[case(cannot_load, Kind::PolicyLoaded, Outcome::Failed)]
#[case(has_a_finding, Kind::NoFindings, Outcome::Failed)]
#[case(has_a_warning, Kind::NoFindings, Outcome::Warned)]
#[case(has_an_info, Kind::NoFindings, Outcome::Passed)]
#[case(has_no_rules, Kind::TrafficCaptured, Outcome::Failed)]
#[case(cannot_be_looked_into, Kind::TrafficCaptured, Outcome::Warned)]
#[case(is_not_exempt, Kind::OwnTrafficExempt, Outcome::Failed)]
#[case(comes_back, Kind::OwnTrafficExempt, Outcome::Failed)]
#[case(takes_plaintext_of_a_stranger, Kind::EdgeSecured, Outcome::Warned)]
#[case(refuses_somebody, Kind::NobodyRefused, Outcome::Warned)]
fn a_fault_is_found_by_its_check_and_hinted_at(
    #[case] fault: Fault,
    #[case] kind: Kind,
    #[case] outcome: Outcome,
) {
    let [web, mut customers] = pair(true);
    fault(&mut customers);
    let report = judge(&asked([web, customers]), "1.0.0", None);
    let worst = of(&report, kind).into_iter().max_by_key(|check| check.outcome).unwrap();
    assert_eq!(worst.outcome, outcome, "{report}");
    assert_eq!(report.is_good(), outcome != Outcome::Failed, "{report}");
    let hint = format!("docs/reference/checks.md#{kind}");
    assert_eq!(worst.hint.as_deref(), (outcome != Outcome::Passed).then_some(hint.as_str()));
}

#[test]
fn a_proxy_that_does_not_answer_takes_nothing_from_the_others() {
    let mut all = asked(pair(true));
    all.push(Asked { url: at("orders"), facts: Err("http://orders:15000: refused".to_owned()) });
    let report = judge(&all, "1.0.0", Some(&Err("the CA does not answer".to_owned())));
    let outcomes: Vec<Outcome> = of(&report, Kind::ProxyAnswers).iter().map(|check| check.outcome).collect();
    assert_eq!(outcomes, [Outcome::Passed, Outcome::Passed, Outcome::Failed]);
    assert_eq!(of(&report, Kind::LinkSecured)[0].outcome, Outcome::Passed);
    assert_eq!(of(&report, Kind::CaReady)[0].outcome, Outcome::Failed);
    assert!(!report.is_good());
}

#[test]
fn where_nobody_has_talked_nothing_is_proved() {
    let report = judge(&asked([facts("web"), facts("customers")]), "1.0.0", None);
    assert_eq!(of(&report, Kind::EdgeSecured)[0].outcome, Outcome::Warned);
    assert!(of(&report, Kind::EdgeSecured)[0].told.contains("nothing is proved"), "{report}");
}

/// What was heard goes over what both ends say.
#[rstest]
#[case::plaintext_by_the_records(
    false,
    None,
    Outcome::Failed,
    "4,112 plaintext bytes of 4,112 seen on the link, by the records"
)]
#[case::encrypted_on_the_wire(true, Some((900, 0)), Outcome::Passed, "0 plaintext bytes of 900 seen on the link, by a capture")]
#[case::plaintext_on_the_wire(true, Some((900, 100)), Outcome::Failed, "100 plaintext bytes of 1,000 seen on the link, by a capture")]
#[case::nothing_was_heard(true, Some((0, 0)), Outcome::Passed, "0 plaintext bytes of 4,112 seen on the link, by the records")]
fn a_link_is_judged_by_what_was_seen(
    #[case] secured: bool,
    #[case] heard: Option<(u64, u64)>,
    #[case] outcome: Outcome,
    #[case] told: &str,
) {
    let [mut web, customers] = pair(secured);
    web.captured = heard.map(|(tls, plaintext)| Captured {
        streams: vec![
            Stream {
                one: "10.0.0.8:3000".parse().unwrap(),
                other: "10.0.0.7:4312".parse().unwrap(),
                tls,
                plaintext,
            },
            Stream {
                one: "10.0.0.8:3000".parse().unwrap(),
                other: "10.0.0.7:9".parse().unwrap(),
                tls: 0,
                plaintext: 5,
            },
        ],
    });
    let report = judge(&asked([web, customers]), "1.0.0", None);
    let link = of(&report, Kind::LinkSecured)[0];
    assert_eq!(link.outcome, outcome, "{report}");
    assert!(link.told.contains(told), "{}", link.told);
}
