//! Which names a certificate proves.

use pillion_testkit::authority::{dns_san, uri_san};
use proptest::prelude::*;
use rcgen::SanType;
use rstest::rstest;

use super::*;
use crate::tls::origination::verify::proved;

fn ip(text: &str) -> SanType {
    SanType::IpAddress(text.parse().unwrap())
}

#[rstest]
#[case::the_name(vec![dns_san("api.example.com")], "api.example.com", true)]
#[case::in_another_case(vec![dns_san("API.example.com")], "api.Example.com", true)]
#[case::one_of_several(vec![dns_san("x.example"), dns_san("api.example.com")], "api.example.com", true)]
#[case::a_name_of_compose(vec![dns_san("my_service")], "my_service", true)]
#[case::a_wildcard(vec![dns_san("*.example.com")], "api.example.com", true)]
#[case::a_wildcard_is_one_label(vec![dns_san("*.example.com")], "a.api.example.com", false)]
#[case::a_wildcard_is_not_its_parent(vec![dns_san("*.example.com")], "example.com", false)]
#[case::another_name(vec![dns_san("api.example.org")], "api.example.com", false)]
#[case::a_longer_name(vec![dns_san("api.example.com.evil.example")], "api.example.com", false)]
#[case::a_name_below(vec![dns_san("x.api.example.com")], "api.example.com", false)]
#[case::an_address(vec![ip("192.0.2.1")], "192.0.2.1", true)]
#[case::an_ipv6_address(vec![ip("2001:db8::1")], "2001:db8:0::1", true)]
#[case::another_address(vec![ip("192.0.2.2")], "192.0.2.1", false)]
#[case::an_address_as_a_name(vec![dns_san("192.0.2.1")], "192.0.2.1", false)]
#[case::a_uri(vec![uri_san("spiffe://other.mesh/ns/x/sa/y")], "spiffe://other.mesh/ns/x/sa/y", true)]
#[case::a_uri_in_another_case(vec![uri_san("spiffe://other.mesh/ns/x/sa/Y")], "spiffe://other.mesh/ns/x/sa/y", false)]
#[case::a_longer_uri(vec![uri_san("spiffe://other.mesh/ns/x/sa/y2")], "spiffe://other.mesh/ns/x/sa/y", false)]
#[case::a_uri_as_a_name(vec![dns_san("other.mesh")], "spiffe://other.mesh", false)]
#[case::a_name_as_a_uri(vec![uri_san("api.example.com")], "api.example.com", false)]
#[case::no_name(vec![], "api.example.com", false)]
fn a_certificate_proves_a_name(#[case] has: Vec<SanType>, #[case] wanted: &str, #[case] proves: bool) {
    let held = TestCa::root("root").issue_with("spiffe://unused/x", |leaf| {
        leaf.subject_alt_names = has;
        // A subject never counts.
        leaf.distinguished_name.push(rcgen::DnType::CommonName, wanted);
    });
    let wanted = [wanted.to_owned()];
    assert_eq!(proved(&held.chain[0], &wanted), proves.then(|| wanted[0].as_str()));
}

#[test]
fn of_several_wanted_names_the_first_that_is_proved_is_told() {
    let held = TestCa::root("root").issue_server(&["b.example", "c.example"]);
    let wanted = ["a.example", "c.example", "b.example"].map(str::to_owned);
    assert_eq!(proved(&held.chain[0], &wanted), Some("c.example"));
    assert_eq!(proved(&held.chain[0], &[]), None);
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_and_both_names_are_told() {
    let web = Web::new();
    let other = web.ca.issue_server(&["www.example.com", "*.example.org"]);
    let error = web.refused(&web.simple(), &other).await;
    assert_eq!(error.reason, Reason::ServerNameUnexpected);
    for part in ["api.example.com is wanted", "www.example.com, *.example.org"] {
        assert!(error.detail.contains(part), "{part} is missing in: {error}");
    }
}

#[tokio::test]
async fn a_name_in_the_subject_alone_is_none() {
    let web = Web::new();
    let by_subject = web.ca.issue_with("spiffe://unused/x", |leaf| {
        leaf.subject_alt_names.clear();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, HOST);
    });
    let error = web.refused(&web.simple(), &by_subject).await;
    assert_eq!(error.reason, Reason::ServerNameUnexpected);
    assert!(error.detail.contains("no name at all (a subject does not count)"), "{error}");
}

/// A certificate may name thousands; a message names a few.
#[tokio::test]
async fn a_message_does_not_repeat_all_that_a_stranger_calls_itself() {
    let web = Web::new();
    let names: Vec<String> = (0..200).map(|number| format!("host-{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = web.refused(&web.simple(), &web.ca.issue_server(&names)).await;
    assert!(error.detail.contains("host-0.example") && error.detail.contains("and 192 more"), "{error}");
    assert!(error.detail.len() < 1000, "{} bytes", error.detail.len());
}

proptest! {
    /// Whatever bytes a stranger or a file shows, they are read or refused.
    #[test]
    fn no_bytes_of_a_certificate_end_the_proxy(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        static LEAF: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            TestCa::root("root").issue_server(&["api.example.com", "*.example.org"]).chain[0].to_vec()
        });
        let mut bytes = LEAF.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let der = CertificateDer::from(bytes);
        let _ = proved(&der, &["api.example.com".to_owned(), "spiffe://x/y".to_owned()]);
        let _ = Leaf::read(&der);
        let _ = crate::tls::bundles::Root::read(der);
    }
}

/// As a DestinationRule says for a workload of another mesh.
#[tokio::test]
async fn a_server_is_known_by_the_spiffe_id_of_its_own_mesh() {
    const ID: &str = "spiffe://other.mesh/ns/shop/sa/customers";
    let web = Web::new();
    let config = || pillion_testkit::tls::outside_server(&web.ca.issue(ID), None);
    let (outcome, _) = web.dial_names(&web.simple(), config(), &["x.example", ID]).await;
    assert_eq!(outcome.unwrap().0.peer, ID);
    let other = "spiffe://other.mesh/ns/shop/sa/customer";
    let (outcome, _) = web.dial_names(&web.simple(), config(), &[other]).await;
    assert_eq!(outcome.map(|_| ()).unwrap_err().reason, Reason::ServerNameUnexpected);
}
