//! The folder of Istio resources that all sidecars of the lab watch.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::LabError;

/// The mesh folder. What is written appears whole, since sidecars read it at any moment.
#[derive(Debug, Clone)]
pub struct Mesh {
    folder: PathBuf,
}

/// A service of the mesh with its endpoints: one `ServiceEntry`.
#[derive(Debug, Clone)]
pub struct Service {
    /// The namespace of the entry and of its endpoints.
    pub namespace: String,
    /// Its host name; also the service account and the label `app` of its endpoints.
    pub host: String,
    /// Its port, which is also the workload's.
    pub port: u16,
    /// Where the port differs at the workload.
    pub target_port: Option<u16>,
    /// `HTTP` or `TCP`.
    pub protocol: String,
    /// The workloads' addresses.
    pub endpoints: Vec<IpAddr>,
    /// Whether the endpoints are known to have a sidecar.
    pub has_sidecar: bool,
}

impl Service {
    /// A service of protocol TCP whose endpoints have sidecars; `host` is of namespace `default`, or `namespace/host`.
    #[must_use]
    pub fn of(host: &str, port: u16, endpoints: &[IpAddr]) -> Self {
        let (namespace, host) = host.split_once('/').unwrap_or(("default", host));
        Self {
            namespace: namespace.to_owned(),
            host: host.to_owned(),
            port,
            target_port: None,
            protocol: "TCP".to_owned(),
            endpoints: endpoints.to_vec(),
            has_sidecar: true,
        }
    }

    fn yaml(&self) -> String {
        let Self { namespace, host, port, protocol, .. } = self;
        let target = self.target_port.map(|port| format!(", targetPort: {port}")).unwrap_or_default();
        let sidecar = if self.has_sidecar { ", security.istio.io/tlsMode: istio" } else { "" };
        let mut yaml = format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: {host}
  namespace: {namespace}
spec:
  hosts: [{host}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: {port}, name: port-{port}, protocol: {protocol}{target}}}
  endpoints:
"
        );
        for address in &self.endpoints {
            // Writing to a String cannot fail.
            let _ = writeln!(
                yaml,
                "  - address: '{address}'\n    serviceAccount: {host}\n    labels: {{app: {host}{sidecar}}}"
            );
        }
        yaml
    }
}

impl Mesh {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes or replaces one file of resources; `name` ends in `.yaml`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<(), LabError> {
        let path = self.folder.join(name);
        // No `.yaml` at its end, so that it is not read before it is whole.
        let partial = self.folder.join(format!(".{name}.new"));
        fs::write(&partial, yaml)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<(), LabError> {
        let path = self.folder.join(name);
        fs::remove_file(&path).map_err(LabError::io(format!("remove {}", path.display())))
    }

    /// Writes a service as `service-HOST-PORT.yaml`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn service(&self, service: &Service) -> Result<(), LabError> {
        self.write(&format!("service-{}-{}.yaml", service.host, service.port), &service.yaml())
    }

    /// A `PeerAuthentication` for the workloads with label `app`, or for all; `name` is of namespace `default`, or
    /// `namespace/name`.
    #[must_use]
    pub fn peer_authentication(name: &str, app: Option<&str>, mode: &str) -> String {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let selector =
            app.map(|app| format!("  selector:\n    matchLabels: {{app: {app}}}\n")).unwrap_or_default();
        format!(
            "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: {name}
  namespace: {namespace}
spec:
{selector}  mtls:
    mode: {mode}
"
        )
    }
}
