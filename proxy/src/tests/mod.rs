//! Whole sidecars in this process, on loopback with explicit listeners, against peers that are not pillion.

mod authorization;
mod egress;
mod federation;
mod gateway;
mod http;
mod modes;
mod outbound;
mod record;
mod stopping;
mod streams;
mod tunnels;
#[cfg(feature = "workload-api")]
mod workload_api;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pillion_mesh::reason::Reason;
use pillion_testkit::{Held, TestCa};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::app::{Running, start};
use crate::entry::LogLevel;
use crate::settings::{RawSettings, Settings};
use crate::workers::Workers;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

const STRICT: &str = "STRICT";
const PERMISSIVE: &str = "PERMISSIVE";
const DISABLE: &str = "DISABLE";

/// A mesh folder and an authority; sidecars are started in it.
struct Lab {
    ca: TestCa,
    folder: TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mesh")).unwrap();
        Self { ca: TestCa::root("root of the lab"), folder }
    }

    fn id(name: &str) -> String {
        format!("spiffe://cluster.local/ns/default/sa/{name}")
    }

    fn held(&self, name: &str) -> Held {
        self.ca.issue(&Self::id(name))
    }

    /// Puts `text` in force as the only resource file, or removes it.
    fn resources(&self, text: Option<&str>) {
        let path = self.folder.path().join("mesh/resources.yaml");
        match text {
            Some(text) => {
                let draft = self.folder.path().join("draft");
                fs::write(&draft, text).unwrap();
                fs::rename(draft, path).unwrap();
            }
            None => fs::remove_file(path).unwrap(),
        }
    }

    /// The mode of the whole namespace.
    fn mode(&self, mode: &str) {
        self.resources(Some(&format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )));
    }

    /// A sidecar of the workload `name` with `more` settings, ready.
    async fn sidecar(&self, name: &str, more: &str) -> Sidecar {
        self.labelled_sidecar(name, &format!("app: {name}"), more).await
    }

    /// The same with other labels than `app`.
    async fn labelled_sidecar(&self, name: &str, labels: &str, more: &str) -> Sidecar {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let paths = self.held(name).write(&folder, &self.ca.bundle_pem());
        let lists = self.lists();
        let crl = if lists.exists() { format!(", crl: {}", lists.display()) } else { String::new() };
        let identity = format!(
            "files: {{certificate: {}, key: {}, bundle: {}}}{crl}",
            paths.certificate.display(),
            paths.key.display(),
            paths.bundle.display(),
        );
        self.sidecar_by(&identity, name, labels, more).await
    }

    /// The same with its identity from elsewhere.
    async fn sidecar_by(&self, identity: &str, name: &str, labels: &str, more: &str) -> Sidecar {
        let text = format!(
            "workload: {{namespace: default, serviceAccount: {name}, labels: {{{labels}}}}}\n\
             identity: {{{identity}}}\n\
             mesh: {}\n\
             admin: {{address: \"127.0.0.1:0\", capture: true}}\n\
             readiness: {{address: \"127.0.0.1:0\"}}\n\
             metrics: {{address: \"127.0.0.1:0\"}}\n{more}\n",
            self.mesh().display(),
        );
        let raw: RawSettings = pillion_mesh::yaml::read("settings.yaml", &text).unwrap();
        let settings = Settings::try_from(raw).unwrap();
        let running = start(settings, LogLevel::fixed(), Workers::here()).await.unwrap();
        let mut credentials = running.shared.credentials.clone();
        timeout(PATIENCE, credentials.wait_for(Option::is_some)).await.unwrap().unwrap();
        Sidecar { running }
    }

    /// A sidecar with one inbound listener in front of `app`.
    async fn in_front_of(&self, app: SocketAddr, more: &str) -> Sidecar {
        let inbound = format!("inbound: {{listeners: [{{address: \"127.0.0.1:0\", forward: \"{app}\"}}]}}");
        self.sidecar("backend", &format!("{inbound}\n{more}")).await
    }

    /// The file of revocation lists, for sidecars that start when it is there.
    fn lists(&self) -> PathBuf {
        self.folder.path().join("crl.pem")
    }

    /// Puts a list of these in force.
    fn revoke(&self, revoked: &[&Held]) {
        let certificates: Vec<_> = revoked.iter().map(|held| &held.chain[0]).collect();
        let next_update = std::time::SystemTime::now() + Duration::from_secs(3600);
        fs::write(self.lists(), self.ca.revocation_list(&certificates, next_update)).unwrap();
    }

    fn mesh(&self) -> PathBuf {
        self.folder.path().join("mesh")
    }

    /// A TLS connection of the workload `name`, or of a client without certificate, that offers `alpn`.
    async fn tls_client(
        &self,
        address: SocketAddr,
        name: Option<&str>,
        alpn: &[&str],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let held = name.map(|name| self.held(name));
        let mut config = pillion_testkit::tls::client(&self.ca, held.as_ref());
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(pillion_testkit::tls::any_name(), stream).await
    }
}

/// Declares the port of `app` as `protocol`, for the workload `backend`.
fn declared(app: SocketAddr, protocol: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: backend}}\n\
         spec: {{hosts: [backend.default.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, \
         workloadSelector: {{labels: {{app: backend}}}}, \
         ports: [{{number: 80, name: web, protocol: {protocol}, targetPort: {}}}]}}\n",
        app.port()
    )
}

struct Sidecar {
    running: Running,
}

impl Sidecar {
    fn inbound(&self) -> SocketAddr {
        self.running.addresses.inbound[0].0
    }

    fn outbound(&self) -> SocketAddr {
        self.running.addresses.outbound[0].0
    }

    /// Waits until a connection was refused for `reason`.
    async fn refused(&self, reason: Reason) {
        let wanted = format!("reason=\"{}\"", reason.id());
        self.eventually(&format!("a refusal with {wanted}"), || {
            self.metrics()
                .lines()
                .any(|line| line.starts_with("pillion_connections_refused_total") && line.contains(&wanted))
        })
        .await;
    }

    fn metrics(&self) -> String {
        self.running.shared.telemetry.encode(&crate::telemetry::Scraped::default())
    }

    async fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !holds() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert!(waited.is_ok(), "{what} was not seen; metrics:\n{}", self.metrics());
    }
}
