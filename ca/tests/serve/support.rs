//! A CA of its own for each test, and a client for it. Every wait has an end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const BACKEND: &str = "spiffe://cluster.local/ns/default/sa/backend";

/// Polls until `condition` gives something.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = condition() {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder with a configuration, in which a CA can be started again and again.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Home::with("")
    }

    /// `more` is YAML that joins the usual configuration.
    pub(crate) fn with(more: &str) -> Self {
        let home = Home { folder: tempfile::tempdir().unwrap() };
        let folder = home.path("").display().to_string();
        let folder = folder.trim_end_matches('/');
        let text = format!(
            "listen: 127.0.0.1:0\n\
             monitoring: 127.0.0.1:0\n\
             dnsNames: [localhost, 127.0.0.1, '::1']\n\
             state: {folder}/state\n\
             bundleFile: {folder}/run/bundle.pem\n\
             registrations:\n\
             - {{id: {BACKEND}, tokenFile: {folder}/run/backend/token}}\n\
             {more}\n"
        );
        std::fs::write(home.config(), text).unwrap();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("ca.yaml")
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.path("run/backend/token")).unwrap()
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("run/bundle.pem")).unwrap()
    }

    /// `pillion-ca` with these arguments and the configuration behind them.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-ca"));
        command.env_clear().args(arguments).arg("--config").arg(self.config());
        command
    }

    /// `serve` behind a shell that does something first, such as setting a limit.
    pub(crate) fn command_behind(&self, first: &str) -> Command {
        let mut command = Command::new("sh");
        let script = format!("{first}; exec \"$0\" serve --log-format json --config \"$1\"");
        command.env_clear().args(["-c", &script, env!("CARGO_BIN_EXE_pillion-ca")]).arg(self.config());
        command
    }

    pub(crate) fn start(&self) -> Ca {
        Ca::start(self.command(&["serve", "--log-format", "json"]))
    }
}

/// A CA that serves; killed when it goes out of scope.
pub(crate) struct Ca {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    pub(crate) api: SocketAddr,
    pub(crate) monitoring: SocketAddr,
}

impl Ca {
    /// Starts it and waits until it listens.
    pub(crate) fn start(mut command: Command) -> Ca {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap().push(line);
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut ca = Ca { child, log, api: nowhere, monitoring: nowhere };
        let listening = wait_for("the CA to listen", || {
            if let Some(status) = ca.child.try_wait().unwrap() {
                panic!("the CA ended at once ({status}): {:#?}", ca.log());
            }
            ca.log().into_iter().find(|line| line["message"] == "listening")
        });
        let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        (ca.api, ca.monitoring) = (address("api"), address("monitoring"));
        ca
    }

    /// All that it logged so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.lock().unwrap().clone()
    }

    /// The lines of the audit log.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let audit = |line: &Value| line["target"] == "audit";
        self.log().into_iter().filter(audit).collect()
    }

    /// Waits for the audit line number `count` and gives it.
    #[track_caller]
    pub(crate) fn audit_line(&self, count: usize) -> Value {
        wait_for("an audit line", || self.audit().get(count - 1).cloned())
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the CA to end", || self.child.try_wait().unwrap())
    }

    /// A GET on the monitoring port: status and body.
    pub(crate) async fn monitor(&self, path: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.monitoring).await.unwrap();
        let answer = exchange(stream, get(path)).await.unwrap();
        (answer.status, answer.text())
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A key with its certificate.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Identity {
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }
}

/// Parameters of a request that asks for nothing beside its key.
pub(crate) fn plain_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    plain_params().serialize_request(key).unwrap().der().to_vec()
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        assert_eq!(self.status, 201, "{}", String::from_utf8_lossy(&self.body));
        CertificateDer::pem_slice_iter(&self.body).map(Result::unwrap).collect()
    }
}

/// A client that trusts the root in the bundle file.
pub(crate) struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Client {
    pub(crate) fn new(ca: &Ca, home: &Home) -> Self {
        Client::trusting(ca.api, &home.root(), None, &[&TLS13, &TLS12])
    }

    pub(crate) fn with_certificate(ca: &Ca, home: &Home, identity: &Identity) -> Self {
        Client::trusting(ca.api, &home.root(), Some(identity), &[&TLS13, &TLS12])
    }

    pub(crate) fn trusting(
        address: SocketAddr,
        root: &CertificateDer<'static>,
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                let key = PrivatePkcs8KeyDer::from(identity.key.serialize_der()).into();
                builder.with_client_auth_cert(identity.chain.clone(), key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Client { address, config: Arc::new(config) }
    }

    /// The same client, that offers this protocol in its handshakes.
    #[cfg(feature = "grpc")]
    pub(crate) fn speaking(&self, protocol: &str) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Client { address: self.address, config: Arc::new(config) }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = "localhost".try_into().unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let sending = async {
            let stream = self.connect().await.map_err(|error| error.to_string())?;
            exchange(stream, request).await
        };
        tokio::time::timeout(PATIENCE, sending).await.expect("no answer in good time")
    }

    /// Asks for a certificate of `key` by `token`.
    pub(crate) async fn sign(&self, token: Option<&str>, body: Vec<u8>) -> Result<Answer, String> {
        self.send(sign_request(token, "", body)).await
    }

    /// Asks by token, for a key of its own, and expects to get it.
    pub(crate) async fn enroll(&self, token: &str, query: &str) -> Identity {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let answer = self.send(sign_request(Some(token), query, csr(&key))).await.unwrap();
        Identity { chain: answer.chain(), key }
    }
}

pub(crate) fn sign_request(token: Option<&str>, query: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("/v1/certificates{query}")).header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Full::from(body)).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "localhost").body(Full::default()).unwrap()
}

/// One request and its answer.
async fn exchange<Io>(stream: Io, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// SHA-256 fingerprint of the stored root, if there is one.
pub(crate) fn stored_root(home: &Home) -> Option<Vec<u8>> {
    std::fs::read(home.path("state").join(current(home)?).join("certificate.pem")).ok()
}

/// Where the files of the signing root are, below the state folder.
pub(crate) fn current(home: &Home) -> Option<PathBuf> {
    let record: Value = serde_json::from_slice(&std::fs::read(home.path("state/signers.json")).ok()?).ok()?;
    let signers = record["signers"].as_array()?;
    let current =
        signers.iter().find(|signer| signer["activated"].is_string() && signer["replaced"].is_null())?;
    Some(Path::new("signers").join(current["name"].as_str()?))
}

/// The files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}
