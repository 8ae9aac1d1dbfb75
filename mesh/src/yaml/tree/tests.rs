use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn again(text: &str) -> String {
    print(&read("a.yaml", text).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

#[rstest]
#[case::comments("# top\n\na: 1 # one\n\n# of b\nb:\n# first\n- x # right\n- y\n# end\n")]
#[case::in_one_line("a: [b, 'c d', {e: f}]\ng: {}\nh: []\ni:\n")]
#[case::words("a: 010\nb: yes\nc: '010'\nd: \"yes\"\ne: ~\nf: 0o17\n")]
#[case::blocks("a: |\n  one\n\n    two\nb: |-\n  no\n  end\nc: \"\\n\"\n")]
#[case::lists_of_maps("- a: 1\n  b:\n  - c: 2\n# note\n- d: 3\n- - e\n  - f\n")]
#[case::documents("a: 1\n---\nb: 2\n")]
fn what_is_written_our_way_stays_to_the_letter(#[case] text: &str) {
    assert_eq!(again(text), text);
}

#[rstest]
#[case("a: &x {b: 1}\nc: *x\n", "a: {b: 1}\nc: {b: 1}\n")]
#[case("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", "a: {b: 1, c: 2}\nd:\n  b: 1\n  c: 3\n")]
#[case(
    "a: &x {b: 1}\ne: &y {b: 2, c: 3}\nd: {<<: [*x, *y]}\n",
    "a: {b: 1}\ne: {b: 2, c: 3}\nd: {b: 1, c: 3}\n"
)]
#[case("a:\n    - b\n    -   c: 1\n        d: 2\n", "a:\n- b\n- c: 1\n  d: 2\n")]
#[case("a: b\n  c\n", "a: b c\n")]
#[case("a: >\n  b\n  c\n", "a: 'b c\n'\n")]
fn aliases_and_layout_are_written_out(#[case] text: &str, #[case] expected: &str) {
    let expected = expected.replace("'b c\n'", "\"b c\\n\"");
    assert_eq!(again(text), expected);
}

#[rstest]
#[case("a: &x [*x]\n", "a.yaml:1:")]
#[case("a: *x\n", "a.yaml:1:")]
#[case("? [a]\n: b\n", "expected a single word as key")]
#[case("a: 1\n<<: 2\n", "expected a mapping, or a list of mappings, behind `<<`")]
#[case("a:\n  b: 1\n  b: 2\n", "a.yaml:3:3: `b` stands twice in the same mapping; keep one")]
fn what_would_be_lost_is_refused(#[case] text: &str, #[case] expected: &str) {
    let error = read("a.yaml", text).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn aliases_of_aliases_are_bounded() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for at in 1..9 {
        let before = at - 1;
        let many = vec![format!("*a{before}"); 9].join(", ");
        text += &format!("a{at}: &a{at} [{many}]\n");
    }
    let error = read("a.yaml", &text).unwrap_err().to_string();
    assert!(error.contains("aliases stand for more than"), "{error}");
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    assert!(read("a.yaml", &deep).is_err());
}

#[rstest]
#[case("plain", "plain")]
#[case("ro,x", "'ro,x'")]
#[case("22:22", "'22:22'")]
#[case("yes", "'yes'")]
#[case("1.0", "'1.0'")]
#[case("1e3", "'1e3'")]
#[case(".inf", "'.inf'")]
#[case("", "''")]
#[case("./a:/b:ro", "./a:/b:ro")]
#[case("it's", "'it''s'")]
#[case("\u{7}", "\"\\u0007\"")]
fn a_text_is_quoted_where_it_would_be_something_else(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(print(&[Document::of(Node::map([("a", Node::text(text))]))]), format!("a: {expected}\n"));
}

proptest! {
    /// A tree of any texts reads as itself, for us and for the library.
    #[test]
    fn what_is_printed_reads_as_what_it_was(texts in proptest::collection::vec(any::<String>(), 1..6), in_line: bool) {
        let list = Node::list(texts.iter().map(|text| Node::map([("k", Node::text(text))])));
        let list = if in_line { list.on_one_line() } else { list };
        let printed = print(&[Document::of(Node::map([("a", list)]))]);
        let again = read("a.yaml", &printed).unwrap();
        let seen: Vec<_> = again[0].root.get("a").unwrap().items().iter().map(|item| item.get("k").unwrap().as_text().unwrap().to_owned()).collect();
        prop_assert_eq!(&seen, &texts);
        let seen: std::collections::BTreeMap<String, Vec<std::collections::BTreeMap<String, String>>> = crate::yaml::read("a.yaml", &printed).unwrap();
        let seen: Vec<_> = seen["a"].iter().map(|item| item["k"].clone()).collect();
        prop_assert_eq!(&seen, &texts);
    }

    /// Whatever can be read is printed so that it reads the same; a comment may wander.
    #[test]
    fn any_text_is_kept_or_refused(text in "(a|b: |c: |x|- |---\n|\\.\\.\\.|%|#|&a |\\*a|!|\\[|\\{|\\}|\\]|\\||>|'|\"|,| |\n|\n  |\n    |\t|\r|é|<<: )*") {
        if let Ok(documents) = read("a.yaml", &text) {
            let once = print(&documents);
            let again = read("a.yaml", &once).map_err(|error| TestCaseError::fail(format!("{error}\n{text:?}\n{once:?}")))?;
            prop_assert_eq!(again.len(), documents.len());
            let values: Result<serde_json::Value, _> = crate::yaml::read("a.yaml", &text);
            if let (Ok(value), [_]) = (values, documents.as_slice()) {
                prop_assert_eq!(crate::yaml::read::<serde_json::Value>("a.yaml", &once).unwrap(), value);
            }
        }
    }
}
