//! A mesh of files and processes on loopback, ended when it is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pillion_testkit::authority::Paths;
use pillion_testkit::{Held, TestCa};
use tempfile::TempDir;

/// The longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An authority, a mesh folder, and room for the files of each peer.
pub(crate) struct Mesh {
    pub(crate) ca: TestCa,
    folder: TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mesh")).unwrap();
        Self { ca: TestCa::root("root of the mesh"), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The namespace's mode.
    pub(crate) fn mode(&self, mode: &str) {
        self.resource(
            "mode",
            &format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                 metadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
            ),
        );
    }

    /// The service `backend:80`, served with a sidecar at `endpoint`.
    pub(crate) fn backend_at(&self, endpoint: SocketAddr) {
        self.resource(
            "backend",
            &format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\nspec:\n  \
                 hosts: [backend.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
                 ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: {}}}]\n  endpoints:\n  \
                 - {{address: {}, serviceAccount: backend, labels: {{security.istio.io/tlsMode: istio}}}}\n",
                endpoint.port(),
                endpoint.ip()
            ),
        );
    }

    /// The service `api.example.com:443` outside the mesh, served at `endpoint`, and its DestinationRule's `tls`.
    pub(crate) fn api_at(&self, endpoint: SocketAddr, tls: &str) {
        self.resource(
            "api",
            &format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: api}}\nspec:\n  \
                 hosts: [api.example.com]\n  resolution: STATIC\n  \
                 ports: [{{number: 443, name: tcp, protocol: TCP, targetPort: {}}}]\n  \
                 endpoints: [{{address: {}}}]\n---\n\
                 apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api}}\n\
                 spec: {{host: api.example.com, trafficPolicy: {{tls: {{{tls}}}}}}}\n",
                endpoint.port(),
                endpoint.ip()
            ),
        );
    }

    pub(crate) fn resource(&self, name: &str, text: &str) {
        fs::write(self.path("mesh").join(format!("{name}.yaml")), text).unwrap();
    }

    /// Certificate, key and bundle of the workload `name` as files.
    pub(crate) fn identity(&self, name: &str) -> Paths {
        self.write(name, &self.ca.issue(&id(name)))
    }

    pub(crate) fn write(&self, name: &str, held: &Held) -> Paths {
        let folder = self.path(&format!("id-{name}"));
        fs::create_dir_all(&folder).unwrap();
        held.write(&folder, &self.ca.bundle_pem())
    }

    /// Puts a revocation list of these in force, for sidecars that start when there is one.
    pub(crate) fn revoke(&self, revoked: &[&Held]) {
        let certificates: Vec<_> = revoked.iter().map(|held| &held.chain[0]).collect();
        let next_update = std::time::SystemTime::now() + Duration::from_secs(3600);
        fs::write(self.path("crl.pem"), self.ca.revocation_list(&certificates, next_update)).unwrap();
    }

    /// A sidecar of the workload `name`, ready.
    pub(crate) fn sidecar(&self, name: &str, listeners: &str) -> Process {
        self.start_sidecar("mesh", name, listeners, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn sidecar_with(&self, name: &str, listeners: &str, environment: &[(&str, &Path)]) -> Process {
        self.start_sidecar("mesh", name, listeners, environment)
    }

    /// The same with the resources of another folder.
    pub(crate) fn sidecar_in(&self, folder: &str, name: &str, listeners: &str) -> Process {
        self.start_sidecar(folder, name, listeners, &[])
    }

    fn start_sidecar(
        &self,
        folder: &str,
        name: &str,
        listeners: &str,
        environment: &[(&str, &Path)],
    ) -> Process {
        let paths = self.write(&format!("{folder}-{name}"), &self.ca.issue(&id(name)));
        let config = self.path(&format!("{folder}-{name}.yaml"));
        let lists = self.path("crl.pem");
        let crl = if lists.exists() { format!(", crl: {}", lists.display()) } else { String::new() };
        fs::write(
            &config,
            format!(
                "workload: {{namespace: default, serviceAccount: {name}, labels: {{app: {name}}}}}\n\
                 identity: {{files: {{certificate: {}, key: {}, bundle: {}}}{crl}}}\nmesh: {}\n\
                 admin: {{address: \"127.0.0.1:0\"}}\nreadiness: {{address: \"127.0.0.1:0\"}}\n\
                 metrics: {{address: \"127.0.0.1:0\"}}\n{listeners}\n",
                paths.certificate.display(),
                paths.key.display(),
                paths.bundle.display(),
                self.path(folder).display()
            ),
        )
        .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.args(["proxy", "--log-format", "text", "--config"]).arg(config);
        // Whatever roots this machine is told to use, a test says which.
        command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
        command.envs(environment.iter().copied());
        let process = Process::start(command);
        process.wait_for(|line| line.contains("ready as").then_some(()));
        process
    }

    /// A sidecar with one inbound listener in front of `app`, and its address.
    pub(crate) fn in_front_of(&self, app: SocketAddr) -> (Process, SocketAddr) {
        let process = self.sidecar(
            "backend",
            &format!("inbound: {{listeners: [{{address: \"127.0.0.1:0\", forward: \"{app}\"}}]}}"),
        );
        let address = process.wait_for(|line| listening(line, "(inbound"));
        (process, address)
    }

    /// A sidecar through which an app reaches `api.example.com:443`, and the address that the app dials.
    pub(crate) fn towards_api(&self, environment: &[(&str, &Path)]) -> (Process, SocketAddr) {
        let listeners =
            "outbound: {listeners: [{address: \"127.0.0.1:0\", destination: \"api.example.com:443\"}]}";
        let process = self.sidecar_with("frontend", listeners, environment);
        let address = process.wait_for(|line| listening(line, "(outbound"));
        (process, address)
    }

    /// A sidecar through which an app reaches `backend:80`, and the address that the app dials.
    pub(crate) fn towards_backend(&self) -> (Process, SocketAddr) {
        let process = self.sidecar(
            "frontend",
            "outbound: {listeners: [{address: \"127.0.0.1:0\", destination: \"backend:80\"}]}",
        );
        let address = process.wait_for(|line| listening(line, "(outbound"));
        (process, address)
    }
}

/// The SPIFFE ID of a workload.
pub(crate) fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}

/// The address in a line `listening on ADDRESS (inbound, …)`.
pub(crate) fn listening(line: &str, what: &str) -> Option<SocketAddr> {
    let rest = line.split_once("listening on ")?.1;
    rest.contains(what).then_some(())?;
    rest.split(' ').next()?.parse().ok()
}

/// A running program and everything it has printed so far.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), lines.clone());
        collect(child.stderr.take().unwrap(), lines.clone());
        Self { child, lines }
    }

    /// The first answer that `find` gives for a printed line, waited for.
    pub(crate) fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        eventually(|| self.lines.lock().unwrap().iter().find_map(|line| find(line)))
            .unwrap_or_else(|| panic!("a line was not printed; printed was:\n{}", self.printed()))
    }

    /// Waits for a line that holds all of `parts`.
    pub(crate) fn wait_for_line(&self, parts: &[&str]) -> String {
        self.wait_for(|line| parts.iter().all(|part| line.contains(part)).then(|| line.to_owned()))
    }

    pub(crate) fn printed(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

/// Asks until there is an answer or patience ends.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if begun.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An app that echoes until its client has finished, on a thread of its own for as long as the test runs.
pub(crate) fn echo_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    address
}

/// Sends `bytes`, ends its direction and returns the answer.
pub(crate) fn call(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The path of a program that a test cannot do without, or `None` with a message. In CI its lack is a failure.
pub(crate) fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let found = named.filter(|path| path.exists()).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists())
    });
    if found.is_none() {
        let message = format!("skipped: {name} is not installed ({variable} and PATH were looked at)");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        eprintln!("{message}");
    }
    found
}

/// A path as text for a configuration file.
pub(crate) fn text(path: &Path) -> String {
    path.display().to_string()
}
