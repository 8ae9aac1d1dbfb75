//! The life of one request, top to bottom: read, authorized, passed on, answered.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, StatusCode, Uri, Version};
use pillion_mesh::policy::authz::Permit;
use pillion_mesh::reason::Reason;
use tokio_util::sync::CancellationToken;

use super::asked::Asked;
use super::body::{AnswerBody, RequestBody, grpc_status};
use super::headers::{
    FORWARDED_CLIENT_CERT, FORWARDED_FOR, FORWARDED_PROTO, forwarded_client_cert, nearest_forwarded,
    set_upgrade, strip_hop_by_hop, strip_named_by_connection, upgrade,
};
use super::record::Recording;
use super::{Downstream, Failure, Passed, Upstream, tunnel};
use crate::live::LiveSnapshot;
use crate::settings::PolicyChange;

/// Tells on our own answers why they are not the app's.
const REASON: HeaderName = HeaderName::from_static("pillion-reason");

/// What Envoy says to whom no policy allows.
const ACCESS_DENIED: &str = "RBAC: access denied";

/// Answers one request. Each decision about it comes from the policies in force when its head arrived; where they change
/// before its end and no longer allow it, it is cut.
pub(super) async fn answer<U: Upstream>(
    downstream: Arc<Downstream<U>>,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let client_upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    let mut recording = Recording::begin(&downstream, &parts);
    settle(&downstream, &mut parts.headers);
    let asked = match Asked::read(&parts, downstream.known.destination) {
        Ok(asked) => asked,
        Err(fault) => {
            let answer =
                refusal(&mut recording, Reason::RequestMalformed, StatusCode::BAD_REQUEST, fault.to_string());
            return Ok(close(answer, parts.version));
        }
    };
    recording.asked(&asked, downstream.upstream.service_of(&asked));

    let remote = remote_address(&downstream, &parts.headers);
    let mut live = downstream.shared.snapshot.clone();
    let published = live.borrow_and_update().clone();
    let policies = &published.snapshot.authorization;
    let (outcome, record) = downstream.known.ask_request(policies, asked.facts(), remote);
    recording.authorized(record);
    let permit = match outcome {
        Ok(permit) => permit,
        Err(because) => {
            return Ok(refusal(&mut recording, Reason::AuthorizationDenied, StatusCode::FORBIDDEN, because));
        }
    };

    let changes = upgrade(&parts.headers).filter(|_| parts.version == Version::HTTP_11);
    let request = match rewritten(&downstream, &asked, parts, body, changes.clone(), &recording) {
        Ok(request) => request,
        Err(fault) => {
            return Ok(refusal(&mut recording, Reason::RequestMalformed, StatusCode::BAD_REQUEST, fault));
        }
    };
    let asked = Arc::new(asked);
    let cut = || no_longer_allowed(live.clone(), downstream.clone(), asked.clone(), remote);
    let request =
        if request.body().is_end_stream() { request } else { request.map(|body| body.until(cut())) };
    let cut = cut();
    pass(downstream, permit, &asked, request, changes.map(|_| client_upgrade), cut, recording).await
}

/// Makes the fields those that the other side gets, but for the ones that every hop knows: policies are asked about nothing
/// that the client says of itself, or has taken out on the way.
fn settle<U>(downstream: &Downstream<U>, headers: &mut HeaderMap) {
    strip_named_by_connection(headers);
    headers.remove(FORWARDED_CLIENT_CERT);
    if let Some(value) = downstream.client_identity() {
        headers.insert(FORWARDED_CLIENT_CERT, value);
    }
}

/// Passes a permitted request on, and its answer back.
async fn pass<U: Upstream>(
    downstream: Arc<Downstream<U>>,
    permit: Permit,
    asked: &Asked,
    request: Request<RequestBody>,
    client_upgrade: Option<hyper::upgrade::OnUpgrade>,
    cut: impl Future<Output = String> + Send + 'static,
    mut recording: Recording,
) -> Result<Response<AnswerBody>, Infallible> {
    let mut cut = Box::pin(cut);
    let version = request.version();
    let passed = tokio::select! {
        // A body that is cut ends the request as well, for another reason.
        biased;
        because = cut.as_mut() => {
            return Ok(refusal(&mut recording, Reason::PolicyChanged, StatusCode::FORBIDDEN, because));
        }
        passed = downstream.upstream.pass_on(&permit, asked, request) => passed,
    };
    let Passed { mut response, upstream, server } = match passed {
        Ok(passed) => passed,
        Err(Failure { reason, detail }) => {
            return Ok(refusal(&mut recording, reason, status_of(reason), detail));
        }
    };
    recording.passed(upstream, server);
    recording.status(response.status());
    if let Some(status) = grpc_status(response.headers()) {
        recording.grpc_status(status);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some((client, protocol)) = client_upgrade.zip(upgrade(response.headers())) else {
            let detail =
                "it changes to a protocol that the request did not ask for, or that is not passed on"
                    .to_owned();
            return Ok(refusal(&mut recording, Reason::ServerReset, StatusCode::BAD_GATEWAY, detail));
        };
        let server = hyper::upgrade::on(&mut response);
        let (mut parts, _empty) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        set_upgrade(&mut parts.headers, protocol);
        downstream.tunnel.put(tunnel::Tunnel::new(client, server, cut, recording));
        return Ok(Response::from_parts(parts, AnswerBody::own(Bytes::new())));
    }
    let (mut parts, body) = response.into_parts();
    let closes =
        parts.headers.get(CONNECTION).is_some_and(|line| line.as_bytes().eq_ignore_ascii_case(b"close"));
    strip_hop_by_hop(&mut parts.headers);
    parts.version = version;
    let answer = Response::from_parts(parts, AnswerBody::passed(body, cut, recording));
    Ok(if closes { close(answer, version) } else { answer })
}

/// The request as the other side gets it: in the spelling that was judged, without what ends here.
fn rewritten<U: Upstream>(
    downstream: &Downstream<U>,
    asked: &Asked,
    mut parts: Parts,
    body: Incoming,
    changes: Option<HeaderValue>,
    recording: &Recording,
) -> Result<Request<RequestBody>, String> {
    strip_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = changes {
        set_upgrade(&mut parts.headers, protocol);
    }
    if U::IS_EDGE {
        append_client(&mut parts.headers, downstream.notes.client().ip());
    }
    let version = if parts.version == Version::HTTP_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let mut body = RequestBody::new(body, recording.sent());
    let asks_first =
        version == Version::HTTP_11 && parts.headers.contains_key(EXPECT) && !body.is_end_stream();
    let word = CancellationToken::new();
    if asks_first {
        body = body.held_until(word.clone());
    }
    let mut request = Request::from_parts(parts, body);
    readdress(&mut request, asked, version)?;
    hyper::ext::on_informational(&mut request, move |informed| {
        if informed.status() == StatusCode::CONTINUE {
            word.cancel();
        }
    });
    Ok(request)
}

/// Says in the way of a version where a request goes: host and path in the spelling that was judged.
///
/// # Errors
/// In words, where it cannot be said.
pub(crate) fn readdress<B>(request: &mut Request<B>, asked: &Asked, version: Version) -> Result<(), String> {
    let path: PathAndQuery =
        asked.path.path_and_query().parse().map_err(|error| format!("its path: {error}"))?;
    let host = asked.host.as_str();
    *request.version_mut() = version;
    if version == Version::HTTP_2 {
        request.headers_mut().remove(HOST);
        let authority: Authority = host.parse().map_err(|error| format!("its host: {error}"))?;
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path);
        *request.uri_mut() = uri.build().map_err(|error| format!("its target: {error}"))?;
    } else {
        let value = HeaderValue::from_str(host).map_err(|error| format!("its host: {error}"))?;
        request.headers_mut().insert(HOST, value);
        *request.uri_mut() = Uri::from(path);
    }
    Ok(())
}

impl<U> Downstream<U> {
    /// `X-Forwarded-Client-Cert` for a client that has proved who it is.
    fn client_identity(&self) -> Option<HeaderValue> {
        let own = &self.shared.settings.workload.id().ok()?;
        forwarded_client_cert(own, self.known.peer.as_ref()?, self.known.certificate.as_deref()?)
    }
}

/// Who the edge took the request from, behind those that the client names (which nobody has verified).
fn append_client(headers: &mut HeaderMap, client: IpAddr) {
    let mut lines: Vec<String> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|line| line.to_str().ok().map(str::to_owned))
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines.push(client.to_string());
    if let Ok(value) = HeaderValue::from_str(&lines.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
}

/// The address of the original client: what a trusted proxy says of it, else the one that the connection comes from.
fn remote_address<U>(downstream: &Downstream<U>, headers: &HeaderMap) -> IpAddr {
    let trusted = &downstream.shared.settings.inbound.trusted_proxies;
    let is_trusted = downstream.known.peer.as_ref().is_some_and(|peer| trusted.contains(peer));
    let forwarded = if is_trusted { nearest_forwarded(headers) } else { None };
    forwarded.unwrap_or(downstream.known.source)
}

/// Ends, with the reason in words, when a change of policy would no longer let this request through.
async fn no_longer_allowed<U: Upstream>(
    mut live: LiveSnapshot,
    downstream: Arc<Downstream<U>>,
    asked: Arc<Asked>,
    remote: IpAddr,
) -> String {
    loop {
        let keeps = downstream.shared.settings.policy_change == PolicyChange::Keep;
        if keeps || live.changed().await.is_err() {
            return std::future::pending().await;
        }
        let published = live.borrow_and_update().clone();
        let policies = &published.snapshot.authorization;
        if let (Err(because), _) = downstream.known.ask_request(policies, asked.facts(), remote) {
            return because;
        }
    }
}

/// Envoy's statuses for the same.
fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::NoRoute => StatusCode::NOT_FOUND,
        // Who reset the connection will not read it; who sent a body that is none does.
        Reason::RequestMalformed | Reason::ClientReset => StatusCode::BAD_REQUEST,
        Reason::AuthorizationDenied | Reason::PolicyChanged => StatusCode::FORBIDDEN,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Our own answer to a request that does not reach the other side, or gets none from there. The detail is for the log: it
/// may name what is not the client's business.
fn refusal(
    recording: &mut Recording,
    reason: Reason,
    status: StatusCode,
    detail: String,
) -> Response<AnswerBody> {
    recording.status(status);
    recording.finish(reason, Some(detail));
    let text = match reason {
        Reason::AuthorizationDenied | Reason::PolicyChanged => ACCESS_DENIED.to_owned(),
        reason => format!("{}: {}\n", reason.id(), reason.sentence()),
    };
    let mut answer = Response::new(AnswerBody::own(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert(REASON, HeaderValue::from_static(reason.id()));
    answer
}

/// Ends an HTTP/1 connection with this answer; HTTP/2 has no such field.
fn close(mut answer: Response<AnswerBody>, version: Version) -> Response<AnswerBody> {
    if version != Version::HTTP_2 {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
