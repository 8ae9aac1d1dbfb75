//! What is on the disk: closed to others, and the same root after every accident.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rstest::rstest;

use crate::support::{Ca, Client, Home, PATIENCE, csr, current, files_below, stored_root};

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[rstest]
#[case("000")]
#[case("022")]
#[case("077")]
fn req_36_secrets_are_closed_to_others_whatever_the_umask(#[case] umask: &str) {
    let home = Home::new();
    let _ca = Ca::start(home.command_behind(&format!("umask {umask}")));
    let state = home.path("state");
    let root = state.join(current(&home).unwrap());
    for folder in [&state, &state.join("signers"), &root, &state.join("tokens"), &home.path("run/backend")] {
        assert_eq!(mode_of(folder), 0o700, "{}", folder.display());
    }
    let mut secrets = files_below(&state);
    assert_eq!(secrets.len(), 6, "two locks, record, certificate, key, one token record: {secrets:?}");
    secrets.push(home.path("run/backend/token"));
    for file in secrets {
        assert_eq!(mode_of(&file), 0o600, "{}", file.display());
    }
    assert_eq!(mode_of(&home.path("run/bundle.pem")), 0o644);
}

/// Starts the CA and kills it the moment this path appears, or when the start is over without its having been seen.
fn start_and_kill_at(home: &Home, path: &str) {
    let mut command = home.command(&["serve"]);
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let last = home.path("run/backend/token");
    let start = Instant::now();
    while !appeared(home, path) && !last.exists() {
        assert!(start.elapsed() < PATIENCE, "the CA does not start");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whether the path is there. `*` stands for the name of a root, which nobody knows in advance.
fn appeared(home: &Home, path: &str) -> bool {
    let Some((folder, rest)) = path.split_once("signers/") else { return home.path(path).exists() };
    let Ok(entries) = std::fs::read_dir(home.path(folder).join("signers")) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name().into_string().unwrap();
        let rest = rest.replacen('*', name.trim_start_matches('.').trim_end_matches(".tmp"), 1);
        home.path(folder).join("signers").join(rest).exists()
    })
}

#[rstest]
#[case("state")]
#[case("state/lock")]
#[case("state/change")]
#[case("state/signers")]
#[case("state/signers/.*.tmp")]
#[case("state/signers/.*.tmp/.certificate.pem.tmp")]
#[case("state/signers/.*.tmp/certificate.pem")]
#[case("state/signers/.*.tmp/.key.pem.tmp")]
#[case("state/signers/.*.tmp/key.pem")]
#[case("state/signers/*")]
#[case("state/.signers.json.tmp")]
#[case("state/signers.json")]
#[case("state/tokens")]
#[case("run/.bundle.pem.tmp")]
#[case("run/bundle.pem")]
#[case("run/backend")]
#[case("run/backend/.token.tmp")]
#[case("run/backend/token")]
#[tokio::test]
async fn req_35_a_kill_at_any_step_of_the_first_start_leaves_the_same_root_or_none(#[case] step: &str) {
    for _ in 0..3 {
        let home = Home::new();
        start_and_kill_at(&home, step);
        let roots = [stored_root(&home), std::fs::read(home.path("run/bundle.pem")).ok()];
        let token = std::fs::read_to_string(home.path("run/backend/token")).ok();
        let ca = home.start();
        let root = stored_root(&home).unwrap();
        assert!(roots.into_iter().flatten().all(|seen| seen == root), "another root after a kill at {step}");
        assert!(token.is_none_or(|seen| seen == home.token()), "another token after a kill at {step}");
        Client::new(&ca, &home).enroll(&home.token(), "").await;
    }
}

#[tokio::test]
async fn req_35_a_kill_while_issuing_leaves_the_same_root_and_valid_tokens() {
    let home = Home::new();
    let mut token_and_root = None;
    for round in 0..12u64 {
        let ca = home.start();
        let seen = (home.token(), stored_root(&home).unwrap());
        assert_eq!(token_and_root.get_or_insert(seen.clone()), &seen, "round {round}");
        let client = Client::new(&ca, &home);
        client.enroll(&seen.0, "").await;
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(3 * round));
            drop(ca);
        });
        // Until the kill takes the CA away.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        while let Ok(answer) = client.sign(Some(&seen.0), csr(&key)).await {
            assert_eq!(answer.status, 201);
        }
        killer.join().unwrap();
    }
}

#[test]
fn a_second_ca_in_the_same_folder_ends_with_1() {
    let home = Home::new();
    let _first = home.start();
    let output = home.command(&["serve"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("in use by another pillion-ca"), "{error}");
}

#[test]
fn a_second_ca_on_the_same_ports_spoils_neither_bundle_nor_tokens_of_the_first() {
    let home = Home::new();
    let first = home.start();
    let delivered = || (home.token(), std::fs::read(home.path("run/bundle.pem")).unwrap());
    let before = delivered();
    let address = first.api.to_string();
    let mut second = home.command(&["serve", "--listen", &address]);
    let output = second.env("PILLION_CA_STATE", home.path("another")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(delivered(), before);
}

#[rstest]
#[case::key_cut("key.pem", true, "the key is damaged")]
#[case::certificate_cut("certificate.pem", true, "the certificate is damaged")]
#[case::key_gone("key.pem", false, "is missing, though this CA has served before")]
#[case::certificate_gone("certificate.pem", false, "is missing, though this CA has served before")]
#[case::record_cut("../../signers.json", true, "signers.json: it was cut")]
fn req_35_damaged_state_stops_the_start_with_1_and_makes_no_new_root(
    #[case] file: &str,
    #[case] cut: bool,
    #[case] expected: &str,
) {
    let home = Home::new();
    drop(home.start());
    let path = home.path("state").join(current(&home).unwrap()).join(file);
    let whole = std::fs::read(&path).unwrap();
    if cut {
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    } else {
        std::fs::remove_file(&path).unwrap();
    }
    let before = files_below(&home.path("state"));
    let output = home.command(&["serve"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.contains(expected) && error.contains(name), "{error}");
    assert_eq!(files_below(&home.path("state")), before, "something was made in its place");
}
