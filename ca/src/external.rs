//! A signing certificate of somebody else, in files that are theirs: read whole, checked, kept until they change.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pillion_mesh::spiffe::TrustDomain;
use zeroize::Zeroizing;

use crate::slots::{Signer, SignerError};

/// A file larger than this is no certificate, key or chain.
const MAX_BYTES: u64 = 1 << 20;

/// Where it is. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExternalFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The certificates above it, roots included; absent where the signing certificate is a root.
    pub(crate) chain: Option<PathBuf>,
}

/// The contents of the files at one moment, which fit each other. Has no Debug, so that no log can show the key.
pub(crate) struct External {
    pub(crate) certificate: String,
    pub(crate) chain: String,
    key: Zeroizing<String>,
    name: String,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExternalError {
    #[error("signer: cannot read {path}: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("signer: {path}: {source}", path = path.display())]
    Unusable { path: PathBuf, source: SignerError },
}

impl External {
    /// Reads the files and tries out what they hold.
    pub(crate) fn read(
        files: &ExternalFiles,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, ExternalError> {
        let certificate = read(&files.certificate)?.to_string();
        let key = read(&files.key)?;
        let chain = match &files.chain {
            Some(path) => read(path)?.to_string(),
            None => certificate.clone(),
        };
        let mut external = External { certificate, chain, key, name: String::new() };
        let signer = external.signer(trust_domain, now).map_err(|source| {
            let path = match source {
                SignerError::Key(_) => &files.key,
                SignerError::Chain(_) | SignerError::NoRoot => {
                    files.chain.as_ref().unwrap_or(&files.certificate)
                }
                _ => &files.certificate,
            };
            ExternalError::Unusable { path: path.clone(), source }
        })?;
        signer.name().clone_into(&mut external.name);
        Ok(external)
    }

    /// The signer, with its key.
    pub(crate) fn signer(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Signer, SignerError> {
        Signer::external(&self.certificate, &self.chain, Some(&self.key), trust_domain, now)
    }

    /// How the record of the signers names it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// What is no UTF-8 is no PEM, and shows as damage.
fn read(path: &Path) -> Result<Zeroizing<String>, ExternalError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    read.map_err(|source| ExternalError::Unreadable { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}
