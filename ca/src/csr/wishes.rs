//! What a request asks for beside its key. The CA's profile is fixed, so none of it is granted; the question is whether the
//! caller can do without.

use std::collections::HashSet;

use x509_parser::certification_request::X509CertificationRequestInfo;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::Oid;

use super::CsrError;

/// Longest list of ignored wishes that goes into a log line, in characters.
pub(super) const LONGEST: usize = 512;

/// The wishes that are ignored, in words, for the log.
///
/// # Errors
/// `Wish` for one that cannot be ignored, `Malformed` for one that cannot be read or stands twice.
pub(super) fn judge(info: &X509CertificationRequestInfo<'_>) -> Result<String, CsrError> {
    let mut ignored = Vec::new();
    if info.subject.iter().next().is_some() {
        ignored.push(format!("subject {}", info.subject));
    }
    let mut attributes = HashSet::new();
    for attribute in info.iter_attributes() {
        if !attributes.insert(attribute.oid.as_bytes()) {
            return Err(twice("attribute", &attribute.oid));
        }
        if let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() {
            extensions(&request.extensions, &mut ignored)?;
        } else {
            // Its value may be a password, which is no business of the log.
            ignored.push(format!("attribute {}", attribute.oid.to_id_string()));
        }
    }
    Ok(shortened(&ignored.join("; ")))
}

fn extensions(extensions: &[X509Extension<'_>], ignored: &mut Vec<String>) -> Result<(), CsrError> {
    let mut seen = HashSet::new();
    for extension in extensions {
        if !seen.insert(extension.oid.as_bytes()) {
            return Err(twice("extension", &extension.oid));
        }
        ignored.push(judge_extension(extension)?);
    }
    Ok(())
}

/// The wish in words, if it can be ignored.
fn judge_extension(extension: &X509Extension<'_>) -> Result<String, CsrError> {
    let oid = extension.oid.to_id_string();
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => names_wish(&names.general_names),
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            refuse("to be a certificate authority (basicConstraints CA:TRUE)")
        }
        ParsedExtension::BasicConstraints(_) => Ok("basicConstraints CA:false".to_owned()),
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            refuse(format!("to sign certificates or revocation lists (keyUsage {usage})"))
        }
        ParsedExtension::KeyUsage(usage) if extension.critical && !is_of_tls(usage) => {
            refuse(format!("a critical keyUsage of {usage}"))
        }
        ParsedExtension::KeyUsage(usage) => Ok(format!("keyUsage {usage}")),
        ParsedExtension::ExtendedKeyUsage(usage) if extension.critical && !is_of_both_sides(usage) => {
            refuse("a critical extendedKeyUsage beyond serverAuth and clientAuth")
        }
        ParsedExtension::ExtendedKeyUsage(_) => Ok("extendedKeyUsage".to_owned()),
        ParsedExtension::ParseError { .. } => {
            Err(CsrError::Malformed(format!("the extension {oid} that it asks for cannot be read")))
        }
        _ if extension.critical => refuse(format!("the critical extension {oid}")),
        _ => Ok(format!("extension {oid}")),
    }
}

/// Several names of other kinds are ignored like one; of the kind that an identity is, there can be one only.
fn names_wish(names: &[GeneralName<'_>]) -> Result<String, CsrError> {
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(CsrError::Malformed(
            "a name in the subjectAltName that it asks for cannot be read".to_owned(),
        ));
    }
    let uris = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count();
    if uris > 1 {
        return refuse(format!("{uris} URI names, where an SVID has exactly one (X509-SVID 2)"));
    }
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    Ok(format!("SAN {}", names.join(" ")))
}

/// What a key does in TLS: to sign, and in old versions to encipher or agree on a key.
fn is_of_tls(usage: &KeyUsage) -> bool {
    let others = usage.non_repudiation()
        || usage.data_encipherment()
        || usage.key_cert_sign()
        || usage.crl_sign()
        || usage.encipher_only()
        || usage.decipher_only();
    !others
}

fn is_of_both_sides(usage: &ExtendedKeyUsage<'_>) -> bool {
    let others = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing;
    !others && usage.other.is_empty()
}

fn refuse(wish: impl Into<String>) -> Result<String, CsrError> {
    Err(CsrError::Wish(wish.into()))
}

fn twice(what: &str, oid: &Oid<'_>) -> CsrError {
    CsrError::Malformed(format!("the {what} {} stands in it twice", oid.to_id_string()))
}

fn shortened(wishes: &str) -> String {
    if wishes.len() <= LONGEST {
        return wishes.to_owned();
    }
    wishes.chars().take(LONGEST).chain(['…']).collect()
}
