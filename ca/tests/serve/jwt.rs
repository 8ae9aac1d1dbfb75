//! Tokens of another issuer, as Kubernetes projects them into pods, whose keys are in a file or behind an HTTPS URL.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{BACKEND, Ca, Client, Home, PATIENCE, csr};

const ISSUER: &str = "https://kubernetes.default.svc";

/// A key of the issuer.
struct SigningKey {
    name: &'static str,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    fn new(name: &'static str) -> Self {
        SigningKey { name, pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    fn jwks(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let key = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.name, "x": text(x), "y": text(y)});
        json!({"keys": [key]}).to_string()
    }

    /// As a kubelet projects it.
    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "aud": ["pillion-ca"], "exp": now + 600, "iat": now, "nbf": now, "iss": ISSUER,
            "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "backend", "uid": "1"}},
            "sub": "system:serviceaccount:default:backend",
        });
        change(&mut claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.name})), part(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn home(jwks: &str) -> Home {
    Home::with(&format!("attestation: {{jwt: [{{issuer: '{ISSUER}', audience: pillion-ca, jwks: {jwks}}}]}}"))
}

fn request() -> Vec<u8> {
    csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
}

async fn status(ca: &Ca, home: &Home, token: &str) -> u16 {
    Client::new(ca, home).sign(Some(token), request()).await.unwrap().status
}

#[tokio::test]
async fn req_33_a_service_account_token_proves_its_identity_and_whatever_is_wrong_with_it_is_in_the_log_alone()
 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let key = SigningKey::new("one");
    std::fs::write(&file, key.jwks()).unwrap();
    let home = home(&format!("{{file: {}}}", file.display()));
    let ca = home.start();
    assert_eq!(status(&ca, &home, &key.token(|_| ())).await, 201);
    let issued = ca.audit_line(1);
    assert_eq!((&issued["evidence"], &issued["identity"]), (&json!("jwt"), &json!(BACKEND)));

    let thief = SigningKey::new("one");
    let stranger = |claims: &mut Value| claims["sub"] = json!("system:serviceaccount:default:stranger");
    let cases = [
        (thief.token(|_| ()), "jwt_invalid"),
        (SigningKey::new("two").token(|_| ()), "jwt_no_key"),
        (key.token(|claims| claims["iss"] = json!("https://elsewhere")), "jwt_unknown_issuer"),
        (key.token(|claims| claims["aud"] = json!("istio-ca")), "jwt_audience"),
        (key.token(|claims| claims["exp"] = json!(1)), "jwt_expired"),
        (key.token(|claims| claims["nbf"] = json!(4_000_000_000_u64)), "jwt_not_yet_valid"),
        (key.token(|claims| claims["sub"] = json!("system:node:one")), "jwt_subject"),
        (key.token(stranger), "not_registered"),
    ];
    for (count, (token, refusal)) in (2..).zip(&cases) {
        let answer = Client::new(&ca, &home).sign(Some(token), request()).await.unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (401, r#"{"status":401,"title":"Unauthorized"}"#)
        );
        let line = ca.audit_line(count);
        assert_eq!(line["refusal"], *refusal, "{line}");
        assert!(
            !line.to_string().contains(token.rsplit('.').next().unwrap()),
            "the token is in the log: {line}"
        );
    }
    // Our own tokens count beside them.
    assert_eq!(status(&ca, &home, &home.token()).await, 201);
}

#[tokio::test]
async fn keys_are_fetched_from_a_url_followed_when_they_change_and_kept_when_it_is_gone() {
    let old = SigningKey::new("old");
    let server = JwksServer::start(old.jwks()).await;
    let root = server.root.path().join("root.pem");
    let url = format!("https://localhost:{}/openid/v1/jwks", server.address.port());
    let home = home(&format!("{{url: '{url}', caFile: {}}}", root.display()));
    let ca = home.start();
    wait_until_taken(&ca, &home, &old).await;
    // A new key, and a token of it before the keys would be fetched in their turn.
    let new = SigningKey::new("new");
    *server.jwks.lock().unwrap() = new.jwks();
    wait_until_taken(&ca, &home, &new).await;
    let old = SigningKey::new("old");
    assert_eq!(status(&ca, &home, &old.token(|_| ())).await, 401);
    server.task.abort();
    assert_eq!(status(&ca, &home, &new.token(|_| ())).await, 201, "the keys that were read last stay");
}

/// Each refused token of an unknown key asks for the keys, at most every ten seconds.
async fn wait_until_taken(ca: &Ca, home: &Home, key: &SigningKey) {
    let start = std::time::Instant::now();
    while status(ca, home, &key.token(|_| ())).await != 201 {
        assert!(start.elapsed() < PATIENCE, "the key {} is not taken: {:#?}", key.name, ca.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_keys_that_does_not_verify_is_not_believed() {
    let key = SigningKey::new("one");
    let server = JwksServer::start(key.jwks()).await;
    let other = JwksServer::start(key.jwks()).await;
    let root = other.root.path().join("root.pem");
    let url = format!("https://localhost:{}/openid/v1/jwks", server.address.port());
    let home = home(&format!("{{url: '{url}', caFile: {}}}", root.display()));
    let ca = home.start();
    crate::support::wait_for("the log to tell of it", || {
        let told = |line: &Value| {
            line["error"].as_str().is_some_and(|error| error.contains("caFile names its roots"))
        };
        ca.log().iter().any(told).then_some(())
    });
    assert_eq!(status(&ca, &home, &key.token(|_| ())).await, 401);
}

/// Serves a set of keys over HTTPS, by a certificate of its own root.
struct JwksServer {
    address: SocketAddr,
    jwks: Arc<Mutex<String>>,
    root: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl JwksServer {
    async fn start(jwks: String) -> Self {
        let root = tempfile::tempdir().unwrap();
        let acceptor = acceptor(root.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let jwks = Arc::new(Mutex::new(jwks));
        let served = Arc::clone(&jwks);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = [0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /openid/v1/jwks HTTP/1.1\r\n"));
                let body = served.lock().unwrap().clone();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        JwksServer { address, jwks, root, task }
    }
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    std::fs::write(folder.join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
