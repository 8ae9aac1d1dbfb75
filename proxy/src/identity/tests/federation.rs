//! Bundles of other trust domains, from files and from endpoints that misbehave.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use pillion_mesh::spiffe::bundle::Bundle;
use pillion_mesh::workload::Workload;
use pillion_testkit::authority::dns_san;
use pillion_testkit::{Held, TestCa};
use rstest::rstest;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::DropGuard;

use super::*;
use crate::telemetry::{Scraped, Telemetry};
use crate::tls::{Bundles, Credentials};

const LONG: Duration = Duration::from_secs(20);
const FOREIGN: &str = "other.example";
/// Of the endpoint's certificate.
const ENDPOINT_ID: &str = "spiffe://other.example/bundle-endpoint";

fn foreign() -> TrustDomain {
    FOREIGN.parse().unwrap()
}

fn json(roots: &[&TestCa], sequence: u64) -> String {
    let roots = roots.iter().map(|root| root.root_certificate());
    serde_json::to_string(&Bundle::of(roots, Some(sequence), Some(Duration::from_secs(1)))).unwrap()
}

/// A proxy with an identity that believes others.
struct Believing {
    identity: Identity,
    own: Publisher,
    telemetry: Arc<Telemetry>,
    ca: TestCa,
    _stop: DropGuard,
}

impl Believing {
    fn in_bundle_of(bundle: BundleSource) -> Believing {
        Self::in_all(vec![Federated { trust_domain: foreign(), bundle }])
    }

    fn in_all(federation: Vec<Federated>) -> Believing {
        let (own, identity) = Publisher::new();
        let workload = Workload {
            name: "backend".to_owned(),
            trust_domain: trust_domain(),
            namespace: "default".to_owned(),
            service_account: "backend".to_owned(),
            labels: [].into(),
        };
        let telemetry = Arc::new(Telemetry::new(&workload));
        let (stop, tls) = (CancellationToken::new(), TlsSettings::default());
        let identity =
            federate(identity, &id(), federation, (tls, None, &Clock::system()), &telemetry, &stop);
        let believing =
            Believing { identity, own, telemetry, ca: TestCa::root("own root"), _stop: stop.drop_guard() };
        believing.renew();
        believing
    }

    /// A new certificate of our own.
    fn renew(&self) -> String {
        let held = self.ca.issue(ID);
        let bundles = Bundles::from_der(&trust_domain(), [self.ca.root_certificate().clone()]).unwrap();
        let generation = self.own.next_generation();
        let (tls, clock) = (TlsSettings::default(), Clock::system());
        let credentials = Credentials::new(held.chain, &held.key, bundles, tls, &clock, generation).unwrap();
        let serial = credentials.svid.serial.clone();
        self.own.publish(credentials);
        serial
    }

    /// Waits until the roots of a trust domain are these; `None` for no bundle at all.
    async fn trusts(&self, trust_domain: &TrustDomain, roots: Option<&[&TestCa]>) {
        let mut live = self.identity.credentials.clone();
        let wanted = |current: &Option<Arc<Credentials>>| {
            current.as_ref().is_some_and(|current| {
                assert!(current.bundles().roots(&id().trust_domain()).is_some_and(|own| own.len() == 1));
                let seen = current.bundles().roots(trust_domain);
                let seen: Option<Vec<_>> =
                    seen.map(|seen| seen.iter().map(|root| root.der.clone()).collect());
                let roots: Option<Vec<_>> =
                    roots.map(|roots| roots.iter().map(|root| root.root_certificate().clone()).collect());
                seen == roots
            })
        };
        timeout(LONG, live.wait_for(wanted)).await.expect("it does not come to trust them").unwrap();
    }

    /// Waits until this many tries have failed.
    async fn failed(&self, times: usize) {
        let line = "pillion_federation_refresh_total{trust_domain=\"other.example\",result=\"failure\"} ";
        let failures = || {
            let page = self.telemetry.encode(&Scraped::default());
            page.lines().find_map(|found| found.strip_prefix(line)?.parse::<usize>().ok()).unwrap_or(0)
        };
        let waited = timeout(LONG, async {
            while failures() < times {
                sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("nothing failed");
    }
}

// Files

struct File {
    folder: TempDir,
}

impl File {
    fn holding(text: &str) -> File {
        let file = File { folder: tempfile::tempdir().unwrap() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn write(&self, text: &str) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.path()).unwrap();
    }
}

#[rstest]
#[case::spiffe_bundle(|root: &TestCa| json(&[root], 1))]
#[case::pem(TestCa::bundle_pem)]
#[tokio::test]
async fn a_file_in_either_form_makes_a_trust_domain_known(#[case] print: fn(&TestCa) -> String) {
    let root = TestCa::root("foreign root");
    let file = File::holding(&print(&root));
    let believing = Believing::in_bundle_of(BundleSource::File(file.path()));
    believing.trusts(&foreign(), Some(&[&root])).await;
}

#[tokio::test]
async fn a_file_that_changes_is_followed_and_our_own_renewals_keep_it() {
    let (root, next) = (TestCa::root("foreign root"), TestCa::root("next foreign root"));
    let file = File::holding(&json(&[&root], 1));
    let believing = Believing::in_bundle_of(BundleSource::File(file.path()));
    believing.trusts(&foreign(), Some(&[&root])).await;
    file.write(&json(&[&root, &next], 2));
    believing.trusts(&foreign(), Some(&[&root, &next])).await;

    let before = believing.identity.credentials.borrow().as_ref().unwrap().generation();
    let serial = believing.renew();
    let mut live = believing.identity.credentials.clone();
    let renewed = |current: &Option<Arc<Credentials>>| {
        current.as_ref().is_some_and(|current| current.svid.serial == serial)
    };
    timeout(LONG, live.wait_for(renewed)).await.unwrap().unwrap();
    believing.trusts(&foreign(), Some(&[&root, &next])).await;
    assert!(live.borrow().as_ref().unwrap().generation() > before, "each change counts up");
}

#[rstest]
#[case::empty("")]
#[case::cut_off("{\"keys\": [")]
#[case::no_bundle("{}")]
#[case::a_leaf("leaf")]
#[tokio::test]
async fn a_file_that_becomes_unreadable_takes_nothing_away(#[case] text: &str) {
    let root = TestCa::root("foreign root");
    let file = File::holding(&json(&[&root], 1));
    let believing = Believing::in_bundle_of(BundleSource::File(file.path()));
    believing.trusts(&foreign(), Some(&[&root])).await;
    let leaf = root.issue(ENDPOINT_ID).chain_pem();
    file.write(if text == "leaf" { &leaf } else { text });
    believing.failed(1).await;
    let fault = believing.identity.federation()[&foreign()].clone().unwrap();
    assert!(fault.starts_with(&format!("{}: ", file.path().display())), "{fault}");
    believing.trusts(&foreign(), Some(&[&root])).await;
    fs::remove_file(file.path()).unwrap();
    believing.failed(2).await;
    believing.trusts(&foreign(), Some(&[&root])).await;
}

#[tokio::test]
async fn a_bundle_without_roots_revokes_them_all() {
    let root = TestCa::root("foreign root");
    let file = File::holding(&json(&[&root], 1));
    let believing = Believing::in_bundle_of(BundleSource::File(file.path()));
    believing.trusts(&foreign(), Some(&[&root])).await;
    file.write("{\"keys\": [], \"spiffe_sequence\": 2}");
    believing.trusts(&foreign(), Some(&[])).await;
}

// Endpoints

/// A bundle endpoint.
struct Server {
    address: SocketAddr,
    says: Arc<Mutex<(StatusCode, String)>>,
    shows: Arc<Mutex<Held>>,
}

impl Server {
    async fn showing(held: Held, body: String) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new((StatusCode::OK, body)));
        let shows = Arc::new(Mutex::new(held));
        let server = Server { address, says: says.clone(), shows: shows.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let config = pillion_testkit::tls::outside_server(&shows.lock().unwrap(), None);
                let says = says.clone();
                tokio::spawn(async move {
                    let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
                    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                        assert_eq!(request.uri().path(), "/v1/bundle");
                        let (status, body) = says.lock().unwrap().clone();
                        let answer = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                        std::future::ready(Ok::<_, Infallible>(answer.unwrap()))
                    });
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok()
                });
            }
        });
        server
    }

    fn says(&self, status: StatusCode, body: String) {
        *self.says.lock().unwrap() = (status, body);
    }

    fn shows(&self, held: Held) {
        *self.shows.lock().unwrap() = held;
    }

    fn by(&self, trust: EndpointTrust) -> BundleSource {
        let port = self.address.port();
        BundleSource::Endpoint(Endpoint {
            host: "localhost".to_owned(),
            port,
            path: "/v1/bundle".to_owned(),
            trust,
        })
    }

    fn spiffe(&self, first: Option<&Path>) -> BundleSource {
        let id = ENDPOINT_ID.parse().unwrap();
        self.by(EndpointTrust::Spiffe { id, first: first.map(Path::to_owned) })
    }
}

#[tokio::test]
async fn a_spiffe_endpoint_is_believed_by_the_first_bundle_and_then_by_the_newest() {
    let (root, next) = (TestCa::root("foreign root"), TestCa::root("next foreign root"));
    let server = Server::showing(root.issue(ENDPOINT_ID), json(&[&root, &next], 1)).await;
    let first = File::holding(&root.bundle_pem());
    let believing = Believing::in_bundle_of(server.spiffe(Some(&first.path())));
    believing.trusts(&foreign(), Some(&[&root, &next])).await;
    server.shows(next.issue(ENDPOINT_ID));
    server.says(StatusCode::OK, json(&[&next], 2));
    believing.trusts(&foreign(), Some(&[&next])).await;
}

#[rstest]
#[case::another_id("spiffe://other.example/somebody-else")]
#[case::an_id_of_ours(ID)]
#[case::another_case("spiffe://other.example/Bundle-endpoint")]
#[tokio::test]
async fn a_spiffe_endpoint_that_is_somebody_else_is_not_believed(#[case] shown: &str) {
    let root = TestCa::root("foreign root");
    let server = Server::showing(root.issue(shown), json(&[&root], 1)).await;
    let first = File::holding(&root.bundle_pem());
    let believing = Believing::in_bundle_of(server.spiffe(Some(&first.path())));
    believing.failed(2).await;
    believing.trusts(&foreign(), None).await;
}

/// Requirement 5: a root of one trust domain vouches for nobody of another, endpoints included.
#[tokio::test]
async fn req_05_a_spiffe_endpoint_is_not_believed_by_our_own_root() {
    let root = TestCa::root("foreign root");
    let server = Server::showing(root.issue(ENDPOINT_ID), json(&[&root], 1)).await;
    let first = File::holding(&root.bundle_pem());
    let believing = Believing::in_bundle_of(server.spiffe(Some(&first.path())));
    believing.trusts(&foreign(), Some(&[&root])).await;
    server.shows(believing.ca.issue(ENDPOINT_ID));
    server.says(StatusCode::OK, json(&[&TestCa::root("a thief's root")], 9));
    believing.failed(1).await;
    believing.trusts(&foreign(), Some(&[&root])).await;
}

#[tokio::test]
async fn an_endpoint_of_a_third_trust_domain_is_believed_by_the_bundle_of_that() {
    let (root, third) = (TestCa::root("foreign root"), TestCa::root("third root"));
    let server = Server::showing(third.issue("spiffe://third.example/endpoint"), json(&[&root], 1)).await;
    let file = File::holding(&third.bundle_pem());
    let id = "spiffe://third.example/endpoint".parse().unwrap();
    let believing = Believing::in_all(vec![
        Federated { trust_domain: foreign(), bundle: server.by(EndpointTrust::Spiffe { id, first: None }) },
        Federated { trust_domain: "third.example".parse().unwrap(), bundle: BundleSource::File(file.path()) },
    ]);
    believing.trusts(&foreign(), Some(&[&root])).await;
}

fn web(root: &TestCa, name: &str) -> Held {
    root.issue_with(ENDPOINT_ID, |params| params.subject_alt_names = vec![dns_san(name)])
}

#[tokio::test]
async fn a_web_endpoint_is_believed_by_name_and_ca_file_and_follows_the_roots_that_it_gives() {
    let (root, next) = (TestCa::root("foreign root"), TestCa::root("next foreign root"));
    let server = Server::showing(web(&root, "localhost"), json(&[&root, &next], 1)).await;
    let ca_file = File::holding(&root.bundle_pem());
    let trust = EndpointTrust::Web { ca_file: Some(ca_file.path()) };
    let believing = Believing::in_bundle_of(server.by(trust));
    believing.trusts(&foreign(), Some(&[&root, &next])).await;
    server.shows(web(&next, "localhost"));
    server.says(StatusCode::OK, json(&[&next], 2));
    believing.trusts(&foreign(), Some(&[&next])).await;
}

#[rstest]
#[case::another_name("elsewhere.example", true)]
#[case::another_root("localhost", false)]
#[tokio::test]
async fn a_web_endpoint_of_another_name_or_root_is_not_believed(#[case] name: &str, #[case] known: bool) {
    let root = TestCa::root("foreign root");
    let server = Server::showing(web(&root, name), json(&[&root], 1)).await;
    let ca_file = File::holding(&if known { root.bundle_pem() } else { TestCa::root("other").bundle_pem() });
    let believing = Believing::in_bundle_of(server.by(EndpointTrust::Web { ca_file: Some(ca_file.path()) }));
    believing.failed(2).await;
    believing.trusts(&foreign(), None).await;
}

#[rstest]
#[case::an_error(StatusCode::INTERNAL_SERVER_ERROR, "{\"keys\": []}")]
#[case::a_redirect(StatusCode::FOUND, "")]
#[case::no_bundle(StatusCode::OK, "<html>")]
#[case::older(StatusCode::OK, "{\"keys\": [], \"spiffe_sequence\": 1}")]
#[tokio::test]
async fn an_answer_that_is_no_newer_bundle_takes_nothing_away(
    #[case] status: StatusCode,
    #[case] body: &str,
) {
    let root = TestCa::root("foreign root");
    let server = Server::showing(root.issue(ENDPOINT_ID), json(&[&root], 2)).await;
    let first = File::holding(&root.bundle_pem());
    let believing = Believing::in_bundle_of(server.spiffe(Some(&first.path())));
    believing.trusts(&foreign(), Some(&[&root])).await;
    server.says(status, body.to_owned());
    believing.failed(1).await;
    believing.trusts(&foreign(), Some(&[&root])).await;
}
