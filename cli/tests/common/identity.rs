//! Identity files that somebody else than a proxy renews.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use pillion_cli::lab::{Lab, PROXY_USER};
use pillion_testkit::TestCa;

const NAMES: [&str; 3] = ["bundle.pem", "svid.key", "svid.pem"];

/// A folder with the certificate, the key and the bundle of one workload.
pub(crate) struct IdentityFiles {
    folder: PathBuf,
    staging: PathBuf,
}

impl IdentityFiles {
    /// Empty as yet.
    pub(crate) fn new(lab: &Lab, name: &str) -> Self {
        let folder = lab.folder().join(format!("identity-{name}"));
        let staging = folder.join("staging");
        fs::create_dir_all(&staging).unwrap();
        Self { folder, staging }
    }

    /// Replaces each of the three files, one after the other, with a new certificate of `signer`.
    pub(crate) fn replace(&self, signer: &TestCa, id: &str, roots: &[&TestCa]) {
        let bundle: String = roots.iter().map(|root| root.bundle_pem()).collect();
        // Where they go is known.
        let _ = signer.issue(id).write(&self.staging, &bundle);
        for name in NAMES {
            let file = self.staging.join(name);
            chown(&file, Some(PROXY_USER), Some(PROXY_USER)).unwrap();
            fs::rename(file, self.folder.join(name)).unwrap();
        }
    }

    /// As `identity` of a sidecar's settings.
    pub(crate) fn settings(&self) -> String {
        let [bundle, key, certificate] = NAMES.map(|name| self.folder.join(name).display().to_string());
        format!("  files: {{certificate: {certificate}, key: {key}, bundle: {bundle}}}\n")
    }
}
