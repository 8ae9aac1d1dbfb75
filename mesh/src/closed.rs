//! Who ended a connection first, and how.
//!
//! Most reasons say it. Where both sides ended in order, or a handshake broke off, what was seen on the sockets does.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::reason::Reason;
use crate::wire::Direction;

/// Who ended a connection first, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Closed {
    /// Who.
    pub by: By,
    /// How.
    pub how: How,
}

/// Who can end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// Who dialled.
    Client,
    /// Whom we dialled for it.
    Server,
    /// This proxy.
    Proxy,
}

/// How a connection can be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// By TCP's end of one direction.
    Fin,
    /// By TLS's end of one direction, which nobody else can make.
    CloseNotify,
    /// By TCP's reset.
    Reset,
    /// By an alert of TLS.
    Alert,
    /// By not answering, or by having waited long enough.
    Timeout,
    /// By not being there to dial.
    Unreachable,
}

impl By {
    /// `client`, `server` or `proxy`, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            By::Client => "client",
            By::Server => "server",
            By::Proxy => "proxy",
        }
    }

    /// The other side of the mesh's leg.
    #[must_use]
    pub fn peer(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => By::Client,
            Direction::Outbound => By::Server,
        }
    }
}

impl Display for Closed {
    /// A sentence: `The client closed first, by FIN.`
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let by = self.by.as_str();
        match self.how {
            How::Fin => write!(f, "The {by} closed first, by FIN."),
            How::CloseNotify => write!(f, "The {by} closed first, by close_notify."),
            How::Reset => write!(f, "The {by} closed it by a reset."),
            How::Alert => write!(f, "The {by} closed it with a TLS alert."),
            How::Timeout if self.by == By::Proxy => write!(f, "The {by} closed it after a timeout."),
            How::Timeout => write!(f, "The {by} stopped answering."),
            How::Unreachable => write!(f, "The {by} could not be reached."),
        }
    }
}

impl Closed {
    /// Of a connection that ended for this reason. `seen` is the first end that came from one of its sides, as far as one
    /// was seen.
    #[must_use]
    pub fn of(reason: Reason, direction: Direction, seen: Option<Closed>) -> Self {
        let by = |by, how| Closed { by, how };
        match reason {
            Reason::Completed => seen.unwrap_or(by(By::Proxy, How::Reset)),
            Reason::ClientReset => by(By::Client, How::Reset),
            Reason::ServerReset => by(By::Server, How::Reset),
            Reason::ClientLost => by(By::Client, How::Timeout),
            Reason::ServerLost => by(By::Server, How::Timeout),
            Reason::TlsTruncated => by(By::peer(direction), How::Fin),
            Reason::PeerRefused => by(By::peer(direction), How::Alert),
            Reason::HandshakeFailed => seen.unwrap_or(by(By::Proxy, How::Alert)),
            Reason::StrictSilent => seen.unwrap_or(by(By::Proxy, How::Timeout)),
            Reason::NoClientCertificate
            | Reason::CertificateExpired
            | Reason::CertificateNotYetValid
            | Reason::CertificateUntrusted
            | Reason::CertificateInvalid
            | Reason::CertificateRevoked
            | Reason::SvidInvalid
            | Reason::TrustDomainUnknown
            | Reason::IdentityUnexpected
            | Reason::ServerNameUnexpected => by(By::Proxy, How::Alert),
            Reason::HandshakeTimeout | Reason::RequestTimeout => by(By::Proxy, How::Timeout),
            Reason::AppUnreachable | Reason::DestinationUnreachable => by(By::Server, How::Unreachable),
            Reason::DeniedByPeer | Reason::TunnelRefused | Reason::TunnelFailed => by(By::Server, How::Reset),
            Reason::ConnectTimeout => by(By::Server, How::Timeout),
            Reason::TlsBroken
            | Reason::StrictPlaintext
            | Reason::TlsToHttpPort
            | Reason::HelloTooLarge
            | Reason::NoExpectedIdentity
            | Reason::NoServerName
            | Reason::TlsFilesUnusable
            | Reason::AuthorizationDenied
            | Reason::TunnelsFull
            | Reason::AddressNotOurs
            | Reason::NoCertificate
            | Reason::SelfLoop
            | Reason::NoOriginalDestination
            | Reason::DestinationUnknown
            | Reason::RequestMalformed
            | Reason::NoRoute
            | Reason::NoEndpoint
            | Reason::TooManyConnections
            | Reason::PolicyChanged
            | Reason::Drained
            | Reason::Internal => by(By::Proxy, How::Reset),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const FIN: Option<Closed> = Some(Closed { by: By::Client, how: How::Fin });

    #[rstest]
    #[case::in_order(Reason::Completed, FIN, By::Client, How::Fin)]
    #[case::refused(Reason::StrictPlaintext, FIN, By::Proxy, How::Reset)]
    #[case::silent(Reason::StrictSilent, None, By::Proxy, How::Timeout)]
    #[case::silent_and_gone(Reason::StrictSilent, FIN, By::Client, How::Fin)]
    #[case::half_closed_and_then_reset(Reason::ServerReset, FIN, By::Server, How::Reset)]
    #[case::broken_off(Reason::HandshakeFailed, FIN, By::Client, How::Fin)]
    #[case::no_common_suite(Reason::HandshakeFailed, None, By::Proxy, How::Alert)]
    #[case::app_down(Reason::AppUnreachable, None, By::Server, How::Unreachable)]
    #[case::of_the_peer(Reason::PeerRefused, None, By::Client, How::Alert)]
    fn the_reason_or_what_was_seen_says_who_ended_it(
        #[case] reason: Reason,
        #[case] seen: Option<Closed>,
        #[case] by: By,
        #[case] how: How,
    ) {
        assert_eq!(Closed::of(reason, Direction::Inbound, seen), Closed { by, how });
    }

    #[test]
    fn the_peer_of_an_outbound_connection_is_the_server() {
        for reason in [Reason::PeerRefused, Reason::TlsTruncated] {
            assert_eq!(Closed::of(reason, Direction::Outbound, None).by, By::Server);
        }
    }

    #[test]
    fn it_is_told_in_json_and_in_words() {
        let closed = Closed { by: By::Server, how: How::CloseNotify };
        assert_eq!(serde_json::to_value(closed).unwrap(), json!({"by": "server", "how": "closeNotify"}));
        assert_eq!(closed.to_string(), "The server closed first, by close_notify.");
    }
}
