//! `pillion-ca agent` beside a real CA, and a CA as the bundle endpoint of another trust domain. All are processes of their
//! own, on loopback.
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

// Each test crate uses a part of it.
#[allow(dead_code)]
#[path = "foreign/harness.rs"]
mod harness;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::Process;
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");
const OWN_SERVERS: &str = "admin: {address: \"127.0.0.1:0\"}\nreadiness: {address: \"127.0.0.1:0\"}\n\
                           metrics: {address: \"127.0.0.1:0\"}\n";

/// A CA of one trust domain with one registered workload.
struct Ca {
    folder: TempDir,
    api: SocketAddr,
    _process: Process,
}

impl Ca {
    fn of(trust_domain: &str) -> Ca {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let config = folder.path().join("ca.yaml");
        fs::write(
            &config,
            format!(
                "trustDomain: {trust_domain}\nlisten: 127.0.0.1:0\nmonitoring: 127.0.0.1:0\n\
                 dnsNames: [localhost, 127.0.0.1]\nstate: {at}/state\nbundleFile: {at}/bundle.pem\n\
                 registrations: [{{id: spiffe://{trust_domain}/ns/default/sa/backend, tokenFile: {at}/token}}]\n"
            ),
        )
        .unwrap();
        let process = started(&["ca", "serve", "--log-format", "json"], &config);
        let api = process.wait_for(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then(|| line["api"].as_str()?.parse().ok()).flatten()
        });
        Ca { folder, api, _process: process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As `identity` of a settings file.
    fn identity(&self) -> String {
        format!(
            "identity: {{ca: {{address: \"https://{}\", tokenFile: {}, bundleFile: {}}}}}\n",
            self.api,
            self.path("token").display(),
            self.path("bundle.pem").display()
        )
    }

    /// A settings file with the workload `backend`.
    fn settings(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("workload: {{serviceAccount: backend}}\n{OWN_SERVERS}{text}")).unwrap();
        path
    }
}

fn command(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(PILLION);
    command.args(arguments).arg("--config").arg(config);
    command
}

fn started(arguments: &[&str], config: &Path) -> Process {
    Process::start(command(arguments, config))
}

#[test]
fn an_agent_keeps_an_identity_of_the_ca_and_gives_it_to_a_process_without_one() {
    let ca = Ca::of("cluster.local");
    let socket = ca.path("workload.sock");
    let serving = format!("{}workloadApi: {{socket: {}}}\n", ca.identity(), socket.display());
    let config = ca.settings("agent.yaml", &serving);
    let agent = started(&["ca", "agent"], &config);
    agent.wait_for_line(&["listening on", "(Workload API, mode 0660)"]);
    agent.wait_for_line(&["certificate of spiffe://cluster.local/ns/default/sa/backend", "from the CA at"]);

    let inbound = "inbound: {listeners: [{address: \"127.0.0.1:0\", forward: \"127.0.0.1:1\"}]}\n";
    let identity = format!("identity: {{workloadApi: \"unix://{}\"}}\n", socket.display());
    let proxy = started(&["proxy"], &ca.settings("proxy.yaml", &format!("{identity}{inbound}")));
    proxy.wait_for_line(&[
        "certificate of spiffe://cluster.local/ns/default/sa/backend",
        "from the Workload API at",
    ]);
    agent.wait_for_line(&["FetchX509SVID of the Workload API: given"]);

    // It dies without a word, as a machine does that loses power; another takes its socket and its clients over.
    drop(agent);
    proxy.wait_for_line(&["the Workload API at unix://", "the certificate in use stays"]);
    let agent = started(&["ca", "agent"], &config);
    agent.wait_for_line(&["FetchX509SVID of the Workload API: given"]);
}

#[test]
fn the_bundle_of_another_ca_comes_from_its_api() {
    let (ours, theirs) = (Ca::of("cluster.local"), Ca::of("partner.example"));
    let federation = format!(
        "federation:\n- trustDomain: partner.example\n  bundle: {{endpoint: \"https://{}/v1/bundle\", \
         profile: https_web, caFile: {}}}\n",
        theirs.api,
        theirs.path("bundle.pem").display()
    );
    let inbound = "inbound: {listeners: [{address: \"127.0.0.1:0\", forward: \"127.0.0.1:1\"}]}\n";
    let text = format!("{}{federation}{inbound}", ours.identity());
    let proxy = started(&["proxy"], &ours.settings("proxy.yaml", &text));
    proxy.wait_for_line(&["trust bundle of partner.example: ", "/v1/bundle"]);
}

#[rstest]
#[case::listeners("inbound: {capture: \"127.0.0.1:15006\"}", "inbound: is a sidecar's")]
#[case::policies("mesh: /etc/pillion/mesh", "mesh: is a sidecar's")]
#[case::no_socket("", "workloadApi.socket: is missing; say where an agent serves the identity")]
fn an_agent_takes_no_settings_of_a_sidecar(#[case] text: &str, #[case] expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.yaml");
    let socket = if expected.starts_with("workloadApi") { "" } else { "workloadApi: {socket: a.sock}" };
    let files = "identity: {files: {certificate: c, key: k, bundle: b}}";
    fs::write(&config, format!("workload: {{serviceAccount: a}}\n{files}\n{socket}\n{text}\n")).unwrap();
    let output = command(&["ca", "agent"], &config).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with(&format!("pillion-ca agent: {expected}")), "{told}");
}

#[test]
fn an_agent_helps_with_its_own_settings_alone() {
    let help = |arguments: &[&str]| {
        let output = Command::new(PILLION).args(arguments).arg("--help").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let agent = help(&["ca", "agent"]);
    assert!(agent.contains("Usage: pillion-ca agent [OPTIONS]"), "{agent}");
    for (flag, known) in
        [("--workload-api-socket", true), ("--identity-ca-address", true), ("--inbound-capture", false)]
    {
        assert_eq!(agent.contains(flag), known, "{flag}");
    }
    assert!(help(&["ca"]).contains("  agent"));
}
