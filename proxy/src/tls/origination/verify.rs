//! Judges the certificate of a server outside the mesh: the path to a root by `path`, revocation lists by webpki, and the
//! names that were wanted, of which it must hold one exactly. Names in the subject count for nothing (RFC 9525 2).

use std::sync::Arc;
use std::time::SystemTime;

use pillion_mesh::reason::Reason;
use pillion_mesh::wire::rfc3339;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use webpki::{CertRevocationList, EndEntityCert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::material::Roots;
use super::{LOCAL, Trust};
use crate::tls::clock::system_time;
use crate::tls::failure::{self, Role};
use crate::tls::path::{Fault, Names, PathSearch};
use crate::tls::revocations::{Revocations, is_foreign_list};
use crate::tls::verify::{ChainError, alert_for};
use crate::tls::{HandshakeError, provider};

/// How much of what a stranger's certificate says goes into a message: bytes of one name, and names.
const LONGEST: usize = 255;
const MOST: usize = 8;

/// Verifies the server of one connection.
#[derive(Debug)]
pub(super) struct OutsideVerifier {
    trust: Trust,
    names: Arc<[String]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OutsideVerifier {
    pub(super) fn new(trust: Trust, names: Arc<[String]>) -> Self {
        Self { trust, names, algorithms: provider().signature_verification_algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), ChainError> {
        let Trust::Roots { roots, revocations } = &self.trust else { return Ok(()) };
        let named = Leaf::read(leaf).map_err(|fault| ChainError::new(Reason::CertificateInvalid, fault))?;
        let revocations = revocations.as_deref();
        let lists: Vec<&CertRevocationList<'_>> =
            revocations.iter().flat_map(|revocations| &revocations.lists).collect();
        let search = PathSearch {
            algorithms: &self.algorithms,
            leaf,
            intermediates,
            now,
            holder: Role::Server,
            signer_fault,
            revocations: &lists,
            every_issuer_has_a_list: true,
        };
        search.run(&roots.all).map_err(|fault| named.explain(&fault, roots, revocations, now))?;
        match proved(leaf, &self.names) {
            Some(_name) => Ok(()),
            None => Err(named.unexpected(&self.names)),
        }
    }
}

/// The first of the wanted names that a leaf has: a DNS name or an address by the rules of the web (RFC 9525 6), a URI
/// byte for byte.
pub(super) fn proved<'w>(leaf: &CertificateDer<'_>, wanted: &'w [String]) -> Option<&'w str> {
    let leaf = EndEntityCert::try_from(leaf).ok()?;
    let proves = |wanted: &str| {
        if wanted.contains("://") {
            return leaf.valid_uri_names().any(|uri| uri.as_bytes() == wanted.as_bytes());
        }
        ServerName::try_from(wanted).is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    };
    wanted.iter().map(String::as_str).find(|wanted| proves(wanted))
}

/// What webpki does not ask of a signer: that its keyUsage, where it has one, lets it sign certificates.
fn signer_fault(der: &[u8]) -> Option<String> {
    let Ok((_, signer)) = X509Certificate::from_der(der) else {
        return Some("RFC 5280 4.1: it cannot be read".to_owned());
    };
    match signer.key_usage() {
        Ok(None) => None,
        Ok(Some(usage)) if usage.value.key_cert_sign() => None,
        _ => Some("RFC 5280 4.2.1.3: expected keyCertSign in keyUsage; seen: none".to_owned()),
    }
}

/// What a certificate says of itself, for messages and records.
pub(super) struct Leaf {
    /// Its subject, or the first name where it has none.
    pub(super) name: String,
    /// In lower-case hexadecimal.
    pub(super) serial: String,
    pub(super) validity: (SystemTime, SystemTime),
    pub(super) uris: Vec<String>,
    /// All names in subjectAltName.
    names: Vec<String>,
}

impl Leaf {
    /// # Errors
    /// Where it is no certificate, in words.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Leaf, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("it is no X.509 certificate: {error}"))?;
        let found = certificate.subject_alternative_name().ok().flatten();
        let found = found.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let names: Vec<String> = found.iter().filter_map(print).collect();
        let uris =
            found.iter().filter(|name| matches!(name, GeneralName::URI(_))).filter_map(print).collect();
        let subject = short(&certificate.subject().to_string());
        let name = match (subject.is_empty(), names.first()) {
            (false, _) => subject,
            (true, Some(first)) => first.clone(),
            (true, None) => "a certificate without a name".to_owned(),
        };
        let validity = certificate.validity();
        Ok(Leaf {
            name,
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            validity: (validity.not_before.to_datetime().into(), validity.not_after.to_datetime().into()),
            uris,
            names,
        })
    }

    /// Why there is no path that is not revoked.
    fn explain(
        &self,
        fault: &Fault<'_>,
        roots: &Roots,
        revocations: Option<&Revocations>,
        now: SystemTime,
    ) -> ChainError {
        if let (Fault::Path(error), Some(revocations)) = (fault, revocations)
            && let Some(error) = self.explain_revocation(error, revocations, now)
        {
            return error;
        }
        let names = Names {
            leaf: &self.name,
            serial: &self.serial,
            validity: self.validity,
            roots_of: &roots.whence,
            roots: &|| roots.list(),
            renewal: "give this proxy a valid root there",
        };
        names.explain(fault, now)
    }

    /// What revocation lists have to do with it, if anything.
    fn explain_revocation(
        &self,
        error: &webpki::Error,
        revocations: &Revocations,
        now: SystemTime,
    ) -> Option<ChainError> {
        let (name, file) = (&self.name, &revocations.whence);
        let unusable = |detail: String| Some(ChainError::new(Reason::TlsFilesUnusable, detail));
        match error {
            webpki::Error::CertRevoked => Some(ChainError::new(
                Reason::CertificateRevoked,
                format!("{name} (serial {}), or a signer of it, is on a list of {file}", self.serial),
            )),
            webpki::Error::CrlExpired { next_update, .. } => unusable(format!(
                "a list of {file} that has to tell of {name} was to be replaced by {}; our clock says {}: put a new one \
                 there",
                rfc3339::print(system_time(*next_update)),
                rfc3339::print(now)
            )),
            webpki::Error::UnknownRevocationStatus => unusable(format!(
                "{file} has no list by an issuer in the chain of {name}, so that nobody knows what it has revoked: add the \
                 lists of all issuers, the root's too"
            )),
            error if is_foreign_list(error) => unusable(format!(
                "a list of {file} that has to tell of {name} is not properly signed by its issuer ({error})"
            )),
            _ => None,
        }
    }

    fn unexpected(&self, wanted: &[String]) -> ChainError {
        let wanted = wanted.join(" or ");
        let (shown, more) = (self.names.iter().take(MOST), self.names.len().saturating_sub(MOST));
        let shown: Vec<&str> = shown.map(String::as_str).collect();
        let has = match (shown.is_empty(), more) {
            (true, _) => "no name at all (a subject does not count)".to_owned(),
            (false, 0) => shown.join(", "),
            (false, more) => format!("{} and {more} more", shown.join(", ")),
        };
        ChainError::new(
            Reason::ServerNameUnexpected,
            format!("{wanted} is wanted; the certificate of {} has {has}", self.name),
        )
    }
}

/// A name as a message shows it.
fn print(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            Some(short(name))
        }
        GeneralName::IPAddress(bytes) => Some(match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
            Err(_longer) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string(),
        }),
        _ => None,
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl ServerCertVerifier for OutsideVerifier {
    /// The name that rustls was given only went into SNI. In TLS 1.3 this runs before our own certificate is sent, so an
    /// impostor never sees it.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, system_time(now))
            .map(|()| ServerCertVerified::assertion())
            .map_err(|error| {
                let alert = alert_for(error.reason);
                let detail = format!("the server's certificate was refused by {LOCAL}: {}", error.detail);
                failure::remember(HandshakeError { reason: error.reason, detail });
                Error::InvalidCertificate(alert)
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
