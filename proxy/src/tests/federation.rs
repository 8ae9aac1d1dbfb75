//! Peers of another trust domain: who believes them, who may be whom, and what changes while a connection is open.

use pillion_testkit::peer;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const FOREIGN_CLIENT: &str = "spiffe://other.example/ns/default/sa/frontend";
const FOREIGN_SERVER: &str = "spiffe://other.example/ns/default/sa/backend";

/// Settings by which `other.example` is believed, by the file `foreign.pem` of the lab.
fn federation(lab: &Lab) -> String {
    let file = lab.folder.path().join("foreign");
    format!("federation: [{{trustDomain: other.example, bundle: {{file: {}}}}}]", file.display())
}

fn foreign_bundle(lab: &Lab, text: &str) {
    let draft = lab.folder.path().join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, lab.folder.path().join("foreign")).unwrap();
}

/// Waits until the sidecar has a bundle of `other.example`.
async fn believing(sidecar: &Sidecar) {
    let other = "other.example".parse().unwrap();
    let credentials = sidecar.running.shared.credentials.clone();
    sidecar
        .eventually("a bundle of other.example", || {
            credentials.borrow().as_ref().is_some_and(|current| current.bundles().roots(&other).is_some())
        })
        .await;
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// A mutual TLS connection to the app behind a sidecar, which has echoed.
async fn call(lab: &Lab, sidecar: &Sidecar, held: &Held) -> std::io::Result<Tls> {
    let config = pillion_testkit::tls::client(&lab.ca, Some(held));
    let stream = TcpStream::connect(sidecar.inbound()).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(pillion_testkit::tls::any_name(), stream).await?;
    stream.write_all(b"hello").await?;
    timeout(PATIENCE, stream.read_exact(&mut [0; 5])).await.unwrap()?;
    Ok(stream)
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_is_let_in_only_with_its_bundle() {
    let (lab, foreign, app) = (Lab::new(), TestCa::root("foreign root"), peer::echo_app().await);
    lab.mode(STRICT);
    let held = foreign.issue(FOREIGN_CLIENT);
    let alone = lab.in_front_of(app.address, "").await;
    call(&lab, &alone, &held).await.unwrap_err();
    alone.refused(Reason::TrustDomainUnknown).await;

    foreign_bundle(&lab, &foreign.bundle_pem());
    let sidecar = lab.in_front_of(app.address, &federation(&lab)).await;
    believing(&sidecar).await;
    let _open = call(&lab, &sidecar, &held).await.unwrap();
    let seen = &sidecar.running.shared.connections.list()[0];
    assert_eq!(seen.tls.as_ref().unwrap().peer, FOREIGN_CLIENT);
}

/// Requirement 5: each root vouches for its own trust domain alone, however many bundles there are.
#[rstest]
#[case::our_root_for_them(true, FOREIGN_CLIENT)]
#[case::their_root_for_us(false, "spiffe://cluster.local/ns/default/sa/frontend")]
#[tokio::test]
async fn req_05_no_root_vouches_for_another_trust_domain(#[case] by_ours: bool, #[case] id: &str) {
    let (lab, foreign, app) = (Lab::new(), TestCa::root("foreign root"), peer::echo_app().await);
    lab.mode(STRICT);
    foreign_bundle(&lab, &foreign.bundle_pem());
    let sidecar = lab.in_front_of(app.address, &federation(&lab)).await;
    believing(&sidecar).await;
    let held = if by_ours { lab.ca.issue(id) } else { foreign.issue(id) };
    call(&lab, &sidecar, &held).await.unwrap_err();
    sidecar.refused(Reason::CertificateUntrusted).await;
}

#[rstest]
#[case::by_principal("principals: [other.example/ns/default/sa/frontend]", true)]
#[case::by_trust_domain("principals: ['other.example/*']", true)]
#[case::by_namespace_of_any_trust_domain("namespaces: [default]", true)]
#[case::by_our_trust_domain("principals: ['cluster.local/*']", false)]
#[case::the_same_path_with_us("principals: [cluster.local/ns/default/sa/frontend]", false)]
#[case::another_of_theirs("principals: [other.example/ns/default/sa/payments]", false)]
#[tokio::test]
async fn policies_speak_of_foreign_principals(#[case] source: &str, #[case] allowed: bool) {
    let (lab, foreign, app) = (Lab::new(), TestCa::root("foreign root"), peer::echo_app().await);
    lab.resources(Some(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\n\
         spec: {{rules: [{{from: [{{source: {{{source}}}}}]}}]}}\n"
    )));
    foreign_bundle(&lab, &foreign.bundle_pem());
    let sidecar = lab.in_front_of(app.address, &federation(&lab)).await;
    believing(&sidecar).await;
    let seen = call(&lab, &sidecar, &foreign.issue(FOREIGN_CLIENT)).await;
    assert_eq!(seen.is_ok(), allowed);
}

/// Requirement 16, for a foreign bundle: who is no longer vouched for is cut, and kept out.
#[rstest]
#[case::revoked_all(|_: &TestCa| "{\"keys\": []}".to_owned())]
#[case::another_root(|_: &TestCa| TestCa::root("next foreign root").bundle_pem())]
#[tokio::test]
async fn req_16_an_open_connection_ends_with_the_foreign_root(#[case] next: fn(&TestCa) -> String) {
    let (lab, foreign, app) = (Lab::new(), TestCa::root("foreign root"), peer::echo_app().await);
    lab.mode(STRICT);
    foreign_bundle(&lab, &foreign.bundle_pem());
    let sidecar = lab.in_front_of(app.address, &federation(&lab)).await;
    believing(&sidecar).await;
    let held = foreign.issue(FOREIGN_CLIENT);
    let mut theirs = call(&lab, &sidecar, &held).await.unwrap();
    let mut ours = call(&lab, &sidecar, &lab.held("frontend")).await.unwrap();
    foreign_bundle(&lab, &next(&foreign));
    timeout(PATIENCE, theirs.read(&mut [0; 1])).await.unwrap().unwrap_err();
    call(&lab, &sidecar, &held).await.unwrap_err();
    ours.write_all(b"still").await.unwrap();
    timeout(PATIENCE, ours.read_exact(&mut [0; 5])).await.unwrap().unwrap();
}

#[rstest]
#[case::named("subjectAltNames: [\"spiffe://other.example/ns/default/sa/backend\"]", true)]
#[case::not_named("subjectAltNames: [\"spiffe://other.example/ns/default/sa/somebody\"]", false)]
#[case::the_same_path_with_us("subjectAltNames: [\"spiffe://cluster.local/ns/default/sa/backend\"]", false)]
#[tokio::test]
async fn req_08_a_foreign_server_is_reached_only_where_it_is_named(
    #[case] names: &str,
    #[case] reached: bool,
) {
    let (lab, foreign) = (Lab::new(), TestCa::root("foreign root"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    // A server of the other trust domain that believes our clients.
    let config = pillion_testkit::tls::server(&lab.ca, &foreign.issue(FOREIGN_SERVER));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::new(config.clone()));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let (mut question, mut answer) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut question, &mut answer).await
            });
        }
    });
    lab.resources(Some(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\nspec:\n  \
         hosts: [backend.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: {}}}]\n  {names}\n  \
         endpoints: [{{address: {}, labels: {{security.istio.io/tlsMode: istio}}}}]\n",
        endpoint.port(),
        endpoint.ip(),
    )));
    foreign_bundle(&lab, &foreign.bundle_pem());
    let outbound = "outbound: {listeners: [{address: \"127.0.0.1:0\", destination: \"backend:80\"}]}";
    let sidecar = lab.sidecar("frontend", &format!("{outbound}\n{}", federation(&lab))).await;
    believing(&sidecar).await;
    let mut stream = TcpStream::connect(sidecar.outbound()).await.unwrap();
    let _ = stream.write_all(b"hello").await;
    let answered = timeout(PATIENCE, stream.read_exact(&mut [0; 5])).await.unwrap();
    assert_eq!(answered.is_ok(), reached);
    if !reached {
        sidecar.refused(Reason::IdentityUnexpected).await;
    }
}
