//! What `apply`, `clean` and `show` do to the rules of a namespace.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use rstest::rstest;

use crate::host::{Namespace, can_run, text_of};

/// What Docker puts into the namespace of a container for its DNS.
pub(crate) const DOCKER: &str = "\
*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:40053
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:40054
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 40053 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 40054 -j SNAT --to-source :53
COMMIT
";

/// Rules of somebody else in each table that pillion uses, and in one that it does not.
const FOREIGN: &str = "\
*mangle
:OTHER - [0:0]
-A PREROUTING -j OTHER
-A OTHER -m mark --mark 0x539 -j ACCEPT
COMMIT
*nat
-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE
COMMIT
*filter
-A INPUT -s 192.0.2.0/24 -j DROP
COMMIT
";

/// All that iptables-save of a back end and family says, without comments (which hold the time) and counters.
fn saved(namespace: &Namespace, back_end: &str, family: &str) -> String {
    let text = namespace.sh(&format!("{family}-{back_end}-save"));
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(" [").next().unwrap().to_owned() + "\n")
        .collect()
}

/// All that apply may change.
fn state(namespace: &Namespace, back_end: &str) -> String {
    let routing = namespace.sh(
        "for f in -4 -6; do ip $f rule; ip $f route show table all; done; ip -6 address show dev lo; nft list tables | sort",
    );
    [saved(namespace, back_end, "iptables"), saved(namespace, back_end, "ip6tables"), routing].concat()
}

/// A namespace in which the tables of this back end exist already. The legacy back end cannot remove a table again.
fn with_tables(back_end: &str) -> Namespace {
    let namespace = Namespace::new();
    for family in ["iptables", "ip6tables"] {
        namespace.sh(&format!("{family}-{back_end} -t nat -L -n; {family}-{back_end} -t mangle -L -n"));
    }
    namespace
}

#[rstest]
#[case::nft_in_a_fresh_namespace("nft", None)]
#[case::nft_beside_docker("nft", Some(DOCKER))]
#[case::nft_beside_others("nft", Some(FOREIGN))]
#[case::legacy_in_empty_tables("legacy", None)]
#[case::legacy_beside_docker("legacy", Some(DOCKER))]
#[case::legacy_beside_others("legacy", Some(FOREIGN))]
fn clean_leaves_what_apply_found(
    #[case] back_end: &str,
    #[case] rules: Option<&str>,
    #[values("", "-m TPROXY", "-b 80 -i 10.0.0.0/8 --ipv6 off")] flags: &str,
) {
    if !can_run() {
        return;
    }
    let namespace = if back_end == "legacy" { with_tables(back_end) } else { Namespace::new() };
    if let Some(rules) = rules {
        namespace.restore(&format!("iptables-{back_end}-restore"), rules);
    }
    let before = state(&namespace, back_end);
    namespace.pillion_ok(&format!("apply --backend {back_end} {flags}"));
    assert_ne!(state(&namespace, back_end), before);
    let said = namespace.pillion_ok("clean");
    assert_eq!(state(&namespace, back_end), before, "{said}");
    assert!(namespace.pillion_ok("clean").contains("nothing to remove"));
    assert_eq!(state(&namespace, back_end), before);
}

/// What others added after `apply`, Docker for a container that joined a network later, is none of clean's business.
#[rstest]
fn rules_that_came_later_stay(#[values("nft", "legacy")] back_end: &str) {
    if !can_run() {
        return;
    }
    let restore = format!("iptables-{back_end}-restore");
    let (namespace, without_pillion) = (with_tables("legacy"), with_tables("legacy"));
    namespace.pillion_ok(&format!("apply --backend {back_end}"));
    for namespace in [&namespace, &without_pillion] {
        namespace.restore(&restore, DOCKER);
    }
    namespace.pillion_ok("clean");
    assert_eq!(saved(&namespace, back_end, "iptables"), saved(&without_pillion, back_end, "iptables"));
}

/// The kernel keeps a table of the legacy back end once it was used; then it is empty and lets all pass.
#[test]
fn clean_leaves_a_fresh_legacy_namespace_with_empty_tables() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    namespace.pillion_ok("apply --backend legacy -m TPROXY");
    namespace.pillion_ok("clean");
    for family in ["iptables", "ip6tables"] {
        let left = saved(&namespace, "legacy", family);
        assert!(
            left.lines().all(|line| line.starts_with('*') || line.ends_with(" ACCEPT") || line == "COMMIT"),
            "{left}"
        );
    }
}

#[rstest]
fn a_second_apply_changes_nothing(
    #[values("nft", "legacy")] back_end: &str,
    #[values("", "-m TPROXY", "-d 22 -x 10.9.0.0/16 -q 80 -o 25", "-u= -g= --proxy-mark 77")] flags: &str,
) {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    namespace.pillion_ok(&format!("apply --backend {back_end} {flags}"));
    // Counts some packets: a rule that is installed anew has counted none.
    namespace.sh("for host in 127.0.0.1 ::1; do bash -c \": < /dev/tcp/$host/9\" 2>/dev/null || true; done");
    let shown = namespace.pillion_ok("show");
    assert!(shown.contains("[1:60] -A OUTPUT -p tcp -j PILLION_OUTPUT"), "{shown}");
    let before = state(&namespace, back_end);
    let said = namespace.pillion_ok(&format!("apply {flags}"));
    assert_eq!(said.matches("nothing to change").count(), 2, "{said}");
    assert_eq!(state(&namespace, back_end), before);
    assert_eq!(namespace.pillion_ok("show"), shown);
}

#[rstest]
fn other_wishes_replace_pillions_rules_only(#[values("nft", "legacy")] back_end: &str) {
    if !can_run() {
        return;
    }
    let restore = format!("iptables-{back_end}-restore");
    let (fresh, changed) = (with_tables(back_end), with_tables(back_end));
    for namespace in [&fresh, &changed] {
        namespace.restore(&restore, FOREIGN);
        namespace.restore(&restore, DOCKER);
    }
    for flags in ["-d 22", "-m TPROXY -t 7 -r 8", "-m TPROXY", "--ipv6 off", "-o 25"] {
        changed.pillion_ok(&format!("apply --backend {back_end} {flags}"));
    }
    fresh.pillion_ok(&format!("apply --backend {back_end} -o 25"));
    let sorted = |namespace| {
        let mut lines: Vec<_> = state(namespace, back_end).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&changed), sorted(&fresh));
}

/// The text that `--dry-run` prints is what is installed.
#[rstest]
fn a_dry_run_prints_what_apply_installs(#[values("", "-m TPROXY", "-d 22 -o 25")] flags: &str) {
    if !can_run() {
        return;
    }
    let (by_hand, applied) = (Namespace::new(), Namespace::new());
    by_hand
        .restore("iptables-nft-restore", &by_hand.pillion_ok(&format!("apply --ipv6 off --dry-run {flags}")));
    applied.pillion_ok(&format!("apply --backend nft --ipv6 off {flags}"));
    let without_notes = |text: String| -> String {
        text.lines().filter(|line| !line.contains("PILLION_ADDED")).map(|line| format!("{line}\n")).collect()
    };
    assert_eq!(saved(&by_hand, "nft", "iptables"), without_notes(saved(&applied, "nft", "iptables")));
}

#[test]
fn a_dry_run_does_nothing() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let before = state(&namespace, "nft");
    namespace.pillion_ok("apply --dry-run -m TPROXY");
    assert_eq!(state(&namespace, "nft"), before);
    namespace.pillion_ok("apply -m TPROXY --backend nft");
    let before = state(&namespace, "nft");
    let said = namespace.pillion_ok("clean --dry-run");
    assert!(
        said.contains("-X PILLION_OUTPUT") && said.contains("ip -4 rule del") && said.contains("::6/128"),
        "{said}"
    );
    assert_eq!(state(&namespace, "nft"), before);
}

/// Docker uses the iptables of its host, which may be another than that of the image.
#[rstest]
#[case::legacy_has_rules("legacy", "iptables back end: legacy (it has rules already)")]
#[case::nft_has_rules("nft", "iptables back end: nft (it has rules already)")]
fn the_back_end_that_has_rules_is_used(#[case] in_use: &str, #[case] says: &str) {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    namespace.restore(&format!("iptables-{in_use}-restore"), DOCKER);
    let said = namespace.pillion_ok("apply");
    assert!(said.contains(says), "{said}");
    assert!(saved(&namespace, in_use, "iptables").contains("PILLION_OUTPUT"));
}

#[test]
fn a_change_of_back_end_leaves_no_rules_in_the_other_one() {
    if !can_run() {
        return;
    }
    let namespace = with_tables("legacy");
    let before = state(&namespace, "legacy");
    namespace.pillion_ok("apply --backend nft");
    namespace.pillion_ok("apply --backend legacy");
    assert_eq!(saved(&namespace, "nft", "iptables"), "");
    assert!(saved(&namespace, "legacy", "ip6tables").contains("PILLION_ADDED_ADDRESS"));
    namespace.pillion_ok("clean");
    assert_eq!(state(&namespace, "legacy"), before);
}

#[test]
fn an_address_that_was_there_stays() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    namespace.sh("ip -6 address add ::6/128 dev lo");
    namespace.pillion_ok("apply");
    namespace.pillion_ok("clean");
    assert!(namespace.sh("ip -6 address show dev lo").contains("::6/128"));
}

#[test]
fn routing_that_was_there_stays() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    namespace.sh("ip rule add fwmark 1337 lookup 133; ip route add local default dev lo table 133");
    let before = state(&namespace, "nft");
    namespace.pillion_ok("apply -m TPROXY --backend nft --ipv6 off");
    namespace.pillion_ok("clean");
    assert_eq!(state(&namespace, "nft"), before);
}

#[test]
fn ipv6_that_is_switched_off_is_skipped() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    namespace.sh("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let said = namespace.pillion_ok("apply");
    assert!(said.contains("IPv6: skipped, IPv6 is switched off"), "{said}");
    assert!(!saved(&namespace, "nft", "ip6tables").contains("PILLION"));
    assert!(!namespace.pillion_ok("apply --dry-run").contains("IPv6"));
    let refused = namespace.pillion("apply --ipv6 on");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text_of(&refused).contains("take --ipv6 auto"), "{}", text_of(&refused));
    namespace.pillion_ok("clean");
}

/// Runs pillion-iptables with a program replaced by one that fails where its arguments fit the pattern.
fn with_failing(program: &str, pattern: &str, says: &str, namespace: &Namespace, arguments: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in {pattern}) echo '{says}' >&2; exit 4;; esac\nPATH={path} exec {program} \"$@\"\n"
    );
    let file = folder.path().join(program);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{path}", folder.path().display());
    let mut words = vec!["env", &path, env!("CARGO_BIN_EXE_pillion-iptables")];
    words.extend(arguments.split_whitespace());
    namespace.command(&words).output().unwrap()
}

/// ip6tables understands the rules and cannot install them.
fn with_failing_ip6tables(namespace: &Namespace, arguments: &str) -> Output {
    let says = "line 2: RULE_APPEND failed (No such file or directory)";
    with_failing("ip6tables-nft-restore", "--noflush*", says, namespace, arguments)
}

/// The rules stand and the route fails: the rules go.
#[test]
fn a_failure_in_one_family_takes_its_rules_back() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let before = state(&namespace, "nft");
    let says = "RTNETLINK answers: Operation not supported";
    let failed = with_failing("ip", "*\"route add\"*", says, &namespace, "apply --backend nft -m TPROXY");
    let said = text_of(&failed);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(
        said.contains("IPv4 routing: `ip -4 route add local default dev lo table 133 proto 133` failed"),
        "{said}"
    );
    assert_eq!(state(&namespace, "nft"), before, "{said}");
}

#[rstest]
#[case::in_a_fresh_namespace(None)]
#[case::over_other_rules(Some("apply --backend nft -m TPROXY -t 7 --ipv6 off"))]
fn a_failure_leaves_what_was_there(#[case] earlier: Option<&str>) {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    if let Some(arguments) = earlier {
        namespace.pillion_ok(arguments);
    }
    let before = state(&namespace, "nft");
    let failed = with_failing_ip6tables(&namespace, "apply --backend nft --ipv6 on");
    let said = text_of(&failed);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("IPv6 rules: `ip6tables-nft-restore --noflush"), "{said}");
    assert!(said.contains("cure: the kernel lacks"), "{said}");
    assert_eq!(state(&namespace, "nft"), before, "{said}");
}

#[test]
fn ipv6_that_fails_is_said_loudly_and_ipv4_stands() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let done = with_failing_ip6tables(&namespace, "apply --backend nft");
    let said = text_of(&done);
    assert!(done.status.success() && said.contains("IPv6 is NOT captured"), "{said}");
    assert!(saved(&namespace, "nft", "iptables").contains("PILLION_OUTPUT"));
    assert!(!saved(&namespace, "nft", "ip6tables").contains("PILLION"));
}

#[rstest]
fn without_rights_it_says_which_are_missing(#[values("nft", "legacy")] back_end: &str) {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let program = env!("CARGO_BIN_EXE_pillion-iptables");
    let words = ["setpriv", "--bounding-set=-net_admin", program, "apply", "--backend", back_end];
    let refused = namespace.command(&words).output().unwrap();
    let said = text_of(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("it needs CAP_NET_ADMIN"), "{said}");
}

/// Where uid 1337 does not exist, a rule cannot name it; a socket mark does instead.
#[test]
fn in_a_user_namespace_the_proxy_is_known_by_its_mark() {
    if !can_run() {
        return;
    }
    let program = env!("CARGO_BIN_EXE_pillion-iptables");
    let run = |script: &str| {
        let script = format!("ip link set lo up; {}", script.replace("PILLION", program));
        let words = ["--user", "--map-root-user", "--net", "--mount", "sh", "-c", &script];
        let output = Command::new("unshare").args(words).output().unwrap();
        (output.status.success(), text_of(&output))
    };
    let (done, said) = run("PILLION apply --backend nft");
    assert!(!done && said.contains("uid 1337 does not exist") && said.contains("--proxy-mark"), "{said}");
    for mode in ["REDIRECT", "TPROXY"] {
        let mark = "PILLION apply --backend nft -u '' -g '' --proxy-mark 1336";
        let (done, said) =
            run(&format!("{mark} -m {mode} && PILLION show && PILLION clean && nft list ruleset"));
        assert!(done && said.contains("-m mark --mark 0x538 -j RETURN"), "{said}");
        assert!(said.ends_with("removed\n"), "{said}");
    }
}
