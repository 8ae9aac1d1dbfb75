//! What changes while traffic runs: certificates, the CA, policies, the proxy itself. A client of the mesh notices none
//! of it.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime};

use pillion_cli::lab::{RunningSidecar, Service, Sidecar, wait_until};
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::{Direction, rfc3339};
use pillion_testkit::TestCa;
use rstest::rstest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use common::identity::IdentityFiles;
use common::load::{Expect, Load, Seen};
use common::{
    CLIENT_ID, ECONNRESET, Family, Interception, PORT, SERVER_ID, SOON, Stage, marker, wait_for_marker,
};

/// No call failed, no held connection was cut, and there was a load.
fn assert_unnoticed(seen: &Seen) {
    assert_eq!(seen.failures, [""; 0], "{seen:?}");
    assert!(seen.answers > 50 && seen.exchanges > 50, "{seen:?}");
}

/// How often a sidecar has taken a certificate into use.
fn renewals(sidecar: &RunningSidecar) -> u64 {
    sidecar.admin_json("/certs").unwrap()["renewals"]["succeeded"].as_u64().unwrap()
}

fn wait_for_renewals(sidecar: &RunningSidecar, count: u64, timeout: Duration) {
    let what = format!("certificate {count} of {}", sidecar.node().name());
    wait_until(timeout, &what, || Ok((renewals(sidecar) >= count).then_some(()))).unwrap();
}

/// The certificates that clients have shown to `sidecar`, by serial number.
fn certificates_seen(sidecar: &RunningSidecar) -> BTreeSet<String> {
    sidecar.access_log().into_iter().filter_map(|record| record.tls).map(|tls| tls.peer_serial).collect()
}

#[test]
fn certificates_of_ten_seconds_are_renewed_three_times_and_no_connection_fails() {
    let Some(stage) = Stage::with_ca("workloadTtl: {default: 10s}\n") else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let start =
        |name, node| Sidecar::new(name).args(&["--identity-ca-ttl", "10s"]).start(node, &stage.ca).unwrap();
    let (client, server) = (start("client", &stage.client), start("server", &stage.server));
    let load = Load::of_a_mesh_client(&stage.client, stage.service(Family::V4));
    for sidecar in [&client, &server] {
        wait_for_renewals(sidecar, 4, Duration::from_secs(40));
    }
    load.wait_for_answers(20);
    assert_unnoticed(&load.finish());
    wait_until(SOON, "four client certificates in the server's access log", || {
        Ok((certificates_seen(&server).len() >= 4).then_some(()))
    })
    .unwrap();
}

/// The key identifiers of the roots that a sidecar trusts, and of the one that signed its certificate.
fn roots(sidecar: &RunningSidecar) -> (BTreeSet<String>, String) {
    let page = sidecar.admin_json("/certs").unwrap();
    let trusted = page["bundles"]["cluster.local"].as_array().unwrap().iter();
    let id = |id: &serde_json::Value| id.as_str().unwrap().to_owned();
    (trusted.map(|root| id(&root["subjectKeyId"])).collect(), id(&page["chain"][0]["authorityKeyId"]))
}

/// Certificates live for four hours, which take ten seconds.
#[test]
fn a_root_is_rotated_under_load_with_lives_of_ten_seconds_and_no_connection_fails() {
    let origin = rfc3339::print(SystemTime::now());
    let settings = format!(
        "workloadTtl: {{default: 4h, max: 4h}}
rotation: {{automatic: false, publishAhead: 4h}}
time: {{scale: 1440, origin: '{origin}'}}
"
    );
    let Some(mut stage) = Stage::with_ca(&settings) else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let hurried = ["--time-scale", "1440", "--time-origin", &origin];
    let start = |name, node| Sidecar::new(name).args(&hurried).start(node, &stage.ca).unwrap();
    let sidecars = [start("client", &stage.client), start("server", &stage.server)];
    let all = |what: &str, condition: &dyn Fn(&BTreeSet<String>, &str) -> bool| {
        let holds = |sidecar| {
            let (trusted, signer) = roots(sidecar);
            condition(&trusted, &signer)
        };
        wait_until(2 * SOON, what, || Ok(sidecars.iter().all(holds).then_some(()))).unwrap();
    };
    let allowed = |stage: &Stage, step: &str| {
        let what = format!("root {step} to be allowed");
        wait_until(3 * SOON, &what, || Ok(stage.ca.tool(&["root", step]).ok())).unwrap();
    };
    let (_, old) = roots(&sidecars[0]);

    let load = Load::of_a_mesh_client(&stage.client, stage.service(Family::V4));
    stage.ca.tool(&["root", "prepare"]).unwrap();
    all("two roots everywhere", &|trusted, signer| trusted.len() == 2 && signer == old);
    let refusal = stage.ca.tool(&["root", "activate"]).unwrap_err().to_string();
    assert!(refusal.contains("the next root is published since"), "{refusal}");
    stage.ca.kill();
    load.wait_for_answers(20);
    stage.ca.start_again().unwrap();
    allowed(&stage, "activate");
    all("certificates of the new root", &|trusted, signer| trusted.len() == 2 && signer != old);
    load.wait_for_answers(20);
    assert_unnoticed(&load.finish());

    // What was opened by a certificate of the old root ends with that root; what is opened now stays.
    let load = Load::of_a_mesh_client(&stage.client, stage.service(Family::V4));
    allowed(&stage, "retire");
    all("the new root alone", &|trusted, signer| trusted.len() == 1 && trusted.contains(signer));
    load.wait_for_answers(20);
    assert_unnoticed(&load.finish());
}

#[test]
fn a_ca_that_is_killed_and_comes_back_late_is_not_noticed() {
    const TTL: &str = "20s";
    let Some(mut stage) = Stage::with_ca(&format!("workloadTtl: {{default: {TTL}}}\n")) else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let start =
        |name, node| Sidecar::new(name).args(&["--identity-ca-ttl", TTL]).start(node, &stage.ca).unwrap();
    let (client, server) = (start("client", &stage.client), start("server", &stage.server));
    stage.ca.kill();
    let load = Load::of_a_mesh_client(&stage.client, stage.service(Family::V4));

    // Half of the life is over when the first renewal is tried.
    for sidecar in [&client, &server] {
        let failed = |page: &serde_json::Value| page["renewals"]["failed"].as_u64() >= Some(1);
        let what = "a failed renewal while the certificate is kept";
        sidecar.wait_for_page(Duration::from_secs(20), "/certs", what, failed).unwrap();
        assert_eq!(sidecar.admin_json("/certs").unwrap()["valid"], true);
        assert!(
            sidecar.process().unwrap().output().contains("the certificate lasts"),
            "nobody is told until when"
        );
        assert_eq!(renewals(sidecar), 1);
    }
    load.wait_for_answers(20);
    stage.ca.start_again().unwrap();
    for sidecar in [&client, &server] {
        wait_for_renewals(sidecar, 2, Duration::from_secs(20));
    }
    load.wait_for_answers(20);
    assert_unnoticed(&load.finish());
}

/// A day takes ten seconds here, which is how long certificates live. The root is replaced by age alone; the CA is killed
/// while both roots are published, and again when the other one signs.
#[test]
fn a_root_that_is_replaced_by_age_while_the_ca_is_killed_twice_is_not_noticed() {
    const ROTATION: Duration = Duration::from_secs(60);
    let hurry = ["--time-scale", "8640", "--time-origin", &rfc3339::print(SystemTime::now())];
    let Some(mut stage) = Stage::with_ca(&format!(
        "workloadTtl: {{default: 24h, max: 24h}}\nrotation: {{rootLife: 81h, publishAhead: 24h}}\n\
         time: {{scale: {}, origin: '{}'}}\n",
        hurry[1], hurry[3]
    )) else {
        return;
    };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let start = |name, node| Sidecar::new(name).args(&hurry).start(node, &stage.ca).unwrap();
    let (client, server) = (start("client", &stage.client), start("server", &stage.server));
    let mut load = Load::new();
    load.callers(&stage.client, stage.service(Family::V4), 4, Expect::Answer);

    let roots = |stage: &Stage| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(stage.ca.bundle()).unwrap().map(Result::unwrap).collect()
    };
    let first = roots(&stage).remove(0);
    wait_until(ROTATION, "a next root", || Ok((roots(&stage).len() == 2).then_some(()))).unwrap();
    stage.ca.kill();
    stage.ca.start_again().unwrap();
    wait_until(ROTATION, "the next root to sign", || Ok((roots(&stage)[0] != first).then_some(()))).unwrap();
    stage.ca.kill();
    stage.ca.start_again().unwrap();
    wait_until(ROTATION, "the end of the old root", || Ok((!roots(&stage).contains(&first)).then_some(())))
        .unwrap();
    for sidecar in [&client, &server] {
        wait_for_renewals(sidecar, renewals(sidecar) + 1, Duration::from_secs(20));
    }
    load.wait_for_answers(20);
    let seen = load.finish();
    assert_eq!(seen.failures, [""; 0], "{seen:?}");
    assert!(seen.answers > 200, "{seen:?}");
    assert!(certificates_seen(&server).len() >= 5, "few certificates were shown");
}

#[test]
fn a_mode_that_goes_to_and_fro_hurts_no_mesh_client_and_tears_nothing_for_a_stranger() {
    let Some(stage) = Stage::new() else { return };
    stage.mode("PERMISSIVE");
    let _app = stage.app("echo", Family::V4.any());
    let (_client, server) = stage.sidecars(Interception::Redirect);
    let load = Load::of_a_mesh_client(&stage.client, stage.service(Family::V4));
    let mut strangers = Load::new();
    strangers.callers(&stage.stranger, stage.service(Family::V4), 2, Expect::AnswerOrRefusal);

    for _ in 0..5 {
        let before = strangers.seen();
        strangers.wait("an answer under PERMISSIVE", |seen| seen.answers > before.answers);
        stage.mode("STRICT");
        server.wait_for_mode(SOON, PORT, "STRICT").unwrap();
        let before = strangers.seen();
        strangers.wait("a refusal under STRICT", |seen| seen.refusals > before.refusals);
        stage.mode("PERMISSIVE");
        server.wait_for_mode(SOON, PORT, "PERMISSIVE").unwrap();
    }
    let strangers = strangers.finish();
    assert_eq!(strangers.failures, [""; 0], "{strangers:?}");
    assert!(strangers.answers >= 5 && strangers.refusals >= 5, "{strangers:?}");
    assert_unnoticed(&load.finish());
}

/// Two sets of policies by which the mesh client may call and the stranger may not; half of one and half of the other would
/// let both in, or neither.
const SETS: [(&str, &str); 2] = [
    (
        "all-but-others",
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all-but-others-allow}
spec: {rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all-but-others-deny}
spec: {action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/default/sa/client]}}]}]}
",
    ),
    (
        "only-client",
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-client-allow}
spec: {rules: [{from: [{source: {serviceAccounts: [client]}}], to: [{operation: {methods: [GET], paths: [/orders]}}]}]}
",
    ),
];

#[test]
fn policies_that_go_to_and_fro_refuse_nobody_and_let_nobody_in() {
    const CHANGES: usize = 24;
    let Some(stage) = Stage::new() else { return };
    let service =
        Service { protocol: "HTTP".to_owned(), ..Service::of("server", PORT, &[stage.server.v4()]) };
    stage.lab.mesh().service(&service).unwrap();
    stage.lab.mesh().write("policies.yaml", SETS[0].1).unwrap();
    let _app = stage.app("backend", Family::V4.any());
    let (_client, server) = stage.sidecars(Interception::Redirect);
    let (mut client, mut stranger) = (Load::new(), Load::new());
    client.http(&stage.client, stage.service(Family::V4), 6, 200);
    stranger.http(&stage.stranger, stage.service(Family::V4), 4, 403);
    for change in 1..=CHANGES {
        client.wait_for_answers(2);
        stranger.wait_for_answers(2);
        let name = format!("change-{change}");
        let policies = SETS[change % 2].1.to_owned() + &marker(&name);
        stage.lab.mesh().write("policies.yaml", &policies).unwrap();
        wait_for_marker(&server, &name);
    }
    client.wait_for_answers(2);
    stranger.wait_for_answers(2);
    let (client, stranger) = (client.finish(), stranger.finish());
    assert_unnoticed(&client);
    assert_eq!(stranger.failures, [""; 0], "{stranger:?}");

    let mut decided = BTreeMap::new();
    for (record, line) in server.request_log() {
        let decision = record.authorization.unwrap();
        assert_eq!(decision.allowed, record.tls.is_some_and(|tls| tls.peer == CLIENT_ID), "{line}");
        let sets = SETS.map(|(name, _)| decision.because.contains(&format!("policy[{name}-")));
        assert!(sets[0] != sets[1], "not one set alone: {}", decision.because);
        *decided.entry((decision.allowed, sets[0])).or_insert(0) += 1;
    }
    assert!(decided.len() == 4 && decided.values().all(|count| *count >= CHANGES), "{decided:?}");
}

/// Which of the two sidecars is stopped.
#[rstest]
#[case::of_the_server(Direction::Inbound)]
#[case::of_the_client(Direction::Outbound)]
fn a_draining_proxy_lets_open_connections_finish_and_ends_cleanly(#[case] side: Direction) {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let start =
        |name, node| Sidecar::new(name).args(&["--drain-timeout", "20s"]).start(node, &stage.ca).unwrap();
    let (client, server) = (start("client", &stage.client), start("server", &stage.server));
    let drained = if side == Direction::Inbound { &server } else { &client };
    let service = stage.service(Family::V4);
    let mut held = Load::new();
    held.holders(&stage.client, service, 8);
    let mut calls = Load::new();
    calls.callers(&stage.client, service, 4, Expect::AnswerOrRefusal);
    calls.wait_for_answers(50);

    let process = drained.process().unwrap();
    let told = Instant::now();
    process.terminate().unwrap();
    calls.wait("a refused call", |seen| seen.refusals > 0);
    let before = held.seen().exchanges;
    held.wait("two seconds' worth of talk on the held connections", |seen| seen.exchanges >= before + 800);
    process.check_running().unwrap();
    let (held, calls) = (held.finish(), calls.finish());
    assert_eq!((held.failures, calls.failures), (vec![], vec![]));
    assert_eq!(process.wait(SOON).unwrap().code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(20), "it waited for the deadline with nothing open");

    let log = drained.access_log();
    let cut: Vec<_> = log.iter().filter(|record| record.reason != Some(Reason::Completed)).collect();
    assert!(cut.is_empty(), "{cut:?}");
    assert!(log.len() as u64 >= calls.answers + 8);
}

#[test]
fn the_drain_deadline_is_kept_to_and_what_is_still_open_then_is_reset() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let _app = stage.app("echo", Family::V4.any());
    let _client = Sidecar::new("client").start(&stage.client, &stage.ca).unwrap();
    let server =
        Sidecar::new("server").args(&["--drain-timeout", "2s"]).start(&stage.server, &stage.ca).unwrap();
    let mut stream = stage.client.dial(stage.service(Family::V4)).unwrap();
    let mut ask = || {
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 5])
    };
    ask().unwrap();

    let process = server.process().unwrap();
    let told = Instant::now();
    process.terminate().unwrap();
    let error = loop {
        if let Err(error) = ask() {
            break error;
        }
        assert!(told.elapsed() < SOON, "never cut");
    };
    let cut_after = told.elapsed();
    assert_eq!(error.raw_os_error(), Some(ECONNRESET));
    assert!((DEADLINE..DEADLINE * 2).contains(&cut_after), "cut after {cut_after:?}");
    assert_eq!(process.wait(SOON).unwrap().code(), Some(0));
    assert_eq!(server.access_log().last().unwrap().reason, Some(Reason::Drained));
}

/// The old root goes in three steps: both are trusted, all have certificates of the new one, the old one is withdrawn. New
/// connections notice none of it, and open ones not before the last step: that cuts what was opened by a certificate of
/// the old root, and nothing else.
#[test]
fn a_root_is_replaced_through_identity_files_and_no_connection_fails_but_those_of_the_old_root() {
    let Some(stage) = Stage::new() else { return };
    stage.mode("STRICT");
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let workloads = [("client", CLIENT_ID, &stage.client), ("server", SERVER_ID, &stage.server)];
    let workloads = workloads.map(|(name, id, node)| {
        let files = IdentityFiles::new(&stage.lab, name);
        files.replace(&old, id, &[&old]);
        let sidecar = Sidecar::new(name).identity(&files.settings()).start(node, &stage.ca).unwrap();
        (id, files, sidecar)
    });
    let replace = |step: u64, signer: &TestCa, roots: &[&TestCa]| {
        for (id, files, _) in &workloads {
            files.replace(signer, id, roots);
        }
        for (_, _, sidecar) in &workloads {
            wait_for_renewals(sidecar, step, SOON);
        }
    };
    let _app = stage.app("echo", Family::V4.any());
    let service = stage.service(Family::V4);
    let mut calls = Load::new();
    calls.callers(&stage.client, service, 4, Expect::Answer);
    let mut of_the_old = Load::new();
    of_the_old.holders(&stage.client, service, 4);
    let mut stays_too_long = stage.client.dial(service).unwrap();
    stays_too_long.set_read_timeout(Some(SOON)).unwrap();
    stays_too_long.write_all(b"hello").unwrap();
    stays_too_long.read_exact(&mut [0; 5]).unwrap();

    replace(2, &old, &[&old, &new]);
    calls.wait_for_answers(20);
    replace(3, &new, &[&old, &new]);
    calls.wait_for_answers(20);
    let of_the_old = of_the_old.finish();
    assert!(of_the_old.failures.is_empty() && of_the_old.exchanges > 50, "{of_the_old:?}");
    let mut of_the_new = Load::new();
    of_the_new.holders(&stage.client, service, 4);

    replace(4, &new, &[&new]);
    let error = stays_too_long.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(ECONNRESET));
    calls.wait_for_answers(20);
    let (calls, of_the_new) = (calls.finish(), of_the_new.finish());
    assert!(calls.failures.is_empty() && calls.answers > 50, "{calls:?}");
    assert!(of_the_new.failures.is_empty() && of_the_new.exchanges > 0, "{of_the_new:?}");

    let (_, _, server) = &workloads[1];
    wait_until(SOON, "each client certificate in the server's access log", || {
        Ok((certificates_seen(server).len() == 4).then_some(()))
    })
    .unwrap();
    let cut: Vec<_> = workloads
        .iter()
        .flat_map(|(_, _, sidecar)| sidecar.access_log())
        .filter(|record| record.reason == Some(Reason::PolicyChanged))
        .collect();
    assert!(!cut.is_empty(), "nobody says why it was cut");
    for record in cut {
        let detail = record.detail.unwrap();
        assert!(detail.contains("the trust bundle has changed") && detail.contains("CN=new"), "{detail}");
    }
}
