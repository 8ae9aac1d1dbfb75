//! The leaf rules of the X509-SVID standard: DER in, SPIFFE ID out, or the clause that is broken.
//!
//! Leaves the signature path to webpki (`proxy::tls::verify`). What is judged here holds without it: the certificate is
//! one DER value and nothing more, holds no extension twice and none that is critical and not understood, and says in
//! every field that X509-SVID names what the standard wants it to say. Only the one URI SAN carries identity; DNS names,
//! e-mail addresses, other names and the subject are never looked at.

use std::collections::HashSet;
use std::time::SystemTime;

use x509_parser::asn1_rs::{Any, Class, FromDer, Oid, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{BasicConstraints, GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::x509::X509Version;

use crate::spiffe::{self, SpiffeId, TrustDomain};

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

/// Checks a leaf against every MUST of X509-SVID 2 to 5. Validity dates are read, not judged.
///
/// An absent basicConstraints means cA FALSE (RFC 5280 4.2.1.9) and is accepted.
///
/// # Errors
/// The first broken clause.
pub fn check_leaf(der: &[u8]) -> Result<Svid, SvidError> {
    let certificate = read(der)?;
    require_end_entity(&certificate)?;
    require_leaf_key_usage(&certificate)?;
    require_both_directions(&certificate)?;
    let id = leaf_id(&certificate)?;
    let (not_before, not_after) = validity_of(&certificate);
    Ok(Svid { id, serial: serial(&certificate)?, not_before, not_after })
}

/// Checks a signing certificate of a verified path: cA, keyCertSign, no path in its SPIFFE ID if it has one
/// (X509-SVID 3.2, 4), and no URI name constraints, which nobody here enforces (RFC 5280 6.1.4 (g)).
///
/// keyUsage must be there and critical on roots too: a signing certificate is an SVID (X509-SVID 4.3).
///
/// # Errors
/// The first broken clause.
pub fn check_signer(der: &[u8]) -> Result<(), SvidError> {
    let certificate = read(der)?;
    let is_ca = basic_constraints(&certificate).is_some_and(|constraints| constraints.ca);
    require(is_ca, "X509-SVID 4.1", "a signing certificate has cA TRUE in basicConstraints", "no cA TRUE")?;
    let usage = key_usage(&certificate)?;
    require(
        usage.key_cert_sign(),
        "X509-SVID 4.3",
        "a signing certificate has keyCertSign in keyUsage",
        format_args!("keyUsage {}", print_usage(usage)),
    )?;
    require_no_uri_constraints(&certificate)?;
    require_signer_id(&certificate)
}

/// From when and until when a certificate is valid: for trust anchors, whose dates path validation does not look at.
///
/// # Errors
/// When the bytes are not one X.509 certificate.
pub fn validity(der: &[u8]) -> Result<(SystemTime, SystemTime), SvidError> {
    parse(der).map(|certificate| validity_of(&certificate))
}

// Rules of a leaf

fn require_end_entity(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    if let Some(constraints) = basic_constraints(certificate) {
        require(!constraints.ca, "X509-SVID 4.1", "a leaf has cA FALSE in basicConstraints", "cA TRUE")?;
        let path_length = constraints.path_len_constraint;
        require(
            path_length.is_none(),
            "RFC 5280 4.2.1.9",
            "no pathLenConstraint without cA TRUE",
            "a pathLenConstraint",
        )?;
    }
    let constrains_names = extension(certificate, &OID_X509_EXT_NAME_CONSTRAINTS).is_some();
    require(
        !constrains_names,
        "RFC 5280 4.2.1.10",
        "nameConstraints in CA certificates only",
        "nameConstraints in a leaf",
    )
}

fn require_leaf_key_usage(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let usage = key_usage(certificate)?;
    require(
        !usage.key_cert_sign() && !usage.crl_sign(),
        "X509-SVID 4.3",
        "a leaf has neither keyCertSign nor cRLSign in keyUsage",
        format_args!("keyUsage {}", print_usage(usage)),
    )?;
    require(
        usage.digital_signature(),
        "X509-SVID 4.3",
        "a leaf has digitalSignature in keyUsage",
        format_args!("keyUsage {}", print_usage(usage)),
    )
}

/// Every workload both calls and answers, so extendedKeyUsage, where it is there at all, allows both.
fn require_both_directions(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    match extension(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE).map(X509Extension::parsed_extension) {
        Some(ParsedExtension::ExtendedKeyUsage(usage)) => require(
            usage.server_auth && usage.client_auth,
            "X509-SVID 4.4",
            "extendedKeyUsage, if present, has both serverAuth and clientAuth",
            match (usage.server_auth, usage.client_auth) {
                (true, _) => "serverAuth only",
                (_, true) => "clientAuth only",
                _ => "neither",
            },
        ),
        _ => Ok(()),
    }
}

/// The SPIFFE ID of the one URI SAN.
fn leaf_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let uris = uri_names(certificate)?;
    let [uri] = *uris.as_slice() else {
        return Err(broken(
            "X509-SVID 2",
            "exactly one URI in subjectAltName",
            format_args!("{} URIs", uris.len()),
        ));
    };
    // RFC 5280 4.1.2.6 asks for the same; Istio, Go and rcgen all mark it so.
    let critical = extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME).is_some_and(|names| names.critical);
    require(
        critical || certificate.subject().iter().next().is_some(),
        "X509-SVID 3.1",
        "subjectAltName is critical where the subject is empty",
        "an empty subject and a subjectAltName that is not critical",
    )?;
    let names_no_workload = TrustDomain::of_signer(uri).is_ok();
    require(!names_no_workload, "X509-SVID 3.1", "the SPIFFE ID of a leaf has a path", uri)?;
    uri.parse().map_err(|error| broken("SPIFFE-ID 2", "the URI in subjectAltName is a SPIFFE ID", error))
}

// Rules of a signing certificate

/// Finds URI names with a walk of its own: x509-parser drops subtrees that it cannot read.
fn require_no_uri_constraints(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    const URI: u32 = 6;
    let Some(constraints) = extension(certificate, &OID_X509_EXT_NAME_CONSTRAINTS) else { return Ok(()) };
    for subtrees in elements(sole_element(constraints.value)?.data)? {
        for subtree in elements(subtrees.data)? {
            let base = elements(subtree.data)?.into_iter().next();
            let is_other_than_uri =
                base.is_some_and(|base| base.class() == Class::ContextSpecific && base.tag() != Tag(URI));
            require(
                is_other_than_uri,
                "RFC 5280 6.1.4 (g)",
                "no name constraint on URIs, since none is enforced",
                "one on URIs",
            )?;
        }
    }
    Ok(())
}

/// A signing certificate need not have a SPIFFE ID, and its other URIs mean nothing (X509-SVID 3.2).
fn require_signer_id(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let uris = uri_names(certificate)?;
    match *uris.as_slice() {
        [uri] if spiffe::claims_spiffe_scheme(uri) => {
            TrustDomain::of_signer(uri).map(drop).map_err(|error| {
                broken(
                    "X509-SVID 3.2",
                    "the SPIFFE ID of a signing certificate is a trust domain without a path",
                    error,
                )
            })
        }
        _ => require(
            !uris.iter().any(|uri| spiffe::claims_spiffe_scheme(uri)),
            "X509-SVID 2",
            "exactly one URI in subjectAltName where it is a SPIFFE ID",
            format_args!("{} URIs", uris.len()),
        ),
    }
}

// Reading

/// A certificate whose form can be relied on: the extensions that are judged here are readable and unique, and no other
/// is critical.
fn read(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    let certificate = parse(der)?;
    require_strict_der(der)?;
    let version = certificate.version();
    require(
        version == X509Version::V3,
        "RFC 5280 4.1.2.1",
        "an X.509 certificate of version 3",
        format_args!("{version}"),
    )?;
    require(
        certificate.tbs_certificate.signature == certificate.signature_algorithm,
        "RFC 5280 4.1.1.2",
        "the same signature algorithm inside and outside of the signed part",
        "two different ones",
    )?;
    require_named_curve(&certificate)?;
    require_known_extensions(&certificate)?;
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

/// Extensions that are judged here, so they may be critical.
const JUDGED: [Oid<'static>; 5] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_NAME_CONSTRAINTS,
];

fn require_known_extensions(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let mut seen = HashSet::new();
    for extension in certificate.extensions() {
        let oid = &extension.oid;
        require(
            seen.insert(oid.as_bytes()),
            "RFC 5280 4.2",
            "no extension twice",
            format_args!("{oid} twice"),
        )?;
        if JUDGED.contains(oid) {
            sole_element(extension.value)?;
            let readable = extension.parsed_extension().error().is_none();
            require(
                readable,
                "RFC 5280 4.2",
                "extensions that can be read",
                format_args!("{oid} is malformed"),
            )?;
        } else {
            require(!extension.critical, "RFC 5280 4.2", "no critical extension that is unknown here", oid)?;
        }
    }
    Ok(())
}

/// Curve parameters written out let a signer choose its own generator (RFC 5480 2.1.1; CVE-2020-0601).
fn require_named_curve(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let algorithm = &certificate.public_key().algorithm;
    let named = algorithm.parameters.as_ref().is_some_and(|parameters| parameters.tag() == Tag::Oid);
    require(
        algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || named,
        "RFC 5480 2.1.1",
        "an elliptic curve given by its name",
        "curve parameters written out or missing",
    )
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

fn key_usage<'b>(certificate: &'b X509Certificate<'_>) -> Result<&'b KeyUsage, SvidError> {
    let extension = extension(certificate, &OID_X509_EXT_KEY_USAGE);
    let Some((extension, ParsedExtension::KeyUsage(usage))) =
        extension.map(|extension| (extension, extension.parsed_extension()))
    else {
        return Err(broken("X509-SVID 4.3", "a keyUsage extension", "none"));
    };
    require(
        extension.critical,
        "X509-SVID 4.3",
        "a keyUsage extension marked critical",
        "one that is not critical",
    )?;
    Ok(usage)
}

fn print_usage(usage: &KeyUsage) -> String {
    let bits = usage.to_string();
    if bits.is_empty() { "without any bit".to_owned() } else { bits }
}

/// Every URI in subjectAltName, the same twice counted twice. A name that cannot be read could be one.
fn uri_names<'a>(certificate: &X509Certificate<'a>) -> Result<Vec<&'a str>, SvidError> {
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
                let seen = format_args!("a name of type {} that is malformed", tag.0);
                return Err(broken("RFC 5280 4.2.1.6", "names in subjectAltName that can be read", seen));
            }
            _ => {}
        }
    }
    Ok(uris)
}

fn serial(certificate: &X509Certificate<'_>) -> Result<String, SvidError> {
    const MAX_OCTETS: usize = 20;
    let bytes = certificate.raw_serial();
    let digits: Vec<u8> = bytes.iter().copied().skip_while(|&byte| byte == 0).collect();
    let octets = digits.len();
    require(
        octets <= MAX_OCTETS,
        "RFC 5280 4.1.2.2",
        "a serial number of at most 20 octets",
        format_args!("{octets} octets"),
    )?;
    if digits.is_empty() {
        return Ok("00".to_owned());
    }
    Ok(digits.iter().map(|byte| format!("{byte:02x}")).collect())
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
    /// Of a stranger's certificate, more is noise.
    const SHOWN: usize = 400;
    SvidError { clause, expected, seen: seen.to_string().chars().take(SHOWN).collect() }
}

#[cfg(test)]
mod tests;
