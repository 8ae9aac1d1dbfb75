//! Who may call whom in a zero-trust shop, over real sidecars: five services of namespace `production` and one of
//! `development`, each an HTTP app that knows no mesh, and a host without a sidecar.
//!
//! The drawing that usually goes with such policies has the frontend call the catalog and the cart, the cart call payment
//! and payment call orders. The policies that usually stand beside it allow two of these four. Both are held here: what the
//! policies say as they are written, and what they say with the two that are missing.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pillion_cli::lab::{Ca, Lab, Mesh, Node, Process, RunningSidecar, Service, Sidecar, wait_until};
use pillion_mesh::reason::Reason;
use pillion_mesh::wire::RequestRecord;

use common::http::{Answer, ask};
use common::{ECONNRESET, PORT, SOON, marker, wait_for_marker};

/// In production nobody may call anything that is not allowed; what is allowed is not for development and testing.
const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-all, namespace: production}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-frontend-to-catalog, namespace: production}
spec:
  selector: {matchLabels: {app: product-catalog}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/production/sa/frontend"]}
    to:
    - operation: {methods: ["GET"], paths: ["/api/v1/products", "/api/v1/products/*"]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-payment-to-orders, namespace: production}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/production/sa/payment-service"]}
    to:
    - operation: {methods: ["GET", "POST", "PUT"], paths: ["/api/v1/orders/*"]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-from-untrusted, namespace: production}
spec:
  action: DENY
  rules:
  - from:
    - source: {namespaces: ["development", "testing"]}
"#;

/// The two arrows of the drawing that the policies above leave out.
const MISSING: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-frontend-to-cart, namespace: production}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/production/sa/frontend"]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-cart-to-payment, namespace: production}
spec:
  selector: {matchLabels: {app: payment-service}}
  rules:
  - from:
    - source: {principals: ["cluster.local/ns/production/sa/cart"]}
"#;

/// What is asked of whom, and what becomes of it for each caller: its answer's status, or `reset`. `-` is not asked: a
/// service that calls its own address stays inside its host, as in Istio.
const AS_WRITTEN: &str = "
asked            method target                      | frontend product-catalog cart payment-service orders dev-service stranger
frontend         GET    /                           | -        403             403  403             403    403         reset
product-catalog  GET    /api/v1/products            | 200      -               403  403             403    403         reset
product-catalog  GET    /api/v1/products?page=2     | 200      -               403  403             403    403         reset
product-catalog  GET    /api/v1/products/7          | 200      -               403  403             403    403         reset
product-catalog  GET    /api/v1/productsx           | 403      -               403  403             403    403         reset
product-catalog  GET    /api/v1/products/../../etc  | 403      -               403  403             403    403         reset
product-catalog  POST   /api/v1/products            | 403      -               403  403             403    403         reset
product-catalog  GET    /                           | 403      -               403  403             403    403         reset
cart             GET    /api/v1/cart/7              | 403      403             -    403             403    403         reset
cart             POST   /api/v1/cart                | 403      403             -    403             403    403         reset
payment-service  POST   /api/v1/payments            | 403      403             403  -               403    403         reset
orders           GET    /api/v1/orders/7            | 403      403             403  200             -      403         reset
orders           POST   /api/v1/orders/7            | 403      403             403  200             -      403         reset
orders           PUT    /api/v1/orders/7            | 403      403             403  200             -      403         reset
orders           DELETE /api/v1/orders/7            | 403      403             403  403             -      403         reset
orders           GET    /api/v1/orders              | 403      403             403  403             -      403         reset
dev-service      GET    /                           | 200      200             200  200             200    -           200
";

/// With the missing policies: the four arrows of the drawing, and no other.
const AS_DRAWN: &str = "
asked            method target                      | frontend product-catalog cart payment-service orders dev-service stranger
frontend         GET    /                           | -        403             403  403             403    403         reset
product-catalog  GET    /api/v1/products            | 200      -               403  403             403    403         reset
product-catalog  GET    /api/v1/products/7          | 200      -               403  403             403    403         reset
product-catalog  POST   /api/v1/products            | 403      -               403  403             403    403         reset
cart             GET    /api/v1/cart/7              | 200      403             -    403             403    403         reset
cart             POST   /api/v1/cart                | 200      403             -    403             403    403         reset
payment-service  POST   /api/v1/payments            | 403      403             200  -               403    403         reset
orders           GET    /api/v1/orders/7            | 403      403             403  200             -      403         reset
orders           POST   /api/v1/orders/7            | 403      403             403  200             -      403         reset
orders           DELETE /api/v1/orders/7            | 403      403             403  403             -      403         reset
dev-service      GET    /                           | 200      200             200  200             200    -           200
";

#[test]
fn who_may_call_whom_is_what_the_policies_say() {
    let Some(shop) = Shop::new() else { return };
    let before = shop.assert_table(AS_WRITTEN, Counts::new());
    shop.add_the_missing_policies();
    shop.assert_table(AS_DRAWN, before);
}

/// How often a service answered a caller with a status: service, caller, status.
type Counts = BTreeMap<(String, String, u16), u64>;

/// The services with their sidecars, and the stranger, which has none.
struct Shop {
    services: Vec<InShop>,
    stranger: Node,
    lab: Lab,
    _ca: Ca,
}

struct InShop {
    namespace: &'static str,
    name: &'static str,
    node: Node,
    sidecar: RunningSidecar,
    _app: Process,
}

/// A row of a table.
struct Row<'t> {
    service: &'t str,
    method: &'t str,
    target: &'t str,
    /// By caller, in the order of the first line.
    cells: Vec<(&'t str, &'t str)>,
}

const SERVICES: [(&str, &str); 6] = [
    ("production", "frontend"),
    ("production", "product-catalog"),
    ("production", "cart"),
    ("production", "payment-service"),
    ("production", "orders"),
    ("development", "dev-service"),
];

impl Shop {
    /// STRICT and [`POLICIES`] in production; nothing in development.
    fn new() -> Option<Self> {
        let lab = common::lab()?;
        let accounts = SERVICES.map(|(namespace, name)| format!("{namespace}/{name}"));
        let ca = lab.ca(&accounts.each_ref().map(String::as_str), "").unwrap();
        let strict = Mesh::peer_authentication("production/default", None, "STRICT");
        lab.mesh().write("strict.yaml", &strict).unwrap();
        lab.mesh().write("policies.yaml", POLICIES).unwrap();
        let nodes = SERVICES.map(|(_, name)| lab.node(name).unwrap());
        for (account, node) in accounts.iter().zip(&nodes) {
            let service = Service { protocol: "HTTP".to_owned(), ..Service::of(account, PORT, &[node.v4()]) };
            lab.mesh().service(&service).unwrap();
        }
        let start =
            |((namespace, name), (account, node)): ((&'static str, &'static str), (&String, &Node))| {
                let listen = format!("0.0.0.0:{PORT}");
                let app = node
                    .start_pillion("app", &["example", "backend", "--name", name, "--listen", &listen])
                    .unwrap();
                app.wait_for_line(SOON, "listening on").unwrap();
                let sidecar = Sidecar::new(account).start(node, &ca).unwrap();
                InShop { namespace, name, node: node.clone(), sidecar, _app: app }
            };
        let services = SERVICES.into_iter().zip(accounts.iter().zip(&nodes)).map(start).collect();
        Some(Self { services, stranger: lab.node("stranger").unwrap(), lab, _ca: ca })
    }

    fn service(&self, name: &str) -> &InShop {
        self.services.iter().find(|service| service.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    fn node(&self, caller: &str) -> &Node {
        if caller == "stranger" { &self.stranger } else { &self.service(caller).node }
    }

    fn add_the_missing_policies(&self) {
        self.lab.mesh().write("missing.yaml", &(MISSING.to_owned() + &marker("missing"))).unwrap();
        self.services.iter().for_each(|service| wait_for_marker(&service.sidecar, "missing"));
    }

    /// Asks everything that the table has, and holds answers, log lines and metrics against it. Returns the counts of the
    /// metrics, which were `counts` before.
    fn assert_table(&self, table: &str, mut counts: Counts) -> Counts {
        let mut wrong = Vec::new();
        for row in rows(table) {
            for (caller, expected) in &row.cells {
                if *expected == "-" {
                    continue;
                }
                let seen = self.outcome(caller, &row);
                if seen != *expected {
                    let Row { service, method, target, .. } = row;
                    wrong.push(format!(
                        "{caller} -> {service}, {method} {target}: {expected} in the table, {seen} seen"
                    ));
                }
                if let Ok(status) = expected.parse() {
                    let key = (row.service.to_owned(), (*caller).to_owned(), status);
                    *counts.entry(key).or_default() += 1;
                }
            }
        }
        assert_eq!(wrong, [""; 0]);
        self.assert_counted(&counts);
        counts
    }

    /// What becomes of one request. What an answer must be beside its status is held here.
    fn outcome(&self, caller: &str, row: &Row<'_>) -> String {
        let service = self.service(row.service);
        let before = service.sidecar.request_log().len();
        let address = SocketAddr::new(service.node.v4(), PORT);
        let answer = match ask(self.node(caller), address, row.method, row.target) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(ECONNRESET) => return "reset".to_owned(),
            Err(error) => return error.to_string(),
        };
        let (record, line) = wait_until(SOON, "the request's line in the log", || {
            Ok(service.sidecar.request_log().get(before).cloned())
        })
        .unwrap();
        assert_eq!(record.status, Some(answer.status), "{record:?}");
        assert_eq!(record.tls.as_ref().map(|tls| tls.peer.clone()), self.identity(caller), "{record:?}");
        match answer.status {
            200 => self.assert_answered_by_the_app(caller, row, &answer),
            403 => assert_refused_and_explained(caller, row, &answer, &record, &line),
            _ => {}
        }
        answer.status.to_string()
    }

    fn identity(&self, caller: &str) -> Option<String> {
        let service = self.services.iter().find(|service| service.name == caller)?;
        Some(format!("spiffe://cluster.local/ns/{}/sa/{caller}", service.namespace))
    }

    /// The app heard what was asked, in its one spelling, and who asked.
    fn assert_answered_by_the_app(&self, caller: &str, row: &Row<'_>, answer: &Answer) {
        let seen: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(seen["name"], row.service, "{seen}");
        if row.target != "/" {
            assert_eq!(
                (&seen["method"], &seen["target"]),
                (&row.method.into(), &row.target.into()),
                "{seen}"
            );
        }
        let told = seen["forwardedClientCert"].as_str();
        match self.identity(caller) {
            Some(id) => assert!(told.unwrap().ends_with(&format!(";URI={id}")), "{seen}"),
            None => assert_eq!(told, None, "{seen}"),
        }
    }

    /// `istio_requests_total` of each service counts by caller and status what the tables asked for so far.
    fn assert_counted(&self, expected: &Counts) {
        for service in &self.services {
            let expected: Counts = expected
                .iter()
                .filter(|(key, _)| key.0 == service.name)
                .map(|(key, n)| (key.clone(), *n))
                .collect();
            let seen = || counted(service.name, &service.sidecar.metrics().unwrap());
            let what = format!("the counts of {}", service.name);
            let waited = wait_until(SOON, &what, || Ok((seen() == expected).then_some(())));
            assert!(waited.is_ok(), "{what}: expected {expected:#?}, seen {:#?}", seen());
        }
    }
}

fn assert_refused_and_explained(
    caller: &str,
    row: &Row<'_>,
    answer: &Answer,
    record: &RequestRecord,
    line: &str,
) {
    assert_eq!(answer.body, "RBAC: access denied");
    assert!(answer.head.contains("pillion-reason: authorization_denied\r\n"), "{}", answer.head);
    assert_eq!(record.reason, Reason::AuthorizationDenied);
    let because = &record.authorization.as_ref().unwrap().because;
    let named = match (caller, row.service) {
        ("dev-service", _) => "ns[production]-policy[deny-from-untrusted]-rule[0] matches".to_owned(),
        (_, "product-catalog") => {
            "ns[production]-policy[allow-frontend-to-catalog]-rule[0]: ".to_owned() + missed(caller, row)
        }
        (_, "orders") => {
            "ns[production]-policy[allow-payment-to-orders]-rule[0]: ".to_owned() + missed(caller, row)
        }
        _ => "production/deny-all has no rules and matches nothing".to_owned(),
    };
    assert!(because.contains(&named), "{caller} {}: expected {named} in {because}", row.target);
    assert!(line.contains("authorization_denied") && line.contains(because), "{line}");
}

/// On which field the one ALLOW rule of the service failed.
fn missed(caller: &str, row: &Row<'_>) -> &'static str {
    match (caller, row.service, row.method) {
        ("frontend", "product-catalog", "GET") | ("payment-service", "orders", "GET") => {
            "to[0].operation.paths: expected "
        }
        ("frontend", "product-catalog", _) | ("payment-service", "orders", _) => {
            "to[0].operation.methods: expected "
        }
        _ => "from[0].source.principals: expected ",
    }
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let mut lines = table.lines().filter(|line| !line.is_empty()).map(|line| line.split_once('|').unwrap());
    let callers: Vec<&str> = lines.next().unwrap().1.split_whitespace().collect();
    lines.map(|(asked, cells)| row(&callers, asked, cells)).collect()
}

fn row<'t>(callers: &[&'t str], asked: &'t str, cells: &'t str) -> Row<'t> {
    let asked: Vec<&str> = asked.split_whitespace().collect();
    let cells: Vec<&str> = cells.split_whitespace().collect();
    assert_eq!(cells.len(), callers.len(), "{asked:?}");
    let cells = callers.iter().copied().zip(cells).collect();
    Row { service: asked[0], method: asked[1], target: asked[2], cells }
}

/// `istio_requests_total` as the service itself reports it. A caller without identity is called `unknown` there.
fn counted(service: &str, metrics: &str) -> Counts {
    let mut counts = Counts::new();
    for line in metrics.lines().filter(|line| line.starts_with("istio_requests_total{")) {
        let label = |name: &str| {
            let (_, rest) =
                line.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name} in {line}"));
            rest.split('"').next().unwrap()
        };
        assert_eq!((label("reporter"), label("request_protocol")), ("destination", "http"), "{line}");
        let caller = label("source_workload").replace("unknown", "stranger");
        let mutual = if caller == "stranger" { "none" } else { "mutual_tls" };
        assert_eq!(label("connection_security_policy"), mutual, "{line}");
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        *counts.entry((service.to_owned(), caller, label("response_code").parse().unwrap())).or_default() +=
            count;
    }
    counts
}
