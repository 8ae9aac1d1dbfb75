//! How an outbound destination is reached: plaintext, mutual TLS of the mesh by itself or in a tunnel, or TLS of the web,
//! with which name, and who may answer: an explicit DestinationRule, else auto mTLS; secure naming.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::mode::Mode;
use crate::reason::Reason;
use crate::registry::Destination;
use crate::resource::{ClientTls, Location, Origination, Protocol};
use crate::spiffe::{SpiffeId, alternatives};
use crate::tunnel;

/// What is done with a destination that the registry does not know (Istio's `outboundTrafficPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundPolicy {
    /// It is passed on as it is.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// How to connect, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialPlan {
    /// With or without TLS.
    pub tls: DialTls,
    /// In words, for log and explanation.
    pub because: String,
}

/// The TLS of an outbound leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialTls {
    /// The app's bytes as they are.
    Plaintext,
    /// Mutual TLS with the workload's own certificate.
    IstioMutual {
        /// `outbound_.<port>_.<subset>_.<host>`, the subset empty where none is meant. A wildcard host stands without its
        /// `*.`, which no server name may hold (RFC 6066 3).
        sni: String,
        /// The server must prove one of these; never empty, in the order of their texts.
        identities: Arc<[SpiffeId]>,
    },
    /// The same in a tunnel, which it may share with other connections.
    Tunnel {
        /// Where the tunnel leads: the endpoint's address, with the port of tunnels.
        door: SocketAddr,
        /// As for `IstioMutual`.
        identities: Arc<[SpiffeId]>,
    },
    /// TLS as any client of the web speaks it, with a certificate to show or without.
    Originate {
        /// The name that is asked for; `None` where no name is known and none is needed.
        server_name: Option<String>,
        /// The server must prove one of these names; none where whoever answers is believed.
        names: Vec<String>,
        /// The protocol that is offered (ALPN); `None` offers none.
        alpn: Option<&'static str>,
        /// Roots, revocations and what to show.
        how: Arc<Origination>,
    },
    /// It is not dialled at all.
    Refuse(Reason),
}

impl DialTls {
    /// The mode as a DestinationRule would have it; `HBONE` in a tunnel; `REFUSED` for none.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        match self {
            DialTls::Plaintext => "DISABLE",
            DialTls::IstioMutual { .. } => "ISTIO_MUTUAL",
            DialTls::Tunnel { .. } => "HBONE",
            DialTls::Originate { how, .. } => how.mode(),
            DialTls::Refuse(_) => "REFUSED",
        }
    }

    /// Who may serve where that is proved by mutual TLS of the mesh, in a tunnel or not.
    fn mutual(&self) -> Option<&[SpiffeId]> {
        match self {
            DialTls::IstioMutual { identities, .. } | DialTls::Tunnel { identities, .. } => Some(identities),
            DialTls::Plaintext | DialTls::Originate { .. } | DialTls::Refuse(_) => None,
        }
    }

    /// Whether a connection that was made by this plan, with `peer` proved, may go on where `now` is the plan for new
    /// ones: `now` asks for no more than it has.
    #[must_use]
    pub fn still_serves(&self, peer: Option<&SpiffeId>, now: &DialTls) -> bool {
        match (self, now, now.mutual()) {
            (_, DialTls::Refuse(_), _) => false,
            (_, DialTls::Plaintext, _) => true,
            (one, _, Some(identities)) if one.mutual().is_some() => {
                peer.is_some_and(|peer| identities.binary_search(peer).is_ok())
            }
            (one, now, _) => one == now,
        }
    }
}

impl DialPlan {
    /// A host that an explicit listener stands for, and that the registry does not know: nobody asked for plaintext there.
    #[must_use]
    pub fn for_unknown_host(host: &str, port: u16) -> Self {
        Self {
            tls: DialTls::Refuse(Reason::DestinationUnknown),
            because: format!("no ServiceEntry has the host {host} with the port {port}"),
        }
    }

    /// Why a connection that was made as `made` says, with `peer` proved, may not go on where this is the plan for new
    /// ones; `None` where it may.
    #[must_use]
    pub fn ends(&self, made: &DialTls, peer: Option<&SpiffeId>) -> Option<String> {
        if made.still_serves(peer, &self.tls) {
            return None;
        }
        let because = &self.because;
        Some(match (made, &self.tls, self.tls.mutual().zip(peer)) {
            (_, DialTls::Refuse(_), _) => because.clone(),
            (made, _, Some((identities, peer))) if made.mutual().is_some() => {
                format!(
                    "{because}, and may be served by {}; this connection is with {peer}",
                    alternatives(identities)
                )
            }
            (made, now, _) if made.mode() == now.mode() => {
                format!("{because} otherwise than when this connection was made")
            }
            (made, _, _) => format!("{because}; this connection was made as {} has it", made.mode()),
        })
    }
}

/// An explicit DestinationRule as it says; without one auto mTLS: to an endpoint with a sidecar whose port is not DISABLE
/// by mutual TLS, to others in plaintext. Mutual TLS with an endpoint that takes tunnels is in a tunnel. A destination that
/// the registry does not know (`None`) as `unknown` says.
#[must_use]
pub fn plan(destination: Option<&Destination>, unknown: OutboundPolicy) -> DialPlan {
    match destination {
        Some(destination) => plan_for_known(destination, &destination.endpoint),
        None => plan_for_unknown(unknown),
    }
}

/// The plan for a known destination whose endpoint is called `endpoint`.
pub(crate) fn plan_for_known(destination: &Destination, endpoint: &dyn fmt::Display) -> DialPlan {
    let explicit = destination.rule.as_ref().and_then(|rule| rule.tls.as_ref().map(|tls| (rule, tls)));
    match explicit {
        Some((rule, tls)) => {
            let says = format!("DestinationRule {} says {}", rule.name, tls.mode());
            match tls {
                ClientTls::Disable => plaintext(says),
                ClientTls::IstioMutual => mutual(destination, says),
                ClientTls::Originate(how) => originate(destination, how, says),
            }
        }
        None => automatic(destination, endpoint),
    }
}

fn plan_for_unknown(policy: OutboundPolicy) -> DialPlan {
    let unknown = "no ServiceEntry has this address and port";
    match policy {
        OutboundPolicy::AllowAny => plaintext(format!("{unknown}: passed on as it is")),
        OutboundPolicy::RegistryOnly => DialPlan {
            tls: DialTls::Refuse(Reason::DestinationUnknown),
            because: format!("{unknown}, and outbound.trafficPolicy is REGISTRY_ONLY"),
        },
    }
}

/// Auto mTLS.
fn automatic(destination: &Destination, endpoint: &dyn fmt::Display) -> DialPlan {
    let Destination { host, service_entry, .. } = destination;
    if destination.location == Location::MeshExternal {
        return plaintext(format!("{host} is MESH_EXTERNAL (ServiceEntry {service_entry})"));
    }
    if !destination.has_sidecar {
        return plaintext(format!("{endpoint} has no sidecar by ServiceEntry {service_entry}"));
    }
    if destination.endpoint_mode == Mode::Disable {
        return plaintext(format!("{endpoint} has a sidecar, and its port is DISABLE"));
    }
    mutual(destination, format!("{endpoint} has a sidecar, and its port is {}", destination.endpoint_mode))
}

fn mutual(destination: &Destination, because: String) -> DialPlan {
    let Destination { host, service_entry, port, identities, subset, .. } = destination;
    if identities.is_empty() {
        return DialPlan {
            tls: DialTls::Refuse(Reason::NoExpectedIdentity),
            because: format!(
                "{because}, and ServiceEntry {service_entry} names no identity that may serve {host}"
            ),
        };
    }
    let identities = Arc::clone(identities);
    if destination.takes_tunnels {
        let door = SocketAddr::new(destination.endpoint.ip(), tunnel::PORT);
        let because = format!("{because}, and it takes tunnels");
        return DialPlan { tls: DialTls::Tunnel { door, identities }, because };
    }
    let subset = subset.as_deref().unwrap_or_default();
    let sni = format!("outbound_.{port}_.{subset}_.{}", host.strip_prefix("*.").unwrap_or(host));
    DialPlan { tls: DialTls::IstioMutual { sni, identities }, because }
}

/// The server's name is that of the rule, else the host. Where a wildcard is the host, nobody says which one is meant.
fn originate(destination: &Destination, how: &Arc<Origination>, because: String) -> DialPlan {
    let host = Some(&destination.host).filter(|host| !host.starts_with('*'));
    let server_name = how.sni.as_ref().or(host).cloned();
    let names = match (how.insecure_skip_verify, how.subject_alt_names.is_empty()) {
        (true, _) => Vec::new(),
        (false, false) => how.subject_alt_names.clone(),
        (false, true) => server_name.clone().into_iter().collect(),
    };
    if names.is_empty() && !how.insecure_skip_verify {
        return DialPlan {
            tls: DialTls::Refuse(Reason::NoServerName),
            because: format!("{because}, and names no server to expect behind {}", destination.host),
        };
    }
    let alpn = match destination.protocol {
        Protocol::Http => Some("http/1.1"),
        Protocol::Http2 => Some("h2"),
        Protocol::Tls | Protocol::Tcp | Protocol::Undeclared => None,
    };
    DialPlan { tls: DialTls::Originate { server_name, names, alpn, how: Arc::clone(how) }, because }
}

fn plaintext(because: String) -> DialPlan {
    DialPlan { tls: DialTls::Plaintext, because }
}

#[cfg(test)]
mod tests;
