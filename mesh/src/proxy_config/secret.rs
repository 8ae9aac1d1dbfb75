//! `proxy-config secret`: the certificates that the proxy shows and those that it trusts.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{cell, known, table};
use crate::spiffe::SpiffeId;
use crate::wire::rfc3339;
use crate::words::Escaped;

/// The page `/certs`, as far as the table tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    /// The proxy's clock.
    #[serde(with = "rfc3339")]
    pub now: SystemTime,
    /// Whose certificate it is; none before the first.
    pub identity: Option<SpiffeId>,
    /// The certificates that peers are shown, leaf first.
    pub chain: Vec<Certificate>,
    /// The roots of each trust domain.
    pub bundles: BTreeMap<String, Vec<Certificate>>,
    /// How renewals fare.
    pub renewals: Renewals,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// The begin of its validity.
    #[serde(with = "rfc3339")]
    pub not_before: SystemTime,
    /// The end of its validity.
    #[serde(with = "rfc3339")]
    pub not_after: SystemTime,
}

/// How renewals fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewals {
    /// How many went well, the first certificate among them.
    pub succeeded: u64,
    /// How many did not.
    pub failed: u64,
    /// Why the last did not, where that is so.
    pub last_error: Option<String>,
    /// When the next is tried, RFC 3339.
    pub next: Option<String>,
}

/// The rows of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRows {
    /// The own chain, then the roots of each trust domain.
    pub secrets: Vec<SecretRow>,
    /// How renewals fare.
    pub renewals: Renewals,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRow {
    /// `default` the own certificate, `ROOTCA` a root: Envoy's names.
    pub resource_name: String,
    /// `Cert Chain`, or `CA`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `ACTIVE`, or `WARMING` before the first certificate.
    pub status: String,
    /// Whether it is valid by the proxy's clock.
    pub valid_cert: bool,
    /// Hexadecimal; none before the first certificate.
    pub serial_number: Option<String>,
    /// RFC 3339.
    pub not_after: Option<String>,
    /// RFC 3339.
    pub not_before: Option<String>,
    /// Whose it is.
    pub trust_domain: Option<String>,
}

impl Secrets {
    /// All rows.
    #[must_use]
    pub fn rows(&self) -> SecretRows {
        let own = self.identity.as_ref().map(|identity| identity.trust_domain().to_string());
        let chain = self.chain.iter().map(|one| self.row("default", "Cert Chain", one, own.clone()));
        let roots = self.bundles.iter().flat_map(|(trust_domain, roots)| {
            roots.iter().map(|root| self.row("ROOTCA", "CA", root, Some(trust_domain.clone())))
        });
        let warming = self.chain.is_empty().then(|| SecretRow {
            resource_name: "default".to_owned(),
            kind: "Cert Chain".to_owned(),
            status: "WARMING".to_owned(),
            valid_cert: false,
            serial_number: None,
            not_after: None,
            not_before: None,
            trust_domain: own.clone(),
        });
        SecretRows {
            secrets: warming.into_iter().chain(chain).chain(roots).collect(),
            renewals: self.renewals.clone(),
        }
    }

    fn row(
        &self,
        name: &str,
        kind: &str,
        certificate: &Certificate,
        trust_domain: Option<String>,
    ) -> SecretRow {
        let Certificate { serial, not_before, not_after } = certificate;
        SecretRow {
            resource_name: name.to_owned(),
            kind: kind.to_owned(),
            status: "ACTIVE".to_owned(),
            valid_cert: (*not_before..=*not_after).contains(&self.now),
            serial_number: Some(serial.clone()),
            not_after: Some(rfc3339::print(*not_after)),
            not_before: Some(rfc3339::print(*not_before)),
            trust_domain,
        }
    }
}

impl Display for SecretRows {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = [
            "RESOURCE NAME",
            "TYPE",
            "STATUS",
            "VALID CERT",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE",
            "TRUST DOMAIN",
        ];
        let row = |row: &SecretRow| {
            [
                cell(&row.resource_name),
                cell(&row.kind),
                cell(&row.status),
                row.valid_cert.to_string(),
                known(row.serial_number.as_ref()),
                known(row.not_after.as_ref()),
                known(row.not_before.as_ref()),
                known(row.trust_domain.as_ref()),
            ]
        };
        table(f, head, self.secrets.iter().map(row), "The proxy has no certificate and trusts nobody.")?;
        let Renewals { succeeded, failed, last_error, next } = &self.renewals;
        write!(f, "\n\nrenewals: {succeeded} succeeded, {failed} failed")?;
        if let Some(next) = next {
            write!(f, "; the next at {}", Escaped(next))?;
        }
        if let Some(error) = last_error {
            write!(f, "\nthe last renewal failed: {}", Escaped(error))?;
        }
        Ok(())
    }
}
