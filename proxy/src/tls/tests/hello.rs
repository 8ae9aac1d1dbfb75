//! First bytes that break the rules of TLS (requirement 24), and bits turned on the way (requirement 14).

use pillion_testkit::tls::{TLS12, TLS13, client_of_versions};
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::{
    ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite,
};

use super::*;

/// A client whose bytes a test may change before they are sent.
struct HandClient {
    tls: ClientConnection,
    wire: DuplexStream,
}

impl HandClient {
    fn new(config: ClientConfig, wire: DuplexStream) -> HandClient {
        let tls = ClientConnection::new(Arc::new(config), pillion_testkit::tls::any_name()).unwrap();
        HandClient { tls, wire }
    }

    /// What it wants to send now.
    fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Reads until it has something to say, or has nothing to expect.
    async fn listen(&mut self) {
        while !self.tls.wants_write() && self.tls.is_handshaking() {
            let mut bytes = [0; 4096];
            let count = self.wire.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the server closed");
            let mut unread = &bytes[..count];
            while !unread.is_empty() {
                self.tls.read_tls(&mut unread).unwrap();
                self.tls.process_new_packets().unwrap();
            }
        }
    }

    async fn finish(&mut self) {
        while self.tls.is_handshaking() || self.tls.wants_write() {
            let bytes = self.flight();
            self.wire.write_all(&bytes).await.unwrap();
            self.listen().await;
        }
    }
}

fn mesh() -> (TestCa, Credentials) {
    let ca = TestCa::root("root");
    let ours = credentials(&ca.issue(SERVER), bundle(&ca));
    (ca, ours)
}

fn hello_of(ca: &TestCa, versions: &[&'static SupportedProtocolVersion]) -> Vec<u8> {
    let config = client_of_versions(ca, Some(&ca.issue(CLIENT)), versions);
    HandClient::new(config, duplex(1).0).flight()
}

/// The description of a plaintext alert record at the end of what a server sent.
fn last_alert(answer: &[u8]) -> Option<u8> {
    match answer {
        [.., 21, 3, _, 0, 2, 2, description] => Some(*description),
        _ => None,
    }
}

#[tokio::test]
async fn req_24_tls_1_1_is_refused() {
    const PROTOCOL_VERSION: u8 = 70;
    let (ca, ours) = mesh();
    let mut hello = hello_of(&ca, TLS12);
    // The record's version and the hello's own (RFC 4346); without supported_versions there is no other.
    hello[1..3].copy_from_slice(&[3, 2]);
    hello[9..11].copy_from_slice(&[3, 2]);
    let (error, answer) = accept_bytes(&without_supported_versions(&hello), &ours).await;
    assert_eq!(error.reason, Reason::HandshakeFailed);
    assert!(error.detail.contains("we speak TLS 1.2 and 1.3"), "{error}");
    assert_eq!(last_alert(&answer), Some(PROTOCOL_VERSION));
}

/// Renames the extension supported_versions (43) to a type that nobody knows.
fn without_supported_versions(hello: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let versions_12_only = [0, 43, 0, 3, 2, 3, 3];
    if let Some(at) = hello.windows(versions_12_only.len()).position(|window| window == versions_12_only) {
        hello[at] = 0xfa;
    }
    hello
}

#[tokio::test]
async fn req_24_a_second_client_hello_in_the_handshake_aborts() {
    let (ca, ours) = mesh();
    for versions in [TLS12, TLS13] {
        let hello = hello_of(&ca, versions);
        let (error, _) = accept_bytes(&[hello.clone(), hello].concat(), &ours).await;
        assert_eq!(error.reason, Reason::HandshakeFailed, "{error}");
    }
}

#[tokio::test]
async fn req_24_plaintext_behind_a_client_hello_aborts() {
    let (ca, ours) = mesh();
    for versions in [TLS12, TLS13] {
        for behind in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x17\x03\x03\x00\x05hello"] {
            let (error, answer) = accept_bytes(&[&hello_of(&ca, versions), behind].concat(), &ours).await;
            assert_eq!(error.reason, Reason::HandshakeFailed, "{error}");
            assert!(!answer.windows(5).any(|window| window == b"hello"));
        }
    }
}

#[tokio::test]
async fn first_bytes_that_are_no_tls_are_a_failed_handshake_with_an_alert() {
    let (_, ours) = mesh();
    let (error, answer) = accept_bytes(b"GET / HTTP/1.1\r\nHost: backend\r\n\r\n", &ours).await;
    assert_eq!(error.reason, Reason::HandshakeFailed);
    assert!(last_alert(&answer).is_some(), "{answer:?}");
}

#[tokio::test]
async fn req_14_a_bit_turned_in_the_clients_last_flight_fails_the_handshake() {
    let (ca, ours) = mesh();
    for versions in [TLS12, TLS13] {
        let (near, far) = duplex(64 * 1024);
        let mut client = HandClient::new(client_of_versions(&ca, Some(&ca.issue(CLIENT)), versions), near);
        let talk = async {
            let hello = client.flight();
            client.wire.write_all(&hello).await.unwrap();
            client.listen().await;
            let mut last = client.flight();
            *last.last_mut().unwrap() ^= 1; // in the tag of Finished
            client.wire.write_all(&last).await.unwrap();
            let _ = first_read(&mut client.wire).await;
        };
        let (accepted, ()) =
            timeout(LONG, async { tokio::join!(server::accept(far, Arc::default(), &ours, DOOR), talk) })
                .await
                .unwrap();
        assert_eq!(accepted.map(|_| ()).unwrap_err().reason, Reason::HandshakeFailed);
    }
}

/// After the handshake a client asks for another one, as TLS 1.2 allows and this proxy does not: the first time it
/// is told no_renegotiation (RFC 5746 4.4), the second time the connection ends.
#[tokio::test]
async fn req_24_a_tls_1_2_connection_is_never_renegotiated() {
    let (ca, ours) = mesh();
    let (near, far) = duplex(64 * 1024);
    let mut config = client_of_versions(&ca, Some(&ca.issue(CLIENT)), TLS12);
    config.enable_secret_extraction = true;
    let mut client = HandClient::new(config, near);
    let (accepted, ()) = timeout(LONG, async {
        tokio::join!(server::accept(far, Arc::default(), &ours, DOOR), client.finish())
    })
    .await
    .unwrap();
    let mut server = accepted.unwrap().0;

    let HandClient { tls, mut wire } = client;
    let mut sealed = Sealed::new(tls);
    let hello = hello_of(&ca, TLS12)[5..].to_vec();
    for _ in 0..2 {
        wire.write_all(&sealed.record(ContentType::Handshake, &hello)).await.unwrap();
    }
    let error = timeout(LONG, first_read(&mut server)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("TooManyRenegotiationRequests"), "{error}");
}

/// Seals records of any content with the keys of a finished TLS 1.2 connection.
struct Sealed {
    encrypter: Box<dyn rustls::crypto::cipher::MessageEncrypter>,
    sequence: u64,
}

impl Sealed {
    fn new(tls: ClientConnection) -> Sealed {
        let Some(SupportedCipherSuite::Tls12(suite)) = tls.negotiated_cipher_suite() else {
            panic!("not TLS 1.2")
        };
        let (sequence, secrets) = tls.dangerous_extract_secrets().unwrap().tx;
        let (key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (key, iv),
            _ => panic!("no AES-GCM suite was negotiated"),
        };
        let (fixed, explicit) = iv.as_ref().split_at(4);
        Sealed { encrypter: suite.aead_alg.encrypter(key, fixed, explicit), sequence }
    }

    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.encrypter.encrypt(message, self.sequence).unwrap();
        self.sequence += 1;
        sealed.encode()
    }
}
