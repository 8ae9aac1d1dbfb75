//! The CA of the lab: on a node of its own, with one token file for each workload.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pillion_mesh::spiffe::{SpiffeId, TrustDomain};

use super::node::Node;
use super::process::{Process, run};
use super::{LabError, Way};

/// How long the CA may take to become ready: a key is made and a file synced.
const START: Duration = Duration::from_secs(20);

/// The trust domain of a lab.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

/// A running CA.
#[derive(Debug)]
pub struct Ca {
    node: Node,
    config: PathBuf,
    port: u16,
    monitoring: u16,
    process: Option<Process>,
}

impl Ca {
    pub(crate) fn start(node: Node, service_accounts: &[&str], settings: &str) -> Result<Self, LabError> {
        let folder = node.shared().make_folder("ca")?;
        node.shared().make_folder("tokens")?;
        let (port, monitoring) = match node.way() {
            Way::Loopback => (super::free_port()?, super::free_port()?),
            Way::Root | Way::UserNamespace => (15012, 15014),
        };
        let mut config = format!(
            "trustDomain: {TRUST_DOMAIN}
listen: {listen}:{port}
monitoring: {monitor}:{monitoring}
dnsNames: [ca, ca-v6, localhost]
state: {state}
bundleFile: {bundle}
",
            listen = listen_all(&node),
            monitor = listen_all(&node),
            state = folder.join("state").display(),
            bundle = node.shared().path("ca/bundle.pem").display(),
        );
        config.push_str(settings);
        config.push_str("registrations:\n");
        for account in service_accounts {
            let token = node.shared().path("tokens").join(account.replace('/', "."));
            // Writing to a String cannot fail.
            let _ = writeln!(config, "- {{id: '{}', tokenFile: {}}}", spiffe_id(account)?, token.display());
        }
        let path = folder.join("ca.yaml");
        fs::write(&path, config).map_err(LabError::io(format!("write {}", path.display())))?;
        let mut ca = Self { node, config: path, port, monitoring, process: None };
        ca.start_again()?;
        Ok(ca)
    }

    /// Starts it (again) with the same configuration and state, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready in time.
    pub fn start_again(&mut self) -> Result<(), LabError> {
        let config = self.config.display().to_string();
        let command = self.node.command_as_proxy(&["ca", "serve", "--config", &config], false);
        let process = self.node.start_command("ca", command)?;
        let url = self.ready_url();
        process.wait_for(START, &format!("the CA at {url}"), |_| {
            self.node.get(&url).is_ok_and(|answer| answer.is_success()).then_some(())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Runs `pillion-ca ARGS` beside it, with its configuration, and returns what that says.
    ///
    /// # Errors
    /// With what it said, where it ended with another status than 0.
    pub fn tool(&self, args: &[&str]) -> Result<String, LabError> {
        let config = self.config.display().to_string();
        let args = [&["ca"], args, &["--config", &config]].concat();
        run(self.node.command_as_proxy(&args, false))
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// What its command begins with, so that it runs as the proxies' user.
    pub(crate) fn as_proxy(&self) -> Vec<String> {
        self.node.as_proxy(false)
    }

    /// Where it says whether it is ready.
    pub(crate) fn ready_url(&self) -> String {
        format!("http://{}:{}/healthz/ready", self.node.v4(), self.monitoring)
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The process, unless it was killed.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The node that it runs on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// `https://ca:15012` as its clients know it.
    #[must_use]
    pub fn url(&self) -> String {
        let host = if self.node.way() == Way::Loopback { "localhost" } else { "ca" };
        format!("https://{host}:{}", self.port)
    }

    /// The PEM bundle that it writes for others.
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.node.shared().path("ca/bundle.pem")
    }

    /// The token of a registered service account, by the name it was registered with.
    #[must_use]
    pub fn token(&self, service_account: &str) -> PathBuf {
        self.node.shared().path("tokens").join(service_account.replace('/', "."))
    }
}

/// Of `name` in namespace `default`, or of `namespace/name`.
pub(crate) fn spiffe_id(service_account: &str) -> Result<SpiffeId, LabError> {
    let (namespace, name) = service_account.split_once('/').unwrap_or(("default", service_account));
    TRUST_DOMAIN
        .parse::<TrustDomain>()
        .and_then(|domain| SpiffeId::of_service_account(&domain, namespace, name))
        .map_err(|error| LabError::Impossible(error.to_string()))
}

/// Both families inside a namespace, 127.0.0.1 without.
fn listen_all(node: &Node) -> &'static str {
    if node.way() == Way::Loopback { "127.0.0.1" } else { "0.0.0.0" }
}
