//! Every page on a real listener on loopback, asked as curl would ask.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pillion_mesh::ask::{AccessTable, Answer};
use pillion_mesh::describe::{Description, describe};
use pillion_mesh::edges::{Edges, Secured};
use pillion_mesh::explain::Story;
use pillion_mesh::policy::Snapshot;
use pillion_mesh::policy::mode::Outcome;
use pillion_mesh::proxy_config::{Connections, Endpoints, Filter, Listeners, Secrets};
use pillion_mesh::reason::Reason;
use pillion_mesh::resource::Resources;
use pillion_mesh::top::Traffic;
use pillion_mesh::wire::{ConnectionRecord, Direction, Problem, UNKNOWN};
use pillion_testkit::TestCa;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::connections::Connection;
use crate::live::Publisher;
use crate::net::moved::Side;
use crate::net::relay::End;
use crate::settings::RawSettings;
use crate::tls::origination::Originator;
use crate::tls::{Bundles, Clock, Credentials, TlsSettings};
use crate::{drain, identity};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const RESOURCES: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: backend}
spec:
  selector: {matchLabels: {app: backend}}
  mtls: {mode: STRICT}
  portLevelMtls: {9090: {mode: DISABLE}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: loser}
spec:
  selector: {matchLabels: {app: backend}}
  mtls: {mode: PERMISSIVE}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: customers}
spec:
  hosts: [customers]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 3000}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 10.0.0.9, serviceAccount: customers, labels: {security.istio.io/tlsMode: istio}}
  - {address: 10.0.0.10}
";

const ID: &str = "spiffe://cluster.local/ns/default/sa/backend";

/// A proxy's state without a proxy, and its three servers.
pub(crate) struct Lab {
    pub(crate) state: Arc<AdminState>,
    publisher: Publisher,
    stop: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    _folder: TempDir,
    _filter: Box<dyn std::any::Any>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Lab {
    /// With a certificate.
    pub(crate) async fn ready() -> Self {
        let lab = Self::new(true).await;
        let mut credentials = lab.state.identity.credentials.clone();
        timeout(PATIENCE, credentials.wait_for(Option::is_some)).await.unwrap().unwrap();
        lab
    }

    async fn new(with_certificate: bool) -> Self {
        Self::of(with_certificate, "").await
    }

    async fn with_settings(more: &str) -> Self {
        Self::of(true, more).await
    }

    async fn of(with_certificate: bool, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if with_certificate {
            let ca = TestCa::root("root of the lab");
            let _paths = ca.issue(ID).write(folder.path(), &ca.bundle_pem());
        }
        let settings = settings(&folder, more);
        let stop = CancellationToken::new();
        let identity = identity::spawn(
            identity::Own::from(ID.parse::<pillion_mesh::spiffe::SpiffeId>().unwrap()),
            settings.identity.clone(),
            settings.crl.clone(),
            settings.tls,
            Clock::system(),
            None,
            stop.clone(),
        );
        let mut resources = Resources::default();
        resources.read("mesh.yaml", RESOURCES).unwrap();
        let snapshot = Snapshot::build(&resources, &settings.workload, &settings.mesh_config);
        let (publisher, snapshot) = Publisher::new(snapshot, SystemTime::now());
        let (filter, log_level) = LogLevel::new("info").unwrap();
        let [admin, readiness, metrics] = [listen().await, listen().await, listen().await];
        let state = Arc::new(AdminState {
            snapshot,
            clock: Clock::system(),
            identity: Arc::new(identity),
            originator: Arc::new(Originator::new(settings.tls, Clock::system())),
            connections: Arc::default(),
            telemetry: Arc::new(Telemetry::new(&settings.workload)),
            drain: drain::Trigger::default(),
            log_level,
            gateway: Arc::default(),
            bound: Arc::new(BoundAddresses {
                admin: admin.local_addr().unwrap(),
                readiness: readiness.local_addr().unwrap(),
                metrics: metrics.local_addr().unwrap(),
                inbound: vec![("0.0.0.0:15006".parse().unwrap(), "capture".to_owned())],
                outbound: vec![("127.0.0.1:9001".parse().unwrap(), "to customers:80".to_owned())],
            }),
            settings: Arc::new(settings),
        });
        let servers = vec![
            tokio::spawn(serve(admin, state.clone(), stop.clone())),
            tokio::spawn(serve_readiness(readiness, state.clone(), stop.clone())),
            tokio::spawn(serve_metrics(metrics, state.clone(), stop.clone())),
        ];
        Self { state, publisher, stop, servers, _folder: folder, _filter: Box::new(filter) }
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.state.bound.admin
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path).await
    }

    async fn ask(&self, method: &str, path: &str) -> Reply {
        ask(self.admin(), method, path, "").await
    }

    /// Enters an open inbound connection.
    fn connection(&self) -> Connection {
        let state = &self.state;
        let client = "10.0.0.7:4312".parse().unwrap();
        let mut connection =
            Connection::begin(&state.connections, &state.telemetry, Direction::Inbound, client);
        connection.note(|record| record.original_destination = Some("10.0.0.8:7777".parse().unwrap()));
        connection.opened();
        connection
    }

    /// Enters an inbound connection and refuses it.
    pub(crate) fn refused(&self) {
        let state = &self.state;
        let client = "10.0.0.9:999".parse().unwrap();
        let connection = Connection::begin(&state.connections, &state.telemetry, Direction::Inbound, client);
        connection.end(End { reason: Reason::StrictPlaintext, detail: Some("port 80 is STRICT".to_owned()) });
    }

    /// Enters a request on `connection` that is denied.
    fn denied_request(&self, connection: u64) {
        let record = json!({
            "connection": connection, "direction": "inbound", "received": "2026-11-20T12:00:00Z", "client": "10.0.0.7:4312",
            "destination": "10.0.0.8:7777", "protocol": "HTTP/1.1", "isGrpc": false, "method": "GET", "path": "/admin",
            "bytesToServer": 0, "bytesToClient": 0, "durationMicros": 1, "reason": "authorization_denied",
        });
        self.state.connections.request_ended(serde_json::from_value(record).unwrap());
    }
}

fn settings(folder: &TempDir, more: &str) -> Settings {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let yaml = format!(
        "workload: {{serviceAccount: backend, labels: {{app: backend}}}}\n\
         identity: {{files: {{certificate: {}, key: {}, bundle: {}}}}}\n\
         inbound: {{capture: 0.0.0.0:15006, listeners: [{{address: 0.0.0.0:8443, forward: 127.0.0.1:8080}}]}}\n{more}\n",
        path("svid.pem"),
        path("svid.key"),
        path("bundle.pem"),
    );
    Settings::try_from(pillion_mesh::yaml::read::<RawSettings>("proxy.yaml", &yaml).unwrap()).unwrap()
}

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn problem(&self) -> Problem {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Reply {
    let host =
        if headers.to_lowercase().contains("host:") { String::new() } else { format!("Host: {address}\r\n") };
    send(address, &format!("{method} {path} HTTP/1.1\r\n{host}{headers}\r\n")).await
}

/// Sends a request and reads to the end, which the server makes.
async fn send(address: SocketAddr, request: &str) -> Reply {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that does not read to the end closes by reset; what it said before counts.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_lowercase(), body: body.to_owned() }
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

#[tokio::test]
async fn the_index_lists_every_page_and_every_page_answers() {
    let lab = Lab::ready().await;
    lab.refused(); // so that there is something to explain
    let index = lab.get("/").await.json();
    let pages = index["pages"].as_array().unwrap();
    assert_eq!(pages.len(), 21);
    for page in pages.iter().filter(|page| page["method"] == "GET") {
        let path = page["path"].as_str().unwrap();
        // Events go on for ever.
        if path != "/events" {
            assert_eq!(lab.get(path).await.status, 200, "{path}");
        }
        assert_eq!(lab.ask("HEAD", path).await.status, 200, "HEAD {path}");
        let wrong = lab.ask("POST", path).await;
        assert_eq!((wrong.status, wrong.problem().status), (405, 405), "POST {path}");
        assert!(wrong.head.contains("allow: get, head"), "{}", wrong.head);
    }
}

#[rstest]
#[case("/logging")]
#[case("/capture")]
#[case("/drain")]
#[case("/quitquitquit")]
#[tokio::test]
async fn a_get_on_a_button_is_405_and_presses_nothing(#[case] path: &str) {
    let lab = Lab::ready().await;
    let reply = lab.get(path).await;
    assert_eq!((reply.status, reply.problem().status), (405, 405));
    assert!(reply.head.contains("allow: post"), "{}", reply.head);
    assert!(!lab.state.drain.is_draining());
}

#[tokio::test]
async fn a_page_that_is_none_is_404_and_says_which_there_are() {
    let lab = Lab::ready().await;
    let reply = lab.get("/cert").await;
    assert_eq!(reply.status, 404);
    assert!(reply.problem().detail.unwrap().contains("/certs"));
    assert_eq!(ask(lab.state.bound.metrics, "GET", "/certs", "").await.status, 404);
    assert_eq!(ask(lab.state.bound.readiness, "POST", "/quitquitquit", "").await.status, 404);
}

#[tokio::test]
async fn readiness_says_why_on_both_ports() {
    let lab = Lab::ready().await;
    let page = lab.get("/ready").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.json()["ready"], true);
    let probe = ask(lab.state.bound.readiness, "GET", "/healthz/ready", "").await;
    assert_eq!(probe.status, 200);
    assert!(
        probe.body.starts_with(&format!("ready: the certificate of {ID} is valid until ")),
        "{}",
        probe.body
    );

    lab.state.drain.start();
    assert_eq!(lab.get("/ready").await.status, 503);
    let probe = ask(lab.state.bound.readiness, "GET", "/healthz/ready", "").await;
    assert_eq!(
        (probe.status, probe.body.as_str()),
        (503, "not ready: draining: no new connections are taken\n")
    );
}

#[tokio::test]
async fn without_a_certificate_nothing_is_ready_and_the_pages_still_answer() {
    let lab = Lab::new(false).await;
    let page = lab.get("/ready").await;
    assert_eq!(page.status, 503);
    assert!(page.json()["because"].as_str().unwrap().starts_with("there is no certificate yet"));
    let certs = lab.get("/certs").await.json();
    assert_eq!(
        (&certs["identity"], &certs["valid"], &certs["chain"]),
        (&Value::Null, &json!(false), &json!([]))
    );
    assert_eq!(lab.get("/stats/prometheus").await.status, 200);
}

/// Readiness needs a certificate that is valid now, and where it is asked for, one that lasts.
#[rstest]
#[case::in_the_middle(1_800, None, true, "is valid until")]
#[case::over(4_000, None, false, "has expired at")]
#[case::not_begun(-7_200, None, false, "is not valid before")]
#[case::long_before_the_end(1_800, Some(600), true, "is valid until")]
#[case::near_the_end(3_300, Some(600), false, "which is less than 10m from now (readiness.failBefore)")]
#[case::over_and_asked_to_last(4_000, Some(600), false, "has expired at")]
fn readiness_follows_the_certificates_dates(
    #[case] offset: i64,
    #[case] fail_before: Option<u64>,
    #[case] ready: bool,
    #[case] because: &str,
) {
    let ca = TestCa::root("root of the lab");
    let held = ca.issue(ID);
    let bundles = Bundles::from_pem(&"cluster.local".parse().unwrap(), ca.bundle_pem().as_bytes()).unwrap();
    let credentials =
        Credentials::new(held.chain, &held.key, bundles, TlsSettings::default(), &Clock::system(), 1)
            .unwrap();
    let shift = Duration::from_secs(offset.unsigned_abs());
    let now = if offset < 0 { SystemTime::now() - shift } else { SystemTime::now() + shift };
    let facts = readiness::Facts {
        credentials: Some(&credentials),
        last_error: Some("the CA is down"),
        fail_before: fail_before.map(Duration::from_secs),
        missing: None,
        draining: false,
        now,
    };
    let judged = readiness::judge(&facts);
    assert_eq!(judged.ready, ready);
    assert!(judged.because.contains(because), "{}", judged.because);
    let told = judged.because.contains("the CA is down");
    assert_eq!(told, !ready && offset > 0, "{}", judged.because);
    let clock_told = judged.because.contains("our clock says");
    assert_eq!(clock_told, !(0..3_600).contains(&offset), "{}", judged.because);
    assert!(!readiness::judge(&readiness::Facts { draining: true, ..facts }).ready, "ready while draining");
}

#[tokio::test]
async fn the_config_dump_shows_settings_findings_and_a_failed_reload() {
    let lab = Lab::ready().await;
    let dump = lab.get("/config_dump").await.json();
    assert_eq!(dump["settings"], lab.state.settings.to_json());
    assert_eq!((&dump["policy"]["version"], &dump["policy"]["lastError"]), (&json!(1), &Value::Null));
    let finding = &dump["policy"]["findings"][0];
    assert!(finding["message"].as_str().unwrap().contains("loser"), "{dump:#}");
    assert!(finding["place"].as_str().unwrap().starts_with("mesh.yaml:"), "{dump:#}");

    lab.publisher.failed("mesh.yaml:3:1: unknown variant `DISABLED`".to_owned());
    let dump = lab.get("/config_dump").await.json();
    assert_eq!(dump["policy"]["lastError"], "mesh.yaml:3:1: unknown variant `DISABLED`");
    assert_eq!(dump["policy"]["version"], 1, "the last good policy stays in force");
}

#[tokio::test]
async fn the_workload_is_described_as_the_files_describe_it() {
    let lab = Lab::ready().await;
    let _open = lab.connection();
    let page = lab.get("/describe").await;
    let told: Description = serde_json::from_str(&page.body).unwrap();
    let published = lab.state.snapshot.borrow().clone();
    let expected = describe(&published.snapshot, &lab.state.settings.workload, &[7777, 8080].into());
    assert_eq!(told, expected);
    let ports: Vec<u16> = told.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [7777, 8080, 9090], "those of settings, policies and open connections");
    let outcomes: Vec<Outcome> = told.peer_authentications.iter().map(|policy| policy.outcome).collect();
    assert_eq!(outcomes, [Outcome::Decides, Outcome::Ignored]);
    assert_eq!(told.destinations[0].tls, "ISTIO_MUTUAL");
}

#[tokio::test]
async fn who_may_call_is_a_table_and_with_a_caller_an_answer() {
    let lab = Lab::ready().await;
    let table: AccessTable = serde_json::from_str(&lab.get("/authz").await.body).unwrap();
    assert!(table.everybody_else.allowed && table.policies.is_empty());
    let ask = async |query: &str| -> Answer {
        let page = lab.get(&format!("/authz?{query}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        serde_json::from_str(&page.body).unwrap()
    };
    let stranger = ask("from=plaintext&port=8080").await;
    assert_eq!((stranger.allowed, stranger.reason), (false, Some(Reason::StrictPlaintext)));
    assert!(ask("from=cluster.local%2Fns%2Fdefault/sa/web&port=8080&method=GET&path=%2Fa%3Fb").await.allowed);
    assert!(ask("from=plaintext&port=9090").await.allowed, "the port is DISABLE");
}

#[rstest]
#[case("from=plaintext", "`port` is missing")]
#[case("from=plaintext&port=80&pfad=/", "a question has no `pfad`")]
#[case("from=%zz&port=80", "without two hexadecimal digits")]
#[tokio::test]
async fn a_question_that_cannot_be_asked_is_400_and_says_why(#[case] query: &str, #[case] why: &str) {
    let lab = Lab::ready().await;
    let page = lab.get(&format!("/authz?{query}")).await;
    assert_eq!(page.status, 400);
    let detail = page.problem().detail.unwrap();
    assert!(detail.contains(why), "{detail}");
}

#[tokio::test]
async fn the_certificates_are_shown_without_a_key() {
    let lab = Lab::ready().await;
    let reply = lab.get("/certs").await;
    assert!(!reply.body.contains("PRIVATE"), "{}", reply.body);
    let certs = reply.json();
    assert_eq!((&certs["identity"], &certs["valid"]), (&json!(ID), &json!(true)));
    assert_eq!(certs["chain"].as_array().unwrap().len(), 1);
    assert_eq!(certs["chain"][0]["issuer"], "CN=root of the lab");
    let root = &certs["bundles"]["cluster.local"][0];
    assert_eq!((&root["subject"], &root["valid"]), (&json!("CN=root of the lab"), &json!(true)));
    assert!(root["notAfter"].as_str().unwrap() > certs["chain"][0]["notAfter"].as_str().unwrap());
    // Which of two roots of one name has signed.
    assert!(root["subjectKeyId"].is_string(), "{root:#}");
    assert_eq!(certs["chain"][0]["authorityKeyId"], root["subjectKeyId"]);
    assert!(certs["renewals"]["succeeded"].is_u64());
}

#[tokio::test]
async fn the_listeners_show_what_each_port_accepts_and_why() {
    let lab = Lab::ready().await;
    let connection = lab.connection();
    let page = lab.get("/listeners").await.json();
    let listeners = page["listeners"].as_array().unwrap();
    assert_eq!(listeners.len(), 5);
    assert_eq!(
        listeners[0],
        json!({ "direction": "inbound", "address": "0.0.0.0:15006", "kind": "capture" })
    );
    let ports: Vec<_> = (page["ports"].as_array().unwrap().iter())
        .map(|port| (port["port"].as_u64().unwrap(), port["mode"].as_str().unwrap()))
        .collect();
    // Of an open connection, of a listener, of a policy.
    assert_eq!(ports, [(7777, "STRICT"), (8080, "STRICT"), (9090, "DISABLE")]);
    assert!(page["ports"][2]["because"].as_str().unwrap().contains("default/backend"), "{page:#}");
    assert_eq!(page["otherPorts"]["mode"], "STRICT");
    drop(connection);
}

#[tokio::test]
async fn the_endpoints_show_how_each_is_dialled_and_why() {
    let lab = Lab::ready().await;
    let page = lab.get("/endpoints").await.json();
    let endpoints = page["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2, "{page:#}");
    let with_sidecar = endpoints.iter().find(|endpoint| endpoint["hasSidecar"] == true).unwrap();
    assert_eq!(with_sidecar["endpoint"], "10.0.0.9:3000");
    assert_eq!(with_sidecar["tls"], "ISTIO_MUTUAL");
    assert_eq!(with_sidecar["identities"], json!(["spiffe://cluster.local/ns/default/sa/customers"]));
    let without = endpoints.iter().find(|endpoint| endpoint["hasSidecar"] == false).unwrap();
    assert_eq!((&without["endpoint"], &without["tls"]), (&json!("10.0.0.10:3000"), &json!("DISABLE")));
    assert!(without["because"].as_str().unwrap().contains("no sidecar"), "{page:#}");
}

/// What `pillion proxy-config` reads is what the pages have.
#[tokio::test]
async fn the_tables_of_proxy_config_can_be_made_of_the_pages() {
    let lab = Lab::ready().await;
    let _open = lab.connection();
    let page = async |path: &str| lab.get(path).await.body;
    let endpoints: Endpoints = serde_json::from_str(&page("/endpoints").await).unwrap();
    assert!(endpoints.endpoints.iter().all(|endpoint| endpoint.resolved), "{endpoints}");
    let listeners: Listeners = serde_json::from_str(&page("/listeners").await).unwrap();
    let rows = listeners.rows(&endpoints, &Filter::default());
    let explicit = rows.listeners.iter().find(|row| row.destination == "customers:80").unwrap();
    assert_eq!(explicit.mode.as_deref(), Some("ISTIO_MUTUAL"), "{rows}");
    let secrets: Secrets = serde_json::from_str(&page("/certs").await).unwrap();
    assert_eq!(secrets.rows().secrets.len(), 2, "{}", secrets.rows());
    let connections: Connections = serde_json::from_str(&page("/connections").await).unwrap();
    assert_eq!((connections.workload.name.as_str(), connections.connections.len()), ("backend", 1));
}

#[tokio::test]
async fn the_traffic_is_of_what_is_open_or_has_ended_since_a_time() {
    let lab = Lab::ready().await;
    let read = async |query: &str| -> Traffic {
        serde_json::from_str(&lab.get(&format!("/traffic{query}")).await.body).unwrap()
    };
    lab.connection().end(End { reason: Reason::Completed, detail: None });
    let _open = lab.connection();
    let whole = read("").await;
    assert_eq!((whole.last_id, whole.connections.len(), whole.newest.len()), (2, 2, 2));
    assert_eq!(whole.edges.len(), 1);
    // Later than anything: what is open is told all the same.
    let since = read("?since=2100-01-01T00:00:00.000Z").await;
    assert_eq!(since.connections.iter().map(|counted| counted.id).collect::<Vec<_>>(), [2]);
    assert_eq!((since.edges.len(), since.newest.len()), (1, 2), "edges that rest stay");
    assert!(whole.refused_requests.is_empty());
    lab.denied_request(2);
    let denied = read("").await.refused_requests;
    assert_eq!(denied.iter().map(|refused| (refused.edge, refused.count)).collect::<Vec<_>>(), [(0, 1)]);
}

#[tokio::test]
async fn open_connections_are_listed_as_records_until_they_end() {
    let lab = Lab::ready().await;
    let connection = lab.connection();
    let listed = lab.get("/connections").await.json();
    let records: Vec<ConnectionRecord> = serde_json::from_value(listed["connections"].clone()).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].client.to_string().as_str(), records[0].reason), ("10.0.0.7:4312", None));
    drop(connection);
    assert_eq!(lab.get("/connections").await.json()["connections"], json!([]));
}

#[tokio::test]
async fn connections_that_are_over_are_listed_by_how_they_ended() {
    let lab = Lab::ready().await;
    lab.connection().end(End { reason: Reason::Completed, detail: None });
    lab.refused();
    let _open = lab.connection();
    lab.denied_request(3);
    let ids = async |query: &str| -> Vec<u64> {
        let page = lab.get(&format!("/connections{query}")).await.json();
        let records: Vec<ConnectionRecord> = serde_json::from_value(page["connections"].clone()).unwrap();
        records.iter().map(|record| record.id).collect()
    };
    assert_eq!((ids("").await, ids("?state=open").await), (vec![3], vec![3]));
    assert_eq!((ids("?state=ended").await, ids("?state=refused").await), (vec![1], vec![2]));
    assert_eq!(ids("?state=all").await, [1, 2, 3]);
    let refused = lab.get("/connections?state=refused").await.json();
    assert_eq!(refused["requests"][0]["path"], "/admin");
}

#[rstest]
#[case("/connections?state=closed", "open, ended, refused or all")]
#[case("/connections?state=%zz", "two hexadecimal digits")]
#[case("/connections?id=7", "open, ended, refused or all")]
#[case("/traffic?since=yesterday", "?since= with a time")]
#[case("/traffic?until=2026-11-20T12:00:00Z", "?since= with a time")]
#[case("/explain?id=seven", "?id=NUMBER")]
#[case("/explain?client=frontend", "?client=ADDRESS")]
#[case("/explain?id=7&client=10.0.0.7", "one part")]
#[tokio::test]
async fn what_cannot_be_meant_is_400_and_says_what_can(#[case] path: &str, #[case] why: &str) {
    let lab = Lab::ready().await;
    let page = lab.get(path).await;
    assert_eq!(page.status, 400);
    let detail = page.problem().detail.unwrap();
    assert!(detail.contains(why), "{detail}");
}

#[tokio::test]
async fn a_connection_is_explained_by_its_id_its_client_or_as_the_last_refused() {
    let lab = Lab::ready().await;
    for nothing in ["/explain", "/explain?last=refused", "/explain?id=7", "/explain?client=10.0.0.7"] {
        let page = lab.get(nothing).await;
        assert_eq!((page.status, page.problem().title.as_str()), (404, UNKNOWN), "{nothing}");
    }
    lab.connection().end(End { reason: Reason::ClientReset, detail: None });
    lab.refused();
    let _open = lab.connection();
    let story = async |query: &str| -> Story {
        let page = lab.get(&format!("/explain{query}")).await;
        serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{error}: {}", page.body))
    };
    for (query, id) in [
        ("?id=1", 1),
        ("?client=10.0.0.9:999", 2),
        ("?client=10.0.0.9%3A999", 2),
        ("?client=10.0.0.9", 2),
        ("?client=10.0.0.7", 3),
        ("?last=refused", 2),
        ("", 2),
    ] {
        assert_eq!(story(query).await.connection.id, id, "{query}");
    }
    assert_eq!(story("").await.cure.as_deref(), Some(Reason::StrictPlaintext.cure()));

    // A request that was refused later, on a connection that was let in; and one whose connection nobody knows any more.
    lab.denied_request(3);
    lab.denied_request(77);
    let denied = story("").await;
    assert_eq!((denied.connection.id, denied.refused_requests.len()), (3, 1));
    assert_eq!(denied.cure.as_deref(), Some(Reason::AuthorizationDenied.cure()));
}

#[tokio::test]
async fn the_edges_are_those_of_all_connections_that_are_known() {
    let lab = Lab::ready().await;
    lab.connection().end(End { reason: Reason::Completed, detail: None });
    lab.refused();
    let _open = lab.connection();
    let seen: Edges = serde_json::from_str(&lab.get("/edges").await.body).unwrap();
    let told: Vec<_> = seen
        .edges
        .iter()
        .map(|edge| (edge.src.as_str(), edge.dst.as_str(), edge.secured, edge.open, edge.over))
        .collect();
    assert_eq!(
        told,
        [("10.0.0.7", "backend", Secured::No, 1, 1), ("10.0.0.9", "backend", Secured::Refused, 0, 1),]
    );
}

#[tokio::test]
async fn metrics_are_the_same_on_both_ports() {
    let lab = Lab::ready().await;
    let connection = lab.connection();
    for address in [lab.admin(), lab.state.bound.metrics] {
        let reply = ask(address, "GET", "/stats/prometheus", "").await;
        assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{}", reply.head);
        for wanted in [
            "pillion_connections_open{direction=\"inbound\"} 1\n",
            "pillion_certificate_expiry_timestamp_seconds{kind=\"leaf\"}",
            "pillion_certificate_expiry_timestamp_seconds{kind=\"root\"}",
        ] {
            assert!(reply.body.contains(wanted), "{wanted} in:\n{}", reply.body);
        }
    }
    drop(connection);
}

#[tokio::test]
async fn a_scraper_that_accepts_openmetrics_gets_it() {
    let lab = Lab::ready().await;
    let reply =
        ask(lab.admin(), "GET", "/stats/prometheus", "Accept: application/openmetrics-text\r\n").await;
    assert!(
        reply.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        reply.head
    );
    assert!(reply.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_log_level_is_changed_by_post() {
    let lab = Lab::ready().await;
    let reply = lab.ask("POST", "/logging?level=debug").await;
    assert_eq!(reply.json()["level"], "debug");
    let reply = lab.ask("POST", "/logging?level=warn%2Caccess%3Dinfo").await;
    assert_eq!(reply.json()["level"], "access=info,warn");
    for broken in [
        "/logging",
        "/logging?level=no=such=level",
        "/logging?level=%zz",
        "/logging?level=%+1",
        "/logging?l=debug",
    ] {
        let reply = lab.ask("POST", broken).await;
        assert_eq!((reply.status, reply.problem().status), (400, 400), "{broken}");
    }
    assert_eq!(lab.state.log_level.current().unwrap(), "access=info,warn");
}

#[tokio::test]
async fn plaintext_is_not_captured_unless_the_settings_allow_it() {
    let lab = Lab::ready().await;
    let reply = lab.ask("POST", "/capture?for=60s").await;
    assert_eq!(reply.status, 403);
    assert!(reply.problem().detail.unwrap().contains("admin.capture"));
    assert_eq!(lab.state.connections.capture().state(Instant::now()), None);
}

#[tokio::test]
async fn capture_is_switched_on_for_a_time_and_off() {
    let lab = Lab::with_settings("admin: {capture: true}").await;
    assert_eq!(lab.get("/config_dump").await.json()["capture"], Value::Null);
    let on = lab.ask("POST", "/capture?for=60s").await.json();
    assert_eq!(on["capture"]["connectionsLeft"], 500);
    assert_eq!(on["capture"]["bytesEachWay"], 256);
    assert_eq!(lab.get("/config_dump").await.json()["capture"]["until"], on["capture"]["until"]);
    for wrong in [
        "/capture",
        "/capture?for=",
        "/capture?for=11m",
        "/capture?for=60",
        "/capture?to=60s",
        "/capture?for=1s&for=2s",
    ] {
        assert_eq!(lab.ask("POST", wrong).await.status, 400, "{wrong}");
    }
    assert!(lab.state.connections.capture().state(Instant::now()).is_some(), "and loses nothing");
    assert_eq!(lab.ask("POST", "/capture?for=0").await.json()["capture"], Value::Null);
}

#[tokio::test]
async fn drain_begins_draining_and_quit_ends_once_it_has_answered() {
    let lab = Lab::ready().await;
    assert_eq!(lab.ask("POST", "/drain").await.json()["draining"], true);
    assert!(lab.state.drain.is_draining());
    assert!(!lab.state.drain.quit_token().is_cancelled());
    assert_eq!(lab.ask("POST", "/quitquitquit").await.json()["quitting"], true);
    timeout(PATIENCE, lab.state.drain.quitted()).await.unwrap();
}

/// A web page in a browser of the same host reaches loopback too: by its own name (DNS rebinding), or by address.
#[rstest]
#[case::by_address("Host: 127.0.0.1:15000\r\n", 200)]
#[case::by_localhost("Host: localhost\r\n", 200)]
#[case::by_localhost_in_capitals("Host: LOCALHOST:8000\r\n", 200)]
#[case::by_ipv6("Host: [::1]:15000\r\n", 200)]
#[case::of_its_own_origin("Host: localhost:15000\r\nOrigin: http://localhost:15000\r\n", 200)]
#[case::by_a_name("Host: attacker.example\r\n", 421)]
#[case::by_a_name_that_begins_well("Host: localhost.attacker.example\r\n", 421)]
#[case::by_another_address("Host: 10.0.0.1:15000\r\n", 421)]
#[case::by_no_name("Host: \r\n", 421)]
#[case::by_two_names("Host: localhost\r\nHost: attacker.example\r\n", 421)]
#[case::from_another_origin("Host: localhost:15000\r\nOrigin: http://attacker.example\r\n", 403)]
#[case::from_another_port("Host: localhost:15000\r\nOrigin: http://localhost:8080\r\n", 403)]
#[case::from_a_file("Host: localhost:15000\r\nOrigin: null\r\n", 403)]
#[tokio::test]
async fn an_admin_api_on_loopback_is_not_for_web_pages(#[case] headers: &str, #[case] status: u16) {
    let lab = Lab::ready().await;
    let reply = ask(lab.admin(), "POST", "/drain", headers).await;
    assert_eq!(reply.status, status, "{}", reply.body);
    assert_eq!(lab.state.drain.is_draining(), status == 200);
}

#[test]
fn an_admin_api_that_is_not_on_loopback_answers_by_any_name() {
    let request = hyper::Request::get("/ready").header("host", "sidecar.example").body(()).unwrap();
    let (parts, ()) = request.into_parts();
    assert!(guard::check("0.0.0.0:15000".parse().unwrap(), &parts).is_none());
    assert!(guard::check("[::ffff:127.0.0.1]:15000".parse().unwrap(), &parts).is_some());
}

#[tokio::test]
async fn one_connection_carries_one_request() {
    let lab = Lab::ready().await;
    let twice = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    let reply = send(lab.admin(), &twice).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.body.contains("HTTP/1.1"), "{}", reply.body);
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let lab = Lab::ready().await;
    let reply = ask(lab.admin(), "GET", "/ready", &format!("X-Long: {}\r\n", "x".repeat(20_000))).await;
    assert_eq!(reply.status, 431);
}

#[tokio::test]
async fn clients_that_say_nothing_hold_up_nobody_for_long() {
    let lab = Lab::ready().await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(lab.admin()).await.unwrap());
    }
    // More than there are slots: the answer comes once the first of them have run out of time for their heads.
    assert_eq!(lab.get("/ready").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(10), "answered after {:?}", begun.elapsed());
    let mut end = [0; 1];
    let soon = Duration::from_secs(5);
    let closed = timeout(soon, silent[0].read(&mut end)).await.expect("a silent client is cut off");
    assert_eq!(closed.unwrap_or(0), 0);
}

#[tokio::test]
async fn the_servers_end_when_they_are_told_to() {
    let mut lab = Lab::ready().await;
    let _silent = TcpStream::connect(lab.admin()).await.unwrap();
    lab.stop.cancel();
    for server in std::mem::take(&mut lab.servers) {
        timeout(PATIENCE, server).await.expect("the server ends").unwrap();
    }
}

/// Requirement 40: a panic costs one answer, is counted, and the server goes on.
#[tokio::test]
async fn req_40_a_panic_costs_one_answer_and_is_counted() {
    static ROUTES: [route::Route; 1] = [route::get("/panic", "", |_, _| panic!("as a test asks for"))];
    let lab = Lab::ready().await;
    let (listener, state, stop) = (listen().await, lab.state.clone(), lab.stop.clone());
    let address = listener.local_addr().unwrap();
    let server = server::run(listener, stop, move |request| ready(route::answer(&ROUTES, &state, &request)));
    tokio::spawn(server);
    for _ in 0..2 {
        assert_eq!(
            ask(address, "GET", "/panic", "").await.status,
            0,
            "the connection ends without an answer"
        );
    }
    let metrics = lab.get("/stats/prometheus").await.body;
    assert!(metrics.contains("pillion_panics_total 2\n"), "{metrics}");
}

/// Reads what `/events` tells.
pub(crate) struct Onlooker {
    stream: TcpStream,
    reader: crate::page::frames::Reader,
    events: std::collections::VecDeque<(String, Value)>,
}

impl Onlooker {
    /// From the answer's head on.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /events HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        Self { stream, reader: Default::default(), events: Default::default() }
    }

    /// The data of the next event of this kind; those before it are passed over. Beats do not put the end of patience off.
    pub(crate) async fn next(&mut self, kind: &str) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            while let Some((name, data)) = self.events.pop_front() {
                if name == kind {
                    return data;
                }
            }
            let mut piece = [0; 4096];
            let read =
                tokio::time::timeout_at(deadline, self.stream.read(&mut piece)).await.expect(kind).unwrap();
            assert!(read > 0, "it ended without {kind}");
            self.events.extend(self.reader.read(&piece[..read]).expect("events"));
        }
    }
}

#[rstest]
#[case("text/html,application/xhtml+xml,*/*;q=0.8", "text/html")]
#[case("*/*", "application/json")]
#[case("application/json", "application/json")]
#[tokio::test]
async fn a_browser_gets_the_page_and_a_program_the_index(#[case] accept: &str, #[case] content_type: &str) {
    let lab = Lab::new(false).await;
    let reply = ask(lab.admin(), "GET", "/", &format!("Accept: {accept}\r\n")).await;
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains(&format!("content-type: {content_type}")), "{}", reply.head);
}

#[tokio::test]
async fn browsers_may_take_nothing_but_the_files_of_the_page() {
    let lab = Lab::new(false).await;
    for path in ["/page/app.js", "/page/style.css", "/connections", "/nowhere"] {
        let reply = lab.get(path).await;
        for header in [
            "default-src 'none'; script-src 'self';",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "cross-origin-resource-policy: same-origin",
            "referrer-policy: no-referrer",
        ] {
            assert!(reply.head.contains(header), "{path}: {header} in {}", reply.head);
        }
        assert!(!reply.head.contains("unsafe-"), "{}", reply.head);
    }
    assert_eq!(lab.ask("POST", "/page/app.js").await.status, 404);
    let foreign = ask(lab.admin(), "GET", "/events", "Origin: http://evil.example\r\n").await;
    assert_eq!(foreign.status, 403);
    let rebound = ask(lab.admin(), "GET", "/page/app.js", "Host: evil.example\r\n").await;
    assert_eq!(rebound.status, 421);
}

#[tokio::test]
async fn an_onlooker_is_told_what_happens() {
    let lab = Lab::ready().await;
    let mut onlooker = Onlooker::at(lab.admin()).await;
    assert_eq!(onlooker.next("hello").await["proxy"], 0);

    let connection = lab.connection();
    let told = onlooker.next("connection").await;
    assert_eq!((&told["connection"]["id"], &told["connection"]["reason"]), (&json!(1), &Value::Null));
    assert_eq!((&told["edge"]["src"], &told["edge"]["secured"]), (&json!("10.0.0.7"), &json!("no")));
    connection.moved().came_from(Side::Client, &[0; 7]);
    assert_eq!(onlooker.next("moved").await["moved"], json!([[1, 7, 0]]));
    drop(connection);
    assert_eq!(onlooker.next("connection").await["connection"]["reason"], "internal");

    lab.refused();
    let told = onlooker.next("connection").await;
    assert_eq!(
        (&told["connection"]["reason"], &told["edge"]["secured"]),
        (&json!("strict_plaintext"), &json!("refused"))
    );
    lab.denied_request(1);
    assert_eq!(onlooker.next("request").await["request"]["path"], "/admin");

    // Addresses of names are no new policy.
    lab.publisher.learn([("customers".to_owned(), vec!["10.0.0.11".parse().unwrap()])].into());
    lab.publisher.failed("mesh.yaml:3: no such field".to_owned());
    let told = onlooker.next("policy").await;
    assert_eq!(told["policy"]["lastError"], "mesh.yaml:3: no such field");
    let snapshot = lab.publisher.current().snapshot.clone();
    lab.publisher.policy(&snapshot, SystemTime::now());
    let told = onlooker.next("policy").await;
    assert_eq!((&told["policy"]["version"], &told["policy"]["lastError"]), (&json!(2), &Value::Null));
}

/// The test has one thread: nobody reads while it refuses.
#[tokio::test]
async fn a_slow_onlooker_loses_events_and_is_told_so() {
    let lab = Lab::ready().await;
    let mut onlooker = Onlooker::at(lab.admin()).await;
    onlooker.next("hello").await;
    for _ in 0..300 {
        lab.refused();
    }
    assert_eq!(onlooker.next("lost").await["events"], 300 - 256);
    assert_eq!(onlooker.next("connection").await["connection"]["id"], 300 - 256 + 1);
    let state = lab.get("/page/state").await.json();
    assert_eq!(state["connections"].as_array().unwrap().len(), 300);
}

#[tokio::test]
async fn onlookers_are_few_and_leave_room_for_others() {
    let lab = Lab::ready().await;
    let mut onlookers = Vec::new();
    for _ in 0..crate::connections::MAX_ONLOOKERS {
        onlookers.push(Onlooker::at(lab.admin()).await);
    }
    let one_more = lab.get("/events").await;
    assert_eq!(one_more.status, 503);
    assert!(one_more.problem().detail.unwrap().contains("close a page"), "{}", one_more.body);
    assert_eq!(lab.get("/connections").await.status, 200);
    onlookers.pop();
    let again = async {
        while lab.ask("HEAD", "/events").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the place of one who left is free again");
}

/// Turned time: nothing else happens, so it passes at once.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_part_of_its_answer_is_left() {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (ended, was_left) = tokio::sync::oneshot::channel();
    let ended = Arc::new(std::sync::Mutex::new(Some(ended)));
    let answer = move |_| {
        let (answer, sender) = server::Answer::in_parts("text/event-stream");
        let ended = ended.lock().unwrap().take();
        tokio::spawn(async move {
            while sender.send(vec![b'x'; 100_000].into()).await {}
            drop(sender);
            let _ = ended.map(|ended| ended.send(()));
        });
        ready(answer)
    };
    let _server = tokio::spawn(server::run(listener, stop.clone(), answer));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    was_left.await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // What the kernel holds, and then an end that is not that of the answer.
    let mut seen = Vec::new();
    let _ = client.read_to_end(&mut seen).await;
    assert!(!seen.is_empty() && !seen.ends_with(b"0\r\n\r\n"), "{} bytes", seen.len());
}
