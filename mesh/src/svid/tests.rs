use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use rstest::rstest;

use super::*;

const ID: &str = "spiffe://cluster.local/ns/default/sa/backend";
const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const EXTENDED_KEY_USAGE: [u64; 4] = [2, 5, 29, 37];
const SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];
const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];

/// Tags of GeneralName (RFC 5280 4.2.1.6): its kind, context-specific.
const OTHER_NAME: u8 = 0xa0;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const DIRECTORY: u8 = 0xa4;
const URI: u8 = 0x86;

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

/// What pillion-ca issues, changed by `change`. Self-signed: signatures are not looked at here.
fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params.self_signed(&*KEY).unwrap().der().to_vec()
}

/// A root, changed by `change`.
fn signer(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    leaf(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "pillion");
        params.subject_alt_names = vec![uri("spiffe://cluster.local")];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![];
        change(params);
    })
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// Replaces what rcgen would write for `oid` by `content`.
fn write_by_hand(params: &mut CertificateParams, oid: [u64; 4], critical: bool, content: Vec<u8>) {
    match oid {
        KEY_USAGE => params.key_usages.clear(),
        EXTENDED_KEY_USAGE => params.extended_key_usages.clear(),
        SUBJECT_ALT_NAME => params.subject_alt_names.clear(),
        BASIC_CONSTRAINTS => params.is_ca = IsCa::NoCa,
        _ => {}
    }
    let mut extension = CustomExtension::from_oid_content(&oid, content);
    extension.set_criticality(critical);
    params.custom_extensions.push(extension);
}

/// One DER value.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let header = match u8::try_from(length) {
        Ok(short @ ..0x80) => vec![tag, short],
        Ok(long) => vec![tag, 0x81, long],
        Err(_) => [&[tag, 0x82], u16::try_from(length).unwrap().to_be_bytes().as_slice()].concat(),
    };
    [header, content.to_vec()].concat()
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    sequence(&names.iter().map(|(tag, content)| tlv(*tag, content)).collect::<Vec<_>>())
}

/// A leaf whose subjectAltName holds these names.
fn leaf_named(list: &[(u8, &[u8])]) -> Vec<u8> {
    leaf(|params| write_by_hand(params, SUBJECT_ALT_NAME, true, names(list)))
}

#[track_caller]
fn assert_broken<T: std::fmt::Debug>(checked: Result<T, SvidError>, clause: &str, seen: &str) {
    let error = checked.expect_err("a rule is broken");
    assert_eq!(error.clause, clause, "{error}");
    assert!(error.seen.contains(seen), "{error}");
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

// Leaves that keep every rule

#[test]
fn a_leaf_of_our_profile_is_accepted() {
    let svid = check_leaf(&leaf(|params| {
        params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xff, 0x00]));
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2060, 3, 4);
    }));
    let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    let expected = Svid {
        id: ID.parse().unwrap(),
        serial: "0aff00".to_owned(),
        not_before: day(20_455),
        not_after: day(32_935),
    };
    assert_eq!(svid, Ok(expected));
}

#[rstest]
#[case::no_basic_constraints(|p: &mut CertificateParams| p.is_ca = IsCa::NoCa)]
#[case::no_extended_key_usage(|p: &mut CertificateParams| p.extended_key_usages.clear())]
#[case::more_extended_key_usages(|p: &mut CertificateParams| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning))]
#[case::key_encipherment_and_agreement(|p: &mut CertificateParams| p.key_usages.extend([KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]))]
#[case::other_kinds_of_names(|p: &mut CertificateParams| p.subject_alt_names.extend([dns("backend"), SanType::IpAddress("10.0.0.1".parse().unwrap())]))]
#[case::subject_and_san_not_critical(|p: &mut CertificateParams| p.distinguished_name.push(DnType::CommonName, "backend"))]
#[case::unknown_extension_not_critical(|p: &mut CertificateParams| p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![1])))]
#[case::authority_key_identifier(|p: &mut CertificateParams| p.use_authority_key_identifier_extension = true)]
fn a_leaf_within_the_standard_is_accepted(#[case] change: fn(&mut CertificateParams)) {
    assert_eq!(check_leaf(&leaf(change)).map(|svid| svid.id.to_string()), Ok(ID.to_owned()));
}

#[rstest]
#[case(vec![0], "00")]
#[case(vec![0x01], "01")]
#[case(vec![0x8f; 20], "8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f8f")]
fn a_serial_number_is_printed_as_openssl_prints_it(#[case] serial: Vec<u8>, #[case] printed: &str) {
    let der = leaf(|params| params.serial_number = Some(SerialNumber::from(serial)));
    assert_eq!(check_leaf(&der).unwrap().serial, printed);
}

// Requirement 1: exactly one URI SAN

#[rstest]
#[case::none(&[], "0 URIs")]
#[case::two(&[(URI, ID), (URI, "spiffe://cluster.local/x")], "2 URIs")]
#[case::the_same_twice(&[(URI, ID), (URI, ID)], "2 URIs")]
#[case::one_of_another_scheme(&[(URI, ID), (URI, "https://example.org")], "2 URIs")]
#[case::with_a_dns_name_between(&[(URI, ID), (DNS, "a"), (URI, ID)], "2 URIs")]
fn req_01_exactly_one_uri_san(#[case] list: &[(u8, &str)], #[case] seen: &str) {
    let list: Vec<(u8, &[u8])> = list.iter().map(|(tag, text)| (*tag, text.as_bytes())).collect();
    assert_broken(check_leaf(&leaf_named(&list)), "X509-SVID 2", seen);
}

#[test]
fn req_01_no_subject_alt_name_at_all() {
    assert_broken(check_leaf(&leaf(|params| params.subject_alt_names.clear())), "X509-SVID 2", "0 URIs");
}

// Requirements 2 and 3: the ID by the letter

#[rstest]
#[case::other_scheme(b"https://cluster.local/a")]
#[case::upper_case_scheme(b"SPIFFE://cluster.local/a")]
#[case::upper_case_trust_domain(b"spiffe://Cluster.local/a")]
#[case::trailing_slash(b"spiffe://cluster.local/a/")]
#[case::root_slash(b"spiffe://cluster.local/")]
#[case::dots(b"spiffe://cluster.local/a/../b")]
#[case::percent(b"spiffe://cluster.local/a%2fb")]
#[case::empty_query(b"spiffe://cluster.local/a?")]
#[case::empty(b"")]
#[case::nul(b"spiffe://cluster.local/ns/default/sa/backend\0.evil")]
#[case::newline(b"spiffe://cluster.local/a\n")]
#[case::utf8("spiffe://cluster.local/ä".as_bytes())]
fn req_02_req_03_a_uri_that_is_no_spiffe_id_is_refused(#[case] text: &[u8]) {
    assert_broken(check_leaf(&leaf_named(&[(URI, text)])), "SPIFFE-ID 2", "is not a SPIFFE ID");
}

#[test]
fn req_02_the_id_of_a_leaf_has_a_path() {
    let der = leaf_named(&[(URI, b"spiffe://cluster.local")]);
    assert_broken(check_leaf(&der), "X509-SVID 3.1", "spiffe://cluster.local");
}

#[test]
fn req_03_an_id_of_2048_bytes_is_accepted_and_one_more_is_refused() {
    let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
    assert_eq!(check_leaf(&leaf_named(&[(URI, longest.as_bytes())])).unwrap().id.as_str(), longest);
    assert_broken(check_leaf(&leaf_named(&[(URI, (longest + "a").as_bytes())])), "SPIFFE-ID 2", "2049 bytes");
}

// Requirement 4: only the URI type counts

#[rstest]
#[case::dns(DNS)]
#[case::email(EMAIL)]
fn req_04_an_id_in_a_name_of_another_type_is_no_identity(#[case] tag: u8) {
    assert_broken(check_leaf(&leaf_named(&[(tag, ID.as_bytes())])), "X509-SVID 2", "0 URIs");
}

#[test]
fn req_04_an_id_in_an_other_name_is_no_identity() {
    let other_name = [tlv(0x06, &[0x2a, 3]), tlv(0xa0, &tlv(0x16, ID.as_bytes()))].concat();
    assert_broken(check_leaf(&leaf_named(&[(OTHER_NAME, &other_name)])), "X509-SVID 2", "0 URIs");
}

#[test]
fn req_04_an_id_in_the_common_name_is_no_identity() {
    let der = leaf(|params| {
        params.distinguished_name.push(DnType::CommonName, ID);
        params.subject_alt_names = vec![dns("backend")];
    });
    assert_broken(check_leaf(&der), "X509-SVID 2", "0 URIs");
}

// Requirement 6: a leaf that may only prove who it is

#[rstest]
#[case::ca(|p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "X509-SVID 4.1", "cA TRUE")]
#[case::path_length(|p: &mut CertificateParams| write_by_hand(p, BASIC_CONSTRAINTS, true, sequence(&[tlv(2, &[0])])), "RFC 5280 4.2.1.9", "pathLenConstraint")]
#[case::no_key_usage(|p: &mut CertificateParams| p.key_usages.clear(), "X509-SVID 4.3", "none")]
#[case::key_usage_not_critical(|p: &mut CertificateParams| write_by_hand(p, KEY_USAGE, false, vec![3, 2, 7, 0x80]), "X509-SVID 4.3", "not critical")]
#[case::no_digital_signature(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment], "X509-SVID 4.3", "Key Encipherment")]
#[case::no_usage_at_all(|p: &mut CertificateParams| write_by_hand(p, KEY_USAGE, true, vec![3, 1, 0]), "X509-SVID 4.3", "without any bit")]
#[case::key_cert_sign(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "X509-SVID 4.3", "Key Cert Sign")]
#[case::crl_sign(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::CrlSign), "X509-SVID 4.3", "CRL Sign")]
#[case::name_constraints(|p: &mut CertificateParams| write_by_hand(p, NAME_CONSTRAINTS, false, sequence(&[tlv(0xa0, &names(&[(DNS, b"a")]))])), "RFC 5280 4.2.1.10", "nameConstraints")]
fn req_06_a_leaf_may_sign_handshakes_and_nothing_else(
    #[case] change: fn(&mut CertificateParams),
    #[case] clause: &str,
    #[case] seen: &str,
) {
    assert_broken(check_leaf(&leaf(change)), clause, seen);
}

// Requirement 7: the purpose fits both directions

#[rstest]
#[case::server_only(&[ExtendedKeyUsagePurpose::ServerAuth], "serverAuth only")]
#[case::client_only(&[ExtendedKeyUsagePurpose::ClientAuth], "clientAuth only")]
#[case::code_signing(&[ExtendedKeyUsagePurpose::CodeSigning], "neither")]
#[case::any_is_not_named_by_the_standard(&[ExtendedKeyUsagePurpose::Any], "neither")]
fn req_07_extended_key_usage_fits_both_directions(
    #[case] usages: &[ExtendedKeyUsagePurpose],
    #[case] seen: &str,
) {
    assert_broken(
        check_leaf(&leaf(|params| params.extended_key_usages = usages.to_vec())),
        "X509-SVID 4.4",
        seen,
    );
}

// Requirement 9: an identity that cannot be read is an error

#[rstest]
#[case::uri_of_invalid_utf8(URI, b"spiffe://td/\xff")]
#[case::dns_of_invalid_utf8(DNS, b"\xff")]
#[case::directory_name(DIRECTORY, b"\x30\x05")]
#[case::unknown_kind(0x8b, b"a")]
fn req_09_a_name_that_cannot_be_read_is_an_error(#[case] tag: u8, #[case] content: &[u8]) {
    assert_broken(check_leaf(&leaf_named(&[(tag, content)])), "RFC 5280 4.2.1.6", "malformed");
    assert_broken(
        check_leaf(&leaf_named(&[(URI, ID.as_bytes()), (tag, content)])),
        "RFC 5280 4.2.1.6",
        "malformed",
    );
}

#[rstest]
#[case::cut_short(vec![0x30, 0x20, URI, 0x02, b'a'])]
#[case::no_sequence(tlv(0x04, ID.as_bytes()))]
#[case::name_of_no_context_tag(sequence(&[tlv(0x0c, ID.as_bytes())]))]
fn req_09_a_subject_alt_name_that_cannot_be_read_is_an_error(#[case] content: Vec<u8>) {
    let der = leaf(|params| write_by_hand(params, SUBJECT_ALT_NAME, true, content));
    assert!(check_leaf(&der).is_err_and(|error| error.clause.starts_with("RFC 5280 4")));
}

// Requirement 12: strict DER, each extension once

#[test]
fn req_12_the_subject_alt_name_is_critical_where_the_subject_is_empty() {
    let der = leaf(|params| write_by_hand(params, SUBJECT_ALT_NAME, false, names(&[(URI, ID.as_bytes())])));
    assert_broken(check_leaf(&der), "X509-SVID 3.1", "not critical");
}

#[rstest]
#[case::key_usage(KEY_USAGE, vec![3, 2, 7, 0x80])]
#[case::extended_key_usage(EXTENDED_KEY_USAGE, sequence(&[tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 1]), tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 2])]))]
#[case::subject_alt_name(SUBJECT_ALT_NAME, names(&[(URI, ID.as_bytes())]))]
#[case::basic_constraints(BASIC_CONSTRAINTS, sequence(&[]))]
#[case::unknown([1, 2, 3, 4], vec![5, 0])]
fn req_12_no_extension_twice(#[case] oid: [u64; 4], #[case] content: Vec<u8>) {
    let once = leaf(|params| write_by_hand(params, oid, oid != [1, 2, 3, 4], content.clone()));
    assert!(check_leaf(&once).is_ok(), "once is fine");
    let twice = leaf(|params| {
        write_by_hand(params, oid, oid != [1, 2, 3, 4], content.clone());
        write_by_hand(params, oid, oid != [1, 2, 3, 4], content);
    });
    assert_broken(check_leaf(&twice), "RFC 5280 4.2", "twice");
}

#[rstest]
#[case::unknown([1, 2, 3, 4], vec![5, 0])]
#[case::certificate_policies([2, 5, 29, 32], sequence(&[sequence(&[tlv(6, &[0x2a, 3])])]))]
fn req_12_no_critical_extension_that_is_not_judged(#[case] oid: [u64; 4], #[case] content: Vec<u8>) {
    assert!(check_leaf(&leaf(|params| write_by_hand(params, oid, false, content.clone()))).is_ok());
    let der = leaf(|params| write_by_hand(params, oid, true, content));
    assert_broken(check_leaf(&der), "RFC 5280 4.2", ".");
}

#[rstest]
#[case::key_usage(KEY_USAGE, vec![3, 2, 7, 0x80])]
#[case::extended_key_usage(EXTENDED_KEY_USAGE, sequence(&[tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 1]), tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 2])]))]
#[case::subject_alt_name(SUBJECT_ALT_NAME, names(&[(URI, ID.as_bytes())]))]
#[case::basic_constraints(BASIC_CONSTRAINTS, sequence(&[]))]
fn req_12_no_byte_behind_the_value_of_an_extension(#[case] oid: [u64; 4], #[case] content: Vec<u8>) {
    let der = leaf(|params| write_by_hand(params, oid, true, [content, vec![5, 0]].concat()));
    assert_broken(check_leaf(&der), "RFC 5280 4.1", "bytes behind");
}

#[rstest]
#[case::key_usage(KEY_USAGE)]
#[case::extended_key_usage(EXTENDED_KEY_USAGE)]
#[case::basic_constraints(BASIC_CONSTRAINTS)]
fn req_12_no_malformed_extension_is_taken_for_an_absent_one(#[case] oid: [u64; 4]) {
    let der = leaf(|params| write_by_hand(params, oid, true, tlv(0x0c, b"?")));
    assert_broken(check_leaf(&der), "RFC 5280 4.2", "malformed");
}

/// The fields of a structure.
fn parts(der: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = sole_element(der).unwrap().data;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (behind, _) = Any::from_der(rest).unwrap();
        parts.push(rest[..rest.len() - behind.len()].to_vec());
        rest = behind;
    }
    parts
}

/// The leaf with its signed part changed field by field: version, serial, algorithm, issuer, validity, subject, key,
/// extensions.
fn leaf_with_fields(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut certificate = parts(&leaf(|_| {}));
    let mut fields = parts(&certificate[0]);
    change(&mut fields);
    certificate[0] = sequence(&fields);
    sequence(&certificate)
}

/// The leaf with the first of its extensions changed part by part: OID, critical, value.
fn leaf_with_extension(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    leaf_with_fields(|fields| {
        let mut extensions = parts(&parts(&fields[7])[0]);
        let mut extension = parts(&extensions[0]);
        change(&mut extension);
        extensions[0] = sequence(&extension);
        fields[7] = tlv(0xa3, &sequence(&extensions));
    })
}

#[test]
fn req_12_taking_a_leaf_apart_and_putting_it_together_changes_nothing() {
    assert!(check_leaf(&leaf_with_fields(|_| {})).is_ok());
    assert!(check_leaf(&leaf_with_extension(|extension| assert_eq!(extension.len(), 3))).is_ok());
}

#[test]
fn req_12_nothing_stands_behind_the_certificate() {
    assert_broken(check_leaf(&[leaf(|_| {}), vec![0]].concat()), "RFC 5280 4.1", "1 bytes");
    assert_broken(check_leaf(&[leaf(|_| {}), leaf(|_| {})].concat()), "RFC 5280 4.1", "bytes");
}

#[rstest]
#[case::behind_the_extensions(leaf_with_fields(|fields| fields.push(tlv(5, &[]))))]
#[case::extensions_twice(leaf_with_fields(|fields| fields.push(fields[7].clone())))]
#[case::behind_the_list_of_extensions(leaf_with_fields(|fields| fields[7] = tlv(0xa3, &[parts(&fields[7])[0].clone(), tlv(5, &[])].concat())))]
#[case::within_an_extension(leaf_with_extension(|extension| extension.push(tlv(5, &[]))))]
#[case::true_that_is_not_ff(leaf_with_extension(|extension| extension[1] = tlv(1, &[1])))]
#[case::default_written_out(leaf_with_extension(|extension| extension[1] = tlv(1, &[0])))]
#[case::behind_the_signature(sequence(&[parts(&leaf(|_| {})), vec![tlv(5, &[])]].concat()))]
#[case::length_not_in_its_shortest_form(leaf_with_extension(|extension| extension[1] = vec![1, 0x81, 1, 0xff]))]
fn req_12_nothing_hides_inside_the_certificate(#[case] der: Vec<u8>) {
    assert!(check_leaf(&der).is_err_and(|error| error.clause == "RFC 5280 4.1"), "{:?}", check_leaf(&der));
}

#[rstest]
#[case::version_1(0)]
#[case::version_2(1)]
#[case::version_4(3)]
fn req_12_a_certificate_has_version_3(#[case] version: u8) {
    let der = leaf_with_fields(|fields| fields[0] = tlv(0xa0, &tlv(2, &[version])));
    assert_broken(check_leaf(&der), "RFC 5280 4.1.2.1", "");
}

#[test]
fn req_12_the_inner_algorithm_equals_the_outer() {
    let ecdsa_with_sha384 = sequence(&[tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])]);
    let der = leaf_with_fields(|fields| fields[2] = ecdsa_with_sha384);
    assert_broken(check_leaf(&der), "RFC 5280 4.1.1.2", "two different ones");
}

#[test]
fn req_12_a_curve_is_given_by_name() {
    let der = leaf_with_fields(|fields| {
        let mut key = parts(&fields[6]);
        key[0] = sequence(&[parts(&key[0])[0].clone(), sequence(&[tlv(2, &[1])])]);
        fields[6] = sequence(&key);
    });
    assert_broken(check_leaf(&der), "RFC 5480 2.1.1", "written out");
}

#[test]
fn req_12_a_serial_number_has_at_most_20_octets() {
    let der = leaf(|params| params.serial_number = Some(SerialNumber::from(vec![1; 21])));
    assert_broken(check_leaf(&der), "RFC 5280 4.1.2.2", "21 octets");
}

#[test]
fn req_12_what_is_no_certificate_is_refused() {
    for der in [&b""[..], b"no certificate at all", &[0x30, 0x80, 0, 0], b"-----BEGIN CERTIFICATE-----"] {
        assert_broken(check_leaf(der), "RFC 5280 4.1", "");
        assert_broken(check_signer(der), "RFC 5280 4.1", "");
        assert_broken(validity(der), "RFC 5280 4.1", "");
    }
}

// Signing certificates

#[rstest]
#[case::our_root(|_: &mut CertificateParams| {})]
#[case::without_an_id(|p: &mut CertificateParams| p.subject_alt_names.clear())]
#[case::with_names_that_mean_nothing(|p: &mut CertificateParams| p.subject_alt_names = vec![dns("ca"), uri("https://ca.example/"), uri("http://a")])]
#[case::with_a_path_length(|p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))]
#[case::that_also_signs_handshakes(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::DigitalSignature))]
#[case::constrained_to_dns_names(|p: &mut CertificateParams| p.name_constraints = Some(NameConstraints { permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())], excluded_subtrees: vec![] }))]
fn a_signing_certificate_is_accepted(#[case] change: fn(&mut CertificateParams)) {
    assert_eq!(check_signer(&signer(change)), Ok(()));
}

#[rstest]
#[case::not_a_ca(|p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa, "X509-SVID 4.1", "no cA TRUE")]
#[case::no_basic_constraints(|p: &mut CertificateParams| p.is_ca = IsCa::NoCa, "X509-SVID 4.1", "no cA TRUE")]
#[case::no_key_usage(|p: &mut CertificateParams| p.key_usages.clear(), "X509-SVID 4.3", "none")]
#[case::no_key_cert_sign(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::CrlSign], "X509-SVID 4.3", "CRL Sign")]
#[case::key_usage_not_critical(|p: &mut CertificateParams| write_by_hand(p, KEY_USAGE, false, vec![3, 2, 2, 4]), "X509-SVID 4.3", "not critical")]
#[case::id_with_a_path(|p: &mut CertificateParams| p.subject_alt_names = vec![uri(ID)], "X509-SVID 3.2", "path")]
#[case::id_in_another_case(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("SPIFFE://td")], "X509-SVID 3.2", "lower-case")]
#[case::two_ids(|p: &mut CertificateParams| p.subject_alt_names.push(uri("spiffe://other")), "X509-SVID 2", "2 URIs")]
#[case::a_name_that_cannot_be_read(|p: &mut CertificateParams| write_by_hand(p, SUBJECT_ALT_NAME, true, names(&[(URI, b"\xff")])), "RFC 5280 4.2.1.6", "malformed")]
#[case::unknown_critical_extension(|p: &mut CertificateParams| write_by_hand(p, [1, 2, 3, 4], true, vec![5, 0]), "RFC 5280 4.2", "1.2.3.4")]
fn req_10_a_signing_certificate_that_breaks_a_rule_is_refused(
    #[case] change: fn(&mut CertificateParams),
    #[case] clause: &str,
    #[case] seen: &str,
) {
    assert_broken(check_signer(&signer(change)), clause, seen);
}

const PERMITTED: u8 = 0xa0;
const EXCLUDED: u8 = 0xa1;

fn subtrees(tag: u8, bases: &[(u8, &[u8])]) -> Vec<u8> {
    tlv(tag, &bases.iter().flat_map(|(kind, base)| sequence(&[tlv(*kind, base)])).collect::<Vec<u8>>())
}

#[rstest]
#[case::permitted(vec![subtrees(PERMITTED, &[(URI, b"td")])])]
#[case::excluded(vec![subtrees(EXCLUDED, &[(URI, b"td")])])]
#[case::behind_a_dns_name(vec![subtrees(PERMITTED, &[(DNS, b"a"), (URI, b"td")])])]
#[case::excluded_behind_permitted(vec![subtrees(PERMITTED, &[(DNS, b"a")]), subtrees(EXCLUDED, &[(URI, b"td")])])]
#[case::empty(vec![subtrees(PERMITTED, &[(URI, b"")])])]
#[case::invalid_utf8(vec![subtrees(PERMITTED, &[(URI, b"\xff")])])]
#[case::without_a_base(vec![tlv(PERMITTED, &sequence(&[]))])]
fn req_11_a_name_constraint_on_uris_is_refused_critical_or_not(#[case] constraints: Vec<Vec<u8>>) {
    for critical in [true, false] {
        let der = signer(|params| write_by_hand(params, NAME_CONSTRAINTS, critical, sequence(&constraints)));
        assert_broken(check_signer(&der), "RFC 5280 6.1.4 (g)", "URIs");
    }
}

#[test]
fn the_validity_of_a_trust_anchor_is_read_whatever_else_it_says() {
    let der = signer(|params| {
        params.key_usages.clear();
        params.not_before = rcgen::date_time_ymd(1970, 1, 2);
        params.not_after = rcgen::date_time_ymd(1970, 1, 3);
    });
    let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    assert_eq!(validity(&der), Ok((day(1), day(2))));
    assert_broken(validity(&[der, vec![0]].concat()), "RFC 5280 4.1", "1 bytes");
}

#[test]
fn an_error_reads_as_a_sentence_with_its_clause() {
    assert_eq!(
        check_leaf(&leaf(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)))
            .unwrap_err()
            .to_string(),
        "X509-SVID 4.3: a leaf has neither keyCertSign nor cRLSign in keyUsage; \
         seen: keyUsage Digital Signature, Key Cert Sign"
    );
}

// Clause by clause

/// The clauses that are broken.
fn broken_clauses(verdicts: &[Verdict]) -> Vec<&'static str> {
    let broken = verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Broken);
    broken.map(|verdict| verdict.clause).collect()
}

#[test]
fn a_good_leaf_keeps_every_clause_and_shows_what_it_has() {
    let verdicts = examine_leaf(&leaf(|_| {}));
    assert_eq!(broken_clauses(&verdicts), Vec::<&str>::new());
    let seen = |asks: &str| {
        let verdict = verdicts.iter().find(|verdict| verdict.asks.starts_with(asks));
        verdict.map(|verdict| verdict.seen.as_str())
    };
    assert_eq!(seen("exactly one URI"), Some(ID));
    assert_eq!(seen("a leaf has cA FALSE"), Some("cA FALSE"));
    assert_eq!(seen("a trust domain of"), Some("\"cluster.local\""));
    assert_eq!(seen("path segments"), Some("/ns/default/sa/backend"));
}

#[test]
fn what_is_not_there_is_neither_kept_nor_broken() {
    let verdicts = examine_leaf(&leaf(|params| params.key_usages.clear()));
    let usage: Vec<_> = verdicts.iter().filter(|verdict| verdict.clause == "X509-SVID 4.3").collect();
    let outcomes: Vec<_> = usage.iter().map(|verdict| verdict.outcome).collect();
    assert_eq!(outcomes, [Outcome::Broken, Outcome::Absent, Outcome::Absent, Outcome::Absent]);
}

#[test]
fn every_fault_of_a_certificate_is_told_at_once() {
    let der = leaf(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![uri(ID), uri(ID)];
    });
    let expected = ["X509-SVID 4.1", "X509-SVID 4.3", "X509-SVID 4.3", "X509-SVID 4.4", "X509-SVID 2"];
    assert_eq!(broken_clauses(&examine_leaf(&der)), expected);
}

#[rstest]
#[case::scheme("https://td/a", &["SPIFFE-ID 2", "SPIFFE-ID 2"])]
#[case::scheme_in_capitals("SPIFFE://td/a", &["SPIFFE-ID 2", "SPIFFE-ID 2"])]
#[case::no_authority("spiffe:td/a", &["SPIFFE-ID 2", "SPIFFE-ID 2"])]
#[case::query("spiffe://td/a?b", &["SPIFFE-ID 2", "SPIFFE-ID 2"])]
#[case::fragment("spiffe://td/a#", &["SPIFFE-ID 2", "SPIFFE-ID 2"])]
#[case::port("spiffe://td:80/a", &["SPIFFE-ID 2", "SPIFFE-ID 2.1"])]
#[case::user("spiffe://u@td/a", &["SPIFFE-ID 2", "SPIFFE-ID 2.1"])]
#[case::trust_domain_in_capitals("spiffe://TD/a", &["SPIFFE-ID 2", "SPIFFE-ID 2.1"])]
#[case::percent_in_path("spiffe://td/a%20b", &["SPIFFE-ID 2", "SPIFFE-ID 2.2"])]
#[case::dot_dot("spiffe://td/a/..", &["SPIFFE-ID 2", "SPIFFE-ID 2.2"])]
#[case::slash_at_the_end("spiffe://td/a/", &["SPIFFE-ID 2", "SPIFFE-ID 2.2"])]
#[case::no_path("spiffe://td", &["X509-SVID 3.1", "SPIFFE-ID 2"])]
#[case::two_faults("spiffe://td:80/a//b", &["SPIFFE-ID 2", "SPIFFE-ID 2.1", "SPIFFE-ID 2.2"])]
fn the_clause_of_an_id_that_is_none_is_found(#[case] text: &str, #[case] expected: &[&str]) {
    let der = leaf_named(&[(URI, text.as_bytes())]);
    assert_eq!(broken_clauses(&examine_leaf(&der)), expected);
}

#[test]
fn what_is_no_certificate_has_one_verdict() {
    let [verdict] = examine_leaf(b"no certificate").try_into().unwrap();
    assert_eq!((verdict.clause, verdict.outcome), ("RFC 5280 4.1", Outcome::Broken));
}

#[test]
fn a_certificate_is_called_by_its_names() {
    let names = super::names(&signer(|_| {})).unwrap();
    assert_eq!((names.subject.as_str(), names.signs), ("O=pillion", true));
    assert_eq!(names.uris, ["spiffe://cluster.local"]);
}

/// Who explains and who judges agree.
fn assert_agree(der: &[u8]) {
    let told = broken_clauses(&examine_leaf(der));
    assert_eq!(check_leaf(der).err().map(|error| error.clause), told.first().copied());
    let told = broken_clauses(&examine_signer(der));
    assert_eq!(check_signer(der).err().map(|error| error.clause), told.first().copied());
}

proptest! {
    #[test]
    fn a_leaf_is_refused_for_the_first_clause_that_is_told(
        scheme in prop::sample::select(vec!["spiffe://", "Spiffe://", "spiffe:/", "https://"]),
        authority in "[a-zA-Z0-9._:@-]{0,6}",
        path in "[a-z/.%?#_-]{0,8}",
    ) {
        let text = format!("{scheme}{authority}{path}");
        assert_agree(&leaf_named(&[(URI, text.as_bytes())]));
    }
}

// Whatever a stranger presents

proptest! {
    #[test]
    fn req_12_damaged_certificates_are_judged_without_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        is_signer in any::<bool>(),
    ) {
        static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| leaf(|_| {}));
        static SIGNER: LazyLock<Vec<u8>> = LazyLock::new(|| signer(|params| {
            write_by_hand(params, NAME_CONSTRAINTS, true, sequence(&[tlv(PERMITTED, &sequence(&[tlv(DNS, b"a")]))]));
        }));
        let mut der = if is_signer { SIGNER.clone() } else { LEAF.clone() };
        for (at, byte) in &damage {
            *at.get_mut(&mut der) = *byte;
        }
        let _ = (check_signer(&der), validity(&der), super::names(&der));
        assert_agree(&der);
        if let Ok(svid) = check_leaf(&der) {
            // No leaf is accepted with an ID that is not in it, as it stands.
            let id = svid.id.as_str().as_bytes();
            prop_assert!(der.windows(id.len()).any(|window| window == id));
        }
    }

    #[test]
    fn arbitrary_bytes_are_judged_without_panic(der in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (check_leaf(&der), check_signer(&der), validity(&der));
    }

    #[test]
    fn req_02_req_03_a_leaf_proves_the_very_text_of_its_uri(text in "(spiffe://[a-zA-B.]{1,8}(/[a-cA.%]{1,4}){0,3}|.{0,20})") {
        let checked = check_leaf(&leaf_named(&[(URI, text.as_bytes())]));
        prop_assert_eq!(checked.map(|svid| svid.id).ok(), text.parse::<SpiffeId>().ok());
    }
}
