//! openssl as a client that resumes its sessions whenever it may (requirements 16 and 17): what a session gives it, and that
//! it never gets in by one where it would not get in without.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pillion_testkit::authority::{Paths, valid_between};
use pillion_testkit::{Held, TestCa};

use super::harness::{Mesh, Process, echo_app, eventually, id, listening, program, text};
use super::openssl::typed_by_hand;

/// `openssl s_client` with one certificate and one file of its newest session.
struct Resuming {
    address: SocketAddr,
    paths: Paths,
    session: PathBuf,
}

/// What came of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// The echo, over a session that was resumed.
    Resumed,
    /// The echo, over a full handshake.
    New,
    /// No echo.
    Refused,
}

impl Resuming {
    /// Shows `held`.
    fn new(mesh: &Mesh, held: &Held, address: SocketAddr) -> Self {
        Self { address, paths: mesh.write("resuming", held), session: mesh.path("session.pem") }
    }

    /// Has a session of one connection already.
    fn begun(mesh: &Mesh, held: &Held, address: SocketAddr) -> Self {
        let client = Self::new(mesh, held, address);
        assert_eq!(client.call(), Came::New);
        assert!(client.session.exists(), "openssl got no session");
        client
    }

    /// One connection, with the session if there is one; a new session is kept.
    fn call(&self) -> Came {
        let session = text(&self.session);
        let mut arguments = vec!["-alpn", "istio", "-tls1_3", "-sess_out", &session];
        if self.session.exists() {
            arguments.extend(["-sess_in", &session]);
        }
        let printed = typed_by_hand(self.address, &self.paths.bundle, Some(&self.paths), &arguments);
        match (printed.matches("typed by hand").count(), printed.contains("Reused, TLSv1.3")) {
            (0, _) => Came::Refused,
            (_, true) => Came::Resumed,
            (_, false) => Came::New,
        }
    }

    /// Calls until it comes to a full handshake.
    fn until_new(&self, pillion: &Process) {
        let seen = eventually(|| (self.call() == Came::New).then_some(()));
        assert!(seen.is_some(), "whatever is asked for is resumed:\n{}", pillion.printed());
    }

    /// Calls until the sidecar says all of this of a connection, which has got nothing.
    fn until_refused(&self, pillion: &Process, parts: &[&str]) {
        let said = || pillion.printed().lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let refused = eventually(|| {
            let came = self.call();
            said().then_some(came)
        });
        assert_eq!(refused, Some(Came::Refused), "{parts:?}:\n{}", pillion.printed());
        assert_eq!(self.call(), Came::Refused, "the next one got in:\n{}", pillion.printed());
    }
}

/// A mesh under STRICT with one sidecar, and a client of `frontend` that has a session with it.
fn begun() -> Option<(Mesh, Process, Resuming)> {
    program("OPENSSL", "openssl")?;
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (pillion, address) = mesh.in_front_of(echo_app());
    let client = Resuming::begun(&mesh, &mesh.ca.issue(&id("frontend")), address);
    Some((mesh, pillion, client))
}

#[test]
fn openssl_resumes_its_sessions_and_stays_the_peer_that_it_is() {
    let Some((_mesh, pillion, client)) = begun() else { return };
    for _ in 0..3 {
        assert_eq!(client.call(), Came::Resumed);
    }
    pillion.wait_for_line(&[&id("frontend"), "TLSv1.3", "resumed"]);
}

#[test]
fn nothing_is_resumed_where_a_setting_says_so() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    let app = echo_app();
    let pillion = mesh.sidecar(
        "backend",
        &format!(
            "inbound: {{listeners: [{{address: \"127.0.0.1:0\", forward: \"{app}\"}}]}}\ntls: {{resumption: false}}"
        ),
    );
    let address = pillion.wait_for(|line| listening(line, "(inbound"));
    let client = Resuming::new(&mesh, &mesh.ca.issue(&id("frontend")), address);
    assert_eq!((client.call(), client.call(), client.session.exists()), (Came::New, Came::New, false));
}

/// The sidecar's own files, as a rotation would write them.
fn rotate(mesh: &Mesh, held: &Held, bundle: &str) {
    let paths = mesh.write("mesh-backend", held);
    fs::write(paths.bundle, bundle).unwrap();
}

#[test]
fn req_16_after_a_rotation_openssl_has_to_prove_itself_again() {
    let Some((mesh, pillion, client)) = begun() else { return };
    let both = mesh.ca.bundle_pem() + &TestCa::root("the next root").bundle_pem();
    rotate(&mesh, &mesh.ca.issue(&id("backend")), &both);
    client.until_new(&pillion);
    assert_eq!(client.call(), Came::Resumed, "a session under the new bundle");
}

#[test]
fn req_16_a_session_of_a_withdrawn_root_is_refused() {
    let Some((mesh, pillion, client)) = begun() else { return };
    let other = TestCa::root("another root");
    // openssl trusts both, so that it is the sidecar that refuses.
    fs::write(&client.paths.bundle, mesh.ca.bundle_pem() + &other.bundle_pem()).unwrap();
    rotate(&mesh, &other.issue(&id("backend")), &other.bundle_pem());
    client.until_refused(&pillion, &["certificate_untrusted", &id("frontend")]);
}

#[test]
fn req_17_a_session_does_not_outlive_the_clients_certificate() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    let (pillion, address) = mesh.in_front_of(echo_app());
    let now = SystemTime::now();
    let held = mesh.ca.issue_with(&id("frontend"), |leaf| {
        valid_between(leaf, now - Duration::from_secs(60), now + Duration::from_secs(8));
    });
    let client = Resuming::begun(&mesh, &held, address);
    assert_eq!(client.call(), Came::Resumed);
    client.until_refused(&pillion, &["certificate_expired", &id("frontend")]);
}

#[test]
fn req_17_a_session_gets_nobody_past_a_policy() {
    let Some((mesh, pillion, client)) = begun() else { return };
    fs::write(
        mesh.path("mesh").join("deny.yaml"),
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\n\
         spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]}]}\n",
    )
    .unwrap();
    client.until_refused(&pillion, &["authorization_denied", &id("frontend"), "resumed"]);
}

#[test]
fn req_17_a_session_of_a_revoked_certificate_is_refused() {
    if program("OPENSSL", "openssl").is_none() {
        return;
    }
    let mesh = Mesh::new();
    mesh.mode("STRICT");
    mesh.revoke(&[]);
    let (pillion, address) = mesh.in_front_of(echo_app());
    let held = mesh.ca.issue(&id("frontend"));
    let client = Resuming::begun(&mesh, &held, address);
    assert_eq!(client.call(), Came::Resumed);
    mesh.revoke(&[&held]);
    client.until_refused(&pillion, &["certificate_revoked", &id("frontend")]);
}
