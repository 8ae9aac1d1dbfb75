//! Certificates that must be refused, each by the name of what is wrong with it.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints,
};
use rustls_pki_types::CertificateDer;

use crate::authority::{Held, TestCa, after, before, dns_san, uri_san, valid_between};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// One thing that is wrong with an otherwise good chain under the right root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The leaf expired an hour ago.
    Expired,
    /// The leaf begins in an hour.
    NotYetValid,
    /// The intermediate expired an hour ago, the leaf is valid.
    IntermediateExpired,
    /// Signed by a root that is in nobody's bundle.
    OtherRoot,
    /// Signed by such a root, which has the very subject of the right one.
    OtherRootOfSameName,
    /// The right root signed an identity of another trust domain.
    OtherTrustDomain,
    /// Two URI SANs.
    TwoUriSans,
    /// The same URI SAN twice.
    SameUriTwice,
    /// A DNS SAN and no URI SAN.
    DnsSanOnly,
    /// The URI SAN is no SPIFFE ID.
    UriIsNoSpiffeId,
    /// The SPIFFE ID has no path: it names the trust domain, not a workload.
    NoPath,
    /// A signing certificate is presented as the leaf.
    CaAsLeaf,
    /// The leaf may sign certificates.
    KeyCertSign,
    /// The leaf may sign revocation lists.
    CrlSign,
    /// No keyUsage.
    NoKeyUsage,
    /// keyUsage is not critical.
    KeyUsageNotCritical,
    /// keyUsage without digitalSignature.
    NoDigitalSignature,
    /// EKU for servers only.
    ServerAuthOnly,
    /// EKU for clients only.
    ClientAuthOnly,
    /// EKU for neither.
    CodeSigningOnly,
    /// An unknown critical extension.
    UnknownCriticalExtension,
    /// The same extension twice.
    DuplicateExtension,
    /// Two intermediates under one whose pathLen is 0.
    PathLength,
    /// An intermediate without cA.
    SignerIsNoCa,
    /// An intermediate without keyCertSign.
    SignerWithoutKeyCertSign,
    /// A workload's leaf was used to sign another identity.
    SignedByLeaf,
    /// An intermediate with a URI name constraint.
    UriNameConstraint,
    /// An intermediate whose SPIFFE ID has a path.
    SignerWithPath,
    /// Bytes behind the leaf.
    TrailingBytes,
    /// A bit of the leaf's signature is turned.
    SignatureTampered,
    /// Outer and inner signature algorithm differ.
    AlgorithmMismatch,
    /// The leaf is not DER at all.
    NotDer,
}

impl Defect {
    /// Every defect.
    pub const ALL: &'static [Defect] = &[
        Defect::Expired,
        Defect::NotYetValid,
        Defect::IntermediateExpired,
        Defect::OtherRoot,
        Defect::OtherRootOfSameName,
        Defect::OtherTrustDomain,
        Defect::TwoUriSans,
        Defect::SameUriTwice,
        Defect::DnsSanOnly,
        Defect::UriIsNoSpiffeId,
        Defect::NoPath,
        Defect::CaAsLeaf,
        Defect::KeyCertSign,
        Defect::CrlSign,
        Defect::NoKeyUsage,
        Defect::KeyUsageNotCritical,
        Defect::NoDigitalSignature,
        Defect::ServerAuthOnly,
        Defect::ClientAuthOnly,
        Defect::CodeSigningOnly,
        Defect::UnknownCriticalExtension,
        Defect::DuplicateExtension,
        Defect::PathLength,
        Defect::SignerIsNoCa,
        Defect::SignerWithoutKeyCertSign,
        Defect::SignedByLeaf,
        Defect::UriNameConstraint,
        Defect::SignerWithPath,
        Defect::TrailingBytes,
        Defect::SignatureTampered,
        Defect::AlgorithmMismatch,
        Defect::NotDer,
    ];
}

/// What a workload named `id` would present with this defect, under `root` where the defect does not say otherwise.
#[must_use]
pub fn issue(root: &TestCa, id: &str, defect: Defect) -> Held {
    match defect {
        Defect::Expired => root.issue_with(id, |p| valid_between(p, before(DAY), before(HOUR))),
        Defect::NotYetValid => root.issue_with(id, |p| valid_between(p, after(HOUR), after(DAY))),
        Defect::IntermediateExpired => {
            root.intermediate_with("expired", |p| valid_between(p, before(DAY), before(HOUR))).issue(id)
        }
        Defect::OtherRoot => TestCa::root("a stranger").issue(id),
        Defect::OtherRootOfSameName => TestCa::root(root.name()).issue(id),
        Defect::OtherTrustDomain => root.issue("spiffe://other.domain/ns/default/sa/client"),
        Defect::TwoUriSans => {
            root.issue_with(id, |p| p.subject_alt_names.push(uri_san("spiffe://cluster.local/x")))
        }
        Defect::SameUriTwice => root.issue_with(id, |p| p.subject_alt_names.push(uri_san(id))),
        Defect::DnsSanOnly => root.issue_with(id, |p| p.subject_alt_names = vec![dns_san("backend.default")]),
        Defect::UriIsNoSpiffeId => root.issue("https://cluster.local/ns/default/sa/client"),
        Defect::NoPath => root.issue("spiffe://cluster.local"),
        Defect::CaAsLeaf => root.issue_with(id, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Defect::KeyCertSign => root.issue_with(id, |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        Defect::CrlSign => root.issue_with(id, |p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        Defect::NoKeyUsage => root.issue_with(id, |p| p.key_usages.clear()),
        Defect::KeyUsageNotCritical => root.issue_with(id, |p| {
            p.key_usages.clear();
            p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]));
        }),
        Defect::NoDigitalSignature => {
            root.issue_with(id, |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment])
        }
        Defect::ServerAuthOnly => root.issue_with(id, only(ExtendedKeyUsagePurpose::ServerAuth)),
        Defect::ClientAuthOnly => root.issue_with(id, only(ExtendedKeyUsagePurpose::ClientAuth)),
        Defect::CodeSigningOnly => root.issue_with(id, only(ExtendedKeyUsagePurpose::CodeSigning)),
        Defect::UnknownCriticalExtension => root.issue_with(id, |p| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            p.custom_extensions.push(extension);
        }),
        Defect::DuplicateExtension => root.issue_with(id, |p| {
            let extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            p.custom_extensions.extend([extension.clone(), extension]);
        }),
        Defect::PathLength => root
            .intermediate_with("last", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))
            .intermediate("one too many")
            .issue(id),
        Defect::SignerIsNoCa => root.intermediate_with("no CA", |p| p.is_ca = IsCa::ExplicitNoCa).issue(id),
        Defect::SignerWithoutKeyCertSign => root
            .intermediate_with("may not sign", |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature])
            .issue(id),
        Defect::SignedByLeaf => root
            .intermediate_with("a workload", |p| {
                p.is_ca = IsCa::ExplicitNoCa;
                p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                p.subject_alt_names = vec![uri_san("spiffe://cluster.local/ns/default/sa/mallory")];
            })
            .issue(id),
        Defect::UriNameConstraint => {
            root.intermediate_with("constrained", permit_uri("allowed.domain")).issue(id)
        }
        Defect::SignerWithPath => root
            .intermediate_with("with a path", |p| {
                p.subject_alt_names = vec![uri_san("spiffe://cluster.local/ns/default/sa/ca")];
            })
            .issue(id),
        Defect::TrailingBytes => with_leaf_bytes(root.issue(id), |der| der.extend([0, 0])),
        Defect::SignatureTampered => with_leaf_bytes(root.issue(id), |der| {
            if let Some(last) = der.last_mut() {
                *last ^= 1;
            }
        }),
        Defect::AlgorithmMismatch => {
            with_leaf_bytes(root.issue(id), |der| outer_algorithm_of_another_hash(der))
        }
        Defect::NotDer => with_leaf_bytes(root.issue(id), |der| *der = b"no certificate at all".to_vec()),
    }
}

fn only(purpose: ExtendedKeyUsagePurpose) -> impl FnOnce(&mut rcgen::CertificateParams) {
    move |params| params.extended_key_usages = vec![purpose]
}

/// A name constraint on URIs, which rcgen cannot write: `permittedSubtrees [0] { base [6] host }`.
pub fn permit_uri(host: &'static str) -> impl FnOnce(&mut rcgen::CertificateParams) {
    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("a short length");
        [&[tag, length], content].concat()
    }
    move |params| {
        let subtree = tagged(0x30, &tagged(0x86, host.as_bytes()));
        let content = tagged(0x30, &tagged(0xa0, &subtree));
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    }
}

/// A constraint on DNS names only, which says nothing of a URI: must *not* be refused for it.
pub fn permit_dns(host: &str) -> impl FnOnce(&mut rcgen::CertificateParams) {
    let host = host.to_owned();
    move |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(host)],
            excluded_subtrees: vec![],
        });
    }
}

fn with_leaf_bytes(mut held: Held, change: impl FnOnce(&mut Vec<u8>)) -> Held {
    let mut der = held.chain[0].to_vec();
    change(&mut der);
    held.chain[0] = CertificateDer::from(der);
    held
}

/// Turns the last `ecdsa-with-SHA256` (1.2.840.10045.4.3.2), which is the outer one, into SHA384 (…4.3.3).
fn outer_algorithm_of_another_hash(der: &mut [u8]) {
    const ECDSA_WITH: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let at =
        der.windows(ECDSA_WITH.len()).rposition(|window| window == ECDSA_WITH).expect("an ECDSA signature");
    der[at + ECDSA_WITH.len()] = 3;
}
