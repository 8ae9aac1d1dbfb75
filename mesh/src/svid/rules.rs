//! The rules, one clause each, in the order in which they are judged. Whoever checks a certificate ends at the first that is
//! broken, whoever explains one goes on.

use std::collections::HashSet;

use x509_parser::asn1_rs::{Class, Oid, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::x509::X509Version;

use super::{
    SvidError, basic_constraints, elements, extension, key_usage, print_usage, serial_octets, sole_element,
    sole_uri, uri_names,
};
use crate::spiffe::{self, MAX_ID_LENGTH, SpiffeId, TrustDomain};

/// A clause, and how to look whether a certificate keeps it.
pub(super) struct Rule {
    /// Standard and section.
    pub(super) clause: &'static str,
    /// What it asks for.
    pub(super) asks: &'static str,
    /// What is to be seen of it.
    pub(super) look: fn(&X509Certificate<'_>) -> Look,
}

/// What was seen.
pub(super) enum Look {
    /// As it should be.
    Kept(String),
    /// Not as it should be.
    Broken(String),
    /// What the rule speaks of is not there; another rule says whether it has to be.
    Absent,
}

const fn rule(clause: &'static str, asks: &'static str, look: fn(&X509Certificate<'_>) -> Look) -> Rule {
    Rule { clause, asks, look }
}

/// Of every certificate, leaf or signer.
pub(super) const FORM: [Rule; 7] = [
    rule("RFC 5280 4.1.2.1", "an X.509 certificate of version 3", version),
    rule(
        "RFC 5280 4.1.1.2",
        "the same signature algorithm inside and outside of the signed part",
        signature_algorithms,
    ),
    rule("RFC 5480 2.1.1", "an elliptic curve given by its name", named_curve),
    rule("RFC 5280 4.2", "no extension twice", extensions_once),
    rule("RFC 5280 4.1", "extensions of one DER value each", extension_values),
    rule("RFC 5280 4.2", "extensions that can be read", extensions_readable),
    rule("RFC 5280 4.2", "no critical extension that is unknown here", extensions_known),
];

/// Of a leaf.
pub(super) const LEAF: [Rule; 14] = [
    rule("X509-SVID 4.1", "a leaf has cA FALSE in basicConstraints", no_ca),
    rule("RFC 5280 4.2.1.9", "no pathLenConstraint without cA TRUE", no_path_length),
    rule("RFC 5280 4.2.1.10", "nameConstraints in CA certificates only", no_name_constraints),
    rule("X509-SVID 4.3", "a keyUsage extension", has_key_usage),
    rule("X509-SVID 4.3", "a keyUsage extension marked critical", key_usage_is_critical),
    rule("X509-SVID 4.3", "a leaf has neither keyCertSign nor cRLSign in keyUsage", signs_nothing),
    rule("X509-SVID 4.3", "a leaf has digitalSignature in keyUsage", has_digital_signature),
    rule(
        "X509-SVID 4.4",
        "extendedKeyUsage, if present, has both serverAuth and clientAuth",
        both_directions,
    ),
    rule("RFC 5280 4.2.1.6", "names in subjectAltName that can be read", names_readable),
    rule("X509-SVID 2", "exactly one URI in subjectAltName", one_uri),
    rule("X509-SVID 3.1", "subjectAltName is critical where the subject is empty", names_are_critical),
    rule("X509-SVID 3.1", "the SPIFFE ID of a leaf has a path", has_path),
    rule("SPIFFE-ID 2", "the URI in subjectAltName is a SPIFFE ID", is_spiffe_id),
    rule("RFC 5280 4.1.2.2", "a serial number of at most 20 octets", short_serial),
];

/// What makes a SPIFFE ID, clause by clause. All are kept where `SPIFFE-ID 2` of a leaf is.
pub(super) const ID: [Rule; 5] = [
    rule("SPIFFE-ID 2", "the scheme is spiffe, in lower case", scheme),
    rule("SPIFFE-ID 2", "neither a query nor a fragment", no_query),
    rule(
        "SPIFFE-ID 2.1",
        "a trust domain of 1 to 255 lower-case letters, digits, dots, dashes and underscores, and no more in the authority",
        trust_domain,
    ),
    rule(
        "SPIFFE-ID 2.2",
        "path segments of letters, digits, dots, dashes and underscores, none empty, `.` or `..`",
        path,
    ),
    rule("SPIFFE-ID 2.3", "at most 2048 bytes", length),
];

/// Of a signing certificate.
pub(super) const SIGNER: [Rule; 8] = [
    rule("X509-SVID 4.1", "a signing certificate has cA TRUE in basicConstraints", is_ca),
    rule("X509-SVID 4.3", "a keyUsage extension", has_key_usage),
    rule("X509-SVID 4.3", "a keyUsage extension marked critical", key_usage_is_critical),
    rule("X509-SVID 4.3", "a signing certificate has keyCertSign in keyUsage", signs),
    rule("RFC 5280 6.1.4 (g)", "no name constraint on URIs, since none is enforced", no_uri_constraints),
    rule("RFC 5280 4.2.1.6", "names in subjectAltName that can be read", names_readable),
    rule("X509-SVID 2", "exactly one URI in subjectAltName where it is a SPIFFE ID", one_signer_id),
    rule(
        "X509-SVID 3.2",
        "the SPIFFE ID of a signing certificate is a trust domain without a path",
        signer_id,
    ),
];

/// Extensions that are judged here, so they may be critical.
const JUDGED: [Oid<'static>; 5] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_NAME_CONSTRAINTS,
];

fn judged(kept: bool, seen: impl std::fmt::Display) -> Look {
    if kept { Look::Kept(seen.to_string()) } else { Look::Broken(seen.to_string()) }
}

// Form

fn version(certificate: &X509Certificate<'_>) -> Look {
    let version = certificate.version();
    judged(version == X509Version::V3, version)
}

fn signature_algorithms(certificate: &X509Certificate<'_>) -> Look {
    let same = certificate.tbs_certificate.signature == certificate.signature_algorithm;
    judged(same, if same { "the same" } else { "two different ones" })
}

/// Curve parameters written out let a signer choose its own generator (RFC 5480 2.1.1; CVE-2020-0601).
fn named_curve(certificate: &X509Certificate<'_>) -> Look {
    let algorithm = &certificate.public_key().algorithm;
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Look::Absent;
    }
    let named = algorithm.parameters.as_ref().is_some_and(|parameters| parameters.tag() == Tag::Oid);
    judged(named, if named { "a named curve" } else { "curve parameters written out or missing" })
}

fn extensions_once(certificate: &X509Certificate<'_>) -> Look {
    let mut seen = HashSet::new();
    let twice = certificate.extensions().iter().find(|extension| !seen.insert(extension.oid.as_bytes()));
    match twice {
        Some(extension) => Look::Broken(format!("{} twice", extension.oid)),
        None => Look::Kept(format!("{} extensions", certificate.extensions().len())),
    }
}

fn extension_values(certificate: &X509Certificate<'_>) -> Look {
    let broken = judged_extensions(certificate).find_map(|extension| sole_element(extension.value).err());
    broken.map_or_else(|| Look::Kept("all".to_owned()), |error| Look::Broken(error.seen))
}

fn extensions_readable(certificate: &X509Certificate<'_>) -> Look {
    let malformed = |extension: &&X509Extension<'_>| extension.parsed_extension().error().is_some();
    match judged_extensions(certificate).find(malformed) {
        Some(extension) => Look::Broken(format!("{} is malformed", extension.oid)),
        None => Look::Kept("all".to_owned()),
    }
}

fn judged_extensions<'c, 'a>(
    certificate: &'c X509Certificate<'a>,
) -> impl Iterator<Item = &'c X509Extension<'a>> {
    certificate.extensions().iter().filter(|extension| JUDGED.contains(&extension.oid))
}

fn extensions_known(certificate: &X509Certificate<'_>) -> Look {
    let unknown = |extension: &&X509Extension<'_>| extension.critical && !JUDGED.contains(&extension.oid);
    match certificate.extensions().iter().find(unknown) {
        Some(extension) => Look::Broken(extension.oid.to_string()),
        None => Look::Kept("none".to_owned()),
    }
}

// A leaf

fn no_ca(certificate: &X509Certificate<'_>) -> Look {
    match basic_constraints(certificate) {
        Some(constraints) if constraints.ca => Look::Broken("cA TRUE".to_owned()),
        Some(_) => Look::Kept("cA FALSE".to_owned()),
        None => Look::Kept("no basicConstraints, which means FALSE (RFC 5280 4.2.1.9)".to_owned()),
    }
}

fn no_path_length(certificate: &X509Certificate<'_>) -> Look {
    match basic_constraints(certificate) {
        Some(constraints) if constraints.path_len_constraint.is_some() => {
            Look::Broken("a pathLenConstraint".to_owned())
        }
        _ => Look::Kept("none".to_owned()),
    }
}

fn no_name_constraints(certificate: &X509Certificate<'_>) -> Look {
    let constrains = extension(certificate, &OID_X509_EXT_NAME_CONSTRAINTS).is_some();
    judged(!constrains, if constrains { "nameConstraints in a leaf" } else { "none" })
}

fn has_key_usage(certificate: &X509Certificate<'_>) -> Look {
    match key_usage(certificate) {
        Some((usage, _)) => Look::Kept(format!("keyUsage {}", print_usage(usage))),
        None => Look::Broken("none".to_owned()),
    }
}

fn key_usage_is_critical(certificate: &X509Certificate<'_>) -> Look {
    let Some((_, critical)) = key_usage(certificate) else { return Look::Absent };
    judged(critical, if critical { "critical" } else { "one that is not critical" })
}

fn signs_nothing(certificate: &X509Certificate<'_>) -> Look {
    let Some((usage, _)) = key_usage(certificate) else { return Look::Absent };
    judged(!usage.key_cert_sign() && !usage.crl_sign(), format_args!("keyUsage {}", print_usage(usage)))
}

fn has_digital_signature(certificate: &X509Certificate<'_>) -> Look {
    let Some((usage, _)) = key_usage(certificate) else { return Look::Absent };
    judged(usage.digital_signature(), format_args!("keyUsage {}", print_usage(usage)))
}

/// Every workload both calls and answers, so extendedKeyUsage, where it is there at all, allows both.
fn both_directions(certificate: &X509Certificate<'_>) -> Look {
    match extension(certificate, &OID_X509_EXT_EXTENDED_KEY_USAGE).map(X509Extension::parsed_extension) {
        Some(ParsedExtension::ExtendedKeyUsage(usage)) => match (usage.server_auth, usage.client_auth) {
            (true, true) => Look::Kept("both".to_owned()),
            (true, false) => Look::Broken("serverAuth only".to_owned()),
            (false, true) => Look::Broken("clientAuth only".to_owned()),
            (false, false) => Look::Broken("neither".to_owned()),
        },
        _ => Look::Absent,
    }
}

fn names_readable(certificate: &X509Certificate<'_>) -> Look {
    match uri_names(certificate) {
        Ok(_) => Look::Kept("all".to_owned()),
        Err(fault) => Look::Broken(fault),
    }
}

fn one_uri(certificate: &X509Certificate<'_>) -> Look {
    let Ok(uris) = uri_names(certificate) else { return Look::Absent };
    match *uris.as_slice() {
        [uri] => Look::Kept(uri.to_owned()),
        _ => Look::Broken(format!("{} URIs", uris.len())),
    }
}

/// RFC 5280 4.1.2.6 asks for the same; Istio, Go and rcgen all mark it so.
fn names_are_critical(certificate: &X509Certificate<'_>) -> Look {
    let Some(names) = extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME) else { return Look::Absent };
    let empty = certificate.subject().iter().next().is_none();
    match (names.critical, empty) {
        (true, _) => Look::Kept("critical".to_owned()),
        (false, false) => Look::Kept(format!("not critical, and a subject, {}", certificate.subject())),
        (false, true) => {
            Look::Broken("an empty subject and a subjectAltName that is not critical".to_owned())
        }
    }
}

fn has_path(certificate: &X509Certificate<'_>) -> Look {
    let Some(uri) = sole_uri(certificate) else { return Look::Absent };
    judged(TrustDomain::of_signer(uri).is_err(), uri)
}

fn is_spiffe_id(certificate: &X509Certificate<'_>) -> Look {
    let Some(uri) = sole_uri(certificate) else { return Look::Absent };
    match uri.parse::<SpiffeId>() {
        Ok(id) => Look::Kept(id.to_string()),
        Err(error) => Look::Broken(error.to_string()),
    }
}

fn short_serial(certificate: &X509Certificate<'_>) -> Look {
    const MAX_OCTETS: usize = 20;
    let octets = serial_octets(certificate).count();
    judged(octets <= MAX_OCTETS, format_args!("{octets} octets"))
}

// A SPIFFE ID

/// A URI cut where RFC 3986 3 cuts it: scheme, authority, path, and what a query or fragment begins with.
struct Uri<'u> {
    scheme: &'u str,
    authority: &'u str,
    path: &'u str,
    rest: &'u str,
}

fn cut(uri: &str) -> Option<Uri<'_>> {
    let (scheme, behind) = uri.split_once("://")?;
    let (hierarchy, rest) = behind.split_at_checked(behind.find(['?', '#']).unwrap_or(behind.len()))?;
    let (authority, path) = hierarchy.split_at_checked(hierarchy.find('/').unwrap_or(hierarchy.len()))?;
    Some(Uri { scheme, authority, path, rest })
}

fn of_uri(certificate: &X509Certificate<'_>, look: fn(&Uri<'_>) -> Look) -> Look {
    sole_uri(certificate).and_then(cut).map_or(Look::Absent, |uri| look(&uri))
}

fn scheme(certificate: &X509Certificate<'_>) -> Look {
    let Some(uri) = sole_uri(certificate) else { return Look::Absent };
    match cut(uri) {
        Some(Uri { scheme, .. }) => judged(scheme == "spiffe", format_args!("{scheme:?}")),
        None => Look::Broken("no scheme with an authority behind it".to_owned()),
    }
}

fn no_query(certificate: &X509Certificate<'_>) -> Look {
    of_uri(certificate, |uri| match uri.rest {
        "" => Look::Kept("none".to_owned()),
        rest => Look::Broken(format!("{rest:?}")),
    })
}

fn trust_domain(certificate: &X509Certificate<'_>) -> Look {
    of_uri(certificate, |uri| {
        judged(uri.authority.parse::<TrustDomain>().is_ok(), format_args!("{:?}", uri.authority))
    })
}

fn path(certificate: &X509Certificate<'_>) -> Look {
    of_uri(certificate, |uri| {
        let Some(path) = uri.path.strip_prefix('/') else { return Look::Absent };
        let good = |segment: &str| {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            !["", ".", ".."].contains(&segment) && segment.bytes().all(letters)
        };
        match path.split('/').find(|segment| !good(segment)) {
            None => Look::Kept(uri.path.to_owned()),
            Some(segment) => Look::Broken(format!("the segment {segment:?}")),
        }
    })
}

fn length(certificate: &X509Certificate<'_>) -> Look {
    let Some(uri) = sole_uri(certificate) else { return Look::Absent };
    judged(uri.len() <= MAX_ID_LENGTH, format_args!("{} bytes", uri.len()))
}

// A signing certificate

fn is_ca(certificate: &X509Certificate<'_>) -> Look {
    let is_ca = basic_constraints(certificate).is_some_and(|constraints| constraints.ca);
    judged(is_ca, if is_ca { "cA TRUE" } else { "no cA TRUE" })
}

fn signs(certificate: &X509Certificate<'_>) -> Look {
    let Some((usage, _)) = key_usage(certificate) else { return Look::Absent };
    judged(usage.key_cert_sign(), format_args!("keyUsage {}", print_usage(usage)))
}

/// Finds URI names with a walk of its own: x509-parser drops subtrees that it cannot read.
fn no_uri_constraints(certificate: &X509Certificate<'_>) -> Look {
    match constrains_uris(certificate) {
        Ok(false) => Look::Kept("none".to_owned()),
        Ok(true) => Look::Broken("one on URIs".to_owned()),
        Err(SvidError { seen, .. }) => Look::Broken(seen),
    }
}

fn constrains_uris(certificate: &X509Certificate<'_>) -> Result<bool, SvidError> {
    const URI: u32 = 6;
    let Some(constraints) = extension(certificate, &OID_X509_EXT_NAME_CONSTRAINTS) else {
        return Ok(false);
    };
    for subtrees in elements(sole_element(constraints.value)?.data)? {
        for subtree in elements(subtrees.data)? {
            let base = elements(subtree.data)?.into_iter().next();
            let is_other_than_uri =
                base.is_some_and(|base| base.class() == Class::ContextSpecific && base.tag() != Tag(URI));
            if !is_other_than_uri {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A signing certificate need not have a SPIFFE ID, and its other URIs mean nothing (X509-SVID 3.2).
fn one_signer_id(certificate: &X509Certificate<'_>) -> Look {
    let Ok(uris) = uri_names(certificate) else { return Look::Absent };
    if !uris.iter().any(|uri| spiffe::claims_spiffe_scheme(uri)) {
        return Look::Absent;
    }
    match *uris.as_slice() {
        [uri] => Look::Kept(uri.to_owned()),
        _ => Look::Broken(format!("{} URIs", uris.len())),
    }
}

fn signer_id(certificate: &X509Certificate<'_>) -> Look {
    let Some(uri) = sole_uri(certificate).filter(|uri| spiffe::claims_spiffe_scheme(uri)) else {
        return Look::Absent;
    };
    match TrustDomain::of_signer(uri) {
        Ok(_) => Look::Kept(uri.to_owned()),
        Err(error) => Look::Broken(error.to_string()),
    }
}
