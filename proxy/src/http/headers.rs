//! Header fields that end at a proxy, and those by which it tells the other side who asks.

use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use pillion_mesh::spiffe::SpiffeId;

/// Envoy's field with the identity that the client has proved.
pub(super) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The addresses that a request came by, the nearest last.
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`: what the client spoke to the first proxy.
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields that speak of one connection alone (RFC 9110 7.6.1), beside those that `Connection` names. `Transfer-Encoding`
/// frames the body, which is framed anew.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Takes out the fields that `Connection` names, but for those that every hop knows: they are still to be understood.
pub(super) fn strip_named_by_connection(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
}

/// Takes out what ends here. `TE: trailers` stays: trailers are passed on (RFC 9110 10.1.4).
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip_named_by_connection(headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    let wants_trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|coding| {
            coding.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("trailers"))
        });
    headers.remove(TE);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out of trailers what is said in the head and judged there: some apps read trailers as if they stood in it
/// (RFC 9110 6.5.1).
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in END_TO_END.iter().chain(&HOP_BY_HOP).chain([&TE]) {
        trailers.remove(name);
    }
}

/// The fields that `Connection` names and that have no meaning of their own to a hop. What must get through to be judged
/// (`Host`) cannot be named away.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let names =
        lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
    names.filter(|name| !END_TO_END.contains(name) && !HOP_BY_HOP.contains(name) && *name != TE).collect()
}

/// A client that names one of these in `Connection` would have us take out what the other side relies on.
const END_TO_END: [HeaderName; 6] = [
    hyper::header::HOST,
    hyper::header::CONTENT_LENGTH,
    hyper::header::AUTHORIZATION,
    FORWARDED_CLIENT_CERT,
    FORWARDED_FOR,
    FORWARDED_PROTO,
];

/// The protocol that a request, or the answer to it, changes to (`Upgrade`, with `Connection: upgrade`); `None` where it
/// does not, or where what follows would be other HTTP requests, which would not be judged: `h2c` and its like. Then the
/// request goes on without (RFC 9110 7.8 leaves it to the server).
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let mut lines = headers.get_all(UPGRADE).iter();
    let line = lines.next().filter(|_| asks)?;
    let carries_http = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.split(',')
            .any(|protocol| ["h2", "h3", "http", "tls"].iter().any(|name| protocol.trim().starts_with(name)))
    };
    (lines.next().is_none() && line.to_str().is_ok_and(|text| !carries_http(text))).then(|| line.clone())
}

/// Marks a head as changing protocols, as RFC 9110 7.8 has it.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// `By=…;Hash=…;Subject="";URI=…` of Envoy's `X-Forwarded-Client-Cert`: who we are, the SHA-256 of the client's
/// certificate, and the identity that it proved. IDs hold no character that would have to be quoted (SPIFFE-ID 2).
pub(super) fn forwarded_client_cert(
    own: &SpiffeId,
    client: &SpiffeId,
    certificate: &[u8],
) -> Option<HeaderValue> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("By={own};Hash={hash};Subject=\"\";URI={client}");
    HeaderValue::from_str(&text).ok()
}

/// The nearest address of `X-Forwarded-For`, the last; `None` where there is none or it is none.
pub(super) fn nearest_forwarded(headers: &HeaderMap) -> Option<std::net::IpAddr> {
    let line = headers.get_all(FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    let last = line.rsplit(',').next()?.trim();
    last.parse().ok().or_else(|| last.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    /// RFC 9110 7.6.1.
    #[rstest]
    #[case::connection(&[("connection", "close")], &[])]
    #[case::named(&[("connection", "x-a, X-B"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")], &["x-c"])]
    #[case::named_in_two_lines(&[("connection", "x-a"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "2")], &[])]
    #[case::keep_alive(&[("keep-alive", "timeout=5"), ("proxy-connection", "keep-alive")], &[])]
    #[case::upgrade(&[("upgrade", "websocket"), ("http2-settings", "AAMAAABk")], &[])]
    #[case::framing(&[("transfer-encoding", "chunked"), ("trailer", "x-sum")], &["trailer"])]
    #[case::te(&[("te", "gzip, trailers;q=1"), ("connection", "te")], &["te"])]
    #[case::te_without_trailers(&[("te", "gzip")], &[])]
    #[case::end_to_end(&[("accept", "a"), ("cookie", "b"), ("expect", "100-continue")], &["accept", "cookie", "expect"])]
    #[case::what_is_judged_cannot_be_named_away(
        &[("connection", "host, authorization, x-forwarded-client-cert"), ("host", "a"), ("authorization", "b")],
        &["authorization", "host"]
    )]
    #[case::no_names(&[("connection", ",, é,"), ("x-a", "1")], &["x-a"])]
    fn what_ends_at_a_proxy_is_taken_out(#[case] lines: &[(&str, &str)], #[case] left: &[&str]) {
        let mut headers = headers(lines);
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, left);
    }

    #[rstest]
    #[case::websocket(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")], Some("websocket"))]
    #[case::any_other(&[("connection", "upgrade"), ("upgrade", "echo/1")], Some("echo/1"))]
    #[case::not_asked(&[("upgrade", "websocket")], None)]
    #[case::no_protocol(&[("connection", "upgrade")], None)]
    #[case::http2(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")], None)]
    #[case::http2_beside(&[("connection", "upgrade"), ("upgrade", "websocket, H2C")], None)]
    #[case::http(&[("connection", "upgrade"), ("upgrade", "HTTP/2.0")], None)]
    #[case::tls(&[("connection", "upgrade"), ("upgrade", "TLS/1.0")], None)]
    #[case::two_lines(&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")], None)]
    fn a_change_of_protocol_is_passed_on_unless_it_hides_requests(
        #[case] lines: &[(&str, &str)],
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(upgrade(&headers(lines)).as_ref().map(|value| value.to_str().unwrap()), expected);
    }

    #[rstest]
    #[case(&["10.0.0.1"], Some("10.0.0.1"))]
    #[case(&["10.0.0.1, 192.0.2.7"], Some("192.0.2.7"))]
    #[case(&["10.0.0.1", "fd00::7"], Some("fd00::7"))]
    #[case::with_a_port(&["192.0.2.7:4312"], Some("192.0.2.7"))]
    #[case::no_address(&["10.0.0.1, unknown"], None)]
    #[case::nothing(&[], None)]
    fn the_nearest_forwarder_is_the_last(#[case] lines: &[&str], #[case] expected: Option<&str>) {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        assert_eq!(nearest_forwarded(&headers(&lines)), expected.map(|address| address.parse().unwrap()));
    }

    #[test]
    fn the_identity_is_told_as_envoy_does() {
        let id = |name: &str| format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap();
        let value = forwarded_client_cert(&id("backend"), &id("frontend"), b"certificate").unwrap();
        assert_eq!(
            value.to_str().unwrap(),
            "By=spiffe://cluster.local/ns/default/sa/backend;\
             Hash=03d66dd08835c1ca3f128cceacd1f31ac94163096b20f445ae84285bc0832d72;Subject=\"\";\
             URI=spiffe://cluster.local/ns/default/sa/frontend"
        );
    }
}
