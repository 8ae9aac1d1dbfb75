//! Which sessions are resumed, and which never (requirements 16 to 18): our server with a client that would resume
//! whatever it may, our client with a server that would let it, and ours with ours.

use std::sync::atomic::{AtomicI64, Ordering};

use pillion_testkit::authority::valid_between;
use pillion_testkit::tls::{TLS12, TLS13, client_of_versions, server_of_versions};
use rstest::rstest;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;

use super::*;

const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";
const OTHER_SNI: &str = "outbound_.8081_._.backend.default.svc.cluster.local";

/// A clock that a test sets forward or back.
#[derive(Clone, Default)]
struct Turned(Arc<AtomicI64>);

impl Turned {
    fn clock(&self) -> Clock {
        let seconds = self.0.clone();
        Clock::of(move || {
            let seconds = seconds.load(Ordering::Relaxed);
            let span = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
        })
    }

    fn by(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

fn keeping_sessions(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    config
}

fn without_resumption() -> TlsSettings {
    TlsSettings { resumption: false, ..TlsSettings::default() }
}

fn credentials_by(held: &Held, bundles: Bundles, settings: TlsSettings, clock: &Clock) -> Credentials {
    Credentials::new(held.chain.clone(), &held.key, bundles, settings, clock, 1).unwrap()
}

fn was_resumed(handshake: Result<Handshake, HandshakeError>) -> bool {
    handshake.unwrap().record.resumed
}

/// One connection of a foreign client to our server: what ours says, and the tickets that the client got.
async fn serve_once(
    connector: &TlsConnector,
    credentials: &Credentials,
    door: Door,
) -> (Result<Handshake, HandshakeError>, u32) {
    let (near, far) = duplex(16 * 1024);
    let client = async {
        let Ok(mut stream) = connector.connect(pillion_testkit::tls::any_name(), near).await else {
            return 0;
        };
        let _ = first_read(&mut stream).await;
        stream.get_ref().1.tls13_tickets_received()
    };
    let server = async {
        let (mut stream, handshake) = server::accept(far, Arc::default(), credentials, door).await?;
        let kind = stream.connection().handshake_kind();
        assert_eq!(handshake.record.resumed, kind == Some(HandshakeKind::Resumed));
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok(handshake)
    };
    let (tickets, accepted) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    (accepted, tickets)
}

/// One connection of our client to a foreign server: what ours says, and whether the server resumed.
async fn dial_once(
    acceptor: &TlsAcceptor,
    credentials: &Credentials,
    to: (SocketAddr, &str),
    wanted: &[SpiffeId],
) -> (Result<Handshake, HandshakeError>, bool) {
    let (near, far) = duplex(16 * 1024);
    let client = async {
        let (mut stream, handshake) =
            client::connect(near, Arc::default(), credentials, to.0, to.1, wanted).await?;
        assert_eq!(first_read(&mut stream).await.unwrap(), b"welcome");
        Ok(handshake)
    };
    let server = async {
        let Ok(mut stream) = acceptor.accept(far).await else { return false };
        assert!(stream.get_mut().1.early_data().is_none(), "there was early data");
        let _ = stream.write_all(b"welcome").await;
        let _ = stream.shutdown().await;
        stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    };
    let (dialled, resumed) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    (dialled, resumed)
}

/// A foreign server that lets every session be resumed, and would take early data.
fn resuming_server(ca: &TestCa, held: &Held, versions: &[&'static SupportedProtocolVersion]) -> TlsAcceptor {
    let mut config = server_of_versions(ca, held, versions);
    config.session_storage = ServerSessionMemoryCache::new(16);
    config.max_early_data_size = 1024;
    TlsAcceptor::from(Arc::new(config))
}

/// Bytes both ways between our client and our server, so that the ticket arrives.
async fn meet_once(client: &Credentials, server: &Credentials) -> [Result<Handshake, HandshakeError>; 2] {
    let (near, far) = duplex(16 * 1024);
    let client = async {
        let (mut stream, handshake) =
            client::connect(near, Arc::default(), client, there(), SNI, [id(SERVER)]).await?;
        assert_eq!(first_read(&mut stream).await.unwrap(), b"welcome");
        Ok(handshake)
    };
    let server = async {
        let (mut stream, handshake) = server::accept(far, Arc::default(), server, DOOR).await?;
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
        Ok(handshake)
    };
    let (client, server) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    [client, server]
}

#[tokio::test]
async fn a_second_connection_between_sidecars_is_resumed_with_the_same_peers_and_proof() {
    let ca = TestCa::root("root");
    let client = credentials(&ca.issue(CLIENT), bundle(&ca));
    let server = credentials(&ca.intermediate("between").issue(SERVER), bundle(&ca));
    let first = meet_once(&client, &server).await.map(Result::unwrap);
    assert!(first.iter().all(|handshake| !handshake.record.resumed));
    for _ in 0..3 {
        let again = meet_once(&client, &server).await.map(Result::unwrap);
        for (again, first) in again.into_iter().zip(&first) {
            assert!(again.record.resumed);
            assert_eq!((&again.peer, &again.proof), (&first.peer, &first.proof));
            assert_eq!(again.record.group, "X25519MLKEM768", "the key exchange is a new one");
        }
    }
}

#[tokio::test]
async fn req_16_req_17_without_resumption_nothing_is_given_and_nothing_kept() {
    let ca = TestCa::root("root");
    let off = |held: &Held| credentials_by(held, bundle(&ca), without_resumption(), &Clock::system());
    let (ours, theirs) = (off(&ca.issue(SERVER)), ca.issue(CLIENT));
    let connector =
        TlsConnector::from(Arc::new(keeping_sessions(client_of_versions(&ca, Some(&theirs), TLS13))));
    for _ in 0..2 {
        let (accepted, tickets) = serve_once(&connector, &ours, DOOR).await;
        assert_eq!((was_resumed(accepted), tickets), (false, 0));
    }
    let (ours, acceptor) = (off(&theirs), resuming_server(&ca, &ca.issue(SERVER), TLS13));
    for _ in 0..2 {
        let (dialled, resumed) = dial_once(&acceptor, &ours, (there(), SNI), &[id(SERVER)]).await;
        assert_eq!((was_resumed(dialled), resumed), (false, false));
    }
}

/// Its sessions have no new key exchange.
#[tokio::test]
async fn tls_1_2_is_never_resumed() {
    let ca = TestCa::root("root");
    let (ours, theirs) = (credentials(&ca.issue(SERVER), bundle(&ca)), ca.issue(CLIENT));
    let connector =
        TlsConnector::from(Arc::new(keeping_sessions(client_of_versions(&ca, Some(&theirs), TLS12))));
    for _ in 0..2 {
        assert!(!was_resumed(serve_once(&connector, &ours, DOOR).await.0));
    }
    let (ours, acceptor) =
        (credentials(&theirs, bundle(&ca)), resuming_server(&ca, &ca.issue(SERVER), TLS12));
    for _ in 0..2 {
        let (dialled, resumed) = dial_once(&acceptor, &ours, (there(), SNI), &[id(SERVER)]).await;
        assert_eq!((was_resumed(dialled), resumed), (false, false));
    }
}

/// What may happen between two connections.
#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    /// Our certificate is renewed, of the same root.
    Renewal,
    /// Another root joins ours in the bundle.
    AnotherRootBesides,
    /// Another root takes the place of ours.
    AnotherRootInstead,
    /// A revocation list comes that names nobody, or the peer.
    EmptyList,
    PeerOnList,
    /// Our clock goes forward, or back.
    Seconds(i64),
    /// The same port, or its mode, becomes another.
    OtherPort,
    OtherMode,
    /// The same address, SNI or identities become others.
    OtherAddress,
    OtherSni,
    OtherIdentity,
}

/// The life of the peer's certificate; ours has an hour.
const HALF_HOUR: i64 = 30 * 60;

fn short_lived(ca: &TestCa, id: &str) -> Held {
    let now = SystemTime::now();
    ca.issue_with(id, |leaf| valid_between(leaf, now - days(1), now + Duration::from_secs(30 * 60)))
}

fn long_lived(ca: &TestCa, id: &str) -> Held {
    let now = SystemTime::now();
    ca.issue_with(id, |leaf| valid_between(leaf, now - days(1), now + days(1)))
}

fn changed(
    before: Credentials,
    change: Change,
    ca: &TestCa,
    (us, peer): (&str, &Held),
    clock: &Turned,
) -> Credentials {
    let other = TestCa::root("other");
    let list = |names: &[&rustls::pki_types::CertificateDer<'_>]| {
        revoked::revoked(&ca.revocation_list(names, SystemTime::now() + days(1)))
    };
    match change {
        Change::Renewal => credentials_at(&ca.issue(us), bundle(ca), &clock.clock()),
        Change::AnotherRootBesides => {
            let both = ca.bundle_pem() + &other.bundle_pem();
            before.with_bundles(Bundles::from_pem(&trust_domain(), both.as_bytes()).unwrap(), 2).unwrap()
        }
        Change::AnotherRootInstead => before.with_bundles(bundle(&other), 2).unwrap(),
        Change::EmptyList => before.with_revoked(list(&[]), 2).unwrap(),
        Change::PeerOnList => before.with_revoked(list(&[&peer.chain[0]]), 2).unwrap(),
        Change::Seconds(seconds) => {
            clock.by(seconds);
            before
        }
        _ => before,
    }
}

/// What the second connection is: resumed, a full handshake, or refused.
type Second = Result<bool, Reason>;

#[rstest]
#[case::nothing(Change::Nothing, Ok(true))]
#[case::a_moment_passes(Change::Seconds(60), Ok(true))]
#[case::renewal(Change::Renewal, Ok(false))]
#[case::another_root_besides(Change::AnotherRootBesides, Ok(false))]
#[case::another_root_instead(Change::AnotherRootInstead, Err(Reason::CertificateUntrusted))]
#[case::a_list_without_the_peer(Change::EmptyList, Ok(false))]
#[case::a_list_with_the_peer(Change::PeerOnList, Err(Reason::CertificateRevoked))]
#[case::the_peer_expires(Change::Seconds(HALF_HOUR + 60), Err(Reason::CertificateExpired))]
#[case::our_clock_is_set_back(Change::Seconds(-3600), Ok(false))]
#[case::another_port(Change::OtherPort, Ok(false))]
#[case::another_mode(Change::OtherMode, Ok(false))]
#[tokio::test]
async fn req_16_req_17_a_server_resumes_only_what_it_would_accept_now(
    #[case] change: Change,
    #[case] second: Second,
) {
    let ca = TestCa::root("root");
    let clock = Turned::default();
    let ours = credentials_at(&ca.issue(SERVER), bundle(&ca), &clock.clock());
    let peer = short_lived(&ca, CLIENT);
    let theirs = client_of_versions(&ca, Some(&peer), TLS13);
    let connector = TlsConnector::from(Arc::new(keeping_sessions(theirs)));
    let (accepted, tickets) = serve_once(&connector, &ours, DOOR).await;
    assert_eq!((was_resumed(accepted), tickets), (false, 1));
    let ours = changed(ours, change, &ca, (SERVER, &peer), &clock);
    let door = match change {
        Change::OtherPort => Door { port: DOOR.port + 1, ..DOOR },
        Change::OtherMode => Door { mode: Mode::Permissive, ..DOOR },
        _ => DOOR,
    };
    let (accepted, _) = serve_once(&connector, &ours, door).await;
    assert_eq!(
        accepted.map(|handshake| handshake.record.resumed).map_err(|error| error.reason),
        second,
        "{change:?}"
    );
}

#[rstest]
#[case::nothing(Change::Nothing, Ok(true))]
#[case::a_moment_passes(Change::Seconds(60), Ok(true))]
#[case::renewal(Change::Renewal, Ok(false))]
#[case::another_root_besides(Change::AnotherRootBesides, Ok(false))]
#[case::another_root_instead(Change::AnotherRootInstead, Err(Reason::CertificateUntrusted))]
#[case::a_list_without_the_peer(Change::EmptyList, Ok(false))]
#[case::a_list_with_the_peer(Change::PeerOnList, Err(Reason::CertificateRevoked))]
#[case::the_peer_expires(Change::Seconds(HALF_HOUR + 60), Err(Reason::CertificateExpired))]
#[case::our_clock_is_set_back(Change::Seconds(-3600), Ok(false))]
#[case::another_address(Change::OtherAddress, Ok(false))]
#[case::another_sni(Change::OtherSni, Ok(false))]
#[case::another_identity_may_serve(Change::OtherIdentity, Err(Reason::IdentityUnexpected))]
#[tokio::test]
async fn req_16_req_17_a_client_resumes_only_with_whom_it_would_accept_now(
    #[case] change: Change,
    #[case] second: Second,
) {
    let ca = TestCa::root("root");
    let clock = Turned::default();
    let ours = credentials_at(&ca.issue(CLIENT), bundle(&ca), &clock.clock());
    let peer = short_lived(&ca, SERVER);
    let acceptor = resuming_server(&ca, &peer, TLS13);
    let (dialled, _) = dial_once(&acceptor, &ours, (there(), SNI), &[id(SERVER)]).await;
    assert!(!was_resumed(dialled));
    let ours = changed(ours, change, &ca, (CLIENT, &peer), &clock);
    let to = match change {
        Change::OtherAddress => (SocketAddr::from(([10, 0, 0, 2], 8080)), SNI),
        Change::OtherSni => (there(), OTHER_SNI),
        _ => (there(), SNI),
    };
    let wanted = if matches!(change, Change::OtherIdentity) { OTHER } else { SERVER };
    let (dialled, resumed) = dial_once(&acceptor, &ours, to, &[id(wanted)]).await;
    assert_eq!(
        dialled.map(|handshake| handshake.record.resumed).map_err(|error| error.reason),
        second,
        "{change:?}"
    );
    assert_eq!(resumed, second == Ok(true), "{change:?}");
}

/// However often it is resumed: the key has to be proved again after an hour.
#[tokio::test]
async fn req_17_a_session_lives_no_longer_than_an_hour_after_the_proof_of_the_key() {
    let ca = TestCa::root("root");
    let (ours, theirs) = (Turned::default(), Turned::default());
    let server = credentials_at(&long_lived(&ca, SERVER), bundle(&ca), &ours.clock());
    let client = credentials_at(&long_lived(&ca, CLIENT), bundle(&ca), &theirs.clock());
    let mut resumed = Vec::new();
    for minutes in [0, 25, 50, 75, 100] {
        ours.by(minutes * 60);
        theirs.by(minutes * 60);
        let [_, accepted] = meet_once(&client, &server).await;
        resumed.push(was_resumed(accepted));
    }
    assert_eq!(resumed, [false, true, true, false, true]);
}

/// rustls would let a client offer a ticket as often as it likes.
#[tokio::test]
async fn req_17_a_ticket_is_good_for_one_connection() {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    let issuer = ours.issuer(DOOR).unwrap();
    let ticket = rustls::server::ProducesTickets::encrypt(&*issuer, b"state").unwrap();
    let offered = |door| rustls::server::ProducesTickets::decrypt(&*ours.issuer(door).unwrap(), &ticket);
    assert_eq!(offered(DOOR), None, "the handshake that it belongs to is not finished");
    let connector = TlsConnector::from(Arc::new(keeping_sessions(client_of_versions(
        &ca,
        Some(&ca.issue(CLIENT)),
        TLS13,
    ))));
    let (accepted, _) = serve_once(&connector, &ours, DOOR).await;
    assert!(!was_resumed(accepted));
    let given = ours.tickets();
    let [ticket] = given.as_slice() else { panic!("{} tickets were given", given.len()) };
    let offered = |door| rustls::server::ProducesTickets::decrypt(&*ours.issuer(door).unwrap(), ticket);
    assert!(offered(Door { port: 1, ..DOOR }).is_none(), "another port took it");
    assert!(offered(DOOR).is_some());
    assert!(offered(DOOR).is_none(), "it was taken twice");
    assert!(!was_resumed(serve_once(&connector, &ours, DOOR).await.0), "what was used up is resumed");
}

#[test]
fn req_17_a_ticket_is_said_to_last_no_longer_than_our_certificate() {
    let ca = TestCa::root("root");
    let lifetime = |held: &Held| {
        rustls::server::ProducesTickets::lifetime(&*credentials(held, bundle(&ca)).issuer(DOOR).unwrap())
    };
    assert_eq!(lifetime(&long_lived(&ca, SERVER)), 3600);
    assert!((1700..=1800).contains(&lifetime(&short_lived(&ca, SERVER))));
}

/// A connection may outlive the credentials that it was made with; its tickets do not.
#[tokio::test]
async fn req_16_a_ticket_that_comes_after_a_change_is_dropped() {
    let ca = TestCa::root("root");
    let before = credentials(&ca.issue(SERVER), bundle(&ca));
    let issuer = before.issuer(DOOR).unwrap();
    drop(before);
    assert!(rustls::server::ProducesTickets::encrypt(&*issuer, b"state").is_none());
}

#[tokio::test]
async fn req_18_there_is_no_early_data_in_either_direction() {
    let ca = TestCa::root("root");
    let (ours, theirs) = (credentials(&ca.issue(SERVER), bundle(&ca)), ca.issue(CLIENT));
    for offered in [&[&b"istio"[..]][..], &[]] {
        assert_eq!(ours.server_config(offered.iter().copied()).max_early_data_size, 0);
    }
    let connector =
        TlsConnector::from(Arc::new(keeping_sessions(client_of_versions(&ca, Some(&theirs), TLS13))));
    assert!(!was_resumed(serve_once(&connector, &ours, DOOR).await.0));
    let (near, far) = duplex(16 * 1024);
    let client = async {
        let mut connecting = connector.connect(pillion_testkit::tls::any_name(), near).await.unwrap();
        let early = connecting.get_ref().1.is_early_data_accepted();
        (first_read(&mut connecting).await.unwrap(), early)
    };
    let server = async {
        let (mut stream, handshake) = server::accept(far, Arc::default(), &ours, DOOR).await.unwrap();
        assert!(handshake.record.resumed);
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let ((seen, early), ()) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
    assert_eq!((seen.as_slice(), early), (&b"welcome"[..], false));
    // Our client's side: `dial_once` finds early data wherever it connects, and the server there would take some.
    let ours = credentials(&theirs, bundle(&ca));
    let acceptor = resuming_server(&ca, &ca.issue(SERVER), TLS13);
    for resumes in [false, true] {
        let (_, resumed) = dial_once(&acceptor, &ours, (there(), SNI), &[id(SERVER)]).await;
        assert_eq!(resumed, resumes);
    }
}

#[tokio::test]
async fn req_16_after_a_change_of_bundle_the_old_root_opens_no_second_connection() {
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let before = credentials(&old.issue(SERVER), bundle(&old));
    let after = before.with_bundles(bundle(&new), 2).unwrap();
    assert_eq!((before.generation(), after.generation()), (1, 2));
    for versions in [TLS12, TLS13] {
        let client = old.issue(CLIENT);
        let accepted =
            serve(keeping_sessions(client_of_versions(&old, Some(&client), versions)), &before).await.0;
        assert_eq!(accepted.unwrap().peer, id(CLIENT));
        let refused =
            serve(keeping_sessions(client_of_versions(&old, Some(&client), versions)), &after).await.0;
        assert_eq!(refused.unwrap_err().reason, Reason::CertificateUntrusted);
    }
}
