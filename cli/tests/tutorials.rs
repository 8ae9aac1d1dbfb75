//! The policies that people meet in tutorials of Istio, put into the mesh folder as they stand: what each then means for
//! every port of twelve workloads, seen by a client with a sidecar and by a stranger. The files are those of mesh/tests/loads.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use pillion_cli::lab::{Ca, Lab, Node, Process, RunningSidecar, Sidecar, wait_until};
use pillion_mesh::policy::mode::Mode;

use common::http::ask;
use common::{CLIENT_ID, ECONNRESET, SOON};

/// The workloads as namespace/app; the app listens on both ports.
const WORKLOADS: [&str; 12] = [
    "your-namespace/your-service",
    "your-namespace/other",
    "foo/example-app",
    "foo/example",
    "foo/httpbin",
    "bar/httpbin",
    "legacy-services/any",
    "ecommerce/payment-service",
    "default/legacy-service",
    "production/payment-service",
    "legacy/any",
    "my-namespace/customers",
];
const PORTS: [u16; 2] = [8080, 9090];

/// The files that are in force, and what they make of the ports that they change; every other port is as the first word
/// says. A later line replaces what an earlier one had put there, as `kubectl apply` does.
const TABLE: &str = "
files                             | others     | those that differ
                                  | PERMISSIVE |
namespace_strict                  | PERMISSIVE | your-namespace/*=STRICT
workload_strict                   | PERMISSIVE | your-namespace/your-service=STRICT
service_disable                   | PERMISSIVE | your-namespace/your-service=DISABLE
namespace_strict service_disable  | PERMISSIVE | your-namespace/*=STRICT your-namespace/your-service=DISABLE
port_disable                      | PERMISSIVE | foo/example-app=STRICT foo/example-app:8080=DISABLE
mesh_strict                       | STRICT     |
namespace_foo                     | PERMISSIVE | foo/*=STRICT
workload_example                  | PERMISSIVE | foo/example=STRICT
port_example                      | PERMISSIVE | foo/example=STRICT foo/example:8080=DISABLE
mesh_strict namespace_permissive  | STRICT     | legacy-services/*=PERMISSIVE
port_permissive                   | PERMISSIVE | ecommerce/payment-service=STRICT ecommerce/payment-service:8080=PERMISSIVE
mesh_strict workload_disable      | STRICT     | default/legacy-service=DISABLE
mesh_permissive                   | PERMISSIVE |
mesh_permissive namespace_strict  | PERMISSIVE | your-namespace/*=STRICT
mesh_strict namespace_strict      | STRICT     |
mesh_strict migration             | STRICT     | legacy/*=PERMISSIVE
port_metrics                      | PERMISSIVE | production/payment-service=STRICT production/payment-service:9090=PERMISSIVE
mesh_strict port_metrics          | STRICT     | production/payment-service:9090=PERMISSIVE
workload_customers                | PERMISSIVE | my-namespace/customers=STRICT
two_namespaces                    | PERMISSIVE | foo/*=STRICT bar/*=STRICT
two_namespaces workload_permissive| PERMISSIVE | foo/*=STRICT bar/*=STRICT foo/httpbin=PERMISSIVE
";

#[test]
fn each_policy_means_for_each_port_what_its_tutorial_says() {
    let Some(world) = World::start() else { return };
    for row in TABLE.trim().lines().skip(1) {
        let [files, others, differing] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}");
        };
        if !files.is_empty() {
            world.apply(files);
        }
        world.assert_is(files, &expected(others, differing));
    }
}

/// A rule of mode ISTIO_MUTUAL asks for mutual TLS where nothing else would: nobody said that the endpoint has a sidecar.
#[test]
fn istio_mutual_makes_calls_pass_that_strict_had_reset() {
    let Some(lab) = common::lab() else { return };
    let [client, server] = ["client", "server"].map(|name| lab.node(name).unwrap());
    let ca = lab.ca(&["bar/client", "foo/httpbin"], "").unwrap();
    lab.mesh().write("services.yaml", &service("foo", "httpbin", server.v4(), false)).unwrap();
    lab.mesh().write("strict.yaml", &read("two_namespaces")).unwrap();
    let _app = start_app(&server, 8080);
    let _server = Sidecar::new("foo/httpbin").start(&server, &ca).unwrap();
    let sidecar = Sidecar::new("bar/client").start(&client, &ca).unwrap();
    let address = SocketAddr::new(server.v4(), 8080);

    assert_eq!(ask(&client, address, "GET", "/").unwrap_err().raw_os_error(), Some(ECONNRESET));
    lab.mesh().write("rules.yaml", &read("istio_mutual")).unwrap();
    wait_until(SOON, "an answer", || Ok(ask(&client, address, "GET", "/").ok())).unwrap();
    let record = sidecar.wait_for_record(SOON, |record| record.tls.is_some()).unwrap();
    assert!(record.plan.as_ref().unwrap().contains("foo/httpbin-foo"), "{record:?}");
}

/// The rule says what holds without it, and wins over what would be done otherwise.
#[test]
fn disable_leaves_calls_to_the_outside_as_the_app_makes_them() {
    let Some(lab) = common::lab() else { return };
    let [client, outside] = ["client", "outside"].map(|name| lab.node(name).unwrap());
    let ca = lab.ca(&["client"], "").unwrap();
    let entry = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: external-service}}
spec:
  hosts: [external-service.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 8080, name: http, protocol: HTTP}}]
  endpoints: [{{address: '{}'}}]
",
        outside.v4()
    );
    lab.mesh().write("external.yaml", &entry).unwrap();
    lab.mesh().write("rule.yaml", &read("external_disable")).unwrap();
    let _app = start_app(&outside, 8080);
    let sidecar = Sidecar::new("client").start(&client, &ca).unwrap();

    let answer = ask(&client, SocketAddr::new(outside.v4(), 8080), "GET", "/").unwrap();
    assert_eq!(answer.status, 200);
    let record = sidecar.wait_for_record(SOON, |record| record.service.is_some()).unwrap();
    assert!(record.tls.is_none(), "{record:?}");
    assert!(record.plan.as_ref().unwrap().contains("default/external-service"), "{record:?}");
}

/// What a port turns out to be, by workload and port.
type Seen = BTreeMap<(&'static str, u16), Result<Mode, String>>;

/// The workloads with their sidecars, a client with one, and a stranger.
struct World {
    workloads: Vec<(&'static str, RunningSidecar, [Process; 2])>,
    client: Node,
    stranger: Node,
    sidecar_of_client: RunningSidecar,
    lab: Lab,
    _ca: Ca,
}

impl World {
    fn start() -> Option<Self> {
        let lab = common::lab()?;
        let accounts = [&WORKLOADS[..], &["client"]].concat();
        let ca = lab.ca(&accounts, "").unwrap();
        let nodes = WORKLOADS.map(|workload| lab.node(&workload.replace('/', "-")).unwrap());
        let services = WORKLOADS.iter().zip(&nodes).map(|(workload, node)| {
            let (namespace, app) = workload.split_once('/').unwrap();
            service(namespace, app, node.v4(), true)
        });
        lab.mesh().write("services.yaml", &services.collect::<String>()).unwrap();
        let start = |(workload, node): (&'static str, &Node)| {
            let apps = PORTS.map(|port| start_app(node, port));
            (workload, Sidecar::new(workload).start(node, &ca).unwrap(), apps)
        };
        let workloads = WORKLOADS.into_iter().zip(&nodes).map(start).collect();
        let [client, stranger] = ["client", "stranger"].map(|name| lab.node(name).unwrap());
        let sidecar = Sidecar::new("client").start(&client, &ca).unwrap();
        Some(Self { workloads, client, stranger, sidecar_of_client: sidecar, lab, _ca: ca })
    }

    /// Puts these files into the mesh folder, and no other policies.
    fn apply(&self, files: &str) {
        let policies = files.split_whitespace().map(read).collect::<Vec<_>>().join("\n---\n");
        let sidecars =
            || self.workloads.iter().map(|(_, sidecar, _)| sidecar).chain([&self.sidecar_of_client]);
        let changes: Vec<usize> = sidecars().map(changes).collect();
        self.lab.mesh().write("policies.yaml", &policies).unwrap();
        for (sidecar, before) in sidecars().zip(changes) {
            let what = format!("{files} to be in force at {}", sidecar.node().name());
            wait_until(SOON, &what, || Ok((self::changes(sidecar) > before).then_some(()))).unwrap();
        }
    }

    fn assert_is(&self, files: &str, expected: &Seen) {
        let seen = self.seen();
        let differing = seen.iter().filter(|(cell, mode)| **mode != expected[*cell]);
        let differing: Vec<_> = differing.map(|(cell, mode)| format!("{cell:?}: {mode:?}")).collect();
        assert!(differing.is_empty(), "{files}: {differing:#?}");
    }

    fn seen(&self) -> Seen {
        let ports = self.workloads.iter().flat_map(|(workload, sidecar, _)| {
            PORTS.map(move |port| ((*workload, port), self.mode_by_its_effects(sidecar.node(), port)))
        });
        ports.collect()
    }

    /// STRICT resets strangers; under DISABLE even the client's sidecar sends plaintext, and so nobody tells the app who asks.
    fn mode_by_its_effects(&self, workload: &Node, port: u16) -> Result<Mode, String> {
        let address = SocketAddr::new(workload.v4(), port);
        let answer = ask(&self.client, address, "GET", "/").map_err(|error| format!("client: {error}"))?;
        assert_eq!(answer.status, 200);
        let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let is_mutual = told["forwardedClientCert"].as_str().is_some_and(|told| told.contains(CLIENT_ID));
        let is_open = match ask(&self.stranger, address, "GET", "/") {
            Ok(answer) => answer.status == 200,
            Err(error) if error.raw_os_error() == Some(ECONNRESET) => false,
            Err(error) => return Err(format!("stranger: {error}")),
        };
        match (is_mutual, is_open) {
            (true, true) => Ok(Mode::Permissive),
            (true, false) => Ok(Mode::Strict),
            (false, true) => Ok(Mode::Disable),
            (false, false) => Err("the client is served in plaintext, and the stranger is not".to_owned()),
        }
    }
}

/// How often the sidecar has said that other resources are in force.
fn changes(sidecar: &RunningSidecar) -> usize {
    let log = sidecar.process().unwrap().output();
    log.matches("mesh resources changed and are in force").count()
}

/// A row of the table, cell by cell. Later words go over earlier ones.
fn expected(others: &str, differing: &str) -> Seen {
    let mut cells: Seen = Seen::new();
    let words = [format!("*={others}")].into_iter().chain(differing.split_whitespace().map(str::to_owned));
    for word in words {
        let (whose, mode) = word.split_once('=').unwrap();
        let mode: Mode = serde_json::from_value(mode.into()).unwrap();
        let (whose, only) =
            whose.split_once(':').map_or((whose, None), |(whose, port)| (whose, port.parse::<u16>().ok()));
        let of = WORKLOADS.into_iter().filter(|workload| match whose.strip_suffix('*') {
            Some(beginning) => workload.starts_with(beginning),
            None => *workload == whose,
        });
        for workload in of {
            for port in PORTS.into_iter().filter(|port| only.is_none_or(|only| only == *port)) {
                cells.insert((workload, port), Ok(mode));
            }
        }
    }
    cells
}

fn read(name: &str) -> String {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mesh/tests/loads").join(name).with_extension("yaml");
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn service(namespace: &str, app: &str, address: IpAddr, has_sidecar: bool) -> String {
    let sidecar = if has_sidecar { ", security.istio.io/tlsMode: istio" } else { "" };
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {app}, namespace: {namespace}}}
spec:
  hosts: [{app}.{namespace}.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 8080, name: http, protocol: HTTP}}
  - {{number: 9090, name: http-metrics, protocol: HTTP}}
  endpoints:
  - {{address: '{address}', serviceAccount: {app}, labels: {{app: {app}{sidecar}}}}}
"
    )
}

fn start_app(node: &Node, port: u16) -> Process {
    let listen = format!("0.0.0.0:{port}");
    let app = node.start_pillion("app", &["example", "backend", "--listen", &listen]).unwrap();
    app.wait_for_line(SOON, "listening on").unwrap();
    app
}
