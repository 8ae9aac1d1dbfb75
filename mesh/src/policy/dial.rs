//! How an outbound destination is reached: mTLS or plaintext, with which SNI, and who may answer (auto mTLS and
//! secure naming).

use super::mode::Mode;
use crate::reason::Reason;
use crate::registry::Destination;
use crate::resource::Location;
use crate::spiffe::SpiffeId;

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
        /// `outbound_.<port>_.<subset>_.<host>`, the subset empty. A wildcard host stands without its `*.`, which
        /// no server name may hold (RFC 6066 3).
        sni: String,
        /// The server must prove one of these; never empty.
        identities: Vec<SpiffeId>,
    },
    /// Mutual TLS is wanted and nobody is known who may answer: not dialled at all.
    Refuse(Reason),
}

/// Auto mTLS: to an endpoint with a sidecar whose port is not DISABLE by mutual TLS, to others in plaintext; an
/// unknown destination (`None`) in plaintext.
#[must_use]
pub fn plan(destination: Option<&Destination>) -> DialPlan {
    let Some(destination) = destination else {
        return plaintext("no ServiceEntry has this address and port: passed on as it is".to_owned());
    };
    let Destination { host, service_entry, port, endpoint, .. } = destination;
    if destination.location == Location::MeshExternal {
        return plaintext(format!("{host} is MESH_EXTERNAL (ServiceEntry {service_entry})"));
    }
    if !destination.has_sidecar {
        return plaintext(format!("{endpoint} has no sidecar by ServiceEntry {service_entry}"));
    }
    if destination.endpoint_mode == Mode::Disable {
        return plaintext(format!("{endpoint} has a sidecar, and its port is DISABLE"));
    }
    if destination.identities.is_empty() {
        return DialPlan {
            tls: DialTls::Refuse(Reason::NoExpectedIdentity),
            because: format!(
                "{endpoint} has a sidecar, and ServiceEntry {service_entry} names no identity for it"
            ),
        };
    }
    let sni = format!("outbound_.{port}_._.{}", host.strip_prefix("*.").unwrap_or(host));
    DialPlan {
        tls: DialTls::IstioMutual { sni, identities: destination.identities.clone() },
        because: format!("{endpoint} has a sidecar, and its port is {}", destination.endpoint_mode),
    }
}

fn plaintext(because: String) -> DialPlan {
    DialPlan { tls: DialTls::Plaintext, because }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::resource::Protocol;

    fn backend() -> Destination {
        Destination {
            host: "backend".to_owned(),
            service_entry: "default/backend".to_owned(),
            port: 8080,
            protocol: Protocol::Http,
            location: Location::MeshInternal,
            endpoint: "10.0.0.2:3000".parse().unwrap(),
            has_sidecar: true,
            endpoint_mode: Mode::Permissive,
            identities: vec!["spiffe://cluster.local/ns/default/sa/backend".parse().unwrap()],
        }
    }

    #[rstest]
    #[case::permissive(Mode::Permissive)]
    #[case::strict(Mode::Strict)]
    fn a_sidecar_is_reached_by_mutual_tls(#[case] endpoint_mode: Mode) {
        let destination = Destination { endpoint_mode, ..backend() };
        let DialTls::IstioMutual { sni, identities } = plan(Some(&destination)).tls else {
            panic!("expected mutual TLS");
        };
        assert_eq!(sni, "outbound_.8080_._.backend");
        assert_eq!(identities, destination.identities);
    }

    #[rstest]
    #[case::no_sidecar(Destination { has_sidecar: false, ..backend() })]
    #[case::port_is_disable(Destination { endpoint_mode: Mode::Disable, ..backend() })]
    #[case::outside_the_mesh(Destination { location: Location::MeshExternal, ..backend() })]
    fn a_known_destination_without_mesh_tls_is_reached_in_plaintext(#[case] destination: Destination) {
        assert_eq!(plan(Some(&destination)).tls, DialTls::Plaintext);
    }

    #[test]
    fn an_unknown_destination_is_passed_on_as_it_is() {
        assert_eq!(plan(None).tls, DialTls::Plaintext);
    }

    /// Requirement 25: where mTLS is wanted, nothing else is done.
    #[test]
    fn req_25_a_sidecar_without_a_known_identity_is_not_dialled() {
        let destination = Destination { identities: Vec::new(), ..backend() };
        assert_eq!(plan(Some(&destination)).tls, DialTls::Refuse(Reason::NoExpectedIdentity));
    }

    #[test]
    fn the_sni_of_a_wildcard_host_is_a_valid_server_name() {
        let destination = Destination { host: "*.example.org".to_owned(), ..backend() };
        let DialTls::IstioMutual { sni, .. } = plan(Some(&destination)).tls else {
            panic!("expected mutual TLS");
        };
        assert_eq!(sni, "outbound_.8080_._.example.org");
    }
}
