//! DestinationRules on real connections: which TLS a destination gets, and what changes while a connection is open.

use std::io;

use pillion_mesh::wire::{ConnectionRecord, TlsMode};
use pillion_testkit::peer;
use pillion_testkit::tls::outside_server;
use rstest::rstest;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

const LISTENER: &str =
    "outbound: {listeners: [{address: \"127.0.0.1:0\", destination: \"api.example.com:443\"}]}";
const HOST: &str = "api.example.com";

/// The service `api.example.com:443` at `endpoint`; `more` is the rest of its spec.
fn entry(endpoint: SocketAddr, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: api}}\nspec:\n  hosts: [{HOST}]\n  \
         resolution: STATIC\n  ports: [{{number: 443, name: tcp, protocol: TCP, targetPort: {}}}]\n  \
         endpoints: [{{address: {}{more}}}]\n",
        endpoint.port(),
        endpoint.ip(),
    )
}

/// A rule for it.
fn rule(policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api}}\nspec: {{host: {HOST}, \
         trafficPolicy: {{{policy}}}}}\n"
    )
}

const IN_THE_MESH: &str = ", serviceAccount: backend, labels: {security.istio.io/tlsMode: istio}";

impl Lab {
    /// SIMPLE by the lab's own root; `more` are further fields.
    fn simple(&self, more: &str) -> String {
        let path = self.folder.path().join("ca.pem");
        fs::write(&path, self.ca.bundle_pem()).unwrap();
        format!("tls: {{mode: SIMPLE, caCertificates: {}{more}}}", path.display())
    }

    /// MUTUAL, with a certificate of `id`.
    fn mutual(&self, id: &str) -> String {
        let folder = self.folder.path().join("outside");
        fs::create_dir_all(&folder).unwrap();
        let paths = self.ca.issue(id).write(&folder, &self.ca.bundle_pem());
        format!(
            "tls: {{mode: MUTUAL, clientCertificate: {}, privateKey: {}, caCertificates: {}}}",
            paths.certificate.display(),
            paths.key.display(),
            paths.bundle.display()
        )
    }
}

/// A server that echoes inside its TLS.
struct TlsEcho {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for TlsEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tls_echo(config: ServerConfig) -> TlsEcho {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let task = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            open.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut from, mut to) = tokio::io::split(stream);
                if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                    let _ = to.shutdown().await;
                }
            });
        }
    });
    TlsEcho { address, task }
}

async fn echoes(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    if answer == *b"hello" { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}

impl Sidecar {
    fn only_connection(&self) -> ConnectionRecord {
        let mut open = self.running.shared.connections.list();
        assert_eq!(open.len(), 1, "{open:?}");
        open.remove(0)
    }

    /// Waits until a connection that was open has ended for `reason`.
    async fn cut(&self, reason: Reason) {
        let wanted = format!("reason=\"{}\"", reason.id());
        self.eventually(&format!("an end with {wanted}"), || {
            self.metrics()
                .lines()
                .any(|line| line.starts_with("pillion_connections_ended_total") && line.contains(&wanted))
        })
        .await;
    }

    /// Waits until the listener's destination is dialled for this reason.
    async fn plans(&self, because: &str) {
        self.eventually(&format!("a plan because of {because}"), || {
            let published = self.running.shared.snapshot.borrow().clone();
            let known = published.snapshot.registry.lookup_host(HOST, 443, 0);
            published.snapshot.plan(known.as_ref().ok()).because.contains(because)
        })
        .await;
    }
}

#[tokio::test]
async fn simple_and_mutual_speak_tls_to_a_server_outside_the_mesh() {
    let lab = Lab::new();
    let server = lab.ca.issue_server(&[HOST]);
    for (policy, clients, mode, local) in [
        (lab.simple(""), None, TlsMode::Simple, ""),
        (lab.mutual("spiffe://outside/client"), Some(&lab.ca), TlsMode::Mutual, "spiffe://outside/client"),
    ] {
        let echo = tls_echo(outside_server(&server, clients)).await;
        lab.resources(Some(&(entry(echo.address, "") + &rule(&policy))));
        let client = lab.sidecar("frontend", LISTENER).await;
        let _open = echoes(client.outbound()).await.unwrap();
        let record = client.only_connection();
        assert!(record.plan.unwrap().contains("DestinationRule default/api says"));
        let tls = record.tls.unwrap();
        assert_eq!((tls.mode, tls.peer.as_str(), tls.local.as_str()), (mode, HOST, local));
    }
}

#[rstest]
#[case::by_the_port(true)]
#[case::of_another_port(false)]
#[tokio::test]
async fn a_setting_of_one_port_stands_for_that_port_alone(#[case] own: bool) {
    let lab = Lab::new();
    let echo = tls_echo(outside_server(&lab.ca.issue_server(&[HOST]), None)).await;
    let port = if own { 443 } else { 444 };
    let policy = format!("portLevelSettings: [{{port: {{number: {port}}}, {}}}]", lab.simple(""));
    lab.resources(Some(&(entry(echo.address, "") + &rule(&policy))));
    let client = lab.sidecar("frontend", LISTENER).await;
    assert_eq!(echoes(client.outbound()).await.is_ok(), own);
}

#[rstest]
#[case::another_name(|lab: &Lab| (lab.simple(""), lab.ca.issue_server(&["www.example.com"])), Reason::ServerNameUnexpected)]
#[case::another_name_is_wanted(|lab: &Lab| (lab.simple(", subjectAltNames: [x.example]"), lab.ca.issue_server(&[HOST])), Reason::ServerNameUnexpected)]
#[case::another_root(|lab: &Lab| (lab.simple(""), TestCa::root("a stranger").issue_server(&[HOST])), Reason::CertificateUntrusted)]
#[case::a_missing_file(|lab: &Lab| (lab.simple(", caCrl: /nonexistent/crl.pem"), lab.ca.issue_server(&[HOST])), Reason::TlsFilesUnusable)]
#[tokio::test]
async fn an_app_that_calls_a_server_that_is_not_believed_is_reset(
    #[case] of: fn(&Lab) -> (String, Held),
    #[case] reason: Reason,
) {
    let lab = Lab::new();
    let (policy, server) = of(&lab);
    let echo = tls_echo(outside_server(&server, None)).await;
    lab.resources(Some(&(entry(echo.address, "") + &rule(&policy))));
    let client = lab.sidecar("frontend", LISTENER).await;
    let error = peer::send_and_half_close(client.outbound(), b"secret").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    client.refused(reason).await;
}

/// An explicit rule wins over auto mTLS, also where that breaks: as with Istio's.
#[tokio::test]
async fn disable_speaks_plaintext_to_a_strict_server_which_refuses_it() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    const STRICT: &str = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    lab.resources(Some(STRICT));
    let server = lab.in_front_of(app.address, "").await;
    lab.resources(Some(&format!(
        "{}{STRICT}{}",
        entry(server.inbound(), IN_THE_MESH),
        rule("tls: {mode: DISABLE}")
    )));
    let client = lab.sidecar("frontend", LISTENER).await;
    assert!(echoes(client.outbound()).await.is_err());
    server.refused(Reason::StrictPlaintext).await;
    client.cut(Reason::ServerReset).await;
}

/// The endpoint is not known to have a sidecar; the rule says that it has one.
#[tokio::test]
async fn istio_mutual_is_spoken_to_whom_the_rule_says_by_secure_naming() {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let server = lab.in_front_of(app.address, "").await;
    lab.resources(Some(
        &(entry(server.inbound(), ", serviceAccount: backend") + &rule("tls: {mode: ISTIO_MUTUAL}")),
    ));
    let client = lab.sidecar("frontend", LISTENER).await;
    let _open = echoes(client.outbound()).await.unwrap();
    assert_eq!(client.only_connection().tls.unwrap().peer, Lab::id("backend"));

    let nobody = entry(server.inbound(), "") + &rule("tls: {mode: ISTIO_MUTUAL}");
    lab.resources(Some(&nobody));
    client.plans("names no identity").await;
    assert!(echoes(client.outbound()).await.is_err());
    client.refused(Reason::NoExpectedIdentity).await;
}

/// The rule of an open connection changes; with `keep` it goes on as with Envoy.
#[rstest]
#[case::close("", true)]
#[case::keep("policyChange: keep", false)]
#[tokio::test]
async fn a_rule_that_asks_for_other_tls_cuts_the_open_connection(#[case] setting: &str, #[case] cut: bool) {
    let lab = Lab::new();
    let echo = peer::echo_app().await;
    lab.resources(Some(&entry(echo.address, "")));
    let client = lab.sidecar("frontend", &format!("{LISTENER}\n{setting}")).await;
    let mut open = echoes(client.outbound()).await.unwrap();

    // What does not change how it is dialled leaves it.
    lab.resources(Some(&(entry(echo.address, "") + &rule("tls: {mode: DISABLE}"))));
    client.plans("says DISABLE").await;
    open.write_all(b"hello").await.unwrap();
    timeout(PATIENCE, open.read_exact(&mut [0; 5])).await.unwrap().unwrap();

    lab.resources(Some(&(entry(echo.address, "") + &rule(&lab.simple("")))));
    client.plans("says SIMPLE").await;
    if cut {
        let error = timeout(PATIENCE, open.read(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        client.cut(Reason::PolicyChanged).await;
    } else {
        open.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, open.read_exact(&mut [0; 5])).await.unwrap().unwrap();
    }
}

/// Bundle, certificate and key of a sidecar are replaced, as when the mesh's root is changed for another: each side cuts
/// what the other's old certificate had opened.
#[rstest]
#[case::of_the_server("backend", "")]
#[case::of_the_client("frontend", "")]
#[case::of_the_server_that_keeps("backend", "policyChange: keep")]
#[case::of_the_client_that_keeps("frontend", "policyChange: keep")]
#[tokio::test]
async fn req_16_a_bundle_without_the_peers_root_cuts_the_open_connection(
    #[case] whose: &str,
    #[case] setting: &str,
) {
    let lab = Lab::new();
    let app = peer::echo_app().await;
    let server = lab.in_front_of(app.address, setting).await;
    lab.resources(Some(&(entry(server.inbound(), IN_THE_MESH) + &rule("tls: {mode: ISTIO_MUTUAL}"))));
    let client = lab.sidecar("frontend", &format!("{LISTENER}\n{setting}")).await;
    let mut open = echoes(client.outbound()).await.unwrap();
    let sidecar = if whose == "backend" { &server } else { &client };

    let folder = lab.folder.path().join(whose);
    let before = sidecar.running.shared.credentials.borrow().as_ref().unwrap().generation();
    let generation =
        |sidecar: &Sidecar| sidecar.running.shared.credentials.borrow().as_ref().unwrap().generation();
    // Our own renewal, and another root besides: nothing.
    let other = TestCa::root("another root");
    let _ = lab.held(whose).write(&folder, &(lab.ca.bundle_pem() + &other.bundle_pem()));
    sidecar.eventually("the wider bundle", || generation(sidecar) > before).await;
    open.write_all(b"hello").await.unwrap();
    timeout(PATIENCE, open.read_exact(&mut [0; 5])).await.unwrap().unwrap();

    let before = generation(sidecar);
    let _ = other.issue(&Lab::id(whose)).write(&folder, &other.bundle_pem());
    if !setting.is_empty() {
        sidecar.eventually("the other bundle", || generation(sidecar) > before).await;
        open.write_all(b"hello").await.unwrap();
        timeout(PATIENCE, open.read_exact(&mut [0; 5])).await.unwrap().unwrap();
        return;
    }
    let error = timeout(PATIENCE, open.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    sidecar.cut(Reason::PolicyChanged).await;
}

/// While a trust domain is renamed, peers come under both names; who comes under a third is refused (requirement 5).
#[rstest]
#[case::our_own("cluster.local", true)]
#[case::the_alias("old.domain", true)]
#[case::a_third("other.domain", false)]
#[tokio::test]
async fn req_05_a_peer_of_an_alias_is_served_and_one_of_another_domain_is_not(
    #[case] trust_domain: &str,
    #[case] served: bool,
) {
    let lab = Lab::new();
    lab.mode(STRICT);
    let app = peer::echo_app().await;
    let server = lab.in_front_of(app.address, "trustDomainAliases: [old.domain]").await;
    let held = lab.ca.issue(&format!("spiffe://{trust_domain}/ns/default/sa/frontend"));
    let config = pillion_testkit::tls::client(&lab.ca, Some(&held));
    let stream = TcpStream::connect(server.inbound()).await.unwrap();
    let mut stream =
        TlsConnector::from(Arc::new(config)).connect(pillion_testkit::tls::any_name(), stream).await.unwrap();
    let called = async {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut [0; 5]).await
    };
    assert_eq!(timeout(PATIENCE, called).await.unwrap().is_ok(), served);
    if !served {
        server.refused(Reason::TrustDomainUnknown).await;
    }
}

/// Outbound too: a server of the alias may serve what the registry says of its account.
#[tokio::test]
async fn a_server_of_an_alias_is_believed() {
    let lab = Lab::new();
    let held = lab.ca.issue("spiffe://old.domain/ns/default/sa/backend");
    let echo = tls_echo(pillion_testkit::tls::server(&lab.ca, &held)).await;
    lab.resources(Some(&(entry(echo.address, IN_THE_MESH) + &rule("tls: {mode: ISTIO_MUTUAL}"))));
    let client = lab.sidecar("frontend", &format!("{LISTENER}\ntrustDomainAliases: [old.domain]")).await;
    let _open = echoes(client.outbound()).await.unwrap();
    assert_eq!(client.only_connection().tls.unwrap().peer, "spiffe://old.domain/ns/default/sa/backend");
}

/// `/certs` tells how the files of rules fare.
#[tokio::test]
async fn the_files_that_a_connection_needed_are_listed() {
    let lab = Lab::new();
    let echo = tls_echo(outside_server(&lab.ca.issue_server(&[HOST]), None)).await;
    let client = lab.sidecar("frontend", LISTENER).await;
    assert_eq!(client.running.shared.originator.files(), []);
    lab.resources(Some(&(entry(echo.address, "") + &rule(&lab.mutual("spiffe://outside/client")))));
    client.plans("says MUTUAL").await;
    echoes(client.outbound()).await.unwrap();
    let files = client.running.shared.originator.files();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().all(|file| file.loaded.is_some() && file.last_error.is_none()), "{files:?}");
}
