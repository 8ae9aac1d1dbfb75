//! A CA in memory with the API of `pillion-ca`, which does what its behaviour says.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pillion_testkit::{Held, TestCa, authority};
use rcgen::CertificateSigningRequestParams;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::identity::https::{Dial, Wire};
use crate::tls::provider;

pub(super) const TOKEN: &str = "a-token-that-nobody-may-log";

/// What the CA does with the next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Good,
    /// Nobody listens.
    Down,
    /// It accepts and never answers.
    Silent,
    /// Its answer is no PEM.
    Garbage,
    /// Its answer has no end.
    Endless,
    WrongIdentity,
    /// It certifies another key than was asked for.
    WrongKey,
    NotYetValid,
    AlreadyExpired,
    /// The chain does not lead to the bundle.
    OtherRoot,
    /// 401 to everybody.
    RefusesAll,
    /// 401 to a certificate; the token will do.
    RefusesCertificate,
    /// A TLS alert to a certificate; the token will do.
    RefusesCertificateByAlert,
    /// Its bundle is empty.
    NoBundle,
    /// Its own server certificate is of a root that nobody knows.
    Impostor,
    /// Its own server certificate has another name.
    OtherName,
    /// 500 with words that would forge a line of our log.
    ForgesLogLines,
}

/// One request for a certificate as the CA saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) token: Option<String>,
    /// The client certificate, if one was shown.
    pub(super) shown: Option<CertificateDer<'static>>,
    /// The public key asked for.
    pub(super) key: Vec<u8>,
    pub(super) query: Option<String>,
}

pub(super) struct FakeCa {
    state: Mutex<State>,
    clock: Clock,
}

struct State {
    behaviour: Behaviour,
    /// Signs leaves, and the CA's own server certificate.
    root: Arc<TestCa>,
    /// What it publishes.
    bundle: String,
    life: Duration,
    seen: Vec<Seen>,
    dialled: usize,
    failed_handshakes: usize,
}

impl FakeCa {
    pub(super) fn new(clock: Clock, life: Duration) -> Arc<FakeCa> {
        let root = Arc::new(TestCa::root("fake root"));
        let bundle = root.bundle_pem();
        let behaviour = Behaviour::Good;
        let state =
            State { behaviour, root, bundle, life, seen: Vec::new(), dialled: 0, failed_handshakes: 0 };
        Arc::new(FakeCa { state: Mutex::new(state), clock })
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    pub(super) fn root(&self) -> Arc<TestCa> {
        self.state.lock().unwrap().root.clone()
    }

    pub(super) fn publish(&self, bundle: String) {
        self.state.lock().unwrap().bundle = bundle;
    }

    /// From now on another root signs.
    pub(super) fn sign_with(&self, root: TestCa) {
        self.state.lock().unwrap().root = Arc::new(root);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(super) fn dialled(&self) -> usize {
        self.state.lock().unwrap().dialled
    }

    pub(super) fn failed_handshakes(&self) -> usize {
        self.state.lock().unwrap().failed_handshakes
    }

    pub(super) fn dial(self: &Arc<Self>) -> Dial {
        let ca = self.clone();
        Arc::new(move || {
            let dialled = ca.clone().accept();
            Box::pin(async move { dialled.map(|stream| Box::new(stream) as Box<dyn Wire>) })
        })
    }

    fn behaviour(&self) -> Behaviour {
        self.state.lock().unwrap().behaviour
    }

    fn accept(self: Arc<Self>) -> io::Result<DuplexStream> {
        self.state.lock().unwrap().dialled += 1;
        if self.behaviour() == Behaviour::Down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = duplex(16 * 1024);
        tokio::spawn(self.serve(far));
        Ok(near)
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let Ok(stream) = TlsAcceptor::from(Arc::new(self.tls())).accept(stream).await else {
            self.state.lock().unwrap().failed_handshakes += 1;
            return;
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
        let service = service_fn(|request| {
            let answer = self.clone().answer(request, shown.clone());
            async { Ok::<_, Infallible>(answer.await) }
        });
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    fn tls(&self) -> ServerConfig {
        let (behaviour, root) = (self.behaviour(), self.root());
        let verified_by = if behaviour == Behaviour::RefusesCertificateByAlert {
            TestCa::root("other").root_store()
        } else {
            root.root_store()
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(verified_by), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let Held { chain, key } = match behaviour {
            Behaviour::Impostor => server_certificate(&TestCa::root("impostor"), "ca"),
            Behaviour::OtherName => server_certificate(&root, "elsewhere"),
            _ => server_certificate(&root, "ca"),
        };
        ServerConfig::builder_with_details(provider(), Arc::new(self.clock.clone()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap()
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        shown: Option<CertificateDer<'static>>,
    ) -> Response<Full<Bytes>> {
        let behaviour = self.behaviour();
        if behaviour == Behaviour::Silent {
            std::future::pending::<()>().await;
        }
        if request.uri().path() == "/v1/bundle.pem" {
            let bundle = self.state.lock().unwrap().bundle.clone();
            return answer(
                StatusCode::OK,
                if behaviour == Behaviour::NoBundle { String::new() } else { bundle },
            );
        }
        assert_eq!(request.uri().path(), "/v1/certificates");
        let query = request.uri().query().map(str::to_owned);
        let token = request
            .headers()
            .get(AUTHORIZATION)
            .map(|value| value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let request = CertificateSigningRequestParams::from_pem(str::from_utf8(&body).unwrap()).unwrap();
        assert_eq!(request.params.subject_alt_names, [authority::uri_san(ID)]);
        let key = rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec();
        self.state.lock().unwrap().seen.push(Seen { token: token.clone(), shown: shown.clone(), key, query });

        let evident = token.as_deref() == Some(TOKEN) || shown.is_some();
        let refused = match behaviour {
            Behaviour::RefusesAll => true,
            Behaviour::RefusesCertificate => shown.is_some(),
            _ => !evident,
        };
        if refused {
            return answer(
                StatusCode::UNAUTHORIZED,
                r#"{"status":401,"title":"Unauthorized","detail":"the evidence is not known here"}"#
                    .to_owned(),
            );
        }
        match behaviour {
            Behaviour::Garbage => {
                answer(StatusCode::CREATED, "-----BEGIN CERTIFICATE-----\nnonsense".to_owned())
            }
            Behaviour::Endless => answer(StatusCode::CREATED, "x".repeat(1024 * 1024)),
            Behaviour::ForgesLogLines => answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                "no\n2026-11-20 INFO all is well\u{1b}[2J".to_owned(),
            ),
            _ => answer(StatusCode::CREATED, authority::pem(&self.sign(behaviour, &request.public_key))),
        }
    }

    fn sign(&self, behaviour: Behaviour, key: &rcgen::PublicKey) -> Vec<CertificateDer<'static>> {
        let (root, life) = (self.root(), self.state.lock().unwrap().life);
        let now = self.clock.now();
        let day = Duration::from_secs(24 * 3600);
        let (begin, end) = match behaviour {
            Behaviour::NotYetValid => (now + day, now + 2 * day),
            Behaviour::AlreadyExpired => (now - 2 * day, now - day),
            _ => (now - Duration::from_secs(120), now + life),
        };
        let change = |params: &mut rcgen::CertificateParams| authority::valid_between(params, begin, end);
        match behaviour {
            Behaviour::WrongIdentity => {
                root.sign("spiffe://cluster.local/ns/default/sa/mallory", key, change)
            }
            Behaviour::WrongKey => root.issue_with(ID, change).chain,
            Behaviour::OtherRoot => TestCa::root("other").sign(ID, key, change),
            _ => root.sign(ID, key, change),
        }
    }
}

/// Lasts as long as the root, whatever the test's clock says.
fn server_certificate(root: &TestCa, name: &str) -> Held {
    root.issue_with("spiffe://cluster.local/ca", |params| {
        params.subject_alt_names = vec![authority::dns_san(name)];
        authority::valid_between(
            params,
            authority::before(Duration::from_secs(60)),
            authority::after(Duration::from_secs(9 * 365 * 24 * 3600)),
        );
    })
}

fn answer(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
}
