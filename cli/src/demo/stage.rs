//! The mesh of the demo: three hosts, two sidecars, a CA, and ears on both legs of the way from frontend to backend.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::certificates::Hurry;
use super::relay::Relay;
use crate::lab::{Ca, Lab, LabError, Mesh, Node, Process, RunningSidecar, Service, Sidecar, Way, free_port};
use crate::wiretap::{Segment, Tap};

/// How long an app may take to listen.
const START: Duration = Duration::from_secs(5);

/// The port of both apps, in namespaces.
const PORT: u16 = 8080;

/// Where the page of the frontend is published when the mesh is kept, if the port is free.
const PAGE: &str = "127.0.0.1:8080";

/// A policy in the lab's folder, for a person to copy into the mesh folder.
const STRICT: &str = "strict.yaml";

/// Everything that runs. The order of the fields is the order in which they are taken down.
pub(super) struct Stage {
    ears: Ears,
    _apps: [Process; 2],
    pub(super) frontend: RunningSidecar,
    pub(super) backend: RunningSidecar,
    legacy: Node,
    pub(super) ca: Ca,
    pub(super) lab: Lab,
    /// The frontend app, as it is called from inside its node.
    page: SocketAddr,
    /// What the frontend app is told to call.
    backend_url: String,
    /// Where clients without a sidecar reach the backend.
    backend_address: SocketAddr,
    /// The port of the backend that policies speak of.
    policy_port: u16,
    /// What the backend says, and what is looked for in all traffic.
    pub(super) marker: String,
}

/// Listens in on the way from the frontend's sidecar to the backend's and from there to the app.
enum Ears {
    /// Packet sockets on the switch and in the backend's namespace.
    Taps { wire: Tap, app: Tap },
    /// Without namespaces and privileges the two legs lead through relays of ours.
    Relays { wire: Relay, app: Relay },
}

/// What came of one call.
#[derive(Debug)]
pub(super) struct Call {
    /// For a person: `200`, `ECONNRESET`, …
    pub(super) outcome: String,
    /// What went wrong, if anything did.
    pub(super) failure: Option<String>,
}

/// Asks the frontend app to call the backend.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    node: Node,
    url: String,
}

impl Stage {
    /// `hurry`: the time that its certificates live in, where it is not the world's.
    pub(super) fn build(way: Way, executable: &Path, hurry: Option<&Hurry>) -> Result<Self, LabError> {
        let lab = Lab::new(way, executable)?;
        let frontend = lab.node("frontend")?;
        let backend = lab.node("backend")?;
        let legacy = lab.node("legacy")?;
        let ca = lab.ca(&["frontend", "backend"], &hurry.map(Hurry::ca_settings).unwrap_or_default())?;
        let sidecars = ["frontend", "backend"].map(|name| match hurry {
            Some(hurry) => Sidecar::new(name).args(&hurry.proxy_args().each_ref().map(String::as_str)),
            None => Sidecar::new(name),
        });
        let marker = format!("backend-{:08x}", fastrand::u32(..));
        let nodes = [frontend, backend, legacy];
        match way {
            Way::Loopback => Self::on_loopback(lab, ca, nodes, sidecars, marker),
            Way::Root | Way::UserNamespace => Self::in_namespaces(lab, ca, nodes, sidecars, marker),
        }
    }

    /// Transparent: the apps call and listen as if there were no mesh.
    fn in_namespaces(
        lab: Lab,
        ca: Ca,
        [frontend, backend, legacy]: [Node; 3],
        [frontend_sidecar, backend_sidecar]: [Sidecar; 2],
        marker: String,
    ) -> Result<Self, LabError> {
        lab.mesh().service(&Service {
            protocol: "HTTP".to_owned(),
            ..Service::of("backend", PORT, &[backend.v4()])
        })?;
        let backend_url = format!("http://backend:{PORT}");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], PORT));
        let apps = [
            start_backend(&backend, everywhere, &marker)?,
            start_frontend(&frontend, everywhere, &backend_url)?,
        ];
        let ears = Ears::Taps { wire: lab.switch().tap(&[PORT])?, app: backend.tap(&[PORT])? };
        Ok(Self {
            ears,
            _apps: apps,
            page: SocketAddr::from(([127, 0, 0, 1], PORT)),
            backend_url,
            backend_address: SocketAddr::new(backend.v4(), PORT),
            frontend: frontend_sidecar.start(&frontend, &ca)?,
            backend: backend_sidecar.start(&backend, &ca)?,
            legacy,
            ca,
            lab,
            policy_port: PORT,
            marker,
        })
    }

    /// Explicit: the frontend app is told to call its sidecar, and the backend's sidecar listens on a port of its own.
    fn on_loopback(
        lab: Lab,
        ca: Ca,
        [frontend, backend, legacy]: [Node; 3],
        [frontend_sidecar, backend_sidecar]: [Sidecar; 2],
        marker: String,
    ) -> Result<Self, LabError> {
        let port = || free_port().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (app, entry, exit, page) = (port()?, port()?, port()?, port()?);
        let leg = |to: SocketAddr| {
            TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| Relay::start(listener, true, move || TcpStream::connect(to)))
                .map_err(LabError::io("relay"))
        };
        let (wire, app_leg) = (leg(entry)?, leg(app)?);
        lab.mesh().service(&Service {
            protocol: "HTTP".to_owned(),
            target_port: Some(wire.address().port()),
            ..Service::of("backend", PORT, &[backend.v4()])
        })?;
        let backend_url = format!("http://{exit}");
        let apps = [start_backend(&backend, app, &marker)?, start_frontend(&frontend, page, &backend_url)?];
        let destination = format!("backend:{PORT}");
        let frontend_sidecar = frontend_sidecar.without_capture().outbound(exit, &destination);
        let policy_port = app_leg.address().port();
        let backend_sidecar = backend_sidecar.without_capture().inbound(entry, app_leg.address());
        Ok(Self {
            ears: Ears::Relays { wire, app: app_leg },
            _apps: apps,
            page,
            backend_url,
            backend_address: entry,
            frontend: frontend_sidecar.start(&frontend, &ca)?,
            backend: backend_sidecar.start(&backend, &ca)?,
            legacy,
            ca,
            lab,
            policy_port,
            marker,
        })
    }

    /// Of frontend, backend and legacy, as far as they have some of their own.
    pub(super) fn addresses(&self) -> [String; 3] {
        let client =
            if self.lab.way() == Way::Loopback { String::new() } else { self.legacy.v4().to_string() };
        [self.frontend.node().v4().to_string(), self.backend.node().v4().to_string(), client]
    }

    /// What the frontend app calls.
    pub(super) fn backend_url(&self) -> &str {
        &self.backend_url
    }

    /// What the client without a sidecar calls.
    pub(super) fn legacy_url(&self) -> String {
        format!("http://{}/", self.backend_address)
    }

    /// The port that policies speak of.
    pub(super) fn backend_port(&self) -> u16 {
        self.policy_port
    }

    /// By which the frontend app is made to call.
    pub(super) fn caller(&self) -> Caller {
        Caller { node: self.frontend.node().clone(), url: format!("http://{}/api", self.page) }
    }

    /// A call of the client without a sidecar.
    pub(super) fn call_as_legacy(&self) -> Call {
        match self.legacy.get(&self.legacy_url()) {
            Ok(answer) if answer.is_success() => Call { outcome: answer.status.to_string(), failure: None },
            Ok(answer) => Call::failed(answer.status.to_string(), answer.body),
            Err(error) => Call::failed(errno_name(&error), error.to_string()),
        }
    }

    /// What was said so far on the wire between the two sidecars.
    pub(super) fn heard_on_wire(&self) -> Vec<Segment> {
        match &self.ears {
            // The client without a sidecar uses the same wire.
            Ears::Taps { wire, .. } => {
                let frontend = self.frontend.node().v4();
                let mut heard = wire.segments();
                heard.retain(|segment| [segment.from.ip(), segment.to.ip()].contains(&frontend));
                heard
            }
            Ears::Relays { wire, .. } => wire.segments(),
        }
    }

    /// What was said so far between the backend's sidecar and its app.
    pub(super) fn heard_on_app_leg(&self) -> Vec<Segment> {
        match &self.ears {
            Ears::Taps { app, .. } => app.segments().into_iter().filter(Segment::is_app_leg).collect(),
            Ears::Relays { app, .. } => app.segments(),
        }
    }

    /// Forgets what was heard.
    pub(super) fn listen_afresh(&self) {
        match &self.ears {
            Ears::Taps { wire, app } => {
                wire.clear();
                app.clear();
            }
            Ears::Relays { wire, app } => {
                wire.clear();
                app.clear();
            }
        }
    }

    /// Makes the frontend's page reachable from this machine's browser: on 127.0.0.1:8080, or a free port where that is
    /// taken.
    pub(super) fn publish(&self) -> Result<Relay, LabError> {
        let (node, page) = (self.frontend.node().clone(), self.page);
        TcpListener::bind(PAGE)
            .or_else(|_taken| TcpListener::bind("127.0.0.1:0"))
            .and_then(|listener| Relay::start(listener, false, move || node.dial(page)))
            .map_err(LabError::io("publish the frontend's page"))
    }

    /// Puts a policy where a person can copy it from.
    pub(super) fn prepare_policy(&self) -> Result<(), LabError> {
        let path = self.lab.folder().join(STRICT);
        std::fs::write(&path, Mesh::peer_authentication("backend", Some("backend"), "STRICT"))
            .map_err(LabError::io(format!("write {}", path.display())))
    }

    /// What a person can try, and the commands for it.
    pub(super) fn ideas(&self, page: SocketAddr) -> Vec<(&'static str, String)> {
        let policy = self.lab.mesh().folder().join(super::story::POLICY).display().to_string();
        let strict = self.lab.folder().join(STRICT).display().to_string();
        let inside = self.lab.enter_script().display().to_string();
        let within = |node: &str, command: String| match self.lab.way() {
            Way::Loopback => command,
            Way::Root | Way::UserNamespace => format!("{inside} {node} {command}"),
        };
        let admin =
            |sidecar: &RunningSidecar, path| format!("curl -s http://{}{path}", sidecar.admin_address());
        let mut ideas = vec![
            ("the frontend's page, in a browser", format!("http://{page}/")),
            (
                "call the backend without a sidecar",
                within("legacy", format!("curl -sS {}", self.legacy_url())),
            ),
            (
                "refuse who has none; watch the call above fail, the page go on",
                format!("cat {strict}\ncp {strict} {policy}"),
            ),
            ("accept everybody again", format!("rm {policy}")),
            ("what the backend's sidecar knows", within("backend", admin(&self.backend, "/config_dump"))),
            ("who is connected to it", within("backend", admin(&self.backend, "/connections"))),
            ("who calls it, and why somebody was refused", format!("tail -f {}", self.log_of(&self.backend))),
        ];
        if self.lab.way() != Way::Loopback {
            ideas.push(("listen in on the wire", within("switch", format!("pillion tap --port {PORT}"))));
            ideas.push(("the interception rules", within("backend", "pillion iptables show".to_owned())));
        }
        ideas
    }

    fn log_of(&self, sidecar: &RunningSidecar) -> String {
        sidecar.process().map(|process| process.log().display().to_string()).unwrap_or_default()
    }
}

impl Caller {
    /// One call; the app makes a new connection for it.
    pub(super) fn call(&self) -> Call {
        let answer = match self.node.get(&self.url) {
            Ok(answer) => answer,
            Err(error) => return Call::failed(errno_name(&error), format!("the frontend app: {error}")),
        };
        let report: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let text = |name: &str| report.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        if report.get("ok").and_then(Value::as_bool) != Some(true) {
            let error = text("error").unwrap_or(answer.body);
            return Call::failed(text("errno").unwrap_or_else(|| "failed".to_owned()), error);
        }
        let status = report.get("status").map(ToString::to_string).unwrap_or_default();
        Call { outcome: status, failure: None }
    }
}

impl Call {
    fn failed(outcome: String, failure: String) -> Self {
        Self { outcome, failure: Some(failure) }
    }
}

/// As strace shows it, for the errors that a client of a mesh meets.
fn errno_name(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionReset => "ECONNRESET".to_owned(),
        ErrorKind::ConnectionRefused => "ECONNREFUSED".to_owned(),
        ErrorKind::TimedOut => "no answer in time".to_owned(),
        ErrorKind::UnexpectedEof => "a clean end without an answer".to_owned(),
        _ => error.to_string(),
    }
}

fn start_backend(node: &Node, listen: SocketAddr, name: &str) -> Result<Process, LabError> {
    start_app(node, &["example", "backend", "--listen", &listen.to_string(), "--name", name])
}

fn start_frontend(node: &Node, listen: SocketAddr, backend: &str) -> Result<Process, LabError> {
    start_app(node, &["example", "frontend", "--listen", &listen.to_string(), "--backend", backend])
}

fn start_app(node: &Node, args: &[&str]) -> Result<Process, LabError> {
    let app = node.start_pillion("app", args)?;
    app.wait_for_line(START, "listening on")?;
    Ok(app)
}
