//! Handshakes in memory with servers of the web, and the files that they take.

// A test holds a handful of handshakes, and holds them on its own stack.
#![allow(clippy::large_futures)]

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use pillion_mesh::client_hello::{self, ClientHello, Sniff};
use pillion_mesh::resource::ClientFiles;
use pillion_testkit::{Held, TestCa};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;

mod files;
mod handshakes;
mod names;
mod refusals;

const HOST: &str = "api.example.com";
const LONG: Duration = Duration::from_secs(20);

/// An authority of the web, and a folder for the files of rules.
struct Web {
    ca: TestCa,
    folder: TempDir,
    originator: Arc<Originator>,
}

impl Web {
    fn new() -> Self {
        Self::at(Clock::system())
    }

    fn at(clock: Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let originator = Arc::new(Originator::new(TlsSettings::default(), clock));
        Self { ca: TestCa::root("root of the web"), folder, originator }
    }

    /// Puts a file into the folder, by rename.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        let _ = pillion_testkit::authority::write_private(&path, text);
        path.to_str().unwrap().to_owned()
    }

    /// SIMPLE, with the authority's root in a file.
    fn simple(&self) -> Origination {
        Origination {
            sni: None,
            subject_alt_names: Vec::new(),
            ca_certificates: Some(self.write("ca.pem", &self.ca.bundle_pem())),
            ca_crl: None,
            insecure_skip_verify: false,
            client: None,
        }
    }

    /// MUTUAL, with the certificate and key of `held` in files.
    fn mutual(&self, held: &Held) -> Origination {
        let certificate = self.write("client.pem", &held.chain_pem());
        let key = self.write("client.key", &held.key_pem());
        Origination { client: Some(ClientFiles { certificate, key }), ..self.simple() }
    }

    /// SIMPLE with revocation lists.
    fn with_lists(&self, lists: &str) -> Origination {
        Origination { ca_crl: Some(self.write("crl.pem", lists)), ..self.simple() }
    }

    /// A server's certificate for [`HOST`].
    fn server(&self) -> Held {
        self.ca.issue_server(&[HOST])
    }

    /// Our side against `server`, which must be [`HOST`]: what ours says, and what the server sees.
    async fn dial(&self, how: &Origination, server: ServerConfig) -> (Outcome, io::Result<Seen>) {
        self.dial_names(how, server, &[HOST]).await
    }

    async fn dial_names(
        &self,
        how: &Origination,
        server: ServerConfig,
        names: &[&str],
    ) -> (Outcome, io::Result<Seen>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (near, far) = duplex(16 * 1024);
        let server = async move {
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await?;
            assert_eq!(heard, b"from the app");
            stream.shutdown().await?;
            let connection = stream.get_ref().1;
            Ok(Seen {
                client: connection.peer_certificates().and_then(<[_]>::first).cloned(),
                alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
                resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            })
        };
        let client = async {
            let material = self.originator.material(how).await?;
            let wanted = Wanted { server_name: Some(HOST), names: &names, alpn: Some("http/1.1") };
            let (mut stream, record) =
                self.originator.connect(near, Arc::default(), &material, wanted).await?;
            let _ = stream.write_all(b"from the app").await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let read = stream.read_to_end(&mut rest).await;
            Ok((record, read.err()))
        };
        let (seen, outcome) = timeout(LONG, async { tokio::join!(server, client) }).await.unwrap();
        (outcome, seen)
    }

    /// The same, where it must fail.
    async fn refused(&self, how: &Origination, server: &Held) -> HandshakeError {
        let (outcome, _) = self.dial(how, pillion_testkit::tls::outside_server(server, None)).await;
        outcome.map(|(record, _)| record).expect_err("the server was believed")
    }
}

/// The record, and what the first read failed with.
type Outcome = Result<(TlsRecord, Option<io::Error>), HandshakeError>;

/// What a server sees of its client.
#[derive(Debug)]
struct Seen {
    client: Option<CertificateDer<'static>>,
    alpn: Option<Vec<u8>>,
    resumed: bool,
}

fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

fn soon() -> SystemTime {
    SystemTime::now() + days(1)
}
