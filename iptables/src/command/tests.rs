use rstest::rstest;

use super::*;

fn shell(script: &str, input: &str) -> Result<String, CommandError> {
    run(Path::new("/bin/sh"), &["-c", script], input)
}

#[test]
fn input_goes_in_and_output_comes_out() {
    let long = "0123456789\n".repeat(100_000);
    assert_eq!(shell("cat", &long).unwrap(), long);
}

#[test]
fn a_program_that_does_not_read_its_input_is_no_failure() {
    assert_eq!(shell("echo done", &"x".repeat(1 << 20)).unwrap(), "done\n");
}

#[test]
fn a_failure_names_program_message_and_line() {
    let error =
        shell("echo 'Error occurred at line: 2' >&2; exit 2", "*nat\n-A X -j NOSUCH\nCOMMIT\n").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`sh -c") && text.contains("exit status: 2"), "{text}");
    assert!(text.contains("line 2 of what it was given: -A X -j NOSUCH"), "{text}");
}

#[test]
fn a_missing_program_is_named() {
    let error = run(Path::new("/nowhere/iptables-restore"), &["--test"], "").unwrap_err();
    assert!(error.to_string().starts_with("`iptables-restore --test` cannot be run"), "{error}");
}

#[rstest]
#[case::legacy("iptables-restore: line 2 failed", Some(2))]
#[case::parser("Error occurred at line: 2\nTry …", Some(2))]
#[case::nft("line 2: RULE_APPEND failed (Invalid argument)", Some(2))]
#[case::line_that_is_not_there("line 9 failed", None)]
#[case::line_zero("line 0 failed", None)]
#[case::no_line("Permission denied", None)]
fn the_line_complained_about_is_found(#[case] stderr: &str, #[case] number: Option<usize>) {
    let found = complained_line(stderr, "*nat\n-A X\nCOMMIT\n");
    assert_eq!(found, number.map(|number| (number, "-A X".to_owned())));
}

const ROOT: &str = "         0          0 4294967295\n";
const ONLY_ROOT: &str = "         0       1000          1\n";
const OWNER: &str = "-A PILLION_OUTPUT -m owner --uid-owner 1337 -j RETURN";

#[rstest]
#[case::no_rights(false, ROOT, "Permission denied (you must be root)", "", "CAP_NET_ADMIN")]
#[case::no_rights_for_the_lock(
    false,
    ROOT,
    "can't open lock file /run/xtables.lock: Permission denied",
    "",
    "CAP_NET_ADMIN"
)]
#[case::locked(
    true,
    ROOT,
    "Another app is currently holding the xtables lock.",
    "",
    "another program is changing rules"
)]
#[case::no_lock_file(
    true,
    ROOT,
    "Fatal: can't open lock file /run/xtables.lock: Read-only file system",
    "",
    "XTABLES_LOCKFILE"
)]
#[case::no_such_user(
    true,
    ONLY_ROOT,
    "line 3: RULE_APPEND failed (Invalid argument)",
    OWNER,
    "uid 1337 does not exist"
)]
#[case::not_ours(true, ROOT, "table `nat' is incompatible, use 'nft' tool.", "", "--backend legacy")]
#[case::small_ip(
    true,
    ROOT,
    "ip: either \"local\" is duplicate, or \"nodad\" is garbage",
    "",
    "install iproute2"
)]
#[case::no_module(true, ROOT, "RULE_APPEND failed (No such file or directory)", OWNER, "the module xt_owner")]
#[case::no_target(
    true,
    ROOT,
    "Couldn't load target `TPROXY'",
    "-A X -p tcp -j TPROXY",
    "the module xt_TPROXY"
)]
fn a_failure_has_a_cure(
    #[case] net_admin: bool,
    #[case] map: &str,
    #[case] stderr: &str,
    #[case] line: &str,
    #[case] wanted: &str,
) {
    let rights = Rights { net_admin, uid_map: map.to_owned(), gid_map: map.to_owned() };
    let cure = cure(stderr, line, line, &rights).unwrap();
    assert!(cure.contains(wanted), "{cure}");
}

#[test]
fn an_unknown_failure_has_no_invented_cure() {
    let rights = Rights { net_admin: true, uid_map: ROOT.to_owned(), gid_map: ROOT.to_owned() };
    assert_eq!(cure("Invalid argument", OWNER, OWNER, &rights), None);
}
