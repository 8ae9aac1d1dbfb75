//! Keeps web pages away from an admin API on loopback: a browser on the same host reaches it for any page that it shows.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use hyper::header::{HOST, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use super::server::Answer;

/// The refusal, where the request comes from a web page of another origin, or under a name that an attacker's DNS may
/// have pointed at loopback (DNS rebinding).
pub(crate) fn check(bound: SocketAddr, request: &Parts) -> Option<Answer> {
    if !bound.ip().to_canonical().is_loopback() {
        return None;
    }
    let host = header(request, &HOST);
    if let Some(host) = host
        && !is_here(bound.ip(), host)
    {
        return Some(Answer::problem(
            StatusCode::MISDIRECTED_REQUEST,
            format!("the admin API is asked for by its address: expected Host localhost or {bound}"),
        ));
    }
    match header(request, &ORIGIN) {
        Some(origin) if origin.strip_prefix("http://") != host => Some(Answer::problem(
            StatusCode::FORBIDDEN,
            "a web page of another origin may not use the admin API",
        )),
        _ => None,
    }
}

/// The header's text; what is no text, or stands twice, matches nothing.
fn header<'a>(request: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    let mut values = request.headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { Some("") } else { Some(value.to_str().unwrap_or("")) }
}

/// Whether `host` names this host without asking any DNS.
fn is_here(bound: IpAddr, host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback() || ip == bound,
        Err(_name) => name.eq_ignore_ascii_case("localhost"),
    }
}
