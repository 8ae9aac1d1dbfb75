//! Servers that are not believed, and in which words.

use pillion_testkit::authority::{self, Held, valid_between};
use pillion_testkit::tls::{TLS12, TLS13, outside_server_of_versions};
use rstest::rstest;

use super::*;

fn of_a_stranger(_web: &Web) -> Held {
    TestCa::root("a stranger").issue_server(&[HOST])
}

fn of_a_namesake(web: &Web) -> Held {
    TestCa::root(web.ca.name()).issue_server(&[HOST])
}

fn server_with(web: &Web, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Held {
    web.ca.issue_with("spiffe://unused/x", |leaf| {
        leaf.subject_alt_names = vec![authority::dns_san(HOST)];
        change(leaf);
    })
}

fn expired(web: &Web) -> Held {
    server_with(web, |leaf| valid_between(leaf, SystemTime::now() - days(9), SystemTime::now() - days(1)))
}

fn early(web: &Web) -> Held {
    server_with(web, |leaf| valid_between(leaf, SystemTime::now() + days(1), SystemTime::now() + days(9)))
}

fn for_clients_only(web: &Web) -> Held {
    server_with(web, |leaf| {
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    })
}

fn by_a_signer_that_may_not_sign(web: &Web) -> Held {
    web.ca
        .intermediate_with("no signer", |signer| {
            signer.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        })
        .issue_server(&[HOST])
}

fn by_a_leaf(web: &Web) -> Held {
    web.ca
        .intermediate_with("a server", |signer| {
            signer.is_ca = rcgen::IsCa::ExplicitNoCa;
            signer.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        })
        .issue_server(&[HOST])
}

/// Requirement 10 and 13 to 15 for servers outside the mesh: the path is validated, by the same code.
#[rstest]
#[case::of_another_root(of_a_stranger, Reason::CertificateUntrusted, "does not lead to a root of /")]
#[case::of_another_root_of_the_same_name(
    of_a_namesake,
    Reason::CertificateUntrusted,
    "not by the key of that name"
)]
#[case::expired(expired, Reason::CertificateExpired, "our clock says 20")]
#[case::not_yet_valid(early, Reason::CertificateNotYetValid, "is valid from 20")]
#[case::for_clients_only(for_clients_only, Reason::CertificateInvalid, "RFC 5280")]
#[case::by_a_signer_that_may_not_sign(
    by_a_signer_that_may_not_sign,
    Reason::CertificateInvalid,
    "keyCertSign"
)]
#[case::by_a_leaf(by_a_leaf, Reason::CertificateInvalid, "RFC 5280")]
#[tokio::test]
async fn req_10_a_server_outside_is_refused_that_is(
    #[case] server: fn(&Web) -> Held,
    #[case] reason: Reason,
    #[case] words: &str,
) {
    let web = Web::new();
    let server = server(&web);
    for versions in [TLS12, TLS13] {
        let (outcome, seen) =
            web.dial(&web.simple(), outside_server_of_versions(&server, None, versions)).await;
        let error = outcome.map(|_| ()).expect_err("it was believed");
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.detail.contains(words), "{words} is missing in: {error}");
        assert!(seen.is_err(), "it heard from the app");
    }
}

#[tokio::test]
async fn req_10_an_expired_root_vouches_for_no_server_outside() {
    let web = Web::new();
    let old = TestCa::root_with("old root", |root| {
        valid_between(root, SystemTime::now() - days(9), SystemTime::now() - days(1));
    });
    let how = Origination { ca_certificates: Some(web.write("old.pem", &old.bundle_pem())), ..web.simple() };
    let error = web.refused(&how, &old.issue_server(&[HOST])).await;
    assert_eq!(error.reason, Reason::CertificateUntrusted);
    assert!(error.detail.contains("leads only to root CN=old root of /"), "{error}");
    // Beside a valid one it hurts nobody.
    let both = old.bundle_pem() + &web.ca.bundle_pem();
    let how = Origination { ca_certificates: Some(web.write("both.pem", &both)), ..web.simple() };
    assert!(web.dial(&how, pillion_testkit::tls::outside_server(&web.server(), None)).await.0.is_ok());
}

/// As `openssl req -x509` without a CA makes it, and the rule names it itself.
#[tokio::test]
async fn a_self_signed_server_is_believed_where_it_is_its_own_root() {
    let web = Web::new();
    let server = TestCa::root_with("self-signed", |root| {
        root.is_ca = rcgen::IsCa::ExplicitNoCa;
        root.subject_alt_names = vec![authority::dns_san(HOST)];
        root.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    });
    let how =
        Origination { ca_certificates: Some(web.write("server.pem", &server.bundle_pem())), ..web.simple() };
    let held = server.own();
    let (outcome, _) = web.dial(&how, pillion_testkit::tls::outside_server(&held, None)).await;
    assert_eq!(outcome.unwrap().0.peer, HOST);
    assert_eq!(web.refused(&web.simple(), &held).await.reason, Reason::CertificateUntrusted);
}

/// What the revocation lists of a rule come to.
struct Lists {
    web: Web,
    between: TestCa,
    server: Held,
}

impl Lists {
    fn new() -> Self {
        let web = Web::new();
        let between = web.ca.intermediate("between");
        let server = between.issue_server(&[HOST]);
        Self { web, between, server }
    }

    /// Lists of the root and of the intermediate.
    fn of(&self, by_root: &[&CertificateDer<'_>], by_between: &[&CertificateDer<'_>]) -> String {
        self.web.ca.revocation_list(by_root, soon()) + &self.between.revocation_list(by_between, soon())
    }

    async fn outcome(&self, lists: &str) -> Result<(), HandshakeError> {
        let config = pillion_testkit::tls::outside_server(&self.server, None);
        self.web.dial(&self.web.with_lists(lists), config).await.0.map(|_| ())
    }

    async fn refused(&self, lists: &str, reason: Reason, words: &str) {
        let error = self.outcome(lists).await.expect_err("it was believed");
        assert_eq!(error.reason, reason, "{error}");
        assert!(error.detail.contains(words), "{words} is missing in: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_on_no_list_is_believed() {
    let lists = Lists::new();
    let other = lists.between.issue_server(&["other.example"]);
    lists.outcome(&lists.of(&[], &[&other.chain[0]])).await.unwrap();
}

#[tokio::test]
async fn a_revoked_leaf_is_refused() {
    let lists = Lists::new();
    let text = lists.of(&[], &[&lists.server.chain[0]]);
    lists.refused(&text, Reason::CertificateRevoked, "is on a list of /").await;
}

#[tokio::test]
async fn a_revoked_intermediate_is_refused() {
    let lists = Lists::new();
    let text = lists.of(&[lists.between.certificate()], &[]);
    lists.refused(&text, Reason::CertificateRevoked, "or a signer of it").await;
}

#[tokio::test]
async fn a_list_that_was_to_be_replaced_lets_nobody_in() {
    let lists = Lists::new();
    let yesterday = SystemTime::now() - days(1);
    let text = lists.web.ca.revocation_list(&[], soon()) + &lists.between.revocation_list(&[], yesterday);
    lists.refused(&text, Reason::TlsFilesUnusable, "was to be replaced by 20").await;
}

#[tokio::test]
async fn a_chain_of_which_an_issuer_has_no_list_is_refused() {
    let lists = Lists::new();
    for text in [lists.web.ca.revocation_list(&[], soon()), lists.between.revocation_list(&[], soon())] {
        lists.refused(&text, Reason::TlsFilesUnusable, "has no list by an issuer in the chain").await;
    }
}

#[tokio::test]
async fn a_list_by_a_namesake_of_the_issuer_counts_for_nothing() {
    let lists = Lists::new();
    let namesake = TestCa::root("between").revocation_list(&[], soon());
    let text = lists.web.ca.revocation_list(&[], soon()) + &namesake;
    lists.refused(&text, Reason::TlsFilesUnusable, "is not properly signed by its issuer").await;
}
