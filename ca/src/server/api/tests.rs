//! The routes, without a socket.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::body::Frame;
use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::attest::token::TokenStore;
use crate::testing::{authority, id, request, trust_domain};

struct Fixture {
    _folder: tempfile::TempDir,
    api: Api,
    token: String,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenStore::new(folder.path().to_owned());
    let token = tokens.create(&id("backend"), None).unwrap().reveal().to_owned();
    let now = SystemTime::now();
    let authority = Arc::new(authority(now));
    let metrics = Metrics::new();
    let api = Api::new(authority, Attestor::new(trust_domain(), [id("backend")], tokens), metrics);
    Fixture { _folder: folder, api, token }
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
    let text = fixture.api.metrics().encode();
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
