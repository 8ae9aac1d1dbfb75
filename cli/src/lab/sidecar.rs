//! A sidecar of the lab: what it shall be ([`Sidecar`]), and the rules and the process it then is
//! ([`RunningSidecar`]).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pillion_mesh::wire::{ConnectionRecord, RequestRecord};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ca::{Ca, TRUST_DOMAIN, spiffe_id};
use super::node::Node;
use super::process::{Process, run};
use super::wait::wait_until;
use super::{LabError, PROXY_MARK, PROXY_USER, Way, free_port};
use crate::http::Answer;

/// How long a sidecar may take to have its certificate.
const START: Duration = Duration::from_secs(20);

/// How long a proxy may take to end after SIGTERM before it is killed; more than its drain timeout.
const STOP: Duration = Duration::from_secs(10);

/// What a sidecar shall be. Without further words: namespace `default`, label `app` and service account as the name says,
/// transparent capture by REDIRECT of all ports, the lab's mesh folder, a certificate from the CA.
#[derive(Debug, Clone)]
pub struct Sidecar {
    service_account: String,
    labels: BTreeMap<String, String>,
    gateway: BTreeMap<u16, u16>,
    interception: Interception,
    rule_args: Vec<String>,
    inbound: Vec<(SocketAddr, SocketAddr)>,
    outbound: Vec<(SocketAddr, String)>,
    mesh: Option<PathBuf>,
    identity: Option<String>,
    args: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interception {
    None,
    Redirect,
    Tproxy,
}

impl Sidecar {
    /// The sidecar of service account `service_account`: a name in namespace `default`, or `namespace/name`, as it was
    /// registered with the CA.
    #[must_use]
    pub fn new(service_account: &str) -> Self {
        let app = service_account.rsplit('/').next().unwrap_or(service_account);
        Self {
            service_account: service_account.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            gateway: BTreeMap::new(),
            interception: Interception::Redirect,
            rule_args: Vec::new(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            mesh: None,
            identity: None,
            args: Vec::new(),
        }
    }

    /// Its label `app`, where it is not the service account's name.
    #[must_use]
    pub fn app(self, app: &str) -> Self {
        self.label("app", app)
    }

    /// A further label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Serves the Gateways that select its labels: their port `port` on `at`, for everyone. Has no rules and no capture.
    #[must_use]
    pub fn gateway(mut self, port: u16, at: u16) -> Self {
        self.gateway.insert(port, at);
        self.without_capture()
    }

    /// Capture by TPROXY: the app sees its client's own address. Not inside a user namespace.
    #[must_use]
    pub fn tproxy(mut self) -> Self {
        self.interception = Interception::Tproxy;
        self
    }

    /// No rules and no capture; needs [`Sidecar::inbound`], [`Sidecar::outbound`] or [`Sidecar::gateway`].
    #[must_use]
    pub fn without_capture(mut self) -> Self {
        self.interception = Interception::None;
        self
    }

    /// Further arguments of `pillion-iptables apply`, for example `["-d", "9000"]`.
    #[must_use]
    pub fn rules(mut self, args: &[&str]) -> Self {
        self.rule_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// An explicit inbound listener that forwards to the app.
    #[must_use]
    pub fn inbound(mut self, address: SocketAddr, forward: SocketAddr) -> Self {
        self.inbound.push((address, forward));
        self
    }

    /// An explicit outbound listener for `host:port` of the registry.
    #[must_use]
    pub fn outbound(mut self, address: SocketAddr, destination: &str) -> Self {
        self.outbound.push((address, destination.to_owned()));
        self
    }

    /// Another mesh folder than the lab's.
    #[must_use]
    pub fn mesh(mut self, folder: &Path) -> Self {
        self.mesh = Some(folder.to_owned());
        self
    }

    /// Another identity than a certificate from the lab's CA: the YAML below `identity:`, indented by two.
    #[must_use]
    pub fn identity(mut self, yaml: &str) -> Self {
        self.identity = Some(yaml.to_owned());
        self
    }

    /// Further arguments of `pillion-proxy`, for example `["--detection-timeout", "1s"]`; they win over everything else.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Installs the rules, starts the proxy on `node` and waits until it is ready.
    ///
    /// # Errors
    /// When the rules cannot be installed or the proxy is not ready in time; the error shows the end of its log.
    pub fn start(self, node: &Node, ca: &Ca) -> Result<RunningSidecar, LabError> {
        let running = self.start_unready(node, ca)?;
        running.wait_ready(START)?;
        Ok(running)
    }

    /// The same without waiting, for a proxy that is not going to be ready.
    ///
    /// # Errors
    /// When the rules cannot be installed or the proxy cannot be started.
    pub fn start_unready(self, node: &Node, ca: &Ca) -> Result<RunningSidecar, LabError> {
        let mut running = self.prepare(node, ca)?;
        running.apply_rules()?;
        running.start_again()?;
        Ok(running)
    }

    /// Writes its settings; installs no rules and starts nothing.
    ///
    /// # Errors
    /// When the settings cannot be written, or cannot work here.
    pub(crate) fn prepare(self, node: &Node, ca: &Ca) -> Result<RunningSidecar, LabError> {
        if self.interception == Interception::Tproxy && node.way() == Way::UserNamespace {
            // The mark that keeps the proxy out of capture and the one of its connections to the app would be the same.
            return Err(LabError::Impossible(
                "TPROXY needs a proxy of uid 1337, which is not here".to_owned(),
            ));
        }
        let ports = OwnPorts::of(node)?;
        let folder = node.shared().make_folder(node.name())?;
        let config = folder.join("proxy.yaml");
        fs::write(&config, self.yaml(node, ca, ports)?)
            .map_err(LabError::io(format!("write {}", config.display())))?;
        Ok(RunningSidecar { node: node.clone(), plan: self, config, ports, process: None })
    }

    fn yaml(&self, node: &Node, ca: &Ca, ports: OwnPorts) -> Result<String, LabError> {
        let (namespace, account) =
            self.service_account.split_once('/').unwrap_or(("default", &self.service_account));
        let mesh = self.mesh.clone().unwrap_or_else(|| node.shared().path("mesh"));
        let identity = self.identity.clone().unwrap_or_else(|| {
            format!(
                "  ca:\n    address: {}\n    tokenFile: {}\n    bundleFile: {}\n",
                ca.url(),
                ca.token(&self.service_account).display(),
                ca.bundle().display()
            )
        });
        let mut yaml = format!(
            "# {id}
workload:
  trustDomain: {TRUST_DOMAIN}
  namespace: {namespace}
  serviceAccount: {account}
  labels: {labels}
identity:
{identity}mesh: {mesh}
admin: {{address: '{admin}'}}
readiness: {{address: '{readiness}'}}
metrics: {{address: '{metrics}'}}
log: {{format: json}}
",
            id = spiffe_id(&self.service_account)?,
            labels = flow(&self.labels),
            mesh = mesh.display(),
            admin = ports.admin,
            readiness = ports.readiness,
            metrics = ports.metrics,
        );
        yaml.push_str(&self.interception_yaml(node));
        yaml.push_str(&self.listeners_yaml());
        Ok(yaml)
    }

    fn interception_yaml(&self, node: &Node) -> String {
        let mode = if self.interception == Interception::Tproxy { "TPROXY" } else { "REDIRECT" };
        match (self.interception, node.way()) {
            (Interception::None, _) => String::new(),
            (_, Way::UserNamespace) => format!("interception: {{mode: {mode}, mark: {PROXY_MARK}}}\n"),
            (_, _) => format!("interception: {{mode: {mode}}}\n"),
        }
    }

    // Writing to a String cannot fail.
    fn listeners_yaml(&self) -> String {
        let capture = self.interception != Interception::None;
        let mut yaml = String::new();
        if capture || !self.inbound.is_empty() {
            yaml.push_str("inbound:\n");
            yaml.push_str(if capture { "  capture: 0.0.0.0:15006\n" } else { "" });
            yaml.push_str(if self.inbound.is_empty() { "" } else { "  listeners:\n" });
        }
        for (address, forward) in &self.inbound {
            let _ = writeln!(yaml, "  - {{address: '{address}', forward: '{forward}'}}");
        }
        if capture || !self.outbound.is_empty() {
            yaml.push_str("outbound:\n");
            yaml.push_str(if capture { "  capture: 127.0.0.1:15001\n" } else { "" });
            yaml.push_str(if self.outbound.is_empty() { "" } else { "  listeners:\n" });
        }
        for (address, destination) in &self.outbound {
            let _ = writeln!(yaml, "  - {{address: '{address}', destination: '{destination}'}}");
        }
        if !self.gateway.is_empty() {
            let _ = writeln!(yaml, "gateway: {{address: 0.0.0.0, ports: {}}}", flow(&self.gateway));
        }
        yaml
    }
}

/// A mapping on one line.
fn flow<K: fmt::Display, V: fmt::Display>(entries: &BTreeMap<K, V>) -> String {
    let entries: Vec<String> = entries.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    format!("{{{}}}", entries.join(", "))
}

/// Where the proxy's own servers listen.
#[derive(Debug, Clone, Copy)]
struct OwnPorts {
    admin: SocketAddr,
    readiness: SocketAddr,
    metrics: SocketAddr,
}

impl OwnPorts {
    /// Istio's in a namespace, free ones without.
    fn of(node: &Node) -> Result<Self, LabError> {
        let localhost = IpAddr::from([127, 0, 0, 1]);
        if node.way() == Way::Loopback {
            let free = || free_port().map(|port| SocketAddr::new(localhost, port));
            return Ok(Self { admin: free()?, readiness: free()?, metrics: free()? });
        }
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        Ok(Self {
            admin: SocketAddr::new(localhost, 15000),
            readiness: SocketAddr::new(everywhere, 15021),
            metrics: SocketAddr::new(everywhere, 15090),
        })
    }
}

/// A sidecar's rules and its proxy, which is killed when this is dropped; the rules go with the node.
#[derive(Debug)]
pub struct RunningSidecar {
    node: Node,
    plan: Sidecar,
    config: PathBuf,
    ports: OwnPorts,
    process: Option<Process>,
}

impl RunningSidecar {
    /// Installs the interception rules (again), unless the sidecar has explicit listeners only.
    ///
    /// # Errors
    /// With the output of `pillion-iptables apply`.
    pub fn apply_rules(&self) -> Result<(), LabError> {
        let Some(args) = self.rule_args() else { return Ok(()) };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(self.node.pillion(&args)).map(drop)
    }

    /// The arguments by which `pillion` installs the rules; none where there are none.
    pub(crate) fn rule_args(&self) -> Option<Vec<String>> {
        let mode = match self.plan.interception {
            Interception::None => return None,
            Interception::Redirect => "REDIRECT",
            Interception::Tproxy => "TPROXY",
        };
        let (user, mark) = (PROXY_USER.to_string(), PROXY_MARK.to_string());
        let mut args = vec!["iptables", "apply", "-m", mode];
        match self.node.way() {
            Way::UserNamespace => args.extend(["-u", "", "-g", "", "--proxy-mark", &mark]),
            Way::Root | Way::Loopback => args.extend(["-u", &user, "-g", &user]),
        }
        args.extend(self.plan.rule_args.iter().map(String::as_str));
        Some(args.into_iter().map(str::to_owned).collect())
    }

    /// The arguments by which `pillion` is this sidecar.
    pub(crate) fn proxy_args(&self) -> Vec<String> {
        let config = self.config.display().to_string();
        ["proxy".to_owned(), "--config".to_owned(), config]
            .into_iter()
            .chain(self.plan.args.iter().cloned())
            .collect()
    }

    /// What its command begins with, so that it runs as the proxies' user.
    pub(crate) fn as_proxy(&self) -> Vec<String> {
        self.node.as_proxy(self.needs_network_admin())
    }

    fn needs_network_admin(&self) -> bool {
        self.plan.interception == Interception::Tproxy
    }

    /// Removes the interception rules.
    ///
    /// # Errors
    /// With the output of `pillion-iptables clean`.
    pub fn clean_rules(&self) -> Result<(), LabError> {
        run(self.node.pillion(&["iptables", "clean"])).map(drop)
    }

    /// Starts the proxy (again) with the same configuration, without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> Result<(), LabError> {
        let args = self.proxy_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let command = self.node.command_as_proxy(&args, self.needs_network_admin());
        self.process = Some(self.node.start_command("proxy", command)?);
        Ok(())
    }

    /// Waits until the proxy says that it is ready.
    ///
    /// # Errors
    /// When it is not in time, or ends.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), LabError> {
        let url = format!("http://127.0.0.1:{}/healthz/ready", self.ports.readiness.port());
        let what = format!("the sidecar of {} to be ready", self.node.name());
        self.running()?.wait_for(timeout, &what, |_| {
            self.node.get(&url).is_ok_and(|answer| answer.is_success()).then_some(())
        })
    }

    fn running(&self) -> Result<&Process, LabError> {
        let stopped = || LabError::Impossible(format!("the sidecar of {} is stopped", self.node.name()));
        self.process.as_ref().ok_or_else(stopped)
    }

    /// SIGTERM, and SIGKILL where draining does not end in time.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop(STOP);
        }
    }

    /// SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The process, unless it was stopped or killed.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The node that it stands in.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its configuration file; what is changed there holds from the next start.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where its admin API listens, inside the node.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.ports.admin
    }

    /// Its SPIFFE ID.
    ///
    /// # Errors
    /// When the service account cannot be part of one.
    pub fn spiffe_id(&self) -> Result<String, LabError> {
        spiffe_id(&self.plan.service_account).map(|id| id.to_string())
    }

    /// `GET path` of its admin API.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn admin(&self, path: &str) -> Result<Answer, LabError> {
        let url = format!("http://{}{path}", self.ports.admin);
        self.node.get(&url).map_err(LabError::io(format!("GET {url} in {}", self.node.name())))
    }

    /// `GET path` of its admin API as JSON.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn admin_json(&self, path: &str) -> Result<Value, LabError> {
        let answer = self.admin(path)?;
        serde_json::from_str(&answer.body)
            .map_err(|error| LabError::Impossible(format!("{path} is not JSON: {error}: {}", answer.body)))
    }

    /// Its metrics in the text format.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String, LabError> {
        Ok(self.admin("/stats/prometheus")?.body)
    }

    /// Waits until the page `path` of its admin API is as `condition` wants it. `what` completes "waited in vain for …".
    ///
    /// # Errors
    /// When it is not in time; the error shows the page.
    pub fn wait_for_page(
        &self,
        timeout: Duration,
        path: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<(), LabError> {
        let page = || self.admin_json(path);
        let process = self.running()?;
        let waited = wait_until(timeout, what, || {
            process.check_running()?;
            Ok(page().is_ok_and(|page| condition(&page)).then_some(()))
        });
        waited.map_err(|error| {
            error.having_seen(|| page().map_or_else(|error| error.to_string(), |page| page.to_string()))
        })
    }

    /// Waits until it accepts on `port` what `mode` says: the policy that was just written is in force then.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_mode(&self, timeout: Duration, port: u16, mode: &str) -> Result<(), LabError> {
        let what = format!("{mode} on port {port} of {}", self.node.name());
        self.wait_for_page(timeout, "/listeners", &what, |page| {
            let ports = page.get("ports").and_then(Value::as_array);
            let named = ports.and_then(|ports| ports.iter().find(|entry| entry["port"] == port));
            named.unwrap_or(&page["otherPorts"])["mode"] == mode
        })
    }

    /// Waits until it knows that all endpoints of `host` accept what `mode` says.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_endpoint_mode(&self, timeout: Duration, host: &str, mode: &str) -> Result<(), LabError> {
        let what = format!("{mode} for {host} in the registry of {}", self.node.name());
        self.wait_for_page(timeout, "/endpoints", &what, |page| {
            let endpoints = page.get("endpoints").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let mut modes =
                endpoints.iter().filter(|entry| entry["host"] == host).map(|entry| &entry["mode"]).peekable();
            modes.peek().is_some() && modes.all(|seen| seen == mode)
        })
    }

    /// All connections that have ended, oldest first, from the access log.
    #[must_use]
    pub fn access_log(&self) -> Vec<ConnectionRecord> {
        let output = self.process.as_ref().map(Process::output).unwrap_or_default();
        output.lines().filter_map(read_record).collect()
    }

    /// All requests that are over, oldest first: each record with its line for people.
    #[must_use]
    pub fn request_log(&self) -> Vec<(RequestRecord, String)> {
        let output = self.process.as_ref().map(Process::output).unwrap_or_default();
        output.lines().filter_map(|line| Some((read_record(line)?, read_message(line)?))).collect()
    }

    /// Waits for the newest ended connection that `matches`.
    ///
    /// # Errors
    /// When there is none in time; the error shows the end of the log.
    pub fn wait_for_record(
        &self,
        timeout: Duration,
        matches: impl Fn(&ConnectionRecord) -> bool,
    ) -> Result<ConnectionRecord, LabError> {
        let what = format!("a matching line in the access log of {}", self.node.name());
        self.running()?
            .wait_for(timeout, &what, |_| self.access_log().into_iter().rev().find(|record| matches(record)))
    }
}

/// The record that a line of the JSON log holds, of a connection or of a request.
fn read_record<R: DeserializeOwned>(line: &str) -> Option<R> {
    let mut line: Value = serde_json::from_str(line).ok()?;
    serde_json::from_value(line.get_mut("record")?.take()).ok()
}

fn read_message(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get("message")?.as_str().map(str::to_owned)
}
