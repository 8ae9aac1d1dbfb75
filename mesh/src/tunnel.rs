//! Tunnels (HBONE): many connections in one session of mutual TLS, each as a CONNECT of HTTP/2. What may be asked in one,
//! what is answered and what an answer means, and which tunnel of several a connection takes.
//!
//! Leaves to `policy/dial` which endpoints are reached by tunnels, and to `policy/authz` who may go where.

use std::net::SocketAddr;

use crate::reason::Reason;

/// Where tunnels are taken, on every address (Istio's).
pub const PORT: u16 = 15008;

/// The protocol that both sides must agree on in the handshake (ALPN).
pub const ALPN: &[u8] = b"h2";

/// Where a stream wants to go: an address and a port, as RFC 9113 8.5 asks for.
///
/// # Errors
/// What is wrong with it, in words.
pub fn target(method: &str, authority: Option<&str>) -> Result<SocketAddr, String> {
    const LONGEST: usize = 100;
    let shown = |text: &str| text.chars().take(LONGEST).collect::<String>();
    if method != "CONNECT" {
        return Err(format!("a tunnel takes CONNECT alone, seen {}", shown(method)));
    }
    let authority = authority.ok_or("the CONNECT names no address")?;
    let target: SocketAddr = authority.parse().map_err(|_| {
        format!("expected an IP address and a port, such as 10.0.0.2:8080, seen {}", shown(authority))
    })?;
    if target.port() == 0 {
        return Err(format!("{target} has no port"));
    }
    Ok(SocketAddr::new(target.ip().to_canonical(), target.port()))
}

/// The status by which a stream is refused for `reason`: as ztunnel does it, but for 403, where that says 401.
#[must_use]
pub fn status(reason: Reason) -> u16 {
    match reason {
        Reason::RequestMalformed | Reason::SelfLoop | Reason::AddressNotOurs => 400,
        Reason::AuthorizationDenied | Reason::PolicyChanged => 403,
        _ => 503,
    }
}

/// What it means that a peer has answered a stream by `status`; none where it has taken it.
#[must_use]
pub fn refusal(status: u16) -> Option<(Reason, String)> {
    let (reason, told) = match status {
        200..=299 => return None,
        401 | 403 => (Reason::DeniedByPeer, "its policies do not allow it"),
        502..=504 => (Reason::DestinationUnreachable, "it cannot reach its app, or is at its limit"),
        _ => (Reason::TunnelRefused, "it does not take it"),
    };
    Some((reason, format!("the peer's proxy has answered {status}: {told}")))
}

/// How full a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Connections in it.
    pub streams: usize,
    /// Connections that it takes.
    pub limit: usize,
    /// Whether it is served by the same thread as the connection that asks: then no other has to be woken for each byte.
    pub near: bool,
}

/// What a connection does that needs a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The tunnel that it takes, by its place; `None` where all are full.
    pub take: Option<usize>,
    /// Whether another tunnel is begun: for this connection where it takes none, else ahead of the next ones.
    pub begin: bool,
}

/// Chooses among `tunnels`, of which there may be `most`: the first near one that has room, so that the last ones become idle,
/// else the first that has any; and a new one ahead as soon as the near ones together have no more room than a quarter of one.
#[must_use]
pub fn choose(tunnels: &[Load], most: usize) -> Choice {
    let room = |load: &Load| load.limit.saturating_sub(load.streams);
    let near = || tunnels.iter().filter(|load| load.near);
    let first = |near: bool| tunnels.iter().position(|load| room(load) > 0 && (load.near || !near));
    let take = first(true).or_else(|| first(false));
    let left = near().map(room).sum::<usize>().saturating_sub(1);
    let quarter = near().next_back().map_or(0, |newest| newest.limit / 4);
    Choice { take, begin: tunnels.len() < most && (take.is_none() || left <= quarter) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("CONNECT", Some("10.0.0.2:8080"), Ok("10.0.0.2:8080"))]
    #[case("CONNECT", Some("[fd00::2]:8080"), Ok("[fd00::2]:8080"))]
    #[case::ipv4_as_ipv6("CONNECT", Some("[::ffff:10.0.0.2]:8080"), Ok("10.0.0.2:8080"))]
    #[case::another_method("GET", Some("10.0.0.2:8080"), Err("a tunnel takes CONNECT alone, seen GET"))]
    #[case::no_authority("CONNECT", None, Err("the CONNECT names no address"))]
    #[case::a_name("CONNECT", Some("backend:8080"), Err("seen backend:8080"))]
    #[case::no_port("CONNECT", Some("10.0.0.2"), Err("seen 10.0.0.2"))]
    #[case::port_0("CONNECT", Some("10.0.0.2:0"), Err("10.0.0.2:0 has no port"))]
    #[case::a_user("CONNECT", Some("me@10.0.0.2:80"), Err("seen me@10.0.0.2:80"))]
    #[case::leading_zero("CONNECT", Some("010.0.0.2:80"), Err("seen 010.0.0.2:80"))]
    #[case::no_brackets("CONNECT", Some("fd00::2:80"), Err("seen fd00::2:80"))]
    #[case::empty("CONNECT", Some(""), Err("such as 10.0.0.2:8080"))]
    fn a_stream_names_an_address_and_a_port(
        #[case] method: &str,
        #[case] authority: Option<&str>,
        #[case] expected: Result<&str, &str>,
    ) {
        match (target(method, authority), expected) {
            (Ok(target), Ok(expected)) => assert_eq!(target.to_string(), expected),
            (Err(told), Err(expected)) => assert!(told.contains(expected), "{told}"),
            (seen, _) => panic!("{seen:?}"),
        }
    }

    #[test]
    fn a_peer_of_ours_understands_what_we_answer() {
        let means = |reason| refusal(status(reason)).map(|(reason, _)| reason);
        assert_eq!(means(Reason::AuthorizationDenied), Some(Reason::DeniedByPeer));
        assert_eq!(means(Reason::AppUnreachable), Some(Reason::DestinationUnreachable));
        assert_eq!(means(Reason::AddressNotOurs), Some(Reason::TunnelRefused));
        assert_eq!(refusal(200), None);
        assert_eq!(refusal(401).unwrap().0, Reason::DeniedByPeer, "as ztunnel says it");
    }

    #[rstest]
    #[case::none_yet(&[], None, true)]
    #[case::with_room(&[(10, 100)], Some(0), false)]
    #[case::before_three_quarters(&[(73, 100)], Some(0), false)]
    #[case::at_three_quarters(&[(74, 100)], Some(0), true)]
    #[case::one_is_ready_already(&[(99, 100), (0, 100)], Some(0), false)]
    #[case::the_first_is_full(&[(100, 100), (3, 100)], Some(1), false)]
    #[case::all_are_full(&[(100, 100), (100, 100)], None, true)]
    #[case::all_there_may_be_are_full(&[(100, 100), (100, 100), (100, 100)], None, false)]
    #[case::more_than_a_peer_takes_now(&[(100, 50)], None, true)]
    fn a_connection_takes_the_first_with_room(
        #[case] tunnels: &[(usize, usize)],
        #[case] take: Option<usize>,
        #[case] begin: bool,
    ) {
        let load = |&(streams, limit): &(usize, usize)| Load { streams, limit, near: true };
        let loads: Vec<Load> = tunnels.iter().map(load).collect();
        assert_eq!(choose(&loads, 3), Choice { take, begin });
    }

    #[rstest]
    #[case::only_a_far_one(&[(1, 100, false)], Some(0), true)]
    #[case::a_near_one_behind_a_far_one(&[(1, 100, false), (1, 100, true)], Some(1), false)]
    #[case::the_near_one_is_full(&[(1, 100, false), (100, 100, true)], Some(0), true)]
    #[case::no_more_may_be(&[(1, 100, false), (100, 100, true), (100, 100, true)], Some(0), false)]
    fn a_near_one_is_preferred_and_nobody_waits_for_it(
        #[case] tunnels: &[(usize, usize, bool)],
        #[case] take: Option<usize>,
        #[case] begin: bool,
    ) {
        let load = |&(streams, limit, near): &(usize, usize, bool)| Load { streams, limit, near };
        let loads: Vec<Load> = tunnels.iter().map(load).collect();
        assert_eq!(choose(&loads, 3), Choice { take, begin });
    }
}
