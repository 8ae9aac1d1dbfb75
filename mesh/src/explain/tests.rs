use std::time::{Duration, SystemTime};

use rstest::rstest;

use super::*;
use crate::policy::mode::Mode;
use crate::wire::{
    AuthorizationRecord, By, Closed, Direction, FirstBytes, FirstPassed, How, ModeRecord, Offer,
    ShadowRecord, Times, TlsMode, TlsRecord, TunnelRecord, WireRecord,
};

const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";
const FRONTEND: &str = "spiffe://cluster.local/ns/default/sa/frontend";

fn accepted() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_176_000)
}

/// Refused: plaintext at a STRICT port.
fn plaintext() -> ConnectionRecord {
    ConnectionRecord {
        id: 12,
        direction: Direction::Inbound,
        accepted: accepted(),
        client: "10.0.0.7:4312".parse().unwrap(),
        original_destination: Some("10.0.0.8:3000".parse().unwrap()),
        first_bytes: Some(FirstBytes::Plaintext),
        looks_like: Some("GET /".to_owned()),
        mode: Some(ModeRecord {
            mode: Mode::Strict,
            because: "PeerAuthentication default/default (namespace)".to_owned(),
            shadow: None,
        }),
        service: Some("customers:3000".to_owned()),
        plan: None,
        tls: None,
        authorization: None,
        upstream: None,
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 0,
        bytes_to_client: 0,
        duration_micros: 420,
        times: Times { first_bytes: Some(210), ..Times::default() },
        reason: Some(Reason::StrictPlaintext),
        detail: Some("port 3000 is STRICT by PeerAuthentication default/default (namespace)".to_owned()),
        closed: Some(Closed { by: By::Proxy, how: How::Reset }),
        wire: None,
    }
}

fn tls(peer: &str, local: &str) -> TlsRecord {
    TlsRecord {
        mode: TlsMode::IstioMutual,
        peer: peer.to_owned(),
        local: local.to_owned(),
        version: "TLSv1.3".into(),
        cipher_suite: "TLS13_AES_256_GCM_SHA384".into(),
        group: "X25519MLKEM768".into(),
        resumed: false,
        handshake_micros: 1_500,
        peer_serial: "0aff".to_owned(),
        peer_not_after: accepted() + Duration::from_secs(3_600),
        local_serial: Some("0bee".to_owned()),
        local_not_after: Some(accepted() + Duration::from_secs(3_600)),
    }
}

/// Served by mutual TLS.
fn mutual() -> ConnectionRecord {
    ConnectionRecord {
        first_bytes: Some(FirstBytes::Tls {
            sni: Some("outbound_.3000_._.customers".to_owned()),
            alpn: vec!["istio".to_owned()],
            mesh: true,
            offer: Box::new(Offer {
                versions: vec![0x0304, 0x0303],
                groups: vec![0x11ec, 0x001d, 0x0017],
                ..Offer::default()
            }),
        }),
        looks_like: None,
        tls: Some(tls(FRONTEND, BACKEND)),
        authorization: Some(AuthorizationRecord {
            allowed: true,
            because: "ALLOW default/frontend, rule[0]".to_owned(),
            audited: None,
            shadow: Some(ShadowRecord { allowed: false, rule: None }),
        }),
        upstream: Some("10.0.0.8:3000".parse().unwrap()),
        tunnel: None,
        dialled_from: None,
        bytes_to_server: 120,
        bytes_to_client: 4_123,
        duration_micros: 12_345,
        times: Times {
            first_bytes: Some(210),
            handshake: Some(1_800),
            authorized: Some(1_850),
            dialled: Some(1_860),
            connected: Some(1_970),
            opened: Some(1_990),
            asked: Some(2_100),
            answered: Some(7_300),
        },
        reason: Some(Reason::Completed),
        detail: None,
        closed: Some(Closed { by: By::Client, how: How::CloseNotify }),
        wire: Some(Box::new(WireRecord {
            mesh: Some(FirstPassed { to_server: vec![0x17, 3, 3, 0, 0x5d], to_client: vec![0xab; 64] }),
            app: None,
        })),
        ..plaintext()
    }
}

/// Refused by the other side.
fn outbound() -> ConnectionRecord {
    ConnectionRecord {
        direction: Direction::Outbound,
        first_bytes: None,
        mode: None,
        plan: Some("auto mTLS: the endpoint has a sidecar".to_owned()),
        tls: None,
        authorization: None,
        times: Times { dialled: Some(300), ..Times::default() },
        bytes_to_server: 0,
        bytes_to_client: 0,
        reason: Some(Reason::PeerRefused),
        detail: Some("received fatal alert: CertificateExpired".to_owned()),
        closed: Some(Closed { by: By::Server, how: How::Alert }),
        wire: None,
        ..mutual()
    }
}

fn denied_request(path: &str) -> RequestRecord {
    RequestRecord {
        connection: 12,
        direction: Direction::Inbound,
        received: accepted() + Duration::from_millis(2),
        client: "10.0.0.7:4312".parse().unwrap(),
        destination: "10.0.0.8:3000".parse().unwrap(),
        tls: None,
        protocol: "HTTP/1.1".to_owned(),
        is_grpc: false,
        method: "DELETE".to_owned(),
        host: Some("customers".to_owned()),
        path: Some(path.to_owned()),
        service: None,
        upstream: None,
        authorization: None,
        status: Some(403),
        grpc_status: None,
        bytes_to_server: 0,
        bytes_to_client: 19,
        duration_micros: 100,
        reason: Reason::AuthorizationDenied,
        detail: Some("no ALLOW rule matches".to_owned()),
    }
}

#[test]
fn a_refusal_is_told_with_what_was_sent_what_decided_and_the_cure() {
    let expected = "\
Connection 12, inbound, refused: strict_plaintext
  √ client                 10.0.0.7:4312, no identity is proved; accepted at 2026-11-20T12:00:00.000Z
  √ destination            10.0.0.8:3000, which is customers:3000
  √ port                   port 3000 is STRICT by PeerAuthentication default/default (namespace)
  × first bytes   +0.2 ms  plaintext: GET /
  × end           +0.4 ms  strict_plaintext: The port is STRICT and the client sent plaintext. The proxy closed it by a reset.
cure: Give the client a sidecar, or make an exception for the port: PERMISSIVE in portLevelMtls.";
    assert_eq!(explain(&plaintext(), &[]).to_string(), expected);
}

#[test]
fn a_connection_that_went_well_is_told_step_by_step_and_needs_no_cure() {
    let expected = "\
Connection 12, inbound, ended: completed
  √ client                 10.0.0.7:4312, proved to be spiffe://cluster.local/ns/default/sa/frontend; accepted at 2026-11-20T12:00:00.000Z
  √ destination            10.0.0.8:3000, which is customers:3000
  √ port                   port 3000 is STRICT by PeerAuthentication default/default (namespace)
  √ first bytes   +0.2 ms  a ClientHello of the mesh: server name outbound_.3000_._.customers, ALPN istio; TLSv1.3, TLSv1.2, groups X25519MLKEM768, x25519, secp256r1
  √ handshake     +1.8 ms  mutual TLS, TLSv1.3 TLS13_AES_256_GCM_SHA384 X25519MLKEM768, full in 1.5 ms; the client proved to be spiffe://cluster.local/ns/default/sa/frontend (certificate 0aff, until 2026-11-20T13:00:00.000Z); we showed spiffe://cluster.local/ns/default/sa/backend (certificate 0bee, until 2026-11-20T13:00:00.000Z)
  √ policies      +1.8 ms  allowed: ALLOW default/frontend, rule[0]; a dry run would have denied it (no rule)
  √ dial          +1.8 ms  the app at 10.0.0.8:3000, connected in 0.1 ms
  √ bytes                  120 B to the server from +2.1 ms on, 4.1 kB to the client from +7.3 ms on
  √ wire                   ciphertext to the server 170303005d, to the client abababababababababababababababab…
  √ end            +12 ms  completed: Both sides closed their direction cleanly. The client closed first, by close_notify.";
    assert_eq!(explain(&mutual(), &[]).to_string(), expected);
}

#[test]
fn an_outbound_handshake_that_failed_says_so_at_its_step() {
    let expected = "\
Connection 12, outbound, refused: peer_refused
  √ client                 10.0.0.7:4312, our own side; accepted at 2026-11-20T12:00:00.000Z
  √ destination            10.0.0.8:3000, which is customers:3000
  √ plan                   auto mTLS: the endpoint has a sidecar
  √ dial          +0.3 ms  10.0.0.8:3000
  × handshake              received fatal alert: CertificateExpired
  × end            +12 ms  peer_refused: The peer refused our certificate or our TLS offer with an alert.
cure: Read the peer's log: its sidecar names the reason.";
    assert_eq!(explain(&outbound(), &[]).to_string(), expected);
}

#[test]
fn the_newest_refused_requests_are_told_and_the_cure_is_that_of_the_last() {
    let requests: Vec<_> = (1..=7).map(|number| denied_request(&format!("/orders/{number}"))).collect();
    let story = explain(&mutual(), &requests);
    let told: Vec<_> = story.steps.iter().filter(|step| step.about == About::Request).collect();
    assert_eq!(told.len(), 6);
    assert_eq!(told[0].told, "2 were refused before those below");
    assert_eq!(
        told[5].told,
        "DELETE customers/orders/7: 403, authorization_denied: An AuthorizationPolicy does not allow the connection, or the request. no ALLOW rule matches."
    );
    assert_eq!(told[5].at_micros, Some(2_000));
    assert_eq!(story.cure.as_deref(), Some(Reason::AuthorizationDenied.cure()));
    assert_eq!(story.refused_requests, requests);
}

#[test]
fn an_open_connection_has_no_end_yet() {
    let record = ConnectionRecord { reason: None, duration_micros: 3_400_000, ..mutual() };
    let story = explain(&record, &[]);
    assert_eq!(story.title, "Connection 12, inbound, open");
    let end = story.steps.last().unwrap();
    assert_eq!((end.told.as_str(), end.passed, &story.cure), ("none yet: it is open for 3.4 s", true, &None));
}

#[rstest]
#[case::denied(Reason::AuthorizationDenied, About::Policies)]
#[case::app_down(Reason::AppUnreachable, About::Dial)]
#[case::full(Reason::TooManyConnections, About::Client)]
#[case::loops(Reason::SelfLoop, About::Destination)]
#[case::expired(Reason::CertificateExpired, About::Handshake)]
#[case::policy_changed(Reason::PolicyChanged, About::End)]
fn the_step_that_failed_tells_the_detail_once(#[case] reason: Reason, #[case] about: About) {
    let denied = AuthorizationRecord {
        allowed: false,
        because: "this is what was seen".to_owned(),
        audited: None,
        shadow: None,
    };
    let authorization = Some(denied).filter(|_| reason == Reason::AuthorizationDenied);
    let detail = Some("this is what was seen".to_owned());
    let story = explain(&ConnectionRecord { reason: Some(reason), detail, authorization, ..mutual() }, &[]);
    let telling: Vec<_> = story.steps.iter().filter(|step| step.told.contains("this is what")).collect();
    let [step] = &telling[..] else { panic!("{story}") };
    assert_eq!((step.about, step.passed), (about, false));
    assert_eq!(step.told.matches("this is what was seen").count(), 1, "{story}");
    assert_eq!(story.cure.as_deref(), Some(reason.cure()));
}

#[rstest]
#[case::new(true, "tunnel 4, new: mutual TLS")]
#[case::shared(false, "tunnel 4, which stood before: mutual TLS")]
fn a_connection_in_a_tunnel_tells_which(#[case] new: bool, #[case] handshake: &str) {
    let door = "10.0.0.8:15008".parse().unwrap();
    let tunnel = Some(TunnelRecord { id: 4, stream: 7, new, shared_by: 3, door });
    let upstream = Some("10.0.0.8:3000".parse().unwrap());
    let record = ConnectionRecord { tunnel, upstream, tls: mutual().tls, reason: None, ..outbound() };
    let story = explain(&record, &[]);
    let told = |about| story.steps.iter().find(|step| step.about == about).map(|step| step.told.as_str());
    assert!(told(About::Handshake).is_some_and(|told| told.starts_with(handshake)), "{story}");
    let dial = "10.0.0.8:3000 by tunnel 4 to 10.0.0.8:15008, as stream 7, 3 in it";
    assert_eq!(told(About::Dial), Some(dial));
}

/// Whatever the reason, a refusal has a step that failed besides the end, and a cure.
#[test]
fn every_refusal_has_a_step_that_failed_and_a_cure() {
    for reason in Reason::ALL.iter().filter(|reason| reason.kind() == Kind::Refused) {
        for record in [plaintext(), outbound()] {
            let detail = Some("as a test has it".to_owned());
            let story = explain(&ConnectionRecord { reason: Some(*reason), detail, ..record }, &[]);
            assert!(story.steps.iter().any(|step| !step.passed && step.about != About::End), "{story}");
            assert_eq!(story.cure.as_deref(), Some(reason.cure()));
        }
    }
}

#[test]
fn what_a_peer_says_of_itself_acts_on_no_terminal() {
    let first_bytes = FirstBytes::Tls {
        sni: Some("a\u{1b}[2Jb".to_owned()),
        alpn: vec!["\n".to_owned()],
        mesh: false,
        offer: Box::default(),
    };
    let detail = Some("seen: \u{1b}]0;x\u{7}".to_owned());
    let story = explain(&ConnectionRecord { first_bytes: Some(first_bytes), detail, ..plaintext() }, &[]);
    assert!(!story.to_string().contains(['\u{1b}', '\u{7}']), "{story:?}");
    assert!(story.to_string().contains("a\\u{1b}[2Jb"), "{story}");
}

#[test]
fn plaintext_that_was_kept_is_told_in_its_letters_and_acts_on_no_terminal() {
    let app =
        FirstPassed { to_server: b"GET / HTTP/1.1\r\n\x1b[2J\xff".to_vec(), to_client: vec![b'a'; 256] };
    let wire = Some(Box::new(WireRecord { mesh: None, app: Some(app) }));
    let story = explain(&ConnectionRecord { wire, ..mutual() }, &[]);
    let step = story.steps.iter().find(|step| step.about == About::Wire).unwrap();
    let answer = "a".repeat(64);
    assert_eq!(
        step.told,
        format!(
            r#"plaintext of the app to the server "GET / HTTP/1.1\r\n\x1b[2J\xff", to the client "{answer}"…"#
        )
    );
}

#[rstest]
#[case::nothing_passed(FirstPassed::default(), None)]
#[case::one_way(FirstPassed { to_server: vec![1], to_client: vec![] }, Some("ciphertext to the server 01"))]
fn of_the_wire_only_what_passed_is_told(#[case] passed: FirstPassed, #[case] told: Option<&str>) {
    let wire = Some(Box::new(WireRecord { mesh: Some(passed), app: None }));
    let story = explain(&ConnectionRecord { wire, ..mutual() }, &[]);
    let step = story.steps.iter().find(|step| step.about == About::Wire);
    assert_eq!(step.map(|step| step.told.as_str()), told);
}

#[test]
fn of_many_groups_the_first_are_told() {
    let offer = Offer {
        versions: vec![0x0303],
        groups: vec![0x001d, 0x0017, 0x0018, 0x0019, 0x1234, 1],
        ..Offer::default()
    };
    let first_bytes = FirstBytes::Tls { sni: None, alpn: vec![], mesh: false, offer: Box::new(offer) };
    let story = explain(&ConnectionRecord { first_bytes: Some(first_bytes), ..mutual() }, &[]);
    let step = story.steps.iter().find(|step| step.about == About::FirstBytes).unwrap();
    let told = "; TLSv1.2, groups x25519, secp256r1, secp384r1, secp521r1 and 2 more";
    assert!(step.told.ends_with(told), "{}", step.told);
}

#[test]
fn the_reference_page_tells_what_a_story_holds() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/connection.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("## The story of a connection").unwrap();
    let story = serde_json::to_value(explain(&mutual(), &[])).unwrap();
    let fields = [&story, &story["steps"][0]].map(|object| object.as_object().unwrap().keys().cloned());
    let abouts = [
        About::Client,
        About::Destination,
        About::Port,
        About::FirstBytes,
        About::Plan,
        About::Handshake,
        About::Policies,
        About::Dial,
        About::Request,
        About::Bytes,
        About::Wire,
        About::End,
    ];
    let abouts = abouts.map(|about| serde_json::to_value(about).unwrap().as_str().unwrap().to_owned());
    for name in fields.into_iter().flatten().chain(abouts) {
        assert!(
            section.contains(&format!("`{name}`")),
            "docs/reference/connection.md does not tell `{name}`"
        );
    }
}

#[test]
fn a_story_survives_the_wire() {
    let story = explain(&mutual(), &[denied_request("/")]);
    let json = serde_json::to_string(&story).unwrap();
    assert_eq!(serde_json::from_str::<Story>(&json).unwrap(), story);
}
