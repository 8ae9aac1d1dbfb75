//! What is taken from a certificate signing request (PKCS#10, RFC 2986): the public key, once the request's own
//! signature has proved that the caller holds the private one.
//!
//! Everything else it asks for is named and ignored, but what no workload's certificate can be: to be an authority, to
//! have two names, to have something marked critical that would be missing. Such a request is refused by name
//! ([`wishes`]), as is what is not DER to the letter ([`der`]).

mod der;
mod wishes;

use aws_lc_rs::digest;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::keys::{self, KeyError, KeyKind};

/// A request whose signature verified.
pub(crate) struct Csr {
    /// The public key that the caller proved to hold.
    pub(crate) key: SubjectPublicKeyInfo,
    /// The kind of that key.
    pub(crate) kind: KeyKind,
    /// SHA-256 of that key (its SubjectPublicKeyInfo) in lower-case hexadecimal, by which it is known in logs.
    pub(crate) sha256: String,
    /// What the request asked for beside it, for the log; empty where it asked for nothing.
    pub(crate) ignored: String,
}

/// Why a request is refused. The text is for the caller as well as for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("expected one PKCS#10 request in PEM (-----BEGIN CERTIFICATE REQUEST-----) or DER; seen: {0}")]
    NotARequest(&'static str),
    #[error("the request is not well-formed PKCS#10: {0}")]
    Malformed(String),
    #[error("the request asks for {0}, which this CA never grants; leave it out")]
    Wish(String),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads a request in PEM or DER and checks its signature.
pub(crate) fn read(body: &[u8]) -> Result<Csr, CsrError> {
    let der = unwrap_pem(body)?;
    der::check(&der).map_err(|fault| CsrError::Malformed(fault.to_owned()))?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| CsrError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed(format!("{} bytes follow the request", rest.len())));
    }
    let info = &request.certification_request_info;
    if info.version.0 != 0 {
        return Err(CsrError::Malformed(format!("its version is {}, expected 0 (v1)", info.version.0)));
    }
    let kind = keys::kind_of(&info.subject_pki)?;
    let signature = &request.signature_value;
    keys::verify(kind, &info.subject_pki, &request.signature_algorithm.algorithm, info.raw, &signature.data)?;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|error| KeyError::MalformedKey(error.to_string()))?;
    let ignored = wishes::judge(info)?;
    let sha256 = digest::digest(&digest::SHA256, info.subject_pki.raw);
    let sha256 = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Csr { key, kind, sha256, ignored })
}

fn unwrap_pem(body: &[u8]) -> Result<CertificateSigningRequestDer<'_>, CsrError> {
    match body {
        [] => Err(CsrError::NotARequest("an empty body")),
        [0x30, ..] => Ok(CertificateSigningRequestDer::from(body)),
        text => {
            let mut sections = CertificateSigningRequestDer::pem_slice_iter(text);
            match (sections.next(), sections.next()) {
                (Some(Ok(der)), None) => Ok(der),
                (Some(Ok(_)), Some(_)) => Err(CsrError::NotARequest("more than one request")),
                (Some(Err(_)), _) => Err(CsrError::NotARequest("damaged PEM")),
                (None, _) => Err(CsrError::NotARequest("neither of them")),
            }
        }
    }
}

#[cfg(test)]
mod tests;
