//! Istio's gRPC service, by a client that knows nothing but the protocol: frames and fields are written by hand. And by
//! a foreign one, Python's grpcio, where it is installed.

use std::process::Command;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_mesh::svid::check_leaf;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::support::{BACKEND, Ca, Client, Home, PATIENCE, csr, get, plain_params, wait_for};

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn csr_pem() -> String {
    plain_params().serialize_request(&new_key()).unwrap().pem().unwrap()
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    to.push(u8::try_from(number).unwrap());
}

/// IstioCertificateRequest: csr is field 1, validity_duration field 3.
fn message(csr: &str, seconds: i64) -> Vec<u8> {
    let mut message = vec![1 << 3 | 2];
    varint(csr.len() as u64, &mut message);
    message.extend_from_slice(csr.as_bytes());
    message.push(3 << 3);
    varint(seconds.cast_unsigned(), &mut message);
    message
}

/// IstioCertificateResponse: cert_chain is field 1, repeated.
fn cert_chain(mut message: &[u8]) -> Vec<String> {
    let mut chain = Vec::new();
    while let Some((tag, rest)) = message.split_first() {
        assert_eq!(*tag, 1 << 3 | 2);
        let (mut length, mut shift, mut rest) = (0, 0, rest);
        loop {
            let byte = rest[0];
            rest = &rest[1..];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        chain.push(String::from_utf8(rest[..length].to_vec()).unwrap());
        message = &rest[length..];
    }
    chain
}

/// A message behind its length, uncompressed.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat().into()
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: String,
    message: String,
    headers: HeaderMap,
    chain: Vec<String>,
}

async fn call(client: &Client, token: Option<&str>, body: Bytes) -> Result<Outcome, String> {
    let calling = async {
        let stream = client.speaking("h2").connect().await.map_err(|error| error.to_string())?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = Request::post(format!("https://localhost{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).unwrap();
        let answer = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let mut headers = answer.headers().clone();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        let body = body.to_bytes();
        let text =
            |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
        Ok(Outcome {
            code: text("grpc-status"),
            message: text("grpc-message"),
            chain: body.get(5..).map(cert_chain).unwrap_or_default(),
            headers,
        })
    };
    timeout(PATIENCE, calling).await.expect("no answer in good time")
}

async fn create_for(client: &Client, token: Option<&str>, seconds: i64) -> Outcome {
    call(client, token, framed(&message(&csr_pem(), seconds))).await.unwrap()
}

/// Asks by this text.
pub(crate) async fn create(client: &Client, token: Option<&str>, csr: &str) -> Outcome {
    call(client, token, framed(&message(csr, 0))).await.unwrap()
}

#[tokio::test]
async fn req_31_what_can_take_a_certificate_from_istiod_can_take_it_from_here() {
    let home = Home::new();
    let ca = home.start();
    let outcome = create_for(&Client::new(&ca, &home), Some(&home.token()), 3600).await;
    assert_eq!(outcome.code, "0", "{outcome:?}");
    let [leaf, roots] = outcome.chain.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(*roots, std::fs::read_to_string(home.path("run/bundle.pem")).unwrap());
    let leaf = check_leaf(&CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap()).unwrap();
    assert_eq!(leaf.id.as_str(), BACKEND);
    let life = leaf.not_after.duration_since(std::time::SystemTime::now()).unwrap();
    assert!(life <= Duration::from_secs(3600) && life > Duration::from_secs(3500), "{life:?}");
    let line = ca.audit_line(1);
    for (field, expected) in
        [("door", "grpc"), ("result", "issued"), ("identity", BACKEND), ("serial", leaf.serial.as_str())]
    {
        assert_eq!(line[field], expected, "{line}");
    }
}

#[tokio::test]
async fn a_lifetime_of_nought_is_the_default_and_one_too_long_is_capped() {
    let home = Home::with("workloadTtl: {default: 2h, max: 3h}");
    let ca = home.start();
    for (seconds, hours) in [(0, 2), (-5, 2), (i64::MIN, 2), (10 * 3600, 3), (i64::MAX, 3)] {
        let outcome = create_for(&Client::new(&ca, &home), Some(&home.token()), seconds).await;
        let leaf = CertificateDer::from_pem_slice(outcome.chain[0].as_bytes()).unwrap();
        let life = check_leaf(&leaf).unwrap().not_after.duration_since(std::time::SystemTime::now()).unwrap();
        assert_eq!(life.as_secs().div_ceil(3600), hours, "{seconds} s were asked for");
    }
}

#[tokio::test]
async fn the_present_certificate_renews_itself() {
    let home = Home::new();
    let ca = home.start();
    let identity = Client::new(&ca, &home).enroll(&home.token(), "").await;
    let outcome = create_for(&Client::with_certificate(&ca, &home, &identity), None, 0).await;
    assert_eq!(outcome.code, "0", "{outcome:?}");
    assert_eq!(ca.audit_line(2)["evidence"], "certificate");
}

#[tokio::test]
async fn req_33_without_good_evidence_the_status_is_unauthenticated_and_nothing_more() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let unknown = "a".repeat(43);
    for (count, (token, refusal)) in (1..).zip([
        (None, "no_evidence"),
        (Some("x"), "evidence_malformed"),
        (Some(&*unknown), "token_unknown"),
    ]) {
        let outcome = create_for(&client, token, 0).await;
        assert_eq!(
            (outcome.code.as_str(), outcome.message.as_str()),
            ("16", "the%20evidence%20was%20refused")
        );
        assert_eq!(ca.audit_line(count)["refusal"], refusal);
    }
}

#[tokio::test]
async fn a_hostile_request_is_an_invalid_argument_that_says_why() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let token = home.token();
    for (csr, expected) in [("", "an%20empty%20body"), ("hello", "neither%20of%20them")] {
        let outcome = create(&client, Some(&token), csr).await;
        assert_eq!(outcome.code, "3", "{outcome:?}");
        assert!(outcome.message.contains(expected), "{outcome:?}");
    }
}

#[tokio::test]
async fn req_34_a_message_over_the_limit_is_refused() {
    let home = Home::new();
    let ca = home.start();
    let huge = message(&"a".repeat(70_000), 0);
    let outcome = call(&Client::new(&ca, &home), Some(&home.token()), framed(&huge)).await.unwrap();
    assert_eq!(outcome.code, "3", "{outcome:?}");
    assert_eq!(ca.audit_line(1)["refusal"], "too_large");
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let home = Home::new();
    let ca = home.start();
    for garbage in [framed(&[0xff; 20]), Bytes::from_static(b"garbage"), Bytes::new()] {
        let outcome = call(&Client::new(&ca, &home), Some(&home.token()), garbage).await.unwrap();
        assert_ne!(outcome.code, "0", "{outcome:?}");
    }
    assert_eq!(create_for(&Client::new(&ca, &home), Some(&home.token()), 0).await.code, "0", "it serves on");
}

#[tokio::test]
async fn both_doors_share_the_limits() {
    let home = Home::with("limits: {identityPerMinute: 2}");
    let ca = home.start();
    let client = Client::new(&ca, &home);
    client.enroll(&home.token(), "").await;
    assert_eq!(create_for(&client, Some(&home.token()), 0).await.code, "0");
    let refused = create_for(&client, Some(&home.token()), 0).await;
    assert_eq!(refused.code, "8", "{refused:?}");
    assert_eq!(refused.headers["retry-after"], "30");
    let answer = client.sign(Some(&home.token()), csr(&new_key())).await.unwrap();
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (429, "30"));
}

/// curl and others prefer HTTP/2 where it is offered.
#[tokio::test]
async fn the_https_api_answers_over_http_2_too() {
    let home = Home::new();
    let ca = home.start();
    let stream = Client::new(&ca, &home).speaking("h2").connect().await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let mut request = get("/v1/bundle.pem");
        *request.uri_mut() = "https://localhost/v1/bundle.pem".parse().unwrap();
        let answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, std::fs::read(home.path("run/bundle.pem")).unwrap());
    }
}

#[tokio::test]
async fn req_34_a_connection_over_http_2_ends_though_its_client_would_stay() {
    let home = Home::with("limits: {requestTimeout: 500ms}");
    let ca = home.start();
    let mut stream = Client::new(&ca, &home).speaking("h2").connect().await.unwrap();
    let start = std::time::Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection lives on");
    assert!(start.elapsed() > Duration::from_millis(400), "cut after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_foreign_client_takes_its_certificate() {
    const SCRIPT: &str = "
import sys, grpc
address, roots, token, csr = sys.argv[1], open(sys.argv[2], 'rb').read(), sys.argv[3], open(sys.argv[4], 'rb').read()
def field(data):
    length, head = len(data), b'\\x0a'
    while length > 127: head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + data
credentials = grpc.ssl_channel_credentials(roots)
channel = grpc.secure_channel(address, credentials, [('grpc.ssl_target_name_override', 'localhost')])
create = channel.unary_unary('/istio.v1.auth.IstioCertificateService/CreateCertificate')
answer = create(field(csr), metadata=[('authorization', 'Bearer ' + token)], timeout=15)
sys.stdout.buffer.write(answer)
try:
    create(field(csr), metadata=[('authorization', 'Bearer ' + 'a' * 43)], timeout=15)
except grpc.RpcError as error:
    sys.exit(0 if error.code() == grpc.StatusCode.UNAUTHENTICATED else 'seen ' + str(error.code()))
sys.exit('an unknown token was taken')
";
    let python = std::env::var("PILLION_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !Command::new(&python).args(["-c", "import grpc"]).output().is_ok_and(|output| output.status.success())
    {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "not to be skipped in CI: install grpcio");
        eprintln!("SKIPPED: {python} has no grpcio (PILLION_PYTHON names another)");
        return;
    }
    let home = Home::new();
    let ca: Ca = home.start();
    std::fs::write(home.path("csr.pem"), csr_pem()).unwrap();
    let mut foreign = Command::new(&python);
    foreign.args(["-c", SCRIPT, &format!("127.0.0.1:{}", ca.api.port())]).arg(home.path("run/bundle.pem"));
    foreign.arg(home.token()).arg(home.path("csr.pem"));
    let output = foreign.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let chain = cert_chain(&output.stdout);
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    assert_eq!(check_leaf(&leaf).unwrap().id.as_str(), BACKEND);
    wait_for("both calls in the log", || (ca.audit().len() == 2).then_some(()));
}
