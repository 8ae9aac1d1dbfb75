//! What a settings file says of its sidecar, for tools that ask what policies mean without running one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pillion_mesh::known::Sidecar;

use crate::entry::{SettingsError, settings_of_file};
use crate::settings::Settings;

/// A sidecar as its settings file has it. Flags and environment of the process that runs it are not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarFile {
    /// Who it stands for, and what it takes for the whole mesh.
    pub sidecar: Sidecar,
    /// Its mesh folder.
    pub mesh: Option<PathBuf>,
    /// The app's ports that explicit listeners forward to.
    pub ports: BTreeSet<u16>,
    /// Where it writes the secrets of its TLS sessions, which gives them away.
    pub key_log_file: Option<PathBuf>,
}

/// Why a settings file says nothing: each line names the file and the fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SidecarFileError(String);

impl SidecarFile {
    /// Reads a settings file as `pillion-proxy --config` does.
    ///
    /// # Errors
    /// When it cannot be read or the proxy would not start with it.
    pub fn read(path: &Path) -> Result<Self, SidecarFileError> {
        let Settings { workload, mesh_config, mesh, inbound, tls, .. } =
            settings_of_file(path).map_err(|fault| SidecarFileError::new(path, &fault))?;
        Ok(Self {
            sidecar: Sidecar {
                workload,
                config: mesh_config,
                place: path.display().to_string(),
                accepts: inbound.capture.is_some() || !inbound.listeners.is_empty(),
            },
            mesh,
            ports: inbound.listeners.iter().map(|listener| listener.forward.port()).collect(),
            key_log_file: tls.key_log.map(|file| file.path().to_owned()),
        })
    }
}

impl SidecarFileError {
    /// Faults of single settings do not say in which file.
    fn new(path: &Path, fault: &SettingsError) -> Self {
        let place = path.display().to_string();
        let line = |line: &str| {
            if line.starts_with(&place) { line.to_owned() } else { format!("{place}: {line}") }
        };
        Self(fault.to_string().lines().map(line).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SidecarFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.yaml");
        std::fs::write(&path, text).unwrap();
        let place = folder.path().display().to_string();
        SidecarFile::read(&path).map_err(|fault| fault.to_string().replace(&place, ""))
    }

    #[test]
    fn a_file_says_who_the_sidecar_is_and_where_its_policies_are() {
        let file = read(
            "workload: {namespace: shop, serviceAccount: orders, labels: {app: orders}}\n\
             identity: {files: {certificate: c.pem, key: k.pem, bundle: b.pem}}\n\
             rootNamespace: root\nmesh: mesh\n\
             inbound: {listeners: [{address: 0.0.0.0:8443, forward: 127.0.0.1:8080}]}\n",
        )
        .unwrap();
        assert_eq!(file.sidecar.workload.id().unwrap().principal(), "cluster.local/ns/shop/sa/orders");
        assert_eq!(file.sidecar.config.root_namespace, "root");
        assert_eq!((file.mesh, file.ports), (Some(PathBuf::from("mesh")), BTreeSet::from([8080])));
        assert!(file.sidecar.accepts);
    }

    #[test]
    fn an_edge_accepts_nothing_for_an_app() {
        let file = read(
            "workload: {serviceAccount: gateway}\n\
             identity: {files: {certificate: c.pem, key: k.pem, bundle: b.pem}}\n\
             gateway: {address: 0.0.0.0}\n",
        );
        assert!(!file.unwrap().sidecar.accepts);
    }

    #[test]
    fn every_fault_names_the_file() {
        assert_eq!(
            read("inbound: {capture: 0.0.0.0:15006}\n").unwrap_err(),
            "/proxy.yaml: workload.serviceAccount: is missing; name the service account of the certificate, such as backend\n\
             /proxy.yaml: identity: is missing; say where the certificate comes from, by identity.ca, identity.files or identity.workloadApi"
        );
        assert!(read("inbounds: {}\n").unwrap_err().starts_with("/proxy.yaml:1:1: unknown field `inbounds`"));
    }
}
