use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn id(text: &str) -> Result<SpiffeId, SpiffeIdError> {
    text.parse()
}

#[rstest]
#[case("spiffe://cluster.local/ns/default/sa/backend")]
#[case("spiffe://a/b")]
#[case("spiffe://10.0.0.1/x")]
#[case("spiffe://td_1-2.example/Path_With-Case.And...dots/...")]
fn req_02_an_id_of_the_standard_is_accepted_and_printed_as_it_was(#[case] text: &str) {
    assert_eq!(id(text).unwrap().to_string(), text);
}

#[rstest]
#[case::empty("")]
#[case::no_scheme("cluster.local/ns/a")]
#[case::other_scheme("https://cluster.local/a")]
#[case::scheme_alone("spiffe://")]
#[case::one_slash("spiffe:/cluster.local/a")]
#[case::no_trust_domain("spiffe:///a")]
#[case::userinfo("spiffe://user@td/a")]
#[case::empty_userinfo("spiffe://@td/a")]
#[case::port("spiffe://td:80/a")]
#[case::empty_port("spiffe://td:/a")]
#[case::ipv6("spiffe://[::1]/a")]
#[case::query("spiffe://td/a?b=c")]
#[case::empty_query("spiffe://td/a?")]
#[case::query_without_path("spiffe://td?a/b")]
#[case::fragment("spiffe://td/a#b")]
#[case::empty_fragment("spiffe://td/a#")]
#[case::fragment_without_path("spiffe://td#a/b")]
#[case::no_path("spiffe://td")]
#[case::root_path("spiffe://td/")]
#[case::empty_segment("spiffe://td/a//b")]
#[case::empty_first_segment("spiffe://td//a")]
#[case::trailing_slash("spiffe://td/a/")]
#[case::dot("spiffe://td/./a")]
#[case::dot_at_the_end("spiffe://td/a/.")]
#[case::dot_dot("spiffe://td/a/../b")]
#[case::percent("spiffe://td/a%2fb")]
#[case::percent_in_trust_domain("spiffe://t%64/a")]
#[case::plus("spiffe://td/a+b")]
#[case::tilde("spiffe://td/~a")]
#[case::backslash("spiffe://td/a\\b")]
#[case::space("spiffe://td/a b")]
#[case::leading_space(" spiffe://td/a")]
#[case::trailing_space("spiffe://td/a ")]
#[case::two_schemes("spiffe://spiffe://td/a")]
fn req_02_anything_else_is_refused(#[case] text: &str) {
    assert!(id(text).is_err());
}

#[rstest]
#[case::scheme("SPIFFE://td/a")]
#[case::scheme_mixed("Spiffe://td/a")]
#[case::trust_domain("spiffe://TD/a")]
#[case::trust_domain_mixed("spiffe://Td.Example/a")]
fn req_02_another_case_is_never_a_second_identity(#[case] text: &str) {
    let error = id(text).unwrap_err().to_string();
    assert!(error.contains("lower-case"), "{error}");
}

#[test]
fn req_02_the_path_is_case_sensitive_and_never_normalised() {
    assert_ne!(id("spiffe://td/a").unwrap(), id("spiffe://td/A").unwrap());
}

#[rstest]
#[case::nul_in_path("spiffe://td/a\0b")]
#[case::nul_at_the_end("spiffe://td/a\0")]
#[case::nul_in_trust_domain("spiffe://td\0.evil/a")]
#[case::newline("spiffe://td/a\n")]
#[case::carriage_return("spiffe://td/a\r")]
#[case::tab("spiffe://td/a\tb")]
#[case::delete("spiffe://td/a\x7f")]
#[case::eight_bit("spiffe://td/ä")]
#[case::eight_bit_trust_domain("spiffe://tä/a")]
#[case::kelvin_sign("spiffe://td/\u{212a}")]
#[case::fullwidth_slash("spiffe://td\u{ff0f}a")]
fn req_03_control_and_eight_bit_characters_are_refused(#[case] text: &str) {
    assert!(id(text).is_err());
}

#[test]
fn req_03_exactly_2048_bytes_are_accepted_and_one_more_is_not() {
    let longest = format!("spiffe://td/{}", "a".repeat(MAX_ID_LENGTH - "spiffe://td/".len()));
    assert_eq!(longest.len(), 2048);
    assert_eq!(id(&longest).unwrap().as_str(), longest);
    let error = id(&(longest + "a")).unwrap_err().to_string();
    assert!(error.contains("2049 bytes") && error.len() < 400, "{error}");
}

#[test]
fn req_02_a_trust_domain_has_1_to_255_bytes() {
    let longest = "a".repeat(255);
    assert_eq!(longest.parse::<TrustDomain>().unwrap().as_str(), longest);
    assert!("a".repeat(256).parse::<TrustDomain>().is_err());
    assert!(id(&format!("spiffe://{}/a", "a".repeat(256))).is_err());
}

#[rstest]
#[case::empty("")]
#[case::whole_id("spiffe://td/x")]
#[case::id_without_path("spiffe://td")]
#[case::upper_case("Cluster.Local")]
#[case::path("td/x")]
#[case::port("td:80")]
#[case::userinfo("a@td")]
#[case::query("td?")]
#[case::fragment("td#")]
#[case::percent("t%64")]
#[case::space("t d")]
#[case::newline("td\n")]
#[case::nul("td\0")]
#[case::eight_bit("tä")]
fn req_02_a_trust_domain_is_a_bare_lower_case_name(#[case] text: &str) {
    assert!(text.parse::<TrustDomain>().is_err());
}

#[test]
fn an_error_names_the_text_the_fault_and_the_cure() {
    assert_eq!(
        id("spiffe://Cluster.local/a").unwrap_err().to_string(),
        "\"spiffe://Cluster.local/a\" is not a SPIFFE ID: scheme and trust domain must be lower-case (SPIFFE-ID 2.1); \
         write spiffe://cluster.local/a"
    );
    assert_eq!(
        "spiffe://td/x".parse::<TrustDomain>().unwrap_err().to_string(),
        "\"spiffe://td/x\" is not a trust domain: it must be a lower-case name without scheme or path \
         (SPIFFE-ID 2.1); write td"
    );
}

#[test]
fn an_error_prints_no_control_character_of_the_text() {
    let error = id("spiffe://td/\n\x1b[31m").unwrap_err().to_string();
    assert!(!error.contains(char::is_control), "{error:?}");
}

#[test]
fn a_service_account_has_istios_form() {
    let td = "cluster.local".parse().unwrap();
    let id = SpiffeId::of_service_account(&td, "default", "backend").unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/default/sa/backend");
    assert_eq!(id.principal(), "cluster.local/ns/default/sa/backend");
    assert_eq!((id.namespace(), id.service_account()), (Some("default"), Some("backend")));
    assert_eq!(id.trust_domain(), td);
}

#[rstest]
#[case("", "backend")]
#[case("default", "")]
#[case("..", "backend")]
#[case("a/b", "backend")]
#[case("default", "a b")]
#[case("default", "sa/x")]
fn a_service_account_that_would_change_the_path_is_refused(#[case] namespace: &str, #[case] account: &str) {
    assert!(SpiffeId::of_service_account(&"td".parse().unwrap(), namespace, account).is_err());
}

#[rstest]
#[case("spiffe://td/ns/a/sa/b", Some(("a", "b")))]
#[case("spiffe://td/ns/sa/sa/sa", Some(("sa", "sa")))]
#[case("spiffe://td/ns/a/sa/b/c", None)]
#[case("spiffe://td/ns/a/b/sa/c", None)]
#[case("spiffe://td/x/ns/a/sa/b", None)]
#[case("spiffe://td/NS/a/sa/b", None)]
#[case("spiffe://td/ns/a/sa", None)]
#[case("spiffe://td/ns/sa/b", None)]
#[case("spiffe://td/payments/mysql", None)]
fn namespace_and_service_account_come_from_istios_form_only(
    #[case] text: &str,
    #[case] parts: Option<(&str, &str)>,
) {
    let id = id(text).unwrap();
    assert_eq!(id.namespace().zip(id.service_account()), parts);
}

#[test]
fn json_holds_the_printed_form_and_refuses_others() {
    let id = id("spiffe://td/a").unwrap();
    let json = serde_json::to_string(&(&id, id.trust_domain())).unwrap();
    assert_eq!(json, r#"["spiffe://td/a","td"]"#);
    assert_eq!(
        serde_json::from_str::<(SpiffeId, TrustDomain)>(&json).unwrap(),
        (id.clone(), id.trust_domain())
    );
    assert!(serde_json::from_str::<SpiffeId>(r#""spiffe://TD/a""#).is_err());
    assert!(serde_json::from_str::<TrustDomain>(r#""spiffe://td""#).is_err());
}

#[rstest]
#[case("spiffe://td", true)]
#[case("spiffe://td/", false)]
#[case("spiffe://td/ca", false)]
#[case("spiffe://TD", false)]
#[case("https://td", false)]
fn a_signers_id_has_no_path(#[case] text: &str, #[case] accepted: bool) {
    assert_eq!(TrustDomain::of_signer(text).is_ok(), accepted);
}

#[test]
fn the_uri_of_a_trust_domain_is_a_signers_id() {
    let td: TrustDomain = "cluster.local".parse().unwrap();
    assert_eq!(td.uri(), "spiffe://cluster.local");
    assert_eq!(TrustDomain::of_signer(&td.uri()), Ok(td));
}

/// The standard's grammar, written a second time and in another way.
fn is_id_by_the_letter(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else { return false };
    let mut parts = rest.split('/');
    let name = parts.next().unwrap_or_default();
    let segments: Vec<&str> = parts.collect();
    let in_name = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    let in_segment = |c: char| in_name(c) || c.is_ascii_uppercase();
    (1..=255).contains(&name.len())
        && name.chars().all(in_name)
        && !segments.is_empty()
        && segments.iter().all(|s| !["", ".", ".."].contains(s) && s.chars().all(in_segment))
        && text.len() <= 2048
}

proptest! {
    #[test]
    fn req_02_what_is_parsed_prints_as_it_was(text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){1,6}") {
        let id = id(&text).unwrap();
        prop_assert_eq!(id.as_str(), &text);
        prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
    }

    #[test]
    fn req_02_nearly_an_id_is_judged_by_the_letter(text in "([sS]piffe://|spiffe:/{0,3})[a-cA./%@:?#\\x00 ]{0,9}(/[a-cA./%?#\\xe4]{0,4}){0,4}") {
        prop_assert_eq!(id(&text).is_ok(), is_id_by_the_letter(&text));
    }

    #[test]
    fn req_02_arbitrary_text_never_panics(text in any::<String>()) {
        prop_assert_eq!(id(&text).is_ok(), is_id_by_the_letter(&text));
        prop_assert_eq!(id(&format!("spiffe://{text}")).is_ok(), is_id_by_the_letter(&format!("spiffe://{text}")));
        if let Ok(name) = text.parse::<TrustDomain>() {
            prop_assert_eq!(name.as_str(), &text);
        }
        let _ = (TrustDomain::of_signer(&text), claims_spiffe_scheme(&text));
    }
}
