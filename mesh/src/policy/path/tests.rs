use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn path(text: &str) -> Result<String, Refused> {
    normalize(text).map(|normal| normal.path().to_owned())
}

/// Every spelling that has been used to get past a policy on paths: the judge sees what the app will.
#[rstest]
#[case::as_it_is("/admin", "/admin")]
#[case::root("/", "/")]
#[case::slash_at_the_end_is_kept("/admin/", "/admin/")]
#[case::double_slash("//admin", "/admin")]
#[case::double_slash_within("/public//admin", "/public/admin")]
#[case::many_slashes("/public/////admin//", "/public/admin/")]
#[case::dot("/./admin", "/admin")]
#[case::dot_within("/public/./admin", "/public/admin")]
#[case::dot_at_the_end("/admin/.", "/admin/")]
#[case::up("/public/../admin", "/admin")]
#[case::up_at_the_end("/admin/users/..", "/admin/")]
#[case::up_at_the_end_to_the_root("/admin/..", "/")]
#[case::never_above_the_root("/../../admin", "/admin")]
#[case::up_over_a_double_slash("/public//../admin", "/admin")]
#[case::encoded_slash("/public%2Fadmin", "/public/admin")]
#[case::encoded_slash_lower("/public%2fadmin", "/public/admin")]
#[case::encoded_slash_merged("/%2Fadmin", "/admin")]
#[case::encoded_backslash("/public%5Cadmin", "/public/admin")]
#[case::encoded_backslash_lower("/public%5cadmin", "/public/admin")]
#[case::backslash("/public\\admin", "/public/admin")]
#[case::up_by_backslashes("/public\\..\\admin", "/admin")]
#[case::encoded_dots("/public/%2e%2e/admin", "/admin")]
#[case::encoded_dots_upper("/public/%2E%2E/admin", "/admin")]
#[case::half_encoded_dots("/public/.%2e/admin", "/admin")]
#[case::all_encoded("/public%2f%2e%2e%2fadmin", "/admin")]
#[case::up_through_an_encoded_backslash("/public/..%5cadmin", "/admin")]
#[case::encoded_letter("/%61dmin", "/admin")]
#[case::encoded_letters("/%41%64%6D%69n", "/Admin")]
#[case::encoded_tilde("/%7Euser", "/~user")]
#[case::case_is_kept("/Admin", "/Admin")]
#[case::hex_digits_in_one_case("/a%3ab", "/a%3Ab")]
#[case::decoded_once("/%2561dmin", "/%2561dmin")]
#[case::slash_encoded_twice("/public%252fadmin", "/public%252fadmin")]
#[case::dots_encoded_twice("/public/%252e%252e/admin", "/public/%252e%252e/admin")]
#[case::not_allowed_raw("/a|b\"c", "/a%7Cb%22c")]
#[case::not_allowed_encoded("/a%7cb%22c", "/a%7Cb%22c")]
#[case::not_ascii("/ä", "/%C3%A4")]
#[case::not_ascii_encoded("/%c3%a4", "/%C3%A4")]
#[case::overlong_slash_is_no_slash("/a%c0%afb", "/a%C0%AFb")]
#[case::three_dots("/a/.../b", "/a/.../b")]
#[case::dots_in_a_name("/a/..b/b..", "/a/..b/b..")]
#[case::path_parameter("/admin;x=1/users", "/admin;x=1/users")]
#[case::three_dots_with_parameter("/...;/a", "/...;/a")]
#[case::reserved_characters("/a!$&'()*+,;=:@b", "/a!$&'()*+,;=:@b")]
#[case::encoded_reserved_characters("/a%2Cb", "/a%2Cb")]
#[case::the_server_as_a_whole("*", "*")]
fn a_path_has_one_spelling(#[case] written: &str, #[case] expected: &str) {
    assert_eq!(path(written), Ok(expected.to_owned()));
    assert_eq!(path(expected), Ok(expected.to_owned()), "once more");
}

#[rstest]
#[case::nothing("", Refused::NoPath)]
#[case::relative("admin", Refused::NoPath)]
#[case::authority("example.com:443", Refused::NoPath)]
#[case::absolute("http://example.com/admin", Refused::NoPath)]
#[case::backslash_first("\\admin", Refused::NoPath)]
#[case::encoded_slash_first("%2fadmin", Refused::NoPath)]
#[case::query_alone("?a=b", Refused::NoPath)]
#[case::server_and_more("*/admin", Refused::NoPath)]
#[case::dot_segment_with_parameter("/public/..;/admin", Refused::DotParameters)]
#[case::dot_segment_with_named_parameter("/public/..;a=b/admin", Refused::DotParameters)]
#[case::single_dot_with_parameter("/.;/admin", Refused::DotParameters)]
#[case::encoded_dots_with_parameter("/public/%2e%2e;/admin", Refused::DotParameters)]
#[case::dots_with_encoded_parameter("/public/..%3b/admin", Refused::DotParameters)]
#[case::at_the_end("/public/..;", Refused::DotParameters)]
#[case::nul("/admin%00", Refused::Nul)]
#[case::escape_cut("/a%", Refused::Escape)]
#[case::escape_half("/a%2", Refused::Escape)]
#[case::escape_no_hex("/a%zz", Refused::Escape)]
#[case::escape_of_an_escape("/a%%32%66b", Refused::Escape)]
#[case::escape_with_sign("/a%+2", Refused::Escape)]
#[case::fragment("/admin#/public", Refused::Fragment)]
#[case::fragment_in_the_query("/admin?a#b", Refused::Fragment)]
#[case::space("/ad min", Refused::Control)]
#[case::line("/admin\r\nX: y", Refused::Control)]
#[case::tab("/admin\t", Refused::Control)]
#[case::delete("/admin\u{7f}", Refused::Control)]
fn a_path_with_two_readings_is_refused(#[case] written: &str, #[case] expected: Refused) {
    assert_eq!(path(written), Err(expected));
}

#[rstest]
#[case("/a?b=c", "/a", Some("b=c"))]
#[case::a_second_mark("/a?b=c?d", "/a", Some("b=c?d"))]
#[case::a_path_in_the_query("/a?x=/../%2e%2e/..;/%zz\\", "/a", Some("x=/../%2e%2e/..;/%zz\\"))]
#[case::empty("/a?", "/a", Some(""))]
#[case::an_encoded_mark_is_no_query("/a%3Fb", "/a%3Fb", None)]
#[case::normalized_before("/x//a%2e?//", "/x/a.", Some("//"))]
fn the_query_is_kept_as_it_came(#[case] written: &str, #[case] path: &str, #[case] query: Option<&str>) {
    let normal = normalize(written).unwrap();
    assert_eq!((normal.path(), normal.query()), (path, query));
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    assert_eq!(normal.path_and_query(), whole);
}

#[rstest]
#[case("/foo/{*}", "/foo/bar", true)]
#[case("/foo/{*}", "/foo/bar/baz", false)]
#[case("/foo/{*}", "/foo/", false)]
#[case("/foo/{*}", "/foo", false)]
#[case("/foo/{*}", "/foo/bar/", false)]
#[case("/foo/{*}/", "/foo/bar/", true)]
#[case("/foo/{*}/", "/foo/bar", false)]
#[case("/{*}", "/foo", true)]
#[case("/{*}", "/", false)]
#[case("/{*}/{*}", "/a/b", true)]
#[case("/{*}/{*}", "/a", false)]
#[case("/{*}/b/{*}", "/a/b/c", true)]
#[case("/{*}/b/{*}", "/a/x/c", false)]
#[case("/foo/{**}", "/foo/", true)]
#[case("/foo/{**}", "/foo/a", true)]
#[case("/foo/{**}", "/foo/a/b/", true)]
#[case("/foo/{**}", "/foo", false)]
#[case("/foo/{**}", "/foobar", false)]
#[case("/{**}", "/", true)]
#[case("/{**}", "/a/b", true)]
#[case("/foo/{**}/bar", "/foo/a/bar", true)]
#[case("/foo/{**}/bar", "/foo/a/b/bar", true)]
#[case("/foo/{**}/bar", "/foo/bar", false)]
#[case("/foo/{**}/bar", "/foo/a/bar/b", false)]
#[case("/foo/{**}/bar", "/foo/a/xbar", false)]
#[case("/foo/{**}/", "/foo/bar/", true)]
#[case("/foo/{**}/", "/foo/a/b/", true)]
#[case("/foo/{**}/", "/foo/bar", false)]
#[case("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true)]
#[case("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz", true)]
#[case("/foo/{*}/bar/{**}", "/foo/buzz/bar", false)]
#[case::case_matters("/Foo/{*}", "/foo/a", false)]
#[case::a_dot_is_a_dot("/a.b/{*}", "/axb/c", false)]
fn a_template_matches_segments(#[case] template: &str, #[case] path: &str, #[case] expected: bool) {
    let parsed = Template::parse(template).unwrap();
    assert_eq!(parsed.matches(path), expected);
    assert_eq!(parsed.to_string(), template);
}

#[rstest]
#[case("foo/{*}")]
#[case("/*/baz/{*}")]
#[case("/**/baz/{*}")]
#[case("/{**}/foo/{*}")]
#[case("/{**}/{**}")]
#[case("/foo/{*}.txt")]
#[case("/foo/{a}/{*}")]
#[case("/foo//{*}")]
#[case("/{*}/a*")]
fn a_template_that_istio_refuses_is_refused(#[case] template: &str) {
    assert!(Template::is_meant(template) && Template::parse(template).is_err());
}

/// Pieces that paths are confused with.
fn confusing_path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "//", ".", "..", "...", "%2f", "%2F", "%5c", "\\", "%2e", "%2E", "%25", "%", "%00", "a", "B",
        "%61", "%7c", "|", "ä", "%C3%A4", ";", "%3b", ";x=1", "~", "%7E", "?", "@", ":", "%3a",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// Goes through a path by its bytes, decoding as an app might, and gives the segments that it ends at.
fn as_a_lenient_app_reads(path: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

proptest! {
    #[test]
    fn normalizing_twice_is_normalizing_once(written in confusing_path()) {
        if let Ok(normal) = normalize(&written) {
            prop_assert_eq!(normalize(normal.path_and_query()), Ok(normal.clone()));
        }
    }

    /// What is sent on has nothing in it that an app could still walk up, merge or cut.
    #[test]
    fn nothing_is_left_to_resolve(written in confusing_path()) {
        if let Ok(normal) = normalize(&written) {
            let decoded = as_a_lenient_app_reads(normal.path());
            prop_assert!(normal.path().is_ascii() && normal.path().starts_with('/'));
            prop_assert!(!decoded.contains(&b'\\') && !decoded.contains(&0), "{}", normal.path());
            let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'/').count();
            prop_assert_eq!(slashes(&decoded), slashes(normal.path().as_bytes()));
            let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
            for (number, segment) in segments.iter().enumerate() {
                let name = segment.split(|byte| *byte == b';').next().unwrap();
                prop_assert!(name != b"." && name != b"..", "{}", normal.path());
                prop_assert!(!segment.is_empty() || number == 0 || number == segments.len() - 1);
            }
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "\\PC*") {
        let _ = normalize(&text);
    }
}
