//! The routes, without a socket.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http_body_util::Full;
use hyper::body::Frame;
use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::attest::Attestor;
use crate::attest::token::TokenStore;
use crate::clock::Clock;
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::server::Faults;
use crate::settings::Limits;
use crate::testing::{authority, id, request, trust_domain};

struct Fixture {
    folder: tempfile::TempDir,
    api: Api,
    token: String,
}

const LIMITS: Limits = Limits {
    connections: 1,
    request_timeout: Duration::from_secs(10),
    address_per_minute: 0,
    identity_per_minute: 0,
};

fn fixture() -> Fixture {
    fixture_with(LIMITS, &[])
}

fn fixture_with(limits: Limits, faults: &[Fault]) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenStore::new(folder.path().to_owned());
    let token = tokens.create(&id("backend"), None).unwrap().reveal().to_owned();
    let now = SystemTime::now();
    let authority = Arc::new(authority(now));
    let attestor = Attestor::new(trust_domain(), ["backend", "frontend"].map(id), tokens);
    let faults = Faults::new(faults, &trust_domain(), Clock::SYSTEM).unwrap();
    let api = Api::new(Desk::new(authority, attestor, Metrics::new(), limits, faults));
    Fixture { folder, api, token }
}

impl Fixture {
    /// Asks for a certificate by a token: status, headers and body.
    async fn sign(&self, token: &str, body: Vec<u8>) -> (u16, Answer, Vec<u8>) {
        ask(&self.api, "POST", "/v1/certificates", Some(token), body).await
    }

    fn tokens(&self) -> TokenStore {
        TokenStore::new(self.folder.path().to_owned())
    }

    /// Whether a line is among the metrics.
    fn counts(&self, line: &str) -> bool {
        self.api.desk().scrape().lines().any(|seen| seen == line)
    }
}

/// Status, headers and body of the answer to a request without a client certificate.
async fn ask(
    api: &Api,
    method: &str,
    uri: &str,
    token: Option<&str>,
    body: Vec<u8>,
) -> (u16, Answer, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(uri);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let caller = Caller { address: (Ipv4Addr::LOCALHOST, 1).into(), certificate: None };
    let answer = api.respond(&caller, request.body(Full::from(body)).unwrap()).await;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let head = Answer::from_parts(head, Full::default());
    (head.status().as_u16(), head, body)
}

#[rstest]
#[case("GET", "/", 404, None)]
#[case("GET", "/v1/certificates/", 404, None)]
#[case("GET", "/metrics", 404, None)]
#[case("GET", "/v1/certificates", 405, Some("POST"))]
#[case("DELETE", "/v1/certificates", 405, Some("POST"))]
#[case("POST", "/v1/bundle", 405, Some("GET, HEAD"))]
#[case("PUT", "/v1/bundle.pem", 405, Some("GET, HEAD"))]
#[case("POST", "/v1/certificates", 401, None)]
#[tokio::test]
async fn what_the_api_does_not_have_is_a_problem(
    #[case] method: &str,
    #[case] path: &str,
    #[case] status: u16,
    #[case] allow: Option<&str>,
) {
    let fixture = fixture();
    let (seen, head, body) = ask(&fixture.api, method, path, None, vec![]).await;
    assert_eq!(seen, status);
    assert_eq!(head.headers().get("allow").map(|value| value.to_str().unwrap()), allow);
    assert_eq!(head.headers()["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["status"], status);
}

#[tokio::test]
async fn req_33_a_refused_caller_learns_nothing() {
    let fixture = fixture();
    let foreign = "a".repeat(43);
    for token in [None, Some("short"), Some(foreign.as_str())] {
        let (status, head, body) = ask(&fixture.api, "POST", "/v1/certificates", token, request()).await;
        assert_eq!(status, 401);
        assert_eq!(head.headers()["www-authenticate"], "Bearer");
        assert_eq!(body, br#"{"status":401,"title":"Unauthorized"}"#);
    }
}

#[rstest]
#[case("", 201)]
#[case("?ttl=10s", 201)]
#[case("?ttl=1000d", 201)]
#[case("?ttl=0s", 400)]
#[case("?ttl=10", 400)]
#[case("?ttl=-1h", 400)]
#[case("?ttl=", 400)]
#[case("?lifetime=1h", 400)]
#[tokio::test]
async fn the_lifetime_is_asked_for_in_the_query(#[case] query: &str, #[case] expected: u16) {
    let fixture = fixture();
    let uri = format!("/v1/certificates{query}");
    let (status, _, body) = ask(&fixture.api, "POST", &uri, Some(&fixture.token), request()).await;
    assert_eq!(status, expected, "{}", String::from_utf8_lossy(&body));
}

#[rstest]
#[case(BODY_LIMIT, 400)]
#[case(BODY_LIMIT + 1, 413)]
#[case(10_000_000, 413)]
#[tokio::test]
async fn req_34_a_body_over_the_limit_is_refused(#[case] length: usize, #[case] expected: u16) {
    let fixture = fixture();
    let (status, ..) =
        ask(&fixture.api, "POST", "/v1/certificates", Some(&fixture.token), vec![0x30; length]).await;
    assert_eq!(status, expected);
}

#[tokio::test]
async fn req_34_a_body_that_hides_its_length_is_refused_at_the_limit() {
    let fixture = fixture();
    let request = Request::post("/v1/certificates")
        .header(AUTHORIZATION, format!("Bearer {}", fixture.token))
        .body(Endless)
        .unwrap();
    let caller = Caller { address: (Ipv4Addr::LOCALHOST, 1).into(), certificate: None };
    assert_eq!(fixture.api.respond(&caller, request).await.status(), 413);
}

#[tokio::test]
async fn every_outcome_is_counted() {
    let fixture = fixture();
    let mut damaged = request();
    damaged.pop();
    for (token, body) in
        [(None, request()), (Some(&fixture.token), damaged), (Some(&fixture.token), request())]
    {
        ask(&fixture.api, "POST", "/v1/certificates", token.map(String::as_str), body).await;
    }
    let text = fixture.api.desk().scrape();
    for line in [
        "citadel_server_csr_count 3",
        "citadel_server_authentication_failure_count 1",
        "citadel_server_csr_parsing_err_count 1",
        "citadel_server_success_cert_issuance_count 1",
    ] {
        assert!(text.lines().any(|seen| seen == line), "{line:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn every_refusal_is_counted_by_its_name() {
    let fixture = fixture();
    let p_224 = include_bytes!("../../csr/fixtures/p-224.pem").to_vec();
    fixture.sign(&"a".repeat(43), request()).await;
    fixture.sign(&fixture.token, p_224).await;
    fixture.sign(&fixture.token, request()).await;
    ask(&fixture.api, "POST", "/v1/certificates", None, vec![]).await;
    for (evidence, result) in
        [("token", "token_unknown"), ("token", "csr_key"), ("token", "issued"), ("none", "no_evidence")]
    {
        let line = format!(
            "pillion_ca_requests_total{{door=\"https\",evidence=\"{evidence}\",result=\"{result}\"}} 1"
        );
        assert!(fixture.counts(&line), "{line} is not in:\n{}", fixture.api.desk().scrape());
    }
}

#[tokio::test]
async fn req_33_a_one_time_token_is_used_up_by_a_certificate_and_by_nothing_less() {
    let fixture = fixture();
    let end = SystemTime::now() + Duration::from_secs(60);
    let token = fixture.tokens().create_once(&id("backend"), end).unwrap().reveal().to_owned();
    assert_eq!(fixture.sign(&token, b"no CSR".to_vec()).await.0, 400);
    assert_eq!(fixture.sign(&token, request()).await.0, 201);
    let (status, _, body) = fixture.sign(&token, request()).await;
    assert_eq!((status, body.as_slice()), (401, br#"{"status":401,"title":"Unauthorized"}"#.as_slice()));
    assert!(
        fixture
            .counts(r#"pillion_ca_requests_total{door="https",evidence="token",result="token_replayed"} 1"#)
    );
    assert!(
        fixture
            .counts(r#"pillion_ca_requests_total{door="https",evidence="one-time token",result="issued"} 1"#)
    );
}

#[tokio::test]
async fn a_one_time_token_that_cannot_be_marked_as_used_is_not_used() {
    let fixture = fixture();
    let end = SystemTime::now() + Duration::from_secs(60);
    let token = fixture.tokens().create_once(&id("backend"), end).unwrap().reveal().to_owned();
    // A folder in the place of the spent record: the rename fails, as it does on a disk that cannot be written.
    let mut record = std::fs::read_dir(fixture.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let record = record.find(|path| std::fs::read_to_string(path).unwrap().contains("once")).unwrap();
    let spent = record.with_extension("spent");
    std::fs::create_dir(&spent).unwrap();
    assert_eq!(fixture.sign(&token, request()).await.0, 503);
    std::fs::remove_dir(&spent).unwrap();
    assert_eq!(fixture.sign(&token, request()).await.0, 201);
}

#[rstest]
#[case::of_an_identity(Limits { identity_per_minute: 3, ..LIMITS }, "identity_rate")]
#[case::of_an_address(Limits { address_per_minute: 3, ..LIMITS }, "address_rate")]
#[tokio::test(start_paused = true)]
async fn req_34_too_many_requests_are_told_when_to_come_back(#[case] limits: Limits, #[case] result: &str) {
    let fixture = fixture_with(limits, &[]);
    for _ in 0..3 {
        assert_eq!(fixture.sign(&fixture.token, request()).await.0, 201);
    }
    let (status, head, body) = fixture.sign(&fixture.token, request()).await;
    assert_eq!(status, 429, "{}", String::from_utf8_lossy(&body));
    assert_eq!(head.headers()["retry-after"], "20");
    let refused =
        format!("pillion_ca_requests_total{{door=\"https\",evidence=\"token\",result=\"{result}\"}} 1");
    assert!(fixture.counts(&refused), "{}", fixture.api.desk().scrape());
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(fixture.sign(&fixture.token, request()).await.0, 201);
}

#[tokio::test]
async fn one_identity_does_not_use_up_what_another_has() {
    let fixture = fixture_with(Limits { identity_per_minute: 1, ..LIMITS }, &[]);
    let frontend = fixture.tokens().create(&id("frontend"), None).unwrap().reveal().to_owned();
    assert_eq!(fixture.sign(&fixture.token, request()).await.0, 201);
    assert_eq!(fixture.sign(&fixture.token, request()).await.0, 429);
    assert_eq!(fixture.sign(&frontend, request()).await.0, 201);
}

#[tokio::test]
async fn req_34_a_refused_address_does_not_learn_whether_its_token_is_good() {
    let fixture = fixture_with(Limits { address_per_minute: 1, ..LIMITS }, &[]);
    assert_eq!(fixture.sign(&"a".repeat(43), request()).await.0, 401);
    for token in [&"a".repeat(43), &fixture.token] {
        assert_eq!(fixture.sign(token, request()).await.0, 429);
    }
}

#[rstest]
#[case(Fault::Error, 500, None)]
#[case(Fault::Busy, 429, Some("5"))]
#[case(Fault::Refuse, 401, None)]
#[tokio::test]
async fn a_fault_that_refuses_answers_with_its_status(
    #[case] fault: Fault,
    #[case] expected: u16,
    #[case] retry_after: Option<&str>,
) {
    let fixture = fixture_with(LIMITS, &[fault]);
    let (status, head, _) = fixture.sign(&fixture.token, request()).await;
    assert_eq!(status, expected);
    assert_eq!(head.headers().get("retry-after").map(|value| value.to_str().unwrap()), retry_after);
    assert!(fixture.counts(&format!("pillion_ca_fault{{fault=\"{}\"}} 1", fault.name())));
}

#[tokio::test]
async fn a_fault_of_a_certificate_is_in_the_certificate() {
    use pillion_mesh::svid::check_leaf;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let issue = async |fault| {
        let fixture = fixture_with(LIMITS, &[fault]);
        let (status, _, chain) = fixture.sign(&fixture.token, request()).await;
        assert_eq!(status, 201);
        check_leaf(&CertificateDer::from_pem_slice(&chain).unwrap())
    };
    let now = SystemTime::now();
    assert_eq!(issue(Fault::WrongIdentity).await.unwrap().id, id("somebody-else"));
    assert!(issue(Fault::NotYetValid).await.unwrap().not_before > now + Duration::from_secs(3500));
    assert!(issue(Fault::Expired).await.unwrap().not_after < now - Duration::from_secs(3500));
    assert!(issue(Fault::Garbage).await.is_err());
    assert_eq!(issue(Fault::OtherKey).await.unwrap().id, id("backend"));
    assert_eq!(issue(Fault::OtherRoot).await.unwrap().id, id("backend"));
}

#[tokio::test]
async fn a_refused_request_says_why() {
    let fixture = fixture();
    let body = include_bytes!("../../csr/fixtures/p-224.pem").to_vec();
    let (status, _, body) = ask(&fixture.api, "POST", "/v1/certificates", Some(&fixture.token), body).await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("P-224"), "{problem}");
}

#[tokio::test]
async fn the_bundle_is_the_same_root_in_both_forms() {
    use base64::Engine;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let fixture = fixture();
    let (status, head, json) = ask(&fixture.api, "GET", "/v1/bundle", None, vec![]).await;
    assert_eq!(
        (status, &head.headers()["content-type"]),
        (200, &HeaderValue::from_static("application/json"))
    );
    let (status, _, pem) = ask(&fixture.api, "GET", "/v1/bundle.pem", None, vec![]).await;
    assert_eq!(status, 200);
    let bundle: Value = serde_json::from_slice(&json).unwrap();
    let engine = base64::engine::general_purpose::STANDARD;
    let from_json = engine.decode(bundle["keys"][0]["x5c"][0].as_str().unwrap()).unwrap();
    assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap().as_ref(), from_json);
}

/// Frames of 4 KiB without end: a reader that does not stop at its limit hangs.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0x30; 4096])))))
    }
}
