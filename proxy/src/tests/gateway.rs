//! The edge: plaintext from strangers, mutual TLS to services of the mesh, by host and path.

use std::collections::BTreeMap;
use std::io;

use hyper::client::conn::http2;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_mesh::policy::mode::Mode;
use rstest::rstest;
use tokio::net::TcpListener;

use super::http::{Answered, App, ask, head, policy};
use super::*;

const GATEWAY: &str = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gateway}\n\
                       spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}\n";

fn routes(name: &str, host: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: ['{host}'], gateways: [gateway], http: [{http}]}}\n"
    )
}

fn to(service: &str) -> String {
    format!("{{route: [{{destination: {{host: {service}}}}}]}}")
}

/// A service of which `at` is the endpoint: with a sidecar where an account is named.
fn service(name: &str, at: SocketAddr, protocol: &str, account: Option<&str>) -> String {
    let sidecar = account.map_or_else(String::new, |account| {
        format!(", serviceAccount: {account}, labels: {{security.istio.io/tlsMode: istio}}")
    });
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: [{name}.default.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, \
         ports: [{{number: 80, name: web, protocol: {protocol}, targetPort: {}}}], \
         endpoints: [{{address: {}{sidecar}}}]}}\n",
        at.port(),
        at.ip()
    )
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An edge proxy, and where its port 80 is.
struct Edge {
    sidecar: Sidecar,
    address: SocketAddr,
}

impl Edge {
    async fn start(lab: &Lab, more: &str) -> Self {
        let port = free_port();
        let settings = format!("gateway: {{address: 127.0.0.1, ports: {{80: {port}}}}}\n{more}");
        let sidecar = lab.labelled_sidecar("edge", "istio: ingressgateway", &settings).await;
        Self { sidecar, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    async fn get(&self, host: &str, path: &str) -> io::Result<Answered> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        ask(&mut stream, request.as_bytes()).await
    }
}

/// customers has a sidecar, web has none: the edge speaks mutual TLS to the one and plaintext to the other.
#[tokio::test]
async fn a_request_goes_where_its_host_and_path_lead() {
    let lab = Lab::new();
    lab.resources(Some(GATEWAY));
    let (customers, web) = (App::start().await, App::start().await);
    let backend = lab.in_front_of(customers.address, "").await;
    lab.resources(Some(
        &[
            GATEWAY.to_owned(),
            service("customers", backend.inbound(), "HTTP", Some("backend")),
            service("web", web.address, "HTTP", None),
            routes("web", "*", &to("web")),
            routes("customers", "customers.example", &to("customers")),
            routes(
                "api",
                "api.example",
                &format!(
                    "{{match: [{{uri: {{prefix: /customers/}}}}], {}, {}",
                    &to("customers")[1..],
                    to("web")
                ),
            ),
            declared(customers.address, "HTTP"),
        ]
        .concat(),
    ));
    backend.eventually("the new resources", || backend.running.shared.snapshot.borrow().version > 1).await;
    let edge = Edge::start(&lab, "").await;
    for (host, path, served) in [
        ("customers.example", "/1", "customers"),
        ("CUSTOMERS.example.:80", "/2", "customers"),
        ("api.example", "/customers/3", "customers"),
        ("api.example", "//x/../customers/4", "customers"),
        ("api.example", "/else", "web"),
        ("anything", "/", "web"),
    ] {
        let before = (customers.heard().len(), web.heard().len());
        let answer = edge.get(host, path).await.unwrap();
        assert_eq!(answer.status, 200, "{host}{path}: {answer:?}");
        let grown = (customers.heard().len() - before.0, web.heard().len() - before.1);
        let expected = if served == "customers" { (1, 0) } else { (0, 1) };
        assert_eq!(grown, expected, "{host}{path}");
    }
    let heard = &customers.heard()[0];
    assert!(
        heard.field("x-forwarded-client-cert")[0].ends_with("URI=spiffe://cluster.local/ns/default/sa/edge"),
        "customers' sidecar has seen the edge's identity: {heard:?}"
    );
    assert_eq!(
        (heard.field("x-forwarded-for"), heard.field("x-forwarded-proto")),
        (vec!["127.0.0.1"], vec!["http"])
    );
    let metrics = edge.sidecar.metrics();
    for wanted in [
        "istio_requests_total{reporter=\"source\",source_workload=\"edge\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/backend\"",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in {metrics}");
    }
}

/// What a stranger claims of others is not passed on; whom he came by, he may say.
#[tokio::test]
async fn a_stranger_brings_no_identity_in() {
    let lab = Lab::new();
    let web = App::start().await;
    lab.resources(Some(
        &[GATEWAY.to_owned(), service("web", web.address, "HTTP", None), routes("web", "*", &to("web"))]
            .concat(),
    ));
    let edge = Edge::start(&lab, "").await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let fields = "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/admin\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(ask(&mut stream, &head("GET", "/", fields)).await.unwrap().status, 200);
    let heard = &web.heard()[0];
    assert_eq!(heard.field("x-forwarded-client-cert"), [""; 0]);
    assert_eq!(heard.field("x-forwarded-for"), ["192.0.2.7, 127.0.0.1"]);
    assert_eq!(heard.field("x-forwarded-proto"), ["http"]);
}

#[rstest]
#[case::no_host("other", "/", 404, "no_route")]
#[case::no_path("web", "/else", 404, "no_route")]
#[case::nobody_there("gone", "/", 503, "destination_unreachable")]
#[case::unknown_service("astray", "/", 503, "destination_unknown")]
#[case::malformed("web", "/%zz", 400, "request_malformed")]
#[case::denied("web", "/api/secret", 403, "authorization_denied")]
#[case::through("web", "/api/", 200, "")]
#[tokio::test]
async fn a_request_that_leads_nowhere_is_told_so(
    #[case] host: &str,
    #[case] path: &str,
    #[case] status: u16,
    #[case] reason: &str,
) {
    let lab = Lab::new();
    let web = App::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let prefixed = format!("{{match: [{{uri: {{prefix: /api}}}}], {}", &to("web")[1..]);
    lab.resources(Some(
        &[
            GATEWAY.to_owned(),
            service("web", web.address, "HTTP", None),
            service("gone", nobody, "HTTP", None),
            routes("web", "web", &prefixed),
            routes("gone", "gone", &to("gone")),
            routes("astray", "astray", &to("astray")),
            policy(
                "edge",
                "{action: DENY, rules: [{to: [{operation: {paths: ['*/secret'], ports: ['80']}}]}]}",
            ),
        ]
        .concat(),
    ));
    let edge = Edge::start(&lab, "").await;
    let answer = edge.get(host, path).await.unwrap();
    assert_eq!(
        (answer.status, answer.field("pillion-reason").unwrap_or_default()),
        (status, reason),
        "{answer:?}"
    );
}

/// What the client speaks and what the service speaks need not be the same.
#[rstest]
#[case::to_http1("HTTP", "HTTP/1.1")]
#[case::to_http2("HTTP2", "HTTP/2.0")]
#[tokio::test]
async fn many_requests_at_once_go_on_in_the_services_version(#[case] protocol: &str, #[case] version: &str) {
    let lab = Lab::new();
    lab.resources(Some(GATEWAY));
    let app = App::start().await;
    let backend = lab.in_front_of(app.address, "").await;
    lab.resources(Some(
        &[
            GATEWAY.to_owned(),
            declared(app.address, protocol),
            service("customers", backend.inbound(), protocol, Some("backend")),
            routes("customers", "*", &to("customers")),
        ]
        .concat(),
    ));
    let edge = Edge::start(&lab, "").await;
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let requests = (0..30).map(|number| {
        let mut sender = sender.clone();
        async move {
            let request = Request::post(format!("http://customers/{number}"))
                .version(Version::HTTP_2)
                .body(http_body_util::Full::<hyper::body::Bytes>::from("hello"))
                .unwrap();
            timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap().status().as_u16()
        }
    });
    let mut asked = tokio::task::JoinSet::new();
    requests.for_each(|request| drop(asked.spawn(request)));
    assert!(asked.join_all().await.into_iter().all(|status| status == 200));
    let heard = app.heard();
    assert_eq!(heard.len(), 30);
    assert!(
        heard
            .iter()
            .all(|heard| heard.version == version && heard.body == b"hello" && heard.host == "customers")
    );
}

/// Connections are kept for the client's next requests, and the policies at the other side are asked each time.
#[tokio::test]
async fn a_client_keeps_its_way_for_its_next_requests() {
    let lab = Lab::new();
    lab.resources(Some(GATEWAY));
    let app = App::start().await;
    let backend = lab.in_front_of(app.address, "").await;
    let resources = [
        GATEWAY.to_owned(),
        declared(app.address, "HTTP"),
        service("customers", backend.inbound(), "HTTP", Some("backend")),
        routes("customers", "*", &to("customers")),
    ]
    .concat();
    lab.resources(Some(&resources));
    let edge = Edge::start(&lab, "").await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&mut stream, &head("GET", "/", "")).await.unwrap().status, 200);
    }
    let opened: u64 = opened_at_the_destination(&backend);
    assert_eq!(opened, 1, "{}", backend.metrics());
}

fn opened_at_the_destination(sidecar: &Sidecar) -> u64 {
    sidecar
        .metrics()
        .lines()
        .filter(|line| line.starts_with("istio_tcp_connections_opened_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// An explicit DISABLE against a STRICT server breaks, as in Istio; and a change of it takes the kept connections along.
#[tokio::test]
async fn a_changed_rule_takes_effect_for_the_next_request_of_a_client() {
    const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    const DISABLE: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: customers}\n\
                           spec: {host: customers.default.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}\n";
    let lab = Lab::new();
    lab.resources(Some(GATEWAY));
    let app = App::start().await;
    let backend = lab.in_front_of(app.address, "").await;
    let resources = [
        GATEWAY.to_owned(),
        STRICT.to_owned(),
        service("customers", backend.inbound(), "HTTP", Some("backend")),
        routes("customers", "*", &to("customers")),
    ]
    .concat();
    lab.resources(Some(&resources));
    let edge = Edge::start(&lab, "").await;
    let mode = || backend.running.shared.snapshot.borrow().snapshot.modes.for_port(app.address.port()).mode;
    backend.eventually("STRICT at the backend", || mode() == Mode::Strict).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    // A service that comes with each change: what is known of it is in force with all else. Names that are looked up again
    // make new versions too.
    let knows = |host: &str| {
        let published = edge.sidecar.running.shared.snapshot.borrow();
        published.snapshot.registry.lookup_host(host, 80, 0).is_ok()
    };
    assert_eq!(ask(&mut stream, &head("GET", "/", "")).await.unwrap().status, 200);
    for (resources, status, marker) in
        [(resources.clone() + DISABLE, 503, "first"), (resources.clone(), 200, "second")]
    {
        let marked = resources + &service(marker, app.address, "HTTP", None);
        lab.resources(Some(&marked));
        let host = format!("{marker}.default.svc.cluster.local");
        edge.sidecar.eventually("the change", || knows(&host)).await;
        let answer = ask(&mut stream, &head("GET", "/", "")).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    }
    assert_eq!(app.heard().len(), 2);
}

#[rstest]
#[case::v1("v1", "v1")]
#[case::v2("v2", "v2")]
#[tokio::test]
async fn a_subset_is_its_endpoints(#[case] subset: &str, #[case] served: &str) {
    let lab = Lab::new();
    let apps = BTreeMap::from([("v1", App::start().await), ("v2", App::start().await)]);
    let endpoints: Vec<String> = apps
        .iter()
        .map(|(version, app)| {
            format!(
                "{{address: 127.0.0.1, ports: {{web: {}}}, labels: {{version: {version}}}}}",
                app.address.port()
            )
        })
        .collect();
    let resources = format!(
        "{GATEWAY}---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: web}}\n\
         spec: {{hosts: [web], location: MESH_INTERNAL, resolution: STATIC, ports: [{{number: 80, name: web, protocol: HTTP}}], endpoints: [{}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web}}\n\
         spec: {{host: web, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n{}",
        endpoints.join(", "),
        routes("web", "*", &format!("{{route: [{{destination: {{host: web, subset: {subset}}}}}]}}")),
    );
    lab.resources(Some(&resources));
    let edge = Edge::start(&lab, "").await;
    for _ in 0..4 {
        assert_eq!(edge.get("web", "/").await.unwrap().status, 200);
    }
    for (version, app) in &apps {
        assert_eq!(app.heard().len(), if *version == served { 4 } else { 0 }, "{version}");
    }
}

/// Ports come and go with the resources; one that is taken is told and tried again.
#[tokio::test]
async fn ports_follow_the_gateways_in_force() {
    let lab = Lab::new();
    let web = App::start().await;
    let rest = [service("web", web.address, "HTTP", None), routes("web", "*", &to("web"))].concat();
    lab.resources(Some(&(GATEWAY.to_owned() + &rest)));
    let edge = Edge::start(&lab, "").await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = taken.local_addr().unwrap().port();
    let with_second = GATEWAY.replace(
        "servers: [",
        &format!("servers: [{{port: {{number: {second}, name: b, protocol: HTTP}}, hosts: ['*']}}, "),
    );
    assert_eq!(edge.get("web", "/").await.unwrap().status, 200);
    lab.resources(Some(&(with_second + &rest)));
    let fault = || {
        edge.sidecar
            .running
            .shared
            .gateway
            .list()
            .iter()
            .any(|port| port.port == second && port.fault.is_some())
    };
    edge.sidecar.eventually("word of the port that is taken", fault).await;
    drop(taken);
    let open = || {
        edge.sidecar
            .running
            .shared
            .gateway
            .list()
            .iter()
            .any(|port| port.port == second && port.fault.is_none())
    };
    edge.sidecar.eventually("the port to be listened on", open).await;
    let mut stream = TcpStream::connect(("127.0.0.1", second)).await.unwrap();
    assert_eq!(ask(&mut stream, &head("GET", "/", "")).await.unwrap().status, 200);
    lab.resources(Some(&rest));
    edge.sidecar.eventually("no port", || edge.sidecar.running.shared.gateway.list().is_empty()).await;
    edge.sidecar
        .eventually("the port to be closed", || std::net::TcpStream::connect(("127.0.0.1", second)).is_err())
        .await;
    assert_eq!(
        ask(&mut stream, &head("GET", "/", "")).await.unwrap().status,
        404,
        "an open connection finds no route"
    );
}

/// A port that is taken at the start takes nothing from the others; clients are sent here once it has been had.
#[tokio::test]
async fn the_edge_is_ready_once_its_ports_have_been_open() {
    let lab = Lab::new();
    let (taken, web) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), App::start().await);
    let port = taken.local_addr().unwrap().port();
    let second = GATEWAY.replace(
        "servers: [",
        &format!("servers: [{{port: {{number: {port}, name: b, protocol: HTTP}}, hosts: ['*']}}, "),
    );
    let rest = [service("web", web.address, "HTTP", None), routes("web", "*", &to("web"))].concat();
    lab.resources(Some(&(second.clone() + &rest)));
    let edge = Edge::start(&lab, "").await;
    assert_eq!(edge.get("web", "/").await.unwrap().status, 200);
    let readiness = || async {
        let mut stream = TcpStream::connect(edge.sidecar.running.addresses.readiness).await.unwrap();
        ask(&mut stream, &head("GET", "/healthz/ready", "")).await.unwrap()
    };
    let before = readiness().await;
    let because = before.body();
    assert_eq!(before.status, 503, "{because}");
    assert!(because.contains(&format!("gateway port {port} is not listened on at 127.0.0.1:{port}: ")));

    drop(taken);
    edge.sidecar.eventually("all ports", || edge.sidecar.running.shared.gateway.missing().is_none()).await;
    assert_eq!(readiness().await.status, 200);

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let third = second.replace(&port.to_string(), &other.local_addr().unwrap().port().to_string());
    lab.resources(Some(&(third + &rest)));
    let has_failed = || edge.sidecar.running.shared.gateway.list().iter().any(|port| port.fault.is_some());
    edge.sidecar.eventually("a port that is taken", has_failed).await;
    assert_eq!(readiness().await.status, 200);
}

/// A sidecar of the mesh is no edge because its labels say so: the setting does.
#[tokio::test]
async fn without_the_setting_no_port_is_opened() {
    let lab = Lab::new();
    lab.resources(Some(GATEWAY));
    let inbound = "inbound: {listeners: [{address: \"127.0.0.1:0\", forward: \"127.0.0.1:9\"}]}";
    let sidecar = lab.labelled_sidecar("edge", "istio: ingressgateway", inbound).await;
    assert_eq!(sidecar.running.shared.snapshot.borrow().snapshot.routes.ports().collect::<Vec<_>>(), [80]);
    assert_eq!(sidecar.running.shared.gateway.list(), []);
}
