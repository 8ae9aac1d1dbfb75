use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rstest::rstest;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// First flights of real clients; `tests/hellos/README.md` says how each was made.
const CAPTURES: [(&str, &[u8]); 7] = [
    ("rustls-x25519mlkem768", include_bytes!("../../tests/hellos/rustls-x25519mlkem768.bin")),
    ("rustls-x25519", include_bytes!("../../tests/hellos/rustls-x25519.bin")),
    ("openssl-tls13", include_bytes!("../../tests/hellos/openssl-tls13.bin")),
    ("openssl-tls12", include_bytes!("../../tests/hellos/openssl-tls12.bin")),
    ("openssl-plain", include_bytes!("../../tests/hellos/openssl-plain.bin")),
    ("curl", include_bytes!("../../tests/hellos/curl.bin")),
    ("java", include_bytes!("../../tests/hellos/java.bin")),
];

const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;
const X25519: u16 = 0x001d;
const SECP256R1: u16 = 0x0017;
const X25519MLKEM768: u16 = 0x11ec;
const GREASE: u16 = 0xcaca;

fn capture(name: &str) -> &'static [u8] {
    CAPTURES.iter().find(|(known, _)| *known == name).unwrap().1
}

fn tls(bytes: &[u8]) -> ClientHello {
    match sniff(bytes) {
        Sniff::Tls(hello) => hello,
        other => panic!("expected a ClientHello, got {other:?}"),
    }
}

/// The handshake message inside the records of `flight`.
fn message_of(flight: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let mut rest = flight;
    while let [22, 3, _, high, low, behind @ ..] = rest {
        let (fragment, next) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend_from_slice(fragment);
        rest = next;
    }
    assert!(rest.is_empty(), "the flight is more than handshake records");
    message
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    [&[22, 3, 1], length.as_slice(), fragment].concat()
}

/// `message` in records whose fragments end at `ends` and at its own end.
fn records(message: &[u8], ends: &[usize]) -> Vec<u8> {
    let mut flight = Vec::new();
    let mut from = 0;
    for &end in ends.iter().chain([&message.len()]) {
        if end > from {
            flight.extend(record(&message[from..end]));
            from = end;
        }
    }
    flight
}

fn records_of(size: usize, message: &[u8]) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// Every prefix is `NeedMore` and the whole is `expected`, for [`sniff`] and for a [`Sniffer`] fed byte by byte.
fn assert_read_at_its_last_byte(flight: &[u8], expected: &ClientHello) {
    let mut sniffer = Sniffer::default();
    for end in 0..flight.len() {
        assert_eq!(sniffer.sniff(&flight[..end]), Sniff::NeedMore, "{end} of {} bytes", flight.len());
        assert!(
            sniffer.least_length() <= flight.len(),
            "asks for too much at {end}: {}",
            sniffer.least_length()
        );
        assert!(sniffer.least_length() > end, "the hello is longer than what is there at {end}");
        if flight.len() < 700 {
            assert_eq!(sniff(&flight[..end]), Sniff::NeedMore, "{end} of {} bytes", flight.len());
        }
    }
    assert_eq!(sniffer.sniff(flight), Sniff::Tls(expected.clone()));
    assert_eq!(sniff(flight), Sniff::Tls(expected.clone()));
}

/// A ClientHello made by hand: TLS 1.2 with one cipher suite, no session, and the given extensions.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), vector16(data)].concat())
        .collect();
    client_hello_message(
        &[&[3, 3], [7; 32].as_slice(), &[0], &[0, 2, 0x13, 1], &[1, 0], &vector16(&extensions)].concat(),
    )
}

fn client_hello_message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1], &length[1..], body].concat()
}

fn vector8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [u16::try_from(content.len()).unwrap().to_be_bytes().as_slice(), content].concat()
}

fn sni_of(name: &[u8]) -> (u16, Vec<u8>) {
    (SERVER_NAME, vector16(&[&[HOST_NAME], vector16(name).as_slice()].concat()))
}

fn alpn_of(names: &[&[u8]]) -> (u16, Vec<u8>) {
    (ALPN, vector16(&names.iter().flat_map(|name| vector8(name)).collect::<Vec<u8>>()))
}

fn versions_of(versions: &[u16]) -> (u16, Vec<u8>) {
    (
        SUPPORTED_VERSIONS,
        vector8(&versions.iter().flat_map(|version| version.to_be_bytes()).collect::<Vec<u8>>()),
    )
}

fn key_shares_of(shares: &[(u16, &[u8])]) -> (u16, Vec<u8>) {
    let shares: Vec<u8> = shares
        .iter()
        .flat_map(|(group, key)| [group.to_be_bytes().to_vec(), vector16(key)].concat())
        .collect();
    (KEY_SHARE, vector16(&shares))
}

// What the captured hellos say

#[rstest]
#[case("rustls-x25519mlkem768", Some("outbound_.8080_._.backend.default.svc.cluster.local"), &["istio"], &[TLS13, TLS12], &[X25519MLKEM768, X25519])]
#[case("rustls-x25519", Some("backend"), &["h2", "http/1.1"], &[TLS13, TLS12], &[X25519])]
#[case("openssl-tls13", Some("backend.default.svc.cluster.local"), &["istio", "h2"], &[TLS13], &[X25519])]
#[case("openssl-tls12", Some("backend"), &["http/1.1"], &[TLS12], &[])]
#[case("openssl-plain", None, &[], &[TLS12], &[])]
#[case("curl", Some("example.org"), &["h2", "http/1.1"], &[TLS13, TLS12, 0x0302, 0x0301], &[X25519])]
#[case("java", None, &[], &[TLS13, TLS12], &[X25519, SECP256R1])]
fn a_captured_hello_is_read(
    #[case] name: &str,
    #[case] sni: Option<&str>,
    #[case] alpn: &[&str],
    #[case] versions: &[u16],
    #[case] groups: &[u16],
) {
    let flight = capture(name);
    let expected = ClientHello {
        sni: sni.map(str::to_owned),
        alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        versions: versions.to_vec(),
        key_share_groups: groups.to_vec(),
        wire_length: flight.len(),
        ..tls(flight)
    };
    assert_eq!(tls(flight), expected);
}

#[rstest]
#[case("rustls-x25519mlkem768", (10, "TLS_AES_256_GCM_SHA384"), "X25519MLKEM768 x25519", (13, "ecdsa_secp384r1_sha384", "mldsa87"))]
#[case("openssl-tls13", (4, "TLS_AES_256_GCM_SHA384"), "x25519 secp256r1 x448 secp521r1 secp384r1 ffdhe2048 ffdhe3072 ffdhe4096 ffdhe6144 ffdhe8192", (14, "ecdsa_secp256r1_sha256", "rsa_pkcs1_sha512"))]
#[case("openssl-tls12", (28, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"), "x25519 secp256r1 x448 secp521r1 secp384r1", (20, "ecdsa_secp256r1_sha256", "dsa_sha512"))]
#[case("java", (37, "TLS_AES_256_GCM_SHA384"), "x25519 secp256r1 secp384r1 secp521r1 x448 ffdhe2048 ffdhe3072 ffdhe4096 ffdhe6144 ffdhe8192", (21, "ecdsa_secp256r1_sha256", "dsa_sha1"))]
fn a_captured_hello_tells_what_it_offers_by_name(
    #[case] name: &str,
    #[case] (suites, first_suite): (usize, &str),
    #[case] groups: &str,
    #[case] (algorithms, first_algorithm, last_algorithm): (usize, &str, &str),
) {
    let hello = tls(capture(name));
    let offered = names::CIPHER_SUITES.names(&hello.cipher_suites);
    assert_eq!((offered.len(), &*offered[0]), (suites, first_suite));
    assert_eq!(offered[suites - 1], "TLS_EMPTY_RENEGOTIATION_INFO_SCSV");
    assert_eq!(names::GROUPS.names(&hello.groups).join(" "), groups);
    let accepted = names::SIGNATURE_ALGORITHMS.names(&hello.signature_algorithms);
    assert_eq!(
        (accepted.len(), &*accepted[0], &*accepted[algorithms - 1]),
        (algorithms, first_algorithm, last_algorithm)
    );
}

#[test]
fn what_usual_clients_offer_has_names() {
    for (name, flight) in CAPTURES {
        let hello = tls(flight);
        let told = [
            names::VERSIONS.names(&hello.versions),
            names::CIPHER_SUITES.names(&hello.cipher_suites),
            names::GROUPS.names(&hello.groups),
            names::SIGNATURE_ALGORITHMS.names(&hello.signature_algorithms),
        ];
        let unnamed = told.concat().into_iter().find(|told| told.starts_with("0x"));
        assert_eq!(unnamed, None, "{name}");
    }
}

/// They are only told, so they make no hello of what was none, and none of what was one.
#[rstest]
#[case::cut_short(&[0, 4, 0, 0x1d])]
#[case::odd(&[0, 3, 0, 0x1d, 0])]
#[case::bytes_behind(&[0, 2, 0, 0x1d, 0])]
#[case::empty(&[])]
fn a_broken_list_of_groups_or_algorithms_counts_as_empty(#[case] data: &[u8]) {
    for kind in [SUPPORTED_GROUPS, SIGNATURE_ALGORITHMS] {
        let hello = tls(&record(&hello(&[(kind, data.to_vec()), alpn_of(&[b"istio"])])));
        assert_eq!((hello.groups.len(), hello.signature_algorithms.len(), hello.is_mesh()), (0, 0, true));
    }
}

#[test]
fn a_post_quantum_hello_is_larger_than_one_packet() {
    assert!(capture("rustls-x25519mlkem768").len() > 1448);
}

// Any segmentation, any record split

#[test]
fn req_21_every_prefix_of_a_captured_hello_needs_more() {
    for (name, flight) in CAPTURES {
        println!("{name}");
        assert_read_at_its_last_byte(flight, &tls(flight));
    }
}

#[test]
fn req_21_every_split_into_two_records_gives_the_same_hello() {
    for (name, flight) in CAPTURES {
        let message = message_of(flight);
        for end in 1..message.len() {
            let split = records(&message, &[end]);
            let expected = ClientHello { wire_length: split.len(), ..tls(flight) };
            assert_eq!(tls(&split), expected, "{name} split at {end}");
        }
    }
}

#[rstest]
fn req_21_tiny_records_give_the_same_hello(#[values(1, 2, 3, 5)] size: usize) {
    for (_, flight) in CAPTURES {
        let split = records_of(size, &message_of(flight));
        assert_read_at_its_last_byte(&split, &ClientHello { wire_length: split.len(), ..tls(flight) });
    }
}

#[rstest]
#[case::four_kilobytes(4 << 10)]
#[case::one_whole_record(MAX_FRAGMENT - 300)]
#[case::four_records(60_000)]
fn req_21_large_hellos_are_read(#[case] padding: usize) {
    let message = hello(&[(21, vec![0; padding]), alpn_of(&[b"istio"])]);
    let flight = records_of(MAX_FRAGMENT, &message);
    assert!(tls(&flight).is_mesh());
    assert_eq!(tls(&flight).wire_length, flight.len());
}

proptest! {
    #[test]
    fn req_21_any_records_and_any_segments_give_the_same_hello(
        index in 0..CAPTURES.len(),
        ends in prop::collection::btree_set(1usize..1_600, 0..12),
        segments in prop::collection::btree_set(1usize..1_700, 0..12),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let flight = CAPTURES[index].1;
        let message = message_of(flight);
        let ends: Vec<usize> = ends.into_iter().filter(|&end| end < message.len()).collect();
        let split = records(&message, &ends);
        let expected = ClientHello { wire_length: split.len(), ..tls(flight) };

        let mut sniffer = Sniffer::default();
        for &end in segments.iter().filter(|&&end| end < split.len()) {
            prop_assert_eq!(sniffer.sniff(&split[..end]), Sniff::NeedMore);
            prop_assert_eq!(sniff(&split[..end]), Sniff::NeedMore);
        }
        let received = [split, behind].concat();
        prop_assert_eq!(sniffer.sniff(&received), Sniff::Tls(expected.clone()));
        prop_assert_eq!(sniff(&received), Sniff::Tls(expected));
    }
}

#[test]
fn what_follows_the_hello_is_not_looked_at() {
    let flight = capture("curl");
    for behind in [&b"\0\0\0"[..], b"GET / HTTP/1.1\r\n", flight] {
        assert_eq!(tls(&[flight, behind].concat()), tls(flight));
    }
    // Not even in the same record.
    let coalesced = record(&[message_of(flight), b"\x02 more".to_vec()].concat());
    assert_eq!(tls(&coalesced), tls(flight));
}

// GREASE

#[test]
fn req_21_grease_is_left_out_wherever_it_stands() {
    let flight = record(&hello(&[
        (GREASE, vec![]),
        sni_of(b"backend"),
        alpn_of(&[&[0x1a, 0x1a], b"istio", b"h2"]),
        versions_of(&[GREASE, TLS13, TLS12]),
        key_shares_of(&[(GREASE, &[0]), (X25519, &[1; 32])]),
        (SUPPORTED_GROUPS, vector16(&[0xca, 0xca, 0, 0x1d])),
        (SIGNATURE_ALGORITHMS, vector16(&[0x08, 0x07, 0x1a, 0x1a])),
        (0x0a0a, vec![0]),
    ]));
    assert_eq!(
        tls(&flight),
        ClientHello {
            sni: Some("backend".to_owned()),
            alpn: vec![b"istio".to_vec(), b"h2".to_vec()],
            versions: vec![TLS13, TLS12],
            cipher_suites: vec![0x1301],
            groups: vec![X25519],
            signature_algorithms: vec![0x0807],
            key_share_groups: vec![X25519],
            wire_length: flight.len(),
        }
    );
    assert_read_at_its_last_byte(&flight, &tls(&flight));
}

#[test]
fn grease_is_sixteen_values() {
    let grease: Vec<u16> = (0..=u16::MAX).filter(|&value| is_grease(value)).collect();
    assert_eq!(grease.len(), 16);
    assert_eq!((grease[0], grease[1], grease[15]), (0x0a0a, 0x1a1a, 0xfafa));
}

// The mesh's mark

#[rstest]
#[case(b"istio", true)]
#[case(b"istio-peer-exchange", true)]
#[case(b"istio-http/1.0", true)]
#[case(b"istio-http/1.1", true)]
#[case(b"istio-h2", true)]
#[case(b"Istio", false)]
#[case(b"istio\0", false)]
#[case(b"istio-", false)]
#[case(b"h2", false)]
fn req_20_the_mesh_mark_is_compared_octet_by_octet(#[case] protocol: &[u8], #[case] mesh: bool) {
    assert_eq!(tls(&record(&hello(&[alpn_of(&[b"h2", protocol])]))).is_mesh(), mesh);
}

// Not TLS, and as early as it can be known

#[rstest]
#[case::http(b"G")]
#[case::newline(b"\n")]
#[case::alert_record(&[21])]
#[case::change_cipher_spec(&[20])]
#[case::application_data(&[23])]
#[case::sslv2_hello(&[0x80])]
#[case::other_major_version(&[22, 2])]
#[case::text_after_the_record_type(&[22, b'G'])]
#[case::empty_fragment(&[22, 3, 1, 0, 0])]
#[case::fragment_over_16_kib(&[22, 3, 1, 0x40, 0x01])]
#[case::server_hello(&[22, 3, 3, 0, 9, 2])]
#[case::hello_request(&[22, 3, 3, 0, 4, 0])]
fn req_22_is_refused_at_the_byte_that_tells(#[case] bytes: &[u8]) {
    let (_, before) = bytes.split_last().unwrap();
    assert_eq!(sniff(before), Sniff::NeedMore);
    assert_eq!(sniff(bytes), Sniff::NotTls);
    let mut sniffer = Sniffer::default();
    for end in 0..bytes.len() {
        assert_eq!(sniffer.sniff(&bytes[..end]), Sniff::NeedMore);
    }
    assert_eq!(sniffer.sniff(bytes), Sniff::NotTls);
    assert_eq!(sniffer.sniff(&[bytes, b"more"].concat()), Sniff::NotTls, "and stays refused");
}

#[test]
fn the_largest_fragment_is_allowed() {
    assert_eq!(sniff(&[22, 3, 1, 0x40, 0x00, 1]), Sniff::NeedMore);
}

#[rstest]
#[case::alert(&[21, 3, 3, 0, 2, 1, 0])]
#[case::change_cipher_spec(&[20, 3, 3, 0, 1, 1])]
#[case::empty_handshake_record(&[22, 3, 3, 0, 0])]
#[case::other_version(&[22, 4, 3, 0, 1])]
fn nothing_comes_between_the_records_of_a_hello(#[case] between: &[u8]) {
    let message = message_of(capture("openssl-tls12"));
    for end in 1..message.len() {
        let flight = [record(&message[..end]).as_slice(), between, &record(&message[end..])].concat();
        assert_eq!(sniff(&flight), Sniff::NotTls, "after {end} bytes of the message");
    }
}

// Lying lengths

fn body(parts: &[&[u8]]) -> Vec<u8> {
    record(&client_hello_message(&parts.concat()))
}

const VERSION: &[u8] = &[3, 3];
const RANDOM: &[u8] = &[7; 32];
const NO_SESSION: &[u8] = &[0];
const SUITES: &[u8] = &[0, 2, 0x13, 1];
const NO_COMPRESSION: &[u8] = &[1, 0];

#[test]
fn a_hello_without_extensions_offers_its_legacy_version() {
    let flight = body(&[VERSION, RANDOM, NO_SESSION, SUITES, NO_COMPRESSION]);
    let expected = ClientHello {
        versions: vec![TLS12],
        cipher_suites: vec![0x1301],
        wire_length: flight.len(),
        ..ClientHello::default()
    };
    assert_eq!(tls(&flight), expected);
}

#[rstest]
#[case::empty(&[])]
#[case::no_random(&[VERSION])]
#[case::session_id_too_long(&[VERSION, RANDOM, &[33], &[0; 33], SUITES, NO_COMPRESSION])]
#[case::session_id_past_the_end(&[VERSION, RANDOM, &[200], SUITES, NO_COMPRESSION])]
#[case::no_cipher_suite(&[VERSION, RANDOM, NO_SESSION, &[0, 0], NO_COMPRESSION])]
#[case::half_a_cipher_suite(&[VERSION, RANDOM, NO_SESSION, &[0, 3, 0, 1, 2], NO_COMPRESSION])]
#[case::no_compression_method(&[VERSION, RANDOM, NO_SESSION, SUITES, &[0]])]
#[case::compression_missing(&[VERSION, RANDOM, NO_SESSION, SUITES])]
#[case::half_an_extensions_length(&[VERSION, RANDOM, NO_SESSION, SUITES, NO_COMPRESSION, &[0]])]
#[case::extensions_past_the_end(&[VERSION, RANDOM, NO_SESSION, SUITES, NO_COMPRESSION, &[0, 1]])]
#[case::bytes_behind_the_extensions(&[VERSION, RANDOM, NO_SESSION, SUITES, NO_COMPRESSION, &[0, 0], &[0]])]
#[case::extension_past_the_extensions(&[VERSION, RANDOM, NO_SESSION, SUITES, NO_COMPRESSION, &[0, 4, 0, 99, 0, 1]])]
#[case::half_an_extension_header(&[VERSION, RANDOM, NO_SESSION, SUITES, NO_COMPRESSION, &[0, 3, 0, 99, 0]])]
fn a_body_whose_lengths_lie_is_no_hello(#[case] parts: &[&[u8]]) {
    assert_eq!(sniff(&body(parts)), Sniff::NotTls);
}

#[rstest]
#[case::sni_without_list(SERVER_NAME, &[])]
#[case::sni_with_empty_list(SERVER_NAME, &[0, 0])]
#[case::sni_list_shorter_than_data(SERVER_NAME, &[0, 4, 0, 0, 1, b'a', b'b'])]
#[case::sni_list_longer_than_data(SERVER_NAME, &[0, 9, 0, 0, 1, b'a'])]
#[case::sni_name_past_the_list(SERVER_NAME, &[0, 4, 0, 0, 2, b'a', b'b'])]
#[case::sni_empty_name(SERVER_NAME, &[0, 3, 0, 0, 0])]
#[case::sni_two_names(SERVER_NAME, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'])]
#[case::alpn_empty_list(ALPN, &[0, 0])]
#[case::alpn_empty_name(ALPN, &[0, 1, 0])]
#[case::alpn_name_past_the_list(ALPN, &[0, 2, 9, b'h'])]
#[case::alpn_bytes_behind_the_list(ALPN, &[0, 2, 1, b'h', 0])]
#[case::versions_empty(SUPPORTED_VERSIONS, &[0])]
#[case::versions_odd(SUPPORTED_VERSIONS, &[3, 3, 4, 3])]
#[case::versions_past_the_data(SUPPORTED_VERSIONS, &[4, 3, 4])]
#[case::versions_bytes_behind(SUPPORTED_VERSIONS, &[2, 3, 4, 0])]
#[case::key_share_empty_key(KEY_SHARE, &[0, 4, 0, 0x1d, 0, 0])]
#[case::key_share_past_the_list(KEY_SHARE, &[0, 5, 0, 0x1d, 0, 2, 1])]
#[case::key_share_bytes_behind(KEY_SHARE, &[0, 0, 0])]
fn an_extension_whose_lengths_lie_is_no_hello(#[case] kind: u16, #[case] data: &[u8]) {
    assert_eq!(sniff(&record(&hello(&[(kind, data.to_vec())]))), Sniff::NotTls);
}

#[test]
fn an_empty_key_share_list_asks_the_server_to_choose() {
    assert_eq!(tls(&record(&hello(&[key_shares_of(&[])]))).key_share_groups, [0; 0]);
}

#[rstest]
#[case::known(ALPN, &[0, 2, 1, b'h'])]
#[case::unknown(0xff01, &[0])]
#[case::grease(GREASE, &[])]
fn two_extensions_of_the_same_type_are_no_hello(#[case] kind: u16, #[case] data: &[u8]) {
    let twice = hello(&[(kind, data.to_vec()), (0x0023, vec![]), (kind, data.to_vec())]);
    assert_eq!(sniff(&record(&twice)), Sniff::NotTls);
}

#[rstest]
#[case::plain(b"backend.default", Some("backend.default"))]
#[case::kept_as_sent(b"Backend", Some("Backend"))]
#[case::address(b"10.0.0.1", Some("10.0.0.1"))]
#[case::nul(b"a\0b", None)]
#[case::newline(b"a\nb", None)]
#[case::space(b"a b", None)]
#[case::eight_bit("bäckend".as_bytes(), None)]
fn req_03_a_server_name_is_visible_ascii_or_none(#[case] name: &[u8], #[case] sni: Option<&str>) {
    assert_eq!(tls(&record(&hello(&[sni_of(name)]))).sni.as_deref(), sni);
}

#[test]
fn a_server_name_of_an_unknown_type_ends_the_list() {
    let names = [&[HOST_NAME][..], &vector16(b"a"), &[7, 1, 2, 3]].concat();
    assert_eq!(tls(&record(&hello(&[(SERVER_NAME, vector16(&names))]))).sni.as_deref(), Some("a"));
}

// Bounds

#[test]
fn req_21_a_hello_larger_than_the_bound_is_never_taken_for_plaintext() {
    let message = client_hello_message(&vec![0; 70_000]);
    let flight = records_of(MAX_FRAGMENT, &message);
    let mut sniffer = Sniffer::default();
    assert_eq!(sniffer.sniff(&flight[..9]), Sniff::NeedMore);
    assert!(sniffer.least_length() > MAX_BYTES, "the ninth byte tells that it is too large");
    assert_eq!(sniffer.sniff(&flight), Sniff::NeedMore);
    assert!(sniffer.message.len() <= MAX_BYTES);
}

#[test]
fn the_length_that_is_announced_is_the_least_that_it_takes() {
    let mut sniffer = Sniffer::default();
    assert_eq!(sniffer.least_length(), 9);
    let flight = capture("openssl-tls12");
    assert_eq!(sniffer.sniff(&flight[..9]), Sniff::NeedMore);
    assert_eq!(sniffer.least_length(), flight.len());
    // A second record that must come counts with its header.
    let split = records(&message_of(flight), &[4]);
    let mut sniffer = Sniffer::default();
    assert_eq!(sniffer.sniff(&split[..9]), Sniff::NeedMore);
    assert_eq!(sniffer.least_length(), split.len());
}

#[test]
fn req_21_a_dripping_client_costs_one_look_at_each_byte() {
    // 60 KB in 1-byte records, one byte a segment: 360,000 calls. Quadratic work would take minutes.
    let message = hello(&[(21, vec![0; 10_000]), alpn_of(&[b"istio"])]);
    let flight = records_of(1, &message);
    assert!(flight.len() > 60_000 && flight.len() < MAX_BYTES);
    let mut sniffer = Sniffer::default();
    for end in 1..flight.len() {
        let before = (sniffer.taken, sniffer.message.len());
        assert_eq!(sniffer.sniff(&flight[..end]), Sniff::NeedMore);
        assert!(end - sniffer.taken < RECORD_HEADER, "everything but a broken header was taken");
        assert!(sniffer.taken >= before.0 && sniffer.message.len() >= before.1, "nothing is taken twice");
    }
    assert!(matches!(sniffer.sniff(&flight), Sniff::Tls(hello) if hello.is_mesh()));
}

// One parser: what the TLS library reads is what this one reads

/// SNI and ALPN as rustls reads them; `None` while it wants more, `Err` where it refuses.
fn rustls_reads(flight: &[u8]) -> Result<Option<ClientHello>, rustls::Error> {
    let mut acceptor = Acceptor::default();
    let mut rest = Cursor::new(flight);
    while acceptor.read_tls(&mut rest).unwrap() > 0 {
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error)? {
            let hello = accepted.client_hello();
            return Ok(Some(ClientHello {
                sni: hello.server_name().map(str::to_owned),
                alpn: hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default(),
                ..ClientHello::default()
            }));
        }
    }
    Ok(None)
}

fn assert_agrees_with_rustls(flight: &[u8]) -> Result<(), TestCaseError> {
    let ours = sniff(flight);
    match rustls_reads(flight) {
        Ok(Some(mut theirs)) => {
            let Sniff::Tls(ours) = ours else { panic!("rustls reads a hello, we say {ours:?}") };
            theirs.alpn.retain(|name| !is_grease_protocol(name));
            prop_assert_eq!(ours.alpn, theirs.alpn);
            // rustls has no name where it is no DNS name, and folds it to lower case.
            if theirs.sni.is_some() {
                prop_assert_eq!(ours.sni.map(|name| name.to_ascii_lowercase()), theirs.sni);
            }
        }
        // We may know earlier: rustls waits for the end of a record that holds more than the hello, and for the end of
        // a message of any type.
        Ok(None) => {}
        // rustls judges more than we do: cipher suites, signature schemes, the order of extensions.
        Err(_) => {}
    }
    Ok(())
}

fn damage_bytes(bytes: &mut [u8], damage: &[(prop::sample::Index, u8)]) {
    for (at, byte) in damage {
        *at.get_mut(bytes) = *byte;
    }
}

#[test]
fn captured_hellos_are_read_as_rustls_reads_them() {
    for (name, flight) in CAPTURES {
        assert!(rustls_reads(flight).unwrap_or_else(|error| panic!("{name}: {error}")).is_some());
        assert_agrees_with_rustls(flight).unwrap();
    }
}

proptest! {
    #[test]
    fn a_damaged_hello_is_read_as_rustls_reads_it(
        index in 0..CAPTURES.len(),
        ends in prop::collection::btree_set(1usize..1_600, 0..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_the_message in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut message = message_of(CAPTURES[index].1);
        let ends: Vec<usize> = ends.into_iter().filter(|&end| end < message.len()).collect();
        if in_the_message {
            damage_bytes(&mut message, &damage);
        }
        let mut flight = records(&message, &ends);
        if !in_the_message {
            damage_bytes(&mut flight, &damage);
        }
        if let Some(cut) = cut {
            flight.truncate(cut.index(flight.len()));
        }
        assert_agrees_with_rustls(&flight)?;
    }

    #[test]
    fn any_extensions_are_read_as_rustls_reads_them(
        names in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..4),
        sni in prop::collection::vec(any::<u8>(), 0..12),
        unknown in prop::collection::vec((100u16..110, prop::collection::vec(any::<u8>(), 0..5)), 0..4),
    ) {
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        // rustls wants signature algorithms in a TLS 1.2 hello.
        let mut extensions = vec![alpn_of(&names), sni_of(&sni), (13, vec![0, 2, 4, 3]), (10, vec![0, 2, 0, 0x1d])];
        extensions.extend(unknown);
        assert_agrees_with_rustls(&record(&hello(&extensions)))?;
    }

    #[test]
    fn arbitrary_bytes_get_one_of_three_answers(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        record_header in any::<bool>(),
        message_header in any::<bool>(),
    ) {
        let message = if message_header { client_hello_message(&bytes) } else { bytes };
        let flight = if record_header && !message.is_empty() { record(&message) } else { message };
        let whole = sniff(&flight);
        let mut sniffer = Sniffer::default();
        for end in 0..flight.len() {
            let part = sniffer.sniff(&flight[..end]);
            prop_assert_eq!(&part, &sniff(&flight[..end]), "resumed and from the start");
            // Once decided, decided: more bytes change nothing.
            if part != Sniff::NeedMore {
                prop_assert_eq!(&part, &whole);
            }
        }
        prop_assert_eq!(sniffer.sniff(&flight), whole);
    }
}

// Making the rustls captures

/// The first flight of rustls as it is built here.
fn rustls_flight(
    groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>,
    name: &'static str,
    alpn: &[&[u8]],
) -> Vec<u8> {
    let provider = rustls::crypto::CryptoProvider { kx_groups: groups, ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let mut flight = Vec::new();
    ClientConnection::new(Arc::new(config), name.try_into().unwrap())
        .unwrap()
        .write_tls(&mut flight)
        .unwrap();
    flight
}

#[test]
fn a_fresh_hello_of_rustls_is_read() {
    let flight = rustls_flight(vec![kx_group::X25519MLKEM768, kx_group::X25519], "backend", &[b"istio"]);
    let hello = tls(&flight);
    assert_eq!((hello.sni.as_deref(), hello.is_mesh()), (Some("backend"), true));
    assert_eq!(hello.key_share_groups.first(), Some(&X25519MLKEM768));
}

#[test]
#[ignore = "writes the rustls captures anew"]
fn write_rustls_captures() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hellos");
    let hybrid = rustls_flight(
        vec![kx_group::X25519MLKEM768, kx_group::X25519],
        "outbound_.8080_._.backend.default.svc.cluster.local",
        &[b"istio"],
    );
    fs::write(folder.join("rustls-x25519mlkem768.bin"), hybrid).unwrap();
    let classic =
        rustls_flight(vec![kx_group::X25519, kx_group::SECP256R1], "backend", &[b"h2", b"http/1.1"]);
    fs::write(folder.join("rustls-x25519.bin"), classic).unwrap();
}
