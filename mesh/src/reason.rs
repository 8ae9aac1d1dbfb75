//! Why a connection was passed, refused or closed: one list for the access log, the metrics, the admin API, the
//! command-line tool and `docs/reference/reasons.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $kind:ident, $sentence:literal, $cure:literal;)+) => {
        /// Why a connection ended or was not let in. The id is stable: logs, metrics and scripts rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* #[doc = $sentence] $variant,)+ }

        impl Reason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The short stable word that log, metric and API show.
            #[must_use]
            pub fn id(self) -> &'static str { match self { $(Reason::$variant => $id,)+ } }

            /// What happened, in one sentence for a person.
            #[must_use]
            pub fn sentence(self) -> &'static str { match self { $(Reason::$variant => $sentence,)+ } }

            /// What most likely helps; empty where nothing is wrong.
            #[must_use]
            pub fn cure(self) -> &'static str { match self { $(Reason::$variant => $cure,)+ } }

            /// Whether the connection ended as it should, was refused before it reached the app, or broke later.
            #[must_use]
            pub fn kind(self) -> Kind { match self { $(Reason::$variant => Kind::$kind,)+ } }
        }
    };
}

/// What a reason means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was served and ended.
    Ended,
    /// It was not let in, or nothing could be reached for it.
    Refused,
    /// It was served, then cut by the proxy.
    Cut,
}

impl Kind {
    /// Every kind, in the order of the reference page.
    pub const ALL: [Kind; 3] = [Kind::Ended, Kind::Refused, Kind::Cut];

    /// The short stable word that the API shows.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Kind::Ended => "ended",
            Kind::Refused => "refused",
            Kind::Cut => "cut",
        }
    }

    /// What it means for the connection, in one sentence for a person.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Kind::Ended => "It was served and ended.",
            Kind::Refused => "It was not let in, or nothing could be reached for it.",
            Kind::Cut => "It was served, then cut by the proxy.",
        }
    }
}

reasons! {
    Completed = "completed", Ended,
        "Both sides closed their direction cleanly.", "";
    ClientReset = "client_reset", Ended,
        "The client reset the connection; the reset was passed on.", "Look at the client: it gave up or crashed.";
    ServerReset = "server_reset", Ended,
        "The server reset the connection; the reset was passed on.", "Look at the server: it gave up or crashed.";
    ClientLost = "client_lost", Ended,
        "The client stopped answering, and TCP gave it up.", "Look at the client's host and at the network between.";
    ServerLost = "server_lost", Ended,
        "The server stopped answering, and TCP gave it up.", "Look at the server's host and at the network between.";
    TlsTruncated = "tls_truncated", Ended,
        "The TLS stream ended without close_notify, so its end cannot be trusted; it was passed on as a reset.",
        "Look at the peer or at what cut the connection: a crash, a timeout of a middlebox, or an attack.";
    TlsBroken = "tls_broken", Cut,
        "A TLS record could not be decrypted or breaks the protocol; both sides were reset.",
        "The detail names the TLS error; look for what alters the bytes between the sidecars: a fault, or an attack.";
    StrictPlaintext = "strict_plaintext", Refused,
        "The port is STRICT and the client sent plaintext.",
        "Give the client a sidecar, or make an exception for the port: PERMISSIVE in portLevelMtls.";
    StrictSilent = "strict_silent", Refused,
        "The port is STRICT and the client sent no TLS ClientHello before it closed or the detection timeout passed.",
        "Give the client a sidecar; for a server-first protocol set the port to PERMISSIVE or DISABLE.";
    TlsToHttpPort = "tls_to_http_port", Refused,
        "The client sent TLS of its own to a port that is declared as plain HTTP.",
        "Let the client send plaintext HTTP to its sidecar, or declare the port's protocol as TCP or TLS.";
    HelloTooLarge = "hello_too_large", Refused,
        "The TLS ClientHello is larger than the limit.", "Look at the client; a ClientHello of this size is no accident.";
    HandshakeTimeout = "handshake_timeout", Refused,
        "The TLS handshake did not finish in time.", "Look at the network and at the load of both sides; raise limits.handshakeTimeout if they are slow.";
    HandshakeFailed = "handshake_failed", Refused,
        "The TLS handshake failed.", "The detail names the TLS error; both sides need TLS 1.2 or newer and a shared cipher suite.";
    NoClientCertificate = "no_client_certificate", Refused,
        "The client did not present a certificate.", "Give the client a sidecar, or a certificate of the mesh.";
    CertificateExpired = "certificate_expired", Refused,
        "A certificate of the peer's chain has expired.", "Look at the peer's renewal and at both clocks.";
    CertificateNotYetValid = "certificate_not_yet_valid", Refused,
        "A certificate of the peer's chain is not yet valid.", "Compare both clocks.";
    CertificateUntrusted = "certificate_untrusted", Refused,
        "The peer's chain does not lead to a root of its trust domain's bundle, or of those that a DestinationRule names.",
        "Compare the trust bundles of both sides: one may be from before a rotation or from another mesh. For a server outside the mesh, look at caCertificates.";
    CertificateInvalid = "certificate_invalid", Refused,
        "The peer's chain breaks a rule of RFC 5280.", "The detail names the rule; have the certificate issued anew.";
    CertificateRevoked = "certificate_revoked", Refused,
        "A certificate of the peer's chain has been revoked by its issuer.",
        "Have the certificate issued anew, if its holder is whom you think; the detail names the revocation list.";
    SvidInvalid = "svid_invalid", Refused,
        "The peer's certificate is not an X509-SVID.", "The detail names the clause; have the certificate issued anew.";
    TrustDomainUnknown = "trust_domain_unknown", Refused,
        "There is no trust bundle for the peer's trust domain.", "Compare workload.trustDomain of both sides, and look which trust domains the bundle holds.";
    IdentityUnexpected = "identity_unexpected", Refused,
        "The server proved an identity that may not serve the wanted host.",
        "If the server is right, name its service account in the ServiceEntry; if not, something answers in its place.";
    NoExpectedIdentity = "no_expected_identity", Refused,
        "The destination has a sidecar, but no identity is known that may serve its host.",
        "Name the endpoint's serviceAccount in the ServiceEntry or WorkloadEntry, or the identities in subjectAltNames.";
    NoServerName = "no_server_name", Refused,
        "A DestinationRule asks for TLS to the destination, and no name is known that the server must prove.",
        "Name it in the DestinationRule by sni or subjectAltNames, or write a rule for the host itself instead of a wildcard.";
    ServerNameUnexpected = "server_name_unexpected", Refused,
        "The server's certificate is good, but for another name than the one wanted.",
        "If the server is right, name it in the DestinationRule by subjectAltNames; if not, something answers in its place.";
    TlsFilesUnusable = "tls_files_unusable", Refused,
        "A file that the DestinationRule names (a certificate, a key, roots, a revocation list) cannot be used.",
        "The detail names the file and its fault; it is read again as soon as it changes.";
    PeerRefused = "peer_refused", Refused,
        "The peer refused our certificate or our TLS offer with an alert.", "Read the peer's log: its sidecar names the reason.";
    AuthorizationDenied = "authorization_denied", Refused,
        "An AuthorizationPolicy does not allow the connection, or the request.",
        "The detail names the policy and the rule, or what each ALLOW rule missed; allow the caller's principal there if it shall be let in.";
    DeniedByPeer = "denied_by_peer", Refused,
        "The peer's proxy does not allow the connection in the tunnel to it.",
        "Look at the AuthorizationPolicies of the peer: its sidecar names the rule; allow our principal there if it shall be let in.";
    TunnelRefused = "tunnel_refused", Refused,
        "The peer's proxy does not take the connection in the tunnel to it.",
        "The detail has its answer, and its log the reason; look whether the address in the ServiceEntry is the peer's own.";
    TunnelFailed = "tunnel_failed", Refused,
        "The tunnel to the peer could not be opened, or broke before the peer had taken the connection.",
        "The detail says what; look whether the peer takes tunnels (HBONE) at this port, as its label networking.istio.io/tunnel says.";
    TunnelsFull = "tunnels_full", Refused,
        "All tunnels to the peer are full.",
        "Look for a client that leaks connections; raise tunnels.maxTunnels or tunnels.maxStreams if the load is real.";
    AddressNotOurs = "address_not_ours", Refused,
        "The client asked in a tunnel for an address at which the tunnel did not come in.",
        "Look at the client's ServiceEntry: a tunnel leads to its own endpoint alone; where addresses are translated on the way, give the endpoint its real one.";
    NoCertificate = "no_certificate", Refused,
        "This proxy has no valid certificate.", "Look at the identity log lines: the CA may be down or refuse the token.";
    SelfLoop = "self_loop", Refused,
        "The connection was made to a port of this proxy itself, or would come back to it.",
        "Call the service's own port; run the proxy as the uid that the interception rules exempt (1337).";
    NoOriginalDestination = "no_original_destination", Refused,
        "The kernel does not know where the connection was going.", "Install the interception rules, or use an explicit listener.";
    DestinationUnknown = "destination_unknown", Refused,
        "The registry does not know the destination.",
        "Add a ServiceEntry for the host, or for the address, with this port; captured traffic to strangers passes with outbound.trafficPolicy: ALLOW_ANY.";
    RequestMalformed = "request_malformed", Refused,
        "The client did not send an HTTP request, or one that can be understood in more than one way.",
        "The detail names what is wrong with it; if the port speaks something else than HTTP, declare its protocol as TCP.";
    RequestTimeout = "request_timeout", Cut,
        "The head of an HTTP request did not arrive in time.",
        "Look at the client and at the network between; raise limits.requestHeadTimeout if they are slow.";
    NoRoute = "no_route", Refused,
        "No VirtualService of the gateway has a route for the request's host and path.",
        "Add the host to a VirtualService that names the Gateway, or call a host that one has.";
    NoEndpoint = "no_endpoint", Refused,
        "The service is known but has no address.", "Look at the ServiceEntry's endpoints and at DNS.";
    AppUnreachable = "app_unreachable", Refused,
        "The app did not accept the connection.",
        "Start the app; if it listens on 127.0.0.1 only, set inbound.trafficPolicy: LOCALHOST.";
    DestinationUnreachable = "destination_unreachable", Refused,
        "The destination did not accept the connection.", "Look at the destination and at the network between.";
    ConnectTimeout = "connect_timeout", Refused,
        "The connection to the destination was not made in time.", "Look at the destination and at the network between; raise limits.connectTimeout if they are slow.";
    TooManyConnections = "too_many_connections", Refused,
        "The proxy is at its limit of concurrent connections.", "Look for a client that leaks connections; raise limits.maxConnections if the load is real.";
    PolicyChanged = "policy_changed", Cut,
        "A changed policy, trust bundle or revocation list no longer allows this open connection, or the request on it.",
        "The detail names what decides now.";
    Drained = "drained", Cut,
        "The proxy is stopping and the connection was still open at the drain deadline.", "Raise drain.timeout if clients need longer.";
    Internal = "internal", Cut,
        "The proxy failed in a way that it does not understand.", "Please report it with the log around this line.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_equal_their_serialized_form() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.id()), "{} stands twice", reason.id());
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.id());
        }
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.id());
        }
    }

    #[test]
    fn every_refusal_names_a_cure() {
        for reason in Reason::ALL {
            assert!(reason.kind() == Kind::Ended || !reason.cure().is_empty(), "{reason} names no cure");
        }
    }
}
