//! The admission table: mode, declared protocol and first bytes to what is done with the connection.
//!
//! The oracle is Istio's sidecar (`peer_authentication_simulation_test.go`).

use super::mode::{Mode, Modes};
use crate::reason::Reason;
use crate::resource::Protocol;
use crate::wire::ModeShadow;

/// What was seen before the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observed {
    /// A ClientHello with the mesh's ALPN mark.
    MeshTls,
    /// A ClientHello without it: the app's own TLS.
    OtherTls,
    /// Bytes that are no ClientHello.
    Plaintext,
    /// Nothing before the deadline, or an end at once.
    Silent,
}

/// What is done with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Terminate mutual TLS; a client without a certificate fails there.
    Terminate,
    /// Forward the bytes as they are.
    Forward,
    /// Refuse with a reset.
    Refuse(Reason),
}

const BYTES: &[Protocol] = &[Protocol::Tls, Protocol::Tcp, Protocol::Undeclared];
const HTTP: &[Protocol] = &[Protocol::Http, Protocol::Http2];
const ANY: &[Protocol] =
    &[Protocol::Tls, Protocol::Tcp, Protocol::Undeclared, Protocol::Http, Protocol::Http2];

/// Mode, declared protocol, first bytes: what is done. Each case stands in exactly one row.
///
/// The mesh's mark under PERMISSIVE is never forwarded: a client that asks for mesh mTLS gets it or is refused.
/// A declared HTTP port differs in one case only, since the bytes of a plaintext connection are the app's to judge.
const TABLE: &[(Mode, &[Protocol], Observed, Admission)] = &[
    (Mode::Disable, ANY, Observed::MeshTls, Admission::Forward),
    (Mode::Disable, ANY, Observed::OtherTls, Admission::Forward),
    (Mode::Disable, ANY, Observed::Plaintext, Admission::Forward),
    (Mode::Disable, ANY, Observed::Silent, Admission::Forward),
    (Mode::Permissive, ANY, Observed::MeshTls, Admission::Terminate),
    (Mode::Permissive, BYTES, Observed::OtherTls, Admission::Forward),
    (Mode::Permissive, HTTP, Observed::OtherTls, Admission::Refuse(Reason::TlsToHttpPort)),
    (Mode::Permissive, ANY, Observed::Plaintext, Admission::Forward),
    (Mode::Permissive, ANY, Observed::Silent, Admission::Forward),
    (Mode::Strict, ANY, Observed::MeshTls, Admission::Terminate),
    (Mode::Strict, ANY, Observed::OtherTls, Admission::Terminate),
    (Mode::Strict, ANY, Observed::Plaintext, Admission::Refuse(Reason::StrictPlaintext)),
    (Mode::Strict, ANY, Observed::Silent, Admission::Refuse(Reason::StrictSilent)),
];

/// Looks the decision up. For DISABLE nothing is observed and this is not called: see [`needs_sniff`].
#[must_use]
pub fn admit(mode: Mode, protocol: Protocol, observed: Observed) -> Admission {
    let row = TABLE.iter().find(|(row_mode, protocols, seen, _)| {
        *row_mode == mode && protocols.contains(&protocol) && *seen == observed
    });
    // A test holds the table total; were it not, nothing would be let in.
    row.map_or(Admission::Refuse(Reason::Internal), |(.., admission)| *admission)
}

/// What the policies in dry run would have made of a connection to `port` for which the mode in force has decided
/// `admission`. `None` where none of them is for the workload, and where the connection is refused either way: then a change
/// of mode changes nothing for it.
#[must_use]
pub fn shadow(
    modes: &Modes,
    port: u16,
    protocol: Protocol,
    observed: Observed,
    admission: Admission,
) -> Option<ModeShadow> {
    let decision = modes.shadow_for_port(port)?;
    let refused = match (admit(decision.mode, protocol, observed), admission) {
        (Admission::Refuse(_), Admission::Refuse(_)) => return None,
        (Admission::Refuse(reason), _) => Some(reason),
        // The app's own TLS, which passes now, would end here, and its client has no certificate of the mesh.
        (Admission::Terminate, Admission::Forward) => Some(Reason::NoClientCertificate),
        _ => None,
    };
    Some(ModeShadow { mode: decision.mode, because: decision.because.clone(), refused })
}

/// Whether the mode asks for a look at the first bytes. DISABLE does not: a server-first protocol works there.
#[must_use]
pub fn needs_sniff(mode: Mode) -> bool {
    mode != Mode::Disable
}

/// Whether a connection that was admitted to a port which is read as HTTP carries requests that can be read. TLS that is
/// passed through cannot; where HTTP is read only since a policy asks for it (`declared` is false), a silent client's
/// server may speak first, and is served as TCP, of which the policies know no request. `observed` is `None` where nothing
/// was looked at.
#[must_use]
pub fn carries_requests(observed: Option<Observed>, admission: Admission, declared: bool) -> bool {
    match (admission, observed) {
        (Admission::Refuse(_), _) => false,
        (Admission::Terminate, _) => true,
        (Admission::Forward, Some(Observed::MeshTls | Observed::OtherTls)) => false,
        (Admission::Forward, Some(Observed::Silent)) => declared,
        (Admission::Forward, Some(Observed::Plaintext) | None) => true,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const MODES: [Mode; 3] = [Mode::Strict, Mode::Permissive, Mode::Disable];
    const OBSERVED: [Observed; 4] =
        [Observed::MeshTls, Observed::OtherTls, Observed::Plaintext, Observed::Silent];

    #[test]
    fn the_table_has_each_case_exactly_once() {
        for mode in MODES {
            for &protocol in ANY {
                for observed in OBSERVED {
                    let rows = TABLE.iter().filter(|(row_mode, protocols, seen, _)| {
                        *row_mode == mode && protocols.contains(&protocol) && *seen == observed
                    });
                    assert_eq!(rows.count(), 1, "{mode} {protocol:?} {observed:?}");
                }
            }
        }
    }

    // The rows of Istio's table as its simulation tests have them. Under DISABLE an HTTP port's protocol errors are
    // the app's own.
    #[rstest]
    #[case::disable_forwards_plaintext(Mode::Disable, Protocol::Tcp, Observed::Plaintext, Admission::Forward)]
    #[case::disable_forwards_the_apps_tls(
        Mode::Disable,
        Protocol::Tcp,
        Observed::OtherTls,
        Admission::Forward
    )]
    #[case::disable_does_not_terminate_mesh_tls(
        Mode::Disable,
        Protocol::Tcp,
        Observed::MeshTls,
        Admission::Forward
    )]
    #[case::disable_leaves_tls_to_an_http_port_to_the_app(
        Mode::Disable,
        Protocol::Http,
        Observed::OtherTls,
        Admission::Forward
    )]
    #[case::disable_leaves_mesh_tls_to_an_http_port_to_the_app(
        Mode::Disable,
        Protocol::Http,
        Observed::MeshTls,
        Admission::Forward
    )]
    #[case::disable_leaves_any_bytes_on_an_http_port_to_the_app(
        Mode::Disable,
        Protocol::Http,
        Observed::Plaintext,
        Admission::Forward
    )]
    #[case::permissive_forwards_plaintext(
        Mode::Permissive,
        Protocol::Tcp,
        Observed::Plaintext,
        Admission::Forward
    )]
    #[case::permissive_passes_the_apps_own_tls_through(
        Mode::Permissive,
        Protocol::Tcp,
        Observed::OtherTls,
        Admission::Forward
    )]
    #[case::permissive_terminates_mesh_tls(
        Mode::Permissive,
        Protocol::Tcp,
        Observed::MeshTls,
        Admission::Terminate
    )]
    #[case::permissive_has_no_chain_for_tls_to_an_http_port(
        Mode::Permissive,
        Protocol::Http,
        Observed::OtherTls,
        Admission::Refuse(Reason::TlsToHttpPort)
    )]
    #[case::permissive_terminates_mesh_tls_to_an_http_port(
        Mode::Permissive,
        Protocol::Http,
        Observed::MeshTls,
        Admission::Terminate
    )]
    #[case::permissive_leaves_any_bytes_on_an_http_port_to_the_app(
        Mode::Permissive,
        Protocol::Http,
        Observed::Plaintext,
        Admission::Forward
    )]
    #[case::permissive_lets_a_server_speak_first(
        Mode::Permissive,
        Protocol::Tcp,
        Observed::Silent,
        Admission::Forward
    )]
    #[case::strict_refuses_plaintext(
        Mode::Strict,
        Protocol::Tcp,
        Observed::Plaintext,
        Admission::Refuse(Reason::StrictPlaintext)
    )]
    #[case::strict_fails_the_apps_tls_in_the_handshake(
        Mode::Strict,
        Protocol::Tcp,
        Observed::OtherTls,
        Admission::Terminate
    )]
    #[case::strict_terminates_mesh_tls(Mode::Strict, Protocol::Tcp, Observed::MeshTls, Admission::Terminate)]
    #[case::strict_fails_tls_to_an_http_port_in_the_handshake(
        Mode::Strict,
        Protocol::Http,
        Observed::OtherTls,
        Admission::Terminate
    )]
    #[case::strict_terminates_mesh_tls_to_an_http_port(
        Mode::Strict,
        Protocol::Http,
        Observed::MeshTls,
        Admission::Terminate
    )]
    #[case::strict_refuses_any_bytes_on_an_http_port(
        Mode::Strict,
        Protocol::Http,
        Observed::Plaintext,
        Admission::Refuse(Reason::StrictPlaintext)
    )]
    #[case::strict_refuses_silence(
        Mode::Strict,
        Protocol::Tcp,
        Observed::Silent,
        Admission::Refuse(Reason::StrictSilent)
    )]
    fn admission_is_istios(
        #[case] mode: Mode,
        #[case] protocol: Protocol,
        #[case] observed: Observed,
        #[case] expected: Admission,
    ) {
        assert_eq!(admit(mode, protocol, observed), expected);
    }

    #[rstest]
    #[case::terminated(Some(Observed::MeshTls), Admission::Terminate, true, true)]
    #[case::terminated_where_a_policy_asks(Some(Observed::OtherTls), Admission::Terminate, false, true)]
    #[case::plaintext(Some(Observed::Plaintext), Admission::Forward, false, true)]
    #[case::not_looked_at(None, Admission::Forward, false, true)]
    #[case::the_apps_own_tls(Some(Observed::OtherTls), Admission::Forward, true, false)]
    #[case::silence_on_a_declared_port(Some(Observed::Silent), Admission::Forward, true, true)]
    #[case::silence_where_a_policy_asks(Some(Observed::Silent), Admission::Forward, false, false)]
    #[case::refused(Some(Observed::Plaintext), Admission::Refuse(Reason::StrictPlaintext), true, false)]
    fn requests_are_read_where_they_can_be(
        #[case] observed: Option<Observed>,
        #[case] admission: Admission,
        #[case] declared: bool,
        #[case] expected: bool,
    ) {
        assert_eq!(carries_requests(observed, admission, declared), expected);
    }

    /// Modes of a workload for which `in_force` holds, and `trial` in dry run.
    fn modes(in_force: &str, trial: &str) -> Modes {
        let policy = |name, mode, annotations| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: {name}, namespace: foo{annotations}}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
            )
        };
        let trial = policy("trial", trial, ", annotations: {istio.io/dry-run: \"true\"}");
        let mut resources = crate::resource::Resources::default();
        resources.read("mesh.yaml", &(policy("now", in_force, "") + &trial)).unwrap();
        Modes::resolve(&resources.peer_authentications, "istio-system", "foo", &[].into()).0
    }

    #[rstest]
    #[case::plaintext("PERMISSIVE", "STRICT", Observed::Plaintext, Some(Some(Reason::StrictPlaintext)))]
    #[case::silence("PERMISSIVE", "STRICT", Observed::Silent, Some(Some(Reason::StrictSilent)))]
    #[case::the_apps_own_tls(
        "PERMISSIVE",
        "STRICT",
        Observed::OtherTls,
        Some(Some(Reason::NoClientCertificate))
    )]
    #[case::mutual_tls("PERMISSIVE", "STRICT", Observed::MeshTls, Some(None))]
    #[case::what_is_refused_anyway("STRICT", "STRICT", Observed::Plaintext, None)]
    #[case::what_would_be_let_in("STRICT", "PERMISSIVE", Observed::Plaintext, Some(None))]
    fn a_dry_run_tells_what_it_would_refuse(
        #[case] in_force: &str,
        #[case] trial: &str,
        #[case] observed: Observed,
        #[case] refused: Option<Option<Reason>>,
    ) {
        let modes = modes(in_force, trial);
        let admission = admit(modes.for_port(80).mode, Protocol::Tcp, observed);
        let told = shadow(&modes, 80, Protocol::Tcp, observed, admission);
        assert_eq!(told.as_ref().map(|told| told.refused), refused);
        assert!(told.is_none_or(|told| told.because == "PeerAuthentication foo/trial (namespace)"));
    }

    /// Requirement 19: only a handshake can lead into a STRICT port.
    #[test]
    fn req_19_strict_forwards_nothing() {
        for (mode, _, observed, admission) in TABLE {
            assert!(*mode != Mode::Strict || *admission != Admission::Forward, "{observed:?}");
        }
    }

    /// Requirement 20: the mesh's mark is never answered by forwarding.
    #[test]
    fn req_20_permissive_never_forwards_what_bears_the_mesh_mark() {
        for protocol in [Protocol::Tcp, Protocol::Http] {
            assert_eq!(admit(Mode::Permissive, protocol, Observed::MeshTls), Admission::Terminate);
        }
    }

    /// Requirement 23: DISABLE does not look at all.
    #[test]
    fn req_23_disable_needs_no_look_at_the_first_bytes() {
        let looking: Vec<Mode> = MODES.into_iter().filter(|mode| needs_sniff(*mode)).collect();
        assert_eq!(looking, [Mode::Strict, Mode::Permissive]);
    }
}
