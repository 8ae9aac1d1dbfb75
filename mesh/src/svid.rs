//! The leaf rules of the X509-SVID standard: DER in, SPIFFE ID out, or the clause that is broken.
//!
//! Leaves the signature path to webpki (`proxy::tls::verify`). What is judged here holds without it: the certificate is
//! one DER value and nothing more, holds no extension twice and none that is critical and not understood, and says in
//! every field that X509-SVID names what the standard wants it to say. Only the one URI SAN carries identity; DNS names,
//! e-mail addresses, other names and the subject are never looked at.
//!
//! The rules are in `rules`: those who judge and those who explain go through the same list.

mod rules;

use std::time::SystemTime;

use serde::Serialize;

use x509_parser::asn1_rs::{Any, Class, FromDer, Oid, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{BasicConstraints, GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_SUBJECT_ALT_NAME,
};

use crate::spiffe::SpiffeId;
use rules::{Look, Rule};

/// A leaf certificate that keeps every rule. Its chain is not yet proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// The one URI SAN.
    pub id: SpiffeId,
    /// Serial number in lower-case hexadecimal, without leading zero bytes.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// A broken rule: the clause of the standard, what it asks for and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{clause}: {expected}; seen: {seen}")]
pub struct SvidError {
    /// Standard and section, such as `X509-SVID 4.3` or `RFC 5280 4.2`.
    pub clause: &'static str,
    /// What the clause asks for.
    pub expected: &'static str,
    /// What the certificate has. Short, and without control characters.
    pub seen: String,
}

/// One rule, and how a certificate stands to it, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Standard and section.
    pub clause: &'static str,
    /// What the clause asks for.
    pub asks: &'static str,
    /// Whether it is kept.
    pub outcome: Outcome,
    /// What the certificate has. Short, and without control characters.
    pub seen: String,
}

/// How a certificate stands to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Kept,
    /// Not as it should be.
    Broken,
    /// What the rule speaks of is not there; if it has to be, another rule says so.
    Absent,
}

/// Checks a leaf against every MUST of X509-SVID 2 to 5. Validity dates are read, not judged.
///
/// An absent basicConstraints means cA FALSE (RFC 5280 4.2.1.9) and is accepted.
///
/// # Errors
/// The first broken clause.
pub fn check_leaf(der: &[u8]) -> Result<Svid, SvidError> {
    let certificate = read(der)?;
    require_all(&rules::LEAF, &certificate)?;
    let (not_before, not_after) = validity_of(&certificate);
    Ok(Svid { id: leaf_id(&certificate)?, serial: serial_of(&certificate), not_before, not_after })
}

/// Checks a signing certificate of a verified path: cA, keyCertSign, no path in its SPIFFE ID if it has one
/// (X509-SVID 3.2, 4), and no URI name constraints, which nobody here enforces (RFC 5280 6.1.4 (g)).
///
/// keyUsage must be there and critical on roots too: a signing certificate is an SVID (X509-SVID 4.3).
///
/// # Errors
/// The first broken clause.
pub fn check_signer(der: &[u8]) -> Result<(), SvidError> {
    require_all(&rules::SIGNER, &read(der)?)
}

/// How a leaf stands to every rule of [`check_leaf`], clause by clause, and to the clauses of SPIFFE-ID one by one. Of a
/// certificate that cannot be read there is only the verdict that says so.
#[must_use]
pub fn examine_leaf(der: &[u8]) -> Vec<Verdict> {
    examine(der, rules::LEAF.iter().chain(&rules::ID))
}

/// How a signing certificate stands to every rule of [`check_signer`].
#[must_use]
pub fn examine_signer(der: &[u8]) -> Vec<Verdict> {
    examine(der, rules::SIGNER.iter())
}

/// What a certificate is called, for people. Nothing of it is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Its subject, empty where it has none.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its serial number in lower-case hexadecimal.
    pub serial: String,
    /// The URIs in subjectAltName that can be read.
    pub uris: Vec<String>,
    /// Whether it means to be a signing certificate (cA TRUE).
    pub signs: bool,
}

/// What a certificate is called.
///
/// # Errors
/// When the bytes are not one X.509 certificate.
pub fn names(der: &[u8]) -> Result<Names, SvidError> {
    let certificate = parse(der)?;
    let uris = uri_names(&certificate).unwrap_or_default().into_iter().map(str::to_owned).collect();
    Ok(Names {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: serial_of(&certificate),
        uris,
        signs: basic_constraints(&certificate).is_some_and(|constraints| constraints.ca),
    })
}

/// From when and until when a certificate is valid: for trust anchors, whose dates path validation does not look at.
///
/// # Errors
/// When the bytes are not one X.509 certificate.
pub fn validity(der: &[u8]) -> Result<(SystemTime, SystemTime), SvidError> {
    parse(der).map(|certificate| validity_of(&certificate))
}

// Judging

fn require_all(rules: &[Rule], certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    for rule in rules {
        if let Look::Broken(seen) = (rule.look)(certificate) {
            return Err(broken(rule.clause, rule.asks, seen));
        }
    }
    Ok(())
}

fn examine<'r>(der: &[u8], rules: impl Iterator<Item = &'r Rule>) -> Vec<Verdict> {
    let unreadable = |error: SvidError| {
        let SvidError { clause, expected, seen } = error;
        vec![Verdict { clause, asks: expected, outcome: Outcome::Broken, seen }]
    };
    let certificate = match parse_strictly(der) {
        Ok(certificate) => certificate,
        Err(error) => return unreadable(error),
    };
    let read = Verdict {
        clause: "RFC 5280 4.1",
        asks: "an X.509 certificate in DER, and nothing behind it",
        outcome: Outcome::Kept,
        seen: format!("{} bytes", der.len()),
    };
    let verdict = |rule: &Rule| {
        let Rule { clause, asks, look } = *rule;
        let (outcome, seen) = match look(&certificate) {
            Look::Kept(seen) => (Outcome::Kept, seen),
            Look::Broken(seen) => (Outcome::Broken, seen),
            Look::Absent => (Outcome::Absent, String::new()),
        };
        Verdict { clause, asks, outcome, seen: shown(seen) }
    };
    std::iter::once(read).chain(rules::FORM.iter().chain(rules).map(verdict)).collect()
}

// Reading

/// A certificate whose form can be relied on: the extensions that are judged here are readable and unique, and no other
/// is critical.
fn read(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    let certificate = parse_strictly(der)?;
    require_all(&rules::FORM, &certificate)?;
    Ok(certificate)
}

fn parse_strictly(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    let certificate = parse(der)?;
    require_strict_der(der)?;
    Ok(certificate)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    let (behind, certificate) = X509Certificate::from_der(der).map_err(|error| {
        let error = match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error.to_string(),
            x509_parser::nom::Err::Incomplete(_) => "it ends too early".to_owned(),
        };
        broken("RFC 5280 4.1", "an X.509 certificate in DER", error)
    })?;
    require(
        behind.is_empty(),
        "RFC 5280 4.1",
        "nothing behind the certificate",
        format_args!("{} bytes", behind.len()),
    )?;
    Ok(certificate)
}

/// Refuses bytes that x509-parser steps over: behind the last field of a structure, or in a form that is not DER.
///
/// Goes down to the fields of each extension; what is inside the fields before, webpki reads strictly.
fn require_strict_der(der: &[u8]) -> Result<(), SvidError> {
    const EXTENSIONS: Tag = Tag(3);
    let certificate = elements(sole_element(der)?.data)?;
    let [signed, _algorithm, _signature] = certificate.as_slice() else { return Err(not_der()) };
    for field in elements(signed.data)? {
        if field.class() != Class::ContextSpecific || field.tag() != EXTENSIONS {
            continue;
        }
        for extension in elements(sole_element(field.data)?.data)? {
            match elements(extension.data)?.as_slice() {
                [_oid, _value] => {}
                // FALSE is the default and is not written (X.690 11.5); TRUE has one form (X.690 11.1).
                [_oid, critical, _value] => {
                    require_der(critical.tag() == Tag::Boolean && critical.data == [0xff])?;
                }
                _ => return Err(not_der()),
            }
        }
    }
    Ok(())
}

/// The DER values that stand side by side in `bytes`, to the last byte, each with its length in the shortest form
/// (X.690 10.1).
fn elements(mut bytes: &[u8]) -> Result<Vec<Any<'_>>, SvidError> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let (behind, element) = Any::from_der(bytes).map_err(|_| not_der())?;
        let length = element.data.len();
        let shortest_header = match length {
            0..0x80 => 2,
            0x80..0x100 => 3,
            0x100..0x1_0000 => 4,
            _ => 5,
        };
        require_der(bytes.len() - behind.len() == shortest_header + length)?;
        elements.push(element);
        bytes = behind;
    }
    Ok(elements)
}

fn sole_element(bytes: &[u8]) -> Result<Any<'_>, SvidError> {
    let mut elements = elements(bytes)?;
    let element = elements.pop().ok_or_else(not_der)?;
    require_der(elements.is_empty()).map(|()| element)
}

fn require_der(kept: bool) -> Result<(), SvidError> {
    if kept { Ok(()) } else { Err(not_der()) }
}

fn not_der() -> SvidError {
    broken("RFC 5280 4.1", "an X.509 certificate in DER", "a value that is not DER, or bytes behind one")
}

// Fields

fn extension<'a, 'b>(certificate: &'b X509Certificate<'a>, oid: &Oid<'_>) -> Option<&'b X509Extension<'a>> {
    certificate.extensions().iter().find(|extension| extension.oid == *oid)
}

fn basic_constraints<'b>(certificate: &'b X509Certificate<'_>) -> Option<&'b BasicConstraints> {
    match extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)?.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) => Some(constraints),
        _ => None,
    }
}

/// The keyUsage, and whether it is critical.
fn key_usage<'b>(certificate: &'b X509Certificate<'_>) -> Option<(&'b KeyUsage, bool)> {
    let extension = extension(certificate, &OID_X509_EXT_KEY_USAGE)?;
    match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => Some((usage, extension.critical)),
        _ => None,
    }
}

fn print_usage(usage: &KeyUsage) -> String {
    let bits = usage.to_string();
    if bits.is_empty() { "without any bit".to_owned() } else { bits }
}

/// Every URI in subjectAltName, the same twice counted twice. A name that cannot be read could be one.
fn uri_names<'a>(certificate: &X509Certificate<'a>) -> Result<Vec<&'a str>, String> {
    let names =
        match extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME).map(X509Extension::parsed_extension) {
            Some(ParsedExtension::SubjectAlternativeName(names)) => names.general_names.as_slice(),
            _ => &[],
        };
    let mut uris = Vec::new();
    for name in names {
        match *name {
            GeneralName::URI(uri) => uris.push(uri),
            GeneralName::Invalid(tag, _) => {
                return Err(format!("a name of type {} that is malformed", tag.0));
            }
            _ => {}
        }
    }
    Ok(uris)
}

/// The one URI of a certificate.
fn sole_uri<'a>(certificate: &X509Certificate<'a>) -> Option<&'a str> {
    match *uri_names(certificate).ok()?.as_slice() {
        [uri] => Some(uri),
        _ => None,
    }
}

/// The SPIFFE ID of a leaf whose rules were checked.
fn leaf_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let id = sole_uri(certificate).unwrap_or_default().parse();
    id.map_err(|error| broken("SPIFFE-ID 2", "the URI in subjectAltName is a SPIFFE ID", error))
}

/// The serial number's digits without leading zero bytes.
fn serial_of(certificate: &X509Certificate<'_>) -> String {
    let digits: String = serial_octets(certificate).map(|byte| format!("{byte:02x}")).collect();
    if digits.is_empty() { "00".to_owned() } else { digits }
}

fn serial_octets(certificate: &X509Certificate<'_>) -> impl Iterator<Item = u8> {
    certificate.raw_serial().iter().copied().skip_while(|&byte| byte == 0)
}

fn validity_of(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (validity.not_before.to_datetime().into(), validity.not_after.to_datetime().into())
}

fn require(
    kept: bool,
    clause: &'static str,
    expected: &'static str,
    seen: impl std::fmt::Display,
) -> Result<(), SvidError> {
    if kept { Ok(()) } else { Err(broken(clause, expected, seen)) }
}

fn broken(clause: &'static str, expected: &'static str, seen: impl std::fmt::Display) -> SvidError {
    SvidError { clause, expected, seen: shown(seen) }
}

/// Of a stranger's certificate, more is noise.
fn shown(seen: impl std::fmt::Display) -> String {
    const SHOWN: usize = 400;
    seen.to_string().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
