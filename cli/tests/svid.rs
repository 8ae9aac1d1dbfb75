//! `pillion svid check` as a person types it, over good certificates and over each that must be refused.
// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use pillion_mesh::spiffe::bundle::Bundle;
use pillion_testkit::authority::dns_san;
use pillion_testkit::{Defect, TestCa, defect};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

const ID: &str = "spiffe://cluster.local/ns/default/sa/backend";

struct Folder {
    ca: TestCa,
    folder: TempDir,
}

/// What the command printed, and its exit code.
#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

impl Folder {
    fn new() -> Folder {
        Folder { ca: TestCa::root("root"), folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn check(&self, arguments: &[&str]) -> Told {
        let output = Command::new(env!("CARGO_BIN_EXE_pillion"))
            .args(["svid", "check"])
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Told { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Checks a chain with the bundle of the root, as that of `cluster.local`.
    fn check_chain(&self, chain: impl AsRef<[u8]>) -> Told {
        self.file("svid.pem", chain);
        self.file("bundle.pem", self.ca.bundle_pem());
        self.check(&["svid.pem", "--bundle", "bundle.pem", "--trust-domain", "cluster.local"])
    }
}

#[test]
fn a_good_chain_keeps_every_clause() {
    let folder = Folder::new();
    let told = folder.check_chain(folder.ca.intermediate("intermediate").issue(ID).chain_pem());
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{}", told.out);
    for line in [
        "spiffe://cluster.local/ns/default/sa/backend (leaf, serial ",
        "  √ X509-SVID 2         exactly one URI in subjectAltName: spiffe://cluster.local/ns/default/sa/backend",
        "  √ SPIFFE-ID 2.2       path segments of letters, digits, dots, dashes and underscores, none empty, `.` or `..`: /ns/default/sa/backend",
        " (signing certificate, serial ",
        "  √ X509-SVID 5         a valid path to a root of the bundle, for clients and servers: cluster.local: CN=root (serial ",
        "Every clause is kept.",
    ] {
        assert!(told.out.contains(line), "{line}\nis not in\n{}", told.out);
    }
    assert!(!told.out.contains('×'));
}

#[test]
fn a_spiffe_bundle_in_json_will_do_and_none_will_do_too() {
    let folder = Folder::new();
    folder.file("svid.pem", folder.ca.issue(ID).chain_pem());
    let bundle = Bundle::of([folder.ca.root_certificate()], None, None);
    folder.file("bundle.json", serde_json::to_string(&bundle).unwrap());
    assert_eq!(folder.check(&["svid.pem", "--bundle", "bundle.json"]).code, 0);
    let told = folder.check(&["svid.pem"]);
    assert_eq!(told.code, 0);
    assert!(!told.out.contains("The chain by the bundle"), "{}", told.out);
}

#[test]
fn every_chain_that_a_sidecar_refuses_breaks_a_clause() {
    let folder = Folder::new();
    for defect in Defect::ALL {
        let told = folder.check_chain(defect::issue(&folder.ca, ID, *defect).chain_pem());
        assert_eq!(told.code, 1, "{defect:?}: {}{}", told.out, told.err);
        assert!(told.out.contains("  × "), "{defect:?}: {}", told.out);
        assert!(told.out.contains("broken."), "{defect:?}: {}", told.out);
    }
}

#[rstest]
#[case(Defect::TwoUriSans, "× X509-SVID 2", "2 URIs")]
#[case(Defect::SameUriTwice, "× X509-SVID 2", "2 URIs")]
#[case(Defect::DnsSanOnly, "× X509-SVID 2", "0 URIs")]
#[case(Defect::NoPath, "× X509-SVID 3.1", "spiffe://")]
#[case(Defect::CaAsLeaf, "× X509-SVID 4.1", "cA TRUE")]
#[case(Defect::KeyCertSign, "× X509-SVID 4.3", "Key Cert Sign")]
#[case(Defect::KeyUsageNotCritical, "× X509-SVID 4.3", "one that is not critical")]
#[case(Defect::ServerAuthOnly, "× X509-SVID 4.4", "serverAuth only")]
#[case(Defect::UnknownCriticalExtension, "× RFC 5280 4.2", "no critical extension")]
#[case(Defect::TrailingBytes, "× RFC 5280 4.1", "bytes")]
#[case(Defect::Expired, "× RFC 5280 6.1.3 (a)", "this clock says")]
#[case(Defect::SignerWithPath, "× X509-SVID 3.2", "path")]
#[case(Defect::UriNameConstraint, "× RFC 5280 6.1.4 (g)", "URIs")]
#[case(Defect::OtherRoot, "× X509-SVID 5", "does not lead to a root of its trust domain's bundle")]
#[case(Defect::OtherTrustDomain, "× X509-SVID 5", "for which there is no bundle")]
fn the_broken_clause_is_named_with_what_was_seen(
    #[case] defect: Defect,
    #[case] clause: &str,
    #[case] seen: &str,
) {
    let folder = Folder::new();
    let told = folder.check_chain(defect::issue(&folder.ca, ID, defect).chain_pem());
    let line = told.out.lines().find(|line| line.contains(clause));
    assert!(line.is_some_and(|line| line.contains(seen)), "{}", told.out);
}

#[test]
fn a_root_by_itself_is_held_against_the_rules_of_signers() {
    let folder = Folder::new();
    folder.file("root.pem", folder.ca.bundle_pem());
    let told = folder.check(&["root.pem"]);
    assert_eq!(told.code, 0, "{}", told.out);
    assert!(told.out.starts_with("CN=root (signing certificate, serial "), "{}", told.out);
}

#[test]
fn programs_get_the_same_as_json_and_yaml() {
    let folder = Folder::new();
    folder.file(
        "svid.der",
        &folder.ca.issue_with(ID, |params| params.subject_alt_names.push(dns_san("a"))).chain[0],
    );
    let told = folder.check(&["svid.der", "-o", "json"]);
    let report: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((told.code, &report["kept"]), (0, &Value::Bool(true)));
    let [certificate] = report["certificates"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!(certificate["role"], "leaf");
    assert_eq!(certificate["uris"][0], ID);
    let clauses = certificate["clauses"].as_array().unwrap();
    let one_uri = clauses.iter().find(|line| line["clause"] == "X509-SVID 2").unwrap();
    assert_eq!((&one_uri["outcome"], &one_uri["seen"]), (&"kept".into(), &ID.into()));
    assert!(folder.check(&["svid.der", "-o", "yaml"]).out.starts_with("kept: true\n"));
}

#[rstest]
#[case::no_file(&["missing.pem"], "missing.pem: No such file or directory")]
#[case::no_certificate(&["key.pem"], "key.pem: expected PEM certificates, found none")]
#[case::no_bundle(&["svid.pem", "--bundle", "missing.json"], "missing.json: No such file or directory")]
fn what_cannot_be_read_is_a_wrong_argument(#[case] arguments: &[&str], #[case] expected: &str) {
    let folder = Folder::new();
    folder.file("svid.pem", folder.ca.issue(ID).chain_pem());
    folder.file("key.pem", folder.ca.issue(ID).key_pem());
    let told = folder.check(arguments);
    assert_eq!(told.code, 2, "{}", told.err);
    assert!(told.err.starts_with(&format!("pillion svid check: {expected}")), "{}", told.err);
}

#[test]
fn a_bundle_that_is_none_is_a_broken_path() {
    let folder = Folder::new();
    folder.file("svid.pem", folder.ca.issue(ID).chain_pem());
    folder.file("bundle.json", "{}");
    let told = folder.check(&["svid.pem", "--bundle", "bundle.json"]);
    assert_eq!(told.code, 1);
    assert!(told.out.contains("the bundle: expected a SPIFFE bundle"), "{}", told.out);
}
