//! A real Prometheus reads a real mesh: every query of the dashboard, every rule and the query that Istio's documentation
//! gives are evaluated there, and promtool judges the names of the metrics and the files of `examples/monitoring`.
//!
//! Needs `prometheus` and `promtool` (Debian's package `prometheus`).
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{ECONNRESET, PORT, SOON, errno_of_call, lab, skip};
use pillion_cli::lab::{Ca, Lab, Node, Process, RunningSidecar, Service, Sidecar, wait_until};
use pillion_mesh::reason::Reason;
use serde_json::Value;

/// A few scrapes a second apart, rules evaluated on them, and rates over them.
const PATIENCE: Duration = Duration::from_secs(90);

/// A port of `server` that is STRICT while its others are PERMISSIVE.
const STRICT_PORT: u16 = 9090;

/// As the founding documents have it, from Istio's.
const PLAINTEXT: &str = "sum(istio_tcp_connections_opened_total{connection_security_policy=\"none\"}) by (source_workload, destination_workload)";

/// The only name that promtool has something to say of: it is Istio's, and not in seconds.
const ISTIOS: [&str; 1] = ["istio_request_duration_milliseconds"];

const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: server, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  mtls: {mode: PERMISSIVE}
  portLevelMtls: {9090: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: private, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{to: [{operation: {paths: [/private]}}]}]
";

#[test]
fn promtool_accepts_the_examples_and_each_alert_fires_when_it_should() {
    if !are_installed(&["promtool"]) {
        return;
    }
    let folder = root().join("examples/monitoring");
    for args in [["check", "config", "prometheus/prometheus.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool").args(args).current_dir(&folder).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {args:?}:\n{said}");
    }
}

#[test]
fn every_alert_has_an_example() {
    let read = |name: &str| fs::read_to_string(root().join("examples/monitoring").join(name)).unwrap();
    let (rules, examples) = (read("prometheus/alerts.yml"), read("alerts.test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(examples.contains(&format!("alertname=\"{alert}\"")), "{alert} fires in no example");
        assert!(read("README.md").contains(&format!("`{alert}`")), "README.md does not tell of {alert}");
    }
}

/// A name that nobody has is no error to Prometheus: the alert would be silent for ever.
#[test]
fn what_alerts_and_dashboard_ask_for_is_there() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let rules = read("examples/monitoring/prometheus/alerts.yml");
    let metrics = read("docs/reference/metrics.md");
    let queries: Vec<String> = dashboard().into_iter().map(|(_title, query)| query).collect();
    let mut asked = 0;
    for name in words(&format!("{rules} {}", queries.join(" "))) {
        if ["pillion_", "istio_", "citadel_"].iter().any(|prefix| name.starts_with(prefix)) {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            let family = family
                .strip_suffix("duration_seconds_count")
                .map_or_else(|| family.to_owned(), |handshakes| format!("{handshakes}duration_seconds"));
            assert!(metrics.contains(&format!("| `{family}` |")), "nobody has {name}");
            asked += 1;
        }
    }
    assert!(asked > 50, "only {asked} names were found");
    for (label, ids) in matched_by_pattern(&rules) {
        let refusals = read("docs/reference/ca-refusals.md");
        for id in ids.split('|') {
            let exists = match label {
                "reason" => Reason::ALL.iter().any(|reason| reason.id() == id),
                "result" => refusals.contains(&format!("| `{id}` |")),
                label => panic!("{label} is matched by a pattern, and nobody knows its values"),
            };
            assert!(exists, "there is no {label} {id}");
        }
    }
}

#[test]
fn the_panels_of_the_dashboard_have_numbers_and_places_of_their_own() {
    let file = root().join("examples/monitoring/grafana/dashboards/pillion.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let (mut numbers, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{title} has the number of another");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is wider than the page");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(places.insert((x, y)), "{title} stands on another");
            }
        }
    }
}

#[test]
fn the_compose_demo_can_be_extended_by_it() {
    let mut compose = Command::new("docker-compose");
    compose.args(["-f", "docker-compose.yml", "-f", "examples/monitoring/compose.yaml", "config", "--quiet"]);
    match compose.current_dir(root()).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        // The demo itself is run by a check of its own, which installs it.
        Err(_) => eprintln!("SKIPPED: docker-compose is not installed"),
    }
}

#[test]
fn a_real_prometheus_finds_in_a_real_mesh_what_dashboard_alerts_and_istios_query_ask_for() {
    let Some(scene) = Scene::new() else { return };
    scene.dashboard_has_data();
    scene.plaintext_is_found_by_istios_query();
    scene.rules_are_sound_and_tell_what_happens();
    scene.a_folder_that_cannot_be_loaded_is_seen_until_it_can();
    scene.promtool_finds_fault_with_names_of_istio_only();
    scene.the_reference_page_tells_every_metric();
}

/// `client` with a sidecar calls `server` with a sidecar; `stranger`, who has none, does too. Prometheus looks on.
struct Scene {
    client: Node,
    server: Node,
    stranger: Node,
    watcher: Node,
    sidecars: [RunningSidecar; 2],
    ca: Ca,
    _processes: [Process; 2],
    lab: Lab,
}

impl Scene {
    fn new() -> Option<Self> {
        if !are_installed(&["prometheus", "promtool", "curl"]) {
            return None;
        }
        let lab = lab()?;
        let [client, server, stranger, watcher] =
            ["client", "server", "stranger", "watcher"].map(|name| lab.node(name).unwrap());
        let ca = lab.ca(&["client", "server"], "").unwrap();
        let service = Service::of("server", PORT, &[server.v4()]);
        lab.mesh().service(&Service { protocol: "HTTP".to_owned(), ..service }).unwrap();
        lab.mesh().write("policies.yaml", POLICIES).unwrap();
        let start = |name: &str, node: &Node| Sidecar::new(name).start(node, &ca).unwrap();
        let sidecars = [start("client", &client), start("server", &server)];
        let listen = format!("0.0.0.0:{PORT}");
        let app = server.start_pillion("app", &["example", "backend", "--listen", &listen]).unwrap();
        app.wait_for_line(SOON, "listening on").unwrap();
        let prometheus = start_prometheus(&lab, &watcher);
        Some(Self { client, server, stranger, watcher, sidecars, ca, _processes: [app, prometheus], lab })
    }

    /// Once of all that is counted.
    fn traffic(&self) {
        let service = SocketAddr::new(self.server.v4(), PORT);
        let get = |from: &Node, path: &str| from.get(&format!("http://{service}{path}")).unwrap();
        assert!(get(&self.client, "/").is_success());
        assert!(get(&self.stranger, "/").is_success());
        assert_eq!(get(&self.client, "/private").status, 403);
        let strict = SocketAddr::new(self.server.v4(), STRICT_PORT);
        assert_eq!(errno_of_call(&self.stranger, strict), Some(ECONNRESET));
        let ask = ["--silent", "--insecure", "--request", "POST", "https://ca:15012/v1/certificates"];
        let answer = self.stranger.run("curl", &ask).unwrap();
        // Without evidence; later perhaps because it asks so often.
        assert!(answer.contains("401") || answer.contains("429"), "{answer}");
    }

    fn dashboard_has_data(&self) {
        let queries = dashboard();
        assert!(queries.len() > 25, "{queries:?}");
        let mut missing = Vec::new();
        let waited = wait_until(PATIENCE, "data for each panel", || {
            self.traffic();
            missing = queries.iter().filter(|(_, query)| !has_data(&self.query(query))).collect();
            Ok(missing.is_empty().then_some(()))
        });
        assert!(waited.is_ok(), "no data for {missing:#?}");
    }

    fn plaintext_is_found_by_istios_query(&self) {
        assert!(dashboard().iter().any(|(_, query)| query == PLAINTEXT), "the dashboard has it too");
        let found = self.query(PLAINTEXT);
        let edges: Vec<_> = found
            .iter()
            .map(|sample| {
                let label = |name: &str| sample["metric"][name].as_str().unwrap().to_owned();
                (label("source_workload"), label("destination_workload"))
            })
            .collect();
        assert_eq!(edges, [("unknown".to_owned(), "server".to_owned())], "{found:?}");
        assert!(has_data(&found));
        let secured = PLAINTEXT.replace("none", "mutual_tls");
        assert_eq!(self.query(&secured)[0]["metric"]["source_workload"], "client");
    }

    fn rules_are_sound_and_tell_what_happens(&self) {
        let mut expected =
            BTreeSet::from(["PillionPlaintextAccepted", "PillionPlaintextRefused", "PillionCARefuses"]);
        let rules = |page: &Value| -> Vec<Value> {
            let groups = page["data"]["groups"].as_array().unwrap();
            groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
        };
        wait_until(PATIENCE, "alerts on what happens here", || {
            self.traffic();
            let rules = rules(&self.api("rules"));
            assert!(rules.len() > 15, "{rules:#?}");
            if rules.iter().any(|rule| rule["health"] == "unknown") {
                return Ok(None);
            }
            for rule in rules {
                assert_eq!(rule["health"], "ok", "{rule:#}");
                if rule["state"] == "firing" {
                    let name = rule["name"].as_str().unwrap();
                    expected.remove(name);
                    let known = [
                        "PillionPlaintextAccepted",
                        "PillionPlaintextRefused",
                        "PillionCARefuses",
                        "PillionRefusals",
                    ];
                    assert!(known.contains(&name), "nothing of this kind happens here: {rule:#}");
                    assert!(!rule["alerts"].to_string().contains("error expanding"), "{rule:#}");
                }
            }
            Ok(expected.is_empty().then_some(()))
        })
        .unwrap();
    }

    fn a_folder_that_cannot_be_loaded_is_seen_until_it_can(&self) {
        let in_force = |value: &str| {
            let query = format!("pillion_policy_last_reload_successful == {value}");
            wait_until(PATIENCE, &query, || Ok((self.query(&query).len() == 2).then_some(()))).unwrap();
        };
        in_force("1");
        self.lab.mesh().write("broken.yaml", "kind: PeerAuthenticatoin\n").unwrap();
        in_force("0");
        self.lab.mesh().remove("broken.yaml").unwrap();
        in_force("1");
    }

    fn promtool_finds_fault_with_names_of_istio_only(&self) {
        let pages = self.pages();
        for (page, name) in
            pages.iter().zip(["istio_requests_total", "istio_requests_total", "citadel_server_csr_count"])
        {
            assert!(page.contains(&format!("# TYPE {name} ")), "{page}");
        }
        let said: BTreeSet<String> = pages.iter().flat_map(|page| check_metrics(page)).collect();
        assert_eq!(said, ISTIOS.map(str::to_owned).into());
    }

    fn the_reference_page_tells_every_metric(&self) {
        let reference = fs::read_to_string(root().join("docs/reference/metrics.md")).unwrap();
        for page in self.pages() {
            for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
                let name = line.split(' ').next().unwrap();
                assert!(reference.contains(&format!("| `{name}` |")), "{name} is not told");
            }
        }
    }

    /// What the sidecars and the CA answer to who does not ask for OpenMetrics.
    fn pages(&self) -> Vec<String> {
        let ca = self.watcher.get(&format!("http://{}:15014/metrics", self.ca.node().v4())).unwrap();
        let sidecars = self.sidecars.iter().map(|sidecar| sidecar.metrics().unwrap());
        sidecars.chain([ca.body]).collect()
    }

    /// The samples that Prometheus answers a query with. It must be one that it can evaluate.
    fn query(&self, query: &str) -> Vec<Value> {
        let page = self.api(&format!("query?query={}", percent_encoded(query)));
        page["data"]["result"].as_array().unwrap_or_else(|| panic!("{query}: {page}")).clone()
    }

    fn api(&self, path: &str) -> Value {
        let url = format!("http://{}:9090/api/v1/{path}", self.watcher.v4());
        let answer = wait_until(PATIENCE, &url, || Ok(self.watcher.get(&url).ok())).unwrap();
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(page["status"], "success", "{path}: {page}");
        assert!(page["warnings"].is_null(), "{path}: {page}");
        page
    }
}

/// With the configuration of the examples, but for the names and more often.
fn start_prometheus(lab: &Lab, node: &Node) -> Process {
    let examples = root().join("examples/monitoring/prometheus");
    let folder = lab.folder().join("prometheus");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(examples.join("alerts.yml"), folder.join("alerts.yml")).unwrap();
    let mut config = fs::read_to_string(examples.join("prometheus.yml")).unwrap();
    for (of_the_demo, of_the_lab) in [("frontend:", "client:"), ("backend:", "server:"), (": 5s", ": 1s")] {
        assert!(config.contains(of_the_demo), "{config}");
        config = config.replace(of_the_demo, of_the_lab);
    }
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    let file = format!("--config.file={}", folder.join("prometheus.yml").display());
    let data = format!("--storage.tsdb.path={}", folder.join("data").display());
    let args = [&file, &data, "--web.listen-address=0.0.0.0:9090"];
    let prometheus = node.start("prometheus", "prometheus", &args).unwrap();
    prometheus.wait_for_line(PATIENCE, "Server is ready to receive web requests").unwrap();
    prometheus
}

/// The queries of the dashboard, each with the title of its panel, as Grafana would ask them.
fn dashboard() -> Vec<(String, String)> {
    let file = root().join("examples/monitoring/grafana/dashboards/pillion.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let filled = |query: &str| {
        let query = query.replace("$__rate_interval", "10s").replace("$__range", "2m");
        let query = query.replace("$namespace", ".*");
        assert!(!query.contains('$'), "a variable that nobody sets: {query}");
        query
    };
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap().to_owned();
            queries.push((title, filled(target["expr"].as_str().unwrap())));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        if let Some((selector, _label)) =
            query.strip_prefix("label_values(").and_then(|query| query.rsplit_once(','))
        {
            queries.push((variable["name"].to_string(), filled(selector)));
        }
    }
    queries
}

/// The words of queries: names, keywords, values of labels.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}

/// The labels that a pattern is held against, `reason=~"a|b"`, and the pattern.
fn matched_by_pattern(rules: &str) -> Vec<(&str, &str)> {
    let ends: Vec<(usize, &str)> = rules.match_indices("~\"").collect();
    let found: Vec<(&str, &str)> = ends
        .into_iter()
        .map(|(at, mark)| {
            let label = words(rules[..at].trim_end_matches(['=', '!'])).last().unwrap();
            (label, rules[at + mark.len()..].split('"').next().unwrap())
        })
        .collect();
    assert!(found.len() >= 4, "{found:?}");
    found
}

/// Whether one of the samples is a number.
fn has_data(samples: &[Value]) -> bool {
    samples.iter().any(|sample| sample["value"][1].as_str().is_some_and(|value| value != "NaN"))
}

/// The metrics that `promtool check metrics` has something to say of.
fn check_metrics(page: &str) -> Vec<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // 3: it understood, and does not like something.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}\n{page}");
    said.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn are_installed(programs: &[&str]) -> bool {
    let lacking = programs.iter().find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(program) = lacking {
        skip(&format!("{program} is not installed"));
    }
    lacking.is_none()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
