//! What is taken from a certificate signing request (PKCS#10, RFC 2986): the public key, once the request's own
//! signature has proved that the caller holds the private one. Everything else it asks for is named and ignored.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;

use crate::keys::{self, KeyError, KeyKind};

/// Longest list of ignored wishes that goes into a log line, in characters.
const LONGEST_WISHES: usize = 512;

/// A request whose signature verified.
pub(crate) struct Csr {
    /// The public key that the caller proved to hold.
    pub(crate) key: SubjectPublicKeyInfo,
    /// The kind of that key.
    pub(crate) kind: KeyKind,
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
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads a request in PEM or DER and checks its signature.
pub(crate) fn read(body: &[u8]) -> Result<Csr, CsrError> {
    let der = unwrap_pem(body)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| CsrError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed(format!("{} bytes follow the request", rest.len())));
    }
    let info = &request.certification_request_info;
    let kind = keys::kind_of(&info.subject_pki)?;
    let signature = &request.signature_value;
    keys::verify(kind, &info.subject_pki, &request.signature_algorithm.algorithm, info.raw, &signature.data)?;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|error| KeyError::MalformedKey(error.to_string()))?;
    Ok(Csr { key, kind, ignored: wishes(&request) })
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

/// What the request asks for beside its key, in words.
fn wishes(request: &X509CertificationRequest<'_>) -> String {
    let info = &request.certification_request_info;
    let mut wishes = Vec::new();
    if info.subject.iter().next().is_some() {
        wishes.push(format!("subject {}", info.subject));
    }
    for attribute in info.iter_attributes() {
        if let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() {
            wishes.extend(request.extensions.iter().map(extension_wish));
        } else {
            // Its value may be a password, which is no business of the log.
            wishes.push(format!("attribute {}", attribute.oid.to_id_string()));
        }
    }
    let wishes = wishes.join("; ");
    if wishes.len() <= LONGEST_WISHES {
        return wishes;
    }
    wishes.chars().take(LONGEST_WISHES).chain(['…']).collect()
}

fn extension_wish(extension: &X509Extension<'_>) -> String {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            let names: Vec<_> = names.general_names.iter().map(ToString::to_string).collect();
            format!("SAN {}", names.join(" "))
        }
        ParsedExtension::BasicConstraints(constraints) => format!("basicConstraints CA:{}", constraints.ca),
        ParsedExtension::KeyUsage(usage) => format!("keyUsage {usage}"),
        ParsedExtension::ExtendedKeyUsage(_) => "extendedKeyUsage".to_owned(),
        _ => format!("extension {}", extension.oid.to_id_string()),
    }
}

#[cfg(test)]
mod tests;
