use proptest::prelude::*;
use rstest::rstest;

use super::*;

#[rstest]
#[case("api.example.com", "api.example.com", None)]
#[case::case("API.Example.COM", "api.example.com", None)]
#[case::port("api.example.com:8080", "api.example.com", Some(8080))]
#[case::zeros_before_the_port("api.example.com:080", "api.example.com", Some(80))]
#[case::empty_port("api.example.com:", "api.example.com", None)]
#[case::dot_at_the_end("api.example.com.", "api.example.com", None)]
#[case::dot_at_the_end_with_port("Api.Example.com.:443", "api.example.com", Some(443))]
#[case::one_label("backend", "backend", None)]
#[case::compose("my_service-1:80", "my_service-1", Some(80))]
#[case::ipv4("10.0.0.1:80", "10.0.0.1", Some(80))]
#[case::ipv6("[2001:DB8::0:1]:80", "[2001:db8::1]", Some(80))]
#[case::ipv6_alone("[::1]", "[::1]", None)]
fn a_host_has_one_spelling(#[case] text: &str, #[case] name: &str, #[case] port: Option<u16>) {
    let host = Host::parse(text).unwrap();
    assert_eq!((host.name(), host.port()), (name, port));
    assert_eq!(host.as_str(), port.map_or(name.to_owned(), |port| format!("{name}:{port}")));
}

#[rstest]
#[case::nothing("")]
#[case::port_alone(":80")]
#[case::dot(".")]
#[case::two_dots_at_the_end("example.com..")]
#[case::empty_label("api..example.com")]
#[case::user("user@example.com")]
#[case::user_and_password("a:b@example.com")]
#[case::slash("example.com/admin")]
#[case::backslash("example.com\\admin")]
#[case::encoded("example%2ecom")]
#[case::space("example .com")]
#[case::two_hosts("example.com,other.com")]
#[case::port_too_large("example.com:65536")]
#[case::port_no_number("example.com:http")]
#[case::port_signed("example.com:+80")]
#[case::two_ports("example.com:80:80")]
#[case::ipv6_bare("::1")]
#[case::ipv6_open("[::1")]
#[case::ipv6_and_more("[::1]x")]
#[case::ipv6_zone("[fe80::1%25eth0]")]
#[case::not_ascii("exämple.com")]
#[case::control("example.com\r\n")]
#[case::star("*.example.com")]
fn what_is_no_host_is_refused(#[case] text: &str) {
    assert_eq!(Host::parse(text), Err(Refused::Host));
}

#[rstest]
#[case::field(None, &["a.com"], Ok("a.com"))]
#[case::authority(Some("a.com"), &[], Ok("a.com"))]
#[case::both_the_same(Some("a.com"), &["A.com."], Ok("a.com"))]
#[case::both_different(Some("a.com"), &["b.com"], Err(Refused::Hosts))]
#[case::another_port(Some("a.com:80"), &["a.com:81"], Err(Refused::Hosts))]
#[case::port_in_one(Some("a.com"), &["a.com:80"], Err(Refused::Hosts))]
#[case::two_fields(None, &["a.com", "a.com"], Err(Refused::Hosts))]
#[case::two_fields_and_authority(Some("a.com"), &["a.com", "b.com"], Err(Refused::Hosts))]
#[case::none(None, &[], Err(Refused::NoHost))]
#[case::empty_field(None, &[""], Err(Refused::Host))]
#[case::no_host_in_the_field(Some("a.com"), &["b.com/"], Err(Refused::Host))]
fn a_request_has_one_host(
    #[case] authority: Option<&str>,
    #[case] fields: &[&str],
    #[case] expected: Result<&str, Refused>,
) {
    let host = host(authority, fields.iter().copied());
    assert_eq!(host.as_ref().map(Host::as_str).map_err(|refused| *refused), expected);
}

#[rstest]
#[case::origin("/admin?a=b", None, "/admin?a=b")]
#[case::absolute("http://a.com/admin?a=b", Some("a.com"), "/admin?a=b")]
#[case::https("https://a.com:8443/admin", Some("a.com:8443"), "/admin")]
#[case::scheme_in_another_case("HTTP://a.com/admin", Some("a.com"), "/admin")]
#[case::no_path("http://a.com", Some("a.com"), "/")]
#[case::query_without_path("http://a.com?a=b", Some("a.com"), "/?a=b")]
#[case::user("http://a.com@b.com/", Some("a.com@b.com"), "/")]
#[case::backslash_in_the_authority("http://a.com\\@b.com/", Some("a.com\\@b.com"), "/")]
#[case::fragment("http://a.com#@b.com/", Some("a.com"), "/#@b.com/")]
#[case::a_path_like_a_url("/http://a.com/", None, "/http://a.com/")]
#[case::server("*", None, "*")]
#[case::authority_form("a.com:443", None, "a.com:443")]
#[case::another_scheme("ftp://a.com/admin", None, "ftp://a.com/admin")]
fn a_target_is_cut(#[case] target: &str, #[case] authority: Option<&str>, #[case] path: &str) {
    assert_eq!(split_target(target), (authority, Cow::Borrowed(path)));
}

#[rstest]
#[case("GET", true)]
#[case("M-SEARCH", true)]
#[case("get", false)]
#[case("DELETe", false)]
fn methods_are_upper_case(#[case] method: &str, #[case] expected: bool) {
    assert_eq!(check_method(method).is_ok(), expected);
}

proptest! {
    #[test]
    fn parsing_a_host_twice_is_parsing_it_once(text in "[a-zA-Z0-9.:\\[\\]_-]{0,20}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(host.as_str()), Ok(host.clone()));
        }
    }

    #[test]
    fn any_target_is_cut_without_panic(text in "\\PC*") {
        let _ = split_target(&text);
        let _ = Host::parse(&text);
    }
}
