//! AuthorizationPolicies on real connections: who is let in, who is not, and what changes while a connection is open.

use std::io;

use pillion_testkit::peer;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const DENY_ALL: &str = "spec: {}";
const ALLOW_FRONTEND: &str =
    "spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]}]}";
const ALLOW_NAMESPACE: &str = "spec: {rules: [{from: [{source: {namespaces: [default]}}]}]}";
const ALLOW_OTHER_PORT: &str = "spec: {rules: [{to: [{operation: {ports: ['1']}}]}]}";
const ALLOW_GET: &str = "spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}";
const DENY_FRONTEND: &str =
    "spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]}]}";
const DENY_STRANGERS: &str = "spec: {action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}";
const DENY_LOOPBACK: &str = "spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}";
const DRY_RUN: &str = "spec: {}\n  # a deny-all that only tells";

fn policy(number: usize, spec: &str) -> String {
    let dry_run = if spec == DRY_RUN { ", annotations: {istio.io/dry-run: \"true\"}" } else { "" };
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}{dry_run}}}\n{}\n",
        spec.lines().next().unwrap()
    )
}

fn policies(specs: &[&str]) -> String {
    specs.iter().enumerate().map(|(number, spec)| policy(number, spec)).collect()
}

#[derive(Debug, Clone, Copy)]
enum Caller {
    Frontend,
    Payments,
    Stranger,
}

#[rstest]
#[case::no_policy(&[], Caller::Stranger, true)]
#[case::deny_all(&[DENY_ALL], Caller::Frontend, false)]
#[case::allowed_by_principal(&[DENY_ALL, ALLOW_FRONTEND], Caller::Frontend, true)]
#[case::another_principal(&[DENY_ALL, ALLOW_FRONTEND], Caller::Payments, false)]
#[case::no_principal(&[ALLOW_FRONTEND], Caller::Stranger, false)]
#[case::allowed_by_namespace(&[ALLOW_NAMESPACE], Caller::Payments, true)]
#[case::no_namespace(&[ALLOW_NAMESPACE], Caller::Stranger, false)]
#[case::another_port(&[ALLOW_OTHER_PORT], Caller::Frontend, false)]
#[case::http_fields_never_match_tcp(&[ALLOW_GET], Caller::Frontend, false)]
#[case::deny_beats_allow(&[ALLOW_FRONTEND, DENY_FRONTEND], Caller::Frontend, false)]
#[case::deny_of_another(&[DENY_FRONTEND], Caller::Payments, true)]
#[case::a_stranger_escapes_a_deny_by_identity(&[DENY_FRONTEND], Caller::Stranger, true)]
#[case::strangers_denied(&[DENY_STRANGERS], Caller::Stranger, false)]
#[case::not_a_stranger(&[DENY_STRANGERS], Caller::Frontend, true)]
#[case::by_address(&[DENY_LOOPBACK], Caller::Frontend, false)]
#[case::a_dry_run_only_tells(&[DRY_RUN], Caller::Frontend, true)]
#[tokio::test]
async fn a_caller_is_let_in_as_the_policies_say(
    #[case] specs: &[&str],
    #[case] caller: Caller,
    #[case] allowed: bool,
) {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    // It echoes, and speaks no HTTP, whatever a policy asks of it.
    lab.resources(Some(&(policies(specs) + &declared(app.address, "TCP"))));
    let sidecar = lab.in_front_of(app.address, "").await;
    assert_eq!(call(&lab, &sidecar, caller).await.is_ok(), allowed);
    if !allowed {
        sidecar.refused(Reason::AuthorizationDenied).await;
    }
    if specs.contains(&DRY_RUN) {
        sidecar
            .eventually("the dry run's verdict", || {
                sidecar.metrics().contains("pillion_authorization_shadow_total{result=\"denied\"} 1")
            })
            .await;
    }
}

async fn call(lab: &Lab, sidecar: &Sidecar, caller: Caller) -> io::Result<()> {
    let name = match caller {
        Caller::Frontend => "frontend",
        Caller::Payments => "payments",
        Caller::Stranger => {
            return peer::send_and_half_close(sidecar.inbound(), b"hello").await.map(|_| ());
        }
    };
    let mut stream = lab.tls_client(sidecar.inbound(), Some(name), &["istio"]).await?;
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    Ok(())
}

/// A changed policy is asked again with the identity that an open connection has proved.
#[tokio::test]
async fn a_policy_that_no_longer_allows_an_open_connection_cuts_it() {
    let lab = Lab::new();
    lab.resources(Some(&policies(&[ALLOW_NAMESPACE])));
    let app = peer::echo_app().await;
    let sidecar = lab.in_front_of(app.address, "").await;
    let mut frontend = lab.tls_client(sidecar.inbound(), Some("frontend"), &["istio"]).await.unwrap();
    let mut payments = lab.tls_client(sidecar.inbound(), Some("payments"), &["istio"]).await.unwrap();
    for stream in [&mut frontend, &mut payments] {
        stream.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut [0; 5])).await.unwrap().unwrap();
    }
    lab.resources(Some(&policies(&[ALLOW_FRONTEND])));
    let error = timeout(PATIENCE, payments.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    frontend.write_all(b"hello").await.unwrap();
    timeout(PATIENCE, frontend.read_exact(&mut [0; 5])).await.unwrap().unwrap();
}

/// Requirement 39: a DENY by identity on a port that accepts plaintext is reported; under STRICT it is not.
#[tokio::test]
async fn req_39_a_deny_by_identity_that_plaintext_escapes_is_reported() {
    const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    for (resources, reported) in
        [(policies(&[DENY_FRONTEND]), true), (policies(&[DENY_FRONTEND]) + STRICT, false)]
    {
        let lab = Lab::new();
        lab.resources(Some(&resources));
        let sidecar = lab.in_front_of("127.0.0.1:9".parse().unwrap(), "").await;
        let published = sidecar.running.shared.snapshot.borrow().clone();
        let found = published.snapshot.findings.iter().any(|finding| finding.message.contains("not STRICT"));
        assert_eq!(found, reported, "{:?}", published.snapshot.findings);
    }
}

/// The app is not even connected to for a caller that no policy allows.
#[tokio::test]
async fn a_denied_caller_never_reaches_the_app() {
    let lab = Lab::new();
    lab.resources(Some(&policies(&[ALLOW_FRONTEND])));
    let app = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = lab.in_front_of(app.local_addr().unwrap(), "").await;
    assert!(call(&lab, &sidecar, Caller::Payments).await.is_err());
    sidecar.refused(Reason::AuthorizationDenied).await;
    assert!(timeout(Duration::ZERO, app.accept()).await.is_err(), "the app heard of a denied caller");
}
