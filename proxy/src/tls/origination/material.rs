//! What the files of a DestinationRule hold, from PEM.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tracing::info;
use zeroize::Zeroizing;

use super::verify::Leaf;
use crate::tls::bundles::{Root, list};
use crate::tls::revocations::Revocations;

/// The text of one file.
pub(super) type Text = Zeroizing<Vec<u8>>;

/// What is read from files that belong together, and taken whole or not at all.
pub(super) trait Content: Sized + Send + Sync + 'static {
    /// Reads the texts of these files. An error says what is wrong with which.
    fn parse(paths: &[String], texts: &[Text]) -> Result<Self, String>;

    /// For the log: `2 roots`.
    fn describe(&self) -> String;

    /// When it ends, where one moment can be told.
    fn not_after(&self) -> Option<SystemTime> {
        None
    }
}

/// Whom to believe (`caCertificates`, or the system).
#[derive(Debug)]
pub(super) struct Roots {
    /// Completes "a root of …".
    pub(super) whence: String,
    pub(super) all: Vec<Root>,
}

impl Content for Roots {
    fn parse(paths: &[String], texts: &[Text]) -> Result<Self, String> {
        let ([path], [pem]) = (paths, texts) else { return Err(wrong_number(1, texts)) };
        let mut all: Vec<Root> = Vec::new();
        for (number, der) in (1..).zip(CertificateDer::pem_slice_iter(pem)) {
            let at = |fault: &dyn fmt::Display| format!("{path}: certificate {number}: {fault}");
            let root = Root::read(der.map_err(|fault| at(&fault))?).map_err(|fault| at(&fault))?;
            if !all.iter().any(|known| known.der == root.der) {
                all.push(root);
            }
        }
        if all.is_empty() {
            return Err(format!("{path}: expected one or more PEM certificates, found none"));
        }
        Ok(Self { whence: path.clone(), all })
    }

    fn describe(&self) -> String {
        counted(self.all.len(), "root certificate")
    }
}

impl Roots {
    /// The system's. What cannot be read of them is left out: nobody here can mend it.
    ///
    /// # Errors
    /// Where there are none at all.
    pub(super) fn of_system() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        let count = found.certs.len();
        let all: Vec<Root> = found.certs.into_iter().filter_map(|der| Root::read(der).ok()).collect();
        if all.is_empty() {
            let faults: Vec<String> = found.errors.iter().take(3).map(ToString::to_string).collect();
            let faults = if faults.is_empty() { String::new() } else { format!(" ({})", faults.join("; ")) };
            return Err(format!(
                "this system has no root certificates{faults}: install its package ca-certificates, point SSL_CERT_FILE \
                 at a file of them, or name caCertificates in the DestinationRule"
            ));
        }
        let unreadable = count.saturating_sub(all.len());
        info!("{} of the system; {unreadable} more cannot be read", counted(all.len(), "root certificate"));
        Ok(Self { whence: "the system".to_owned(), all })
    }

    /// For messages: the roots of a file by name, those of a system by their number.
    pub(super) fn list(&self) -> String {
        const FEW: usize = 5;
        if self.all.len() > FEW { self.describe() } else { list(&self.all) }
    }
}

impl Content for Revocations {
    fn parse(paths: &[String], texts: &[Text]) -> Result<Self, String> {
        let ([path], [pem]) = (paths, texts) else { return Err(wrong_number(1, texts)) };
        Revocations::read(path, pem)
    }

    fn describe(&self) -> String {
        Revocations::describe(self)
    }
}

/// What we show (`clientCertificate` and `privateKey`).
pub(super) struct Shown {
    /// The leaf's URI, else its subject.
    pub(super) name: String,
    pub(super) key: Arc<CertifiedKey>,
    /// The leaf's, in lower-case hexadecimal.
    pub(super) serial: String,
    pub(super) not_after: SystemTime,
}

impl Content for Shown {
    fn parse(paths: &[String], texts: &[Text]) -> Result<Self, String> {
        let ([certificate, key], [chain, secret]) = (paths, texts) else {
            return Err(wrong_number(2, texts));
        };
        let of = |path: &str, fault: &dyn fmt::Display| format!("{path}: {fault}");
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|fault| of(certificate, &fault))?;
        let leaf = chain
            .first()
            .ok_or_else(|| of(certificate, &"expected a PEM certificate chain, leaf first; found none"))?;
        let Leaf { name, serial, validity, uris, .. } =
            Leaf::read(leaf).map_err(|fault| of(certificate, &fault))?;
        let secret = PrivateKeyDer::from_pem_slice(secret)
            .map(Zeroizing::new)
            .map_err(|fault| of(key, &format_args!("expected a PEM private key: {fault}")))?;
        let signing = any_supported_type(&secret).map_err(|fault| of(key, &fault))?;
        let held = CertifiedKey::new(chain, signing);
        held.keys_match().map_err(|_differ| {
            of(key, &format_args!("it is not the key of the certificate {certificate}"))
        })?;
        let name = uris.into_iter().next().unwrap_or(name);
        Ok(Self { name, key: Arc::new(held), serial, not_after: validity.1 })
    }

    fn describe(&self) -> String {
        format!("certificate and key of {}", self.name)
    }

    fn not_after(&self) -> Option<SystemTime> {
        Some(self.not_after)
    }
}

/// Shows no key.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("name", &self.name).finish_non_exhaustive()
    }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn wrong_number(expected: usize, texts: &[Text]) -> String {
    format!("expected {expected} files, seen {}", texts.len())
}
