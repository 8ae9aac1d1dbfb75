use std::collections::BTreeMap;

use proptest::prelude::*;
use rstest::rstest;
use serde::Deserialize;

use super::*;

/// A file of settings as a proxy has it.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    workload: Workload,
    #[serde(default)]
    listeners: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Workload {
    service_account: String,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    key_type: KeyType,
    #[serde(default)]
    sidecar: bool,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyType {
    #[default]
    EcdsaP256,
    Ed25519,
}

#[rstest]
#[case::unknown_key(
    "workload: {serviceAccount: a}\nlistener: []\n",
    "2:1: unknown field `listener`, expected one of `workload`, `listeners`; did you mean `listeners`?"
)]
#[case::key_in_snake_case(
    "workload: {service_account: a}\n",
    "1:12: unknown field `service_account`, expected one of `serviceAccount`, `port`, `keyType`, `sidecar`; did you mean `serviceAccount`?"
)]
#[case::unknown_value(
    "workload: {serviceAccount: a, keyType: ecdsa}\n",
    "1:40: unknown value `ecdsa`, expected one of `ecdsa-p256`, `ed25519`; did you mean `ecdsa-p256`?"
)]
#[case::missing_key("workload: {port: 1}\n", "1:12: missing field `serviceAccount`")]
#[case::no_number(
    "workload: {serviceAccount: a, port: http}\n",
    "1:37: expected a whole number from 0 to 65535, seen `http`"
)]
#[case::number_too_large(
    "workload: {serviceAccount: a, port: 70000}\n",
    "1:37: expected a whole number from 0 to 65535, seen `70000`"
)]
#[case::no_boolean(
    "workload: {serviceAccount: a, sidecar: maybe}\n",
    "1:40: expected `true` or `false`, seen `maybe`"
)]
#[case::list_for_a_word("workload: {serviceAccount: [a]}\n", "1:28: expected a single value, seen a list")]
#[case::mapping_for_a_word(
    "workload:\n  serviceAccount:\n    name: a\n",
    "3:5: expected a single value, seen a mapping"
)]
#[case::word_for_a_list(
    "workload: {serviceAccount: a}\nlisteners: 8080\n",
    "2:12: expected a list (`- …` or `[…]`), seen `8080`"
)]
#[case::word_for_a_mapping("workload: backend\n", "1:11: expected a mapping (`key: value`), seen `backend`")]
#[case::list_for_a_word_of_choice(
    "workload: {serviceAccount: a, keyType: [ed25519]}\n",
    "1:40: expected a single word, seen a list"
)]
#[case::key_twice(
    "workload: {serviceAccount: a}\nworkload: {serviceAccount: b}\n",
    "2:1: `workload` stands twice in the same mapping; keep one"
)]
#[case::two_documents(
    "workload: {serviceAccount: a}\n---\nworkload: {serviceAccount: b}\n",
    "2:1: expected one document, and a second begins here"
)]
#[case::nothing("# to be filled in\n", "2:1: the document ends where a value is expected")]
#[case::colon_in_a_value(
    "workload:\n  serviceAccount: note: this\n",
    "2:23: not YAML: mapping values are not allowed in this context; put a value that holds `: ` in quotes, and check the indentation"
)]
#[case::at_sign("workload: @backend\n", "1:11: not YAML: unexpected character: `@'; put the value in quotes")]
#[case::control_characters(
    "workload: {serviceAccount: a}\n\"\\e[2J\": 1\n",
    "2:1: unknown field `\\u{1b}[2J`, expected one of `workload`, `listeners`"
)]
fn a_fault_is_named_with_its_place_and_cure(#[case] text: &str, #[case] expected: &str) {
    let error = read::<Settings>("proxy.yaml", text).unwrap_err();
    assert_eq!(error.to_string(), format!("proxy.yaml:{expected}"));
}

#[rstest]
#[case::bare("workload: {serviceAccount: a}\n")]
#[case::marked("---\nworkload: {serviceAccount: a}\n")]
#[case::marked_on_both_sides("# first\n---\nworkload: {serviceAccount: a}\n---\n# last\n")]
#[case::byte_order_mark("\u{feff}workload: {serviceAccount: a}\n")]
#[case::carriage_returns("---\r\nworkload:\r\n  serviceAccount: a\r\n...\r\n")]
#[case::directive("%YAML 1.2\n---\nworkload: {serviceAccount: a}\n")]
#[case::json("{\"workload\": {\"serviceAccount\": \"a\"}}")]
fn one_document_is_read_however_it_is_marked(#[case] text: &str) {
    let settings: Settings = read("proxy.yaml", text).unwrap();
    assert_eq!(settings.workload.service_account, "a");
}

#[test]
fn a_long_value_is_cut_in_the_message() {
    let text = format!("workload: {{serviceAccount: a, keyType: {}}}\n", "x".repeat(10_000));
    let message = read::<Settings>("proxy.yaml", &text).unwrap_err().message;
    assert!(message.starts_with(&format!("unknown value `{}…`", "x".repeat(MAX_QUOTED))), "{message}");
}

#[rstest]
#[case::aliases_in_aliases("a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n".to_owned())]
#[case::lists_in_lists("[".repeat(100_000))]
#[case::mappings_in_mappings((0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect())]
#[case::many_values(format!("[{}]", "x,".repeat(MAX_NODES)))]
#[case::a_large_value("x".repeat(2 * MAX_SCALAR_BYTES))]
#[case::aliases_of_a_large_value(format!("- &a {}\n{}", "x".repeat(MAX_SCALAR_BYTES / 2), "- *a\n".repeat(100)))]
fn what_would_cost_much_is_refused(#[case] text: String) {
    read::<IgnoredAny>("bomb.yaml", &text).unwrap_err();
    read::<Vec<String>>("bomb.yaml", &text).unwrap_err();
}

/// The values of each document, with the line of each value in the file.
fn lines_of(text: &str) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    for document in documents("many.yaml", text) {
        for (key, at) in document.read::<Option<BTreeMap<String, At<String>>>>().unwrap().unwrap_or_default()
        {
            lines.push((document.lines_before + at.line, format!("{key}={}", at.value)));
        }
    }
    lines
}

#[rstest]
#[case::two("a: 1\n---\nb: 2\n", &[(1, "a=1"), (3, "b=2")])]
#[case::comments_belong_to_what_follows("# one\n---\n# two\na: 1\n---\n# three\n---\nb: 2\n", &[(4, "a=1"), (8, "b=2")])]
#[case::end_marker("a: 1\n...\n# between\nb: 2\n", &[(1, "a=1"), (4, "b=2")])]
#[case::dashes_in_a_block_scalar("a: |\n  x\n  ---\n  y\nb: 2\n---\nc: 3\n", &[(2, "a=x\n---\ny\n"), (5, "b=2"), (7, "c=3")])]
#[case::dashes_in_a_folded_scalar("a: >-\n  x\n  ---\n  y\n---\nb: 2\n", &[(2, "a=x --- y"), (6, "b=2")])]
#[case::dashes_in_a_value("a: ---\nb: x ---\n---\nc: ---x\n", &[(1, "a=---"), (2, "b=x ---"), (4, "c=---x")])]
#[case::dashes_before_a_word("a: 1\n---x: 2\n---\nb: 3\n", &[(2, "---x=2"), (1, "a=1"), (4, "b=3")])]
#[case::more_dashes("----: 1\n---\na: 2\n", &[(1, "----=1"), (3, "a=2")])]
#[case::carriage_returns("a: 1\r\n---\r\nb: 2\r\n", &[(1, "a=1"), (3, "b=2")])]
#[case::no_line_end("a: 1\n---\nb: 2", &[(1, "a=1"), (3, "b=2")])]
#[case::content_on_the_marker("--- {a: 1}\n--- {b: 2}\n", &[(1, "a=1"), (2, "b=2")])]
#[case::directives("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n", &[(3, "a=1"), (7, "b=2")])]
#[case::empty_ones("---\n---\n\n---\na: 1\n---\n", &[(5, "a=1")])]
#[case::none("\n# nothing\n\n", &[])]
fn each_document_keeps_its_lines(#[case] text: &str, #[case] expected: &[(u64, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(line, value)| (*line, (*value).to_owned())).collect();
    assert_eq!(lines_of(text), expected);
}

#[test]
fn the_place_of_a_fault_counts_the_documents_before() {
    let text = "a: 1\n---\nb: |\n  ---\nc: 3\n";
    let second = documents("many.yaml", text).remove(1);
    let values = second.read::<BTreeMap<String, At<String>>>().unwrap();
    assert_eq!(second.place(&values["c"]), "many.yaml:5");
    assert_eq!(second.error(&values["c"], "no").to_string(), "many.yaml:5:4: no");
}

#[test]
fn items_are_read_each_with_its_own_seed() {
    let text = "kind: List\nitems:\n- 1\n- 2\nmetadata: {}\n";
    let document = documents("list.yaml", text).remove(0);
    let seeds = vec![std::marker::PhantomData::<At<u8>>; 2];
    let items = document.read_items(seeds.clone()).unwrap();
    assert_eq!(items.iter().map(|item| (item.line, item.value)).collect::<Vec<_>>(), [(3, 1), (4, 2)]);
    document.read_items(vec![std::marker::PhantomData::<At<u8>>; 3]).unwrap_err();
    document.read_items(vec![std::marker::PhantomData::<At<u8>>; 1]).unwrap_err();
}

#[rstest]
#[case("DISABLED", Some("DISABLE"))]
#[case("disable", Some("DISABLE"))]
#[case("STRCT", Some("STRICT"))]
#[case("PERMISIVE", Some("PERMISSIVE"))]
#[case("ENABLED", None)]
#[case("MUTUAL", None)]
#[case("OFF", None)]
#[case("", None)]
fn a_near_word_is_found_and_a_far_one_is_not(#[case] seen: &str, #[case] expected: Option<&str>) {
    assert_eq!(nearest(seen, &["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]), expected);
}

proptest! {
    /// Documents joined by markers come out again as they went in, wherever dashes stand within them.
    #[test]
    fn joined_documents_come_apart_where_they_were_joined(
        bodies in prop::collection::vec(prop::collection::vec("( |  |#|- )?(---|\\.\\.\\.|x|--- y)?( |:)?", 0..6), 1..6)
    ) {
        let texts: Vec<String> = bodies.iter().map(|lines| {
            let block: String = lines.iter().map(|line| format!("    {line}\n")).collect();
            format!("text: |1\n{block} end\nlast: 1\n")
        }).collect();
        let joined = texts.join("---\n");
        let cut = documents("many.yaml", &joined);
        prop_assert_eq!(cut.len(), texts.len());
        let mut line = 0;
        for (document, text) in cut.iter().zip(&texts) {
            let body = document.text.strip_prefix("---\n").unwrap_or(document.text);
            prop_assert_eq!(body, text);
            prop_assert_eq!(document.lines_before, line);
            line += u64::try_from(document.text.lines().count()).unwrap();
            prop_assert!(document.read::<BTreeMap<String, String>>().is_ok(), "{:?}", document.read::<BTreeMap<String, String>>());
        }
    }

    /// No text brings the reader down, and the parts of a text are the text.
    #[test]
    fn any_text_is_read_or_refused(text in "(a|x|:|-|---|\\.\\.\\.|%|#|&a|\\*a|!|\\[|\\{|\\}|\\]|\\||>|'|\"|,| |\t|\r|\n|\u{feff}|é)*") {
        let cut = documents("any.yaml", &text);
        for document in &cut {
            let _ = document.read::<At<IgnoredAny>>();
            let _ = document.read::<Settings>();
        }
        prop_assert!(cut.iter().map(|document| document.text.len()).sum::<usize>() <= text.len());
    }
}
