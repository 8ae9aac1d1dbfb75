//! Sidecars for workloads that have none: a compose file or Kubernetes manifests in, the same with sidecars out.
//!
//! Text to text. Whoever calls reads and writes files, and shows the notes. What was injected before is taken out first, so
//! that injecting twice is injecting once, and [`Wishes::remove`] is the way back. What cannot be given a sidecar is an error
//! or a note, never silently left in plaintext: it is left alone only where the file says so.

pub use service::WRITTEN;

mod compose;
mod kubernetes;
mod service;
mod traffic;

#[cfg(test)]
mod tests;

use crate::spiffe::TrustDomain;
use crate::yaml::YamlError;
use crate::yaml::tree::{self, Node};

/// The label or annotation by which a person says that a workload gets no sidecar: Istio's.
const OPT_OUT: &str = "sidecar.istio.io/inject";
/// The label or annotation of what was injected: its value says what it is.
const MARK: &str = "pillion.dev/injected";
/// The uid and gid of the sidecar, whose traffic is not captured.
const SIDECAR_UID: u32 = 1337;

/// What a person may choose.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Image of the sidecar; it also owns the network namespace of a compose service.
    pub proxy_image: String,
    /// Image of the rules.
    pub init_image: String,
    /// Image of the CA.
    pub ca_image: String,
    /// Trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// Namespace of compose services, and of manifests that name none.
    pub namespace: String,
    /// Folder of the files beside a compose file, as the compose file names it.
    pub folder: String,
    /// Kubernetes: where the CA answers.
    pub ca_address: String,
    /// Kubernetes: the sidecar as an init container that goes on (`restartPolicy: Always`), or as one container more.
    pub native: bool,
    /// Take sidecars out in place of putting them in.
    pub remove: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// The file with sidecars.
    pub text: String,
    /// Files beside it, by their path in the folder.
    pub files: Vec<(String, String)>,
    /// Whether the text needs the files.
    pub needs_files: bool,
    /// What a person should know: who got no sidecar and why, what is missing.
    pub notes: Vec<String>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// The file is no YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// It is, and cannot be given sidecars.
    #[error("{source_name}: {message}")]
    Refused {
        /// File that was read.
        source_name: String,
        /// What was expected, what was seen, what helps.
        message: String,
    },
}

/// Puts sidecars beside the workloads of a compose file or of Kubernetes manifests, whichever the text is.
///
/// # Errors
/// When it is neither, or a workload cannot have a sidecar and does not say that it wants none.
pub fn inject(source_name: &str, text: &str, wishes: &Wishes) -> Result<Injected, InjectError> {
    let refused = |message: String| InjectError::Refused { source_name: source_name.to_owned(), message };
    let mut documents = tree::read(source_name, text)?;
    let is_manifest = |node: &Node| node.get("kind").is_some() && node.get("apiVersion").is_some();
    let injected = match documents.as_mut_slice() {
        [] => Err("expected a compose file or Kubernetes manifests, seen an empty file".to_owned()),
        [one] if one.root.get("services").is_some_and(Node::is_map) && !is_manifest(&one.root) => {
            compose::inject(&mut one.root, wishes)
        }
        several if several.iter().all(|document| is_manifest(&document.root)) => {
            kubernetes::inject(several.iter_mut().map(|document| &mut document.root).collect(), wishes)
        }
        _ => Err("expected a compose file (a mapping with `services`), or Kubernetes manifests, each with `apiVersion` and \
                  `kind`; seen neither"
            .to_owned()),
    };
    let Beside { files, needs_files, notes } = injected.map_err(refused)?;
    Ok(Injected { text: tree::print(&documents), files, needs_files, notes })
}

/// What the two kinds of file have beside their text.
#[derive(Debug, Default)]
struct Beside {
    files: Vec<(String, String)>,
    needs_files: bool,
    notes: Vec<String>,
}

/// A label or annotation of Istio's opt-out says no.
fn opts_out(value: Option<&str>) -> bool {
    value.is_some_and(|value| {
        matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "n" | "disabled")
    })
}
