//! Revocation lists (RFC 5280 5), from PEM.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use webpki::{CertRevocationList, Error, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// What the lists of one file have revoked.
pub(crate) struct Revocations {
    /// The file.
    pub(crate) whence: String,
    /// The lists themselves.
    pub(super) lists: Vec<CertRevocationList<'static>>,
    /// When the first of them was to be replaced, where they say so.
    pub(crate) next_update: Option<SystemTime>,
}

/// The lists that judge peers of the mesh; there may be none. Clones share them, and only they are equal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revoked(pub(crate) Option<Arc<Revocations>>);

impl PartialEq for Revoked {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for Revoked {}

impl Revocations {
    /// Reads the PEM of `path`; all of it, or nothing.
    ///
    /// # Errors
    /// What is wrong with which list.
    pub(crate) fn read(path: &str, pem: &[u8]) -> Result<Self, String> {
        let mut lists = Vec::new();
        let mut next_update: Option<SystemTime> = None;
        for (number, der) in (1..).zip(CertificateRevocationListDer::pem_slice_iter(pem)) {
            let at =
                |fault: &dyn fmt::Display| format!("{path}: revocation list {number}: {fault} (RFC 5280 5)");
            let der = der.map_err(|fault| at(&fault))?;
            let list = OwnedCertRevocationList::from_der(&der).map_err(|fault| at(&fault))?;
            lists.push(list.into());
            let (_, told) = CertificateRevocationList::from_der(&der).map_err(|fault| at(&fault))?;
            let next = told.next_update().map(|next| SystemTime::from(next.to_datetime()));
            next_update = next.into_iter().chain(next_update).min();
        }
        if lists.is_empty() {
            return Err(format!("{path}: expected one or more PEM revocation lists (X509 CRL), found none"));
        }
        Ok(Self { whence: path.to_owned(), lists, next_update })
    }

    /// `2 revocation lists`.
    pub(crate) fn describe(&self) -> String {
        let number = self.lists.len();
        format!("{number} revocation list{}", if number == 1 { "" } else { "s" })
    }
}

/// Whether webpki's error says that a list is not by the issuer that it names.
pub(super) fn is_foreign_list(error: &Error) -> bool {
    matches!(
        error,
        Error::IssuerNotCrlSigner
            | Error::InvalidCrlSignatureForPublicKey
            | Error::UnsupportedCrlSignatureAlgorithmContext(_)
            | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
    )
}

/// Leaves the entries out, of which there may be thousands.
impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("whence", &self.whence).finish_non_exhaustive()
    }
}
